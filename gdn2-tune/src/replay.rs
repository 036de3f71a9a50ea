//! A recorded search as an evaluator: strategies are compared on times that were really taken, without a GPU.

use crate::floor::WORTH;
use crate::log::{Contents, Effort};
use crate::search::{Evaluate, Points};
use gdn2_codegen::schedule::Schedule;
use std::collections::HashSet;

/// The candidates of one recorded search and what became of them.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The candidates, in the order they were first looked at.
    pub schedules: Vec<Schedule>,
    /// Each candidate's time, microseconds, at its longest look; `None` where it cannot win.
    pub micros: Vec<Option<f64>>,
    /// The least that each can take; nothing where no candidate is passed over for that.
    pub floors: Option<Vec<f64>>,
    seen: HashSet<usize>,
    limit: usize,
}

impl Replay {
    /// One search of a log: its legal candidates, for a search knows the others without evaluating them.
    pub fn of(log: &Contents, search: &str) -> Replay {
        let mut schedules: Vec<Schedule> = Vec::new();
        let mut looks: Vec<(u32, Option<f64>)> = Vec::new();
        for evaluation in log.of(search) {
            let look = (evaluation.effort.repeats, evaluation.outcome.micros());
            match schedules.iter().position(|schedule| *schedule == evaluation.schedule) {
                // A candidate that failed once cannot win, whatever it did before.
                Some(at) if looks[at].1.is_some() && (look.1.is_none() || look.0 >= looks[at].0) => looks[at] = look,
                Some(_) => {}
                None => {
                    schedules.push(evaluation.schedule);
                    looks.push(look);
                }
            }
        }
        // As in the list a search is given: workers finish in any order, the built-in schedule is the first of the list.
        let job = log.searches.iter().find(|other| other.search == search).map(|search| &search.job);
        let built_in = job.and_then(|job| Schedule::default_for(&job.rule, job.pass, job.arch).ok());
        if let Some(at) = schedules.iter().position(|schedule| Some(*schedule) == built_in) {
            schedules[..=at].rotate_right(1);
            looks[..=at].rotate_right(1);
        }
        let micros = looks.into_iter().map(|(_, micros)| micros).collect();
        Replay::new(schedules, micros, None)
    }

    /// Candidates with their times and the least that each can take.
    pub fn new(schedules: Vec<Schedule>, micros: Vec<Option<f64>>, floors: Option<Vec<f64>>) -> Replay {
        Replay { schedules, micros, floors, seen: HashSet::new(), limit: usize::MAX }
    }

    /// The same search, not yet looked at, that ends after this many different candidates.
    pub fn limited(&self, limit: usize) -> Replay {
        Replay { seen: HashSet::new(), limit, ..self.clone() }
    }

    /// The candidates as points of their space.
    pub fn points(&self) -> Points {
        Points::of(&self.schedules)
    }

    /// The best time of all, and which candidate has it.
    pub fn best(&self) -> Option<(usize, f64)> {
        let valid = self.micros.iter().enumerate().filter_map(|(at, micros)| Some((at, (*micros)?)));
        valid.min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// The best time among those looked at, and which candidate has it.
    pub fn found(&self) -> Option<(usize, f64)> {
        let valid = self.seen.iter().filter_map(|at| Some((*at, self.micros[*at]?)));
        valid.min_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)))
    }

    /// Candidates looked at so far.
    pub fn evaluations(&self) -> usize {
        self.seen.len()
    }
}

impl Evaluate for Replay {
    fn evaluate(&mut self, wanted: &[usize], _effort: Effort) -> Vec<Option<f64>> {
        let mut answers = Vec::new();
        for &candidate in wanted {
            if !self.seen.contains(&candidate) && self.seen.len() >= self.limit {
                break;
            }
            self.seen.insert(candidate);
            answers.push(self.micros[candidate]);
        }
        answers
    }

    fn hopeless(&self, candidate: usize) -> bool {
        let Some(floors) = self.floors.as_ref().filter(|_| !self.seen.contains(&candidate)) else { return false };
        self.found().is_some_and(|(_, best)| floors[candidate] > WORTH * best)
    }
}
