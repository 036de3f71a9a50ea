//! What a call on a stream costs after warm-up: no allocation, no lock held, one driver call per kernel.
#![allow(clippy::unwrap_used)]

mod driver;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier, mpsc};
use std::time::Duration;

use driver::{CONTEXT, Counting, at, of, stream};
use gdn2::__private::{Driver, Gpu, Put};
use gdn2::{
    Context, DeviceError, DeviceMemory, DeviceOffsets, DeviceSlots, Dtype, ForeignMemory, Outputs, Shape, Stored, View,
    ViewMut,
};
use gdn2_codegen::arch::Arch;
use gdn2_codegen::gpu::Identity;
use gdn2_codegen::kernel::Pass;
use gdn2_runtime::artifact::Artifact;
use gdn2_runtime::raw::{Arguments, grid};

gdn2::delta_rule! {
    /// Every gate there is.
    pub mod rule { decay: channel; erase: channel; write: channel; key_dim: 32; value_dim: 32; dtype: bf16; }
}

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counting what each thread asks of it.
struct Counted;

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counted = Counted;

const B: usize = 2;
const T: usize = 100;
const H: usize = 1;
const HV: usize = 2;
const D: usize = 32;

/// Every tensor of a call, at made-up addresses.
struct Tensors {
    token: ForeignMemory,
    value: ForeignMemory,
    decay: ForeignMemory,
    state: ForeignMemory,
    offsets: DeviceOffsets,
    slots: DeviceSlots,
}

impl Tensors {
    fn new() -> Tensors {
        let table = |len| of(CONTEXT, 1 << 20, len, Stored::I32);
        Tensors {
            token: at(1 << 20, B * T * H * D, Dtype::Bf16),
            value: at(1 << 21, B * T * HV * D, Dtype::Bf16),
            decay: at(1 << 22, B * T * HV * D, Dtype::F32),
            state: at(1 << 23, B * HV * D * D, Dtype::F32),
            // SAFETY: nothing reads them.
            offsets: unsafe { DeviceOffsets::from_memory(Box::new(table(3)), T) },
            // SAFETY: nothing reads them.
            slots: unsafe { DeviceSlots::from_memory(Box::new(table(B)), B) },
        }
    }

    fn forward(&self) -> rule::Forward<'_> {
        let gate = |memory| View::device(memory, [B, T, HV, D]).unwrap();
        rule::Forward {
            q: View::device(&self.token, [B, T, H, D]).unwrap(),
            k: View::device(&self.token, [B, T, H, D]).unwrap(),
            v: View::device(&self.value, [B, T, HV, D]).unwrap(),
            g: gate(&self.decay),
            b: gate(&self.value),
            w: gate(&self.value),
            initial_state: Some(View::device(&self.state, [B, HV, D, D]).unwrap()),
            cu_seqlens: None,
            scale: None,
        }
    }

    fn decode(&self) -> rule::Decode<'_> {
        let rule::Forward { q, k, v, g, b, w, .. } = self.forward();
        rule::Decode { q, k, v, g, b, w, slots: Some((&self.slots).into()), scale: None }
    }
}

/// Outputs at made-up addresses.
struct Results {
    o: ForeignMemory,
    state: ForeignMemory,
    grads: [ForeignMemory; 6],
    scratch: ForeignMemory,
}

impl Results {
    fn new(scratch: usize) -> Results {
        let (token, value) = (B * T * H * D, B * T * HV * D);
        let grads = [
            (token, Dtype::Bf16),
            (token, Dtype::Bf16),
            (value, Dtype::Bf16),
            (value, Dtype::F32),
            (value, Dtype::Bf16),
            (value, Dtype::Bf16),
        ];
        Results {
            o: at(1 << 24, value, Dtype::Bf16),
            state: at(1 << 25, B * HV * D * D, Dtype::F32),
            grads: grads.map(|(len, dtype)| at(1 << 26, len, dtype)),
            scratch: at(1 << 30, scratch.div_ceil(4), Dtype::F32),
        }
    }

