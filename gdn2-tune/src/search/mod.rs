//! Search strategies: functions from a finite list of candidates to the best one found. They know neither clocks nor
//! kernels; whoever evaluates says when to stop by answering for fewer candidates than it was asked about.

mod guided;
mod process;

use crate::log::Effort;
use gdn2_codegen::schedule::Schedule;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// Candidates handed over at once by a search that learns nothing from their times: enough to keep every worker busy.
const BATCH: usize = 16;

/// Times candidates.
pub trait Evaluate {
    /// One time, in any unit, per candidate; `None` for one that cannot win. An answer shorter than the question means
    /// that the budget is spent, or that a better time is not to be had.
    fn evaluate(&mut self, wanted: &[usize], effort: Effort) -> Vec<Option<f64>>;

    /// Whether a candidate that was not looked at is known to be no better than the best so far.
    fn hopeless(&self, _candidate: usize) -> bool {
        false
    }
}

/// Why a search ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    /// It looked at every candidate that is not hopeless.
    All,
    /// Whoever evaluates had enough.
    Spent,
    /// It looked at as many candidates as it takes.
    Share,
    /// No other candidate is expected to gain more than this, as a part of the best time.
    NoGain(f64),
}

/// How to search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// Every candidate in order.
    Grid,
    /// Every candidate in random order, so that a short budget sees all corners.
    Random,
    /// Every candidate briefly, the better third for longer, and so on.
    Halving,
    /// Candidates that a surrogate, fitted to the times so far, expects to be fast; at most a quarter of them.
    Guided,
}

impl Strategy {
    /// Every strategy.
    pub const ALL: [Strategy; 4] = [Strategy::Grid, Strategy::Random, Strategy::Halving, Strategy::Guided];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Strategy::Grid => "grid",
            Strategy::Random => "random",
            Strategy::Halving => "halving",
            Strategy::Guided => "guided",
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that is no strategy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("search `{0}`: use grid, random, halving or guided")]
pub struct BadStrategy(pub String);

impl FromStr for Strategy {
    type Err = BadStrategy;

    fn from_str(text: &str) -> Result<Self, BadStrategy> {
        Strategy::ALL.into_iter().find(|strategy| strategy.name() == text).ok_or_else(|| BadStrategy(text.to_owned()))
    }
}

/// Candidates as points: per field, the rank of a candidate's value among the values that field takes, from 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Points {
    rows: Vec<Vec<f64>>,
}

impl Points {
    /// The points of a list of schedules of one pass.
    pub fn of(schedules: &[Schedule]) -> Points {
        let raw: Vec<BTreeMap<String, u64>> = schedules.iter().map(|schedule| numbers(*schedule)).collect();
        // A field that is left out of a schedule where it has its usual value counts as 0.
        let fields: BTreeSet<&String> = raw.iter().flat_map(BTreeMap::keys).collect();
        let mut rows = vec![Vec::with_capacity(fields.len()); raw.len()];
        for field in fields {
            let value = |row: &BTreeMap<String, u64>| row.get(field).copied().unwrap_or(0);
            let mut levels: Vec<u64> = raw.iter().map(value).collect();
            levels.sort_unstable();
            levels.dedup();
            let span = levels.len().saturating_sub(1).max(1) as f64;
            for (row, numbers) in rows.iter_mut().zip(&raw) {
                row.push(levels.partition_point(|level| *level < value(numbers)) as f64 / span);
            }
        }
        Points { rows }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// A schedule's fields. What is no number gets one: its name's bytes, which order names stably.
fn numbers(schedule: Schedule) -> BTreeMap<String, u64> {
    let fields = serde_json::to_value(schedule).ok();
    let fields = fields.as_ref().and_then(serde_json::Value::as_object).into_iter().flatten();
    let number = |value: &serde_json::Value| match value {
        serde_json::Value::Number(number) => number.as_u64().unwrap_or(0),
        serde_json::Value::Bool(on) => u64::from(*on),
        other => other.to_string().bytes().take(8).fold(0, |all, byte| all << 8 | u64::from(byte)),
    };
    fields.map(|(name, value)| (name.clone(), number(value))).collect()
}

/// Searches. The first `begin` candidates are looked at before all others, in their order, one at least: what is to be
/// beaten, and what is known of calls like this one. `prior` orders the others by what a model expects of them (same unit
/// for all, smaller is better); `seed` settles every random choice.
pub fn search(
    strategy: Strategy,
    points: &Points,
    begin: usize,
    prior: Option<&[f64]>,
    seed: u64,
    evaluator: &mut dyn Evaluate,
) -> End {
    let begin = begin.clamp(1, points.len().max(1));
    let all: Vec<usize> = (0..points.len()).collect();
    match strategy {
        Strategy::Grid => in_order(&promising_first(all, begin, prior), evaluator),
        Strategy::Random => {
            let others = Random(seed).shuffled(all.iter().copied().skip(begin).collect());
            in_order(&all.iter().copied().take(begin).chain(others).collect::<Vec<usize>>(), evaluator)
        }
        Strategy::Halving => halving(promising_first(all, begin, prior), evaluator),
        Strategy::Guided => guided::search(&points.rows, begin, prior, seed, evaluator),
    }
}

fn promising_first(mut candidates: Vec<usize>, begin: usize, prior: Option<&[f64]>) -> Vec<usize> {
    if let (Some(prior), Some(others)) = (prior, candidates.get_mut(begin..)) {
        others.sort_by(|a, b| prior[*a].total_cmp(&prior[*b]));
    }
    candidates
}

fn in_order(candidates: &[usize], evaluator: &mut dyn Evaluate) -> End {
    let mut left = candidates.iter().copied();
    loop {
        let batch: Vec<usize> = left.by_ref().filter(|at| !evaluator.hopeless(*at)).take(BATCH).collect();
        if batch.is_empty() {
            return End::All;
        }
        if evaluator.evaluate(&batch, Effort::FIRST).len() < batch.len() {
            return End::Spent;
        }
    }
}

/// Each round keeps the better third and looks three times as long.
fn halving(mut candidates: Vec<usize>, evaluator: &mut dyn Evaluate) -> End {
    let mut effort = Effort::FIRST;
    while candidates.len() > 1 {
        let mut timed = Vec::new();
        let mut left = candidates.iter().copied();
        loop {
            let batch: Vec<usize> = left.by_ref().filter(|at| !evaluator.hopeless(*at)).take(BATCH).collect();
            if batch.is_empty() {
                break;
            }
            let answers = evaluator.evaluate(&batch, effort);
            let spent = answers.len() < batch.len();
            timed.extend(batch.iter().zip(answers).filter_map(|(at, micros)| Some((*at, micros?))));
            if spent {
                return End::Spent;
            }
        }
        timed.sort_by(|a, b| a.1.total_cmp(&b.1));
        timed.truncate(candidates.len().div_ceil(3));
        if timed.len() <= 2 {
            return End::All;
        }
        candidates = timed.into_iter().map(|(at, _)| at).collect();
        effort.repeats *= 3;
    }
    in_order(&candidates, evaluator)
}

/// SplitMix64: small, fast, the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn shuffled(&mut self, mut items: Vec<usize>) -> Vec<usize> {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
        items
    }
}
