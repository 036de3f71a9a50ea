//! Model-guided search: a spread-out start, then whatever the surrogate expects most of.

use super::process::Process;
use super::{Evaluate, Random};
use crate::log::Effort;

/// Candidates handed over at once: enough to keep workers busy, few enough to learn from what comes back.
const BATCH: usize = 4;

/// Deviations of optimism: a candidate counts as what it might be, not as what it is expected to be.
const OPTIMISM: f64 = 0.7;

/// What a sure failure adds to a time, in deviations of the times.
const DOUBT: f64 = 1.0;

/// Looks at no more than a quarter of the candidates, and at those that it begins with.
pub fn search(points: &[Vec<f64>], begin: usize, prior: Option<&[f64]>, seed: u64, evaluator: &mut dyn Evaluate) {
    let limit = (points.len() / 4).max(BATCH).max(begin).min(points.len());
    let mut seen: Vec<(usize, Option<f64>)> = Vec::new();
    let mut wanted = start(points, begin, prior, seed, limit);
    while !wanted.is_empty() {
        let answers = evaluator.evaluate(&wanted, Effort::FIRST);
        let spent = answers.len() < wanted.len();
        seen.extend(wanted.into_iter().zip(answers));
        if spent || seen.len() >= limit {
            return;
        }
        // Learning after each answer beats keeping every worker busy, so batches shrink as the end comes near.
        let batch = BATCH.min((limit - seen.len()).div_ceil(2));
        wanted = promising(points, prior, &seen, batch);
    }
}

/// What a search begins with, then points far from those before, among a random few; with a prior, among the better half.
fn start(points: &[Vec<f64>], begin: usize, prior: Option<&[f64]>, seed: u64, limit: usize) -> Vec<usize> {
    let mut random = Random(seed);
    let mut pool: Vec<usize> = random.shuffled((begin..points.len()).collect());
    if let Some(prior) = prior {
        pool.sort_by(|a, b| prior[*a].total_cmp(&prior[*b]));
        pool.truncate(points.len().div_ceil(2));
    }
    let mut chosen: Vec<usize> = (0..points.len().min(begin)).collect();
    while chosen.len() < limit.div_ceil(3) && !pool.is_empty() {
        let few = (0..8).map(|_| random.below(pool.len()));
        let nearest = |at: usize| {
            let distance = |other: &usize| gap(&points[pool[at]], &points[*other]);
            chosen.iter().map(distance).fold(f64::INFINITY, f64::min)
        };
        let Some(far) = few.max_by(|a, b| nearest(*a).total_cmp(&nearest(*b))) else { break };
        chosen.push(pool.swap_remove(far));
    }
    chosen
}

fn gap(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum()
}

/// The candidates with the lowest optimistic time, each chosen as if the ones before had come out as expected.
fn promising(points: &[Vec<f64>], prior: Option<&[f64]>, seen: &[(usize, Option<f64>)], count: usize) -> Vec<usize> {
    // With a prior, the surrogate learns how wrong the prior is; without, it learns the times.
    let expected = |at: usize| prior.map_or(0.0, |prior| prior[at].max(f64::MIN_POSITIVE).ln());
    let log = |at: usize, micros: f64| micros.max(f64::MIN_POSITIVE).ln() - expected(at);
    let valid: Vec<(usize, f64)> = seen.iter().filter_map(|(at, micros)| Some((*at, log(*at, (*micros)?)))).collect();
    let mean = valid.iter().map(|(_, value)| value).sum::<f64>() / valid.len().max(1) as f64;
    let spread =
        (valid.iter().map(|(_, value)| (value - mean).powi(2)).sum::<f64>() / valid.len().max(1) as f64).sqrt();
    let scale = spread.max(1e-3);
    // Times and failures are two surfaces: the best schedules often lie beside those that ask for too much.
    let mut times: Vec<(usize, f64)> = valid.iter().map(|(at, value)| (*at, (value - mean) / scale)).collect();
    let mut failures: Vec<(usize, f64)> =
        seen.iter().map(|(at, micros)| (*at, if micros.is_some() { 0.0 } else { 1.0 })).collect();
    let mut chosen = Vec::new();
    while chosen.len() < count {
        let time = Process::of(points, &times);
        let failure = Process::of(points, &failures);
        let open = (0..points.len()).filter(|at| failures.iter().all(|(other, _)| other != at));
        let optimistic = open.map(|at| {
            let (mean, deviation) = time.at(&points[at]);
            let doubt = failure.at(&points[at]).0.clamp(0.0, 1.0);
            (at, mean, mean - OPTIMISM * deviation + DOUBT * doubt + expected(at) / scale)
        });
        let Some((at, mean, _)) = optimistic.min_by(|a, b| a.2.total_cmp(&b.2)) else { break };
        chosen.push(at);
        times.push((at, mean));
        failures.push((at, 0.0));
    }
    chosen
}
