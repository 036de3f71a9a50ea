//! Whether a search ends in a record: only where that is no worse than what its calls get without it.

use crate::job::Job;
use crate::outcome::{Outcome, Reason, Sample};
use crate::report::micros;
use crate::verdict::{Doubt, Looks, Podium, podium};
use gdn2_codegen::record::{Basis, Bucket, Provenance, Record, Time, Timed, rule_fingerprint, source_fingerprint};
use gdn2_codegen::schedule::Schedule;
use std::fmt;

/// Schedules of a prediction that a machine with the GPU looks at first.
pub const SHORTLIST: usize = 5;

/// What a search says of the record of its calls.
#[derive(Clone, Debug, PartialEq)]
pub enum Ruling {
    /// A record that serves them at least as well as what they get.
    Record(Box<Record>),
    /// What they get stays as it is.
    Nothing(NoRecord),
}

/// Why there is no record.
#[derive(Clone, Debug, PartialEq)]
pub enum NoRecord {
    /// What calls get has no time to compare with, by no fault that is surely its own.
    Unknown {
        /// What they get.
        holder: Schedule,
        /// What became of it.
        why: String,
    },
    /// Something was faster, by no more than times may be off.
    InDoubt {
        /// What calls get.
        holder: Timed,
        /// The fastest.
        best: Timed,
        /// How much faster it would have to be.
        margin: f64,
    },
    /// A prediction confirms what calls get, or what calls get spills registers and is the fastest nonetheless.
    Fastest(Timed),
}

impl fmt::Display for NoRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoRecord::Unknown { holder, why } => {
                write!(f, "calls get {holder}, which has no time to compare with ({why})")
            }
            NoRecord::InDoubt { holder, best, margin } => write!(
                f,
                "calls get {} ({}); {} comes out {:.1} % faster, and times may be off by {:.0} %: too close to tell",
                holder.schedule,
                micros(holder.time.micros),
                best.schedule,
                100.0 * (holder.time.micros / best.time.micros - 1.0),
                100.0 * margin
            ),
            NoRecord::Fastest(holder) => {
                write!(f, "calls get {} ({}), and nothing is faster", holder.schedule, micros(holder.time.micros))
            }
        }
    }
}

/// A search that has ended, as its record is made of it.
#[derive(Clone, Debug)]
pub struct Searched {
    /// What was searched.
    pub job: Job,
    /// Legal candidates, in order.
    pub legal: Vec<Schedule>,
    /// Candidates that are not legal.
    pub illegal: usize,
    /// What became of each.
    pub looks: Looks,
    /// What its times are worth beside each other.
    pub doubt: Doubt,
    /// Fingerprint of the space.
    pub space: String,
    /// Compiler and version.
    pub compiler: String,
    /// Driver version, where there is one.
    pub driver: Option<String>,
    /// Clock, MHz.
    pub clock_mhz: u32,
}

impl Searched {
    /// Legal candidates with a result.
    pub fn looked_at(&self) -> usize {
        self.legal.iter().filter(|schedule| self.looks.verdict(**schedule).is_some()).count()
    }

    /// Candidates that can win, fastest first; and what calls get, where it has a time.
    pub fn ranking(&self, holder: Schedule) -> Vec<(Schedule, Sample)> {
        let mut ranking = self.looks.final_ranking(&self.legal);
        ranking.retain(|(schedule, sample)| *schedule == holder || !sample.spills());
        if let Some(Outcome::Timed(sample)) = self.looks.verdict(holder) {
            let behind = ranking.partition_point(|(_, other)| other.time.micros <= sample.time.micros);
            ranking.insert(behind, (holder, sample.clone()));
        }
        ranking
    }

    /// Candidates of a ranking that ran correctly.
    fn ran(&self, ranking: &[(Schedule, Sample)]) -> usize {
        let right = |schedule| matches!(self.looks.verdict(schedule), Some(Outcome::Correct(_)));
        ranking.iter().filter(|(schedule, _)| right(*schedule)).count()
    }

    /// Candidates that have a time and were not run.
    pub fn unchecked(&self) -> usize {
        self.looks.unchecked(&self.legal).len()
    }

