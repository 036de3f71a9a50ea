//! Calls on a stream, their parameter blocks run on the virtual machine: bit for bit what the calls on host memory give.
#![allow(clippy::unwrap_used)]

mod driver;

use std::sync::Arc;

use driver::{Machine, draw, stream};
use gdn2::{Device, DeviceOffsets, DeviceSlots, Dtype, ForeignMemory, Outputs, Shape, Tensor, View, ViewMut};

gdn2::delta_rule! {
    /// Every gate there is.
    pub mod rule { decay: channel; erase: channel; write: channel; key_dim: 32; value_dim: 48; dtype: bf16; }
}

const H: usize = 1;
const HV: usize = 2;
const K: usize = 32;
const V: usize = 48;

/// Inputs of a call of B rows of T tokens.
struct Inputs {
    b: usize,
    t: usize,
    tensors: [Vec<f32>; 6],
    state: Vec<f32>,
}

/// Heads, channels and dtype of q, k, v, g, b, w.
const KINDS: [(usize, usize, Dtype); 6] = [
    (H, K, Dtype::Bf16),
    (H, K, Dtype::Bf16),
    (HV, V, Dtype::Bf16),
    (HV, K, Dtype::F32),
    (HV, K, Dtype::Bf16),
    (HV, V, Dtype::Bf16),
];

impl Inputs {
    fn new(b: usize, t: usize, states: usize) -> Inputs {
        let ranges = [(-0.2, 0.2), (-0.2, 0.2), (-1.0, 1.0), (-0.3, 0.0), (0.0, 1.0), (0.0, 1.0)];
        let mut seed = 0;
        let tensors = std::array::from_fn(|index| {
            seed += 1;
            let ((heads, channels, _), (low, high)) = (KINDS[index], ranges[index]);
            draw(seed, b * t * heads * channels, low, high)
        });
        Inputs { b, t, tensors, state: draw(9, states * HV * K * V, -0.1, 0.1) }
    }

    fn host(&self) -> [View<'_>; 6] {
        std::array::from_fn(|index| {
            let (heads, channels, _) = KINDS[index];
            View::new(&self.tensors[index], [self.b, self.t, heads, channels]).unwrap()
        })
    }

    fn on(&self, machine: &Machine) -> [ForeignMemory; 6] {
        std::array::from_fn(|index| machine.upload(&self.tensors[index], KINDS[index].2))
    }

    fn views<'a>(&self, memory: &'a [ForeignMemory; 6]) -> [View<'a>; 6] {
        std::array::from_fn(|index| {
            let (heads, channels, _) = KINDS[index];
            View::device(&memory[index], [self.b, self.t, heads, channels]).unwrap()
        })
    }
}

fn forward<'a>([q, k, v, g, b, w]: [View<'a>; 6], initial_state: Option<View<'a>>) -> rule::Forward<'a> {
    rule::Forward { q, k, v, g, b, w, initial_state, cu_seqlens: None, scale: None }
}

#[test]
fn forward_and_backward_give_the_bits_of_the_calls_on_host_memory() {
    let (b, t) = (2, 70);
    let inputs = Inputs::new(b, t, b);
    let state = View::new(&inputs.state, [b, HV, K, V]).unwrap();
    let plain = rule::load(&Device::vm()).unwrap();
    let (d_out, d_state) = (draw(7, b * t * HV * V, -1.0, 1.0), draw(8, b * HV * K * V, -1.0, 1.0));
    let backward = rule::Backward {
        d_out: View::new(&d_out, [b, t, HV, V]).unwrap(),
        d_final_state: Some(View::new(&d_state, [b, HV, K, V]).unwrap()),
    };
    let (want, saved) = plain.forward_for_backward(forward(inputs.host(), Some(state))).unwrap();
    let grads = plain.backward(&saved, backward).unwrap();
    assert_eq!(want, plain.forward(forward(inputs.host(), Some(state))).unwrap(), "what is kept changes nothing");

    let machine = Machine::default();
    let kernels = rule::load_through(Arc::new(machine.clone())).unwrap();
    let (memory, pool) = (inputs.on(&machine), machine.upload(&inputs.state, Dtype::F32));
    let state = View::device(&pool, [b, HV, K, V]).unwrap();
    let given = forward(inputs.views(&memory), Some(state));
    let (mut o, mut last) = (machine.room(b * t * HV * V, Dtype::Bf16), machine.room(b * HV * K * V, Dtype::F32));
    let outputs = Outputs {
        o: ViewMut::device(&mut o, [b, t, HV, V]).unwrap(),
        final_state: Some(ViewMut::device(&mut last, [b, HV, K, V]).unwrap()),
    };
    let bytes = kernels.training_scratch(Shape::dense(b, t, H, HV)).unwrap();
    let mut scratch = machine.room(bytes.div_ceil(4), Dtype::F32);
    kernels.forward_for_backward_on(stream(), given, outputs, &mut scratch).unwrap();
    assert_eq!(machine.read(&o), want.o.to_f32());
    assert_eq!(machine.read(&last), want.final_state.to_f32());

    let (d_out, d_state) = (machine.upload(&d_out, Dtype::Bf16), machine.upload(&d_state, Dtype::F32));
    let backward = rule::Backward {
        d_out: View::device(&d_out, [b, t, HV, V]).unwrap(),
        d_final_state: Some(View::device(&d_state, [b, HV, K, V]).unwrap()),
    };
    let mut rooms = KINDS.map(|(heads, channels, dtype)| machine.room(b * t * heads * channels, dtype));
    let mut d_initial = machine.room(b * HV * K * V, Dtype::F32);
    let [dq, dk, dv, dg, db, dw] = &mut rooms;
    let gradients = rule::GradientsMut {
        dq: ViewMut::device(dq, [b, t, H, K]).unwrap(),
        dk: ViewMut::device(dk, [b, t, H, K]).unwrap(),
        dv: ViewMut::device(dv, [b, t, HV, V]).unwrap(),
        dg: ViewMut::device(dg, [b, t, HV, K]).unwrap(),
        db: ViewMut::device(db, [b, t, HV, K]).unwrap(),
        dw: ViewMut::device(dw, [b, t, HV, V]).unwrap(),
        d_initial_state: Some(ViewMut::device(&mut d_initial, [b, HV, K, V]).unwrap()),
    };
    kernels.backward_on(stream(), given, backward, gradients, &mut scratch).unwrap();
    let wanted = [&grads.dq, &grads.dk, &grads.dv, &grads.dg, &grads.db, &grads.dw];
    for ((got, want), name) in rooms.iter().zip(wanted).zip(["dq", "dk", "dv", "dg", "db", "dw"]) {
        assert_eq!(machine.read(got), want.to_f32(), "{name}");
    }
    assert_eq!(machine.read(&d_initial), grads.d_initial_state.unwrap().to_f32());
}

