//! Every synchronisation statement of every shipped kernel, removed, weakened or moved one at a time, must be noticed by the
//! full checks of the virtual machine; the kernels as generated must not be.
//!
//! Forward and decode are tried with the dimensions they ship with; the passes of training with fewer channels and values
//! and the shipped chunk, warps and stages, backward also with the scan that recomputes the states and with two stages.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::{Kernel, Pass};
use gdn2_codegen::schedule::{Backward, Matrix, Scan, Schedule};
use gdn2_dsl::{Draw, Dtype, Rule};
use gdn2_runtime::artifact::Artifact;
use gdn2_runtime::device::vm::Settings;
use gdn2_runtime::device::{Device, DeviceError};
use gdn2_runtime::engine::{Run, RunError, Training, execute, forward_for_backward, gradients};
use gdn2_runtime::problem::Problem;
use gdn2_runtime::tensors::Case;
use gdn2_tests::mutants::{Kind, Mutant, mutants, name, ordering, with_line};
use gdn2_tests::named::shipped;
use gdn2_tests::seed::{again, seed_of};
use gdn2_tests::{engine, rules_with_kernels};
use gdn2_vm::Check;
use rayon::prelude::*;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::LazyLock;

/// One shipped kernel and the case it is tried on.
struct Subject {
    name: String,
    rule: Rule,
    pass: Pass,
    schedule: String,
    artifact: Artifact,
    /// What leaves a backward kernel the states it reads.
    forward: Option<Artifact>,
    case: Case,
    /// Lines of the launches that no subject before has.
    launches: Vec<Range<usize>>,
}

/// Backward as it ships, and with what else a schedule may say of how its scans synchronise.
const BACKWARD: [&str; 3] = ["", "recompute=1", "recompute=1,stages=2"];

static SUBJECTS: LazyLock<Vec<Subject>> = LazyLock::new(subjects);
static ON_WGMMA: LazyLock<Vec<Subject>> = LazyLock::new(|| {
    let mut subjects = Vec::new();
    for rule in rules_with_kernels() {
        join(&mut subjects, bf16_gates(rule, "matrix=wgmma", 261));
    }
    // What formulas add, with narrow heads: five chunks again.
    for (name, chunk) in [("gdn_layer", 64), ("gdn2_layer", 32)] {
        let rule = shipped(name).with_dims(64, 64).unwrap();
        join(&mut subjects, bf16_gates(rule, &format!("matrix=wgmma,chunk={chunk}"), 4 * chunk + 5));
    }
    subjects
});
static BACK_ON_WGMMA: LazyLock<Vec<Subject>> = LazyLock::new(back_on_wgmma);
static IN_SEGMENTS: LazyLock<Vec<Subject>> = LazyLock::new(in_segments);

/// Every rule, pass and architecture whose PTX differs in more than its target.
fn subjects() -> Vec<Subject> {
    let mut subjects: Vec<Subject> = Vec::new();
    for rule in rules_with_kernels() {
        for pass in [Pass::Forward, Pass::Decode] {
            for arch in [Arch::Sm80, Arch::Sm90a] {
                join(&mut subjects, inference(&rule, pass, arch));
            }
        }
        for way in BACKWARD {
            for subject in training(&rule, way) {
                join(&mut subjects, subject);
            }
        }
    }
    subjects
}

/// Adds a subject with the launches that are new, if any is.
fn join(subjects: &mut Vec<Subject>, mut subject: Subject) {
    // A rule's name says nothing of what its kernel does.
    let body = |s: &Subject, lines: &Range<usize>| -> String {
        let code = s.artifact.ptx.lines().skip(lines.start).take(lines.len());
        // What is about lines of the source ends the text.
        let code = code.take_while(|line| !line.contains(".file")).filter(|line| !line.trim().starts_with(".loc"));
        code.collect::<Vec<_>>().join("\n").replace(&format!("{}_", s.rule.name), "")
    };
    let known: HashSet<String> = subjects.iter().flat_map(|s| s.launches.iter().map(|at| body(s, at))).collect();
    // The gradients of a chunk are the same in whatever way its states came about.
    let scans = BACKWARD[1..].iter().any(|way| subject.name.ends_with(way));
    let twice = |text: &String| known.contains(text) || (scans && text.contains("_backward_gradients("));
    let launches = launches(&subject.artifact.ptx);
    subject.launches = launches.into_iter().filter(|at| !twice(&body(&subject, at))).collect();
    if !subject.launches.is_empty() {
        subjects.push(subject);
    }
}

