//! The report for the terminal.

use super::{Findings, ReportError, micros};
use crate::model::longest;
use comfy_table::{CellAlignment, Table, presets};
use std::fmt::Write as _;

/// Rows of the table.
const ROWS: usize = 10;

/// What won and why, the fastest candidates, and how many were rejected for which reason.
pub fn table(findings: &Findings) -> Result<String, ReportError> {
    let winner = findings.podium()?.winner.0;
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["schedule", "time", "× best", "registers", "decided by", ""]);
    let best = findings.ranking[0].1.time.micros;
    let built_in = findings.ranking.iter().position(|(schedule, _)| *schedule == findings.built_in);
    for (place, (schedule, sample)) in findings.ranking.iter().enumerate() {
        if place >= ROWS && Some(place) != built_in && *schedule != findings.holder {
            continue;
        }
        let registers = sample.launches.iter().map(|launch| launch.registers).max();
        table.add_row([
            schedule.to_string(),
            micros(sample.time.micros),
            format!("{:.2}", sample.time.micros / best),
            registers.map_or(String::new(), |registers| registers.to_string()),
            longest(&sample.launches).map_or(String::new(), |(_, clocked)| clocked.decided.clone()),
            match *schedule {
                schedule if schedule == winner => "winner".to_owned(),
                schedule if schedule == findings.holder => "before".to_owned(),
                schedule if schedule == findings.built_in => "built-in".to_owned(),
                schedule if findings.correct.iter().all(|(ran, _)| *ran != schedule) => "not run".to_owned(),
                _ => String::new(),
            },
        ]);
    }
    for column in 1..=3 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = format!("{}\n\n{}\n{table}\n{}\n", findings.title(), findings.conclusion()?, findings.width());
    let reasons = findings.reasons().into_iter().filter(|(_, count)| *count > 0);
    let reasons: Vec<String> = reasons.map(|(reason, count)| format!("{count} {reason}")).collect();
    if !reasons.is_empty() {
        let _ = writeln!(text, "rejected: {}", reasons.join(", "));
    }
    Ok(text)
}