    fn outputs(&mut self) -> Outputs<'_> {
        Outputs {
            o: ViewMut::device(&mut self.o, [B, T, HV, D]).unwrap(),
            final_state: Some(ViewMut::device(&mut self.state, [B, HV, D, D]).unwrap()),
        }
    }
}

/// Runs a call and holds what it cost against one driver call for each launch and nothing else.
fn costs(gpu: &Counting, launches: usize, call: impl Fn()) {
    let (calls, loaded) = (gpu.calls.load(Ordering::Relaxed), gpu.loaded.load(Ordering::Relaxed));
    let before = ALLOCATIONS.with(Cell::get);
    call();
    assert_eq!(ALLOCATIONS.with(Cell::get) - before, 0, "allocations");
    assert_eq!(gpu.calls.load(Ordering::Relaxed) - calls, launches, "driver calls");
    assert_eq!(gpu.loaded.load(Ordering::Relaxed), loaded, "nothing is loaded");
}

/// Launches of a pass that have blocks in the calls of this test.
fn launches(kernels: &rule::Kernels, pass: Pass) -> usize {
    let shape = Shape::dense(B, T, H, HV);
    let explained = kernels.explain(shape);
    let of = |pass| explained.iter().find(|kernel| kernel.pass == pass).unwrap().schedule;
    let schedule = match pass {
        Pass::ForwardForBackward => {
            let backward = gdn2_codegen::bind(&rule::rule(), Pass::Backward, of(Pass::Backward), Arch::Sm80).unwrap();
            let text = backward.keeping_forward().unwrap();
            gdn2_codegen::schedule::Schedule::from_overrides(&rule::rule(), pass, Arch::Sm80, &text).unwrap()
        }
        _ => of(pass),
    };
    let kernel = gdn2_codegen::bind(&rule::rule(), pass, schedule, Arch::Sm80).unwrap();
    let call = Arguments { sequences: 2, tokens: 100, key_heads: 1, value_heads: 2, ..Arguments::default() };
    let extents = call.extents().unwrap();
    kernel.launches.iter().filter(|launch| grid(launch, extents).unwrap() > 0).count()
}

