//! For people: what won and why, as one self-contained HTML page and as a table for the terminal.

mod json;
mod page;
mod plot;
mod table;

pub use json::json;
pub use page::html;
pub use table::table;

use crate::job::{Engine, Job};
use crate::log::{Contents, Search};
use crate::model::{Constants, ConstantsError, longest};
use crate::outcome::{Outcome, Reason, Sample};
use crate::published::Learnt;
use crate::t4::timestamp;
use crate::verdict::{Doubt, Looks, Podium, podium};
use gdn2_codegen::record::{Basis, Bucket};
use gdn2_codegen::schedule::{Schedule, ScheduleError};
use gdn2_codegen::space::space;
use std::path::Path;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// A search without a candidate that can win.
    #[error("search {0}: no candidate ran correctly, so there is nothing to compare")]
    NoWinner(String),
    /// A pass without candidates.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// A GPU without constants.
    #[error(transparent)]
    Constants(#[from] ConstantsError),
    /// The page could not be filled in.
    #[error("report page: {0}")]
    Page(String),
}

/// One search of a log, read for a report.
#[derive(Debug)]
pub struct Findings<'a> {
    search: &'a Search,
    /// What the clock knows of the GPU, where it knows it.
    constants: Option<Constants>,
    /// Candidates with a time, fastest first.
    ranking: Vec<(Schedule, Sample)>,
    /// Those of them that ran correctly, and what calls got before.
    correct: Vec<(Schedule, Sample)>,
    /// The others with the reason in a word and in full.
    rejected: Vec<(Schedule, Reason, String)>,
    built_in: Schedule,
    /// What calls got before; the built-in schedule in logs that do not say.
    holder: Schedule,
    /// When the search was last begun, and by which command.
    begun: Option<(String, String)>,
    /// Legal candidates, and how many of them have a result.
    legal: usize,
    looked_at: usize,
    candidates: usize,
    doubt: Doubt,
}

