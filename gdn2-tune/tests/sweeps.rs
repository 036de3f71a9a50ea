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
use gdn2_tune::ruling::{NoRecord, Ruling};
use gdn2_tune::search::Strategy;
use gdn2_tune::sweep::{Begin, Budget, Event, Machine, Setup, Swept, sweep};
use gdn2_tune::worker::{Pool, Request, Step, serve};
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
        Some("clocked") => serve(std::io::stdin().lock(), std::io::stdout().lock(), clocked).unwrap(),
        Some("accidents") => serve(std::io::stdin().lock(), std::io::stdout().lock(), accidents).unwrap(),
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
            what_calls_get_is_timed_though_it_spills();
            println!("what_calls_get_is_timed_though_it_spills ... ok");
            of_predictions_the_best_are_run_and_the_wrong_never_win();
            println!("of_predictions_the_best_are_run_and_the_wrong_never_win ... ok");
            no_accident_makes_a_record_worse_than_what_calls_get();
            println!("no_accident_makes_a_record_worse_than_what_calls_get ... ok");
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
                Some(0) if std::env::var_os("SPILLING_HOLDER").is_some() => {
                    artifact.resources.iter_mut().for_each(|entry| entry.spill_stores = 64);
                }
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

fn recorded(swept: &Swept) -> Record {
    match &swept.ruling {
        Ruling::Record(record) => (**record).clone(),
        Ruling::Nothing(why) => panic!("no record: {why}"),
    }
}

fn built_in(job: &Job) -> Schedule {
    Schedule::default_for(&job.rule, job.pass, job.arch).unwrap()
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
    let setup = setup(job, &pool, log, strategy, built_in(job));
    sweep(job, &setup, watch).unwrap()
}

fn setup<'a>(job: &Job, pool: &'a Pool, log: &'a Path, strategy: Strategy, holder: Schedule) -> Setup<'a> {
    let neighbours = vec![built_in(job)];
    Setup {
        pool,
        ahead: None,
        log,
        begin: Begin { holder, from: "a test".to_owned(), neighbours, command: String::new() },
        strategy,
        seed: 0,
        budget: Budget { time: None, candidates: None },
        checks: 5,
        compiler: "NVRTC 13.0".to_owned(),
        constants: None,
        machine: Machine { driver: None, clock_mhz: 1980, floor_micros: 0.0 },
    }
}

fn planted_faults_are_recorded_and_never_win() {
    let folder = tempfile::tempdir().unwrap();
    let swept = run(&job(), &folder.path().join("log.jsonl"), "faulty", Strategy::Grid);
    let legal = swept.legal();
    let reason = |place: usize| match &legal[place].1 {
        Some(Outcome::Invalid { reason, detail }) => (*reason, detail.clone()),
        other => panic!("candidate {place}: {other:?}"),
    };
    for (place, want) in
        [(1, Reason::Compile), (2, Reason::Correctness), (3, Reason::Runtime), (4, Reason::Constraints)]
    {
        let (got, detail) = reason(place);
        assert_eq!(got, want, "candidate {place}: {detail}");
        assert_ne!(recorded(&swept).winner.schedule, legal[place].0);
    }
    let others = legal.iter().enumerate().filter(|(place, _)| !(1..=4).contains(place));
    for (place, (schedule, outcome)) in others {
        assert!(matches!(outcome, Some(Outcome::Correct(_))), "candidate {place}, {schedule}: {outcome:?}");
    }
}

fn a_killed_sweep_ends_with_the_same_record() {
    let folder = tempfile::tempdir().unwrap();
    let whole = recorded(&run(&job(), &folder.path().join("whole.jsonl"), "worker", Strategy::Grid));
    for milliseconds in [20, 60, 110, 170, 240] {
        let log = folder.path().join(format!("killed-{milliseconds}.jsonl"));
        let mut child = Command::new(std::env::current_exe().unwrap()).arg("sweep").arg(&log).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        // SIGKILL on Unix: nothing is cleaned up.
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(recorded(&run(&job(), &log, "worker", Strategy::Grid)), whole, "killed after {milliseconds} ms");
    }
}

fn damaged_lines_cost_themselves_alone() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log.jsonl");
    let whole: Record = recorded(&run(&job(), &log, "worker", Strategy::Grid));
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
    assert_eq!(recorded(&run(&job(), &log, "worker", Strategy::Grid)), whole);
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
        let legal = swept.legal();
        let of = legal.iter().filter(|(schedule, _)| matches!(schedule, Schedule::Decode(decode) if wanted(decode)));
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
    assert!(swept.legal().iter().all(|(_, outcome)| outcome.is_some()), "the sweep went on to the end");
    // The candidate that hangs is the built-in one, which calls get: a machine that was busy is no reason to replace it.
    let Ruling::Nothing(NoRecord::Unknown { holder, why }) = &swept.ruling else { panic!("{:?}", swept.ruling) };
    assert!(*holder == built_in(&job()) && why.contains("value_split=2,warps=2: timeout"), "{why}");
    let again = run(&job(), &log, "worker", Strategy::Grid);
    assert_eq!(reasons(&again, &hung), [None]);
    assert_eq!(reasons(&again, &died), dead);
    let again = recorded(&again);
    assert!(matches!(again.winner.schedule, Schedule::Decode(decode) if hung(&decode)));
    assert!(again.built_in.is_some() && again.built_in_failed.is_none());
}

