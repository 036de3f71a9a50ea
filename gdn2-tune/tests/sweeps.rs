//! Sweeps with real worker processes and no GPU: planted faults, kill -9 and resume, damaged logs. The program starts
//! itself again as a worker and as the sweep that is killed.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::Pass;
use gdn2_codegen::record::{Record, Time};
use gdn2_codegen::schedule::{Decode, Schedule};
use gdn2_dsl::Rule;
use gdn2_runtime::artifact::Compiler;
use gdn2_runtime::toolchain::Search;
use gdn2_tune::evaluate::Evaluator;
use gdn2_tune::job::{Engine, Job, Shape};
use gdn2_tune::log::{Contents, Effort};
use gdn2_tune::outcome::{Outcome, Reason, Sample};
use gdn2_tune::search::Strategy;
use gdn2_tune::sweep::{Budget, Event, Machine, Setup, Swept, sweep};
use gdn2_tune::worker::{Pool, Request, serve};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("worker") => {
            serve(std::io::stdin().lock(), std::io::stdout().lock(), |request| Some(timed(request))).unwrap()
        }
        Some("faulty") => faulty(),
        Some("treacherous") => serve(std::io::stdin().lock(), std::io::stdout().lock(), treacherous).unwrap(),
        Some("sweep") => {
            run(&job(), Path::new(&arguments[2]), "worker", Strategy::Grid);
        }
        // The flags of a test runner, such as --nocapture, change nothing here.
        _ => {
            planted_faults_are_recorded_and_never_win();
            println!("planted_faults_are_recorded_and_never_win ... ok");
            a_killed_sweep_ends_with_the_same_record();
            println!("a_killed_sweep_ends_with_the_same_record ... ok");
            damaged_lines_cost_themselves_alone();
            println!("damaged_lines_cost_themselves_alone ... ok");
            a_hung_and_a_dead_worker_cost_their_candidates();
            println!("a_hung_and_a_dead_worker_cost_their_candidates ... ok");
            the_two_best_meet_and_the_model_orders_the_rest();
            println!("the_two_best_meet_and_the_model_orders_the_rest ... ok");
        }
    }
}

fn job() -> Job {
    let source = "rule gdn { decay: scalar; erase: scalar; write: erase; key_dim: 64; value_dim: 64; dtype: bf16; }";
    let rule: Rule = gdn2_dsl::parse_file(source).unwrap().remove(0);
    let shape = Shape { batch: 2, tokens: 1, key_heads: 2, value_heads: 2 };
    Job { rule, pass: Pass::Decode, shape, gpu: "h200".to_owned(), arch: Arch::Sm90a, engine: Engine::Vm }
}

/// A time that depends on the schedule alone, after a while in which a sweep can be killed.
fn timed(request: &Request) -> Outcome {
    std::thread::sleep(Duration::from_millis(15));
    let Schedule::Decode(Decode { value_split, warps }) = request.schedule else {
        return Outcome::invalid(Reason::Runtime, "not a decode schedule");
    };
    let micros = f64::from(10 + value_split.abs_diff(2) * 3 + warps.abs_diff(4));
    Outcome::Correct(Sample { time: Time { micros, spread: 0.0 }, metrics: Vec::new(), launches: Vec::new() })
}

/// The real evaluator with a fault in four of the legal candidates, told apart by their place among them.
fn faulty() {
    let job = job();
    let legal = legal(&job);
    let mut evaluator = Evaluator::new(Compiler::new(Search::from_environment(None, None)), None, None);
    let answer = |request: &Request| {
        let place = legal.iter().position(|schedule| *schedule == request.schedule);
        evaluator.answer_with(request, |compiler, kernel| {
            let mut source = gdn2_codegen::render(&kernel);
            if place == Some(1) {
                source.text.push_str("\nthis is no CUDA\n");
                source.hash.push_str("-broken");
                return compiler.compile_source(kernel, source);
            }
            let mut artifact = compiler.compile(kernel)?;
            match place {
                // Products the wrong way round: the kernel runs and its results are off.
                Some(2) => {
                    artifact.ptx =
                        artifact.ptx.replace("fma.rn.f32", "fma.rz.ftz.f32").replace("ex2.approx", "lg2.approx")
                }
                // One warp waits for more threads than the block has.
                Some(3) => artifact.ptx = artifact.ptx.replacen("ret;", "bar.sync 1, 1024;\n\tret;", 1),
                Some(4) => artifact.resources.iter_mut().for_each(|entry| entry.spill_stores = 64),
                _ => {}
            }
            Ok(artifact)
        })
    };
    serve(std::io::stdin().lock(), std::io::stdout().lock(), answer).unwrap();
}

