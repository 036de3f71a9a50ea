//! What the C interface refuses before it reads, and what it takes: addresses, shapes that lie, scales of 0, float64,
//! architectures of the virtual machine.
#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::ffi::{CStr, CString, c_int};
use std::ptr;

use gdn2_c::{
    Call, Gradients, Kernels, RuleInfo, Tensor, gdn2_backward, gdn2_decode, gdn2_explain, gdn2_forward, gdn2_free,
    gdn2_last_error, gdn2_load, gdn2_rule_of, gdn2_seen_shapes, gdn2_watch_shapes,
};

const RULE: &str = "rule x { decay: scalar; erase: scalar; write: erase; key_dim: 16; value_dim: 32; dtype: bf16; }";
const ABSENT: Tensor = Tensor { data: ptr::null_mut(), dtype: 0, rank: 0, shape: [0; 4], strides: [0; 4] };
const F32: i32 = 0;
const F64: i32 = 3;

fn said() -> String {
    // SAFETY: the text ends in NUL and lives until this thread's next call.
    unsafe { CStr::from_ptr(gdn2_last_error()) }.to_str().unwrap().to_owned()
}

fn load(rule: &str, device: &str) -> Result<*mut Kernels, String> {
    let (rule, device) = (CString::new(rule).unwrap(), CString::new(device).unwrap());
    let mut kernels = ptr::null_mut();
    // SAFETY: texts end in NUL, and there is room for the handle.
    let status = unsafe { gdn2_load(rule.as_ptr(), ptr::null(), device.as_ptr(), &mut kernels) };
    if status == 0 { Ok(kernels) } else { Err(said()) }
}

fn cells<T>(values: Vec<T>) -> Vec<Cell<T>> {
    values.into_iter().map(Cell::new).collect()
}

fn read<T: Copy>(cells: &[Cell<T>]) -> Vec<T> {
    cells.iter().map(Cell::get).collect()
}

/// Row-major.
fn tensor<T>(data: &[T], dtype: i32, sizes: &[i64]) -> Tensor {
    let (mut shape, mut strides, mut step) = ([0; 4], [0; 4], 1);
    for (axis, size) in sizes.iter().enumerate().rev() {
        (shape[axis], strides[axis]) = (*size, step);
        step *= size;
    }
    Tensor { data: data.as_ptr().cast_mut().cast(), dtype, rank: sizes.len() as i32, shape, strides }
}

/// The tensors of one call of the rule above: B = 1, T = 3, H = 1, HV = 2.
struct Numbers<T> {
    q: Vec<T>,
    v: Vec<T>,
    g: Vec<T>,
    b: Vec<T>,
    /// Written by calls.
    state: Vec<Cell<T>>,
    o: Vec<Cell<T>>,
}

impl<T: Copy + From<f32>> Numbers<T> {
    fn new() -> Self {
        let wave = |count: usize, low: f32, high: f32| -> Vec<T> {
            (0..count).map(|at| T::from(low + (high - low) * ((at * 37 % 101) as f32 / 101.0))).collect()
        };
        Numbers {
            q: wave(3 * 16, -0.5, 0.5),
            v: wave(3 * 2 * 32, -1.0, 1.0),
            g: wave(3 * 2, -0.5, 0.0),
            b: wave(3 * 2, 0.0, 1.0),
            state: cells(wave(2 * 16 * 32, -0.1, 0.1)),
            o: cells(vec![T::from(7.0); 3 * 2 * 32]),
        }
    }

    fn call(&self, dtype: i32) -> Call {
        let (q, gate) = (tensor(&self.q, dtype, &[1, 3, 1, 16]), |x| tensor(x, dtype, &[1, 3, 2]));
        Call {
            q,
            k: q,
            v: tensor(&self.v, dtype, &[1, 3, 2, 32]),
            g: gate(&self.g),
            b: gate(&self.b),
            w: ABSENT,
            initial_state: ABSENT,
            cu_seqlens: ptr::null(),
            cu_seqlens_len: 0,
            slots: ptr::null(),
            slots_len: 0,
            scale: 0.0,
            scale_given: 0,
            named: ptr::null(),
            named_len: 0,
        }
    }

    fn o(&self, dtype: i32) -> Tensor {
        tensor(&self.o, dtype, &[1, 3, 2, 32])
    }

    fn state(&self, dtype: i32) -> Tensor {
        tensor(&self.state, dtype, &[1, 2, 16, 32])
    }
}

fn forward(kernels: *const Kernels, call: &Call, o: &Tensor) -> c_int {
    // SAFETY: the structs describe live memory, or lie about it in ways that must be refused first.
    unsafe { gdn2_forward(kernels, call, o, ptr::null()) }
}

