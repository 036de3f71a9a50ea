//! The shipped GDN forward on the virtual machine, B=1, H=2, T=512, K=V=128: plain, counting, and under the full
//! checks, with the machine's instructions per second.
#![allow(missing_docs, clippy::unwrap_used, reason = "criterion's macros; a failed unwrap is a failed benchmark")]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use gdn2_codegen::kernel::Pass;
use gdn2_dsl::Draw;
use gdn2_runtime::device::Device;
use gdn2_runtime::device::vm::{Loaded, Settings};
use gdn2_runtime::engine::Run;
use gdn2_runtime::raw::{Arguments, View};
use gdn2_tests::{engine, root};
use gdn2_vm::{Check, Memory};

fn forward(c: &mut Criterion) {
    let text = std::fs::read_to_string(root().join("rules/gdn.gdn2")).unwrap();
    let rule = gdn2_dsl::parse_file(&text).unwrap().remove(0);
    let device = Device::vm();
    let loaded = Loaded::new(&engine().artifact(&Run::new(&rule, Pass::Forward, &device)).unwrap()).unwrap();
    let (tokens, heads, width) = (512usize, 2usize, 128usize);
    let inputs = Draw::new(1, tokens, heads, heads, 7).inputs(&rule);
    let bf16 = |v: &[f64]| v.iter().flat_map(|v| half::bf16::from_f64(*v).to_le_bytes()).collect::<Vec<u8>>();
    let f32s = |v: &[f64]| v.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect::<Vec<u8>>();
    let mut memory = Memory::new();
    let view = |address: u64, channels: usize| {
        let (token, head) = ((heads * channels) as i64, channels as i64);
        View { address, batch: token * tokens as i64, token, head }
    };
    let call = Arguments {
        q: view(memory.upload("q", &bf16(&inputs.q)).0, width),
        k: view(memory.upload("k", &bf16(&inputs.k)).0, width),
        v: view(memory.upload("v", &bf16(&inputs.v)).0, width),
        g: view(memory.upload("g", &f32s(inputs.g.as_deref().unwrap_or_default())).0, 1),
        b: view(memory.upload("b", &f32s(inputs.b.as_deref().unwrap_or_default())).0, 1),
        o: view(memory.poisoned("o", tokens * heads * width * 2).0, width),
        final_state: memory.poisoned("final_state", heads * width * width * 4).0,
        sequences: 1,
        tokens: tokens as i32,
        key_heads: heads as i32,
        value_heads: heads as i32,
        scale: (width as f32).powf(-0.5),
        ..Arguments::default()
    };
    let settings = |check, count| Settings { check, count, ..Settings::default() };
    let reports = loaded.launch(&mut memory.clone(), settings(Check::Full, false), &call, &[]).unwrap();
    assert!(reports.iter().all(|report| report.findings.is_empty()));
    let mut group = c.benchmark_group("gdn forward T=512 H=2");
    group.sample_size(10).throughput(Throughput::Elements(reports.iter().map(|report| report.instructions).sum()));
    for (name, check, count) in
        [("plain", Check::Basic, false), ("counting", Check::Basic, true), ("full checks", Check::Full, false)]
    {
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                || memory.clone(),
                |memory| loaded.launch(memory, settings(check, count), &call, &[]).unwrap(),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, forward);
criterion_main!(benches);
