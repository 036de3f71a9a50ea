//! Generated backward kernels on the virtual machine: gradients against float64, the same bits whatever the order of
//! blocks, and recomputed states against kept ones.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use gdn2_codegen::abi::Tensor;
use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::Pass;
use gdn2_dsl::bars::{Bar, Verdict};
use gdn2_dsl::prologue::GateOf;
use gdn2_dsl::{Combination, Draw, Dtype, Grain, Regime, Rule, StateLayout, Write, granularity_combinations};
use gdn2_runtime::device::Device;
use gdn2_runtime::device::vm::Settings;
use gdn2_runtime::engine::{Engine, Outcome, Run};
use gdn2_runtime::judge::judge;
use gdn2_runtime::tensors::Case;
use gdn2_tests::agrees::gradients_agree;
use gdn2_tests::draws::{draws, rules, runner};
use gdn2_tests::seed::{again, seed_of};
use gdn2_tests::{engine, files_below, root};
use gdn2_vm::Check;
use proptest::prelude::*;
use rayon::prelude::*;

/// Every combination once, neighbours with other dims, dtypes, storage, layouts, chunks and architectures.
fn kernels() -> Vec<(Rule, Arch, &'static str)> {
    const DIMS: [(u32, u32); 5] = [(32, 48), (64, 32), (16, 64), (48, 16), (32, 32)];
    const SCHEDULES: [&str; 4] = ["chunk=32", "chunk=16,recompute=1", "chunk=64", "recompute=1"];
    let kernel = |(index, combination): (usize, gdn2_dsl::Combination)| {
        let (keys, values) = DIMS[index % DIMS.len()];
        let dtype = if index % 2 == 0 { Dtype::Bf16 } else { Dtype::F16 };
        let mut rule = combination.rule(keys, values, dtype).unwrap();
        let wide = |on: bool| if on { Dtype::F32 } else { Dtype::Bf16 };
        rule.decay.storage = wide(index % 2 == 1);
        rule.erase.storage = wide(index / 2 % 2 == 1);
        if let Write::Own(gate) = &mut rule.write {
            gate.storage = wide(index % 3 == 1 && gate.grain != Grain::None);
        }
        rule.state = if index / 4 % 2 == 0 { StateLayout::Kv } else { StateLayout::Vk };
        let arch = if index % 3 == 0 { Arch::Sm80 } else { Arch::Sm90a };
        (rule.checked().unwrap(), arch, SCHEDULES[index / 2 % SCHEDULES.len()])
    };
    granularity_combinations().into_iter().enumerate().map(kernel).collect()
}

