//! Calls on a stream through the C interface, their parameter blocks run on the virtual machine: bit for bit what the
//! calls on host memory give.
#![allow(clippy::unwrap_used)]

#[path = "../../gdn2/tests/driver/mod.rs"]
mod driver;

use std::ffi::{CStr, c_int, c_void};
use std::ptr;
use std::sync::Arc;

use driver::{Machine, draw};
use gdn2::{DeviceMemory, Dtype, ForeignMemory, Stored};
use gdn2_c::{
    Call, Gradients, Kernels, Sizes, Tensor, gdn2_backward, gdn2_backward_on, gdn2_decode, gdn2_decode_on,
    gdn2_forward, gdn2_forward_for_backward_on, gdn2_forward_on, gdn2_last_error, gdn2_training_scratch,
};

gdn2::delta_rule! {
    /// Every gate there is.
    pub mod rule { decay: channel; erase: channel; write: channel; key_dim: 32; value_dim: 48; dtype: bf16; }
}

const H: usize = 1;
const HV: usize = 2;
const K: usize = 32;
const V: usize = 48;

/// Row-major, at an address.
fn tensor(data: *mut c_void, dtype: Dtype, sizes: &[usize]) -> Tensor {
    let (mut shape, mut strides, mut step) = ([0; 4], [0; 4], 1);
    for (axis, size) in sizes.iter().enumerate().rev() {
        (shape[axis], strides[axis]) = (*size as i64, step);
        step *= *size as i64;
    }
    let dtype = [Dtype::F32, Dtype::Bf16, Dtype::F16].iter().position(|each| *each == dtype).unwrap() as i32;
    Tensor { data, dtype, rank: sizes.len() as i32, shape, strides }
}

const ABSENT: Tensor = Tensor { data: ptr::null_mut(), dtype: 0, rank: 0, shape: [0; 4], strides: [0; 4] };

fn at(memory: &ForeignMemory, sizes: &[usize]) -> Tensor {
    let Stored::Float(dtype) = memory.stored() else { return ABSENT };
    tensor(ptr::without_provenance_mut(memory.address() as usize), dtype, sizes)
}

/// Numbers of a tensor, in the host's memory and in the machine's.
struct Both {
    host: Vec<f32>,
    device: ForeignMemory,
    sizes: Vec<usize>,
}

impl Both {
    fn new(machine: &Machine, seed: u64, sizes: &[usize], (low, high): (f32, f32), dtype: Dtype) -> Both {
        let host = draw(seed, sizes.iter().product(), low, high);
        Both { device: machine.upload(&host, dtype), host, sizes: sizes.to_vec() }
    }

    /// Room to write to.
    fn room(machine: &Machine, sizes: &[usize], dtype: Dtype) -> Both {
        let len = sizes.iter().product();
        Both { host: vec![f32::NAN; len], device: machine.room(len, dtype), sizes: sizes.to_vec() }
    }

    fn host(&self) -> Tensor {
        tensor(self.host.as_ptr().cast_mut().cast(), Dtype::F32, &self.sizes)
    }

    fn host_mut(&mut self) -> Tensor {
        tensor(self.host.as_mut_ptr().cast(), Dtype::F32, &self.sizes)
    }

    fn device(&self) -> Tensor {
        at(&self.device, &self.sizes)
    }

    #[track_caller]
    fn agree(&self, machine: &Machine) {
        assert_eq!(machine.read(&self.device), self.host);
    }
}

#[track_caller]
fn good(status: c_int) {
    // SAFETY: the text ends in NUL and lives until this thread's next call.
    assert_eq!(status, 0, "{}", unsafe { CStr::from_ptr(gdn2_last_error()) }.to_str().unwrap());
}

fn inputs(machine: &Machine, b: usize, t: usize) -> [Both; 7] {
    [
        Both::new(machine, 1, &[b, t, H, K], (-0.2, 0.2), Dtype::Bf16),
        Both::new(machine, 2, &[b, t, H, K], (-0.2, 0.2), Dtype::Bf16),
        Both::new(machine, 3, &[b, t, HV, V], (-1.0, 1.0), Dtype::Bf16),
        Both::new(machine, 4, &[b, t, HV, K], (-0.3, 0.0), Dtype::F32),
        Both::new(machine, 5, &[b, t, HV, K], (0.0, 1.0), Dtype::Bf16),
        Both::new(machine, 6, &[b, t, HV, V], (0.0, 1.0), Dtype::Bf16),
        Both::new(machine, 7, &[b, HV, K, V], (-0.1, 0.1), Dtype::F32),
    ]
}

fn call([q, k, v, g, b, w, initial_state]: [Tensor; 7]) -> Call {
    let (cu_seqlens, slots) = (ptr::null(), ptr::null());
    Call {
        q,
        k,
        v,
        g,
        b,
        w,
        initial_state,
        cu_seqlens,
        cu_seqlens_len: 0,
        slots,
        slots_len: 0,
        scale: 0.0,
        scale_given: 0,
        named: ptr::null(),
        named_len: 0,
    }
}

fn loaded() -> (Machine, Kernels, Kernels) {
    let machine = Machine::default();
    let plain = Kernels::from((*rule::load(&gdn2::Device::vm()).unwrap()).clone());
    let on = Kernels::from((*rule::load_through(Arc::new(machine.clone())).unwrap()).clone());
    (machine, plain, on)
}

const STREAM: *mut c_void = ptr::without_provenance_mut(9);

