//! One search from its candidates to what became of them: the log, the workers, the budget, the run-off.

use crate::job::{Engine, Job};
use crate::log::{Contents, Effort, Evaluation, Held, Line, Log, Refusal, Search};
use crate::model::Constants;
use crate::outcome::{Outcome, Reason};
use crate::published::Learnt;
use crate::ruling::{Ruling, Searched};
use crate::search::{self, Evaluate, Points, Strategy};
use crate::verdict::{Doubt, Looks};
use crate::worker::{Finished, Pool, Request, Step};
use gdn2_codegen::bind;
use gdn2_codegen::kernel::Illegal;
use gdn2_codegen::record::{Basis, Damage};
use gdn2_codegen::schedule::{Schedule, ScheduleError};
use gdn2_codegen::space::{fingerprint, space};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Looks at each of the two best in the run-off.
const RUN_OFF_ROUNDS: u32 = 4;

/// A time this close to the floor is not worth another search.
const CLOSE_TO_FLOOR: f64 = 1.1;

/// Candidates that are fastest by the clock and looked at first.
const BEST_PREDICTED: usize = 5;

/// Part of the time budget that the search may spend.
const SEARCH_SHARE: f64 = 0.85;

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
    /// What records of calls like its own say.
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
}

impl Swept {
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
    let prior = prior(&predicted, &run.legal);
    search::search(setup.strategy, &points, begin, prior.as_deref(), setup.seed, &mut run);
    run.run_off();
    let (failed, at_floor) = (run.failed.take(), run.at_floor);
    if let Some(source) = failed {
        return Err(log_error(source));
    }
    let searched = Searched {
        job: job.clone(),
        legal: run.legal,
        illegal: illegal.len(),
        looks: run.looks,
        doubt: Doubt { basis: job.engine.basis(), paired: setup.model().1.map(|learnt| learnt.bands.paired) },
        space: space_print,
        compiler: setup.compiler.clone(),
        driver: setup.machine.driver.clone(),
        clock_mhz: setup.machine.clock_mhz,
    };
    let Some(ruling) = searched.ruling(setup.begin.holder) else {
        let tried = searched.looked_at() + illegal.len();
        return Err(SweepError::NoWinner { tried, reasons: searched.reasons() });
    };
    Ok(Swept { search: identity, searched, ruling, illegal, floor_micros: setup.machine.floor_micros, at_floor })
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

/// A search under way.
struct Run<'a, 'w> {
    job: &'a Job,
    setup: &'a Setup<'a>,
    identity: &'a str,
    log: Log,
    failed: Option<std::io::Error>,
    legal: Vec<Schedule>,
    looks: Looks,
    asked: HashSet<Schedule>,
    begun: Instant,
    deadline: Option<Instant>,
    at_floor: bool,
    watch: &'w mut dyn FnMut(Event),
}

impl<'a, 'w> Run<'a, 'w> {
    fn new(
        job: &'a Job,
        setup: &'a Setup<'a>,
        identity: &'a str,
        log: Log,
        contents: &Contents,
        legal: Vec<Schedule>,
        watch: &'w mut dyn FnMut(Event),
    ) -> Run<'a, 'w> {
        let mut looks = Looks::of(contents, identity, &legal);
        looks.forget_what_says_nothing(setup.begin.holder);
        // The rest is for the run-off.
        let begun = Instant::now();
        let deadline = setup.budget.time.map(|time| begun + time.mul_f64(SEARCH_SHARE));
        let asked = HashSet::new();
        Run { job, setup, identity, log, failed: None, legal, looks, asked, begun, deadline, at_floor: false, watch }
    }

    fn append(&mut self, line: &Line) {
        if let Err(error) = self.log.append(line) {
            self.failed.get_or_insert(error);
        }
    }

    fn record(&mut self, schedule: Schedule, effort: Effort, outcome: Outcome, seconds: f64) {
        let search = self.identity.to_owned();
        self.append(&Line::Evaluation(Evaluation { search, schedule, effort, outcome, seconds, at: now() }));
    }

