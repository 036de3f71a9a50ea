//! Kernels called the way a server calls them: states in slots of one pool and updated there, sequences of different
//! length packed into one row, tensors that are views into larger ones, offsets that change between replays, optional
//! arguments left out.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use gdn2_codegen::abi::Tensor;
use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::Pass;
use gdn2_codegen::schedule::Schedule;
use gdn2_dsl::bars::Deviation;
use gdn2_dsl::{Draw, Dtype, Inputs, Rule, StateLayout, reference};
use gdn2_runtime::device::vm::{Loaded, Settings};
use gdn2_runtime::drawn::bars;
use gdn2_runtime::raw::Arguments;
use gdn2_runtime::storage;
use gdn2_runtime::tensors::Case;
use gdn2_tests::draws::{draws, numbers, rules, runner};
use gdn2_tests::engine;
use gdn2_tests::seed::seed_of;
use gdn2_tests::views::{Spread, Views, spreads};
use gdn2_vm::{Address, Check, Memory};
use proptest::prelude::*;

const HEADS: usize = 2;
const VALUE_HEADS: usize = 4;
const BAR: f64 = 0.005;
const PASSES: [Pass; 2] = [Pass::Forward, Pass::Decode];
const SPREAD: Spread = Spread { after_head: 8, after_token: 24, heads_first: false };

/// Dims that fill no block and no warp evenly, every gate channel-wise and each stored in a type of its own.
fn rule(state: StateLayout) -> Rule {
    let mut rule = gdn2_dsl::parse_file(
        "rule odd { decay: channel as f32; erase: channel as bf16; write: channel as f32; \
         key_dim: 48; value_dim: 80; dtype: f16; }",
    )
    .unwrap()
    .remove(0);
    rule.state = state;
    rule
}

fn load(rule: &Rule, pass: Pass, schedule: &str) -> Loaded {
    let schedule = Schedule::from_overrides(rule, pass, Arch::Sm80, schedule).unwrap();
    let kernel = gdn2_codegen::bind(rule, pass, schedule, Arch::Sm80).unwrap();
    Loaded::new(&engine().compiler().compile(kernel).unwrap()).unwrap()
}

fn full() -> Settings {
    Settings { check: Check::Full, ..Settings::default() }
}

/// One state `[HV, K, V]` as the rule's layout has it, and back: the other order of the same numbers.
fn in_layout(rule: &Rule, state: &[f64], back: bool) -> Vec<f64> {
    let (mut rows, mut columns) = (rule.key_dim as usize, rule.value_dim as usize);
    if rule.state == StateLayout::Kv {
        return state.to_vec();
    }
    if back {
        (rows, columns) = (columns, rows);
    }
    let head = |head: &[f64]| {
        let at = |index: usize| head[index % rows * columns + index / rows];
        (0..rows * columns).map(at).collect::<Vec<f64>>()
    };
    state.chunks_exact(rows * columns).flat_map(head).collect()
}

fn close(what: &str, got: &[f64], want: &[f64]) {
    let deviation = Deviation::of(got.iter().copied(), want);
    assert!(deviation.passes(BAR), "{what}: {deviation:?}");
}

