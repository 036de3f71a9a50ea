//! Model-guided search: what is known beforehand, a spread-out start, then whatever the surrogate expects most of, until
//! that is too little.

use super::process::Process;
use super::{End, Evaluate, Random};
use crate::log::Effort;

/// Candidates handed over at once: enough to keep workers busy, few enough to learn from what comes back.
const BATCH: usize = 4;

/// Points far from the others that a search with a prior begins with.
const FAR: usize = 2;

/// Deviations of optimism: a candidate counts as what it might be, not as what it is expected to be.
const OPTIMISM: f64 = 0.7;

/// What a sure failure adds to a time, in deviations of the times.
const DOUBT: f64 = 1.0;

/// The part of the best time that a look must be expected to gain.
const WORTH: f64 = 0.01;

/// Looks at no more than a quarter of the candidates, and at those that it begins with.
pub fn search(
    points: &[Vec<f64>],
    begin: usize,
    prior: Option<&[f64]>,
    seed: u64,
    evaluator: &mut dyn Evaluate,
) -> End {
    let limit = (points.len() / 4).max(BATCH).max(begin).min(points.len());
    let mut seen: Vec<(usize, Option<f64>)> = Vec::new();
    // What it begins with says which of the others are hopeless.
    let mut wanted: Vec<usize> = (0..points.len().min(begin)).collect();
    let mut started = false;
    loop {
        let answers = evaluator.evaluate(&wanted, Effort::FIRST);
        let spent = answers.len() < wanted.len();
        seen.extend(wanted.into_iter().zip(answers));
        if spent {
            return End::Spent;
        }
        if seen.len() >= limit {
            return if seen.len() == points.len() { End::All } else { End::Share };
        }
        if !std::mem::replace(&mut started, true) {
            let hopeless = |at: usize| evaluator.hopeless(at);
            wanted = start(points, begin, prior, seed, limit, &hopeless);
            if !wanted.is_empty() {
                continue;
            }
        }
        // Learning after each answer beats keeping every worker busy, so batches shrink as the end comes near.
        let batch = BATCH.min((limit - seen.len()).div_ceil(2));
        let hopeless = |at: usize| evaluator.hopeless(at);
        let Some(next) = promising(points, prior, &seen, batch, &hopeless) else { return End::All };
        if next.gain < WORTH {
            return End::NoGain(next.gain);
        }
        wanted = next.candidates;
    }
}

/// A step from the first candidate along each field, for what calls get is seldom far from the best; then points far from
/// those before, among a random few. With a prior few of these, among its better half: it says most of what they would.
fn start(
    points: &[Vec<f64>],
    begin: usize,
    prior: Option<&[f64]>,
    seed: u64,
    limit: usize,
    hopeless: &dyn Fn(usize) -> bool,
) -> Vec<usize> {
    let mut random = Random(seed);
    let mut pool: Vec<usize> = random.shuffled((begin..points.len()).filter(|at| !hopeless(*at)).collect());
    let mut chosen: Vec<usize> = (0..points.len().min(begin)).collect();
    let from = chosen.len();
    for step in steps(points, &pool) {
        pool.retain(|at| *at != step);
        chosen.push(step);
    }
    if let Some(prior) = prior {
        pool.sort_by(|a, b| prior[*a].total_cmp(&prior[*b]));
        pool.truncate(points.len().div_ceil(2));
    }
    let enough = if prior.is_some() { chosen.len() + FAR } else { limit.div_ceil(3) };
    while chosen.len() < enough && !pool.is_empty() {
        let few = (0..8).map(|_| random.below(pool.len()));
        let nearest = |at: usize| {
            let distance = |other: &usize| gap(&points[pool[at]], &points[*other]);
            chosen.iter().map(distance).fold(f64::INFINITY, f64::min)
        };
        let Some(far) = few.max_by(|a, b| nearest(*a).total_cmp(&nearest(*b))) else { break };
        chosen.push(pool.swap_remove(far));
    }
    chosen.split_off(from)
}

/// For each field the candidate nearest to the first of all that differs from it in that field, each once.
fn steps(points: &[Vec<f64>], pool: &[usize]) -> Vec<usize> {
    let mut steps = Vec::new();
    let Some(first) = points.first() else { return steps };
    for field in 0..first.len() {
        let differs = pool.iter().filter(|at| points[**at][field] != first[field]);
        let nearest = differs.min_by(|a, b| gap(&points[**a], first).total_cmp(&gap(&points[**b], first)));
        steps.extend(nearest.filter(|at| !steps.contains(*at)));
    }
    steps
}

fn gap(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum()
}

