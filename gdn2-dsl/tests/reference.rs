//! The definition against numbers worked by hand, finite differences, and the oracle's files where they are at hand.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod oracle;

#[allow(dead_code, reason = "shared with tests that take more of it")]
#[path = "../../tests/src/seed.rs"]
mod seed;

use gdn2_dsl::bars::{Deviation, bar};
use gdn2_dsl::{
    Combination, Dims, Draw, Dtype, Grain, Inputs, OutputGradients, Regime, Rule, granularity_combinations, reference,
};
use seed::{again, seed_of};

const TIED: Combination = Combination { decay: Grain::Scalar, erase: Grain::Scalar, write: None };

/// Two tokens of one head, K = 2, V = 1, every product a short binary fraction but for the decay, which halves.
fn two_tokens() -> Inputs {
    Inputs {
        dims: Dims { batch: 1, tokens: 2, heads: 1, value_heads: 1, key_dim: 2, value_dim: 1 },
        q: vec![1.0, 0.0, 1.0, 1.0],
        k: vec![1.0, 0.0, 0.5, 0.5],
        v: vec![4.0, 8.0],
        g: Some(vec![0.5f64.ln(); 2]),
        b: Some(vec![1.0, 0.5]),
        w: None,
        initial_state: Some(vec![2.0, 6.0]),
        cu_seqlens: None,
        scale: 0.5,
        named: Default::default(),
    }
}

#[test]
fn two_tokens_by_hand() {
    // S_0 = (2, 6), halved (1, 3); e_1 = (1, 0), n_1 = 4 - 1 = 3; S_1 = (4, 3); o_1 = 4 / 2.
    // S_1 halved (2, 1.5); e_2 = (.25, .25), n_2 = 4 - .875 = 3.125; S_2 = (3.5625, 3.0625); o_2 = 6.625 / 2.
    let outputs = reference::forward(TIED, &two_tokens()).unwrap();
    assert_eq!(outputs.o, [2.0, 3.3125]);
    assert_eq!(outputs.final_state, [3.5625, 3.0625]);
}

#[test]
fn two_tokens_back_by_hand() {
    let upstream = OutputGradients { d_out: vec![0.0, 2.0], d_final_state: None };
    let gradients = reference::backward(TIED, &two_tokens(), &upstream).unwrap();
    // dS_2 = scale q_2 do_2 = (1, 1); dn_2 = 1; dv_2 = b = .5; A = (2, 1.5): de_2 = (-2, -1.5), db_2 = -1.75 + v_2 = 6.25.
    // dA_2 = (1, 1) - (.25, .25) = (.75, .75); dg_2 = .75 * 3.5; dS_1 = (.375, .375).
    // Token 1: dn_1 = .375, A = (1, 3): de_1 = (-.375, -1.125); db_1 = -.375 + 4 * .375; dA_1 = (0, .375).
    assert_eq!(gradients.dq, [0.0, 0.0, 3.5625, 3.0625]);
    assert_eq!(gradients.dv, [0.375, 0.5]);
    assert_eq!(gradients.db, Some(vec![1.125, 6.25]));
    assert_eq!(gradients.dg, Some(vec![1.125, 2.625]));
    assert_eq!(gradients.dk, [3.0 * 0.375 - 0.375, 3.0 * 0.375 - 1.125, 3.125 - 1.0, 3.125 - 0.75]);
    assert_eq!(gradients.d_initial_state, [0.0, 0.1875]);
}

#[test]
fn no_tokens_hand_the_state_through() {
    let mut inputs = two_tokens();
    inputs.dims.tokens = 0;
    for tensor in [&mut inputs.q, &mut inputs.k, &mut inputs.v] {
        tensor.clear();
    }
    (inputs.g, inputs.b) = (Some(vec![]), Some(vec![]));
    let outputs = reference::forward(TIED, &inputs).unwrap();
    assert!(outputs.o.is_empty());
    assert_eq!(outputs.final_state, [2.0, 6.0]);
}

