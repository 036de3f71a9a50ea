//! The reverse scan of the backward pass on wgmma, whole and in segments: against the definition, against one segment, and
//! what it costs.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use gdn2_codegen::abi::Tensor;
use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::{LaunchRole, Pass};
use gdn2_codegen::schedule::{Matrix, Schedule};
use gdn2_dsl::bars::Deviation;
use gdn2_dsl::{Draw, Dtype, Grain, Regime, Rule, granularity_combinations, parse_file};
use gdn2_runtime::device::Device;
use gdn2_runtime::device::vm::Settings;
use gdn2_runtime::engine::Run;
use gdn2_runtime::tensors::Case;
use gdn2_tests::agrees::gradients_agree;
use gdn2_tests::draws::numbers;
use gdn2_tests::named::in_bf16;
use gdn2_tests::seed::seed_of;
use gdn2_tests::{checked, engine};
use rayon::prelude::*;
use std::collections::BTreeMap;

fn run<'a>(rule: &'a Rule, schedule: &'a str, device: &'a Device) -> Run<'a> {
    Run { arch: Some(Arch::Sm90a), schedule, ..Run::new(rule, Pass::Backward, device) }
}

/// Long enough for chunks of `chunk` tokens in each of eight segments: grouped heads; packed with empty and short sequences
/// under strong decay; and what is hardest to hold exactly, without decay or near it.
fn long_draws(chunk: usize, seed: u64) -> [Draw; 3] {
    let tokens = 8 * chunk + chunk / 2 + 5;
    [
        Draw::new(1, tokens, 1, 2, seed),
        Draw {
            cu_seqlens: Some(vec![0, 0, 1, 2 * chunk + 3, 2 * chunk + 3, tokens]),
            regime: Regime::Strong,
            ..Draw::new(1, tokens, 1, 1, seed.wrapping_add(1))
        },
        Draw {
            regime: Regime::None,
            near_identical_keys: true,
            initial_state: false,
            ..Draw::new(1, tokens, 1, 1, seed.wrapping_add(2))
        },
    ]
}

