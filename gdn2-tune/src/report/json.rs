//! The report for other programs: what the table says, whole.

use super::{Findings, ReportError};
use crate::model::longest;
use serde_json::{Value, json};

/// What was searched, every candidate with a time in microseconds, the fastest first, and every rejected one with its
/// reason.
///
/// # Errors
/// A search in which nothing can win.
pub fn json(findings: &Findings<'_>) -> Result<Value, ReportError> {
    let winner = findings.podium()?.winner.0;
    let job = &findings.search.job;
    let candidates = findings.ranking.iter().map(|(schedule, sample)| {
        let ran = findings.correct.iter().any(|(other, _)| other == schedule);
        json!({
            "schedule": schedule.to_string(),
            "micros": sample.time.micros,
            "spread": sample.time.spread,
            "ran": ran,
            "registers": sample.launches.iter().map(|launch| launch.registers).max(),
            "decided_by": longest(&sample.launches).map(|(_, clocked)| clocked.decided.clone()),
        })
    });
    let rejected = findings.rejected.iter().map(|(schedule, reason, detail)| {
        json!({ "schedule": schedule.to_string(), "reason": reason.to_string(), "detail": detail })
    });
    Ok(json!({
        "rule": job.rule.name,
        "pass": job.pass,
        "shape": job.shape,
        "gpu": job.gpu,
        "times": findings.worth(),
        "winner": winner.to_string(),
        "before": findings.holder.to_string(),
        "built_in": findings.built_in.to_string(),
        "floor_micros": findings.search.floor_micros,
        "legal": findings.legal,
        "looked_at": findings.looked_at,
        "candidates": candidates.collect::<Vec<_>>(),
        "rejected": rejected.collect::<Vec<_>>(),
    }))
}
