//! Generated kernels on the virtual machine against the float64 definition, on random draws.
//!
//! The tolerance of a draw is the larger of 1.5 bars and 1.5 times what rounding the matrix operands costs in
//! simulation on that very draw, and never more than 6 bars.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use gdn2_codegen::abi::Tensor;
use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::Pass;
use gdn2_codegen::schedule::Schedule;
use gdn2_dsl::bars::{Deviation, bar, drawn_bar};
use gdn2_dsl::{Bound, Combination, Draw, Dtype, Grain, Regime, Rule, StateLayout, granularity_combinations, simulate};
use gdn2_runtime::device::Device;
use gdn2_runtime::engine::{Engine, Run, RunError};
use gdn2_runtime::tensors::{Array, Case};
use gdn2_tests::engine;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use rayon::prelude::*;

/// How far each output of a draw may be from the definition.
fn limits(rule: &Rule, draw: &Draw, exact: &Case, chunk: u32) -> Vec<(Tensor, f64)> {
    let simulated = simulate::forward(rule, &draw.inputs(rule), chunk as usize).unwrap();
    let limit = |tensor: Tensor, simulated: Vec<f64>| {
        let rounding = Deviation::of(simulated.into_iter(), &numbers(exact, tensor)).relative;
        (tensor, drawn_bar(bar(tensor.name()).unwrap(), rounding))
    };
    vec![limit(Tensor::O, simulated.o), limit(Tensor::FinalState, simulated.final_state)]
}

fn numbers(case: &Case, tensor: Tensor) -> Vec<f64> {
    case.tensors[&tensor].data.iter().copied().map(f64::from).collect()
}

/// Runs a draw, its states in slots of a pool if asked for, and compares every output. Whether the schedule could serve
/// it is the answer; anything wrong is the error.
fn agrees(engine: &Engine, run: &Run<'_>, draw: &Draw, slots: bool) -> Result<bool, String> {
    let exact = Case::drawn(run.rule, draw, false).unwrap();
    let case = if slots { slotted(&exact) } else { exact.clone() };
    let what = || format!("{}{:?} {draw:?}", run.rule, run.pass);
    let outcome = match engine.run(run, &case) {
        Ok(outcome) => outcome,
        Err(RunError::Illegal(_)) => return Ok(false),
        Err(error) => return Err(format!("{}: {error}", what())),
    };
    let (arch, schedule) = outcome.kernel.unwrap();
    let chunk = match schedule {
        Schedule::Forward(forward) => forward.chunk,
        Schedule::Backward(backward) => backward.chunk,
        Schedule::Decode(_) => 16,
    };
    for (tensor, limit) in limits(run.rule, draw, &exact, chunk) {
        let got = outcome.tensors[&tensor].data.iter().copied().map(f64::from);
        let deviation = Deviation::of(got, &numbers(&case, tensor));
        if !deviation.passes(limit) {
            let name = tensor.name();
            return Err(format!("{name}: {deviation:?}, limit {limit}, {arch} {schedule}: {}", what()));
        }
    }
    if let Some(slots) = case.final_slots {
        let [pool, untouched] = [&outcome.tensors, &case.tensors].map(|tensors| &tensors[&Tensor::FinalState]);
        let size = pool.data.len() / pool.shape[0];
        for slot in (0..pool.shape[0]).filter(|slot| !slots.contains(&(*slot as i32))) {
            let range = slot * size..(slot + 1) * size;
            if pool.data[range.clone()] != untouched.data[range] {
                return Err(format!("slot {slot} was written, nobody's: {}", what()));
            }
        }
    }
    Ok(true)
}

/// The same call with its states in a pool of N + 2 slots: sequence n starts from and ends in slot N + 1 - n, and the
/// first sequence's final state is not kept.
fn slotted(case: &Case) -> Case {
    let mut case = case.clone();
    let shape = case.tensors[&Tensor::FinalState].shape.clone();
    let (sequences, state) = (shape[0], shape[1..].iter().product::<usize>());
    let slot = |n: usize| sequences + 1 - n;
    let zeros = vec![0.0; sequences * state];
    let initial = case.tensors.get(&Tensor::InitialState).map_or(zeros, |array| array.data.clone());
    let mut before = vec![0.25; (sequences + 2) * state];
    for (n, values) in initial.chunks_exact(state).enumerate() {
        before[slot(n) * state..(slot(n) + 1) * state].copy_from_slice(values);
    }
    let mut after = before.clone();
    for (n, values) in case.tensors[&Tensor::FinalState].data.chunks_exact(state).enumerate().skip(1) {
        after[slot(n) * state..(slot(n) + 1) * state].copy_from_slice(values);
    }
    let pool = [&[sequences + 2], &shape[1..]].concat();
    case.tensors.insert(Tensor::InitialState, Array::new(&pool, before).unwrap());
    case.tensors.insert(Tensor::FinalState, Array::new(&pool, after).unwrap());
    case.initial_slots = Some((0..sequences).map(|n| slot(n) as i32).collect());
    case.final_slots = Some((0..sequences).map(|n| if n == 0 { -1 } else { slot(n) as i32 }).collect());
    case
}

/// Three draws that between them hold what kernels get wrong: a ragged end, grouped heads, packed sequences with one
/// token and none, strong decay, resets, near-identical keys, erase gates up to 2.
fn telling_draws(seed: u64) -> [Draw; 3] {
    [
        Draw { ..Draw::new(1, 75, 1, 2, seed) },
        Draw { cu_seqlens: Some(vec![0, 1, 1, 65, 98]), regime: Regime::Strong, ..Draw::new(1, 98, 1, 1, seed + 1) },
        Draw {
            regime: Regime::Reset,
            near_identical_keys: true,
            largest_erase: 2.0,
            initial_state: false,
            ..Draw::new(2, 33, 1, 1, seed + 2)
        },
    ]
}