/// The lines of each kernel of a text.
fn launches(ptx: &str) -> Vec<Range<usize>> {
    let starts = ptx.lines().enumerate().filter(|(_, line)| line.contains(".entry ")).map(|(at, _)| at);
    let bounds: Vec<usize> = starts.chain([ptx.lines().count()]).collect();
    bounds.windows(2).map(|pair| pair[0]..pair[1]).collect()
}

/// Forward or decode with the dimensions it ships with.
fn inference(rule: &Rule, pass: Pass, arch: Arch) -> Subject {
    let device = Device::vm();
    // On wgmma forward is tried apart, and segments with it.
    let schedule = if pass == Pass::Forward { "matrix=mma" } else { "" };
    let artifact = engine().artifact(&Run { arch: Some(arch), schedule, ..Run::new(rule, pass, &device) }).unwrap();
    let name = format!("{} {} {arch}", rule.name, pass.name());
    // Three chunks of 64, the last of them short; a few tokens for decode.
    let tokens = if pass == Pass::Decode { 3 } else { 133 };
    Subject {
        name,
        rule: rule.clone(),
        pass,
        schedule: schedule.to_owned(),
        artifact,
        forward: None,
        case: Case::drawn_inputs(rule, &Draw::new(1, tokens, 1, 1, 7), false).unwrap(),
        launches: Vec::new(),
    }
}

/// The kernels of training: a whole pass under the full checks takes long, so with narrow heads and the same statements.
fn training(shipped: &Rule, way: &str) -> Vec<Subject> {
    let (device, arch) = (Device::vm(), Arch::Sm80);
    let Narrow { rule, backward, forward, tokens } = narrow(shipped, arch, way);
    let artifact = |pass: Pass, schedule: &str| {
        engine().artifact(&Run { arch: Some(arch), schedule, ..Run::new(&rule, pass, &device) }).unwrap()
    };
    let keeping = forward.map(|schedule| (artifact(Pass::ForwardForBackward, &schedule), schedule));
    let case = Case::drawn_inputs(&rule, &Draw::new(1, tokens, 1, 1, 7), true).unwrap();
    let subject = |pass: Pass, artifact: Artifact, schedule: &str, forward| {
        let name = [&rule.name, pass.name(), way].join(" ").trim_end().to_owned();
        Subject {
            rule: rule.clone(),
            pass,
            schedule: schedule.to_owned(),
            name,
            artifact,
            forward,
            case: case.clone(),
            launches: Vec::new(),
        }
    };
    let forward = keeping.clone().map(|(kernel, schedule)| subject(Pass::ForwardForBackward, kernel, &schedule, None));
    let reads = keeping.map(|(kernel, _)| kernel);
    let backward = subject(Pass::Backward, artifact(Pass::Backward, &backward), &backward, reads);
    forward.into_iter().chain([backward]).collect()
}

/// A rule with narrow heads, the schedule of its backward kernel, and of the forward kernel if that one reads its states.
struct Narrow {
    rule: Rule,
    backward: String,
    forward: Option<String>,
    /// One chunk more than there are stages, and a short one.
    tokens: usize,
}

/// A rule with 32 values, 2048 numbers to a chunk's tile, and a schedule, whose backward kernels, and the forward kernel
/// that keeps states for them, synchronise line for line as the shipped ones do.
fn narrow(shipped: &Rule, arch: Arch, way: &str) -> Narrow {
    let kernel = |rule: &Rule, pass: Pass, overrides: &str| {
        let schedule = Schedule::from_overrides(rule, pass, arch, overrides).unwrap();
        gdn2_codegen::bind(rule, pass, schedule, arch).unwrap()
    };
    let lines = |kernel: &Kernel| {
        let text = gdn2_codegen::render(kernel).text;
        let orders = |line: &&str| ["sync", "commit", "wait", "fence"].iter().any(|word| line.contains(word));
        text.lines().filter(orders).map(str::to_owned).collect::<Vec<_>>()
    };
    let shipped_kernel = kernel(shipped, Pass::Backward, way);
    let Schedule::Backward(numbers) = shipped_kernel.schedule else { panic!("a schedule of another pass") };
    // The value dim at once, or one of two tiles at a time.
    let value_tiles = if numbers.value_tiles * 16 < shipped.value_dim { 1 } else { 2 };
    let Backward { scan: Scan { chunk, warps, stages, .. }, gradient_warps, recompute, .. } = numbers;
    let schedule = format!(
        "chunk={chunk},warps={warps},stages={stages},value_tiles={value_tiles},gradient_warps={gradient_warps},recompute={recompute}"
    );
    let narrow = shipped.with_dims(2048 / chunk, 32).unwrap();
    let narrow_kernel = kernel(&narrow, Pass::Backward, &schedule);
    assert_eq!(lines(&narrow_kernel), lines(&shipped_kernel), "{}: narrow heads synchronise differently", shipped.name);
    let mut most = stages;
    let keeping = shipped_kernel.keeping_forward().map(|overrides| {
        let wide = kernel(shipped, Pass::ForwardForBackward, &overrides);
        let Schedule::Forward(numbers) = wide.schedule else { panic!("a schedule of another pass") };
        let Scan { chunk, warps, stages, value_split } = numbers.scan;
        let overrides = format!("chunk={chunk},warps={warps},stages={stages},value_split={value_split}");
        let thin = kernel(&narrow, Pass::ForwardForBackward, &overrides);
        assert_eq!(lines(&thin), lines(&wide), "{}: narrow heads synchronise differently", shipped.name);
        most = most.max(stages);
        overrides
    });
    Narrow { rule: narrow, backward: schedule, forward: keeping, tokens: (most * chunk + 5) as usize }
}

