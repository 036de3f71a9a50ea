//! What the check found, for machines.

use std::time::SystemTime;

use gdn2_codegen::arch::Arch;
use serde::Serialize;
use serde_json::{Value, json};

use super::step::Ended;
use super::verdict;
use crate::error::CliError;

/// Everything, in the order it was found.
#[derive(Debug, Serialize)]
pub struct Findings {
    /// UTC.
    pub date: String,
    /// Of this program.
    pub version: &'static str,
    /// No GPU was there: nothing in here is a measurement.
    pub rehearsal: bool,
    /// Where it ran.
    pub gpu: Option<Gpu>,
    /// The parts.
    pub parts: Vec<Part>,
}

/// A GPU.
#[derive(Debug, Serialize)]
pub struct Gpu {
    /// As the driver says it.
    pub name: String,
    /// The name of its records.
    pub records: String,
    /// Its architecture.
    pub arch: Arch,
    /// The newest CUDA that the driver supports.
    pub driver: String,
    /// Highest clock of its multiprocessors.
    pub clock_mhz: u32,
}

/// One part.
#[derive(Debug, Default, Serialize)]
pub struct Part {
    /// Its name.
    pub name: &'static str,
    /// Wall-clock time.
    pub seconds: f64,
    /// Nothing in it failed.
    pub good: bool,
    /// In one line.
    pub summary: String,
    /// What did not go well, a line each.
    pub complaints: Vec<String>,
    /// Its rows.
    pub rows: Vec<Value>,
}

impl Findings {
    /// Nothing found yet.
    pub fn new(rehearsal: bool, gpu: Option<Gpu>) -> Findings {
        let date = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        Findings { date, version: env!("CARGO_PKG_VERSION"), rehearsal, gpu, parts: Vec::new() }
    }

    /// As a file's text.
    pub fn json(&self) -> Result<String, CliError> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

impl Part {
    /// A part that came to nothing.
    pub fn failed(reason: String) -> Part {
        Part { summary: reason.clone(), complaints: vec![reason], ..Part::default() }
    }

    /// A part that is one process which prints `{rows, passed, failed}`.
    pub fn of_json(ended: &Ended) -> Part {
        let printed = serde_json::from_str(&ended.output).unwrap_or(Value::Null);
        let (Some(passed), Some(failed)) = (printed["passed"].as_u64(), printed["failed"].as_u64()) else {
            return Part::failed(verdict(ended));
        };
        let rows = printed["rows"].as_array().cloned().unwrap_or_default();
        Part {
            good: ended.success,
            summary: format!("{passed} passed, {failed} failed"),
            complaints: rows.iter().filter(|row| row["verdict"] == "failed").map(line).collect(),
            rows,
            ..Part::default()
        }
    }
}

/// A step of a part as a row.
pub fn row(ended: &Ended, printed: &Value) -> Value {
    json!({
        "step": ended.name, "command": ended.command, "seconds": ended.seconds, "verdict": verdict(ended),
        "passed": printed["passed"], "failed": printed["failed"], "rows": printed["rows"],
    })
}

/// A failed row of a table in one line: its texts and numbers in the order they stand.
pub fn line(row: &Value) -> String {
    let Value::Object(fields) = row else { return row.to_string() };
    let words = fields.iter().filter(|(name, _)| *name != "verdict").map(|(name, value)| match value {
        Value::String(text) => text.clone(),
        other => format!("{name} {other}"),
    });
    words.collect::<Vec<_>>().join(", ")
}
