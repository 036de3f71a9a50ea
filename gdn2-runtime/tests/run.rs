//! Cases through the engine: every device agrees with the definition, whatever the layout of states and sequences.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[allow(dead_code, reason = "shared with tests that take more of it")]
#[path = "../../tests/src/seed.rs"]
mod seed;

use gdn2_codegen::abi::Tensor;
use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::Pass;
use gdn2_dsl::bars::{Deviation, bar};
use gdn2_dsl::{Combination, Draw, Dtype, Grain, Regime, Rule, StateLayout};
use gdn2_runtime::artifact::Compiler;
use gdn2_runtime::device::{Device, DeviceError, Precision};
use gdn2_runtime::engine::{Engine, Outcome, Run, RunError};
use gdn2_runtime::nvrtc::NvrtcError;
use gdn2_runtime::tensors::{Array, Case};
use gdn2_runtime::toolchain::Search;
use seed::seed_of;
use std::collections::BTreeMap;
use std::sync::LazyLock;

static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::new(Compiler::new(Search::from_environment(None, None))));

fn gdn() -> Rule {
    Combination { decay: Grain::Scalar, erase: Grain::Scalar, write: None }.rule(32, 16, Dtype::Bf16).unwrap()
}

fn nothing() -> Engine {
    let folder = tempfile::tempdir().unwrap();
    Engine::new(Compiler::new(Search { explicit: Some(folder.path().join("none")), ..Search::default() }))
}

fn run(rule: &Rule, pass: Pass, device: &Device, case: &Case) -> Outcome {
    ENGINE.run(&Run::new(rule, pass, device), case).unwrap()
}

/// How many bars of error the worst tensor has.
fn bars(outcome: &Outcome, case: &Case) -> f64 {
    let error = |tensor: Tensor| {
        let got = &outcome.tensors[&tensor];
        let want = &case.tensors[&tensor];
        assert_eq!(got.shape, want.shape);
        let want: Vec<f64> = want.data.iter().map(|x| f64::from(*x)).collect();
        let deviation = Deviation::of(got.data.iter().map(|x| f64::from(*x)), &want);
        if deviation.unfit.is_some() { f64::INFINITY } else { deviation.relative / bar(tensor.name()).unwrap() }
    };
    error(Tensor::O).max(error(Tensor::FinalState))
}

#[test]
fn the_cpu_agrees_with_the_definition_for_all_combinations() {
    for combination in gdn2_dsl::granularity_combinations() {
        for (key, value) in [(16, 48), (48, 64)] {
            let rule = combination.rule(key, value, Dtype::F16).unwrap();
            let draw = Draw {
                cu_seqlens: Some(vec![0, 1, 1, 40]),
                regime: Regime::Reset,
                largest_erase: 2.0,
                ..Draw::new(1, 40, 2, 4, seed_of(11))
            };
            let case = Case::drawn(&rule, &draw, false).unwrap();
            let single = bars(&run(&rule, Pass::Forward, &Device::cpu(), &case), &case);
            assert!(single < 0.01, "{combination} {key}x{value}: {single} bars");
            let double = bars(&run(&rule, Pass::Forward, &Device::Cpu(Precision::Double), &case), &case);
            assert!(double < 1e-4, "{combination} {key}x{value}: {double} bars");
        }
    }
}

#[test]
fn the_virtual_machine_agrees_with_the_definition() {
    let draw = Draw::new(2, 40, 1, 2, seed_of(5));
    let case = Case::drawn(&gdn(), &draw, false).unwrap();
    let outcome = run(&gdn(), Pass::Forward, &Device::vm(), &case);
    assert!(bars(&outcome, &case) < 1.0);
    assert_eq!(outcome.kernel.map(|(arch, _)| arch), Some(Arch::Sm80));
    assert!(outcome.reports.iter().all(|report| report.instructions > 0) && outcome.reports.len() == 1);
}