fn updates_slots_in_place(pass: Pass, state: StateLayout, schedule: &str) {
    let rule = rule(state);
    let draw = Draw { cu_seqlens: Some(vec![0, 3, 3, 4, 4, 9]), ..Draw::new(1, 9, HEADS, VALUE_HEADS, seed_of(5)) };
    let mut inputs = draw.inputs(&rule);
    // Sequence 1 has no token and moves its state from slot 6 to 1; sequence 2 starts from nothing; sequence 3 has
    // no token and starts from nothing; sequence 4 is not kept. Slots 3 and 5 are nobody's.
    let (from, to): ([i32; 5], [i32; 5]) = ([4, 6, -1, -1, 2], [4, 1, 0, 7, -1]);
    let size = VALUE_HEADS * inputs.dims.state();
    let drawn = inputs.initial_state.take().unwrap();
    let pool: Vec<f64> = (0..8).flat_map(|slot| drawn[slot % 5 * size..(slot % 5 + 1) * size].to_vec()).collect();
    let of_slot = |slot: &i32| match usize::try_from(*slot) {
        Ok(slot) => pool[slot * size..(slot + 1) * size].to_vec(),
        Err(_) => vec![0.0; size],
    };
    inputs.initial_state = Some(from.iter().flat_map(of_slot).collect());
    let want = reference::forward(rule.combination(), &inputs).unwrap();

    let mut views = Views::new(&rule, &inputs, SPREAD);
    let laid_out: Vec<f32> =
        pool.chunks_exact(size).flat_map(|slot| in_layout(&rule, slot, false)).map(|x| x as f32).collect();
    let before = storage::encode(laid_out.into_iter(), Dtype::F32);
    let address = views.memory.upload("pool", &before);
    (views.call.initial_state, views.call.final_state) = (address.0, address.0);
    (views.call.initial_slots, views.call.final_slots) = (views.ints("from", &from), views.ints("to", &to));
    views.pack(&[0, 3, 3, 4, 4, 9]);
    load(&rule, pass, schedule).launch(&mut views.memory, full(), &views.call, &[]).unwrap();

    close("o", &views.output().unwrap(), &want.o);
    let after = views.states(address.0);
    for (sequence, slot) in to.iter().enumerate().filter(|(_, slot)| **slot >= 0) {
        let slot = *slot as usize;
        let got = in_layout(&rule, &after[slot * size..(slot + 1) * size], true);
        close("state", &got, &want.final_state[sequence * size..(sequence + 1) * size]);
    }
    let bytes = views.memory.read(address);
    for slot in [2, 3, 5, 6] {
        let range = slot * size * 4..(slot + 1) * size * 4;
        assert_eq!(bytes[range.clone()], before[range], "slot {slot} was written");
    }
}

#[test]
fn packed_sequences_update_their_slots_of_one_pool_in_place() {
    for pass in PASSES {
        updates_slots_in_place(pass, StateLayout::Kv, "");
        updates_slots_in_place(pass, StateLayout::Vk, "");
    }
    updates_slots_in_place(Pass::Decode, StateLayout::Vk, "value_split=5,warps=1");
}

#[test]
fn states_may_be_left_out_and_tensors_may_lie_anywhere() {
    let rule = rule(StateLayout::Kv);
    let draw = Draw { initial_state: false, ..Draw::new(2, 4, HEADS, VALUE_HEADS, seed_of(6)) };
    let inputs = draw.inputs(&rule);
    let want = reference::forward(rule.combination(), &inputs).unwrap();
    for pass in PASSES {
        let loaded = load(&rule, pass, "");
        let mut views = Views::new(&rule, &inputs, SPREAD);
        assert!(views.call.q.batch > i64::from(u32::MAX));
        loaded.launch(&mut views.memory, full(), &views.call, &[]).unwrap();
        close("o without a final state", &views.output().unwrap(), &want.o);

        let mut views = Views::new(&rule, &inputs, SPREAD);
        let states = views.memory.poisoned("final_state", want.final_state.len() * 4);
        views.call.final_state = states.0;
        loaded.launch(&mut views.memory, full(), &views.call, &[]).unwrap();
        close("o with a final state", &views.output().unwrap(), &want.o);
        close("final_state", &views.states(states.0), &want.final_state);
    }
}

#[test]
fn without_tokens_the_state_stays_bit_for_bit() {
    let rule = rule(StateLayout::Kv);
    let size = VALUE_HEADS * (rule.key_dim * rule.value_dim) as usize;
    let state: Vec<u8> = (0..2 * size).flat_map(|index| (index as f32).sqrt().to_le_bytes()).collect();
    for pass in PASSES {
        let mut memory = Memory::new();
        let initial = memory.upload("initial_state", &state);
        let last = memory.poisoned("final_state", state.len());
        let call = Arguments {
            initial_state: initial.0,
            final_state: last.0,
            sequences: 2,
            tokens: 0,
            key_heads: HEADS as i32,
            value_heads: VALUE_HEADS as i32,
            scale: 1.0,
            ..Arguments::default()
        };
        load(&rule, pass, "").launch(&mut memory, full(), &call, &[]).unwrap();
        assert_eq!(memory.read(last), state);
    }
}

