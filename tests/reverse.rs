//! The reverse scan of the backward pass on wgmma, whole and in segments: against the definition, against one segment, and
//! what it costs.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use gdn2_codegen::abi::Tensor;
use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::{LaunchRole, Pass};
use gdn2_codegen::schedule::{Matrix, Schedule};
use gdn2_dsl::bars::Deviation;
use gdn2_dsl::{Draw, Dtype, Regime, Rule, granularity_combinations, parse_file};
use gdn2_runtime::device::Device;
use gdn2_runtime::device::vm::Settings;
use gdn2_runtime::engine::Run;
use gdn2_runtime::tensors::Case;
use gdn2_tests::agrees::gradients_agree;
use gdn2_tests::draws::numbers;
use gdn2_tests::engine;
use gdn2_tests::seed::seed_of;
use gdn2_vm::Check;
use rayon::prelude::*;

fn run<'a>(rule: &'a Rule, schedule: &'a str, device: &'a Device) -> Run<'a> {
    Run { arch: Some(Arch::Sm90a), schedule, ..Run::new(rule, Pass::Backward, device) }
}

/// A device with every check on.
fn checked() -> Device {
    Device::Vm(Settings { check: Check::Full, ..Settings::default() })
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

/// GDN, KDA and GDN-2 at K = V = 128, every gate as bf16.
fn named() -> [Rule; 3] {
    let rule = |name: &str, gates: &str| {
        parse_file(&format!("rule {name} {{ {gates} key_dim: 128; value_dim: 128; dtype: bf16; }}")).unwrap().remove(0)
    };
    [
        rule("gdn", "decay: scalar as bf16; erase: scalar; write: erase;"),
        rule("kda", "decay: channel as bf16; erase: scalar; write: erase;"),
        rule("gdn2", "decay: channel as bf16; erase: channel; write: channel;"),
    ]
}

#[test]
fn the_scan_spills_no_register_and_gdn_makes_no_product_wait_for_another() {
    let (engine, device) = (engine(), Device::vm());
    for rule in named() {
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
    for (rule, gates) in named().into_iter().zip(gates) {
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

#[test]
fn eight_segments_are_as_exact_as_one() {
    let (engine, device) = (engine(), Device::vm());
    for rule in named() {
        let draw = Draw { regime: Regime::None, ..Draw::new(1, 512, 1, 1, seed_of(11)) };
        let case = Case::drawn(&rule, &draw, true).unwrap();
        let errors = |segments: u32| {
            let schedule = format!("segments={segments}");
            let outcome = engine.run(&run(&rule, &schedule, &device), &case).unwrap();
            let got = |tensor: &Tensor| outcome.tensors[tensor].data.iter().copied().map(f64::from);
            let tensors = outcome.tensors.keys();
            tensors.map(|tensor| Deviation::of(got(tensor), &numbers(&case, *tensor)).relative).collect::<Vec<f64>>()
        };
        let (one, eight) = (errors(1), errors(8));
        println!("{}: {one:.5?} in one, {eight:.5?} in eight", rule.name);
        for (one, eight) in one.into_iter().zip(eight) {
            assert!(eight <= 1.2 * one + 2e-4, "{}: {eight} in eight segments, {one} in one", rule.name);
        }
    }
}