    /// Evaluates what the log does not hold yet.
    fn look(&mut self, schedules: &[Schedule], effort: Effort) {
        let todo: Vec<Schedule> =
            schedules.iter().copied().filter(|schedule| self.looks.get(*schedule, effort).is_none()).collect();
        let (setup, job, deadline) = (self.setup, self.job, self.deadline);
        let holder = setup.begin.holder;
        let request = |schedule: Schedule, step: Step| Request {
            job: job.clone(),
            schedule,
            effort,
            step,
            holder: schedule == holder,
        };
        let prepare = |schedule: &Schedule| request(*schedule, Step::Prepare);
        let evaluate = |schedule: &Schedule| request(*schedule, Step::Evaluate);
        let Some(ahead) = setup.ahead else {
            let requests: Vec<Request> = todo.iter().map(evaluate).collect();
            setup.pool.run(&requests, deadline, |finished| self.learn(todo[finished.at], effort, finished));
            return;
        };
        // One candidate is timed while the next are compiled.
        let requests: Vec<Request> = todo.iter().map(prepare).collect();
        let (compiled, ready) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                ahead.run(&requests, deadline, |finished| {
                    // Nobody listens any more only when the search is over.
                    let _ = compiled.send(finished);
                });
            });
            for finished in ready {
                let schedule = todo[finished.at];
                match finished.outcome {
                    Some(_) => self.learn(schedule, effort, finished),
                    None => {
                        setup.pool.run(&[evaluate(&schedule)], deadline, |timed| self.learn(schedule, effort, timed))
                    }
                }
            }
        });
    }

    fn learn(&mut self, schedule: Schedule, effort: Effort, finished: Finished) {
        let outcome =
            finished.outcome.unwrap_or_else(|| Outcome::invalid(Reason::Runtime, "the worker gave no outcome"));
        self.record(schedule, effort, outcome.clone(), finished.seconds);
        self.looks.insert(schedule, effort, outcome.clone());
        let best = self.looks.ranking(&self.legal).first().map(|(schedule, sample)| (*schedule, sample.time.micros));
        let done = self.legal.iter().filter(|legal| self.looks.verdict(**legal).is_some()).count();
        (self.watch)(Event::Evaluated { schedule, outcome: &outcome, best, done });
    }

    /// The two best and what calls get meet on fresh inputs, by turns, so that a drifting clock or a lucky draw favours
    /// none. Predictions are the same on every look, so they do not meet.
    fn run_off(&mut self) {
        if self.job.engine.basis() == Basis::Predicted {
            return;
        }
        let ranking = self.looks.ranking(&self.legal);
        let holder = self.setup.begin.holder;
        let place = |place: usize, schedule: Schedule| place < 2 || schedule == holder;
        let met: Vec<Schedule> = (ranking.iter().enumerate())
            .filter(|(at, (schedule, _))| place(*at, *schedule))
            .map(|(_, (schedule, _))| *schedule)
            .collect();
        if met.len() < 2 {
            return;
        }
        let repeats = met.iter().map(|schedule| self.looks.longest(*schedule)).min().unwrap_or(1);
        self.deadline = self.setup.budget.time.map(|time| self.begun + time);
        (self.watch)(Event::RunOff(&met));
        for round in 1..=RUN_OFF_ROUNDS {
            for schedule in &met {
                self.look(&[*schedule], Effort { repeats, round });
            }
        }
    }
}

impl Evaluate for Run<'_, '_> {
    fn evaluate(&mut self, wanted: &[usize], effort: Effort) -> Vec<Option<f64>> {
        if self.at_floor || self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Vec::new();
        }
        let mut schedules = Vec::new();
        for schedule in wanted.iter().map(|at| self.legal[*at]) {
            let known = self.asked.contains(&schedule);
            if !known && self.setup.budget.candidates.is_some_and(|limit| self.asked.len() >= limit) {
                break;
            }
            self.asked.insert(schedule);
            schedules.push(schedule);
        }
        self.look(&schedules, effort);
        let answers = schedules.iter().map_while(|schedule| self.looks.get(*schedule, effort));
        let answers: Vec<Option<f64>> = answers.map(Outcome::micros).collect();
        let enough = self.setup.machine.floor_micros * CLOSE_TO_FLOOR;
        self.at_floor = answers.iter().flatten().any(|micros| *micros <= enough);
        answers
    }
}
