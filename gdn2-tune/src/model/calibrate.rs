//! Refits the constants on measured times: what was simulated stays, and what it is turned into time by moves to where the
//! squared error of the logarithm is least.

use super::{Constants, Sourced};
use crate::job::{Engine, Job};
use crate::log::Contents;
use crate::outcome::Outcome;
use crate::published::{self, FitError, Learnt, Rates, quantile};
use gdn2_codegen::record::Basis;
use gdn2_codegen::schedule::Schedule;
use std::collections::HashMap;

/// One candidate, counted and measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// The GPU.
    pub gpu: String,
    /// Which of the searches: times of one are of one call.
    pub search: usize,
    /// Whether a GPU took the time, or the virtual machine counted it in rehearsal.
    pub measured_by_gpu: bool,
    /// What was simulated.
    pub launches: Vec<published::Launch>,
    /// What the GPU took, microseconds.
    pub measured: f64,
}

/// Refitted constants and how well they and the old ones do.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibrated {
    /// The refitted constants; their `band` is the refitted model's 90th percentile of relative
    /// error, their `paired` the 95th of the error of the ratio of two candidates of one search.
    pub constants: Constants,
    /// Pairs used.
    pub pairs: usize,
    /// Median relative error before.
    pub error_before: f64,
    /// Median relative error after.
    pub error_after: f64,
    /// Rank correlation (Spearman) of the refitted predictions with the measured times.
    pub rank_correlation: f64,
}

/// What a fit may move, and not further than this factor from where it was. The surplus of a warpgroup's products and the
/// share of memory that is read again are those of published times until then.
const FREE: [(&str, &str); 5] = [
    ("again", "share of a copy's rate"),
    ("clock", "MHz"),
    ("dram_bytes", "GB/s"),
    ("launch", "microseconds per launch"),
    ("wgmma_surplus", "times the data sheet's clocks, beyond them"),
];
const FURTHEST: f64 = 4.0;

/// Fewer pairs say nothing of how far a ratio may be off.
const FEWEST: usize = 20;

/// Joins timed searches with predicted ones of the same rule, pass, shape and GPU by schedule: one pair for every
/// candidate timed, at its last look. All of one GPU, the first that has any.
pub fn pairs(measured: &Contents, counted: &Contents) -> Vec<Pair> {
    let mut pairs: Vec<Pair> = Vec::new();
    for (place, search) in measured.searches.iter().enumerate().filter(|(_, search)| search.job.engine != Engine::Model)
    {
        let job = &search.job;
        if pairs.first().is_some_and(|pair| pair.gpu != job.gpu) {
            continue;
        }
        let twin = Job { engine: Engine::Model, ..job.clone() };
        let mut loads = HashMap::new();
        for other in counted.searches.iter().filter(|other| other.job == twin) {
            loads.extend(counted.of(&other.search).filter_map(|evaluation| match &evaluation.outcome {
                Outcome::Correct(sample) | Outcome::Timed(sample) => Some((evaluation.schedule, &sample.launches)),
                Outcome::Invalid { .. } => None,
            }));
        }
        let mut timed: Vec<(Schedule, f64)> = Vec::new();
        for evaluation in measured.of(&search.search) {
            timed.retain(|(schedule, _)| *schedule != evaluation.schedule);
            timed.extend(evaluation.outcome.micros().map(|micros| (evaluation.schedule, micros)));
        }
        pairs.extend(timed.into_iter().filter_map(|(schedule, measured)| {
            let clocked = |launch: &super::LaunchLoad| Some(launch.clocked.as_ref()?.launch.clone());
            let launches = loads.get(&schedule)?.iter().map(clocked).collect::<Option<Vec<_>>>()?;
            let measured_by_gpu = job.engine.basis() == Basis::Measured;
            Some(Pair { gpu: job.gpu.clone(), search: place, measured_by_gpu, launches, measured })
        }));
    }
    pairs
}

