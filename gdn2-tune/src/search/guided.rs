//! Model-guided search: a spread-out start, then whatever the surrogate expects most of.

use super::process::Process;
use super::{BATCH, Evaluate, Random};
use crate::log::Effort;

/// Deviations of optimism: a candidate counts as what it might be, not as what it is expected to be.
const OPTIMISM: f64 = 0.7;

/// Looks at no more than a quarter of the candidates.
pub fn search(points: &[Vec<f64>], prior: Option<&[f64]>, seed: u64, evaluator: &mut dyn Evaluate) {
    let limit = (points.len() / 4).max(BATCH).min(points.len());
    let mut seen: Vec<(usize, Option<f64>)> = Vec::new();
    let mut wanted = start(points, prior, seed, limit);
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

/// The built-in schedule, then points far from those before, among a random few; with a prior, among the better half.
fn start(points: &[Vec<f64>], prior: Option<&[f64]>, seed: u64, limit: usize) -> Vec<usize> {
    let mut random = Random(seed);
    let mut pool: Vec<usize> = random.shuffled((1..points.len()).collect());
    if let Some(prior) = prior {
        pool.sort_by(|a, b| prior[*a].total_cmp(&prior[*b]));
        pool.truncate(points.len().div_ceil(2));
    }
    let mut chosen: Vec<usize> = (0..points.len().min(1)).collect();
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
    let valid: Vec<f64> = seen.iter().filter_map(|(at, micros)| micros.map(|micros| log(*at, micros))).collect();
    // What cannot win repels: it counts as slow as the slowest.
    let worst = valid.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let worst = if worst.is_finite() { worst } else { 0.0 };
    let mean = valid.iter().sum::<f64>() / valid.len().max(1) as f64;
    let spread = (valid.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / valid.len().max(1) as f64).sqrt();
    let scale = spread.max(1e-3);
    let mut known: Vec<(usize, f64)> = seen
        .iter()
        .map(|(at, micros)| (*at, (micros.map_or(worst, |micros| log(*at, micros)) - mean) / scale))
        .collect();
    let mut chosen = Vec::new();
    while chosen.len() < count {
        let values: Vec<f64> = known.iter().map(|(_, value)| *value).collect();
        let process = Process::fit(known.iter().map(|(at, _)| points[*at].as_slice()).collect(), &values);
        let open = (0..points.len()).filter(|at| known.iter().all(|(other, _)| other != at));
        let optimistic = open.map(|at| {
            let (mean, deviation) = process.at(&points[at]);
            (at, mean, mean - OPTIMISM * deviation + expected(at) / scale)
        });
        let Some((at, mean, _)) = optimistic.min_by(|a, b| a.2.total_cmp(&b.2)) else { break };
        chosen.push(at);
        known.push((at, mean));
    }
    chosen
}
