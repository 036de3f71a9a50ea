//! A search under way: what it asks its workers, what it has learnt, when it is over.

use super::{Event, Setup, now};
use crate::floor::{WORTH, least_micros};
use crate::job::{Engine, Job};
use crate::log::{Contents, Effort, Evaluation, Line, Log};
use crate::outcome::{Outcome, Reason, Sample};
use crate::search::Evaluate;
use crate::verdict::Looks;
use crate::worker::{Finished, Request, Step};
use gdn2_codegen::bind;
use gdn2_codegen::record::Basis;
use gdn2_codegen::schedule::Schedule;
use std::collections::HashSet;
use std::sync::mpsc;
use std::time::Instant;

/// Looks at each of the two best in the run-off.
const RUN_OFF_ROUNDS: u32 = 4;

/// A time this close to the floor is not worth another search.
const CLOSE_TO_FLOOR: f64 = 1.1;

/// Part of the time budget that the search may spend.
const SEARCH_SHARE: f64 = 0.85;

/// A search under way.
pub(super) struct Run<'a, 'w> {
    job: &'a Job,
    setup: &'a Setup<'a>,
    identity: &'a str,
    log: Log,
    pub(super) failed: Option<std::io::Error>,
    pub(super) legal: Vec<Schedule>,
    /// The least that each candidate can take; nothing where times are not the clock's.
    pub(super) floors: Option<Vec<f64>>,
    pub(super) looks: Looks,
    /// The best time so far of what can win, microseconds.
    best: Option<f64>,
    asked: HashSet<Schedule>,
    begun: Instant,
    deadline: Option<Instant>,
    pub(super) at_floor: bool,
    pub(super) watch: &'w mut dyn FnMut(Event),
}

impl<'a, 'w> Run<'a, 'w> {
    pub(super) fn new(
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
        let floors = floors(job, setup, &legal);
        let (failed, at_floor, best) = (None, false, None);
        let mut run = Run {
            job,
            setup,
            identity,
            log,
            failed,
            legal,
            floors,
            looks,
            best,
            asked,
            begun,
            deadline,
            at_floor,
            watch,
        };
        run.best = run.leaders().first().map(|(_, sample)| sample.time.micros);
        run
    }

    /// What can win if its results are right, and what calls get, fastest first.
    fn leaders(&self) -> Vec<(Schedule, Sample)> {
        let mut all = self.looks.timed(&self.legal);
        all.retain(|(schedule, sample)| *schedule == self.setup.begin.holder || !sample.spills());
        all
    }

    /// Whether the time is over.
    pub(super) fn is_over(&self) -> bool {
        self.at_floor || self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    pub(super) fn append(&mut self, line: &Line) {
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
            timed: None,
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
        let best = self.leaders().first().map(|(schedule, sample)| (*schedule, sample.time.micros));
        self.best = best.map(|(_, micros)| micros);
        let done = self.legal.iter().filter(|legal| self.looks.verdict(**legal).is_some()).count();
        (self.watch)(Event::Evaluated { schedule, outcome: &outcome, best, done });
    }

    /// Runs the best by the clock until as many as are asked for are right, the fastest and what calls get first: these have
    /// the time that they take where a record depends on them. Says whether one was wrong.
    pub(super) fn check(&mut self) -> bool {
        let checks = self.setup.checks;
        let over = self.setup.budget.time.map(|time| self.begun + time);
        let mut wrong = false;
        for (few, until) in [(checks.min(1), over.filter(|_| !self.may_be_recorded())), (checks, over)] {
            while until.is_none_or(|until| Instant::now() < until) {
                let wanted = self.unchecked(few);
                if wanted.is_empty() {
                    break;
                }
                wrong |= self.run_for_results(&wanted, until);
            }
        }
        wrong
    }

    /// Whether the fastest is no holder, and ahead of it by more than times may be off.
    fn may_be_recorded(&self) -> bool {
        let leaders = self.leaders();
        let holder = leaders.iter().find(|(schedule, _)| *schedule == self.setup.begin.holder);
        let doubt = self.setup.doubt(self.job);
        let fastest = leaders.first();
        fastest.is_some_and(|fastest| holder.is_none_or(|holder| doubt.beats(&fastest.1, &holder.1)))
    }

    /// Those of the fastest few, and what calls get, whose results nobody has looked at.
    fn unchecked(&self, few: usize) -> Vec<(Schedule, Sample)> {
        if few == 0 {
            return Vec::new();
        }
        let holder = self.setup.begin.holder;
        let mut wanted = self.leaders();
        let mut place = 0;
        wanted.retain(|(schedule, _)| {
            place += 1;
            let asked = place <= few || *schedule == holder;
            asked && matches!(self.looks.verdict(*schedule), Some(Outcome::Timed(_)))
        });
        wanted
    }

    fn run_for_results(&mut self, wanted: &[(Schedule, Sample)], until: Option<Instant>) -> bool {
        (self.watch)(Event::Checking(wanted.len()));
        let setup = self.setup;
        let request = |(schedule, sample): &(Schedule, Sample)| Request {
            job: self.job.clone(),
            schedule: *schedule,
            effort: self.checked_effort(*schedule),
            step: Step::Check,
            holder: *schedule == setup.begin.holder,
            timed: Some(sample.clone()),
        };
        let requests: Vec<Request> = wanted.iter().map(request).collect();
        let mut wrong = false;
        setup.pool.run(&requests, until, |finished| {
            wrong |= !matches!(finished.outcome, Some(Outcome::Correct(_)));
            let request = &requests[finished.at];
            self.learn(request.schedule, request.effort, finished);
        });
        wrong
    }

    /// The effort of a candidate's longest look: what is said of its results takes that look's place.
    fn checked_effort(&self, schedule: Schedule) -> Effort {
        Effort { repeats: self.looks.longest(schedule), ..Effort::FIRST }
    }

    /// The two best and what calls get meet on fresh inputs, by turns, so that a drifting clock or a lucky draw favours
    /// none. Predictions are the same on every look, so they do not meet.
    pub(super) fn run_off(&mut self) {
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
        if self.is_over() {
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

    fn hopeless(&self, candidate: usize) -> bool {
        let Some((floors, best)) = self.floors.as_ref().zip(self.best) else { return false };
        let unseen = self.looks.verdict(self.legal[candidate]).is_none();
        unseen && floors.get(candidate).is_some_and(|least| *least > WORTH * best)
    }
}

/// The least that each candidate can take by the clock.
fn floors(job: &Job, setup: &Setup, legal: &[Schedule]) -> Option<Vec<f64>> {
    let constants = setup.constants.as_ref().filter(|_| job.engine == Engine::Model)?;
    let least = |schedule: &Schedule| {
        let kernel = bind(&job.rule, job.pass, *schedule, job.arch);
        kernel.map_or(0.0, |kernel| least_micros(job, &kernel, constants))
    };
    Some(legal.iter().map(least).collect())
}