fn legal(job: &Job) -> Vec<Schedule> {
    let space = gdn2_codegen::space::space(&job.rule, job.pass, job.arch).unwrap();
    space.into_iter().filter(|s| gdn2_codegen::bind(&job.rule, job.pass, *s, job.arch).is_ok()).collect()
}

fn run(job: &Job, log: &Path, worker: &'static str, strategy: Strategy) -> Swept {
    let timeout = Duration::from_secs(if worker == "treacherous" { 2 } else { 120 });
    watched(job, log, worker, strategy, timeout, &mut |_| {})
}

fn watched(
    job: &Job,
    log: &Path,
    worker: &'static str,
    strategy: Strategy,
    timeout: Duration,
    watch: &mut dyn FnMut(Event),
) -> Swept {
    let program = std::env::current_exe().unwrap();
    let command = move || {
        let mut command = Command::new(&program);
        command.arg(worker);
        command
    };
    let pool = Pool::new(command, 2, timeout);
    let setup = Setup {
        pool: &pool,
        ahead: None,
        log,
        strategy,
        seed: 0,
        budget: Budget { time: None, candidates: None },
        compiler: "NVRTC 13.0".to_owned(),
        constants: None,
        machine: Machine { driver: None, clock_mhz: 1980, floor_micros: 0.0 },
    };
    sweep(job, &setup, watch).unwrap()
}

fn planted_faults_are_recorded_and_never_win() {
    let folder = tempfile::tempdir().unwrap();
    let swept = run(&job(), &folder.path().join("log.jsonl"), "faulty", Strategy::Grid);
    let reason = |place: usize| match &swept.legal[place].1 {
        Some(Outcome::Invalid { reason, detail }) => (*reason, detail.clone()),
        other => panic!("candidate {place}: {other:?}"),
    };
    for (place, want) in
        [(1, Reason::Compile), (2, Reason::Correctness), (3, Reason::Runtime), (4, Reason::Constraints)]
    {
        let (got, detail) = reason(place);
        assert_eq!(got, want, "candidate {place}: {detail}");
        assert_ne!(swept.record.winner.schedule, swept.legal[place].0);
    }
    let others = swept.legal.iter().enumerate().filter(|(place, _)| !(1..=4).contains(place));
    for (place, (schedule, outcome)) in others {
        assert!(matches!(outcome, Some(Outcome::Correct(_))), "candidate {place}, {schedule}: {outcome:?}");
    }
}

fn a_killed_sweep_ends_with_the_same_record() {
    let folder = tempfile::tempdir().unwrap();
    let whole = run(&job(), &folder.path().join("whole.jsonl"), "worker", Strategy::Grid).record;
    for milliseconds in [20, 60, 110, 170, 240] {
        let log = folder.path().join(format!("killed-{milliseconds}.jsonl"));
        let mut child = Command::new(std::env::current_exe().unwrap()).arg("sweep").arg(&log).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        // SIGKILL on Unix: nothing is cleaned up.
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(run(&job(), &log, "worker", Strategy::Grid).record, whole, "killed after {milliseconds} ms");
    }
}

fn damaged_lines_cost_themselves_alone() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log.jsonl");
    let whole: Record = run(&job(), &log, "worker", Strategy::Grid).record;
    let text = std::fs::read_to_string(&log).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    let before = Contents::read(&log).unwrap();
    let hurt = lines.len() - 3;
    lines[hurt] = "{\"line\":\"evaluation\",\"search\":";
    let last = lines.pop().unwrap();
    let cut = &last[..last.len() / 2];
    std::fs::write(&log, format!("{}\n{cut}", lines.join("\n"))).unwrap();
    let after = Contents::read(&log).unwrap();
    assert_eq!(after.damage.iter().map(|damage| damage.line).collect::<Vec<_>>(), [hurt + 1, lines.len() + 1]);
    assert_eq!(after.evaluations.len() + 2, before.evaluations.len());
    assert_eq!(run(&job(), &log, "worker", Strategy::Grid).record, whole);
}