/// All 30 combinations of gates, chunks of 16 and of 64 in 1, 2, 3 and 8 segments: each combination in one of the eight ways
/// on one of three draws, both by the seed; in all of them with GDN2_TEST_EVERY_KERNEL set.
#[test]
fn every_combination_in_segments() {
    let every = std::env::var_os("GDN2_TEST_EVERY_KERNEL").is_some();
    let (engine, device, share) = (engine(), checked(), seed_of(0));
    println!("share {} of 8, draw {} of 3", share % 8, share % 3);
    let mut cases: Vec<(Rule, String, Draw)> = Vec::new();
    for (index, combination) in granularity_combinations().into_iter().enumerate() {
        let rule = combination.rule(64, 64, if index % 2 == 0 { Dtype::Bf16 } else { Dtype::F16 }).unwrap();
        for (way, (chunk, segments)) in [16, 64].into_iter().flat_map(|c| [1, 2, 3, 8].map(|s| (c, s))).enumerate() {
            for (place, draw) in long_draws(chunk, seed_of(1 + index as u64)).into_iter().enumerate() {
                let turn = index as u64 + share;
                if every || (way as u64 == turn % 8 && place as u64 == turn % 3) {
                    let schedule = format!("matrix=wgmma,chunk={chunk},segments={segments}");
                    cases.push((rule.clone(), schedule, draw));
                }
            }
        }
    }
    let fails = |(rule, schedule, draw): &(Rule, String, Draw)| match gradients_agree(
        &engine,
        &run(rule, schedule, &device),
        draw,
    ) {
        Ok(served) => (!served).then(|| format!("{} {schedule}: illegal", rule.name)),
        Err(error) => Some(error),
    };
    let failures: Vec<String> = cases.par_iter().filter_map(fails).collect();
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// The built-in schedule where its scan is on wgmma, at every key dim: rules that fold gates in at different places, value
/// dims of one, two, three and more blocks of 64, both operand types. One case in twenty by the seed; all with
/// GDN2_TEST_EVERY_KERNEL set.
#[test]
fn every_head_dim_in_the_built_in_schedule() {
    let every = std::env::var_os("GDN2_TEST_EVERY_KERNEL").is_some();
    let (engine, device, share) = (engine(), checked(), seed_of(40));
    println!("share {} of 20", share % 20);
    let text = "rule mix { decay: scalar; erase: channel; write: scalar; key_dim: 64; value_dim: 64; dtype: bf16; }";
    let mut rules = parse_file(text).unwrap();
    rules.extend(in_bf16());
    let mut cases = Vec::new();
    for (index, rule) in rules.into_iter().enumerate() {
        for (tiles, value_dim) in
            (1..=16).flat_map(|tiles| [64, 128, 192, 256, 512].map(|value_dim| (tiles, value_dim)))
        {
            let dtype =
                if (index as u32 + tiles + value_dim / 64).is_multiple_of(2) { Dtype::Bf16 } else { Dtype::F16 };
            let rule = Rule { dtype, ..rule.with_dims(16 * tiles, value_dim).unwrap() };
            if every || cases.len() as u64 % 20 == share % 20 {
                cases.push(Some(rule));
            } else {
                cases.push(None);
            }
        }
    }
    let drawn = cases.into_iter().enumerate().filter_map(|(place, rule)| Some((place as u64, rule?)));
    let fails = |(place, rule): &(u64, Rule)| {
        let what = format!("{} K={} V={} {}", rule.name, rule.key_dim, rule.value_dim, rule.dtype);
        match gradients_agree(&engine, &run(rule, "", &device), &Draw::new(1, 133, 1, 1, seed_of(50 + place))) {
            Ok(served) => (!served).then(|| format!("{what}: illegal")),
            Err(error) => Some(format!("{what}: {error}")),
        }
    };
    let failures: Vec<String> = drawn.collect::<Vec<_>>().par_iter().filter_map(fails).collect();
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn the_scan_spills_no_register_and_gdn_makes_no_product_wait_for_another() {
    let (engine, device) = (engine(), Device::vm());
    for rule in in_bf16() {
        for segments in [1, 8] {
            let schedule = format!("segments={segments}");
            let artifact = engine.artifact(&run(&rule, &schedule, &device)).unwrap();
            let Schedule::Backward(numbers) = artifact.kernel.schedule else { panic!("a schedule of another pass") };
            assert_eq!(numbers.matrix, Matrix::Wgmma, "{}: the built-in scan", rule.name);
            for taken in artifact.resources.iter().filter(|taken| taken.entry.contains("_states")) {
                assert_eq!((taken.spill_stores, taken.spill_loads), (0, 0), "{}", taken.entry);
            }
            // Where channels decay, the scan waits for factors, and what the assembler makes wait for another product is no
            // loss by the clock.
            let serialized = artifact.log.lines().filter(|line| line.contains("serialized"));
            let scan = serialized.filter(|line| line.contains("gdn_backward_states")).count();
            assert_eq!(scan, 0, "{}: {}", rule.name, artifact.log);
        }
    }
}

/// What the scan reads and keeps, once each: q, k, dO, gates that are not the write gate's, and dS of every chunk.
#[test]
fn the_scan_moves_each_byte_once() {
    const TOKENS: usize = 4096;
    let engine = engine();
    let device = Device::Vm(Settings { count: true, ..Settings::default() });
    // q, k, dO and the kept dS, a token and head; decay and erase.
    let rows = 128.0 * 2.0 * 3.0 + 128.0 * 128.0 * 2.0 / 64.0;
    let gates = [2.0 + 2.0, 256.0 + 2.0, 256.0 + 256.0];
    for (rule, gates) in in_bf16().into_iter().zip(gates) {
        let draw = Draw { initial_state: false, ..Draw::new(1, TOKENS, 1, 1, seed_of(5)) };
        let case = Case::drawn_inputs(&rule, &draw, true).unwrap();
        let artifact = engine.artifact(&run(&rule, "", &device)).unwrap();
        let scan = artifact.kernel.launches.iter().position(|launch| launch.role == LaunchRole::ReverseScan).unwrap();
        let outcome = engine.run(&run(&rule, "", &device), &case).unwrap();
        // The first report is forward's.
        let counters = outcome.reports[1 + scan].counters.as_ref().unwrap();
        let sectors = counters.global_read_sectors + counters.global_write_sectors;
        let ratio = 32.0 * sectors as f64 / TOKENS as f64 / (rows + gates);
        let instructions = counters.instructions.iter().map(|row| row.executed).sum::<u64>() as f64 / TOKENS as f64;
        println!("{}: {ratio:.3} of {} bytes, {instructions:.0} instructions a token", rule.name, rows + gates);
        assert!(ratio <= 1.02, "{}: {ratio}", rule.name);
    }
}

/// Compared tensor by tensor, but for the gradient of a decay with one number per token. That is summed to its chunk's end, so
/// that all tokens of a chunk share most of their error and eight chunks are eight numbers: either way came out at 0.002 to
/// 0.0085 over ten seeds, the larger one by turns. It is held to an absolute limit.
#[test]
fn eight_segments_are_as_exact_as_one() {
    let (engine, device) = (engine(), Device::vm());
    for rule in in_bf16() {
        let draw = Draw { regime: Regime::None, ..Draw::new(1, 512, 1, 1, seed_of(11)) };
        let case = Case::drawn(&rule, &draw, true).unwrap();
        let errors = |segments: u32| {
            let schedule = format!("segments={segments}");
            let outcome = engine.run(&run(&rule, &schedule, &device), &case).unwrap();
            let got = |tensor: &Tensor| outcome.tensors[tensor].data.iter().copied().map(f64::from);
            let tensors = outcome.tensors.keys().copied();
            tensors.map(|tensor| (tensor, Deviation::of(got(&tensor), &numbers(&case, tensor)).relative)).collect()
        };
        let (one, eight): (BTreeMap<Tensor, f64>, BTreeMap<Tensor, f64>) = (errors(1), errors(8));
        println!("{}: {one:.5?} in one, {eight:.5?} in eight", rule.name);
        for (tensor, one) in &one {
            let summed = *tensor == Tensor::DG && rule.decay.grain == Grain::Scalar;
            let (eight, limit) = (eight[tensor], if summed { 0.02 } else { 1.2 * one + 2e-4 });
            assert!(eight <= limit, "{} {}: {eight} in eight segments, {one} in one", rule.name, tensor.name());
        }
    }
}
