//! Every synchronisation statement of every shipped kernel, removed or weakened one at a time, must be noticed by the full
//! checks of the virtual machine; the kernels as generated must not be.
//!
//! Forward and decode are tried with the dimensions they ship with; both launches of backward with fewer channels and
//! values and the shipped chunk, warps and stages. The forward that keeps states for backward is not tried by itself.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::{Kernel, Pass};
use gdn2_codegen::plan::Fold;
use gdn2_codegen::schedule::{Backward, Schedule};
use gdn2_dsl::{Draw, Dtype, Rule};
use gdn2_runtime::artifact::Artifact;
use gdn2_runtime::device::vm::Settings;
use gdn2_runtime::device::{Device, DeviceError};
use gdn2_runtime::engine::{Run, RunError, Training, execute, gradients};
use gdn2_runtime::problem::Problem;
use gdn2_runtime::tensors::Case;
use gdn2_tests::mutants::{Mutant, mutants, ordering, with_line};
use gdn2_tests::{engine, files_below};
use gdn2_vm::Check;
use rayon::prelude::*;
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
}

fn rules() -> Vec<Rule> {
    let files = files_below("rules").unwrap();
    files.iter().flat_map(|file| gdn2_dsl::parse_file(&std::fs::read_to_string(file).unwrap()).unwrap()).collect()
}

static SUBJECTS: LazyLock<Vec<Subject>> = LazyLock::new(subjects);

/// Every rule, pass and architecture whose PTX differs in more than its target.
fn subjects() -> Vec<Subject> {
    let engine = engine();
    let device = Device::vm();
    let mut subjects: Vec<Subject> = Vec::new();
    for shipped in rules() {
        for pass in [Pass::Forward, Pass::Decode, Pass::Backward] {
            for arch in [Arch::Sm80, Arch::Sm90a] {
                // A whole backward pass under the full checks takes long: narrow heads, the same statements.
                let (rule, schedule) = match pass {
                    Pass::Backward => narrow(&shipped, arch),
                    _ => (shipped.clone(), String::new()),
                };
                let run = Run { arch: Some(arch), schedule: &schedule, ..Run::new(&rule, pass, &device) };
                let (artifact, forward) = match pass {
                    Pass::Backward => {
                        let training = engine.training(&run).unwrap();
                        (training.backward, training.forward)
                    }
                    _ => (engine.artifact(&run).unwrap(), None),
                };
                // Three chunks of 64, the last of them short; two for backward; a few tokens for decode.
                let tokens = match pass {
                    Pass::Decode => 3,
                    Pass::Backward => 69,
                    _ => 133,
                };
                let draw = Draw::new(1, tokens, 1, 1, 7);
                let case = Case::drawn_inputs(&rule, &draw, pass == Pass::Backward).unwrap();
                let name = format!("{} {} {arch}", rule.name, pass.name());
                let body = |a: &Artifact| a.ptx.lines().filter(|l| !l.starts_with(".target")).collect::<String>();
                if subjects.last().is_none_or(|s| body(&s.artifact) != body(&artifact)) {
                    subjects.push(Subject { name, rule, pass, schedule, artifact, forward, case });
                }
            }
        }
    }
    subjects
}

/// A rule with 32 values, 2048 numbers to a chunk's tile, and a schedule, whose backward kernels synchronise line for line
/// as the shipped ones do.
fn narrow(shipped: &Rule, arch: Arch) -> (Rule, String) {
    let kernel = |rule: &Rule, overrides: &str| {
        let schedule = Schedule::from_overrides(rule, Pass::Backward, arch, overrides).unwrap();
        gdn2_codegen::bind(rule, Pass::Backward, schedule, arch).unwrap()
    };
    let lines = |kernel: &Kernel| {
        let text = gdn2_codegen::render(kernel).text;
        let orders = |line: &&str| ["sync", "commit", "wait", "fence"].iter().any(|word| line.contains(word));
        text.lines().filter(orders).map(str::to_owned).collect::<Vec<_>>()
    };
    let shipped_kernel = kernel(shipped, "");
    let Schedule::Backward(numbers) = shipped_kernel.schedule else { panic!("a schedule of another pass") };
    // The value dim at once, or one of two tiles at a time.
    let value_tiles = if numbers.value_tiles * 16 < shipped.value_dim { 1 } else { 2 };
    let Backward { chunk, warps, stages, gradient_warps, .. } = numbers;
    let schedule = format!(
        "chunk={chunk},warps={warps},stages={stages},value_tiles={value_tiles},gradient_warps={gradient_warps}"
    );
    let narrow = shipped.with_dims(2048 / chunk, 32).unwrap();
    let narrow_kernel = kernel(&narrow, &schedule);
    assert_eq!(lines(&narrow_kernel), lines(&shipped_kernel), "{}: narrow heads synchronise differently", shipped.name);
    (narrow, schedule)
}