#[test]
fn a_gate_too_many_or_too_few_is_refused_by_name() {
    let without = |gate: &str| {
        let mut inputs = two_tokens();
        match gate {
            "g" => inputs.g = None,
            "b" => inputs.b = None,
            _ => inputs.w = Some(vec![1.0; 2]),
        }
        reference::forward(TIED, &inputs).unwrap_err().to_string()
    };
    assert!(without("g").starts_with("g: the rule has this gate"));
    assert!(without("b").starts_with("b: the rule has this gate"));
    assert!(without("w").starts_with("w: the rule has no such gate"));
    let short = Inputs { v: vec![1.0], ..two_tokens() };
    assert!(reference::forward(TIED, &short).unwrap_err().to_string().starts_with("v: 1 elements"));
    let offsets = Inputs { cu_seqlens: Some(vec![0, 3, 2]), ..two_tokens() };
    assert!(reference::forward(TIED, &offsets).unwrap_err().to_string().starts_with("cu_seqlens"));
}

fn small(combination: Combination) -> (Rule, Draw) {
    let rule = combination.rule(16, 32, Dtype::Bf16).unwrap();
    let mut draw = Draw::new(1, 11, 2, 4, seed_of(0));
    draw.cu_seqlens = Some(vec![0, 4, 4, 11]);
    draw.largest_erase = 2.0;
    (rule, draw)
}

#[test]
fn packed_sequences_are_the_sequences_alone() {
    for combination in granularity_combinations() {
        let (rule, draw) = small(combination);
        let packed = draw.inputs(&rule);
        let outputs = reference::forward(combination, &packed).unwrap();
        let cut = |tensor: &[f64], from: usize, to: usize| {
            let width = tensor.len() / 11;
            tensor[from * width..to * width].to_vec()
        };
        let state_size = 4 * 16 * 32;
        for (n, (from, to)) in [(0, 4), (4, 4), (4, 11)].into_iter().enumerate() {
            let alone = Inputs {
                dims: Dims { tokens: to - from, ..packed.dims },
                q: cut(&packed.q, from, to),
                k: cut(&packed.k, from, to),
                v: cut(&packed.v, from, to),
                g: packed.g.as_ref().map(|g| cut(g, from, to)),
                b: packed.b.as_ref().map(|b| cut(b, from, to)),
                w: packed.w.as_ref().map(|w| cut(w, from, to)),
                initial_state: packed.initial_state.as_ref().map(|s| s[n * state_size..(n + 1) * state_size].to_vec()),
                cu_seqlens: None,
                scale: packed.scale,
                named: Default::default(),
            };
            let expected = reference::forward(combination, &alone).unwrap();
            assert_eq!(cut(&outputs.o, from, to), expected.o);
            assert_eq!(outputs.final_state[n * state_size..(n + 1) * state_size], expected.final_state);
        }
    }
}

