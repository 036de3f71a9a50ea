//! Decode kernels called the way a server calls them: states in slots of one pool and updated there, sequences of
//! different length packed into one row, tensors that are views into larger ones, optional arguments left out.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use gdn2_codegen::abi::Tensor;
use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::Pass;
use gdn2_codegen::schedule::Schedule;
use gdn2_dsl::bars::Deviation;
use gdn2_dsl::{Draw, Dtype, Inputs, Rule, StateLayout, reference};
use gdn2_runtime::device::vm::{Loaded, Settings};
use gdn2_runtime::problem;
use gdn2_runtime::raw::{Arguments, View};
use gdn2_runtime::storage;
use gdn2_tests::engine;
use gdn2_vm::{Address, Check, Memory};

const HEADS: usize = 2;
const VALUE_HEADS: usize = 4;
const BAR: f64 = 0.005;

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

fn load(rule: &Rule, schedule: &str) -> Loaded {
    let schedule = Schedule::from_overrides(rule, Pass::Decode, Arch::Sm80, schedule).unwrap();
    let kernel = gdn2_codegen::bind(rule, Pass::Decode, schedule, Arch::Sm80).unwrap();
    Loaded::new(&engine().compiler().compile(kernel).unwrap()).unwrap()
}

fn full() -> Settings {
    Settings { check: Check::Full, ..Settings::default() }
}

/// Inputs as views with room between tokens and between heads; each batch row in memory of its own, so that the batch
/// stride is far beyond 32 bits. What lies between is NaN.
struct Views<'a> {
    rule: &'a Rule,
    memory: Memory,
    call: Arguments,
    /// Rows of o: an address per batch row.
    o: Vec<Address>,
}

/// Token and head strides in elements: multiples of 16 bytes in every type.
fn strides(heads: usize, channels: usize) -> (usize, usize) {
    ((channels + 8) * heads + 24, channels + 8)
}

fn heads_and_channels(rule: &Rule, tensor: Tensor) -> (usize, usize) {
    match tensor {
        Tensor::Q | Tensor::K => (HEADS, rule.key_dim as usize),
        Tensor::G | Tensor::B => (VALUE_HEADS, rule.key_dim as usize),
        _ => (VALUE_HEADS, rule.value_dim as usize),
    }
}

