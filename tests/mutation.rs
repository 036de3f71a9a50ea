//! Every synchronisation statement of every shipped kernel, removed or weakened one at a time, must be noticed by the
//! full checks of the virtual machine; the kernels as generated must not be.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::Pass;
use gdn2_dsl::{Draw, Rule};
use gdn2_runtime::artifact::Artifact;
use gdn2_runtime::device::vm::Settings;
use gdn2_runtime::device::{Device, DeviceError};
use gdn2_runtime::engine::{Run, RunError, execute};
use gdn2_runtime::problem::Problem;
use gdn2_runtime::tensors::Case;
use gdn2_tests::{engine, files_below};
use gdn2_vm::Check;
use rayon::prelude::*;
use std::sync::LazyLock;

/// Statements that order something, by how they start.
const ORDERING: [&str; 12] = [
    "bar.sync",
    "bar.arrive",
    "barrier.",
    "bar.warp.sync",
    "cp.async.commit_group",
    "cp.async.wait_group",
    "cp.async.wait_all",
    "cp.async.bulk.commit_group",
    "cp.async.bulk.wait_group",
    "fence.",
    "membar.",
    "mbarrier.",
];

/// One shipped kernel and the case it is tried on.
struct Subject {
    name: String,
    rule: Rule,
    pass: Pass,
    artifact: Artifact,
    case: Case,
}

/// A text with one statement changed.
struct Mutant {
    line: usize,
    what: String,
    ptx: String,
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
    for rule in rules() {
        for pass in [Pass::Forward, Pass::Decode] {
            for arch in [Arch::Sm80, Arch::Sm90a] {
                let run = Run { arch: Some(arch), ..Run::new(&rule, pass, &device) };
                let artifact = engine.artifact(&run).unwrap();
                // Three chunks of 64, the last of them short; a few tokens for decode.
                let tokens = if pass == Pass::Forward { 133 } else { 3 };
                let case = Case::drawn(&rule, &Draw::new(1, tokens, 1, 1, 7), false).unwrap();
                let name = format!("{} {} {arch}", rule.name, pass.name());
                let body = |a: &Artifact| a.ptx.lines().filter(|l| !l.starts_with(".target")).collect::<String>();
                if subjects.last().is_none_or(|s| body(&s.artifact) != body(&artifact)) {
                    subjects.push(Subject { name, rule: rule.clone(), pass, artifact, case });
                }
            }
        }
    }
    subjects
}

impl Subject {
    /// What the full checks say of a text: nothing, or the first thing wrong.
    fn verdict(&self, ptx: &str) -> Option<String> {
        let device = Device::Vm(Settings { check: Check::Full, ..Settings::default() });
        let run = Run { tokens_per_launch: 3, ..Run::new(&self.rule, self.pass, &device) };
        let artifact = Artifact { ptx: ptx.to_owned(), ..self.artifact.clone() };
        let problem = Problem::new(&self.rule, &self.case).unwrap();
        match execute(&run, Some(&artifact), &problem) {
            Ok(outcome) => outcome.reports.iter().flat_map(|r| &r.findings).map(ToString::to_string).next(),
            Err(RunError::Device(DeviceError::Trap(trap))) => Some(trap.to_string()),
            Err(error) => panic!("{}: {error}", self.name),
        }
    }
}

/// The ordering statement of a PTX line, its guard left out.
fn ordering(line: &str) -> Option<&str> {
    let statement = line.trim();
    let statement = match statement.strip_prefix('@') {
        Some(guarded) => guarded.split_once(char::is_whitespace)?.1.trim_start(),
        None => statement,
    };
    ORDERING.iter().any(|start| statement.starts_with(start)).then_some(statement)
}

/// The text with line `at` replaced.
fn with_line(ptx: &str, at: usize, by: &str) -> String {
    ptx.lines().enumerate().map(|(i, line)| if i == at { by } else { line }).collect::<Vec<_>>().join("\n")
}

fn mutants(ptx: &str) -> Vec<Mutant> {
    let mut mutants = Vec::new();
    for (line, text) in ptx.lines().enumerate() {
        let Some(statement) = ordering(text) else { continue };
        mutants.push(Mutant { line, what: format!("without `{statement}`"), ptx: with_line(ptx, line, "") });
        let weaker = if let Some(groups) = statement.strip_prefix("cp.async.wait_group") {
            let groups: u32 = groups.trim().trim_end_matches(';').parse().unwrap();
            format!("cp.async.wait_group {};", groups + 1)
        } else if statement.starts_with("bar.sync") || statement.starts_with("barrier.sync") {
            "bar.warp.sync 0xffffffff;".to_owned()
        } else {
            continue;
        };
        let what = format!("`{statement}` weakened to `{weaker}`");
        mutants.push(Mutant { line, what, ptx: with_line(ptx, line, &text.replace(statement, &weaker)) });
    }
    mutants
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

#[test]
fn each_ordering_statement_is_missed() {
    let (mut wrong, mut total) = (Vec::new(), 0);
    for s in SUBJECTS.iter() {
        let ptx = &s.artifact.ptx;
        let covered: Vec<[usize; 2]> = COVERED
            .iter()
            .filter(|c| c.kernel == s.name)
            .map(|c| [c.place, c.by].map(|place| line_of(ptx, c.kind, place)))
            .collect();
        let mutants = mutants(ptx);
        total += mutants.len();
        wrong.par_extend(mutants.par_iter().filter_map(|m| {
            let listed = covered.iter().any(|[line, _]| *line == m.line);
            let noticed = s.verdict(&m.ptx).is_some();
            let why = if listed { "is listed as covered, but noticed" } else { "goes unnoticed" };
            (noticed == listed).then(|| format!("{}: PTX line {}: {} {why}", s.name, m.line + 1, m.what))
        }));
        for [line, by] in covered {
            if s.verdict(&with_line(&with_line(ptx, line, ""), by, "")).is_none() {
                wrong.push(format!("{}: PTX lines {} and {} are both not missed", s.name, line + 1, by + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "of {total} mutants:\n{}", wrong.join("\n"));
    assert!(COVERED.len() * 20 <= total, "more than 5 % of {total} are on the list");
}
