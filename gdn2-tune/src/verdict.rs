//! From looks at candidates to a winner: the same reading of a log for the sweep that writes it and the report.

use crate::log::{Contents, Effort};
use crate::outcome::{Outcome, Reason, Sample};
use gdn2_codegen::record::{Basis, Time};
use gdn2_codegen::schedule::Schedule;
use std::collections::HashMap;

/// Every look at every candidate of one search.
#[derive(Clone, Debug, Default)]
pub struct Looks(HashMap<(Schedule, Effort), Outcome>);

impl Looks {
    /// The looks of one search of a log at the candidates named.
    pub fn of(log: &Contents, search: &str, candidates: &[Schedule]) -> Looks {
        let mut looks = Looks::default();
        for evaluation in log.of(search).filter(|evaluation| candidates.contains(&evaluation.schedule)) {
            looks.insert(evaluation.schedule, evaluation.effort, evaluation.outcome.clone());
        }
        looks
    }

    /// Forgets the looks that ran out of time, so that a search that is resumed looks again: a machine that was busy
    /// with something else is not the candidate's fault.
    pub fn forget_timeouts(&mut self) {
        self.0.retain(|_, outcome| !matches!(outcome, Outcome::Invalid { reason: Reason::Timeout, .. }));
    }

    /// Adds a look.
    pub fn insert(&mut self, schedule: Schedule, effort: Effort, outcome: Outcome) {
        self.0.insert((schedule, effort), outcome);
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One look.
    pub fn get(&self, schedule: Schedule, effort: Effort) -> Option<&Outcome> {
        self.0.get(&(schedule, effort))
    }

    /// Repetitions of the longest look at a candidate.
    pub fn longest(&self, schedule: Schedule) -> u32 {
        let looks = self.0.keys().filter(|(of, _)| *of == schedule);
        looks.map(|(_, effort)| effort.repeats).max().unwrap_or(Effort::FIRST.repeats)
    }

    /// What the search says of a candidate: its failure at any look, else its longest look. Run-off rounds speak only
    /// through [`Looks::final_ranking`], so that a search resumed within its run-off lets the same two meet.
    pub fn verdict(&self, schedule: Schedule) -> Option<&Outcome> {
        let looks = self.0.iter().filter(|((of, effort), outcome)| {
            *of == schedule && (effort.round == Effort::FIRST.round || outcome.micros().is_none())
        });
        looks.max_by_key(|((_, effort), outcome)| (outcome.micros().is_none(), *effort)).map(|(_, outcome)| outcome)
    }

    /// Candidates that may win, fastest first; of equals, the one that comes first in the list.
    pub fn ranking(&self, candidates: &[Schedule]) -> Vec<(Schedule, Sample)> {
        let correct = candidates.iter().filter_map(|schedule| match self.verdict(*schedule) {
            Some(Outcome::Correct(sample)) => Some((*schedule, sample.clone())),
            _ => None,
        });
        let mut ranking: Vec<_> = correct.collect();
        ranking.sort_by(|a, b| a.1.time.micros.total_cmp(&b.1.time.micros));
        ranking
    }

    /// The ranking after the run-off: the two that met count with the median of their meetings, and stay ahead.
    pub fn final_ranking(&self, candidates: &[Schedule]) -> Vec<(Schedule, Sample)> {
        let mut ranking = self.ranking(candidates);
        for (schedule, sample) in ranking.iter_mut().take(2) {
            let mut rounds: Vec<f64> = self
                .0
                .iter()
                .filter(|((of, effort), _)| of == schedule && effort.round > Effort::FIRST.round)
                .filter_map(|(_, outcome)| outcome.micros())
                .collect();
            rounds.sort_by(f64::total_cmp);
            if let Some(median) = rounds.get(rounds.len() / 2) {
                sample.time.micros = *median;
            }
        }
        if let [first, second, ..] = ranking.as_mut_slice()
            && second.1.time.micros < first.1.time.micros
        {
            std::mem::swap(first, second);
        }
        ranking
    }
}

/// Who won.
#[derive(Clone, Copy, Debug)]
pub struct Podium<'a> {
    /// The schedule to use.
    pub winner: &'a (Schedule, Sample),
    /// The built-in schedule, where it ran.
    pub built_in: Option<&'a (Schedule, Sample)>,
    /// The fastest of the others.
    pub runner_up: Option<&'a (Schedule, Sample)>,
}