impl Subject {
    /// What the full checks say of a text: nothing, or the first thing wrong.
    fn verdict(&self, ptx: &str) -> Option<String> {
        let device = Device::Vm(Settings { check: Check::Full, ..Settings::default() });
        let run = Run { tokens_per_launch: 3, schedule: &self.schedule, ..Run::new(&self.rule, self.pass, &device) };
        let artifact = Artifact { ptx: ptx.to_owned(), ..self.artifact.clone() };
        let problem = Problem::new(&self.rule, &self.case).unwrap();
        let outcome = match self.pass {
            Pass::Backward => {
                let training = Training { forward: self.forward.clone(), backward: artifact };
                gradients(&run, Some(&training), &problem)
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
    let wrong: Vec<String> =
        subjects().par_iter().filter_map(|s| Some(format!("{}: {}", s.name, s.verdict(&s.artifact.ptx)?))).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A statement another one makes up for: with one stage, the wait takes in every group, so two commits in a row do the
/// work of one. Both are named by their place among the kernel's statements of that kind.
struct Covered {
    kernel: &'static str,
    kind: &'static str,
    place: usize,
    by: usize,
}

const fn commits(kernel: &'static str, place: usize, by: usize) -> Covered {
    Covered { kernel, kind: "cp.async.commit_group", place, by }
}

/// Commits of the chunk's slices, covered by those of its tiles.
const COVERED: [Covered; 6] = [
    commits("gdn2 forward sm_80", 0, 1),
    commits("gdn2 forward sm_80", 2, 3),
    commits("kda forward sm_80", 0, 1),
    commits("kda forward sm_80", 2, 3),
    commits("kda_safe forward sm_80", 0, 1),
    commits("kda_safe forward sm_80", 2, 3),
];

/// The line of the `place`-th statement of a kind.
fn line_of(ptx: &str, kind: &str, place: usize) -> usize {
    let of_kind = |line: &&(usize, &str)| ordering(line.1).is_some_and(|s| s.starts_with(kind));
    let lines: Vec<(usize, &str)> = ptx.lines().enumerate().collect();
    lines.iter().filter(of_kind).nth(place).expect("a statement of the list").0
}

/// The subject's mutants in the lines that `wanted` takes, and those of them that are noticed though listed as covered, or
/// not though not.
fn tried(s: &Subject, covered: &[[usize; 2]], wanted: impl Fn(usize) -> bool) -> (usize, Vec<String>) {
    let ptx = &s.artifact.ptx;
    let mutants = mutants(ptx, wanted);
    let judge = |m: &Mutant| {
        let listed = covered.iter().any(|[line, _]| *line == m.line);
        let noticed = s.verdict(&m.ptx).is_some();
        let why = if listed { "is listed as covered, but noticed" } else { "goes unnoticed" };
        (noticed == listed).then(|| format!("{}: PTX line {}: {} {why}", s.name, m.line + 1, m.what))
    };
    let mut wrong: Vec<String> = mutants.par_iter().filter_map(judge).collect();
    for &[line, by] in covered {
        if s.verdict(&with_line(&with_line(ptx, line, ""), by, "")).is_none() {
            wrong.push(format!("{}: PTX lines {} and {} are both not missed", s.name, line + 1, by + 1));
        }
    }
    (mutants.len(), wrong)
}

#[test]
fn each_ordering_statement_of_forward_and_decode_is_missed() {
    let total = each_is_missed(|pass| pass != Pass::Backward);
    assert!(COVERED.len() * 20 <= total, "more than 5 % of {total} are on the list");
}

#[test]
fn each_ordering_statement_of_backward_is_missed() {
    assert!(each_is_missed(|pass| pass == Pass::Backward) > 0);
}

/// Tries every mutant of these passes' kernels; how many there are.
fn each_is_missed(of: impl Fn(Pass) -> bool) -> usize {
    let (mut wrong, mut total) = (Vec::new(), 0);
    for s in SUBJECTS.iter().filter(|s| of(s.pass)) {
        let of_kernel = COVERED.iter().filter(|c| c.kernel == s.name);
        let covered: Vec<[usize; 2]> =
            of_kernel.map(|c| [c.place, c.by].map(|place| line_of(&s.artifact.ptx, c.kind, place))).collect();
        let (mutants, found) = tried(s, &covered, |_| true);
        total += mutants;
        wrong.extend(found);
    }
    println!("{total} mutants");
    assert!(wrong.is_empty(), "of {total} mutants:\n{}", wrong.join("\n"));
    total
}

/// Forward on wgmma, every gate as bf16: two stages of the ring.
fn on_wgmma(shipped: Rule, schedule: &str, tokens: usize) -> Subject {
    let (engine, device) = (engine(), Device::vm());
    let mut rule = shipped;
    rule.decay.storage = Dtype::Bf16;
    rule.erase.storage = Dtype::Bf16;
    let rule = rule.checked().unwrap();
    let run = Run { arch: Some(Arch::Sm90a), schedule, ..Run::new(&rule, Pass::Forward, &device) };
    let artifact = engine.artifact(&run).unwrap();
    let case = Case::drawn_inputs(&rule, &Draw::new(1, tokens, 1, 1, 7), false).unwrap();
    Subject {
        name: format!("{} forward, {schedule}", rule.name),
        pass: Pass::Forward,
        schedule: schedule.to_owned(),
        rule,
        artifact,
        forward: None,
        case,
    }
}

#[test]
fn each_ordering_statement_on_wgmma_is_missed() {
    const COMMIT: &str = "wgmma.commit_group";
    const WAIT: &str = "wgmma.wait_group";
    let (mut wrong, mut total) = (Vec::new(), 0);
    for s in rules().into_iter().map(|rule| on_wgmma(rule, "matrix=wgmma", 133)) {
        let ptx = &s.artifact.ptx;
        wrong.extend(s.verdict(ptx).map(|finding| format!("{}: {finding}", s.name)));
        // Groups end in order, so a later wait covers one that only gives registers back sooner: the wait between the
        // halves of S's operand, with its commit, and the wait for what queries read of S, where nothing scales it next.
        let waits = ptx.lines().filter_map(ordering).filter(|statement| statement.starts_with(WAIT)).count();
        let scales = s.artifact.kernel.plan.decay == Fold::Pair;
        let early: &[(&str, usize, usize)] = match (waits, scales) {
            (6, _) => &[(COMMIT, 0, 1), (WAIT, 0, 1), (WAIT, 2, 3)],
            (5, _) => &[(WAIT, 1, 2)],
            (4, true) => &[(COMMIT, 0, 1), (WAIT, 0, 1)],
            (4, false) => &[(COMMIT, 0, 2), (WAIT, 0, 2), (COMMIT, 1, 2), (WAIT, 1, 2)],
            _ => &[],
        };
        let covered: Vec<[usize; 2]> =
            early.iter().map(|&(kind, place, by)| [place, by].map(|place| line_of(ptx, kind, place))).collect();
        let (mutants, found) = tried(&s, &covered, |_| true);
        total += mutants;
        wrong.extend(found);
    }
    println!("{total} mutants");
    assert!(wrong.is_empty(), "of {total} mutants:\n{}", wrong.join("\n"));
}

/// The launches before the forward kernel's own where it runs in segments, of rules that erase and that do not, with
/// decay of either grain: three chunks to each of three segments that are mapped, two of them joined, narrow heads.
#[test]
fn each_ordering_statement_of_the_maps_and_their_joining_is_missed() {
    let (mut wrong, mut total) = (Vec::new(), 0);
    for rule in rules().into_iter().filter(|rule| ["gdn", "kda", "gdn2", "gla", "mamba2"].contains(&rule.name.as_str())) {
        let s = on_wgmma(rule.with_dims(64, 64).unwrap(), "matrix=wgmma,chunk=32,segments=4", 289);
        let ptx = &s.artifact.ptx;
        wrong.extend(s.verdict(ptx).map(|finding| format!("{}: {finding}", s.name)));
        let starts: Vec<usize> =
            ptx.lines().enumerate().filter(|(_, line)| line.contains(".entry")).map(|(line, _)| line).collect();
        let own = format!(".entry {}_forward(", s.rule.name);
        let forward = starts.iter().position(|&line| ptx.lines().nth(line).unwrap().contains(&own)).unwrap();
        let range = starts[forward]..starts.get(forward + 1).copied().unwrap_or(usize::MAX);
        let (mutants, found) = tried(&s, &[], |line| !range.contains(&line));
        total += mutants;
        wrong.extend(found);
    }
    println!("{total} mutants");
    assert!(wrong.is_empty(), "of {total} mutants:\n{}", wrong.join("\n"));
}
