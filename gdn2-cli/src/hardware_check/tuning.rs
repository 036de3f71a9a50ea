//! Sweeps of the most valuable shapes, and the clock held against what they measured.

use std::path::{Path, PathBuf};

use gdn2_runtime::device::Device;
use gdn2_runtime::device::launch::Gpu as _;
use serde_json::{Value, json};

use super::clock::Clock;
use super::findings::Part;
use super::step::Step;
use super::{Setting, kept, verdict};
use crate::error::CliError;

/// The GPU that a rehearsal stands for.
const REHEARSED: &str = "h200";

/// Rule, pass and shape by its name, most valuable first.
const SWEEPS: [(&str, &str, &str); 9] = [
    ("gdn2", "forward", "b1"),
    ("kda", "forward", "b1"),
    ("gdn", "forward", "b1"),
    ("gdn2", "decode", "decode-128"),
    ("kda", "decode", "decode-128"),
    ("gdn", "decode", "decode-128"),
    ("gdn2", "backward", "b1"),
    ("kda", "backward", "b1"),
    ("gdn", "backward", "b1"),
];

/// What a rehearsal sweeps: everything on the way, little work.
const REHEARSAL: [(&str, &str, &str); 1] = [("gdn", "decode", "B=1,T=1,H=2")];

/// Sweeps until the time is over; an unfinished sweep leaves its log.
pub fn part(setting: &Setting<'_>, clock: Clock) -> Result<Part, CliError> {
    let records = setting.kept.folder("tuning")?;
    let sweeps: &[_] = if setting.rehearsal { &REHEARSAL } else { &SWEEPS };
    let mut part = Part { good: true, ..Part::default() };
    let mut done = 0;
    for (index, sweep) in sweeps.iter().enumerate() {
        let share = clock.share(sweeps.len() - index);
        if share.left().as_secs() < 3 {
            part.complaints.push(format!("{} {}: not reached in time", sweep.0, sweep.1));
            continue;
        }
        // A sweep stops by its budget; writing its record comes after.
        let budget = (share.left().as_secs() * 4 / 5).max(1);
        let step = tune(setting, sweep, &setting.args.device, &records, &setting.args.out.join("tuning.jsonl"))?;
        let ended = step.with("--budget", format!("{budget}s")).with("--search", "guided").run(share)?;
        done += usize::from(ended.success);
        if !ended.success {
            // A sweep that is stopped on time has lost nothing: its log goes on where it ended.
            part.good &= ended.timed_out;
            part.complaints.push(format!("{}: {}", ended.name, verdict(&ended)));
        }
        part.rows.push(json!({ "sweep": ended.name, "command": ended.command, "seconds": ended.seconds,
            "verdict": verdict(&ended), "table": ended.output.lines().collect::<Vec<_>>() }));
    }
    part.summary = format!("{done} of {} sweeps ended with a record", sweeps.len());
    Ok(part)
}

/// Counts the first sweep's candidates and refits the clock's constants to their measured times.
pub fn calibration(setting: &Setting<'_>, clock: Clock) -> Result<Part, CliError> {
    let scratch = kept::scratch()?;
    let (records, counted) = (scratch.path().join("tuning"), scratch.path().join("counted.jsonl"));
    let sweep = if setting.rehearsal { &REHEARSAL[0] } else { &SWEEPS[0] };
    let step = tune(setting, sweep, "model", &records, &counted)?;
    let budget = (clock.left().as_secs() * 3 / 5).max(1);
    let ended = step.with("--budget", format!("{budget}s")).run(clock)?;
    if !ended.success {
        return Ok(Part::failed(format!("counting: {}", verdict(&ended))));
    }
    let out = setting.kept.folder("tuning/constants")?.join(format!("{}.json", target(setting)?));
    let step = Step::gdn2("calibrate", ["tune", "calibrate"])?
        .with("--measured", setting.args.out.join("tuning.jsonl"))
        .with("--counted", &counted)
        .with("--out", &out);
    let ended = step.run(clock)?;
    if !ended.success {
        return Ok(Part::failed(verdict(&ended)));
    }
    let text = std::fs::read_to_string(&out).map_err(|source| CliError::Read { path: out.clone(), source })?;
    let constants: Value = serde_json::from_str(&text)?;
    let summary = ended.output.lines().next().unwrap_or_default().to_owned();
    Ok(Part { good: true, summary, rows: vec![json!({ "constants": constants })], ..Part::default() })
}

fn tune(
    setting: &Setting<'_>,
    (rule, pass, shape): &(&str, &str, &str),
    device: &str,
    records: &Path,
    log: &Path,
) -> Result<Step, CliError> {
    let file: PathBuf = setting.args.rules.join(format!("{rule}.gdn2"));
    let step = Step::gdn2(format!("{rule} {pass} {shape}"), ["tune"])?
        .and(file)
        .with("--pass", pass)
        .with("--shape", shape)
        .with("--device", device)
        .with("--records", records)
        .with("--log", log);
    Ok(step.with("--target", target(setting)?))
}

/// The GPU that records are for.
fn target(setting: &Setting<'_>) -> Result<String, CliError> {
    match setting.args.device.parse::<Device>()? {
        Device::Cuda(gpu) => Ok(gpu.identity()?.records()),
        Device::Cpu(_) | Device::Vm(_) => Ok(REHEARSED.to_owned()),
    }
}