#[track_caller]
fn refused(status: c_int, says: &str) {
    assert!(status != 0 && said().contains(says), "status {status}: {}", said());
}

#[test]
fn addresses_that_no_element_lies_at_are_refused() {
    let kernels = load(RULE, "cpu").unwrap();
    let numbers = Numbers::<f32>::new();
    let odd = |tensor: Tensor| Tensor { data: tensor.data.wrapping_byte_add(1), ..tensor };
    let (good, o) = (numbers.call(F32), numbers.o(F32));
    refused(forward(kernels, &Call { v: odd(good.v), ..good }, &o), "v: the address");
    refused(forward(kernels, &good, &odd(o)), "o: the address");
    let offsets = [0i64, 1, 3];
    let crooked = Call { cu_seqlens: offsets.as_ptr().wrapping_byte_add(4), cu_seqlens_len: 2, ..good };
    refused(forward(kernels, &crooked, &o), "cu_seqlens: the address");
    let shifted = ptr::from_ref(&good).wrapping_byte_add(1);
    // SAFETY: nothing is read from such an address.
    refused(unsafe { gdn2_forward(kernels, shifted, &o, ptr::null()) }, "call: the address");
    // SAFETY: as above; a state that is not aligned.
    refused(unsafe { gdn2_decode(kernels, &good, &odd(numbers.state(F32)), &o) }, "state: the address");
    assert_eq!(forward(kernels, &good, &o), 0, "{}", said());
    // SAFETY: it came from `gdn2_load`.
    unsafe { gdn2_free(kernels) };
}

#[test]
fn shapes_that_lie_are_refused_before_memory_is_asked_for() {
    let kernels = load(RULE, "cpu").unwrap();
    let numbers = Numbers::<f32>::new();
    let (good, o, state) = (numbers.call(F32), numbers.o(F32), numbers.state(F32));
    let huge = 1i64 << 45;
    // SAFETY: nothing is read: the shapes are held against the rule first.
    let decode = |state: &Tensor, call: &Call| unsafe { gdn2_decode(kernels, call, state, &o) };
    for shape in [[huge, 2, 16, 32], [1, 2, huge, 32], [1, 2, 32, 16]] {
        refused(decode(&Tensor { shape, ..state }, &good), "state: shape");
    }
    let slots = [2i32];
    let pooled = Call { slots: slots.as_ptr(), slots_len: 1, ..good };
    refused(decode(&state, &pooled), "slots[0] is 2: the pool `state` has no such state");
    refused(decode(&state, &Call { slots_len: 0, ..pooled }), "slots: 0 given for 1 sequences");
    // A pool may be as large as it likes, of which one state is used.
    let used = [0i32];
    let large = Tensor { shape: [huge, 2, 16, 32], ..state };
    assert_eq!(decode(&large, &Call { slots: used.as_ptr(), slots_len: 1, ..good }), 0, "{}", said());

    // Tokens without end, all of them the same one.
    let endless =
        |tensor: Tensor| Tensor { shape: [1, huge, tensor.shape[2], tensor.shape[3]], strides: [0, 0, 1, 1], ..tensor };
    let (q, v) = (endless(good.q), endless(good.v));
    refused(forward(kernels, &Call { q, k: q, v, ..good }, &o), "B·T must be below 2^31");
    refused(forward(kernels, &Call { k: q, ..good }, &o), "k: shape");
    refused(
        forward(kernels, &Call { initial_state: Tensor { shape: [huge, 2, 16, 32], ..state }, ..good }, &o),
        "initial_state is",
    );
    refused(forward(kernels, &Call { v: Tensor { dtype: 139, ..good.v }, ..good }, &o), "v: 139 names no dtype");
    refused(
        forward(kernels, &Call { v: Tensor { dtype: F64, ..good.v }, ..good }, &o),
        "v is float64, must be float32",
    );
    // SAFETY: it came from `gdn2_load`.
    unsafe { gdn2_free(kernels) };
}

#[test]
fn a_scale_of_0_is_a_scale_where_it_is_given() {
    for device in ["cpu", "cpu:f64", "vm"] {
        let kernels = load(RULE, device).unwrap();
        let numbers = Numbers::<f32>::new();
        let call = numbers.call(F32);
        assert_eq!(forward(kernels, &call, &numbers.o(F32)), 0, "{}", said());
        let default = read(&numbers.o);
        assert!(default.iter().any(|x| *x != 0.0));
        assert_eq!(forward(kernels, &Call { scale: 0.25, ..call }, &numbers.o(F32)), 0);
        assert_eq!(read(&numbers.o), default, "1/sqrt(16) given");
        assert_eq!(forward(kernels, &Call { scale_given: 1, ..call }, &numbers.o(F32)), 0);
        assert!(read(&numbers.o).iter().all(|x| *x == 0.0), "{device}");
        // SAFETY: it came from `gdn2_load`.
        unsafe { gdn2_free(kernels) };
    }
}

