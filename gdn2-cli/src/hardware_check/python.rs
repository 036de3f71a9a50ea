//! What Python processes of benchmarks/ tell in lines of JSON: ours and the peers' kernels side by side, and the package
//! on PyTorch's tensors.

use super::clock::Clock;
use super::findings::Part;
use super::step::{Ended, Step};
use super::{Setting, verdict};
use crate::error::CliError;
use serde_json::Value;
use std::path::Path;

/// What a script told.
enum Told {
    /// Its lines, whatever became of it.
    Rows(Ended, Vec<Value>),
    /// The part without them.
    Nothing(Part),
}

/// Runs a script and reads its lines. A machine without Python, or without the script, has other parts to offer.
fn told(setting: &Setting<'_>, clock: Clock, name: &str, script: &Path) -> Result<Told, CliError> {
    let left_out = |what: &Path| {
        let summary = format!("left out: {} is not there", what.display());
        Ok(Told::Nothing(Part { good: true, summary, ..Part::default() }))
    };
    if !script.is_file() {
        return left_out(script);
    }
    let args = setting.args;
    let rows = args.out.join(format!("{name}.jsonl"));
    // It appends: lines of an earlier check in the same folder are not this one's.
    if let Err(source) = std::fs::remove_file(&rows)
        && source.kind() != std::io::ErrorKind::NotFound
    {
        return Err(CliError::Write { path: rows, source });
    }
    // The process ends by itself; the few seconds that it may be late are inside its share.
    let minutes = (clock.left().as_secs_f64() - 5.0).max(1.0) / 60.0;
    let step = Step::program(name, &args.python, [])
        .and(script)
        .with("--out", &rows)
        .with("--minutes", format!("{minutes:.2}"))
        .with("--rules", &args.rules)
        .with("--library", &args.library)
        .with("--device", if setting.rehearsal { "cpu" } else { &args.device });
    let ended = match step.run(clock) {
        Err(CliError::Start { program, source }) if source.kind() == std::io::ErrorKind::NotFound => {
            return left_out(&program);
        }
        ended => ended?,
    };
    let Ok(text) = std::fs::read_to_string(&rows) else {
        return Ok(Told::Nothing(Part::failed(verdict(&ended))));
    };
    // A line that was being written when the process was stopped is no row.
    Ok(Told::Rows(ended, text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()))
}

/// How many rows have each status.
fn counted(rows: &[Value], statuses: &[&str]) -> String {
    let count = |status: &&str| rows.iter().filter(|row| row["status"] == **status).count();
    statuses.iter().map(|status| format!("{} {status}", count(status))).collect::<Vec<_>>().join(", ")
}

/// Everybody's kernels, timed on one GPU.
pub fn peers(setting: &Setting<'_>, clock: Clock) -> Result<Part, CliError> {
    let (ended, rows) = match told(setting, clock, "peers", &setting.args.peers)? {
        Told::Rows(ended, rows) => (ended, rows),
        Told::Nothing(part) => return Ok(part),
    };
    let ours = |row: &&Value| row["contestant"] == "gdn2" && row["status"] == "wrong";
    let wrong: Vec<String> = rows.iter().filter(ours).map(|row| format!("ours is wrong: {}", row["id"])).collect();
    let mut part = Part {
        good: ended.success && wrong.is_empty(),
        summary: counted(&rows, &["timed", "rehearsed", "refused", "wrong", "not reached"]),
        complaints: wrong,
        rows,
        ..Part::default()
    };
    if !ended.success {
        part.complaints.push(verdict(&ended));
    }
    Ok(part)
}

/// The package's calls, operators, compilation, graphs, and its place in other people's layers.
pub fn pytorch(setting: &Setting<'_>, clock: Clock) -> Result<Part, CliError> {
    let (ended, rows) = match told(setting, clock, "pytorch", &setting.args.pytorch)? {
        Told::Rows(ended, rows) => (ended, rows),
        Told::Nothing(part) => return Ok(part),
    };
    let failed = |row: &&Value| row["status"] == "failed";
    let complaint = |row: &Value| format!("{}: {}", row["check"].as_str().unwrap_or("?"), row["found"]);
    let mut complaints: Vec<String> = rows.iter().filter(failed).map(complaint).collect();
    let good = ended.success && complaints.is_empty();
    if !ended.success {
        complaints.push(verdict(&ended));
    }
    let summary = counted(&rows, &["passed", "refused", "failed", "not reached"]);
    Ok(Part { good, summary, complaints, rows, ..Part::default() })
}
