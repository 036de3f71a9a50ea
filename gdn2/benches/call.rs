//! What a call on a stream costs the host: checks, choice of kernel and arguments, with the driver's launch stubbed out.
#![allow(clippy::unwrap_used)]

#[path = "../tests/driver/mod.rs"]
mod driver;

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use driver::{Counting, at, stream};
use gdn2::{Dtype, Outputs, Shape, View, ViewMut};

gdn2::delta_rule! {
    /// Gated DeltaNet-2, the rule with the most tensors.
    pub mod rule { decay: channel; erase: channel; write: channel; key_dim: 128; value_dim: 128; dtype: bf16; }
}

const B: usize = 4;
const T: usize = 1024;
const H: usize = 16;

fn calls(c: &mut Criterion) {
    let kernels = rule::load_through(Arc::new(Counting::new())).unwrap();
    kernels.warmup(Shape::dense(B, T, H, H)).unwrap();
    let tokens = |t: usize| (at(1 << 30, B * t * H * 128, Dtype::Bf16), at(1 << 31, B * t * H * 128, Dtype::F32));
    let (narrow, wide) = tokens(T);
    let mut o = at(1 << 32, B * T * H * 128, Dtype::Bf16);
    let mut state = at(1 << 33, B * H * 128 * 128, Dtype::F32);
    c.bench_function("forward_on, launch stubbed out", |bench| {
        bench.iter(|| {
            let x = View::device(&narrow, [B, T, H, 128]).unwrap();
            let gate = View::device(&wide, [B, T, H, 128]).unwrap();
            let inputs = rule::Forward {
                q: x,
                k: x,
                v: x,
                g: gate,
                b: x,
                w: x,
                initial_state: None,
                cu_seqlens: None,
                scale: None,
            };
            let outputs = Outputs {
                o: ViewMut::device(&mut o, [B, T, H, 128]).unwrap(),
                final_state: Some(ViewMut::device(&mut state, [B, H, 128, 128]).unwrap()),
            };
            kernels.forward_on(stream(), black_box(inputs), outputs).unwrap();
        });
    });
    let (narrow, wide) = tokens(1);
    let mut o = at(1 << 32, B * H * 128, Dtype::Bf16);
    c.bench_function("decode_on, launch stubbed out", |bench| {
        bench.iter(|| {
            let x = View::device(&narrow, [B, 1, H, 128]).unwrap();
            let gate = View::device(&wide, [B, 1, H, 128]).unwrap();
            let inputs = rule::Decode { q: x, k: x, v: x, g: gate, b: x, w: x, slots: None, scale: None };
            let pool = ViewMut::device(&mut state, [B, H, 128, 128]).unwrap();
            let o = ViewMut::device(&mut o, [B, 1, H, 128]).unwrap();
            kernels.decode_on(stream(), pool, black_box(inputs), o).unwrap();
        });
    });
}

criterion_group!(benches, calls);
criterion_main!(benches);