/// All 30 combinations at K = V = 64 and 128, bf16 and f16, sm_80 and sm_90a. Of the eight kernels of a combination and
/// pass, half are made here, such that neighbouring combinations make the other half and each value of each choice meets
/// each value of every other; all of them with GDN2_TEST_EVERY_KERNEL set.
fn kernels() -> Vec<(Rule, Arch)> {
    let every = std::env::var_os("GDN2_TEST_EVERY_KERNEL").is_some();
    let mut kernels = Vec::new();
    for (index, combination) in granularity_combinations().into_iter().enumerate() {
        for choice in 0..8u32 {
            if every || (choice.count_ones() as usize + index) % 2 == 0 {
                let dim = if choice & 1 == 0 { 64 } else { 128 };
                let dtype = if choice & 2 == 0 { Dtype::Bf16 } else { Dtype::F16 };
                let arch = if choice & 4 == 0 { Arch::Sm80 } else { Arch::Sm90a };
                kernels.push((combination.rule(dim, dim, dtype).unwrap(), arch));
            }
        }
    }
    kernels
}

fn every_combination(pass: Pass) {
    let engine = engine();
    let device = Device::vm();
    let failures: Vec<String> = kernels()
        .par_iter()
        .flat_map_iter(|(rule, arch)| {
            let run = Run { arch: Some(*arch), tokens_per_launch: 3, ..Run::new(rule, pass, &device) };
            let mut failures = Vec::new();
            match engine.artifact(&run) {
                Ok(artifact) => failures.extend(
                    artifact.resources.iter().filter(|entry| entry.spill_stores + entry.spill_loads > 0).map(|entry| {
                        format!("{} {arch} K = {} {}: spills: {entry:?}", rule.name, rule.key_dim, rule.dtype)
                    }),
                ),
                Err(error) => failures.push(format!("{} {arch}: {error}", rule.name)),
            }
            let draws = telling_draws(u64::from(rule.key_dim));
            failures.extend(draws.iter().filter_map(|draw| match agrees(&engine, &run, draw, false) {
                Ok(served) => (!served).then(|| format!("{} {arch}: the default schedule is illegal", rule.name)),
                Err(error) => Some(error),
            }));
            failures
        })
        .collect();
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_combination_forward() {
    every_combination(Pass::Forward);
}

#[test]
fn every_combination_decode() {
    every_combination(Pass::Decode);
}

/// A rule of any shape that the language allows.
fn rules() -> impl Strategy<Value = Rule> {
    let combinations = granularity_combinations();
    let storage = || prop_oneof![Just(Dtype::F32), Just(Dtype::Bf16)];
    (
        (0..combinations.len(), 1u32..=16, prop_oneof![3 => 1u32..=16, 1 => 17u32..=32]),
        (prop_oneof![Just(Dtype::Bf16), Just(Dtype::F16)], storage(), storage(), any::<bool>()),
        prop_oneof![2 => Just(None), 1 => Just(Some(Bound { lower: -5.0, upper: -0.5 }))],
    )
        .prop_map(move |((combination, keys, values), (dtype, decay, erase, transposed), bound)| {
            let combination: Combination = combinations[combination];
            let mut rule = combination.rule(16 * keys, 16 * values, dtype).unwrap();
            rule.decay.storage = decay;
            rule.erase.storage = erase;
            rule.state = if transposed { StateLayout::Vk } else { StateLayout::Kv };
            rule.bound = bound.filter(|_| combination.decay != Grain::None);
            rule.checked().unwrap()
        })
}

/// Sizes and regimes; packed where there are lengths.
fn draws() -> impl Strategy<Value = Draw> {
    (
        (1usize..=2, 0usize..=140, 1usize..=2, 1usize..=2, any::<u64>()),
        prop_oneof![1 => Just(None), 1 => prop::collection::vec(prop_oneof![Just(0), Just(1), 1usize..=70], 1..5).prop_map(Some)],
        prop_oneof![Just(Regime::None), Just(Regime::Mild), Just(Regime::Strong), Just(Regime::Reset)],
        (prop_oneof![Just(1.0), Just(2.0)], any::<bool>(), any::<bool>()),
    )
        .prop_map(|((batch, tokens, heads, group, seed), lengths, regime, (largest_erase, near, initial_state))| {
            let mut draw = Draw {
                regime,
                largest_erase,
                near_identical_keys: near,
                initial_state,
                ..Draw::new(batch, tokens, heads, heads * group, seed)
            };
            if let Some(lengths) = lengths {
                let mut offsets = vec![0];
                offsets.extend(lengths.iter().scan(0, |end, length| {
                    *end += length;
                    Some(*end)
                }));
                (draw.batch, draw.tokens) = (1, offsets[lengths.len()]);
                draw.cu_seqlens = Some(offsets);
            }
            draw
        })
}

/// The same draws on every machine: a failure is found again where it is looked into.
fn runner(cases: u32) -> TestRunner {
    let config = ProptestConfig { cases, max_shrink_iters: 30, failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]))
}

fn any_rule_any_draw(pass: Pass, cases: u32) {
    let engine = engine();
    let device = Device::vm();
    let schedules = match pass {
        Pass::Decode => vec!["", "warps=2", "value_split=2"],
        _ => vec!["", "chunk=16", "chunk=32", "chunk=128"],
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
