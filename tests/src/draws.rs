//! Random rules and random inputs for property tests.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use crate::seed::{again, seed_of};
use gdn2_codegen::abi::Tensor;
use gdn2_dsl::{Bound, Combination, Draw, Dtype, Grain, Regime, Rule, StateLayout, granularity_combinations};
use gdn2_runtime::tensors::Case;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

/// A rule of any shape that the language allows.
pub fn rules() -> impl Strategy<Value = Rule> {
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
pub fn draws() -> impl Strategy<Value = Draw> {
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

/// Draws of this run's seed, which is printed: a failure names the command that gives them again.
pub fn runner(cases: u32) -> TestRunner {
    let config = ProptestConfig { cases, max_shrink_iters: 30, failure_persistence: None, ..ProptestConfig::default() };
    println!("{}", again());
    let bytes: Vec<u8> = (0..4).flat_map(|part| seed_of(part).to_le_bytes()).collect();
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

/// A tensor of a case, for comparing.
pub fn numbers(case: &Case, tensor: Tensor) -> Vec<f64> {
    case.tensors[&tensor].data.iter().copied().map(f64::from).collect()
}
