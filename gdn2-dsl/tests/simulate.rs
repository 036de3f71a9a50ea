//! The operand-rounded simulation against the definition: within the bars, and not without a loss.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod oracle;
#[allow(dead_code, reason = "shared with tests that take more of it")]
#[path = "../../tests/src/seed.rs"]
mod seed;

use gdn2_dsl::bars::{Bar, Cost, Deviation, PATTERNS, Verdict, bar};
use gdn2_dsl::simulate::Pattern;
use gdn2_dsl::{
    Draw, Dtype, Gradients, Outputs, Prologue, Rule, granularity_combinations, layer, parse_file, reference, simulate,
};
use seed::{again, seed_of};

fn named<'a>(o: &'a Outputs, d: &'a Gradients) -> Vec<(&'static str, &'a Vec<f64>)> {
    let all = [
        ("o", Some(&o.o)),
        ("final_state", Some(&o.final_state)),
        ("dq", Some(&d.dq)),
        ("dk", Some(&d.dk)),
        ("dv", Some(&d.dv)),
        ("dg", d.dg.as_ref()),
        ("db", d.db.as_ref()),
        ("dw", d.dw.as_ref()),
        ("d_initial_state", Some(&d.d_initial_state)),
    ];
    all.into_iter().filter_map(|(name, tensor)| Some((name, tensor?))).collect()
}

/// Largest error over its bar, with the tensor's name.
fn worst(got: &[(&'static str, &Vec<f64>)], want: &[(&'static str, &Vec<f64>)]) -> (f64, String) {
    let mut worst = (0.0, String::new());
    for ((name, got), (_, want)) in got.iter().zip(want) {
        let deviation = Deviation::of(got.iter().copied(), want);
        assert_eq!(deviation.unfit, None, "{name}");
        let bar = bar(name).unwrap();
        if !deviation.passes(worst.0 * bar) {
            worst = (deviation.relative / bar, format!("{name}: {deviation:?}"));
        }
    }
    worst
}

fn check(draw: &Draw, rule: &Rule, chunk: usize) -> (f64, String) {
    let inputs = draw.inputs(rule);
    let upstream = draw.output_gradients(rule, &inputs);
    let outputs = reference::forward(rule.combination(), &inputs).unwrap();
    let gradients = reference::backward(rule.combination(), &inputs, &upstream).unwrap();
    let simulated = simulate::forward(rule, &inputs, chunk, Pattern::Nearest).unwrap();
    let simulated_gradients = simulate::backward(rule, &inputs, &upstream, chunk, Pattern::Nearest).unwrap();
    worst(&named(&simulated, &simulated_gradients), &named(&outputs, &gradients))
}

/// A kernel keeps normalised rows as operands: they are rounded before decays scale them, and once more after that.
#[test]
fn normalised_rows_are_rounded_before_anything_is_made_of_them() {
    let text = "rule kda { q: l2norm; k: l2norm; decay: channel; erase: scalar; write: erase;
        key_dim: 32; value_dim: 32; dtype: bf16; }";
    let rule = parse_file(text).unwrap().remove(0);
    let raw = Draw::new(1, 70, 1, 2, seed_of(1)).inputs(&rule);
    let made = layer::computed(&rule, &raw).unwrap();
    let mut kept = made.clone();
    for rows in [&mut kept.q, &mut kept.k] {
        rows.iter_mut().for_each(|x| *x = rule.dtype.round(*x));
    }
    assert_ne!(kept, made);
    let outputs = |inputs| simulate::forward(&rule, inputs, 64, Pattern::Nearest).unwrap();
    assert_eq!(outputs(&made), outputs(&kept));
    let given = Rule { prologue: Prologue::default(), ..rule.clone() };
    assert_ne!(simulate::forward(&given, &made, 64, Pattern::Nearest).unwrap(), outputs(&made));
    let upstream = Draw::new(1, 70, 1, 2, seed_of(1)).output_gradients(&rule, &raw);
    let gradients = |inputs| simulate::backward(&rule, inputs, &upstream, 64, Pattern::Nearest).unwrap();
    assert_eq!(gradients(&made), gradients(&kept));
}