#[test]
fn packed_sequences_into_a_strided_output() {
    let t = 50;
    let inputs = Inputs::new(1, t, 3);
    let offsets = [0i32, 17, 17, 50];
    let plain = rule::load(&Device::vm()).unwrap();
    let host = rule::Forward { cu_seqlens: Some((&offsets[..]).into()), ..forward(inputs.host(), None) };
    let want = plain.forward(host).unwrap();
    // In host memory too an output can be given, with strides and in f32.
    let mut wide = vec![f32::NAN; t * HV * 2 * V];
    let strides = [t * HV * 2 * V, HV * 2 * V, 2 * V, 1];
    let o = ViewMut::strided(&mut wide, [1, t, HV, V], strides).unwrap();
    plain.forward_into(host, Outputs { o, final_state: None }).unwrap();
    let every_other = |numbers: &[f32]| -> Vec<f32> {
        numbers.chunks_exact(2 * V).flat_map(|row| row[..V].iter().copied()).collect()
    };
    assert_eq!(every_other(&wide), want.o.to_f32());

    let machine = Machine::default();
    let kernels = rule::load_through(Arc::new(machine.clone())).unwrap();
    let memory = inputs.on(&machine);
    // SAFETY: the offsets are as they must be.
    let offsets = unsafe { DeviceOffsets::from_memory(Box::new(machine.upload_i32(&offsets)), t) };
    let given = rule::Forward { cu_seqlens: Some((&offsets).into()), ..forward(inputs.views(&memory), None) };
    let mut wide = machine.room(t * HV * 2 * V, Dtype::Bf16);
    let mut last = machine.room(3 * HV * K * V, Dtype::F32);
    let outputs = Outputs {
        o: ViewMut::device_strided(&mut wide, [1, t, HV, V], strides).unwrap(),
        final_state: Some(ViewMut::device(&mut last, [3, HV, K, V]).unwrap()),
    };
    kernels.forward_on(stream(), given, outputs).unwrap();
    assert_eq!(every_other(&machine.read(&wide)), want.o.to_f32());
    assert_eq!(machine.read(&last), want.final_state.to_f32());
}

#[test]
fn decode_updates_the_slots_of_a_pool() {
    let (b, slots) = (2, [3i32, 0]);
    let inputs = Inputs::new(b, 1, 4);
    let plain = rule::load(&Device::vm()).unwrap();
    let mut pool = Tensor::zeros([4, HV, K, V], Dtype::F32).unwrap();
    pool.as_mut_slice::<f32>().unwrap().copy_from_slice(&inputs.state);
    let [q, k, v, g, erase, w] = inputs.host();
    let host = rule::Decode { q, k, v, g, b: erase, w, slots: Some((&slots).into()), scale: Some(0.25) };
    let want = plain.decode(&mut pool, host).unwrap();

    let machine = Machine::default();
    let kernels = rule::load_through(Arc::new(machine.clone())).unwrap();
    let (memory, mut states) = (inputs.on(&machine), machine.upload(&inputs.state, Dtype::F32));
    let mut o = machine.room(b * HV * V, Dtype::Bf16);
    // SAFETY: they differ and are below 4.
    let slots = unsafe { DeviceSlots::from_memory(Box::new(machine.upload_i32(&slots)), 4) };
    let [q, k, v, g, erase, w] = inputs.views(&memory);
    let given = rule::Decode { q, k, v, g, b: erase, w, slots: Some((&slots).into()), scale: Some(0.25) };
    let state = ViewMut::device(&mut states, [4, HV, K, V]).unwrap();
    kernels.decode_on(stream(), state, given, ViewMut::device(&mut o, [b, 1, HV, V]).unwrap()).unwrap();
    assert_eq!(machine.read(&o), want.to_f32());
    assert_eq!(machine.read(&states), pool.to_f32());
}