#[test]
fn every_combination() {
    let engine = engine();
    let device = Device::vm();
    let failures: Vec<String> = kernels()
        .par_iter()
        .enumerate()
        .flat_map_iter(|(index, (rule, arch, schedule))| {
            let run = Run { arch: Some(*arch), schedule, ..Run::new(rule, Pass::Backward, &device) };
            let fails = |draw: &Draw| match gradients_agree(&engine, &run, draw) {
                Ok(served) => (!served).then(|| format!("{} {arch} {schedule} is illegal", rule.name)),
                Err(error) => Some(error),
            };
            Draw::telling(seed_of(index as u64)).iter().filter_map(fails).collect::<Vec<_>>()
        })
        .collect();
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn any_rule_any_draw() {
    let engine = engine();
    let device = Device::vm();
    let schedules = prop::sample::select(vec!["chunk=16", "chunk=32", "recompute=1", "value_tiles=1", "stages=2"]);
    let arches = prop::sample::select(Arch::ALL.to_vec());
    runner(10)
        .run(&(rules(), draws(), schedules, arches), |(rule, draw, schedule, arch)| {
            let run = Run { arch: Some(arch), schedule, ..Run::new(&rule, Pass::Backward, &device) };
            let served = gradients_agree(&engine, &run, &draw).map_err(TestCaseError::fail)?;
            if served { Ok(()) } else { Err(TestCaseError::reject("illegal schedule")) }
        })
        .unwrap();
}

/// Warps that share 16 tokens divide the key dim in whole groups of 16 channels, which these leave over. Sums over the key
/// dim read a part of every slice: one that no warp owned was never written.
#[test]
fn key_dims_that_warps_do_not_divide_evenly() {
    let engine = engine();
    let device = Device::Vm(Settings { check: Check::Full, ..Settings::default() });
    let combination = Combination { decay: Grain::Scalar, erase: Grain::Channel, write: Some(Grain::Scalar) };
    let mix = |key_dim| combination.rule(key_dim, 16, Dtype::Bf16).unwrap();
    let kda = |key_dim| rule("kda", 128).with_dims(key_dim, 16).unwrap();
    let kernels = [
        (mix(80), Arch::Sm86, "chunk=32"),
        (mix(96), Arch::Sm89, ""),
        (kda(144), Arch::Sm80, "chunk=16"),
        (kda(208), Arch::Sm120, "chunk=16"),
        (mix(144), Arch::Sm80, "chunk=16,gradient_warps=4"),
    ];
    kernels.par_iter().enumerate().for_each(|(index, (rule, arch, schedule))| {
        let run = Run { arch: Some(*arch), schedule, ..Run::new(rule, Pass::Backward, &device) };
        let draw = Draw::new(1, 41, 1, 1, seed_of(index as u64));
        assert_eq!(gradients_agree(&engine, &run, &draw), Ok(true), "{}", again());
    });
}

/// Every rule that the gradients on wgmma serve: 64 or 128 channels and values, and gates with one number per token or none;
/// or decays of every channel, beside any.
fn on_wgmma(decays: &[Grain], gates: &[Grain]) -> Vec<Rule> {
    let mut rules = Vec::new();
    let writes: Vec<Option<Grain>> = [None].into_iter().chain(gates.iter().copied().map(Some)).collect();
    for (decay, erase) in decays.iter().flat_map(|decay| gates.iter().map(|erase| (*decay, *erase))) {
        for &write in &writes {
            for (keys, values) in [(64, 64), (64, 128), (128, 64), (128, 128)] {
                let Ok(mut rule) = (Combination { decay, erase, write }).rule(keys, values, Dtype::Bf16) else {
                    continue;
                };
                let wide = |on: bool| if on { Dtype::F32 } else { Dtype::Bf16 };
                rule.state = if rules.len() % 3 == 0 { StateLayout::Vk } else { StateLayout::Kv };
                rule.decay.storage = wide(rules.len() % 2 == 0);
                // Both wide are more than shared memory holds.
                rule.erase.storage = wide(erase == Grain::Channel && rules.len() % 4 == 1);
                rules.extend(rule.checked());
            }
        }
    }
    rules
}

/// A share of them, another with every seed: ragged ends, grouped heads, packed sequences, no decay and strong decay, single
/// tokens, and the same bits twice.
#[test]
fn gradients_on_wgmma() {
    const SHARE: usize = 3;
    let every = std::env::var_os("GDN2_TEST_EVERY_KERNEL").is_some();
    let engine = engine();
    let device = Device::Vm(Settings { check: Check::Full, ..Settings::default() });
    let tokens = on_wgmma(&[Grain::None, Grain::Scalar], &[Grain::None, Grain::Scalar]);
    let channels = on_wgmma(&[Grain::Channel], &[Grain::None, Grain::Scalar, Grain::Channel]);
    let share = |rules: &[Rule], seed: u64| -> Vec<Rule> {
        let pick = |index: usize| rules[seed_of(seed + index as u64) as usize % rules.len()].clone();
        if every { rules.to_vec() } else { (0..SHARE).map(pick).collect() }
    };
    let picked = [share(&tokens, 0), share(&channels, 300)].concat();
    let names: Vec<String> = picked.iter().map(|r| format!("{} {}x{}", r.name, r.key_dim, r.value_dim)).collect();
    println!("{} of {} rules: {}", picked.len(), tokens.len() + channels.len(), names.join(", "));
    picked.par_iter().enumerate().for_each(|(index, rule)| {
        let run =
            Run { arch: Some(Arch::Sm90a), schedule: "gradients=wgmma", ..Run::new(rule, Pass::Backward, &device) };
        let draw = Draw::new(1, 1, 1, 1, seed_of(100 + index as u64));
        for draw in Draw::telling(seed_of(10 + index as u64)).iter().chain([&draw]) {
            assert_eq!(gradients_agree(&engine, &run, draw), Ok(true), "{}", again());
        }
        let case = Case::drawn(rule, &Draw::new(2, 90, 1, 2, seed_of(20 + index as u64)), true).unwrap();
        let twice = [1, 2].map(|_| bits(&engine.run(&run, &case).unwrap()));
        assert_eq!(twice[0], twice[1], "{}: the same bits twice; {}", rule.name, again());
    });
}

/// Formulas in every place that the gradients on wgmma take them, beside those that layers have: logits of either width or none,
/// rows normalised of q or k alone, gates that arrive beside others that are computed.
const FORMULAS: [&str; 8] = [
    "k: l2norm; param e: channel; decay: channel as f32 = logsigmoid(x); erase: channel = sigmoid(e); write: channel as f32 = sigmoid(x);",
    "q: l2norm; decay: scalar as f32 = -softplus(x); erase: none; write: scalar = sigmoid(x);",
    "q: l2norm; k: l2norm; param w0: channel; param u: channel; decay: channel = -exp(w0); erase: scalar; write: channel = sigmoid(u);",
    "q: l2norm; k: l2norm; decay: channel as bf16; erase: channel; write: channel;",
    "q: l2norm; k: l2norm; decay: none; erase: scalar as f32 = 2 * sigmoid(x); write: scalar;",
    "decay: channel as bf16; erase: channel = tanh(x); write: none;",
    "let s: scalar = softplus(x); decay: scalar = -s; erase: scalar = sigmoid(s + x); write: scalar;",
    "q: l2norm; k: l2norm; decay: channel = -softplus(x); erase: channel as f32 = sigmoid(x); write: scalar as f32 = silu(x);",
];

/// A share of the layers and of these, another with every seed: as rules without formulas, above.
#[test]
fn gradients_of_formulas_on_wgmma() {
    const SHARE: usize = 3;
    let every = std::env::var_os("GDN2_TEST_EVERY_KERNEL").is_some();
    let engine = engine();
    let device = Device::Vm(Settings { check: Check::Full, ..Settings::default() });
    let read = |path| gdn2_dsl::parse_file(&std::fs::read_to_string(path).unwrap()).unwrap();
    let shipped = files_below("rules").unwrap().into_iter().flat_map(read).filter(|rule| !rule.prologue.is_empty());
    let written = FORMULAS.iter().map(|gates| {
        let text = format!("rule own {{ {gates} key_dim: 64; value_dim: 64; dtype: bf16; }}");
        gdn2_dsl::parse_file(&text).unwrap().remove(0)
    });
    let all: Vec<Rule> = shipped.chain(written).collect();
    assert!(all.len() >= FORMULAS.len() + 9);
    let places: Vec<usize> = match every {
        true => (0..all.len()).collect(),
        false => (0..SHARE).map(|at| seed_of(600 + at as u64) as usize % all.len()).collect(),
    };
    places.par_iter().for_each(|&at| {
        // At 128 channels float32 logits of erase gates have no room beside decays.
        let wide = all[at].prologue.gate(GateOf::Erase).is_some() && all[at].erase.storage == Dtype::F32;
        let dims = if wide { &[(64, 64), (64, 128)][..] } else { &[(64, 64), (64, 128), (128, 64), (128, 128)] };
        let of = |what: u64| seed_of(700 + 16 * at as u64 + what);
        let (keys, values) = dims[of(0) as usize % dims.len()];
        let rule = all[at].with_dims(keys, values).unwrap();
        println!("{} K = {keys}, V = {values}", rule.name);
        let run =
            Run { arch: Some(Arch::Sm90a), schedule: "gradients=wgmma", ..Run::new(&rule, Pass::Backward, &device) };
        for draw in Draw::telling(of(1)).iter().chain([&Draw::new(2, 1, 1, 1, of(2))]) {
            assert_eq!(gradients_agree(&engine, &run, draw), Ok(true), "{}", again());
        }
        // Heads that share keys and one that does not, each twice.
        for heads in [1, 2] {
            let case = Case::drawn(&rule, &Draw::new(1, 90, 1, heads, of(3)), true).unwrap();
            let twice = [1, 2].map(|_| bits(&engine.run(&run, &case).unwrap()));
            assert_eq!(twice[0], twice[1], "{}: the same bits twice; {}", rule.name, again());
        }
    });
}

/// Under strong decay what is left of a decay's gradient is small beside what tokens on either side have in it. Of many heads,
/// since few of their decays make most of a head's norm: four of them came out at 0.0029 to 0.0051 over 25 seeds.
#[test]
fn decays_of_channels_keep_their_gradient_under_strong_decay() {
    let engine = engine();
    let device = Device::vm();
    for (index, name) in ["kda_bf16", "gdn2_bf16"].into_iter().enumerate() {
        let rule = rule(name, 128);
        let draw = Draw { regime: Regime::Strong, ..Draw::new(1, 192, 16, 16, seed_of(index as u64)) };
        let run = Run { arch: Some(Arch::Sm90a), ..Run::new(&rule, Pass::Backward, &device) };
        let case = Case::drawn(&rule, &draw, true).unwrap();
        let outcome = engine.run(&run, &case).unwrap();
        let judged = judge(Tensor::DG, &outcome, &case, Bar { bar: 0.006, limit: 0.006 }).unwrap().unwrap();
        println!("{name}: {judged:?}");
        assert_eq!(judged.verdict, Verdict::Passed, "{name}: {judged:?}; {}", again());
    }
}

/// A rule of `rules/`.
fn rule(name: &str, dim: u32) -> Rule {
    let text = std::fs::read_to_string(root().join("rules").join(format!("{name}.gdn2"))).unwrap();
    gdn2_dsl::parse_file(&text).unwrap().remove(0).with_dims(dim, dim).unwrap()
}

fn on_vm(engine: &Engine, rule: &Rule, schedule: &str, settings: Settings, case: &Case) -> Outcome {
    let device = Device::Vm(settings);
    let run = Run { arch: Some(Arch::Sm90a), schedule, ..Run::new(rule, Pass::Backward, &device) };
    engine.run(&run, case).unwrap()
}

/// Compared as bits: gradients that are NaN in both would be equal here, and are not where float64 is asked.
fn bits(outcome: &Outcome) -> Vec<(String, Vec<u32>)> {
    let of = |array: &[f32]| array.iter().map(|x| x.to_bits()).collect();
    let tensors = outcome.tensors.iter().map(|(tensor, array)| (tensor.name().to_owned(), of(&array.data)));
    tensors.chain(outcome.named.iter().map(|(name, array)| (name.clone(), of(&array.data)))).collect()
}

#[test]
fn neither_another_run_nor_another_block_order_nor_recomputed_states_change_a_bit() {
    let engine = engine();
    for name in ["gdn", "kda", "gdn2"] {
        let rule = rule(name, 32);
        let draw = Draw { cu_seqlens: Some(vec![0, 40, 40, 41, 110]), ..Draw::new(1, 110, 2, 4, seed_of(0)) };
        let case = Case::drawn(&rule, &draw, true).unwrap();
        let run = |schedule, order| on_vm(&engine, &rule, schedule, Settings { order, ..Settings::default() }, &case);
        let first = bits(&run("chunk=32", None));
        for schedule in ["chunk=32", "chunk=32,recompute=1"] {
            for order in [None, Some(1), Some(2)] {
                assert_eq!(first, bits(&run(schedule, order)), "{name}: {schedule}, blocks in order {order:?}");
            }
        }
    }
}

/// Where keys all but repeat and erase gates exceed 1, what a pair gives to the decay between its tokens all but cancels.
#[test]
fn a_scalar_decays_gradient_survives_keys_that_repeat() {
    let engine = engine();
    let device = Device::vm();
    let text = "rule r { decay: scalar as bf16; erase: scalar as f32; write: scalar; key_dim: 32; value_dim: 32; dtype: bf16; }";
    let rule = gdn2_dsl::parse_file(text).unwrap().remove(0);
    let run = Run { arch: Some(Arch::Sm90a), ..Run::new(&rule, Pass::Backward, &device) };
    for seed in 0..24 {
        let [.., draw] = Draw::telling(seed_of(seed));
        assert_eq!(gradients_agree(&engine, &run, &draw), Ok(true));
    }
}