#[test]
fn training_on_a_stream_gives_the_bits_of_the_calls_on_host_memory() {
    let (machine, plain, on) = loaded();
    let (b, t) = (2, 70);
    let inputs = inputs(&machine, b, t);
    let (host, device) = (call(inputs.each_ref().map(Both::host)), call(inputs.each_ref().map(Both::device)));
    let mut o = Both::room(&machine, &[b, t, HV, V], Dtype::Bf16);
    let mut last = Both::room(&machine, &[b, HV, K, V], Dtype::F32);
    // SAFETY: the structs describe live memory.
    unsafe {
        good(gdn2_forward(&plain, &host, &o.host_mut(), &last.host_mut()));
        good(gdn2_forward_on(&on, STREAM, &device, &o.device(), &last.device(), 0, 0));
        o.agree(&machine);
        last.agree(&machine);
        let room = machine.room(4, Dtype::F32).address();
        good(gdn2_forward_on(&on, STREAM, &device, &o.device(), &last.device(), room, 16));
        o.agree(&machine);
        last.agree(&machine);

        let sizes = Sizes { sequences: 2, total_tokens: 140, key_heads: 1, value_heads: 2 };
        let mut bytes = 0;
        good(gdn2_training_scratch(&on, sizes, &mut bytes));
        assert!(bytes > 0);
        let room = machine.room((bytes as usize).div_ceil(4), Dtype::F32).address();
        good(gdn2_forward_for_backward_on(&on, STREAM, &device, &o.device(), &last.device(), room, bytes));
        o.agree(&machine);

        let d_o = Both::new(&machine, 8, &[b, t, HV, V], (-1.0, 1.0), Dtype::Bf16);
        let d_last = Both::new(&machine, 9, &[b, HV, K, V], (-1.0, 1.0), Dtype::F32);
        let mut grads = inputs.each_ref().map(|input| {
            let Stored::Float(dtype) = input.device.stored() else { panic!("a tensor of numbers") };
            Both::room(&machine, &input.sizes, dtype)
        });
        let gradients = |[dq, dk, dv, dg, db, dw, d_initial_state]: [Tensor; 7]| Gradients {
            dq,
            dk,
            dv,
            dg,
            db,
            dw,
            d_initial_state,
            named: ptr::null(),
            named_len: 0,
        };
        let places = gradients(grads.each_mut().map(Both::host_mut));
        good(gdn2_backward(&plain, &host, &d_o.host(), &d_last.host(), &places));
        let places = gradients(grads.each_ref().map(Both::device));
        let (d_o, d_last) = (d_o.device(), d_last.device());
        // Twice, since autograd may: backward leaves what forward left.
        for _ in 0..2 {
            good(gdn2_backward_on(&on, STREAM, &device, &d_o, &d_last, &places, room, bytes));
            grads.iter().for_each(|grad| grad.agree(&machine));
        }

        let short = gdn2_backward_on(&on, STREAM, &device, &d_o, &d_last, &places, room, bytes - 4);
        assert!(short != 0 && said().contains("scratch"), "{}", said());
    }
}

fn said() -> String {
    // SAFETY: the text ends in NUL and lives until this thread's next call.
    unsafe { CStr::from_ptr(gdn2_last_error()) }.to_str().unwrap().to_owned()
}

#[test]
fn decoding_with_slots_updates_the_pool_and_skips_as_on_host_memory() {
    let (machine, plain, on) = loaded();
    let inputs = inputs(&machine, 2, 1);
    let slots = [2, -1];
    let on_device = machine.upload_i32(&slots);
    let table = |data: *const i32, mut call: Call| {
        (call.initial_state, call.slots, call.slots_len) = (ABSENT, data, 2);
        call
    };
    let host = table(slots.as_ptr(), call(inputs.each_ref().map(Both::host)));
    let address = ptr::without_provenance(on_device.address() as usize);
    let device = table(address, call(inputs.each_ref().map(Both::device)));
    let mut pool = Both::new(&machine, 9, &[3, HV, K, V], (-0.1, 0.1), Dtype::F32);
    let before = pool.host.clone();
    let mut o = Both::room(&machine, &[2, 1, HV, V], Dtype::Bf16);
    // SAFETY: the structs describe live memory.
    unsafe {
        good(gdn2_decode(&plain, &host, &pool.host_mut(), &o.host_mut()));
        good(gdn2_decode_on(&on, STREAM, &device, &pool.device(), &o.device()));
    }
    pool.agree(&machine);
    assert!(pool.host != before && pool.host[..2 * HV * K * V] == before[..2 * HV * K * V]);
    // The skipped sequence's row is nobody's.
    assert_eq!(machine.read(&o.device)[..HV * V], o.host[..HV * V]);
}

#[test]
fn a_tensor_that_the_rule_stores_otherwise_is_named() {
    let (machine, plain, on) = loaded();
    let inputs = inputs(&machine, 1, 4);
    let mut given = call(inputs.each_ref().map(Both::device));
    let o = Both::room(&machine, &[1, 4, HV, V], Dtype::Bf16).device();
    // SAFETY: nothing is launched.
    let refused =
        |kernels, given: &Call| unsafe { gdn2_forward_on(kernels, STREAM, given, &o, ptr::null(), 0, 0) } != 0;
    assert!(refused(&plain, &given) && said().contains("take device pointers and a stream"), "{}", said());
    given.g.dtype = 1;
    assert!(refused(&on, &given) && said().contains("g: stored as bf16, must be f32"), "{}", said());
    given.g.shape[3] = 16;
    assert!(refused(&on, &given) && said().contains("g: shape [1, 4, 2, 16], must be [B,T,HV,K]"), "{}", said());
    given.g = ABSENT;
    assert!(refused(&on, &given) && said().starts_with("g"), "{}", said());
}
