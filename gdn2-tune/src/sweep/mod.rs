//! One search from its candidates to what became of them: the log, the workers, the budget, the run-off.

mod run;

use self::run::Run;
use crate::job::{Engine, Job};
use crate::log::{Contents, Effort, Held, Line, Log, Refusal, Search};
use crate::model::Constants;
use crate::outcome::Outcome;
use crate::published::Learnt;
use crate::ruling::{Ruling, Searched};
use crate::search::{self, End, Evaluate as _, Points, Strategy};
use crate::verdict::Doubt;
use crate::worker::Pool;
use gdn2_codegen::bind;
use gdn2_codegen::kernel::Illegal;
use gdn2_codegen::record::Damage;
use gdn2_codegen::schedule::{Schedule, ScheduleError};
use gdn2_codegen::space::{fingerprint, space};
use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Candidates that are fastest by the clock and looked at first.
const BEST_PREDICTED: usize = 5;

/// Why a search could not be carried out. Candidates that fail are not among the reasons.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SweepError {
    /// The log could not be read or written.
    #[error("log {path}: {source}")]
    Log {
        /// Its path.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A pass without candidates.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// Nothing ran correctly.
    #[error("none of {tried} candidates can win: {reasons}")]
    NoWinner {
        /// Candidates tried.
        tried: usize,
        /// How many failed for which reason.
        reasons: String,
    },
}

/// What a search begins with.
#[derive(Clone, Debug)]
pub struct Begin {
    /// What its calls get without it: what is to be beaten.
    pub holder: Schedule,
    /// Where that came from, as lookup says it.
    pub from: String,
    /// What calls like its own get without records, and what records of such calls say.
    pub neighbours: Vec<Schedule>,
    /// The command, for the report.
    pub command: String,
}

/// What a search is allowed.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Wall-clock time, run-off included.
    pub time: Option<Duration>,
    /// Different candidates.
    pub candidates: Option<usize>,
}

/// What a search runs with.
#[derive(Clone)]
pub struct Setup<'a> {
    /// The worker processes.
    pub pool: &'a Pool,
    /// Workers that only compile, ahead of a pool of one that measures.
    pub ahead: Option<&'a Pool>,
    /// The log.
    pub log: &'a Path,
    /// What to look at first.
    pub begin: Begin,
    /// How to search.
    pub strategy: Strategy,
    /// Settles random choices.
    pub seed: u64,
    /// What it may cost.
    pub budget: Budget,
    /// How many of the best by the clock are run, their results checked and their work counted.
    pub checks: usize,
    /// Compiler and version, for provenance.
    pub compiler: String,
    /// What the clock knows of the GPU, where it is known.
    pub constants: Option<Constants>,
    /// Driver, clock and floor of the machine tuned for.
    pub machine: Machine,
}

impl Setup<'_> {
    /// What a prediction depends on.
    fn model(&self) -> (Option<&Constants>, Option<Learnt>) {
        (self.constants.as_ref(), self.constants.as_ref().and_then(|constants| Learnt::of(constants).ok()))
    }

    /// What times are worth beside each other.
    fn doubt(&self, job: &Job) -> Doubt {
        Doubt { basis: job.engine.basis(), paired: self.model().1.map(|learnt| learnt.bands.paired) }
    }
}

/// What provenance and early stopping need to know of the GPU.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Driver version, where there is one.
    pub driver: Option<String>,
    /// Clock, MHz.
    pub clock_mhz: u32,
    /// The floor, microseconds.
    pub floor_micros: f64,
}