#[test]
fn a_call_after_warmup_allocates_nothing_and_makes_one_driver_call_per_kernel() {
    let gpu = Counting::new();
    let kernels = rule::load_through(Arc::new(gpu.clone())).unwrap();
    let shape = Shape::dense(B, T, H, HV);
    kernels.warmup(shape).unwrap();
    assert!(kernels.explain(shape).iter().all(|kernel| kernel.origin.is_some()));
    let scratch = kernels.training_scratch(shape).unwrap();
    assert!(scratch > 0);
    let tensors = Tensors::new();
    // Counting calls costs none of that.
    kernels.watch_shapes();

    let forward = launches(&kernels, Pass::Forward);
    costs(&gpu, forward, || {
        kernels.forward_on(stream(), tensors.forward(), Results::new(scratch).outputs()).unwrap();
    });
    costs(&gpu, forward, || {
        fn packed(memory: &dyn DeviceMemory, heads: usize) -> View<'_> {
            View::device_strided(memory, [1, T, heads, D], [0, heads * D, D, 1]).unwrap()
        }
        let gate = packed(&tensors.value, HV);
        let inputs = rule::Forward {
            q: packed(&tensors.token, H),
            k: packed(&tensors.token, H),
            v: packed(&tensors.value, HV),
            g: packed(&tensors.decay, HV),
            b: gate,
            w: gate,
            cu_seqlens: Some((&tensors.offsets).into()),
            ..tensors.forward()
        };
        let mut o = at(1 << 24, T * HV * D, Dtype::Bf16);
        let outputs = Outputs { o: ViewMut::device(&mut o, [1, T, HV, D]).unwrap(), final_state: None };
        kernels.forward_on(stream(), inputs, outputs).unwrap();
    });
    costs(&gpu, forward, || {
        let (mut results, mut memory) = (Results::new(scratch), at(1 << 30, 0, Dtype::F32));
        kernels.forward_with_scratch_on(stream(), tensors.forward(), results.outputs(), &mut memory).unwrap();
    });
    costs(&gpu, launches(&kernels, Pass::Decode), || {
        let mut results = Results::new(scratch);
        let Outputs { o, final_state } = results.outputs();
        kernels.decode_on(stream(), final_state.unwrap(), tensors.decode(), o).unwrap();
    });
    costs(&gpu, launches(&kernels, Pass::ForwardForBackward), || {
        let mut results = Results::new(scratch);
        let mut memory = at(1 << 30, scratch.div_ceil(4), Dtype::F32);
        kernels.forward_for_backward_on(stream(), tensors.forward(), results.outputs(), &mut memory).unwrap();
    });
    costs(&gpu, launches(&kernels, Pass::Backward), || {
        let Results { o, state, grads, mut scratch } = Results::new(scratch);
        let [mut dq, mut dk, mut dv, mut dg, mut db, mut dw] = grads;
        let outputs = rule::Backward {
            d_out: View::device(&o, [B, T, HV, D]).unwrap(),
            d_final_state: Some(View::device(&state, [B, HV, D, D]).unwrap()),
        };
        let gradients = rule::GradientsMut {
            dq: ViewMut::device(&mut dq, [B, T, H, D]).unwrap(),
            dk: ViewMut::device(&mut dk, [B, T, H, D]).unwrap(),
            dv: ViewMut::device(&mut dv, [B, T, HV, D]).unwrap(),
            dg: ViewMut::device(&mut dg, [B, T, HV, D]).unwrap(),
            db: ViewMut::device(&mut db, [B, T, HV, D]).unwrap(),
            dw: ViewMut::device(&mut dw, [B, T, HV, D]).unwrap(),
            d_initial_state: None,
        };
        kernels.backward_on(stream(), tensors.forward(), outputs, gradients, &mut scratch).unwrap();
    });
    let seen = kernels.clone().seen_shapes().to_string();
    let [dense, packed] = [T, T / 2].map(|tokens| format!("B={B},T={tokens},H={H},HV={HV}"));
    let lines = [
        format!("rule forward {dense} 2"),
        format!("rule forward {packed} 1"),
        format!("rule decode {dense} 1"),
        format!("rule forward-for-backward {dense} 1"),
        format!("rule backward {dense} 1"),
    ];
    assert_eq!(seen.lines().collect::<Vec<_>>(), lines);
}

/// A GPU whose driver stays in its first call until it is told to go on.
struct Stuck(Arc<Barrier>, mpsc::SyncSender<()>);

struct Wait(Arc<Barrier>, mpsc::SyncSender<()>);

impl Gpu for Stuck {
    fn arch(&self) -> Arch {
        Arch::Sm80
    }

    fn identity(&self) -> Result<Identity, DeviceError> {
        Ok(driver::named("stuck", Arch::Sm80))
    }

    fn context(&self) -> Context {
        CONTEXT
    }

    fn load(&self, _: &Artifact) -> Result<Box<dyn Driver>, DeviceError> {
        Ok(Box::new(Wait(self.0.clone(), self.1.clone())))
    }
}

impl Driver for Wait {
    unsafe fn launch(&self, _: Put<'_>) -> Result<(), DeviceError> {
        self.1.send(()).unwrap();
        self.0.wait();
        Ok(())
    }
}

#[test]
fn no_lock_is_held_while_the_driver_is_called() {
    // Four calls through one handle, each inside the driver until all four are: with a lock the second never gets there.
    let (sender, entered) = mpsc::sync_channel(4);
    let kernels = rule::load_through(Arc::new(Stuck(Arc::new(Barrier::new(4)), sender))).unwrap();
    kernels.warmup(Shape::dense(B, T, H, HV)).unwrap();
    let call = |_| {
        let kernels = kernels.clone();
        std::thread::spawn(move || kernels.forward_on(stream(), Tensors::new().forward(), Results::new(0).outputs()))
    };
    let calls: Vec<_> = (0..4).map(call).collect();
    for _ in 0..4 {
        let got_there = entered.recv_timeout(Duration::from_secs(20));
        assert!(got_there.is_ok(), "every call gets into the driver");
    }
    calls.into_iter().for_each(|call| call.join().unwrap().unwrap());
}