/// Counted cycles in place of time: the two best meet in four rounds, and a prediction in the same log decides whom a
/// search that looks at few looks at.
fn the_two_best_meet_and_the_model_orders_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log.jsonl");
    let job = Job { rule: job().rule.with_dims(128, 128).unwrap(), ..job() };
    let predicted = Job { engine: Engine::Model, ..job.clone() };
    let mut met = None;
    let swept = watched(&predicted, &log, "worker", Strategy::Grid, Duration::from_secs(120), &mut |event| {
        met = met.take().or(match event {
            Event::RunOff(met) => Some(met.to_vec()),
            _ => None,
        });
    });
    assert_eq!(met, None, "a prediction is the same at every look");
    let best = swept.searched.ranking(built_in(&job))[0].0;
    let swept = watched(&job, &log, "worker", Strategy::Guided, Duration::from_secs(120), &mut |event| {
        met = met.take().or(match event {
            Event::RunOff(met) => Some(met.to_vec()),
            _ => None,
        });
    });
    assert_eq!(recorded(&swept).winner.schedule, best);
    let contents = Contents::read(&log).unwrap();
    let looks: Vec<_> = contents.of(&swept.search).collect();
    let first = looks.iter().filter(|look| look.effort == Effort::FIRST).count();
    assert!(first < swept.legal().len(), "{first} of {}", swept.legal().len());
    for schedule in met.unwrap() {
        let rounds: Vec<u32> =
            looks.iter().filter(|look| look.schedule == schedule).map(|look| look.effort.round).collect();
        assert_eq!(rounds, [0, 1, 2, 3, 4], "{schedule}");
    }
}

/// A candidate that spills is turned away; what calls get has a time even so, and is replaced only by what beats it.
fn what_calls_get_is_timed_though_it_spills() {
    let folder = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap();
    let command = move || {
        let mut command = Command::new(&program);
        command.arg("faulty").env("SPILLING_HOLDER", "1");
        command
    };
    let job = job();
    let pool = Pool::new(command, 2, Duration::from_secs(120));
    let log = folder.path().join("log.jsonl");
    let swept = sweep(&job, &setup(&job, &pool, &log, Strategy::Grid, built_in(&job)), &mut |_| {}).unwrap();
    let Some(Outcome::Correct(held)) = swept.legal()[0].1.clone() else { panic!("{:?}", swept.legal()[0]) };
    assert!(held.spills(), "{held:?}");
    // Candidates 1 to 4 are at fault: nothing is left but the one that spills.
    match &swept.ruling {
        Ruling::Nothing(NoRecord::Fastest(holder)) => assert_eq!(holder.schedule, built_in(&job)),
        other => panic!("{other:?}"),
    }
    // Once calls get another schedule, it is turned away like any other.
    let others = swept.searched.ranking(legal(&job)[1]);
    assert!(others.iter().all(|(schedule, _)| *schedule != built_in(&job)), "{others:?}");
}

/// The fastest by the clock, whose results are wrong.
const WRONG: Decode = Decode { value_split: 2, warps: 4 };

/// A time by the clock where one is asked for, and then what its results are worth.
fn clocked(request: &Request) -> Option<Outcome> {
    let Outcome::Correct(sample) = timed(request) else { return None };
    Some(match request.step {
        Step::Check if request.schedule == Schedule::Decode(WRONG) => {
            Outcome::invalid(Reason::Correctness, "o: error 1.0, bar 0.005")
        }
        Step::Check => {
            assert_eq!(request.timed, Some(sample.clone()), "the clock is asked once");
            Outcome::Correct(sample)
        }
        Step::Prepare | Step::Evaluate => Outcome::Timed(sample),
    })
}