impl Subject {
    fn mutants(&self) -> Vec<Mutant> {
        mutants(&self.artifact.ptx, &self.launches)
    }

    /// What the full checks say of a text: nothing, or the first thing wrong.
    fn verdict(&self, ptx: &str) -> Option<String> {
        self.verdict_on(&self.case, ptx)
    }

    /// The line of the statement that makes up for one that is gone: without both, something is wrong.
    fn cover(&self, mutant: &Mutant) -> Option<usize> {
        let name = name(&mutant.statement);
        let ptx = &self.artifact.ptx;
        let alike = |(line, text): (usize, &str)| {
            let near = self.launches.iter().any(|lines| lines.contains(&line) && lines.contains(&mutant.line));
            (near
                && line != mutant.line
                && Some(line) != mutant.to
                && ordering(text).is_some_and(|s| s.starts_with(name)))
            .then_some(line)
        };
        let mut others: Vec<usize> = ptx.lines().enumerate().filter_map(alike).collect();
        others.sort_by_key(|line| line.abs_diff(mutant.line));
        others.truncate(NEAREST);
        others.into_iter().find(|&line| self.verdict(&with_line(&mutant.ptx, line, "")).is_some())
    }

    fn verdict_on(&self, case: &Case, ptx: &str) -> Option<String> {
        let device = Device::Vm(Settings { check: Check::Full, ..Settings::default() });
        let run = Run { tokens_per_launch: 3, schedule: &self.schedule, ..Run::new(&self.rule, self.pass, &device) };
        let artifact = Artifact { ptx: ptx.to_owned(), ..self.artifact.clone() };
        let problem = Problem::new(&self.rule, case).unwrap();
        let outcome = match self.pass {
            Pass::Backward => {
                let training = Training { forward: self.forward.clone(), backward: artifact };
                gradients(&run, Some(&training), &problem)
            }
            Pass::ForwardForBackward => {
                let training = Training { backward: self.artifact.clone(), forward: Some(artifact) };
                forward_for_backward(&run, Some(&training), None, &problem).map(|(outcome, _)| outcome)
            }
            _ => execute(&run, Some(&artifact), &problem),
        };
        match outcome {
            Ok(outcome) => outcome.reports.iter().flat_map(|r| &r.findings).map(ToString::to_string).next(),
            Err(RunError::Device(DeviceError::Trap(trap))) => Some(trap.to_string()),
            Err(error) => panic!("{}: {error}", self.name),
        }
    }
}