/// A captured graph replays the same arguments; the offsets behind their address may have changed meanwhile.
#[test]
fn a_replay_reads_the_offsets_of_that_moment() {
    let rule = rule(StateLayout::Kv);
    let (most, fewer) = ([0i64, 20, 20, 21, 70], [0i64, 0, 35, 36, 37]);
    let draw = |offsets: [i64; 5]| {
        let tokens = offsets[4] as usize;
        let offsets = Some(offsets.iter().map(|offset| *offset as usize).collect());
        Draw { cu_seqlens: offsets, ..Draw::new(1, tokens, HEADS, VALUE_HEADS, seed_of(8)) }
    };
    let inputs = draw(most).inputs(&rule);
    let width = VALUE_HEADS * rule.value_dim as usize;
    for pass in PASSES {
        let loaded = load(&rule, pass, "");
        let mut views = Views::new(&rule, &inputs, SPREAD);
        views.pack(&most);
        let state = inputs.initial_state.as_ref().unwrap();
        let pool = storage::encode(state.iter().map(|x| *x as f32), Dtype::F32);
        views.call.initial_state = views.memory.upload("initial_state", &pool).0;
        loaded.launch(&mut views.memory, full(), &views.call, &[]).unwrap();
        let want = reference::forward(rule.combination(), &inputs).unwrap();
        close("first replay", &views.output().unwrap(), &want.o);
        let first = views.output().unwrap();

        let bytes: Vec<u8> = fewer.iter().flat_map(|offset| offset.to_le_bytes()).collect();
        views.memory.write(Address(views.call.cu_seqlens), &bytes);
        loaded.launch(&mut views.memory, full(), &views.call, &[]).unwrap();
        let shorter = shortened(&rule, &inputs, fewer);
        let want = reference::forward(rule.combination(), &shorter).unwrap();
        let (now, rest) = (views.output().unwrap(), fewer[4] as usize * width);
        close("second replay", &now[..rest], &want.o);
        assert_eq!(now[rest..], first[rest..], "a token behind the last offset was written");
    }
}

/// The first tokens of packed inputs, cut into other sequences.
fn shortened(rule: &Rule, inputs: &Inputs, offsets: [i64; 5]) -> Inputs {
    let tokens = offsets[4] as usize;
    let mut inputs = inputs.clone();
    let was = std::mem::replace(&mut inputs.dims.tokens, tokens);
    let cut = |values: &mut Vec<f64>| values.truncate(values.len() / was * tokens);
    [&mut inputs.q, &mut inputs.k, &mut inputs.v].into_iter().for_each(cut);
    [&mut inputs.g, &mut inputs.b, &mut inputs.w].into_iter().flatten().for_each(cut);
    inputs.cu_seqlens = Some(offsets.iter().map(|offset| *offset as usize).collect());
    assert!(inputs.check(rule.combination()).is_ok());
    inputs
}

/// Any rule on any draw with its tensors spread over memory in any way.
#[test]
fn strides_of_any_kind() {
    let engine = engine();
    let strategy = (rules(), draws(), spreads(), prop::sample::select(PASSES.to_vec()));
    runner(24)
        .run(&strategy, |(rule, draw, spread, pass)| {
            let inputs = draw.inputs(&rule);
            let exact = Case::drawn(&rule, &draw, false).unwrap();
            let arch = Arch::Sm80;
            let schedule = Schedule::from_overrides(&rule, pass, arch, "").unwrap();
            let kernel = gdn2_codegen::bind(&rule, pass, schedule, arch).unwrap();
            let loaded = Loaded::new(&engine.compiler().compile(kernel).unwrap()).unwrap();
            let mut views = Views::new(&rule, &inputs, spread);
            if let Some(offsets) = &inputs.cu_seqlens {
                views.pack(&offsets.iter().map(|offset| *offset as i64).collect::<Vec<i64>>());
            }
            if let Some(states) = &inputs.initial_state {
                let laid_out = in_layout(&rule, states, false);
                let pool = storage::encode(laid_out.into_iter().map(|x| x as f32), Dtype::F32);
                views.call.initial_state = views.memory.upload("initial_state", &pool).0;
            }
            let reports = loaded.launch(&mut views.memory, full(), &views.call, &[]);
            reports.map_err(|error| TestCaseError::fail(format!("{error}: {rule}{spread:?} {draw:?}")))?;
            let o = views.output().map_err(TestCaseError::fail)?;
            let limit = bars(&rule, &draw, &exact, &schedule).unwrap()[&Tensor::O].limit;
            let deviation = Deviation::of(o.into_iter(), &numbers(&exact, Tensor::O));
            prop_assert!(deviation.passes(limit), "{deviation:?}, limit {limit}: {rule}{pass:?} {spread:?} {draw:?}");
            Ok(())
        })
        .unwrap();
}
