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
use gdn2_tune::log::Contents;
use gdn2_tune::outcome::{Outcome, Reason, Sample};
use gdn2_tune::search::Strategy;
use gdn2_tune::sweep::{Budget, Machine, Setup, Swept, sweep};
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
        Some("sweep") => {
            run(Path::new(&arguments[2]), "worker");
        }
        // The flags of a test runner, such as --nocapture, change nothing here.
        _ => {
            planted_faults_are_recorded_and_never_win();
            println!("planted_faults_are_recorded_and_never_win ... ok");
            a_killed_sweep_ends_with_the_same_record();
            println!("a_killed_sweep_ends_with_the_same_record ... ok");
            damaged_lines_cost_themselves_alone();
            println!("damaged_lines_cost_themselves_alone ... ok");
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
    let mut evaluator = Evaluator::new(Compiler::new(Search::from_environment(None, None)));
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

fn run(log: &Path, worker: &'static str) -> Swept {
    let program = std::env::current_exe().unwrap();
    let command = move || {
        let mut command = Command::new(&program);
        command.arg(worker);
        command
    };
    let pool = Pool::new(command, 2, Duration::from_secs(120));
    let setup = Setup {
        pool: &pool,
        ahead: None,
        log,
        strategy: Strategy::Grid,
        seed: 0,
        budget: Budget { time: None, candidates: None },
        compiler: "NVRTC 13.0".to_owned(),
        machine: Machine { driver: None, clock_mhz: 1980, floor_micros: 0.0 },
    };
    sweep(&job(), &setup, &mut |_| {}).unwrap()
}

fn planted_faults_are_recorded_and_never_win() {
    let folder = tempfile::tempdir().unwrap();
    let swept = run(&folder.path().join("log.jsonl"), "faulty");
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
    let whole = run(&folder.path().join("whole.jsonl"), "worker").record;
    for milliseconds in [20, 60, 110, 170, 240] {
        let log = folder.path().join(format!("killed-{milliseconds}.jsonl"));
        let mut child = Command::new(std::env::current_exe().unwrap()).arg("sweep").arg(&log).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        // SIGKILL on Unix: nothing is cleaned up.
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(run(&log, "worker").record, whole, "killed after {milliseconds} ms");
    }
}

fn damaged_lines_cost_themselves_alone() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log.jsonl");
    let whole: Record = run(&log, "worker").record;
    let text = std::fs::read_to_string(&log).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    let before = Contents::read(&log).unwrap();
    let hurt = lines.len() / 2;
    lines[hurt] = "{\"line\":\"evaluation\",\"search\":";
    let last = lines.pop().unwrap();
    let cut = &last[..last.len() / 2];
    std::fs::write(&log, format!("{}\n{cut}", lines.join("\n"))).unwrap();
    let after = Contents::read(&log).unwrap();
    assert_eq!(after.damage.iter().map(|damage| damage.line).collect::<Vec<_>>(), [hurt + 1, lines.len() + 1]);
    assert_eq!(after.evaluations.len() + 2, before.evaluations.len());
    assert_eq!(run(&log, "worker").record, whole);
}
