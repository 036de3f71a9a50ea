//! What a decode launch costs, counted by the virtual machine: instructions and bytes of memory.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use gdn2_codegen::kernel::Pass;
use gdn2_dsl::{Combination, Draw, Dtype, Grain, Rule, StateLayout, Write, granularity_combinations};
use gdn2_runtime::device::Device;
use gdn2_runtime::device::vm::Settings;
use gdn2_runtime::engine::{Engine, Run};
use gdn2_runtime::tensors::Case;
use gdn2_tests::{engine, with_one_gate_less};
use gdn2_vm::Report;
use rayon::prelude::*;

const HEADS: usize = 2;

/// The report on one launch of `tokens` tokens, states read and written.
fn counted(engine: &Engine, rule: &Rule, tokens: usize) -> Report {
    let device = Device::Vm(Settings { count: true, ..Settings::default() });
    let run = Run { tokens_per_launch: tokens, ..Run::new(rule, Pass::Decode, &device) };
    let case = Case::drawn(rule, &Draw::new(1, tokens, HEADS, HEADS, 1), false).unwrap();
    let mut reports = engine.run(&run, &case).unwrap().reports;
    assert_eq!(reports.len(), 1);
    reports.pop().unwrap()
}

#[test]
fn removing_a_gate_never_adds_an_instruction() {
    let engine = engine();
    for (state, dim, tokens, dtype) in [(StateLayout::Kv, 128, 1, Dtype::Bf16), (StateLayout::Vk, 64, 4, Dtype::F16)] {
        let count = |combination: &Combination| {
            let rule = Rule { state, ..combination.rule(dim, dim, dtype).unwrap() };
            counted(&engine, &rule, tokens).instructions
        };
        let combinations = granularity_combinations();
        let counts: Vec<u64> = combinations.par_iter().map(count).collect();
        let of = |combination: &Combination| counts[combinations.iter().position(|one| one == combination).unwrap()];
        for combination in &combinations {
            for less in with_one_gate_less(*combination) {
                let (before, after) = (of(combination), of(&less));
                assert!(after <= before, "{combination:?}: {before} instructions, {less:?}: {after}");
            }
        }
    }
}

#[test]
fn a_token_moves_at_most_a_twentieth_more_bytes_than_it_must() {
    let engine = engine();
    for combination in granularity_combinations() {
        for state in [StateLayout::Kv, StateLayout::Vk] {
            let mut rule = Rule { state, ..combination.rule(128, 128, Dtype::Bf16).unwrap() };
            rule.decay.storage = Dtype::Bf16;
            let numbers = |grain: Grain, channels| match grain {
                Grain::None => 0,
                Grain::Scalar => 1,
                Grain::Channel => channels,
            };
            let write = match rule.write {
                Write::Own(gate) => numbers(gate.grain, 128),
                Write::Tied => 0,
            };
            let vectors = 4 * 128 + numbers(rule.decay.grain, 128) + numbers(rule.erase.grain, 128) + write;
            let must = HEADS * (2 * 128 * 128 * 4 + vectors * 2);
            let counters = counted(&engine, &rule, 1).counters.unwrap();
            let moved = (counters.global_read_sectors + counters.global_write_sectors) * 32;
            assert!(moved as f64 <= 1.05 * must as f64, "{rule}: {moved} bytes for {must}");
        }
    }
}
