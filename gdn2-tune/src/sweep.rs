//! One search from its candidates to a record: the log, the workers, the budget, the run-off.

use crate::job::{Engine, Job};
use crate::log::{Contents, Effort, Evaluation, Line, Log, Refusal, Search};
use crate::model::Constants;
use crate::outcome::{Outcome, Reason, Sample};
use crate::published::Learnt;
use crate::search::{self, Evaluate, Points, Strategy};
use crate::verdict::{Looks, Podium, podium};
use crate::worker::{Finished, Pool, Request, Step};
use gdn2_codegen::bind;
use gdn2_codegen::kernel::Illegal;
use gdn2_codegen::record::{
    Basis, Bucket, Damage, Provenance, Record, Time, Timed, rule_fingerprint, source_fingerprint,
};
use gdn2_codegen::schedule::{Schedule, ScheduleError};
use gdn2_codegen::space::{fingerprint, space};
use std::collections::HashSet;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Looks at each of the two best in the run-off.
const RUN_OFF_ROUNDS: u32 = 4;

/// A time this close to the floor is not worth another search.
const CLOSE_TO_FLOOR: f64 = 1.1;

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
    /// The two best meet.
    RunOff([Schedule; 2]),
}

/// How a search ended.
#[derive(Debug)]
pub struct Swept {
    /// Which search of the log this was.
    pub search: String,
    /// The record.
    pub record: Record,
    /// Candidates that are not legal.
    pub illegal: Vec<(Schedule, Illegal)>,
    /// Legal candidates with what became of them, in the order of the space; `None` where the search passed over one.
    pub legal: Vec<(Schedule, Option<Outcome>)>,
    /// The floor, microseconds.
    pub floor_micros: f64,
    /// Whether the best came so close to the floor that the search stopped.
    pub at_floor: bool,
}

/// Searches, resuming from the log, and makes the record.
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
    let points = Points::of(&run.legal);
    let prior = prior(job, setup, &space_print, &contents, &run.legal);
    search::search(setup.strategy, &points, prior.as_deref(), setup.seed, &mut run);
    let ranking = run.run_off();
    let made = run.make_record(&ranking, space_print, illegal.len());
    let (failed, legal, at_floor) = (run.failed.take(), run.outcomes(), run.at_floor);
    if let Some(source) = failed {
        return Err(log_error(source));
    }
    Ok(Swept { search: identity, record: made?, illegal, legal, floor_micros: setup.machine.floor_micros, at_floor })
}

/// What the clock said of the candidates in a search of the same log, where there is one: it orders what is yet
/// to be timed. What it could not run comes last.
fn prior(job: &Job, setup: &Setup, space: &str, log: &Contents, legal: &[Schedule]) -> Option<Vec<f64>> {
    if job.engine == Engine::Model {
        return None;
    }
    let predicted = Job { engine: Engine::Model, ..job.clone() };
    let search = predicted.identity(space, &setup.compiler, legal, setup.model());
    let looks = Looks::of(log, &search, legal);
    let times: Vec<Option<f64>> = legal.iter().map(|at| looks.get(*at, Effort::FIRST)?.micros()).collect();
    let slowest = times.iter().flatten().copied().reduce(f64::max)?;
    Some(times.into_iter().map(|time| time.unwrap_or(2.0 * slowest)).collect())
}

fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
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
        looks.forget_timeouts();
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
        let request = |schedule: Schedule, step: Step| Request { job: job.clone(), schedule, effort, step };
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

    fn outcomes(&self) -> Vec<(Schedule, Option<Outcome>)> {
        self.legal.iter().map(|schedule| (*schedule, self.looks.verdict(*schedule).cloned())).collect()
    }

    /// The two best meet on fresh inputs, alternating, so that a drifting clock or a lucky draw favours neither.
    /// Predictions are the same on every look, so they do not meet.
    fn run_off(&mut self) -> Vec<(Schedule, Sample)> {
        let ranking = self.looks.ranking(&self.legal);
        if let ([first, second, ..], true) = (ranking.as_slice(), self.job.engine.basis() != Basis::Predicted) {
            let pair = [first.0, second.0];
            let repeats = self.looks.longest(first.0).min(self.looks.longest(second.0));
            self.deadline = self.setup.budget.time.map(|time| self.begun + time);
            (self.watch)(Event::RunOff(pair));
            for round in 1..=RUN_OFF_ROUNDS {
                for schedule in pair {
                    self.look(&[schedule], Effort { repeats, round });
                }
            }
        }
        self.looks.final_ranking(&self.legal)
    }

    fn make_record(
        &self,
        ranking: &[(Schedule, Sample)],
        space_print: String,
        illegal: usize,
    ) -> Result<Record, SweepError> {
        let job = self.job;
        let looked_at = self.legal.iter().filter(|schedule| self.looks.verdict(**schedule).is_some()).count();
        let tried = looked_at + illegal;
        let own = Schedule::default_for(&job.rule, job.pass, job.arch)?;
        let Some(Podium { winner, built_in, runner_up }) = podium(ranking, own, job.engine.basis()) else {
            return Err(SweepError::NoWinner { tried, reasons: self.reasons(illegal) });
        };
        // Nanoseconds: more digits would only make records differ.
        let timed = |entry: &(Schedule, Sample)| {
            let Time { micros, spread } = entry.1.time;
            Timed { schedule: entry.0, time: Time { micros: rounded(micros), spread: rounded(spread) } }
        };
        let source = source_fingerprint(&job.rule, job.pass, winner.0, job.arch);
        Ok(Record {
            rule: job.rule.name.clone(),
            pass: job.pass,
            bucket: Bucket::of(job.shape.extents()),
            winner: timed(winner),
            built_in: built_in.map(timed),
            built_in_failed: if built_in.is_none() { Some(self.what_happened(own)) } else { None },
            runner_up: runner_up.map(timed),
            correct: u32::try_from(ranking.len()).unwrap_or(u32::MAX),
            tried: u32::try_from(tried).unwrap_or(u32::MAX),
            provenance: Provenance {
                rule: rule_fingerprint(&job.rule),
                space: space_print,
                source: source.unwrap_or_default(),
                compiler: self.setup.compiler.clone(),
                arch: job.arch,
                driver: self.setup.machine.driver.clone(),
                clock_mhz: self.setup.machine.clock_mhz,
                basis: job.engine.basis(),
            },
        })
    }

    /// Why a schedule is not among those that can win, with the schedule.
    fn what_happened(&self, schedule: Schedule) -> String {
        let why = match self.looks.verdict(schedule) {
            Some(Outcome::Invalid { reason, detail }) => format!("{reason}: {detail}"),
            Some(Outcome::Correct(_)) => "it ran, and was left out of the last round".to_owned(),
            None if self.legal.contains(&schedule) => "the search ended before it was looked at".to_owned(),
            None => "it is not legal".to_owned(),
        };
        format!("{schedule}: {why}")
    }

    fn reasons(&self, illegal: usize) -> String {
        let count = |reason: Reason| {
            let failed = self.legal.iter().filter(|schedule| {
                matches!(self.looks.verdict(**schedule), Some(Outcome::Invalid { reason: why, .. }) if *why == reason)
            });
            failed.count() + if reason == Reason::Constraints { illegal } else { 0 }
        };
        let counted = Reason::ALL.iter().map(|reason| (reason, count(*reason))).filter(|(_, count)| *count > 0);
        counted.map(|(reason, count)| format!("{count} {reason}")).collect::<Vec<_>>().join(", ")
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
