//! Random inputs: the same for one seed, storable exactly, inside bounds, as strong as asked for.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code, reason = "shared with tests that take more of it")]
#[path = "../../tests/src/seed.rs"]
mod seed;

use gdn2_dsl::{Bound, Draw, Dtype, Gate, Inputs, Regime, Rule, Write, granularity_combinations, parse_file};
use seed::seed_of;

const REGIMES: [Regime; 4] = [Regime::None, Regime::Mild, Regime::Strong, Regime::Reset];

fn rule(gates: &str) -> Rule {
    let source = format!("rule r {{ {gates} key_dim: 32; value_dim: 64; dtype: bf16; }}");
    parse_file(&source).unwrap().remove(0)
}

fn gdn2() -> Rule {
    rule("decay: channel; erase: channel; write: channel;")
}

fn range(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(*x), high.max(*x)))
}

#[test]
fn one_seed_draws_one_set_of_numbers_forever() {
    let draw = Draw::new(1, 3, 1, 1, 42);
    let inputs = draw.inputs(&gdn2());
    assert_eq!(inputs, draw.inputs(&gdn2()));
    // As first drawn: cases name their seed, so these may never change.
    assert_eq!(inputs.q[..3], [0.0147705078125, 0.2255859375, 0.050537109375]);
    assert_ne!(inputs.q, Draw { seed: 43, ..draw }.inputs(&gdn2()).q);
}

#[test]
fn a_tensor_does_not_depend_on_the_other_gates() {
    let draw = Draw::new(2, 5, 1, 2, seed_of(1));
    let (all, tied) = (draw.inputs(&gdn2()), draw.inputs(&rule("decay: channel; erase: scalar; write: erase;")));
    assert_eq!(
        (&all.q, &all.k, &all.v, &all.g, &all.initial_state),
        (&tied.q, &tied.k, &tied.v, &tied.g, &tied.initial_state)
    );
    assert!(tied.w.is_none() && tied.b.unwrap().len() == 2 * 5 * 2);
}

#[test]
fn every_number_is_what_a_kernel_reads() {
    for combination in granularity_combinations() {
        for dtype in [Dtype::Bf16, Dtype::F16] {
            for regime in REGIMES {
                let rule = combination.rule(32, 16, dtype).unwrap();
                let draw = Draw { regime, largest_erase: 2.0, ..Draw::new(1, 20, 1, 2, seed_of(2)) };
                let inputs = draw.inputs(&rule);
                assert_eq!(inputs.check(combination), Ok(()));
                let storable = |values: &[f64], dtype: Dtype| values.iter().all(|x| dtype.round(*x) == *x);
                assert!([&inputs.q, &inputs.k, &inputs.v].into_iter().all(|tensor| storable(tensor, dtype)));
                assert!(inputs.g.iter().all(|g| storable(g, Dtype::F32) && range(g).1 <= 0.0));
                assert!(inputs.b.iter().all(|b| storable(b, dtype) && range(b).0 >= 0.0 && range(b).1 <= 2.0));
                assert!(inputs.w.iter().all(|w| storable(w, dtype) && range(w).0 >= 0.0 && range(w).1 <= 1.0));
            }
        }
    }
}

#[test]
fn regimes_are_as_strong_as_they_say() {
    let g = |regime| {
        let inputs = Draw { regime, ..Draw::new(1, 640, 1, 1, seed_of(3)) }.inputs(&gdn2());
        let Inputs { g: Some(g), .. } = inputs else { panic!("a decay") };
        g
    };
    assert_eq!(range(&g(Regime::None)), (0.0, 0.0));
    let (low, high) = range(&g(Regime::Mild));
    assert!(low > -0.1 && low < -0.09 && high > -0.01, "{low} {high}");
    let (low, high) = range(&g(Regime::Strong));
    assert!((-30.0..-29.0).contains(&low) && (-2.6..=-2.5).contains(&high), "{low} {high}");
    let reset = g(Regime::Reset);
    let resets = reset.iter().filter(|g| **g == -1000.0).count();
    assert!((1000..1560).contains(&resets), "{resets} of {}", reset.len());
}

#[test]
fn bounds_hold_after_rounding() {
    for storage in [Dtype::Bf16, Dtype::F32] {
        for (lower, upper) in [(-5.0, 0.0), (-0.3, -0.1), (-10.01, -9.7), (-1.0, -1.0)] {
            for regime in REGIMES {
                let mut rule = gdn2();
                rule.decay.storage = storage;
                rule.bound = Some(Bound { lower, upper });
                let g = Draw { regime, ..Draw::new(1, 40, 1, 1, seed_of(4)) }.inputs(&rule).g.unwrap();
                let (low, high) = range(&g);
                assert!(
                    low >= f64::from(lower) && high <= f64::from(upper),
                    "{regime:?} {storage} {lower} {upper}: {low} {high}"
                );
            }
        }
    }
}

#[test]
fn rows_are_unit_and_keys_repeat_when_asked() {
    let mut draw = Draw::new(1, 30, 2, 2, seed_of(5));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let k = draw.inputs(&gdn2()).k;
    assert!(k.chunks_exact(32).all(|row| (dot(row, row) - 1.0).abs() < 0.01));
    assert!(dot(&k[..32], &k[64..96]).abs() < 0.9);
    draw.near_identical_keys = true;
    let k = draw.inputs(&gdn2()).k;
    assert!(dot(&k[..32], &k[29 * 64..29 * 64 + 32]) > 0.99);
    assert!(dot(&k[..32], &k[32..64]).abs() < 0.9, "heads have directions of their own");
}

#[test]
fn storage_follows_each_gates_own_type() {
    let rule = rule("decay: scalar as bf16; erase: scalar as f32; write: scalar;");
    let inputs = Draw::new(1, 50, 1, 1, seed_of(6)).inputs(&rule);
    let storable = |values: &[f64]| values.iter().filter(|x| Dtype::Bf16.round(**x) == **x).count();
    assert_eq!(storable(&inputs.g.unwrap()), 50);
    assert!(storable(&inputs.b.unwrap()) < 10);
    assert_eq!(storable(&inputs.w.unwrap()), 50);
    assert!(matches!(rule.write, Write::Own(Gate { storage: Dtype::Bf16, .. })));
}