/// Something to tell whoever watches.
#[derive(Debug)]
pub enum Event<'a> {
    /// The log held lines that could not be read.
    Damaged(&'a [Damage]),
    /// The search begins, with this many legal candidates, some of them known from the log.
    Begin {
        /// Legal candidates.
        legal: usize,
        /// Candidates that are not legal.
        illegal: usize,
        /// Evaluations found in the log.
        known: usize,
    },
    /// A candidate was evaluated.
    Evaluated {
        /// The candidate.
        schedule: Schedule,
        /// What became of it.
        outcome: &'a Outcome,
        /// The best so far.
        best: Option<(Schedule, f64)>,
        /// Legal candidates looked at so far.
        done: usize,
    },
    /// The two best meet, and what calls get where that is neither.
    RunOff(&'a [Schedule]),
    /// So many of the best by the clock are run, for their results.
    Checking(usize),
}

/// How a search ended.
#[derive(Debug)]
pub struct Swept {
    /// Which search of the log this was.
    pub search: String,
    /// What its record would be made of.
    pub searched: Searched,
    /// What it says of the calls that it began with.
    pub ruling: Ruling,
    /// Candidates that are not legal.
    pub illegal: Vec<(Schedule, Illegal)>,
    /// The floor, microseconds.
    pub floor_micros: f64,
    /// Whether the best came so close to the floor that the search stopped.
    pub at_floor: bool,
    /// Why it ended.
    pub end: End,
    /// Legal candidates that were not looked at because the least that they can take is more than the best.
    pub hopeless: usize,
}

impl Swept {
    /// Why it ended, and why it passed candidates over.
    pub fn ended(&self) -> String {
        let text = match self.end {
            _ if self.at_floor => "the best comes within a tenth of the floor".to_owned(),
            End::All => "every candidate that may be faster was looked at".to_owned(),
            End::Spent => "the budget was spent".to_owned(),
            End::Share => "it looked at a quarter of the candidates".to_owned(),
            End::NoGain(gain) => format!("another look was expected to gain {:.1} %", 100.0 * gain),
        };
        match self.hopeless {
            0 => text,
            hopeless => format!(
                "{text}; {hopeless} candidates were left out, for the least they can take is more than the best"
            ),
        }
    }

    /// Legal candidates with what became of them: what the search began with, then the order of the space; `None` where it
    /// passed over one.
    pub fn legal(&self) -> Vec<(Schedule, Option<Outcome>)> {
        let Searched { legal, looks, .. } = &self.searched;
        legal.iter().map(|schedule| (*schedule, looks.verdict(*schedule).cloned())).collect()
    }
}

/// Searches, resuming from the log, and rules on the record.
pub fn sweep(job: &Job, setup: &Setup, watch: &mut dyn FnMut(Event)) -> Result<Swept, SweepError> {
    let candidates = space(&job.rule, job.pass, job.arch)?;
    let space_print = fingerprint(&candidates);
    let log_error = |source| SweepError::Log { path: setup.log.display().to_string(), source };
    let (log, contents) = Log::open(setup.log).map_err(log_error)?;
    if !contents.damage.is_empty() {
        watch(Event::Damaged(&contents.damage));
    }
    let (mut legal, mut illegal) = (Vec::new(), Vec::new());
    for schedule in candidates {
        match bind(&job.rule, job.pass, schedule, job.arch) {
            Ok(_) => legal.push(schedule),
            Err(refusal) => illegal.push((schedule, refusal)),
        }
    }
    let identity = job.identity(&space_print, &setup.compiler, &legal, setup.model());
    let predicted = predicted(job, setup, &space_print, &contents, &legal);
    let own = Schedule::default_for(&job.rule, job.pass, job.arch)?;
    let (legal, begin) = begin_first(job, &setup.begin, own, &predicted, legal);
    let mut run = Run::new(job, setup, &identity, log, &contents, legal, watch);
    (run.watch)(Event::Begin { legal: run.legal.len(), illegal: illegal.len(), known: run.looks.len() });
    if !contents.searches.iter().any(|search| search.search == identity) {
        run.append(&Line::Search(Search {
            search: identity.clone(),
            job: job.clone(),
            compiler: setup.compiler.clone(),
            space: space_print.clone(),
            floor_micros: setup.machine.floor_micros,
        }));
        for (schedule, refusal) in &illegal {
            let (search, illegal) = (identity.clone(), refusal.clone());
            run.append(&Line::Illegal(Refusal { search, schedule: *schedule, illegal, at: now() }));
        }
    }
    let Begin { holder, from, command, .. } = setup.begin.clone();
    run.append(&Line::Held(Held { search: identity.clone(), schedule: holder, from, command, at: now() }));
    let points = Points::of(&run.legal);
    let prior = prior(&predicted, &run.legal).or_else(|| run.floors.clone());
    let mut end = search::search(setup.strategy, &points, begin, prior.as_deref(), setup.seed, &mut run);
    // Where one that led was wrong, others that were hopeless beside it are not any more.
    while run.check() && !run.is_over() {
        end = search::search(setup.strategy, &points, begin, prior.as_deref(), setup.seed, &mut run);
    }
    run.run_off();
    let (failed, at_floor) = (run.failed.take(), run.at_floor);
    let hopeless = (0..run.legal.len()).filter(|at| run.hopeless(*at)).count();
    if let Some(source) = failed {
        return Err(log_error(source));
    }
    let searched = Searched {
        job: job.clone(),
        legal: run.legal,
        illegal: illegal.len(),
        looks: run.looks,
        doubt: setup.doubt(job),
        space: space_print,
        compiler: setup.compiler.clone(),
        driver: setup.machine.driver.clone(),
        clock_mhz: setup.machine.clock_mhz,
    };
    let Some(ruling) = searched.ruling(setup.begin.holder) else {
        let tried = searched.looked_at() + illegal.len();
        return Err(SweepError::NoWinner { tried, reasons: searched.reasons() });
    };
    let floor_micros = setup.machine.floor_micros;
    Ok(Swept { search: identity, searched, ruling, illegal, floor_micros, at_floor, end, hopeless })
}

/// What the clock said of candidates in a search of the same log, where there is one.
fn predicted(
    job: &Job,
    setup: &Setup,
    space: &str,
    log: &Contents,
    legal: &[Schedule],
) -> HashMap<Schedule, Option<f64>> {
    if job.engine == Engine::Model {
        return HashMap::new();
    }
    let twin = Job { engine: Engine::Model, ..job.clone() };
    let search = twin.identity(space, &setup.compiler, legal, setup.model());
    let first = log.of(&search).filter(|evaluation| evaluation.effort == Effort::FIRST);
    first.map(|evaluation| (evaluation.schedule, evaluation.outcome.micros())).collect()
}

/// Puts first what a search begins with, and says how many those are: what calls get, the built-in schedule, what records
/// of calls like these say, the five best by the clock.
fn begin_first(
    job: &Job,
    begin: &Begin,
    own: Schedule,
    predicted: &HashMap<Schedule, Option<f64>>,
    legal: Vec<Schedule>,
) -> (Vec<Schedule>, usize) {
    let mut best: Vec<(Schedule, f64)> =
        legal.iter().filter_map(|schedule| Some((*schedule, (*predicted.get(schedule)?)?))).collect();
    best.sort_by(|a, b| a.1.total_cmp(&b.1));
    let best = best.into_iter().take(BEST_PREDICTED).map(|(schedule, _)| schedule);
    let mut all: Vec<Schedule> = Vec::new();
    for schedule in [begin.holder, own].into_iter().chain(begin.neighbours.iter().copied()).chain(best) {
        if !all.contains(&schedule) && bind(&job.rule, job.pass, schedule, job.arch).is_ok() {
            all.push(schedule);
        }
    }
    let count = all.len();
    let others = legal.into_iter().filter(|schedule| !all[..count].contains(schedule)).collect::<Vec<_>>();
    all.extend(others);
    (all, count)
}

/// What the clock said of each candidate, where it said anything: it orders what is yet to be timed. What it could not run
/// comes last.
fn prior(predicted: &HashMap<Schedule, Option<f64>>, legal: &[Schedule]) -> Option<Vec<f64>> {
    let slowest = predicted.values().flatten().copied().reduce(f64::max)?;
    let time = |schedule| predicted.get(schedule).copied().flatten().unwrap_or(2.0 * slowest);
    Some(legal.iter().map(time).collect())
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