/// Nobody looks at the results of what others are faster than; the fastest is not believed.
fn of_predictions_the_best_are_run_and_the_wrong_never_win() {
    let folder = tempfile::tempdir().unwrap();
    let job = Job { rule: job().rule.with_dims(128, 128).unwrap(), engine: Engine::Model, ..job() };
    let legal = legal(&job);
    for strategy in Strategy::ALL {
        let log = folder.path().join(format!("{strategy}.jsonl"));
        let (checks, program) = (2, std::env::current_exe().unwrap());
        let command = move || {
            let mut command = Command::new(&program);
            command.arg("clocked");
            command
        };
        let pool = Pool::new(command, 2, Duration::from_secs(120));
        let holder = built_in(&job);
        let setup = Setup { checks, ..setup(&job, &pool, &log, strategy, holder) };
        let swept = sweep(&job, &setup, &mut |_| {}).unwrap();
        let verdict = |schedule| swept.searched.looks.verdict(schedule).cloned();
        let wrong = verdict(Schedule::Decode(WRONG));
        let refused = usize::from(wrong.is_some());
        if let Some(wrong) = wrong {
            assert!(matches!(wrong, Outcome::Invalid { reason: Reason::Correctness, .. }), "{strategy}: {wrong:?}");
        }
        assert!(matches!(verdict(holder), Some(Outcome::Correct(_))), "{strategy}: {:?}", verdict(holder));
        let outcomes: Vec<Outcome> = legal.iter().filter_map(|schedule| verdict(*schedule)).collect();
        let ran = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Correct(_))).count();
        assert!((checks..=checks + 1).contains(&ran), "{strategy}: {ran} ran");
        assert_eq!(swept.searched.unchecked(), outcomes.len() - ran - refused, "{strategy}: {outcomes:?}");
        if let Ruling::Record(record) = &swept.ruling {
            assert_ne!(record.winner.schedule, Schedule::Decode(WRONG), "{strategy}");
            assert!(record.correct as usize == ran && record.shortlist.len() <= ran, "{strategy}: {record:?}");
        }
        // A search that goes on believes what was found out.
        let again = sweep(&job, &setup, &mut |event| {
            assert!(!matches!(event, Event::Checking(_)), "{strategy}: run again");
        });
        assert_eq!(again.unwrap().ruling, swept.ruling, "{strategy}");
    }
}

/// True times, which a search learns only as far as accidents let it.
fn truth(schedule: Schedule, seed: u64) -> f64 {
    let hash = blake3::hash(format!("{schedule} {seed}").as_bytes());
    let number = hash.as_bytes().iter().take(4).fold(0u32, |all, byte| all << 8 | u32::from(*byte));
    10.0 + f64::from(number % 1000) / 20.0
}

/// A worker that dies, hangs, refuses or is wrong by chance, anew at every look.
fn accidents(request: &Request) -> Option<Outcome> {
    let seed: u64 = std::env::var("ACCIDENTS").unwrap().parse().unwrap();
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
    match nanos / 1000 % 16 {
        0 => std::process::abort(),
        1 => std::thread::sleep(Duration::from_secs(3600)),
        2 => return Some(Outcome::invalid(Reason::Constraints, "spills, says a compiler that ran out of memory")),
        3 => return Some(Outcome::invalid(Reason::Runtime, "no answer from the driver")),
        _ => {}
    }
    let time = Time { micros: truth(request.schedule, seed), spread: 0.01 };
    Some(Outcome::Correct(Sample { time, metrics: Vec::new(), launches: Vec::new() }))
}

/// Runs whose workers die and hang, and that are out of time at any moment, each going on from the last one's log and with
/// what its record says. Whatever happens, calls never get anything slower than before.
fn no_accident_makes_a_record_worse_than_what_calls_get() {
    let runs: u64 = std::env::var("GDN2_ACCIDENTS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(24);
    let fresh = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let fresh = std::env::var("GDN2_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(fresh);
    println!("{runs} runs from seed {fresh}; GDN2_SEED={fresh} GDN2_ACCIDENTS=200 runs them again, more of them");
    let job = Job { rule: job().rule.with_dims(128, 128).unwrap(), ..job() };
    let legal = legal(&job);
    let (mut replaced, mut kept) = (0, 0);
    for run in 0..runs {
        let seed = fresh.wrapping_add(run);
        let folder = tempfile::tempdir().unwrap();
        let (log, program) = (folder.path().join("log.jsonl"), std::env::current_exe().unwrap());
        let command = move || {
            let mut command = Command::new(&program);
            command.arg("accidents").env("ACCIDENTS", seed.to_string());
            command
        };
        let pool = Pool::new(command, 2, Duration::from_millis(40));
        // What calls get need not be the built-in schedule, nor the first of the space.
        let mut holder = legal[seed as usize % legal.len()];
        for part in 0..3 {
            let strategy = Strategy::ALL[(seed + part) as usize % Strategy::ALL.len()];
            let budget = Budget {
                time: (part == 0).then(|| Duration::from_millis(5 + seed % 60)),
                candidates: (part == 1).then_some(1 + seed as usize % 6),
            };
            let setup = Setup { budget, seed, ..setup(&job, &pool, &log, strategy, holder) };
            let ruling = match sweep(&job, &setup, &mut |_| {}) {
                Ok(swept) => swept.ruling,
                // Nothing ran: nothing is written.
                Err(_) => continue,
            };
            match ruling {
                Ruling::Record(record) => {
                    let (now, before) = (truth(record.winner.schedule, seed), truth(holder, seed));
                    assert!(
                        now <= before,
                        "seed {seed}: {} for {holder}, {now} µs for {before}",
                        record.winner.schedule
                    );
                    replaced += usize::from(record.winner.schedule != holder);
                    holder = record.winner.schedule;
                }
                Ruling::Nothing(why) => {
                    assert!(!why.to_string().is_empty());
                    kept += 1;
                }
            }
        }
    }
    println!("{replaced} records replaced what calls got, {kept} searches left it");
    assert!(replaced > 0 && kept > 0, "{replaced} {kept}: accidents decide everything or nothing");
}