/// Hangs on the fastest candidate and takes its process down on the next.
fn treacherous(request: &Request) -> Option<Outcome> {
    match request.schedule {
        Schedule::Decode(Decode { value_split: 2, warps: 2 }) => {
            std::thread::sleep(Duration::from_secs(3600));
            None
        }
        Schedule::Decode(Decode { value_split: 2, .. }) => std::process::abort(),
        _ => Some(timed(request)),
    }
}

/// What hung is looked at again when the search is resumed; what died has had its say.
fn a_hung_and_a_dead_worker_cost_their_candidates() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log.jsonl");
    let swept = run(&job(), &log, "treacherous", Strategy::Grid);
    let reasons = |swept: &Swept, wanted: &dyn Fn(&Decode) -> bool| -> Vec<Option<Reason>> {
        let of =
            swept.legal.iter().filter(|(schedule, _)| matches!(schedule, Schedule::Decode(decode) if wanted(decode)));
        let reason = |outcome: &Option<Outcome>| match outcome {
            Some(Outcome::Invalid { reason, .. }) => Some(*reason),
            _ => None,
        };
        of.map(|(_, outcome)| reason(outcome)).collect()
    };
    let hung = |decode: &Decode| decode.value_split == 2 && decode.warps == 2;
    let died = |decode: &Decode| decode.value_split == 2 && decode.warps != 2;
    assert_eq!(reasons(&swept, &hung), [Some(Reason::Timeout)]);
    let dead = reasons(&swept, &died);
    assert!(!dead.is_empty() && dead.iter().all(|reason| *reason == Some(Reason::Runtime)), "{dead:?}");
    assert!(swept.legal.iter().all(|(_, outcome)| outcome.is_some()), "the sweep went on to the end");
    // The candidate that hangs is the built-in one: the record says so.
    let why = swept.record.built_in_failed.unwrap();
    assert!(swept.record.built_in.is_none() && why.contains("value_split=2,warps=2: timeout"), "{why}");
    let again = run(&job(), &log, "worker", Strategy::Grid);
    assert_eq!(reasons(&again, &hung), [None]);
    assert_eq!(reasons(&again, &died), dead);
    assert!(matches!(again.record.winner.schedule, Schedule::Decode(decode) if hung(&decode)));
    assert!(again.record.built_in.is_some() && again.record.built_in_failed.is_none());
}

/// Counted cycles in place of time: the two best meet in four rounds, and a prediction in the same log decides whom a
/// search that looks at a quarter looks at.
fn the_two_best_meet_and_the_model_orders_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log.jsonl");
    let predicted = Job { engine: Engine::Model, ..job() };
    let mut met = None;
    let swept = watched(&predicted, &log, "worker", Strategy::Grid, Duration::from_secs(120), &mut |event| {
        met = met.or(match event {
            Event::RunOff(pair) => Some(pair),
            _ => None,
        });
    });
    assert_eq!(met, None, "a prediction is the same at every look");
    let best = swept.record.winner.schedule;
    let swept = watched(&job(), &log, "worker", Strategy::Guided, Duration::from_secs(120), &mut |event| {
        met = met.or(match event {
            Event::RunOff(pair) => Some(pair),
            _ => None,
        });
    });
    assert_eq!(swept.record.winner.schedule, best);
    let contents = Contents::read(&log).unwrap();
    let looks: Vec<_> = contents.of(&swept.search).collect();
    let first = looks.iter().filter(|look| look.effort == Effort::FIRST).count();
    assert!(first < swept.legal.len(), "{first} of {}", swept.legal.len());
    for schedule in met.unwrap() {
        let rounds: Vec<u32> =
            looks.iter().filter(|look| look.schedule == schedule).map(|look| look.effort.round).collect();
        assert_eq!(rounds, [0, 1, 2, 3, 4], "{schedule}");
    }
}