#[test]
fn decode_gives_the_same_however_the_tokens_are_cut() {
    let packed = Draw { cu_seqlens: Some(vec![0, 9, 9, 10, 23]), ..Draw::new(1, 23, 1, 2, seed_of(5)) };
    let (rule, device) = (gdn(), Device::vm());
    for draw in [packed, Draw::new(3, 11, 1, 2, seed_of(5))] {
        let mut case = Case::drawn(&rule, &draw, false).unwrap();
        let sequences = case.tensors[&Tensor::InitialState].shape[0];
        let whole = Run { tokens_per_launch: 64, ..Run::new(&rule, Pass::Decode, &device) };
        let expected = ENGINE.run(&whole, &case).unwrap();
        assert!(bars(&expected, &case) < 1.0);
        // The pool turned round, states taken from and put back to other places than their own.
        let turned: Vec<i32> = (0..sequences as i32).rev().collect();
        let pool = case.tensors.get_mut(&Tensor::InitialState).unwrap();
        let state = pool.data.len() / sequences;
        pool.data = pool.data.chunks_exact(state).rev().flatten().copied().collect();
        case.initial_slots = Some(turned);
        for tokens_per_launch in [1, 4, 64] {
            let cut = ENGINE.run(&Run { tokens_per_launch, ..whole.clone() }, &case).unwrap();
            assert_eq!(cut.tensors, expected.tensors, "{tokens_per_launch} tokens a launch");
            assert_eq!(
                cut.reports.len(),
                if tokens_per_launch == 64 { 1 } else { longest(&draw).div_ceil(tokens_per_launch) }
            );
        }
    }
}

fn longest(draw: &Draw) -> usize {
    let packed = draw.cu_seqlens.iter().flat_map(|offsets| offsets.windows(2)).map(|pair| pair[1] - pair[0]).max();
    packed.unwrap_or(draw.tokens)
}

const STATES: [Tensor; 4] = [Tensor::InitialState, Tensor::FinalState, Tensor::DFinalState, Tensor::DInitialState];

/// The same tensors with the last two axes of every state the other way round, one number at a time.
fn turned(tensors: &BTreeMap<Tensor, Array>) -> BTreeMap<Tensor, Array> {
    let turn = |(tensor, array): (&Tensor, &Array)| {
        if !STATES.contains(tensor) {
            return (*tensor, array.clone());
        }
        let [slots, heads, rows, columns] = <[usize; 4]>::try_from(array.shape.as_slice()).unwrap();
        let mut other = Array::new(&[slots, heads, columns, rows], vec![0.0; array.data.len()]).unwrap();
        for at in 0..array.data.len() {
            let (matrix, row, column) = (at / (rows * columns), at / columns % rows, at % columns);
            other.data[matrix * rows * columns + column * rows + row] = array.data[at];
        }
        (*tensor, other)
    };
    tensors.iter().map(turn).collect()
}

/// The same tensors up to the order in which a kernel adds: far closer than two layouts are to each other.
fn alike(got: &BTreeMap<Tensor, Array>, want: &BTreeMap<Tensor, Array>, what: &str) {
    assert!(got.keys().eq(want.keys()), "{what}");
    for (tensor, array) in got {
        assert_eq!(array.shape, want[tensor].shape, "{what}: {}", tensor.name());
        let reference: Vec<f64> = want[tensor].data.iter().map(|x| f64::from(*x)).collect();
        let deviation = Deviation::of(array.data.iter().map(|x| f64::from(*x)), &reference);
        assert!(deviation.passes(0.003), "{what}: {}: {deviation:?}", tensor.name());
    }
}

#[test]
fn states_of_a_case_are_in_the_rules_layout_on_every_device_and_in_every_pass() {
    let seed = seed_of(5);
    let devices = [Device::cpu(), Device::Cpu(Precision::Double), Device::vm()];
    // K below, above and equal to V: where they are equal no shape tells the layouts apart.
    for (key, value) in [(32, 16), (16, 32), (16, 16)] {
        for initial_state in [true, false] {
            let kv = gdn().with_dims(key, value).unwrap();
            let vk = Rule { state: StateLayout::Vk, ..kv.clone() };
            let draw = Draw { initial_state, ..Draw::new(2, 20, 1, 2, seed) };
            let [straight, other] = [&kv, &vk].map(|rule| Case::drawn(rule, &draw, true).unwrap());
            assert_eq!(other.tensors, turned(&straight.tensors));
            assert_eq!(other.rule().unwrap().state, StateLayout::Vk);
            for (device, pass) in devices
                .iter()
                .flat_map(|device| [Pass::Forward, Pass::Decode, Pass::Backward].map(|pass| (device, pass)))
            {
                let what = format!("{pass:?} {key}x{value} on {device:?}, initial state: {initial_state}");
                let outcomes = [(&kv, &straight), (&vk, &other)].map(|(rule, case)| run(rule, pass, device, case));
                alike(&outcomes[1].tensors, &turned(&outcomes[0].tensors), &what);
            }
        }
    }
}