/// The winner is the fastest, unless what it gains over the built-in schedule is within the spread of the two, or, for
/// predictions, within their error band.
pub fn podium(ranking: &[(Schedule, Sample)], built_in: Schedule, basis: Basis) -> Option<Podium<'_>> {
    let fastest = ranking.first()?;
    let built_in = ranking.iter().find(|(schedule, _)| *schedule == built_in);
    let winner = match built_in {
        Some(built_in) if !clearly_faster(fastest.1.time, built_in.1.time, basis) => built_in,
        _ => fastest,
    };
    let runner_up = ranking.iter().find(|(schedule, _)| *schedule != winner.0);
    Some(Podium { winner, built_in, runner_up })
}

fn clearly_faster(challenger: Time, built_in: Time, basis: Basis) -> bool {
    let margin = match basis {
        Basis::Predicted => challenger.spread,
        Basis::Measured | Basis::Counted => challenger.spread.max(built_in.spread),
    };
    challenger.micros * (1.0 + margin) < built_in.micros
}

#[cfg(test)]
mod tests {
    use super::*;
    use gdn2_codegen::schedule::Decode;

    fn at(warps: u32, micros: f64, spread: f64) -> (Schedule, Sample) {
        let schedule = Schedule::Decode(Decode { value_split: 1, warps });
        (schedule, Sample { time: Time { micros, spread }, metrics: Vec::new(), launches: Vec::new() })
    }

    #[test]
    fn the_built_in_schedule_stays_unless_the_gain_is_beyond_doubt() {
        let built_in = at(4, 100.0, 0.4);
        let won = |fastest: f64, spread: f64, basis: Basis| {
            let ranking = [at(8, fastest, spread), built_in.clone()];
            podium(&ranking, built_in.0, basis).map(|podium| podium.winner.0 != built_in.0)
        };
        assert_eq!(won(72.0, 0.4, Basis::Predicted), Some(false), "28 % off is within a band of 40 %");
        assert_eq!(won(70.0, 0.4, Basis::Predicted), Some(true));
        assert_eq!(won(95.0, 0.01, Basis::Measured), Some(false), "the built-in one spreads by 40 %");
        assert!(podium(&[], built_in.0, Basis::Measured).is_none());
    }

    #[test]
    fn a_failure_at_any_look_is_final_and_run_offs_can_turn_the_order() {
        let (a, b) = (at(1, 10.0, 0.0), at(2, 11.0, 0.0));
        let mut looks = Looks::default();
        for (schedule, sample) in [&a, &b] {
            looks.insert(*schedule, Effort::FIRST, Outcome::Correct(sample.clone()));
        }
        let candidates = [a.0, b.0];
        for round in 1..=3 {
            let effort = Effort { repeats: 1, round };
            looks.insert(a.0, effort, Outcome::Correct(at(1, 12.0, 0.0).1));
            looks.insert(b.0, effort, Outcome::Correct(at(2, 11.0, 0.0).1));
        }
        assert_eq!(looks.ranking(&candidates)[0].0, a.0, "who meets is settled before they meet");
        assert_eq!(looks.final_ranking(&candidates)[0].0, b.0);
        let wrong = Outcome::invalid(Reason::Correctness, "o is off");
        looks.insert(b.0, Effort { repeats: 1, round: 4 }, wrong);
        assert_eq!(looks.final_ranking(&candidates).len(), 1);
    }
}
