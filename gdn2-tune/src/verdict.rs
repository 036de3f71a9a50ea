//! From looks at candidates to a winner: the same reading of a log for the sweep that writes it and the report.

use crate::log::{Contents, Effort};
use crate::outcome::{Outcome, Reason, Sample};
use crate::published::Paired;
use gdn2_codegen::record::Basis;
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
    /// with something else is not the candidate's fault. So it does where what calls get by now was turned away for
    /// spilling registers.
    pub fn forget_what_says_nothing(&mut self, holder: Schedule) {
        self.0.retain(|(schedule, _), outcome| match outcome {
            Outcome::Invalid { reason: Reason::Timeout, .. } => false,
            Outcome::Invalid { reason: Reason::Constraints, .. } => *schedule != holder,
            Outcome::Invalid { .. } | Outcome::Timed(_) | Outcome::Correct(_) => true,
        });
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
        self.fastest(candidates, |outcome| match outcome {
            Outcome::Correct(sample) => Some(sample),
            Outcome::Timed(_) | Outcome::Invalid { .. } => None,
        })
    }

    /// Candidates that have a time and whose results nobody has looked at, fastest first.
    pub fn unchecked(&self, candidates: &[Schedule]) -> Vec<(Schedule, Sample)> {
        self.fastest(candidates, |outcome| match outcome {
            Outcome::Timed(sample) => Some(sample),
            Outcome::Correct(_) | Outcome::Invalid { .. } => None,
        })
    }

    /// Candidates that have a time, looked at or not, fastest first.
    pub fn timed(&self, candidates: &[Schedule]) -> Vec<(Schedule, Sample)> {
        self.fastest(candidates, |outcome| match outcome {
            Outcome::Correct(sample) | Outcome::Timed(sample) => Some(sample),
            Outcome::Invalid { .. } => None,
        })
    }

    fn fastest(
        &self,
        candidates: &[Schedule],
        wanted: impl Fn(&Outcome) -> Option<&Sample>,
    ) -> Vec<(Schedule, Sample)> {
        let wanted = |schedule: &Schedule| Some((*schedule, self.verdict(*schedule).and_then(&wanted)?.clone()));
        let mut ranking: Vec<_> = candidates.iter().filter_map(wanted).collect();
        ranking.sort_by(|a, b| a.1.time.micros.total_cmp(&b.1.time.micros));
        ranking
    }

    /// The ranking after the run-off: those that met count with the median of their meetings, and the two that led stay ahead.
    pub fn final_ranking(&self, candidates: &[Schedule]) -> Vec<(Schedule, Sample)> {
        let mut ranking = self.ranking(candidates);
        for (schedule, sample) in &mut ranking {
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
    /// The schedule that is to be beaten, where it ran.
    pub holder: Option<&'a (Schedule, Sample)>,
    /// The fastest of the others.
    pub runner_up: Option<&'a (Schedule, Sample)>,
}

/// How much faster a schedule must be than another for the difference to say something.
#[derive(Clone, Copy, Debug)]
pub struct Doubt {
    /// What times are worth.
    pub basis: Basis,
    /// How far ratios of predictions may be off, where that is known.
    pub paired: Option<Paired>,
}

impl Doubt {
    /// The margin between two: measured and counted times are as sure as they spread; predictions, as the ratios of
    /// published pairs of their kinds are, else as either is where nothing cancels.
    pub fn between(&self, challenger: &Sample, holder: &Sample) -> f64 {
        let (a, b) = (challenger.time.spread, holder.time.spread);
        match self.basis {
            Basis::Measured | Basis::Counted => a.max(b),
            Basis::Predicted => {
                let kinds = challenger.kind().zip(holder.kind()).map(|(a, b)| [a, b]);
                let known = self.paired.zip(kinds).and_then(|(paired, kinds)| paired.of(kinds));
                known.unwrap_or((1.0 + a) * (1.0 + b) - 1.0)
            }
        }
    }

    /// Whether a schedule is faster than another beyond doubt.
    pub fn beats(&self, challenger: &Sample, holder: &Sample) -> bool {
        challenger.time.micros * (1.0 + self.between(challenger, holder)) < holder.time.micros
    }
}

/// The winner is the fastest, unless it is in doubt whether it beats the holder, which then stays.
pub fn podium<'a>(ranking: &'a [(Schedule, Sample)], holder: Schedule, doubt: &Doubt) -> Option<Podium<'a>> {
    let fastest = ranking.first()?;
    let holder = ranking.iter().find(|(schedule, _)| *schedule == holder);
    let winner = match holder {
        Some(holder) if !doubt.beats(&fastest.1, &holder.1) => holder,
        _ => fastest,
    };
    let runner_up = ranking.iter().find(|(schedule, _)| *schedule != winner.0);
    Some(Podium { winner, holder, runner_up })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gdn2_codegen::record::Time;
    use gdn2_codegen::schedule::Decode;

    fn at(warps: u32, micros: f64, spread: f64) -> (Schedule, Sample) {
        let schedule = Schedule::Decode(Decode { value_split: 1, warps });
        (schedule, Sample { time: Time { micros, spread }, metrics: Vec::new(), launches: Vec::new() })
    }

    /// A prediction of a kernel whose products are a warpgroup's, or not.
    fn predicted(warps: u32, micros: f64, wgmma: bool) -> (Schedule, Sample) {
        let chain = if wgmma { vec![(3.0, 1.0)] } else { Vec::new() };
        let (schedule, mut sample) = at(warps, micros, if wgmma { 0.1 } else { 0.2 });
        let (kernel, pipe, pattern) = (String::new(), chain.clone(), crate::published::Pattern::Once);
        let launch = crate::published::Launch { kernel, data_sheet: 1.0, pipe, chain, bytes: 1.0, pattern };
        let clocked = crate::model::Clocked { micros, resident: 1, waves: 1, decided: "warps".to_owned(), launch };
        sample.launches.push(crate::model::LaunchLoad {
            blocks: 1,
            threads: 128,
            registers: 64,
            shared_bytes: 0,
            load: crate::model::Load::default(),
            clocked: Some(clocked),
        });
        (schedule, sample)
    }

    #[test]
    fn the_holder_stays_unless_the_gain_is_beyond_doubt() {
        let won = |challenger: &(Schedule, Sample), holder: &(Schedule, Sample), doubt: Doubt| {
            let ranking = [challenger.clone(), holder.clone()];
            podium(&ranking, holder.0, &doubt).map(|podium| podium.winner.0 == challenger.0)
        };
        let paired = Some(Paired { wgmma: 0.15, any: None });
        let clock = Doubt { basis: Basis::Predicted, paired };
        let holder = predicted(4, 100.0, true);
        assert_eq!(won(&predicted(8, 88.0, true), &holder, clock), Some(false), "14 % off, ratios are by 15 %");
        assert_eq!(won(&predicted(8, 86.0, true), &holder, clock), Some(true));
        // Nothing is known of the ratio of two kernels of other kinds: 1.1 times 1.2.
        assert_eq!(won(&predicted(8, 77.0, false), &holder, clock), Some(false));
        assert_eq!(won(&predicted(8, 75.0, false), &holder, clock), Some(true));
        let refitted = Doubt { basis: Basis::Predicted, paired: Some(Paired { wgmma: 0.15, any: Some(0.05) }) };
        assert_eq!(won(&predicted(8, 77.0, false), &holder, refitted), Some(true));
        let measured = Doubt { basis: Basis::Measured, paired };
        let spreading = at(4, 100.0, 0.4);
        assert_eq!(won(&at(8, 95.0, 0.01), &spreading, measured), Some(false), "the holder spreads by 40 %");
        assert_eq!(won(&at(8, 70.0, 0.01), &spreading, measured), Some(true));
        assert!(podium(&[], holder.0, &clock).is_none());
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