/// The rounding that a GPU does is one of those that a draw's bars are taken from: it stays within them.
#[test]
fn rounding_stays_within_the_bars_of_its_draw_for_every_combination() {
    let mut seen = 0.0f64;
    for (number, combination) in granularity_combinations().into_iter().enumerate() {
        let ways = [(Dtype::Bf16, 16), (Dtype::Bf16, 64), (Dtype::F16, 32)];
        for (draw, (dtype, chunk)) in
            Draw::telling(seed_of(number as u64)).iter().zip(ways.into_iter().cycle().skip(number))
        {
            let rule = combination.rule(32, 32, dtype).unwrap();
            let inputs = draw.inputs(&rule);
            let upstream = draw.output_gradients(&rule, &inputs);
            let outputs = reference::forward(combination, &inputs).unwrap();
            let gradients = reference::backward(combination, &inputs, &upstream).unwrap();
            let simulated = |pattern| {
                let outputs = simulate::forward(&rule, &inputs, chunk, pattern).unwrap();
                (outputs, simulate::backward(&rule, &inputs, &upstream, chunk, pattern).unwrap())
            };
            let patterns: Vec<_> = (0..PATTERNS).map(|number| simulated(Pattern::Other(number))).collect();
            let (nearest, d_nearest) = simulated(Pattern::Nearest);
            let want = named(&outputs, &gradients);
            for (place, (name, got)) in named(&nearest, &d_nearest).into_iter().enumerate() {
                let all: Vec<Vec<f64>> = patterns.iter().map(|(o, d)| named(o, d)[place].1.clone()).collect();
                let Some(cost) = Cost::of(&all, want[place].1) else { continue };
                let limit = Bar::drawn(bar(name).unwrap(), &cost);
                let deviation = Deviation::of(got.iter().copied(), want[place].1);
                let verdict = deviation.verdict(limit, got.len());
                let what = format!("{combination} {dtype} chunk {chunk} {name}: {deviation:?}, {limit:?}, {cost:?}");
                assert_ne!(verdict, Verdict::Failed, "{what}: {draw:?}; {}", again());
                seen = seen.max(deviation.relative / bar(name).unwrap());
            }
        }
    }
    // Rounding that costs nothing would be no rounding.
    assert!(seen > 0.1, "worst error only {seen} bars");
}

#[test]
fn oracle_cases_stay_within_the_bars() {
    for case in oracle::cases() {
        let dims = case.inputs.dims;
        let rule = case.combination.rule(dims.key_dim as u32, dims.value_dim as u32, Dtype::Bf16).unwrap();
        for chunk in [16, 64] {
            let outputs = simulate::forward(&rule, &case.inputs, chunk, Pattern::Nearest).unwrap();
            let gradients = simulate::backward(&rule, &case.inputs, &case.upstream, chunk, Pattern::Nearest).unwrap();
            for (name, got) in named(&outputs, &gradients) {
                let Some(want) = case.expected.get(name) else { continue };
                let deviation = Deviation::of(got.iter().copied(), want);
                let bar = bar(name).unwrap() * case.bar_scale;
                assert!(deviation.passes(bar), "{} chunk {chunk} {name}: {deviation:?}", case.name);
            }
        }
    }
}

#[test]
fn keys_that_repeat_cost_accuracy_but_no_more() {
    let rule = granularity_combinations()
        .into_iter()
        .find(|c| c.to_string() == "none_scalar_tied")
        .unwrap()
        .rule(64, 64, Dtype::Bf16)
        .unwrap();
    let mut draw = Draw::new(1, 256, 1, 1, seed_of(0));
    let (generic, _) = check(&draw, &rule, 64);
    draw.near_identical_keys = true;
    let (repeating, tensor) = check(&draw, &rule, 64);
    assert!(repeating > 1.2 * generic, "{repeating} bars against {generic}; {}", again());
    assert!(repeating < 6.0, "{repeating} bars: {tensor}; {}", again());
}