#[test]
fn pools_of_states_are_in_the_rules_layout_too() {
    let draw = Draw { cu_seqlens: Some(vec![0, 9, 9, 21]), ..Draw::new(1, 21, 1, 2, seed_of(23)) };
    let vk = Rule { state: StateLayout::Vk, ..gdn() };
    for device in [Device::cpu(), Device::Cpu(Precision::Double), Device::vm()] {
        let outcomes = [gdn(), vk.clone()].map(|rule| {
            let mut case = Case::drawn(&rule, &draw, false).unwrap();
            // Sequence 0 starts from slot 2 and is not kept, 1 has no state, 2 moves from slot 0 to slot 1.
            (case.initial_slots, case.final_slots) = (Some(vec![2, -1, 0]), Some(vec![-1, 2, 1]));
            (run(&rule, Pass::Forward, &device, &case), case)
        });
        let [(straight, case), (other, _)] = &outcomes;
        alike(&other.tensors, &turned(&straight.tensors), &format!("{device:?}"));
        let state = |tensors: &BTreeMap<Tensor, Array>, tensor, slot: usize| {
            let array: &Array = &tensors[&tensor];
            let size = array.data.len() / array.shape[0];
            array.data[slot * size..(slot + 1) * size].to_vec()
        };
        let untouched = state(&case.tensors, Tensor::InitialState, 0);
        assert_eq!(state(&straight.tensors, Tensor::FinalState, 0), untouched, "{device:?}");
    }
}

#[test]
fn a_file_that_names_another_layout_is_refused() {
    let draw = Draw::new(1, 4, 1, 1, seed_of(3));
    let kv = gdn().with_dims(16, 16).unwrap();
    let vk = Rule { state: StateLayout::Vk, ..kv.clone() };
    for (rule, other) in [(&kv, &vk), (&vk, &kv)] {
        let case = Case::drawn(rule, &draw, false).unwrap();
        let error = ENGINE.run(&Run::new(other, Pass::Forward, &Device::cpu()), &case).unwrap_err().to_string();
        assert!(error.contains("metadata `layout`") && error.contains("transpose the states"), "{error}");
        // Without metadata the rule alone says what the numbers are; without states there is nothing to mistake.
        let silent = Case { metadata: BTreeMap::new(), ..case.clone() };
        assert!(ENGINE.run(&Run::new(other, Pass::Forward, &Device::cpu()), &silent).is_ok());
        let mut stateless = case;
        stateless.tensors.retain(|tensor, _| !STATES.contains(tensor));
        assert!(ENGINE.run(&Run::new(other, Pass::Forward, &Device::cpu()), &stateless).is_ok());
    }
}

#[test]
fn no_tokens_leave_the_state_as_it_was() {
    let case = Case::drawn(&gdn(), &Draw::new(2, 0, 1, 1, seed_of(5)), false).unwrap();
    for device in [Device::cpu(), Device::vm()] {
        let outcome = run(&gdn(), Pass::Forward, &device, &case);
        assert_eq!(outcome.tensors[&Tensor::FinalState].data, case.tensors[&Tensor::InitialState].data);
        assert_eq!(outcome.tensors[&Tensor::O].shape, [2, 0, 1, 16]);
    }
}

#[test]
fn slots_choose_states_and_leave_the_others_their_bits() {
    let draw = Draw { cu_seqlens: Some(vec![0, 17, 17, 50]), ..Draw::new(1, 50, 1, 2, seed_of(5)) };
    let straight = Case::drawn(&gdn(), &draw, false).unwrap();
    let expected = run(&gdn(), Pass::Forward, &Device::Cpu(Precision::Double), &straight);
    // The same states in other places of a larger pool; sequence 1 is empty and not written back.
    let state = 2 * 32 * 16;
    let mut pool = vec![7.25f32; 5 * state];
    for (sequence, slot) in [(0usize, 4usize), (1, 1), (2, 0)] {
        let from = &straight.tensors[&Tensor::InitialState].data[sequence * state..(sequence + 1) * state];
        pool[slot * state..(slot + 1) * state].copy_from_slice(from);
    }
    let mut case = straight.clone();
    let initial = case.tensors.get_mut(&Tensor::InitialState).unwrap();
    (initial.shape[0], initial.data) = (5, pool.clone());
    case.initial_slots = Some(vec![4, 1, 0]);
    case.final_slots = Some(vec![0, -1, 3]);
    for device in [Device::cpu(), Device::Cpu(Precision::Double), Device::vm()] {
        let outcome = run(&gdn(), Pass::Forward, &device, &case);
        let got = &outcome.tensors[&Tensor::FinalState].data;
        let of = |slot: usize| &got[slot * state..(slot + 1) * state];
        for (sequence, slot) in [(0usize, 0usize), (2, 3)] {
            let want = &expected.tensors[&Tensor::FinalState].data[sequence * state..(sequence + 1) * state];
            let want: Vec<f64> = want.iter().map(|x| f64::from(*x)).collect();
            assert!(Deviation::of(of(slot).iter().map(|x| f64::from(*x)), &want).passes(0.005), "{device:?} {slot}");
        }
        for slot in [1, 2, 4] {
            assert_eq!(of(slot), &pool[slot * state..(slot + 1) * state], "{device:?} {slot}");
        }
    }
}

