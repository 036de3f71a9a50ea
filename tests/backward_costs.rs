//! What the backward pass costs: instructions and bytes of memory as the virtual machine counts them, and spills.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use gdn2_codegen::abi::Tensor;
use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::Pass;
use gdn2_dsl::{Combination, Draw, Dtype, Grain, granularity_combinations};
use gdn2_runtime::device::Device;
use gdn2_runtime::device::vm::Settings;
use gdn2_runtime::engine::Run;
use gdn2_runtime::tensors::Case;
use gdn2_tests::named::{in_bf16, shipped};
use gdn2_tests::{engine, rules_with_kernels, with_one_gate_less};
use gdn2_vm::Report;
use rayon::prelude::*;
use std::collections::BTreeMap;

#[test]
fn default_schedules_of_shipped_rules_spill_nothing() {
    let engine = engine();
    let device = Device::vm();
    let rules = rules_with_kernels();
    assert!(rules.len() >= 8);
    for rule in rules {
        let rule = rule.with_dims(128, 128).unwrap();
        for pass in [Pass::ForwardForBackward, Pass::Backward] {
            let run = Run { arch: Some(Arch::Sm90a), ..Run::new(&rule, pass, &device) };
            let artifact = engine.artifact(&run).unwrap();
            assert!(!artifact.resources.is_empty());
            for entry in &artifact.resources {
                println!("{}: {} registers, {} bytes of stack", entry.entry, entry.registers, entry.stack);
                // Decays of every channel in float32 leave the warps that make GDN-2's factors a register or two short.
                let wide = rule.decay.grain == Grain::Channel && rule.decay.storage == Dtype::F32;
                let scan = if wide && rule.erase.grain == Grain::Channel { 48 } else { 0 };
                // On wgmma two blocks of gradients share a multiprocessor and half its registers each, which the clock has
                // faster than one that spills nothing. Where channels decay a block has them all, and sums of all tokens
                // in 96 of them leave a few too little.
                let gradients = entry.entry.ends_with("_gradients");
                let allowed = match (gradients, entry.registers) {
                    (true, 128) => 424,
                    (true, _) if rule.decay.grain == Grain::Channel => 128,
                    _ => scan,
                };
                assert!(entry.spill_stores + entry.spill_loads <= allowed, "{entry:?}");
            }
        }
    }
}