#[test]
fn generated_kernels_raise_no_finding() {
    let all = SUBJECTS.par_iter().chain(ON_WGMMA.par_iter()).chain(IN_SEGMENTS.par_iter());
    let alone = all.filter_map(|s| Some(format!("{}: {}", s.name, s.verdict(&s.artifact.ptx)?)));
    // A launch of its own, without an ordering statement, sums over the value heads that share a key head.
    let grouped = SUBJECTS.par_iter().filter(|s| s.pass == Pass::Backward).filter_map(|s| {
        let case = Case::drawn_inputs(&s.rule, &Draw::new(1, 21, 1, 2, 7), true).unwrap();
        Some(format!("{}, two value heads: {}", s.name, s.verdict_on(&case, &s.artifact.ptx)?))
    });
    let wrong: Vec<String> = alone.chain(grouped).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Of a group's mutants, how many in a hundred may go unnoticed because another statement makes up for them.
const COVERED: usize = 4;

/// The same of the backward kernels on wgmma, whose chunks end in more waits and meetings than they need.
const COVERED_BACK: usize = 9;

/// One statement of so many is moved in a run, another one every time.
const SHARES: u64 = 4;

/// Statements of the same name that are tried as what makes up for one, from the nearest.
const NEAREST: usize = 6;

/// What the mutants of one kind came to.
#[derive(Default)]
struct Tally {
    tried: usize,
    covered: usize,
}

/// Tries the mutants of these kernels: all but the moves, and of those a share, or all where GDN2_TEST_EVERY_MUTANT is set.
/// One that goes unnoticed must be made up for by another statement: both gone are noticed. There are few of those. A
/// statement that is not missed may stand anywhere, so it is not moved.
fn each_is_missed<'a>(group: &str, most: usize, subjects: impl Iterator<Item = &'a Subject>) {
    let (mut tallies, mut covered, mut wrong) = (BTreeMap::<Kind, Tally>::new(), Vec::new(), Vec::new());
    let every = std::env::var_os("GDN2_TEST_EVERY_MUTANT").is_some();
    let in_share = |m: &Mutant| every || seed_of(m.line as u64).is_multiple_of(SHARES);
    for s in subjects {
        let unnoticed = |of: &[Mutant]| -> Vec<usize> {
            (0..of.len()).into_par_iter().filter(|at| s.verdict(&of[*at].ptx).is_none()).collect()
        };
        let (mut moves, mut mutants): (Vec<Mutant>, Vec<Mutant>) =
            s.mutants().into_iter().partition(|m| m.to.is_some());
        let mut missing = unnoticed(&mutants);
        let idle: HashSet<usize> = missing.iter().map(|at| mutants[*at].line).collect();
        moves.retain(|m| in_share(m) && !idle.contains(&m.line));
        missing.extend(unnoticed(&moves).into_iter().map(|at| mutants.len() + at));
        mutants.append(&mut moves);
        let unnoticed: Vec<&Mutant> = missing.iter().map(|at| &mutants[*at]).collect();
        for m in &mutants {
            tallies.entry(m.kind).or_default().tried += 1;
        }
        let cover = |m: &&Mutant| (s.cover(m), format!("{}: {m}", s.name));
        let covers: Vec<_> = unnoticed.par_iter().map(cover).collect();
        for (m, (by, what)) in unnoticed.iter().zip(covers) {
            match by {
                Some(line) => {
                    tallies.entry(m.kind).or_default().covered += 1;
                    covered.push(format!("{what}: made up for by line {}", line + 1));
                }
                None => wrong.push(what),
            }
        }
    }
    println!("{group}\n{:<16}{:>8}{:>10}", "", "mutants", "covered");
    for (kind, tally) in &tallies {
        println!("{:<16}{:>8}{:>10}", kind.to_string(), tally.tried, tally.covered);
    }
    let total: usize = tallies.values().map(|tally| tally.tried).sum();
    println!("{:<16}{total:>8}{:>10}\n{}", "all", covered.len(), covered.join("\n"));
    assert!(
        wrong.is_empty(),
        "{group}: nothing makes up for these, and they go unnoticed:\n{}\n{}",
        wrong.join("\n"),
        again()
    );
    // A share of the moves says little of how many in a hundred there are.
    let counted = tallies
        .iter()
        .filter(|(kind, _)| every || !matches!(kind, Kind::MovedUp | Kind::MovedDown))
        .map(|(_, tally)| tally);
    let (tried, covered) =
        counted.fold((0, 0), |(tried, covered), tally| (tried + tally.tried, covered + tally.covered));
    assert!(tried > 0 && covered * 100 <= most * tried, "{group}: {covered} of {tried} mutants");
}

#[test]
fn each_ordering_statement_of_forward_and_decode_is_missed() {
    let of = |s: &&Subject| matches!(s.pass, Pass::Forward | Pass::Decode);
    each_is_missed("forward and decode", COVERED, SUBJECTS.iter().filter(of));
}

#[test]
fn each_ordering_statement_of_training_is_missed() {
    let of = |s: &&Subject| matches!(s.pass, Pass::ForwardForBackward | Pass::Backward);
    each_is_missed("training", COVERED, SUBJECTS.iter().filter(of));
}

#[test]
fn each_ordering_statement_on_wgmma_is_missed() {
    each_is_missed("forward on wgmma", COVERED, ON_WGMMA.iter());
}

#[test]
fn each_ordering_statement_back_on_wgmma_is_missed() {
    each_is_missed("backward on wgmma", COVERED_BACK, BACK_ON_WGMMA.iter());
}

#[test]
fn each_ordering_statement_of_the_maps_and_their_joining_is_missed() {
    each_is_missed("maps and joining", COVERED, IN_SEGMENTS.iter());
}