impl<'a> Views<'a> {
    fn new(rule: &'a Rule, inputs: &Inputs) -> Views<'a> {
        let dims = inputs.dims;
        let mut views = Views { rule, memory: Memory::new(), call: Arguments::default(), o: Vec::new() };
        let given = [
            (Tensor::Q, Some(&inputs.q)),
            (Tensor::K, Some(&inputs.k)),
            (Tensor::V, Some(&inputs.v)),
            (Tensor::G, inputs.g.as_ref()),
            (Tensor::B, inputs.b.as_ref()),
            (Tensor::W, inputs.w.as_ref()),
        ];
        for (tensor, values) in given {
            let (heads, channels) = heads_and_channels(rule, tensor);
            let (token, head) = strides(heads, channels);
            let row_of = |batch: usize| {
                let mut row = vec![f32::NAN; dims.tokens * token];
                for t in 0..dims.tokens {
                    for h in 0..heads {
                        let from = ((batch * dims.tokens + t) * heads + h) * channels;
                        for (channel, value) in values.unwrap()[from..from + channels].iter().enumerate() {
                            row[t * token + h * head + channel] = *value as f32;
                        }
                    }
                }
                row
            };
            let dtype = problem::dtype(rule, tensor);
            let rows: Vec<Address> = (0..dims.batch)
                .map(|batch| views.memory.upload(tensor.name(), &storage::encode(row_of(batch).into_iter(), dtype)))
                .collect();
            views.point(tensor, &rows, token, head);
        }
        let (token, head) = strides(VALUE_HEADS, dims.value_dim);
        let bytes = dims.tokens * token * rule.dtype.bytes() as usize;
        let rows: Vec<Address> = (0..dims.batch).map(|_| views.memory.poisoned("o", bytes)).collect();
        views.point(Tensor::O, &rows, token, head);
        views.o = rows;
        views.call = Arguments {
            sequences: inputs.states() as i32,
            tokens: dims.tokens as i32,
            key_heads: HEADS as i32,
            value_heads: VALUE_HEADS as i32,
            scale: inputs.scale as f32,
            ..views.call
        };
        views
    }

    fn point(&mut self, tensor: Tensor, rows: &[Address], token: usize, head: usize) {
        let bytes = i64::from(problem::dtype(self.rule, tensor).bytes());
        // Two rows at most: buffers of this machine are not equally far apart.
        let batch = rows.get(1).map_or(0, |second| (second.0 as i64 - rows[0].0 as i64) / bytes);
        *self.call.view_mut(tensor).unwrap() =
            View { address: rows[0].0, batch, token: token as i64, head: head as i64 };
    }

    fn ints(&mut self, name: &str, values: &[i32]) -> u64 {
        self.memory.upload(name, &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>()).0
    }

    /// o as `[B, T, HV, V]`; what lies between its rows must be untouched.
    fn output(&self, tokens: usize) -> Vec<f64> {
        let value_dim = self.rule.value_dim as usize;
        let (token, head) = strides(VALUE_HEADS, value_dim);
        let mut o = Vec::new();
        for row in &self.o {
            let bytes = self.memory.read(*row);
            let numbers = storage::decode(bytes, self.rule.dtype);
            let mut ours = vec![false; numbers.len()];
            for t in 0..tokens {
                for h in 0..VALUE_HEADS {
                    let from = t * token + h * head;
                    o.extend(numbers[from..from + value_dim].iter().copied().map(f64::from));
                    ours[from..from + value_dim].fill(true);
                }
            }
            for (index, pair) in bytes.chunks_exact(2).enumerate().filter(|(index, _)| !ours[*index]) {
                assert_eq!(pair, [0xff, 0xff], "element {index}, between the rows of o, was written");
            }
        }
        o
    }
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

#[test]
fn packed_sequences_update_their_slots_of_one_pool_in_place() {
    for (state, schedule) in [(StateLayout::Kv, ""), (StateLayout::Vk, ""), (StateLayout::Vk, "value_split=5,warps=1")]
    {
        let rule = rule(state);
        let draw = Draw { cu_seqlens: Some(vec![0, 3, 3, 4, 4, 9]), ..Draw::new(1, 9, HEADS, VALUE_HEADS, 5) };
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

        let mut views = Views::new(&rule, &inputs);
        let laid_out: Vec<f32> =
            pool.chunks_exact(size).flat_map(|slot| in_layout(&rule, slot, false)).map(|x| x as f32).collect();
        let before = storage::encode(laid_out.into_iter(), Dtype::F32);
        let address = views.memory.upload("pool", &before);
        (views.call.initial_state, views.call.final_state) = (address.0, address.0);
        (views.call.initial_slots, views.call.final_slots) = (views.ints("from", &from), views.ints("to", &to));
        let offsets: Vec<u8> = [0i64, 3, 3, 4, 4, 9].iter().flat_map(|offset| offset.to_le_bytes()).collect();
        views.call.cu_seqlens = views.memory.upload("cu_seqlens", &offsets).0;
        views.call.cu_seqlens_is_64 = 1;
        load(&rule, schedule).launch(&mut views.memory, full(), &views.call, &[]).unwrap();

        close("o", &views.output(9), &want.o);
        let bytes = views.memory.read(address);
        let after: Vec<f64> = storage::decode(bytes, Dtype::F32).into_iter().map(f64::from).collect();
        for (sequence, slot) in to.iter().enumerate().filter(|(_, slot)| **slot >= 0) {
            let slot = *slot as usize;
            let got = in_layout(&rule, &after[slot * size..(slot + 1) * size], true);
            close("state", &got, &want.final_state[sequence * size..(sequence + 1) * size]);
        }
        for slot in [2, 3, 5, 6] {
            let range = slot * size * 4..(slot + 1) * size * 4;
            assert_eq!(bytes[range.clone()], before[range], "slot {slot} was written");
        }
    }
}

#[test]
fn states_may_be_left_out_and_tensors_may_lie_anywhere() {
    let rule = rule(StateLayout::Kv);
    let loaded = load(&rule, "");
    let draw = Draw { initial_state: false, ..Draw::new(2, 4, HEADS, VALUE_HEADS, 6) };
    let inputs = draw.inputs(&rule);
    let want = reference::forward(rule.combination(), &inputs).unwrap();

    let mut views = Views::new(&rule, &inputs);
    assert!(views.call.q.batch > i64::from(u32::MAX));
    loaded.launch(&mut views.memory, full(), &views.call, &[]).unwrap();
    close("o without a final state", &views.output(4), &want.o);

    let mut views = Views::new(&rule, &inputs);
    let states = views.memory.poisoned("final_state", want.final_state.len() * 4);
    views.call.final_state = states.0;
    loaded.launch(&mut views.memory, full(), &views.call, &[]).unwrap();
    close("o with a final state", &views.output(4), &want.o);
    let got: Vec<f64> = storage::decode(views.memory.read(states), Dtype::F32).into_iter().map(f64::from).collect();
    close("final_state", &got, &want.final_state);
}

#[test]
fn without_tokens_the_state_stays_bit_for_bit() {
    let rule = rule(StateLayout::Kv);
    let size = VALUE_HEADS * (rule.key_dim * rule.value_dim) as usize;
    let state: Vec<u8> = (0..2 * size).flat_map(|index| (index as f32).sqrt().to_le_bytes()).collect();
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
    load(&rule, "").launch(&mut memory, full(), &call, &[]).unwrap();
    assert_eq!(memory.read(last), state);
}
