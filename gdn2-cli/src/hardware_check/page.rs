//! What the check found, for people.

use serde_json::Value;

use super::findings::{Findings, Part};

/// A line per part.
pub fn summary(findings: &Findings) -> String {
    let width = findings.parts.iter().map(|part| part.name.len()).max().unwrap_or(0);
    let line = |part: &Part| {
        let verdict = if part.good { "good" } else { "BAD " };
        format!("{verdict}  {:width$}  {:4.0} s  {}\n", part.name, part.seconds, part.summary)
    };
    findings.parts.iter().map(line).collect()
}

/// The report.
pub fn markdown(findings: &Findings) -> String {
    let mut text = match &findings.gpu {
        Some(gpu) => format!(
            "# Hardware check: {}\n\n{}, driver for CUDA {}, {} MHz, gdn2 {}\n",
            gpu.name, findings.date, gpu.driver, gpu.clock_mhz, findings.version
        ),
        None => format!(
            "# Hardware check: a rehearsal\n\n{}, gdn2 {}. No GPU was there; the virtual machine stood in for it. \
             Nothing here is a measurement.\n",
            findings.date, findings.version
        ),
    };
    text += "\n| part | | seconds | |\n|---|---|---:|---|\n";
    for part in &findings.parts {
        let verdict = if part.good { "good" } else { "**bad**" };
        text += &format!("| {} | {verdict} | {:.0} | {} |\n", part.name, part.seconds, cell(&part.summary));
    }
    for part in &findings.parts {
        if part.name == "peers" && !part.rows.is_empty() {
            text += &peers(&part.rows);
        }
        if !part.complaints.is_empty() {
            text += &format!("\n## {}: what did not go well\n\n", part.name);
            text.extend(part.complaints.iter().map(|complaint| format!("- {}\n", cell(complaint))));
        }
    }
    text
}

/// Ours and each peer, one row each, in the order they were measured.
fn peers(rows: &[Value]) -> String {
    let mut text = "\n## Side by side\n\nMilliseconds are medians of CUDA graph replays, A/B/A/B in one process; \
                    ratio is the contestant's time over ours.\n\n\
                    | rule | pass | shape | gates | contract | contestant | ms | ratio | of the floor | error | |\n\
                    |---|---|---|---|---|---|---:|---:|---:|---:|---|\n"
        .to_owned();
    let word = |value: &Value| match value {
        Value::String(text) => cell(text),
        Value::Null => String::new(),
        other => cell(&other.to_string()),
    };
    let number = |value: &Value, digits: usize| value.as_f64().map_or(String::new(), |x| format!("{x:.digits$}"));
    for row in rows.iter().filter(|row| row["kind"] == "row") {
        let note = if row["reason"].is_null() { &row["status"] } else { &row["reason"] };
        text += &format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
            word(&row["rule"]),
            word(&row["pass"]),
            word(&row["shape"]),
            word(&row["regime"]),
            word(&row["contract"]),
            word(&row["contestant"]),
            number(&row["graph_ms"]["median"], 4),
            number(&row["ratio"], 2),
            number(&row["floor"], 2),
            number(&row["worst_error"], 5),
            word(note)
        );
    }
    text
}

/// Text that does not break a table and is no markup.
fn cell(text: &str) -> String {
    text.replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;").replace(['\n', '\r'], " ")
}
