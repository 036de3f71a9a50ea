//! Ours and the peers' kernels side by side, called from one Python process.

use super::clock::Clock;
use super::findings::Part;
use super::step::Step;
use super::{Setting, verdict};
use crate::error::CliError;

/// Runs the process and reads its rows, whatever became of it.
pub fn part(setting: &Setting<'_>, clock: Clock) -> Result<Part, CliError> {
    let args = setting.args;
    let rows = args.out.join("peers.jsonl");
    // It appends: lines of an earlier check in the same folder are not this one's.
    if let Err(source) = std::fs::remove_file(&rows)
        && source.kind() != std::io::ErrorKind::NotFound
    {
        return Err(CliError::Write { path: rows, source });
    }
    // The process ends by itself; the few seconds that it may be late are inside its share.
    let minutes = (clock.left().as_secs_f64() - 5.0).max(1.0) / 60.0;
    let mut step = Step::program("peers", &args.python, [])
        .and(&args.peers)
        .with("--out", &rows)
        .with("--minutes", format!("{minutes:.2}"))
        .with("--rules", &args.rules)
        .with("--library", &args.library)
        .with("--device", if setting.rehearsal { "cpu" } else { &args.device });
    if setting.rehearsal {
        step = step.and("--rehearse");
    }
    let ended = step.run(clock)?;
    let text = match std::fs::read_to_string(&rows) {
        Ok(text) => text,
        Err(_) => return Ok(Part::failed(verdict(&ended))),
    };
    // A line that was being written when the process was stopped is no row.
    let rows: Vec<serde_json::Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let count = |status: &str| rows.iter().filter(|row| row["status"] == status).count();
    let ours = |row: &&serde_json::Value| row["contestant"] == "gdn2" && row["status"] == "wrong";
    let wrong: Vec<String> = rows.iter().filter(ours).map(|row| format!("ours is wrong: {}", row["id"])).collect();
    let mut part = Part {
        good: ended.success && wrong.is_empty(),
        summary: format!(
            "{} timed, {} rehearsed, {} refused, {} wrong, {} not reached",
            count("timed"),
            count("rehearsed"),
            count("refused"),
            count("wrong"),
            count("not reached")
        ),
        complaints: wrong,
        rows,
        ..Part::default()
    };
    if !ended.success {
        part.complaints.push(verdict(&ended));
    }
    Ok(part)
}
