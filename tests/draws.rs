//! Generated kernels on the virtual machine against the float64 definition, on random draws.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::Pass;
use gdn2_dsl::{Draw, Dtype, Grain, Rule, granularity_combinations};
use gdn2_runtime::device::Device;
use gdn2_runtime::engine::Run;
use gdn2_tests::agrees::agrees;
use gdn2_tests::draws::{draws, rules, runner};
use gdn2_tests::seed::seed_of;
use gdn2_tests::{checked, engine, rules_with_kernels};
use proptest::prelude::*;
use rayon::prelude::*;

const PASSES: [Pass; 2] = [Pass::Forward, Pass::Decode];

/// All 30 combinations at K = V = 64 and 128, bf16 and f16, sm_80 and sm_90a. Of the eight kernels of a combination and
/// pass, half are made here, such that neighbouring combinations make the other half and each value of each choice meets
/// each value of every other; all of them with GDN2_TEST_EVERY_KERNEL set.
fn kernels() -> Vec<(Rule, Arch)> {
    let every = std::env::var_os("GDN2_TEST_EVERY_KERNEL").is_some();
    let mut kernels = Vec::new();
    for (index, combination) in granularity_combinations().into_iter().enumerate() {
        for choice in 0..8u32 {
            if every || (choice.count_ones() as usize + index).is_multiple_of(2) {
                let dim = if choice & 1 == 0 { 64 } else { 128 };
                let dtype = if choice & 2 == 0 { Dtype::Bf16 } else { Dtype::F16 };
                let arch = if choice & 4 == 0 { Arch::Sm80 } else { Arch::Sm90a };
                kernels.push((combination.rule(dim, dim, dtype).unwrap(), arch));
            }
        }
    }
    kernels
}

fn every_combination(kernels: &[(Rule, Arch)], pass: Pass, schedule: &str, device: &Device) {
    let engine = engine();
    let failures: Vec<String> = kernels
        .par_iter()
        .flat_map_iter(|(rule, arch)| {
            let run = Run { arch: Some(*arch), schedule, tokens_per_launch: 3, ..Run::new(rule, pass, device) };
            let mut failures = Vec::new();
            // Bytes. Factors of float32 decays on wgmma take as many registers as are left beside the state, and a few more.
            let split = rule.decay.grain == Grain::Channel && rule.decay.storage == Dtype::F32;
            let most = if split && schedule.contains("wgmma") { 48 } else { 0 };
            match engine.artifact(&run) {
                Ok(artifact) => failures.extend(
                    artifact.resources.iter().filter(|entry| entry.spill_stores + entry.spill_loads > most).map(
                        |entry| format!("{} {arch} K = {} {}: spills: {entry:?}", rule.name, rule.key_dim, rule.dtype),
                    ),
                ),
                Err(error) => failures.push(format!("{} {arch}: {error}", rule.name)),
            }
            let draws = Draw::telling(seed_of(u64::from(rule.key_dim)));
            failures.extend(draws.iter().filter_map(|draw| match agrees(&engine, &run, draw, false) {
                Ok(served) => (!served).then(|| format!("{} {arch}: schedule `{schedule}` is illegal", rule.name)),
                Err(error) => Some(error),
            }));
            failures
        })
        .collect();
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_combination_forward() {
    every_combination(&kernels(), Pass::Forward, "matrix=mma", &Device::vm());
}

#[test]
fn every_combination_decode() {
    every_combination(&kernels(), Pass::Decode, "", &Device::vm());
}

#[test]
fn every_combination_forward_on_wgmma() {
    let kernels: Vec<(Rule, Arch)> = kernels().into_iter().filter(|(_, arch)| *arch == Arch::Sm90a).collect();
    assert!(kernels.len() >= 60);
    every_combination(&kernels, Pass::Forward, "matrix=wgmma", &checked());
}

#[test]
fn any_rule_any_draw_forward_on_wgmma() {
    let engine = engine();
    let device = checked();
    let schedules =
        ["", ",chunk=16", ",chunk=32", ",stages=1", ",value_split=2"].map(|more| format!("matrix=wgmma{more}"));
    let strategy = (rules(), draws(), prop::sample::select(schedules.to_vec()), any::<bool>());
    runner(32)
        .run(&strategy, |(rule, draw, schedule, slots)| {
            // Keys of any dim up to 256, values in blocks of 64 rows.
            let rule = Rule { value_dim: 64 * (1 + rule.value_dim / 16 % 4), ..rule };
            let arch = Some(Arch::Sm90a);
            let run = Run { arch, schedule: &schedule, ..Run::new(&rule, Pass::Forward, &device) };
            let served = agrees(&engine, &run, &draw, slots).map_err(TestCaseError::fail)?;
            if served { Ok(()) } else { Err(TestCaseError::reject("illegal schedule")) }
        })
        .unwrap();
}

#[test]
fn every_shipped_rule_compiles_for_every_architecture() {
    let engine = engine();
    let device = Device::vm();
    let shipped = rules_with_kernels().into_iter();
    let rules: Vec<Rule> = shipped.map(|rule| Rule { key_dim: 128, value_dim: 128, ..rule }).collect();
    assert_eq!(rules.len(), 10);
    let failures: Vec<String> = rules
        .par_iter()
        .flat_map_iter(|rule| Arch::ALL.into_iter().flat_map(move |arch| PASSES.map(|pass| (rule, arch, pass))))
        .filter_map(|(rule, arch, pass)| {
            let artifact = engine.artifact(&Run { arch: Some(arch), ..Run::new(rule, pass, &device) });
            artifact.err().map(|error| format!("{} {pass:?} {arch}: {error}", rule.name))
        })
        .collect();
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

fn any_rule_any_draw(pass: Pass, cases: u32) {
    let engine = engine();
    let device = Device::vm();
    let schedules = match pass {
        Pass::Decode => vec!["", "warps=2", "value_split=2"],
        _ => vec!["matrix=mma", "matrix=mma,chunk=16", "matrix=mma,chunk=32", "matrix=mma,chunk=128"],
    };
    let schedules = prop::sample::select(schedules);
    let arches = prop::sample::select(Arch::ALL.to_vec());
    let strategy = (rules(), draws(), schedules, arches, 1usize..=4, any::<bool>());
    runner(cases)
        .run(&strategy, |(rule, draw, schedule, arch, tokens_per_launch, slots)| {
            let run = Run { arch: Some(arch), schedule, tokens_per_launch, ..Run::new(&rule, pass, &device) };
            let served = agrees(&engine, &run, &draw, slots).map_err(TestCaseError::fail)?;
            if served { Ok(()) } else { Err(TestCaseError::reject("illegal schedule")) }
        })
        .unwrap();
}

#[test]
fn any_rule_any_draw_forward() {
    any_rule_any_draw(Pass::Forward, 32);
}

#[test]
fn any_rule_any_draw_decode() {
    any_rule_any_draw(Pass::Decode, 24);
}