/// Coordinate descent in steps of shrinking factors. Few constants, few pairs: simple and the same on every machine.
///
/// # Errors
/// A damaged file of what published times say.
pub fn calibrate(pairs: &[Pair], start: &Constants) -> Result<Calibrated, FitError> {
    let mut start = start.clone();
    let learnt = Learnt::of(&start)?;
    for (name, value) in [("again", learnt.fit.again), ("wgmma_surplus", learnt.fit.wgmma_surplus)] {
        let unit = FREE.iter().find(|(free, _)| *free == name).map_or("", |(_, unit)| *unit).to_owned();
        let shipped = Sourced { value, unit, source: "fitted on published times".to_owned() };
        start.values.entry(name.to_owned()).or_insert(shipped);
    }
    let ratio = |pair: &Pair, constants: &Constants| {
        let fit = learnt.fit.with(constants);
        let predicted = Rates::of(constants).middle(&pair.launches, &fit);
        (predicted.max(f64::MIN_POSITIVE) / pair.measured.max(f64::MIN_POSITIVE)).ln()
    };
    // Constants that the pairs say nothing about stay: leaving where one was costs a little.
    let cost = |constants: &Constants| -> f64 {
        let errors: f64 = pairs.iter().map(|pair| ratio(pair, constants).powi(2)).sum();
        let moved = |(name, _): &(&str, &str)| (constants.get(name) / start.get(name)).ln().powi(2);
        errors + 1e-3 * FREE.iter().map(moved).sum::<f64>()
    };
    let mut constants = start.clone();
    let mut least = cost(&constants);
    let mut step = 1.5;
    while step > 1.005 {
        let mut moved = false;
        for (name, _) in FREE {
            for factor in [step, 1.0 / step] {
                let mut trial = constants.clone();
                let Some(constant) = trial.values.get_mut(name) else { continue };
                constant.value *= factor;
                let away = constant.value / start.get(name);
                let trial_cost = cost(&trial);
                if trial_cost < least && (1.0 / FURTHEST..=FURTHEST).contains(&away) {
                    (constants, least, moved) = (trial, trial_cost, true);
                }
            }
        }
        if !moved {
            step = 1.0 + (step - 1.0) / 2.0;
        }
    }
    let errors = |constants: &Constants| {
        let mut errors: Vec<f64> = pairs.iter().map(|pair| ratio(pair, constants).exp_m1().abs()).collect();
        errors.sort_by(f64::total_cmp);
        errors
    };
    let (before, after) = (errors(&start), errors(&constants));
    let fitted = match pairs.iter().all(|pair| pair.measured_by_gpu) {
        true => format!("refitted on {} timed candidates", pairs.len()),
        false => format!("refitted on {} candidates counted by the virtual machine: a rehearsal", pairs.len()),
    };
    for (name, _) in FREE {
        if let Some(constant) = constants.values.get_mut(name).filter(|constant| constant.value != start.get(name)) {
            constant.source.clone_from(&fitted);
        }
    }
    if !pairs.is_empty() {
        let source = format!("90th percentile of the relative error, {fitted}");
        let band = Sourced { value: quantile(&after, 0.9).max(0.01), unit: "relative error".to_owned(), source };
        constants.values.insert("band".to_owned(), band);
    }
    let ratios: Vec<(usize, f64)> = pairs.iter().map(|pair| (pair.search, ratio(pair, &constants))).collect();
    let apart = apart(&ratios);
    if apart.len() >= FEWEST {
        let source = format!("95th percentile of the relative error of a ratio, {fitted}");
        let paired = Sourced { value: quantile(&apart, 0.95).max(0.01), unit: "relative error".to_owned(), source };
        constants.values.insert("paired".to_owned(), paired);
    }
    let predicted: Vec<f64> = pairs.iter().map(|pair| ratio(pair, &constants).exp() * pair.measured).collect();
    let measured: Vec<f64> = pairs.iter().map(|pair| pair.measured).collect();
    Ok(Calibrated {
        pairs: pairs.len(),
        error_before: quantile(&before, 0.5),
        error_after: quantile(&after, 0.5),
        rank_correlation: spearman(&predicted, &measured),
        constants,
    })
}