#[test]
fn removing_a_gate_never_adds_an_instruction() {
    let engine = engine();
    let device = Device::vm();
    let draw = Draw::new(1, 128, 1, 1, 3);
    let counts: BTreeMap<Combination, u64> = granularity_combinations()
        .into_par_iter()
        .map(|combination| {
            let rule = combination.rule(64, 64, Dtype::Bf16).unwrap();
            let run = Run::new(&rule, Pass::Backward, &device);
            let outcome = engine.run(&run, &Case::drawn_inputs(&rule, &draw, true).unwrap()).unwrap();
            // The first report is forward's, which keeps the states.
            (combination, outcome.reports[1..].iter().map(|report| report.instructions).sum())
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

/// A layer's gradients on wgmma beside those of the same rule whose gates arrive computed and whose rows arrive normalised: at
/// most how many instructions of a warp and bytes asked for a token and head takes more, in that launch and in those that pull
/// back, and bytes spilled. `dq` and `dk` of channels pass through memory in float32 on their way through the norms.
const LAYERS: [(&str, &str, [f64; 3], u64); 4] = [
    ("gdn_layer", "gdn", [173.1, 0.1, 34.3], 140),
    ("kda_layer", "kda_bf16", [539.5, 2314.1, 1069.1], 120),
    ("gdn2_layer", "gdn2_bf16", [674.7, 2568.1, 2852.1], 108),
    ("gla_layer", "gla", [91.6, -256.0, 1024.0], 0),
];

#[test]
fn gradients_of_formulas_cost_what_they_compute() {
    const TOKENS: usize = 512;
    let engine = engine();
    let device = Device::Vm(Settings { count: true, ..Settings::default() });
    // Instructions and bytes of the gradients, and bytes of what follows.
    let costs = |name: &str| {
        let rule = shipped(name);
        let run = Run { arch: Some(Arch::Sm90a), schedule: "segments=1", ..Run::new(&rule, Pass::Backward, &device) };
        let draw = Draw { initial_state: false, ..Draw::new(1, TOKENS, 1, 1, 5) };
        let outcome = engine.run(&run, &Case::drawn_inputs(&rule, &draw, true).unwrap()).unwrap();
        let cost = |report: &Report| {
            let counters = report.counters.as_ref().unwrap();
            let bytes = counters.global_read_bytes + counters.global_write_bytes;
            [report.instructions, bytes].map(|count| count as f64 / TOKENS as f64)
        };
        // Forward, which keeps the states, and the scan back; then the gradients and what pulls them back.
        let [_, _, gradients, after @ ..] = &outcome.reports[..] else { panic!("{name}: too few launches") };
        let [instructions, bytes] = cost(gradients);
        [instructions, bytes, after.iter().map(|report| cost(report)[1]).sum()]
    };
    for (layer, given, most, spilled) in LAYERS {
        let (with, without) = (costs(layer), costs(given));
        let more: Vec<f64> = with.iter().zip(without).map(|(with, without)| with - without).collect();
        println!("{layer}: {with:.1?}, beyond {given} {more:.1?}");
        for (what, (more, most)) in ["instructions", "bytes", "bytes after"].iter().zip(more.iter().zip(most)) {
            assert!(*more <= most + 0.02 * most.abs() + 1.0, "{layer} beyond {given}: {more} {what}, at most {most}");
        }
        let rule = shipped(layer);
        let artifact = engine.artifact(&Run { arch: Some(Arch::Sm90a), ..Run::new(&rule, Pass::Backward, &device) });
        let resources = artifact.unwrap().resources;
        let taken = resources.iter().find(|entry| entry.entry.ends_with("_gradients")).unwrap();
        println!("{layer}: {} bytes spilled, {} loaded", taken.spill_stores, taken.spill_loads);
        assert!(u64::from(taken.spill_stores + taken.spill_loads) <= spilled, "{taken:?}");
    }
}

fn sectors(reports: &[Report]) -> (u64, u64) {
    let counters = || reports.iter().map(|report| report.counters.as_ref().unwrap());
    (counters().map(|c| c.global_read_sectors).sum(), counters().map(|c| c.global_write_sectors).sum())
}

#[test]
fn a_token_moves_few_bytes() {
    const TOKENS: usize = 1024;
    let engine = engine();
    // What a sequence costs at its ends, whatever its length, is no cost of a token: no states are passed.
    let draw = Draw { initial_state: false, ..Draw::new(1, TOKENS, 1, 1, 5) };
    let device = Device::Vm(Settings { count: true, ..Settings::default() });
    // GDN's gradients on wgmma ask for S, dS and q more than once: asked for once, bytes are 4,656.
    for (rule, most) in in_bf16().into_iter().zip([6700.0, 5500.0, 6800.0]) {
        let name = &rule.name;
        let mut case = Case::drawn_inputs(&rule, &draw, true).unwrap();
        case.tensors.remove(&Tensor::DFinalState);
        let run = |pass| Run {
            arch: Some(Arch::Sm90a),
            schedule: "chunk=64,value_split=1",
            ..Run::new(&rule, pass, &device)
        };
        let all = engine.run(&run(Pass::Backward), &case).unwrap();
        // The first report is forward's, which keeps the states; plain forward says what it writes anyway.
        let plain = engine.run(&Run { final_state: false, ..run(Pass::Forward) }, &case).unwrap();
        let (forward, backward) = all.reports.split_at(1);
        let (read, written) = sectors(backward);
        let kept = sectors(forward).1 - sectors(&plain.reports).1;
        let per = |sectors: u64| sectors as f64 * 32.0 / TOKENS as f64;
        let bytes = per(read + written + kept);
        println!(
            "{name}: {bytes} bytes per token and head: read {}, written {}, kept by forward {}",
            per(read),
            per(written),
            per(kept)
        );
        assert!(bytes <= most, "{name}: {bytes} bytes per token and head, at most {most}");
    }
}
