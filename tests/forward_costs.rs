//! What a forward launch costs, counted by the virtual machine: instructions and bytes of memory.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;

use gdn2_codegen::kernel::Pass;
use gdn2_dsl::{Combination, Draw, Dtype, granularity_combinations};
use gdn2_runtime::device::Device;
use gdn2_runtime::device::vm::Settings;
use gdn2_runtime::engine::Run;
use gdn2_runtime::tensors::Case;
use gdn2_tests::named::with_forward_bytes;
use gdn2_tests::{engine, with_one_gate_less};
use rayon::prelude::*;

#[test]
fn removing_a_gate_never_adds_an_instruction() {
    let engine = engine();
    let device = Device::vm();
    let draw = Draw::new(1, 128, 1, 1, 3);
    let counts: BTreeMap<Combination, u64> = granularity_combinations()
        .into_par_iter()
        .map(|combination| {
            let rule = combination.rule(64, 64, Dtype::Bf16).unwrap();
            let run = Run::new(&rule, Pass::Forward, &device);
            let outcome = engine.run(&run, &Case::drawn(&rule, &draw, false).unwrap()).unwrap();
            (combination, outcome.reports.iter().map(|report| report.instructions).sum())
        })
        .collect();
    assert_eq!(counts.len(), 30);
    let raised: Vec<String> = counts
        .iter()
        .flat_map(|(&combination, &with)| {
            with_one_gate_less(combination).into_iter().map(move |less| (combination, with, less))
        })
        .filter(|(_, with, less)| counts[less] > *with)
        .map(|(combination, with, less)| format!("{combination} runs {with}, {less} runs {}", counts[&less]))
        .collect();
    assert!(raised.is_empty(), "{raised:#?}");
}

#[test]
fn inputs_are_read_about_twice_at_most() {
    const TOKENS: usize = 1024;
    let engine = engine();
    let device = Device::Vm(Settings { count: true, ..Settings::default() });
    for (rule, floor) in with_forward_bytes() {
        let run = Run { final_state: false, ..Run::new(&rule, Pass::Forward, &device) };
        let draw = Draw { initial_state: false, ..Draw::new(1, TOKENS, 1, 1, 5) };
        let outcome = engine.run(&run, &Case::drawn(&rule, &draw, false).unwrap()).unwrap();
        let counters = outcome.reports.iter().map(|report| report.counters.as_ref().unwrap());
        let sectors: u64 = counters.map(|counters| counters.global_read_sectors + counters.global_write_sectors).sum();
        let ratio = 32.0 * sectors as f64 / TOKENS as f64 / floor;
        let (arch, schedule) = outcome.kernel.unwrap();
        println!("{}, {arch} {schedule}: {ratio:.3} of {floor} bytes per token and head", rule.combination());
        assert!(ratio <= 2.1, "{}: {ratio} with {schedule}", rule.combination());
    }
}
