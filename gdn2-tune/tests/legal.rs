//! What is called legal compiles with NVRTC and launches on the virtual machine under its architecture's limits, with
//! right results: a sample, or everything with GDN2_TEST_EVERY_KERNEL set.
#![allow(clippy::unwrap_used, missing_docs, reason = "a failed unwrap is a failed test")]

use gdn2_codegen::arch::Arch;
use gdn2_codegen::gpu::standing;
use gdn2_codegen::kernel::Pass;
use gdn2_codegen::schedule::Schedule;
use gdn2_codegen::{bind, space};
use gdn2_dsl::{Rule, parse_file};
use gdn2_runtime::artifact::Compiler;
use gdn2_runtime::toolchain::Search;
use gdn2_tune::evaluate::Evaluator;
use gdn2_tune::job::{Engine, Job, Shape};
use gdn2_tune::log::Effort;
use gdn2_tune::outcome::Outcome;
use gdn2_tune::worker::{Request, Step};

const RULES: [&str; 3] =
    [include_str!("../../rules/gdn.gdn2"), include_str!("../../rules/kda.gdn2"), include_str!("../../rules/gdn2.gdn2")];
const PASSES: [Pass; 3] = [Pass::Decode, Pass::Forward, Pass::Backward];

/// Runs every candidate that `wanted` picks by its place among the legal ones of a rule, pass and architecture: how many,
/// and those that went wrong. Kernels and correct runs are remembered in the cache, so that a long check which was stopped
/// goes on where it was, and architectures with the same PTX share a run.
fn check(
    rules: &[&str],
    archs: &[Arch],
    passes: &[Pass],
    wanted: impl Fn(usize, usize) -> bool,
) -> (usize, Vec<String>) {
    let search = Search::from_environment(None, None);
    let cache = search.cache.clone();
    let mut evaluator = Evaluator::new(Compiler::new(search), None, cache.as_deref());
    let (mut ran, mut wrong) = (0, Vec::new());
    for &pass in passes {
        for &arch in archs {
            for text in rules {
                let rule: Rule = parse_file(text).unwrap().remove(0);
                let legal = |schedule: &Schedule| bind(&rule, pass, *schedule, arch).is_ok();
                let legal: Vec<Schedule> = space::space(&rule, pass, arch).unwrap().into_iter().filter(legal).collect();
                let picked = legal.iter().enumerate().filter(|(place, _)| wanted(*place, legal.len()));
                for (_, schedule) in picked {
                    let tokens = if pass == Pass::Decode { 1 } else { 2 * schedule.chunk().unwrap_or(1) + 1 };
                    let shape = Shape { batch: 1, tokens, key_heads: 1, value_heads: 1 };
                    let gpu = standing(arch).gpu.to_owned();
                    let job = Job { rule: rule.clone(), pass, shape, gpu, arch, engine: Engine::Vm };
                    let request = Request {
                        job,
                        schedule: *schedule,
                        effort: Effort::FIRST,
                        step: Step::Evaluate,
                        holder: true,
                        timed: None,
                    };
                    // What calls get has a time where it spills, too.
                    let outcome = evaluator.answer(&request);
                    if !matches!(outcome, Some(Outcome::Correct(_))) {
                        wrong.push(format!("{} {pass} {schedule} on {arch}: {outcome:?}", rule.name));
                    }
                    ran += 1;
                }
                println!("{} {pass} on {arch}: {ran} so far, {} wrong", rule.name, wrong.len());
            }
        }
    }
    (ran, wrong)
}

#[test]
fn what_is_legal_compiles_and_runs() {
    // Hours, the first time.
    if std::env::var_os("GDN2_TEST_EVERY_KERNEL").is_some() {
        let (ran, wrong) = check(&RULES, &Arch::ALL, &PASSES, |_, _| true);
        assert!(wrong.is_empty(), "{} of {ran}:\n{}", wrong.len(), wrong.join("\n"));
        return;
    }
    // The middle and the last of each space; another rule per architecture.
    let archs = [(Arch::Sm80, 0), (Arch::Sm86, 1), (Arch::Sm89, 2), (Arch::Sm90a, 2), (Arch::Sm120, 1)];
    for (arch, rule) in archs {
        let sample = |place: usize, all: usize| place == all / 2 || place + 1 == all;
        let (ran, wrong) = check(&RULES[rule..=rule], &[arch], &PASSES, sample);
        assert!(ran >= 4 && wrong.is_empty(), "{ran} on {arch}, wrong:\n{}", wrong.join("\n"));
    }
}
