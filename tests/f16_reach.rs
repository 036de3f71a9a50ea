//! Rules in f16 whose states, values less what the state gives, or states' gradients lie beyond 65,504, where f16 ends,
//! while everything that leaves the kernels fits it: as right as any other numbers.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use gdn2_codegen::abi::Tensor;
use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::Pass;
use gdn2_dsl::bars::Deviation;
use gdn2_dsl::{Draw, Dtype, Rule};
use gdn2_runtime::device::Device;
use gdn2_runtime::device::vm::Settings;
use gdn2_runtime::engine::{Outcome, Run};
use gdn2_runtime::tensors::Case;
use gdn2_tests::seed::{again, seed_of};
use gdn2_tests::{engine, rules_with_kernels};
use gdn2_vm::Check;
use rayon::prelude::*;

/// RMSE / RMS that an output may have: one and a half of the bars of a case.
const MOST: f64 = 0.0075;

fn rule(name: &str) -> Rule {
    let shipped = rules_with_kernels().into_iter().find(|rule| rule.name == name).unwrap();
    let mut rule = shipped.with_dims(64, 64).unwrap();
    rule.dtype = Dtype::F16;
    rule.checked().unwrap()
}

/// Every number of a tensor times a power of two.
fn scale(case: &mut Case, tensor: Tensor, power: i32) {
    if let Some(array) = case.tensors.get_mut(&tensor) {
        array.data.iter_mut().for_each(|x| *x *= (power as f32).exp2());
    }
}

/// A draw with states beyond f16, and queries and gradients that bring what comes of them back.
fn large_states(rule: &Rule, seed: u64) -> Case {
    let mut case = Case::drawn_inputs(rule, &Draw::new(1, 133, 1, 1, seed), true).unwrap();
    scale(&mut case, Tensor::InitialState, 17);
    scale(&mut case, Tensor::Q, -6);
    scale(&mut case, Tensor::DO, -6);
    scale(&mut case, Tensor::DFinalState, -6);
    case
}

/// A draw whose final states' gradients are beyond f16.
fn large_gradients(rule: &Rule, seed: u64) -> Case {
    let mut case = Case::drawn_inputs(rule, &Draw::new(1, 133, 1, 1, seed), true).unwrap();
    scale(&mut case, Tensor::DFinalState, 17);
    scale(&mut case, Tensor::K, -6);
    for small in [Tensor::V, Tensor::InitialState] {
        scale(&mut case, small, -8);
    }
    case
}

/// A draw of values just below the end of f16, and states that add as much to them again.
fn large_values(rule: &Rule, seed: u64) -> Case {
    let mut case = Case::drawn_inputs(rule, &Draw::new(1, 133, 1, 1, seed), true).unwrap();
    for x in &mut case.tensors.get_mut(&Tensor::V).unwrap().data {
        let near_the_end = (65_504.0 - 32.0 * (x.abs().fract() * 170.0).floor()).copysign(*x);
        *x = near_the_end;
    }
    scale(&mut case, Tensor::InitialState, 17);
    scale(&mut case, Tensor::Q, -7);
    scale(&mut case, Tensor::DO, -7);
    scale(&mut case, Tensor::DFinalState, -7);
    case
}

fn run(rule: &Rule, pass: Pass, arch: Option<Arch>, schedule: &str, device: &Device, case: &Case) -> Outcome {
    let run = Run { arch, schedule, ..Run::new(rule, pass, device) };
    engine().run(&run, case).unwrap_or_else(|error| panic!("{} {pass:?} {schedule}: {error}", rule.name))
}

/// What is wrong with the outputs of a schedule, beside those of the definition.
fn wrong(name: &str, case: &Case, pass: Pass, arch: Arch, schedule: &str) -> Vec<String> {
    let rule = rule(name);
    let vm = Device::Vm(Settings { check: Check::Full, ..Settings::default() });
    let exact = run(&rule, pass, None, "", &Device::cpu(), case);
    let ours = run(&rule, pass, Some(arch), schedule, &vm, case);
    let findings = ours.reports.iter().flat_map(|r| &r.findings).map(|f| format!("{name} {schedule}: {f}"));
    let errors = ours.tensors.iter().filter_map(|(tensor, ours)| {
        let exact = &exact.tensors.get(tensor)?.data;
        let largest = exact.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let stored = [Tensor::O, Tensor::DQ, Tensor::DK, Tensor::DV].contains(tensor);
        assert!(!stored || largest <= 65_504.0, "{name} {tensor:?}: the draw is beyond f16: {largest}");
        let exact: Vec<f64> = exact.iter().copied().map(f64::from).collect();
        let off = Deviation::of(ours.data.iter().copied().map(f64::from), &exact);
        let what =
            format!("{name} {} {arch} {schedule} {tensor:?}: {:.5}, numbers to {largest:e}", pass.name(), off.relative);
        println!("{what}");
        (!off.passes(MOST)).then_some(what)
    });
    findings.chain(errors).collect()
}

/// Every rule of these on every way through a pass.
fn all_right(ways: &[(Pass, Arch, &str)], draw: fn(&Rule, u64) -> Case) {
    // Where nothing is erased, values are as the caller has them.
    let rules = ["deltanet", "gdn", "kda", "gdn2", "linear", "mamba2", "gla"];
    let all: Vec<_> = rules.iter().flat_map(|name| ways.iter().map(move |way| (*name, *way))).collect();
    let judge = |(index, (name, (pass, arch, schedule))): (usize, &(&str, (Pass, Arch, &str)))| {
        let case = draw(&rule(name), seed_of(index as u64));
        wrong(name, &case, *pass, *arch, schedule)
    };
    let wrong: Vec<String> = all.par_iter().enumerate().flat_map_iter(judge).collect();
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), again());
}

#[test]
fn forward_reads_states_beyond_f16() {
    let ways = [
        (Pass::Forward, Arch::Sm80, ""),
        (Pass::Forward, Arch::Sm80, "chunk=16"),
        (Pass::Forward, Arch::Sm90a, "matrix=wgmma"),
        (Pass::Forward, Arch::Sm90a, "matrix=wgmma,chunk=32,segments=2"),
        (Pass::Decode, Arch::Sm80, ""),
    ];
    all_right(&ways, large_states);
}

#[test]
fn backward_reads_states_beyond_f16() {
    all_right(&[(Pass::Backward, Arch::Sm80, ""), (Pass::Backward, Arch::Sm90a, "recompute=1")], large_states);
}

#[test]
fn backward_carries_gradients_beyond_f16() {
    all_right(&[(Pass::Backward, Arch::Sm80, ""), (Pass::Backward, Arch::Sm80, "recompute=1")], large_gradients);
}

#[test]
fn forward_makes_values_beyond_f16() {
    let ways = [
        (Pass::Forward, Arch::Sm80, ""),
        (Pass::Forward, Arch::Sm80, "chunk=16"),
        (Pass::Forward, Arch::Sm90a, "matrix=wgmma"),
        (Pass::Forward, Arch::Sm90a, "matrix=wgmma,chunk=32,segments=2"),
        (Pass::Forward, Arch::Sm80, "segments=2"),
        (Pass::Decode, Arch::Sm80, ""),
    ];
    all_right(&ways, large_values);
}

#[test]
fn backward_makes_values_beyond_f16() {
    all_right(&[(Pass::Backward, Arch::Sm80, ""), (Pass::Backward, Arch::Sm80, "recompute=1")], large_values);
}