#[test]
fn float64_passes_through_the_definition_unrounded() {
    let vk = RULE.replace("dtype", "state: vk; dtype");
    let (plain, turned) = (load(RULE, "cpu:f64").unwrap(), load(&vk, "cpu:f64").unwrap());
    let numbers = Numbers::<f64>::new();
    let call = numbers.call(F64);
    assert_eq!(forward(plain, &Call { initial_state: numbers.state(F64), ..call }, &numbers.o(F64)), 0, "{}", said());
    let forward_o = read(&numbers.o);
    // SAFETY: the structs describe live memory.
    unsafe {
        // Token by token from the same state, the state turned.
        let mut other = Numbers::<f64>::new();
        let turned_at = |at: usize| numbers.state[at / 512 * 512 + at % 16 * 32 + at / 16 % 32].get();
        other.state = cells((0..2 * 32 * 16).map(turned_at).collect());
        let state = tensor(&other.state, F64, &[1, 2, 32, 16]);
        assert_eq!(gdn2_decode(turned, &other.call(F64), &state, &other.o(F64)), 0, "{}", said());
        assert_eq!(read(&other.o), forward_o);

        // The gradient on v of the sum of o, against a difference.
        let ones = vec![1.0f64; 3 * 2 * 32];
        let dv = cells(vec![0.0f64; 3 * 2 * 32]);
        let gradients = Gradients {
            dq: ABSENT,
            dk: ABSENT,
            dv: tensor(&dv, F64, &[1, 3, 2, 32]),
            dg: ABSENT,
            db: ABSENT,
            dw: ABSENT,
            d_initial_state: ABSENT,
            named: ptr::null(),
            named_len: 0,
        };
        let d_o = tensor(&ones, F64, &[1, 3, 2, 32]);
        assert_eq!(gdn2_backward(plain, &call, &d_o, ptr::null(), &gradients), 0, "{}", said());
        let sum = |numbers: &Numbers<f64>| {
            assert_eq!(forward(plain, &numbers.call(F64), &numbers.o(F64)), 0);
            read(&numbers.o).iter().sum::<f64>()
        };
        let mut moved = Numbers::<f64>::new();
        let before = sum(&moved);
        moved.v[70] += 1e-3; // the second token, whose gate is open
        let slope = (sum(&moved) - before) / 1e-3;
        assert!((slope - dv[70].get()).abs() < 1e-9 && slope != 0.0, "{slope} {}", dv[70].get());

        let mixed = Call { b: tensor(&Numbers::<f32>::new().b, F32, &[1, 3, 2]), ..call };
        refused(forward(plain, &mixed, &numbers.o(F64)), "b is float32, must be float64, as v is");
        gdn2_free(plain);
        gdn2_free(turned);
    }
}

#[test]
fn the_virtual_machine_takes_an_architecture() {
    let kernels = load(RULE, "vm:sm_90a").unwrap();
    let sizes = gdn2_c::Sizes { sequences: 1, total_tokens: 3, key_heads: 1, value_heads: 2 };
    // SAFETY: the handle lives, and so does the text until the next call.
    unsafe {
        let text = CStr::from_ptr(gdn2_explain(kernels, sizes)).to_str().unwrap().to_owned();
        assert!(text.contains("forward on sm_90a"), "{text}");
        let numbers = Numbers::<f32>::new();
        assert_eq!(gdn2_watch_shapes(kernels), 0);
        assert_eq!(forward(kernels, &numbers.call(F32), &numbers.o(F32)), 0, "{}", said());
        let seen = CStr::from_ptr(gdn2_seen_shapes(kernels)).to_str().unwrap();
        assert!(seen.contains(" forward B=") && seen.ends_with(" 1\n"), "{seen}");
        assert!(gdn2_seen_shapes(std::ptr::null()).is_null() && gdn2_watch_shapes(std::ptr::null()) != 0);
        let mut info = RuleInfo::default();
        assert_eq!(gdn2_rule_of(kernels, &mut info), 0);
        assert_eq!((info.key_dim, info.value_dim, info.dtype), (16, 32, 1));
        assert_eq!((info.decay, info.erase, info.write, info.state_vk), (1, 1, 3, 0));
        gdn2_free(kernels);
    }
    assert!(load(RULE, "vm:sm_70").unwrap_err().contains("unknown architecture `sm_70`"));
    assert!(load(RULE, "gpu").unwrap_err().contains("unknown device `gpu`"));
    let missing = load(RULE, "cuda:0");
    assert!(missing.is_ok() || !said().contains("--"), "{}", said());
}