/// How far the ratios of two predictions are off that are of one search, sorted: from logarithms of predicted over measured.
fn apart(ratios: &[(usize, f64)]) -> Vec<f64> {
    let mut apart = Vec::new();
    for (place, (search, one)) in ratios.iter().enumerate() {
        let others = ratios.iter().skip(place + 1).filter(|(other, _)| other == search);
        apart.extend(others.map(|(_, other)| (one - other).abs().exp_m1()));
    }
    apart.sort_by(f64::total_cmp);
    apart
}

/// Rank correlation.
pub(crate) fn spearman(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let (mean_a, mean_b) = (mean(&a), mean(&b));
    let covariance: f64 = a.iter().zip(&b).map(|(a, b)| (a - mean_a) * (b - mean_b)).sum();
    let deviation = |values: &[f64], mean: f64| values.iter().map(|value| (value - mean).powi(2)).sum::<f64>().sqrt();
    covariance / (deviation(&a, mean_a) * deviation(&b, mean_b)).max(f64::MIN_POSITIVE)
}

/// Ranks from 0; ties share their mean rank.
fn ranks(values: &[f64]) -> Vec<f64> {
    let below = |value: f64, strict: bool| {
        values.iter().filter(|other| if strict { **other < value } else { **other <= value }).count() as f64
    };
    values.iter().map(|value| (below(*value, true) + below(*value, false) - 1.0) / 2.0).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::published::{Kind, Launch, Pattern};

    /// Times made by a GPU whose constants differ from the shipped ones are met again by the refit.
    #[test]
    fn finds_the_constants_that_made_the_times() {
        let shipped = Constants::shipped("h200").unwrap();
        let learnt = Learnt::shipped().unwrap();
        let mut truth = shipped.clone();
        for (name, factor) in [("clock", 0.8), ("dram_bytes", 0.7), ("launch", 1.5)] {
            truth.values.get_mut(name).unwrap().value *= factor;
        }
        let fit = published::Fit { again: 0.5, ..learnt.fit };
        let pairs: Vec<Pair> = (1..60u32)
            .map(|seed| {
                let data_sheet = f64::from(seed * 7919 % 97) * 3000.0;
                let bytes = f64::from(seed * 104_729 % 89) * 3e6;
                let pattern = if seed % 3 == 0 { Pattern::Again } else { Pattern::Once };
                let (pipe, chain) = (vec![(2.0, 1.5 * data_sheet)], vec![(3.0, 1.6 * data_sheet)]);
                let launches = vec![Launch { kernel: String::new(), data_sheet, pipe, chain, bytes, pattern }];
                let measured = Rates::of(&truth).middle(&launches, &fit);
                Pair { gpu: "h200".to_owned(), search: seed as usize % 2, measured_by_gpu: true, launches, measured }
            })
            .collect();
        let result = calibrate(&pairs, &shipped).unwrap();
        assert!(result.error_before > 0.1 && result.error_after < 0.02, "{result:?}");
        assert!(result.rank_correlation > 0.99, "{}", result.rank_correlation);
        assert!((result.constants.get("dram_bytes") / truth.get("dram_bytes") - 1.0).abs() < 0.05, "{result:?}");
        assert!((result.constants.get("again") / 0.5 - 1.0).abs() < 0.05, "{result:?}");
        let learnt = Learnt::of(&result.constants).unwrap();
        let paired = learnt.bands.paired.of([Kind::Mma, Kind::Memory]).unwrap();
        assert!((0.01..0.06).contains(&paired), "the refit's own error of ratios stands: {paired}");
        assert!(learnt.fit.again < 0.6 && learnt.bands.mma < 0.03, "the refit's own error stands: {learnt:?}");
    }
}