    /// Rules on the record of calls that get `holder` without it. Nothing replaces that unless it is faster beyond doubt,
    /// or the holder is known to be wrong. What was measured or counted to be best is recorded where calls get it anyway;
    /// of predictions only what they rank is worth a record. `None` where nothing ran correctly.
    pub fn ruling(&self, holder: Schedule) -> Option<Ruling> {
        let ranking = self.ranking(holder);
        let own = Schedule::default_for(&self.job.rule, self.job.pass, self.job.arch).ok()?;
        let to_beat = match self.looks.verdict(holder) {
            Some(Outcome::Correct(_) | Outcome::Timed(_)) => holder,
            // A call that gets this is not served: the built-in schedule is what is left.
            Some(Outcome::Invalid { reason: Reason::Compile | Reason::Correctness, .. }) => own,
            None if !self.legal.contains(&holder) => own,
            // A machine that was busy, a worker that was killed, a clock that cannot walk a kernel: not its fault.
            _ => {
                let why = self.what_happened(holder);
                return (!ranking.is_empty()).then_some(Ruling::Nothing(NoRecord::Unknown { holder, why }));
            }
        };
        let Podium { winner, holder: held, runner_up } = podium(&ranking, to_beat, &self.doubt)?;
        if winner.0 == holder && (self.doubt.basis == Basis::Predicted || winner.1.spills()) {
            return Some(Ruling::Nothing(match ranking.first() {
                Some(best) if best.0 != holder => {
                    let margin = self.doubt.between(&best.1, &winner.1);
                    NoRecord::InDoubt { holder: timed(winner), best: timed(best), margin }
                }
                _ => NoRecord::Fastest(timed(winner)),
            }));
        }
        let built_in = match self.looks.verdict(own) {
            Some(Outcome::Timed(sample)) => Some(timed(&(own, sample.clone()))),
            _ => ranking.iter().find(|(schedule, _)| *schedule == own).map(timed),
        };
        let before = held.filter(|_| to_beat == holder).map(timed);
        Some(Ruling::Record(Box::new(self.record(&ranking, winner, (built_in, own), before, runner_up.map(timed)))))
    }

    fn record(
        &self,
        ranking: &[(Schedule, Sample)],
        winner: &(Schedule, Sample),
        (built_in, own): (Option<Timed>, Schedule),
        before: Option<Timed>,
        runner_up: Option<Timed>,
    ) -> Record {
        let Job { rule, pass, shape, arch, engine, .. } = &self.job;
        let basis = engine.basis();
        let best = ranking.iter().map(|(schedule, _)| *schedule);
        Record {
            rule: rule.name.clone(),
            pass: *pass,
            bucket: Bucket::of(shape.extents()),
            winner: timed(winner),
            built_in,
            built_in_failed: if built_in.is_none() { Some(self.what_happened(own)) } else { None },
            before,
            runner_up,
            shortlist: if basis == Basis::Predicted { best.take(SHORTLIST).collect() } else { Vec::new() },
            correct: u32::try_from(self.ran(ranking)).unwrap_or(u32::MAX),
            tried: u32::try_from(self.looked_at() + self.illegal).unwrap_or(u32::MAX),
            provenance: Provenance {
                rule: rule_fingerprint(rule),
                space: self.space.clone(),
                source: source_fingerprint(rule, *pass, winner.0, *arch).unwrap_or_default(),
                compiler: self.compiler.clone(),
                arch: *arch,
                driver: self.driver.clone(),
                clock_mhz: self.clock_mhz,
                basis,
            },
        }
    }

    /// Why a schedule is not among those that can win, with the schedule.
    fn what_happened(&self, schedule: Schedule) -> String {
        let why = match self.looks.verdict(schedule) {
            Some(Outcome::Invalid { reason, detail }) => format!("{reason}: {detail}"),
            Some(Outcome::Timed(sample)) => {
                format!("{} by the clock, and not among those that were run", micros(sample.time.micros))
            }
            Some(Outcome::Correct(_)) => "it ran, and was left out of the last round".to_owned(),
            None if self.legal.contains(&schedule) => "the search ended before it was looked at".to_owned(),
            None => "it is not legal".to_owned(),
        };
        format!("{schedule}: {why}")
    }

    /// How many candidates cannot win, by reason.
    pub fn reasons(&self) -> String {
        let count = |reason: Reason| {
            let failed = self.legal.iter().filter(|schedule| {
                matches!(self.looks.verdict(**schedule), Some(Outcome::Invalid { reason: why, .. }) if *why == reason)
            });
            failed.count() + if reason == Reason::Constraints { self.illegal } else { 0 }
        };
        let counted = Reason::ALL.iter().map(|reason| (reason, count(*reason))).filter(|(_, count)| *count > 0);
        counted.map(|(reason, count)| format!("{count} {reason}")).collect::<Vec<_>>().join(", ")
    }
}

/// To the nanosecond: more digits would only make records differ.
fn timed((schedule, sample): &(Schedule, Sample)) -> Timed {
    let rounded = |value: f64| (value * 1e3).round() / 1e3;
    let Time { micros, spread } = sample.time;
    Timed { schedule: *schedule, time: Time { micros: rounded(micros), spread: rounded(spread) } }
}
