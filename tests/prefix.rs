//! Outputs of a prefix are the same, bit for bit, whatever follows it: no decay, gate or value of a later token has a part
//! in them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use gdn2_codegen::abi::Tensor;
use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::Pass;
use gdn2_dsl::{Draw, Regime, Rule};
use gdn2_runtime::device::Device;
use gdn2_runtime::engine::{Engine, Run};
use gdn2_runtime::tensors::Case;
use gdn2_tests::seed::{again, seed, seed_of};
use gdn2_tests::{engine, rules_with_kernels};
use rayon::prelude::*;

/// Of how many pairs of a rule and a matrix instruction a run takes one.
const SHARES: u64 = 4;

/// `case` up to token `prefix`, `other` from there on. Both are one sequence, `[1, T, H, D]`.
fn followed_by(case: &Case, other: &Case, prefix: usize, tokens: usize) -> Case {
    let mut spliced = case.clone();
    for (tensor, array) in &mut spliced.tensors {
        if *tensor != Tensor::InitialState {
            let from = array.data.len() / tokens * prefix;
            array.data[from..].copy_from_slice(&other.tensors[tensor].data[from..]);
        }
    }
    spliced
}

/// Bits of the first outputs.
fn outputs(engine: &Engine, rule: &Rule, matrix: &str, case: &Case, prefix: usize, tokens: usize) -> Vec<u32> {
    let (device, schedule) = (Device::vm(), format!("matrix={matrix}"));
    let run = Run { arch: Some(Arch::Sm90a), schedule: &schedule, ..Run::new(rule, Pass::Forward, &device) };
    let o = &engine.run(&run, case).unwrap().tensors[&Tensor::O].data;
    o[..o.len() / tokens * prefix].iter().map(|number| number.to_bits()).collect()
}

/// Shipped rules on both matrix instructions, under any decay: a rotating share of the pairs, all of them
/// with GDN2_TEST_EVERY_KERNEL set.
#[test]
fn outputs_of_a_prefix_are_the_same_whatever_follows() {
    let every = std::env::var_os("GDN2_TEST_EVERY_KERNEL").is_some();
    let engine = engine();
    let pairs = rules_with_kernels().into_iter().flat_map(|rule| ["mma", "wgmma"].map(|matrix| (rule.clone(), matrix)));
    let share: Vec<_> = (0u64..).zip(pairs).filter(|(index, _)| every || index % SHARES == seed() % SHARES).collect();
    assert!(!share.is_empty());
    share.into_par_iter().for_each(|(index, (rule, matrix))| {
        let regime = [Regime::Mild, Regime::Strong, Regime::Reset, Regime::None][(seed_of(index) % 4) as usize];
        // Two chunks and more; the prefix ends anywhere.
        let tokens = 65 + (seed_of(index + 1000) % 96) as usize;
        let prefix = 1 + seed_of(index + 2000) as usize % (tokens - 1);
        let draw = |regime, draw: u64| Draw { regime, ..Draw::new(1, tokens, 1, 1, seed_of(index + draw)) };
        let case = Case::drawn_inputs(&rule, &draw(regime, 3000), false).unwrap();
        let expected = outputs(&engine, &rule, matrix, &case, prefix, tokens);
        for (next, regime) in (4000..).zip([Regime::Mild, Regime::Reset]) {
            let other = Case::drawn_inputs(&rule, &draw(regime, next), false).unwrap();
            let followed = followed_by(&case, &other, prefix, tokens);
            let got = outputs(&engine, &rule, matrix, &followed, prefix, tokens);
            let differs = got.iter().zip(&expected).position(|(got, expected)| got != expected);
            let told = differs.map(|at| (at / rule.value_dim as usize, got[at], expected[at]));
            assert!(told.is_none(), "{} on {matrix}: {prefix} of {tokens} tokens: {told:x?}\n{}", rule.name, again());
        }
        println!("{} on {matrix}: {prefix} of {tokens} tokens, {regime:?}", rule.name);
    });
}