impl<'a> Findings<'a> {
    /// Reads one search of a log, beside the constants that lie in a folder of records, else the shipped ones.
    pub fn of(log: &Contents, search: &'a Search, records: Option<&Path>) -> Result<Findings<'a>, ReportError> {
        let job = &search.job;
        let mut candidates = space(&job.rule, job.pass, job.arch)?;
        let built_in = Schedule::default_for(&job.rule, job.pass, job.arch)?;
        let holder = log.before(&search.search).map_or(built_in, |held| held.schedule);
        // What calls get, and what neighbours' records say, may be none of the space.
        for evaluation in log.of(&search.search) {
            if !candidates.contains(&evaluation.schedule) {
                candidates.push(evaluation.schedule);
            }
        }
        let looks = Looks::of(log, &search.search, &candidates);
        let mut ranking = looks.final_ranking(&candidates);
        let ran: Vec<Schedule> = ranking.iter().map(|(schedule, _)| *schedule).collect();
        for (schedule, sample) in looks.unchecked(&candidates) {
            let behind = ranking.partition_point(|(_, other)| other.time.micros <= sample.time.micros);
            ranking.insert(behind, (schedule, sample));
        }
        // A GPU tells times alone; what the same log counted stands beside them.
        let twin = Job { engine: Engine::Model, ..job.clone() };
        let counted: Vec<_> = log.searches.iter().filter(|other| other.job == twin).collect();
        for (schedule, sample) in ranking.iter_mut().filter(|(_, sample)| sample.launches.is_empty()) {
            let mut evaluations = counted.iter().flat_map(|other| log.of(&other.search));
            if let Some(Outcome::Correct(model)) =
                evaluations.find(|evaluation| evaluation.schedule == *schedule).map(|evaluation| &evaluation.outcome)
            {
                sample.launches.clone_from(&model.launches);
            }
        }
        ranking.retain(|(schedule, sample)| *schedule == holder || !sample.spills());
        let refused = log.refused(&search.search);
        let refused = refused.map(|refusal| (refusal.schedule, Reason::Constraints, refusal.illegal.to_string()));
        let failed = candidates.iter().filter_map(|schedule| match looks.verdict(*schedule) {
            Some(Outcome::Invalid { reason, detail }) => Some((*schedule, *reason, detail.clone())),
            _ => None,
        });
        let rejected = refused.chain(failed).collect();
        let stands = |one: &&(Schedule, Sample)| one.0 == holder || ran.contains(&one.0);
        let correct: Vec<(Schedule, Sample)> = ranking.iter().filter(stands).cloned().collect();
        if correct.is_empty() {
            return Err(ReportError::NoWinner(search.search.clone()));
        }
        let constants = match Constants::of(&job.gpu, records) {
            Ok(constants) => Some(constants),
            Err(ConstantsError::UnknownGpu { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let learnt = constants.as_ref().and_then(|constants| Learnt::of(constants).ok());
        let paired = learnt.map(|learnt| learnt.bands.paired);
        let looked_at = candidates.iter().filter(|schedule| looks.verdict(**schedule).is_some()).count();
        Ok(Findings {
            search,
            constants,
            ranking,
            correct,
            built_in,
            holder,
            begun: log.before(&search.search).map(|held| (timestamp(held.at), held.command.clone())),
            legal: candidates.len().saturating_sub(log.refused(&search.search).count()),
            looked_at,
            candidates: candidates.len(),
            rejected,
            doubt: Doubt { basis: job.engine.basis(), paired },
        })
    }

    /// How much of the space was looked at.
    fn width(&self) -> String {
        let Findings { legal, looked_at, candidates, .. } = self;
        let looked_at = match legal.saturating_sub(*looked_at) {
            0 => format!("all {legal} legal candidates of {candidates} were looked at"),
            never => format!("{never} of {legal} legal candidates were never looked at"),
        };
        match self.ranking.len() - self.correct.len() {
            0 => looked_at,
            unchecked => format!("{looked_at}; {unchecked} have a time and were not run, for others are faster"),
        }
    }

    fn podium(&self) -> Result<Podium<'_>, ReportError> {
        let podium = podium(&self.correct, self.holder, &self.doubt);
        podium.ok_or_else(|| ReportError::NoWinner(self.search.search.clone()))
    }

    fn basis(&self) -> Basis {
        self.search.job.engine.basis()
    }

    /// How many candidates were rejected for each reason, in the order of [`Reason::ALL`].
    fn reasons(&self) -> Vec<(Reason, usize)> {
        let count = |reason| self.rejected.iter().filter(|(_, why, _)| *why == reason).count();
        Reason::ALL.into_iter().map(|reason| (reason, count(reason))).collect()
    }

    /// The heading: what was tuned, for what, and what its times are worth.
    fn title(&self) -> String {
        let job = &self.search.job;
        format!("{} {} on {}, {}, {}", job.rule.name, pass_name(job.pass), job.gpu, job.shape, self.worth())
    }

    fn worth(&self) -> &'static str {
        match self.basis() {
            Basis::Measured => "measured",
            Basis::Predicted => "predicted",
            Basis::Counted => "counted",
        }
    }

    /// What won and why, in two or three sentences.
    fn conclusion(&self) -> Result<String, ReportError> {
        let Podium { winner, holder, runner_up } = self.podium()?;
        let own = if self.holder == self.built_in { "the built-in schedule" } else { "what calls got before" };
        let what = self.worth();
        let time = winner.1.time;
        let fastest = &self.correct[0];
        let mut text = format!("{} wins with {} {what}", winner.0, micros(time.micros));
        let gain = |base: f64, better: f64| 100.0 * (base / better - 1.0);
        match holder {
            Some(base) if base.0 == winner.0 && fastest.0 == winner.0 => {
                text.push_str(&format!(": it is {own}, and nothing was faster."));
            }
            Some(base) if base.0 == winner.0 => {
                let by = gain(base.1.time.micros, fastest.1.time.micros);
                let margin = 100.0 * self.doubt.between(&fastest.1, &base.1);
                text.push_str(&format!(
                    ": it is {own}. {} came out {by:.0} % faster, and times may be off by {margin:.0} %, so it replaces \
                     nothing.",
                    fastest.0
                ));
            }
            Some(base) => text.push_str(&format!(
                ", {:.0} % faster than {own}, {} ({}).",
                gain(base.1.time.micros, time.micros),
                base.0,
                micros(base.1.time.micros)
            )),
            None => text.push_str(&format!("; {own}, {}, did not run.", self.holder)),
        }
        if let Some(other) = runner_up.filter(|other| fastest.0 == winner.0 && other.0 != winner.0) {
            let behind = gain(other.1.time.micros, time.micros);
            text.push_str(&format!(" Runner-up: {}, {behind:.1} % slower.", other.0));
        }
        if let Some((_, clocked)) = longest(&winner.1.launches) {
            text.push_str(&format!(
                " By the clock the winner's time is decided by {}; blocks on a multiprocessor: {}, waves: {}.",
                clocked.decided, clocked.resident, clocked.waves
            ));
        }
        let floor = self.search.floor_micros;
        text.push_str(&format!(
            " The floor is {}, {:.0} % of the winner's time.",
            micros(floor),
            100.0 * floor / time.micros
        ));
        Ok(text)
    }

    /// The facts beneath: shape, compiler, budget.
    fn facts(&self) -> Vec<(&'static str, String)> {
        let Search { job, compiler, space, .. } = self.search;
        let basis = match self.basis() {
            Basis::Measured => "CUDA events over graph replays".to_owned(),
            Basis::Predicted => {
                let spread = self.ranking.first().map_or(0.0, |(_, sample)| sample.time.spread);
                format!("the clock, error band ±{:.0} %: a ranking, not a measurement", 100.0 * spread)
            }
            Basis::Counted => {
                "cycles counted by the virtual machine: a test of the tuner, not of the kernel".to_owned()
            }
        };
        let (date, command) = self.begun.clone().unwrap_or_default();
        let facts = vec![
            ("Begun", date),
            ("Command", command),
            ("Shape", job.shape.to_string()),
            ("Bucket", Bucket::of(job.shape.extents()).to_string()),
            ("Architecture", job.arch.to_string()),
            ("Times", basis),
            ("Compiler", compiler.clone()),
            (
                "Candidates",
                format!(
                    "{}: {} correct, {} rejected; {}",
                    self.candidates,
                    self.correct.len(),
                    self.rejected.len(),
                    self.width()
                ),
            ),
            ("Space", space.clone()),
        ];
        facts.into_iter().filter(|(_, fact)| !fact.is_empty()).collect()
    }
}

fn pass_name(pass: gdn2_codegen::kernel::Pass) -> String {
    serde_json::to_value(pass).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

/// Microseconds with three digits that mean something.
pub fn micros(value: f64) -> String {
    match value {
        value if value >= 1e5 => format!("{:.0} ms", value / 1e3),
        value if value >= 1e4 => format!("{:.1} ms", value / 1e3),
        value if value >= 1e3 => format!("{:.2} ms", value / 1e3),
        value if value >= 100.0 => format!("{value:.0} µs"),
        value if value >= 10.0 => format!("{value:.1} µs"),
        value => format!("{value:.2} µs"),
    }
}