#[test]
fn what_does_not_fit_is_refused_before_the_launch() {
    let gpu = Counting::new();
    let kernels = rule::load_through(Arc::new(gpu.clone())).unwrap();
    let tensors = Tensors::new();
    let refused = |inputs: rule::Forward<'_>| {
        kernels.forward_on(stream(), inputs, Results::new(0).outputs()).unwrap_err().to_string()
    };
    let given = tensors.forward();
    let other = of(Context(8), 1 << 20, B * T * H * D, Stored::Float(Dtype::Bf16));
    let wide = at(1 << 20, B * T * H * D, Dtype::F32);
    let odd = at((1 << 20) + 8, B * T * H * D, Dtype::Bf16);
    let host = vec![0.0f32; B * T * H * D];
    let token = |memory| View::device(memory, [B, T, H, D]).unwrap();
    let short = View::device_strided(&tensors.token, [B, T - 1, H, D], [T * D, D, D, 1]).unwrap();
    let uneven = View::device_strided(&tensors.token, [B, T, H, D], [T * D - 4, D, D, 1]).unwrap();
    let state = View::device_strided(&tensors.state, [B, HV, D, D], [0, D * D, D, 1]).unwrap();
    for (inputs, words) in [
        (rule::Forward { k: short, ..given }, "k: shape [2, 99, 1, 32], must be [B,T,H,K] = [2, 100, 1, 32]"),
        (rule::Forward { k: token(&wide), ..given }, "k: stored as f32, must be bf16, as the rule stores it"),
        (rule::Forward { k: token(&other), ..given }, "k belongs to another GPU or context than the kernels"),
        (rule::Forward { k: token(&odd), ..given }, "k: address is 1048584 bytes, must be a multiple of 16"),
        (rule::Forward { k: uneven, ..given }, "k: batch stride is 6392 bytes, must be a multiple of 16"),
        (rule::Forward { k: View::new(&host, [B, T, H, D]).unwrap(), ..given }, "k is in host memory"),
        (rule::Forward { initial_state: Some(state), ..given }, "initial_state: strides [0, 1024, 32, 1]"),
        (rule::Forward { cu_seqlens: Some((&tensors.offsets).into()), ..given }, "packed sequences need B = 1"),
    ] {
        let said = refused(inputs);
        assert!(said.contains(words), "{said}");
    }
    // More tokens than a kernel counts, in memory that is claimed to be there.
    let huge = at(1 << 20, usize::MAX / 64, Dtype::Bf16);
    let many = |heads| View::device_strided(&huge, [1 << 20, 1 << 12, heads, D], [1 << 17, 32, 32, 1]).unwrap();
    let said = refused(rule::Forward { q: many(1), k: many(1), v: many(2), ..given });
    assert!(said.contains("B·T must be below 2^31"), "{said}");
    let said = kernels.forward(given).unwrap_err().to_string();
    assert!(said.contains("q is on a GPU: use the call that takes a stream"), "{said}");
    let mut small = at(1 << 30, 1, Dtype::F32);
    let said = kernels.forward_for_backward_on(stream(), given, Results::new(0).outputs(), &mut small).unwrap_err();
    assert!(said.to_string().contains("scratch: 4 bytes, this shape takes"), "{said}");
    // SAFETY: nothing reads it.
    let far = unsafe { DeviceSlots::from_memory(Box::new(of(CONTEXT, 16, B, Stored::I32)), 9) };
    let decode = rule::Decode { slots: Some((&far).into()), ..tensors.decode() };
    let mut results = Results::new(0);
    let Outputs { o, final_state } = results.outputs();
    let said = kernels.decode_on(stream(), final_state.unwrap(), decode, o).unwrap_err().to_string();
    assert!(said.contains("the largest slot is 8"), "{said}");
    assert_eq!(gpu.calls.load(Ordering::Relaxed), 0, "nothing was launched");
}
