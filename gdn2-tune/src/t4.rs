//! Results in the T4 format of the autotuning community (schema 1.0.0), for the tools that read it; times
//! in milliseconds.

use crate::log::{Contents, Search};
use crate::outcome::{Outcome, Reason};
use gdn2_codegen::schedule::Schedule;
use serde_json::{Value, json};

/// The results of one search of a log.
pub fn export(log: &Contents, search: &Search) -> Value {
    let refused = log
        .refused(&search.search)
        .map(|refusal| result(refusal.schedule, refusal.at, None, Reason::Constraints.name(), Vec::new(), Vec::new()));
    let evaluated = log.of(&search.search).filter_map(|evaluation| {
        let (invalidity, measurements, runtimes) = match &evaluation.outcome {
            Outcome::Correct(sample) => {
                let time = json!({ "name": "time", "value": sample.time.micros / 1e3, "unit": "ms" });
                let others = sample
                    .metrics
                    .iter()
                    .map(|metric| json!({ "name": metric.name, "value": metric.value, "unit": metric.unit }));
                let all: Vec<Value> = std::iter::once(time).chain(others).collect();
                ("correct", all, vec![sample.time.micros / 1e3])
            }
            // Nobody has looked at its results, and the format knows right or wrong.
            Outcome::Timed(_) => return None,
            Outcome::Invalid { reason, .. } => (reason.name(), Vec::new(), Vec::new()),
        };
        let seconds = Some(evaluation.seconds);
        Some(result(evaluation.schedule, evaluation.at, seconds, invalidity, measurements, runtimes))
    });
    let results: Vec<Value> = refused.chain(evaluated).collect();
    json!({ "schema_version": "1.0.0", "results": results })
}

/// One candidate; it is correct where it has run times. What was refused before anything ran has no times at all.
fn result(
    schedule: Schedule,
    at: u64,
    seconds: Option<f64>,
    invalidity: &str,
    measurements: Vec<Value>,
    runtimes: Vec<f64>,
) -> Value {
    let mut configuration = serde_json::to_value(schedule).unwrap_or(Value::Null);
    if let Some(fields) = configuration.as_object_mut() {
        // The pass is the problem's, not the configuration's.
        fields.remove("pass");
    }
    let correct = u32::from(!runtimes.is_empty());
    let times = seconds.map_or(json!({}), |seconds| json!({ "benchmark": seconds * 1e3, "runtimes": runtimes }));
    json!({
        "timestamp": timestamp(at),
        "configuration": configuration,
        "objectives": ["time"],
        "correctness": correct,
        "times": times,
        "invalidity": invalidity,
        "measurements": measurements,
    })
}

/// Seconds since 1970 as an ISO 8601 time in UTC. Civil date from a day count: the calendar repeats every 400 years
/// of 146,097 days, counted from a year that starts in March.
pub(crate) fn timestamp(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::timestamp;

    #[test]
    fn dates_are_civil() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00Z");
        assert_eq!(timestamp(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(timestamp(1_795_219_199), "2026-11-20T23:59:59Z");
    }
}