/// Forward in a schedule, every gate as bf16: on wgmma two stages of the ring.
fn bf16_gates(shipped: Rule, schedule: &str, tokens: usize) -> Subject {
    let (engine, device) = (engine(), Device::vm());
    let mut rule = shipped;
    rule.decay.storage = Dtype::Bf16;
    rule.erase.storage = Dtype::Bf16;
    let rule = rule.checked().unwrap();
    let run = Run { arch: Some(Arch::Sm90a), schedule, ..Run::new(&rule, Pass::Forward, &device) };
    let artifact = engine.artifact(&run).unwrap();
    let case = Case::drawn_inputs(&rule, &Draw::new(1, tokens, 1, 1, 7), false).unwrap();
    let launches = launches(&artifact.ptx);
    Subject {
        name: format!("{} forward, {schedule}", rule.name),
        rule,
        pass: Pass::Forward,
        schedule: schedule.to_owned(),
        artifact,
        forward: None,
        case,
        launches,
    }
}

/// The reverse scan, over chunks enough that its ring comes round twice, and the gradients where they are on wgmma, over a
/// chunk and a short one: rules that erase and that do not, with decay of either grain, narrow heads; and gradients of layers.
fn back_on_wgmma() -> Vec<Subject> {
    let (engine, device, mut subjects) = (engine(), Device::vm(), Vec::new());
    let given = ["gdn", "kda", "gdn2", "gla", "mamba2", "deltanet"];
    let given = rules_with_kernels().into_iter().filter(|rule| given.contains(&rule.name.as_str()));
    // What formulas add to gradients; two warpgroups share the channels of the first.
    let layers = [("gdn_layer", 128), ("gdn2_layer", 64)].map(|(name, keys)| (shipped(name), keys));
    for (rule, keys) in given.map(|rule| (rule, 64)).chain(layers) {
        let computes = !rule.prologue.is_empty();
        let rule = rule.with_dims(keys, 64).unwrap();
        for (schedule, tokens, launch) in
            [("matrix=wgmma,chunk=16", 85, "states"), ("matrix=wgmma,chunk=64", 70, "gradients")]
        {
            if computes && launch == "states" {
                continue;
            }
            let run = Run { arch: Some(Arch::Sm90a), schedule, ..Run::new(&rule, Pass::Backward, &device) };
            let Training { forward, backward: artifact } = engine.training(&run).unwrap();
            let Schedule::Backward(numbers) = artifact.kernel.schedule else { panic!("a schedule of another pass") };
            if launch == "gradients" && numbers.gradients != Matrix::Wgmma {
                continue;
            }
            let own = format!("_backward_{launch}(");
            let is_own = |lines: &Range<usize>| artifact.ptx.lines().nth(lines.start).unwrap().contains(&own);
            let launches: Vec<Range<usize>> = launches(&artifact.ptx).into_iter().filter(is_own).collect();
            subjects.push(Subject {
                name: format!("{} backward {launch}, {schedule}", rule.name),
                rule: rule.clone(),
                pass: Pass::Backward,
                schedule: schedule.to_owned(),
                artifact,
                forward,
                case: Case::drawn_inputs(&rule, &Draw::new(1, tokens, 1, 1, 7), true).unwrap(),
                launches,
            });
        }
    }
    subjects
}

/// The launches before the forward kernel's own where it runs in segments, of rules that erase and that do not, with
/// decay of either grain: three chunks to each of three segments that are mapped, two of them joined, narrow heads. On
/// mma.sync the maps alone: the launch that joins them is the same.
fn in_segments() -> Vec<Subject> {
    let rules = rules_with_kernels()
        .into_iter()
        .filter(|rule| ["gdn", "kda", "gdn2", "gla", "mamba2"].contains(&rule.name.as_str()));
    let subject = |rule: Rule| {
        ["wgmma", "mma"].map(|matrix| {
            let schedule = format!("matrix={matrix},chunk=32,segments=4");
            let subject = bf16_gates(rule.with_dims(64, 64).unwrap(), &schedule, 289);
            let others: &[&str] = if matrix == "mma" { &["forward", "forward_join"] } else { &["forward"] };
            let others: Vec<String> = others.iter().map(|own| format!(".entry {}_{own}(", rule.name)).collect();
            let line = |lines: &Range<usize>| subject.artifact.ptx.lines().nth(lines.start).unwrap();
            let is_other = |lines: &Range<usize>| others.iter().any(|own| line(lines).contains(own));
            let launches = subject.launches.iter().filter(|lines| !is_other(lines)).cloned().collect();
            Subject { launches, ..subject }
        })
    };
    rules.flat_map(subject).collect()
}