/// Moves every tensor along one random direction each: the loss must change as the gradients say.
#[test]
fn gradients_agree_with_finite_differences() {
    for combination in granularity_combinations() {
        for regime in [Regime::Mild, Regime::Strong, Regime::Reset] {
            let (rule, mut draw) = small(combination);
            draw.regime = regime;
            let inputs = draw.inputs(&rule);
            let upstream = draw.output_gradients(&rule, &inputs);
            let gradients = reference::backward(combination, &inputs, &upstream).unwrap();
            let direction = Draw { seed: seed_of(1), regime: Regime::Mild, ..draw }.inputs(&rule);
            let loss = |inputs: &Inputs| {
                let outputs = reference::forward(combination, inputs).unwrap();
                let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
                dot(&outputs.o, &upstream.d_out) + dot(&outputs.final_state, upstream.d_final_state.as_ref().unwrap())
            };
            type Pick = fn(&mut Inputs) -> Option<&mut Vec<f64>>;
            let picks: [(&str, Pick, Option<&Vec<f64>>); 7] = [
                ("dq", |i| Some(&mut i.q), Some(&gradients.dq)),
                ("dk", |i| Some(&mut i.k), Some(&gradients.dk)),
                ("dv", |i| Some(&mut i.v), Some(&gradients.dv)),
                ("dg", |i| i.g.as_mut(), gradients.dg.as_ref()),
                ("db", |i| i.b.as_mut(), gradients.db.as_ref()),
                ("dw", |i| i.w.as_mut(), gradients.dw.as_ref()),
                ("d_initial_state", |i| i.initial_state.as_mut(), Some(&gradients.d_initial_state)),
            ];
            for (name, pick, gradient) in picks {
                let Some(gradient) = gradient else {
                    assert!(pick(&mut inputs.clone()).is_none());
                    continue;
                };
                let along = pick(&mut direction.clone()).unwrap().clone();
                let at = |step: f64| {
                    let mut moved = inputs.clone();
                    pick(&mut moved).unwrap().iter_mut().zip(&along).for_each(|(x, d)| *x += step * d);
                    loss(&moved)
                };
                let step = 1e-3;
                // Fourth order: the error is step⁴ times a fifth derivative.
                let slope = (8.0 * (at(step) - at(-step)) - (at(2.0 * step) - at(-2.0 * step))) / (12.0 * step);
                let predicted: f64 = gradient.iter().zip(&along).map(|(g, d)| g * d).sum();
                let size = gradient.iter().zip(&along).map(|(g, d)| (g * d).abs()).sum::<f64>();
                assert!(
                    (slope - predicted).abs() <= 1e-7 * size + 1e-9,
                    "{combination} {regime:?} {name}: slope {slope}, gradient says {predicted}\n{}",
                    again()
                );
            }
        }
    }
}

#[test]
fn strong_decay_keeps_its_tiny_gradient() {
    let mut inputs = two_tokens();
    inputs.g = Some(vec![0.5f64.ln(), -30.0]);
    let upstream = OutputGradients { d_out: vec![0.0, 2.0], d_final_state: None };
    let dg = reference::backward(TIED, &inputs, &upstream).unwrap().dg.unwrap();
    let expected = 0.75 * 7.0 * (-30.0f64).exp();
    assert!((dg[1] / expected - 1.0).abs() < 1e-12, "{} is not {expected}", dg[1]);
}

#[test]
fn the_oracle_agrees_to_its_own_rounding() {
    let mut seen = 0;
    for mut case in oracle::cases() {
        seen += 1;
        let outputs = reference::forward(case.combination, &case.inputs).unwrap();
        let gradients = reference::backward(case.combination, &case.inputs, &case.upstream).unwrap();
        let mut expected = std::mem::take(&mut case.expected);
        let mut check = |name: &str, got: Option<&Vec<f64>>| {
            let Some(want) = expected.remove(name) else { return };
            let deviation = Deviation::of(got.unwrap().iter().copied(), &want);
            assert!(bar(name).is_some());
            assert!(deviation.relative < 2e-7 || deviation.largest < 1e-12, "{} {name}: {deviation:?}", case.name);
        };
        check("o", Some(&outputs.o));
        check("final_state", Some(&outputs.final_state));
        check("dq", Some(&gradients.dq));
        check("dk", Some(&gradients.dk));
        check("dv", Some(&gradients.dv));
        check("dg", gradients.dg.as_ref());
        check("db", gradients.db.as_ref());
        check("dw", gradients.dw.as_ref());
        check("d_initial_state", Some(&gradients.d_initial_state));
        assert_eq!(expected.keys().collect::<Vec<_>>(), [""; 0], "{}: nothing was compared with these", case.name);
    }
    assert!(seen == 0 || seen >= 12, "only {seen} oracle cases found");
}