#[test]
fn a_negative_initial_slot_starts_from_zeros() {
    let draw = Draw { initial_state: false, ..Draw::new(2, 20, 1, 1, seed_of(5)) };
    let zeros = Case::drawn(&gdn(), &draw, false).unwrap();
    let mut case = Case::drawn(&gdn(), &Draw::new(2, 20, 1, 1, seed_of(5)), false).unwrap();
    case.initial_slots = Some(vec![-1, -3]);
    for device in [Device::cpu(), Device::Cpu(Precision::Double), Device::vm()] {
        assert!(bars(&run(&gdn(), Pass::Forward, &device, &case), &zeros) < 1.0, "{device:?}");
    }
}

#[test]
fn a_missing_compiler_says_what_to_run() {
    let case = Case::drawn(&gdn(), &Draw::new(1, 4, 1, 1, seed_of(5)), false).unwrap();
    let device = Device::vm();
    let error = nothing().run(&Run::new(&gdn(), Pass::Forward, &device), &case).unwrap_err();
    assert!(matches!(&error, RunError::Nvrtc(NvrtcError::Missing { tried }) if tried.len() == 1), "{error}");
    assert!(error.to_string().contains("run `gdn2 toolchain install`"), "{error}");
}

#[test]
fn prebuilt_ptx_serves_where_the_compiler_is_missing() {
    let (rule, device) = (gdn(), Device::vm());
    let case = Case::drawn(&rule, &Draw::new(1, 30, 1, 1, seed_of(5)), false).unwrap();
    let asked = Run::new(&rule, Pass::Forward, &device);
    let artifact = ENGINE.artifact(&asked).unwrap();
    let mut compiler = Compiler::new(Search { explicit: Some("/nonexistent".into()), ..Search::default() });
    compiler.add_prebuilt(&artifact.source.hash, Arch::Sm80, artifact.ptx.clone());
    let engine = Engine::new(compiler);
    assert_eq!(engine.run(&asked, &case).unwrap(), ENGINE.run(&asked, &case).unwrap());
    let other = Run { schedule: "chunk=16", ..asked };
    assert!(matches!(engine.run(&other, &case), Err(RunError::Nvrtc(NvrtcError::Missing { .. }))));
}

#[test]
fn refusals_keep_their_kind() {
    let (rule, device) = (gdn(), Device::vm());
    let case = Case::drawn(&rule, &Draw::new(1, 4, 1, 1, seed_of(5)), false).unwrap();
    let asked = Run::new(&rule, Pass::Forward, &device);
    let run = |schedule| ENGINE.run(&Run { schedule, ..asked.clone() }, &case).unwrap_err();
    assert!(matches!(run("chunk=48"), RunError::Illegal(_)));
    assert!(matches!(run("colour=3"), RunError::Schedule(_)));
    assert!(matches!("gpu".parse::<Device>(), Err(DeviceError::Unknown(_))));
}

/// A machine with a driver opens its GPU or says why not; one without gets the typed error. Neither panics.
#[test]
fn a_missing_driver_is_an_error() {
    match "cuda:999".parse::<Device>() {
        Err(DeviceError::Unavailable { tried, .. }) => assert!(tried.contains(&"libcuda.so.1".to_owned())),
        Err(DeviceError::NoSuchGpu { asked: 999, .. } | DeviceError::OldDriver { .. }) => {}
        other => panic!("{other:?}"),
    }
}