/// What to look at next.
struct Next {
    candidates: Vec<usize>,
    /// The most that one of them is expected to gain, as a part of the best time.
    gain: f64,
}

/// The candidates with the lowest optimistic time, each chosen as if the ones before had come out as expected. `None` where
/// none is left.
fn promising(
    points: &[Vec<f64>],
    prior: Option<&[f64]>,
    seen: &[(usize, Option<f64>)],
    count: usize,
    hopeless: &dyn Fn(usize) -> bool,
) -> Option<Next> {
    // With a prior, the surrogate learns how wrong the prior is; without, it learns the times.
    let expected = |at: usize| prior.map_or(0.0, |prior| prior[at].max(f64::MIN_POSITIVE).ln());
    let log = |at: usize, micros: f64| micros.max(f64::MIN_POSITIVE).ln() - expected(at);
    let valid: Vec<(usize, f64)> = seen.iter().filter_map(|(at, micros)| Some((*at, log(*at, (*micros)?)))).collect();
    let mean = valid.iter().map(|(_, value)| value).sum::<f64>() / valid.len().max(1) as f64;
    let spread =
        (valid.iter().map(|(_, value)| (value - mean).powi(2)).sum::<f64>() / valid.len().max(1) as f64).sqrt();
    let scale = spread.max(1e-3);
    let best = valid.iter().map(|(at, value)| value + expected(*at)).fold(f64::INFINITY, f64::min);
    // Times and failures are two surfaces: the best schedules often lie beside those that ask for too much.
    let mut times: Vec<(usize, f64)> = valid.iter().map(|(at, value)| (*at, (value - mean) / scale)).collect();
    let mut failures: Vec<(usize, f64)> =
        seen.iter().map(|(at, micros)| (*at, if micros.is_some() { 0.0 } else { 1.0 })).collect();
    let mut next = Next { candidates: Vec::new(), gain: 0.0 };
    while next.candidates.len() < count {
        let time = Process::of(points, &times);
        let failure = Process::of(points, &failures);
        let open = (0..points.len()).filter(|at| failures.iter().all(|(other, _)| other != at) && !hopeless(*at));
        let mut lowest: Option<(usize, f64, f64)> = None;
        for at in open {
            let (own, deviation) = time.at(&points[at]);
            let doubt = failure.at(&points[at]).0.clamp(0.0, 1.0);
            let optimistic = own - OPTIMISM * deviation + DOUBT * doubt + expected(at) / scale;
            if next.candidates.is_empty() {
                let gain = gain(best - (mean + own * scale + expected(at)), deviation * scale);
                next.gain = next.gain.max((1.0 - doubt) * gain);
            }
            if lowest.is_none_or(|(_, _, lowest)| optimistic < lowest) {
                lowest = Some((at, own, optimistic));
            }
        }
        let Some((at, own, _)) = lowest else { break };
        next.candidates.push(at);
        times.push((at, own));
        failures.push((at, 0.0));
    }
    (!next.candidates.is_empty()).then_some(next)
}

/// The expectation of how far a normal variable lies below a limit, `ahead` above its mean: Jones, Schonlau and Welch, "Efficient
/// Global Optimization of Expensive Black-Box Functions" (1998), equation 15.
fn gain(ahead: f64, deviation: f64) -> f64 {
    if deviation <= 0.0 {
        return ahead.max(0.0);
    }
    let z = ahead / deviation;
    let density = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    ahead * below(z) + deviation * density
}

/// The part of a standard normal distribution that lies below `z`, to 1e-7: Abramowitz and Stegun, "Handbook of Mathematical
/// Functions", 26.2.17.
fn below(z: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * z.abs());
    let terms = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
    let sum = terms.iter().rev().fold(0.0, |sum, term| (sum + term) * t);
    let above = sum * (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    if z > 0.0 { 1.0 - above } else { above }
}

#[cfg(test)]
mod tests {
    use super::{below, gain};

    #[test]
    fn expected_gains_are_those_of_the_normal_distribution() {
        for (z, part) in [(0.0, 0.5), (1.0, 0.841_344_746), (-1.96, 0.024_997_895), (3.0, 0.998_650_102)] {
            assert!((below(z) - part).abs() < 2e-7, "{z}: {}", below(z));
        }
        // As far below as above: the mean of the positive half.
        assert!((gain(0.0, 2.0) - 2.0 * 0.398_942_280).abs() < 1e-6);
        assert!((gain(5.0, 1e-9) - 5.0).abs() < 1e-9 && gain(-5.0, 1e-9) < 1e-9 && gain(3.0, 0.0) == 3.0);
    }
}
