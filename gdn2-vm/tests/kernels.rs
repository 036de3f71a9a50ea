//! Kernels compiled by NVRTC, run on the virtual machine and compared with plain Rust.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use gdn2_vm::{Check, Landing, Launch, Limits, Memory, Module, Report, Trap, Value, run};

const AMPERE: &str = include_str!("ptx/ampere.ptx");
const LIMITS: Limits = Limits { shared_per_block: 163 * 1024, threads_per_block: 1024, sm: 80 };

fn launch<'a>(entry: &'a str, grid: u32, block: u32, shared_bytes: u32, args: &'a [Value]) -> Launch<'a> {
    Launch {
        entry,
        grid: [grid, 1, 1],
        block: [block, 1, 1],
        shared_bytes,
        args,
        limits: LIMITS,
        check: Check::Basic,
        landing: Landing::Early,
        order: None,
        outputs: &[],
        count: false,
        instructions: gdn2_vm::INSTRUCTIONS,
    }
}

fn floats(b: &[u8]) -> Vec<f32> {
    b.chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect()
}

fn bf16(v: f32) -> [u8; 2] {
    ((v.to_bits() >> 16) as u16).to_le_bytes()
}

/// Small integers, so that every sum is exact.
fn small(i: usize) -> f32 {
    ((i * 7 + i / 5) % 9) as f32 - 4.0
}

fn gemm(landing: Landing, check: Check, count: bool, pad: usize) -> (Vec<f32>, Vec<f32>, Result<Report, Trap>) {
    let k = 48;
    let a: Vec<f32> = (0..64 * k).map(small).collect();
    let b: Vec<f32> = (0..k * 8).map(|i| small(i + 3)).collect();
    let mut memory = Memory::new();
    let bytes = |v: &[f32]| v.iter().flat_map(|v| bf16(*v)).collect::<Vec<u8>>();
    let pa = memory.upload("a", &bytes(&a)[pad..]);
    let pb = memory.upload("b", &bytes(&b));
    let pc = memory.poisoned("c", 64 * 8 * 4);
    let args = [Value::Pointer(pa.0), Value::Pointer(pb.0), Value::Pointer(pc.0), Value::I32(k as i32)];
    let module = Module::parse(AMPERE).unwrap();
    let outputs = [pc];
    let l = Launch { landing, check, count, outputs: &outputs, ..launch("gemm", 1, 128, 2048 + 256, &args) };
    let report = run(&module, &l, &mut memory);
    let expected = (0..64 * 8).map(|i| (0..k).map(|j| a[i / 8 * k + j] * b[j * 8 + i % 8]).sum()).collect();
    (floats(memory.read(pc)), expected, report)
}

#[test]
fn matrix_product_through_cp_async_ldmatrix_and_mma() {
    for landing in [Landing::Early, Landing::Late] {
        let (got, expected, report) = gemm(landing, Check::Basic, false, 0);
        assert!(report.unwrap().instructions > 100);
        let wrong = got.iter().zip(&expected).position(|(g, e)| g != e);
        assert_eq!(wrong, None);
    }
}

#[test]
fn counters_of_the_matrix_product_are_those_on_paper() {
    let (_, _, report) = gemm(Landing::Early, Check::Basic, true, 0);
    let c = report.unwrap().counters.unwrap();
    // Three chunks: A is 64 rows of 32 bytes, B 16 rows of 16 bytes (two to a sector); C is 2048 bytes, its four
    // stores a warp touch 8 rows of 32 bytes each.
    assert_eq!(c.global_read_bytes, 3 * (64 * 32 + 16 * 16));
    assert_eq!(c.global_read_sectors, 3 * (64 + 8));
    assert_eq!((c.distinct_read_sectors, c.distinct_write_sectors), ((64 + 8) * 48 * 2 / 32, 2048 / 32));
    assert_eq!((c.global_write_bytes, c.global_write_sectors), (2048, 4 * 4 * 8));
    let of =
        |name: &str| c.instructions.iter().filter(|i| i.instruction.starts_with(name)).map(|i| i.executed).sum::<u64>();
    assert_eq!(of("mma.sync"), 3 * 4);
    assert_eq!(of("ldmatrix"), 3 * 4 * 2);
    // Rows of 32 bytes: the eight rows of one matrix fall on banks two by two.
    let ld: Vec<_> = c.instructions.iter().filter(|i| i.instruction.contains("x4.shared")).collect();
    assert_eq!(ld.iter().map(|i| i.shared_wavefronts).sum::<u64>(), 3 * 4 * 4 * 2);
    assert_eq!(ld[0].source.as_ref().unwrap().file, "ampere.cu");
}

#[test]
fn an_overrun_names_buffer_and_place() {
    let (_, _, report) = gemm(Landing::Early, Check::Basic, false, 32);
    let trap = report.unwrap_err();
    let text = trap.to_string();
    assert!(text.contains("out of bounds") && text.contains("buffer `a`"), "{text}");
    assert!(text.contains("ampere.cu:15") && text.contains("warp 3") && text.contains("lane 30"), "{text}");
}

#[test]
fn mixture_matches_plain_rust() {
    let n = 150;
    let input: Vec<f32> = (0..n * 2).map(|i| ((i * 37) % 41) as f32 * 0.05 - 0.9).collect();
    let mut memory = Memory::new();
    let src = memory.upload("in", &input.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>());
    let dst = memory.poisoned("out", n * 4);
    let mut job = Vec::new();
    job.extend(src.0.to_le_bytes());
    job.extend(dst.0.to_le_bytes());
    job.extend((n as i32).to_le_bytes());
    job.extend(0.5f32.to_le_bytes());
    let args = [Value::Bytes(job), Value::I64(2)];
    run(&Module::parse(AMPERE).unwrap(), &launch("mixture", 3, 64, 0, &args), &mut memory).unwrap();
    let out = floats(memory.read(dst));
    let table = [1.0, 2.0, 3.0, 4.0];
    for warp in 0..6 {
        let at = |l: usize| warp * 32 + l;
        let raw: Vec<f32> = (0..32).map(|l| if at(l) < n { input[at(l) * 2] * 0.5 } else { 0.0 }).collect();
        let v: Vec<f32> = (0..32).map(|l| raw[..=l].iter().sum()).collect();
        let ballot = (0..32).fold(0u32, |m, l| m | u32::from(v[l] > 1.0) << l);
        let max = v.iter().map(|v| *v as i32).max().unwrap();
        // Lane l reads what lane l + 1 of the block wrote; the last of the pair of warps wraps, so skip it.
        for l in (0..31).filter(|l| at(*l) < n) {
            let x = v[l + 1];
            let j = x as i32 & 7;
            let part = x * j as f32 + table[(j & 3) as usize];
            let s = x.exp() + (x.abs() + 1.0).ln() + x.tanh() + x / (1.0 + x * x) + x.abs().sqrt() + part;
            let i = at(l) as i32;
            let whole = ballot.count_ones() as i32 + max + ballot.leading_zeros() as i32 + i % 7 + i / 3;
            let expected = s + whole as f32;
            assert!((out[at(l)] - expected).abs() < 1e-4 * expected.abs().max(1.0), "{i}: {} {expected}", out[at(l)]);
        }
    }
}

#[test]
fn divergent_loops_meet_again() {
    let n = 1000u32;
    let mut memory = Memory::new();
    let out = memory.poisoned("out", n as usize * 4);
    let total = memory.upload("total", &[0; 4]);
    let args = [Value::Pointer(out.0), Value::I32(n as i32), Value::Pointer(total.0)];
    run(&Module::parse(AMPERE).unwrap(), &launch("collatz", 4, 256, 0, &args), &mut memory).unwrap();
    let mut sum = 0;
    for (i, b) in memory.read(out).chunks_exact(4).enumerate() {
        let (mut x, mut steps) = (i as u32 + 1, 0);
        while x != 1 {
            x = if x & 1 == 1 { 3 * x + 1 } else { x / 2 };
            steps += 1;
        }
        assert_eq!(u32::from_le_bytes(b.try_into().unwrap()), steps, "lane {i}");
        sum += steps;
    }
    assert_eq!(memory.read(total), sum.to_le_bytes());
}

#[test]
fn the_full_checks_find_nothing_in_correct_kernels() {
    let (got, expected, report) = gemm(Landing::Early, Check::Full, true, 0);
    let report = report.unwrap();
    assert_eq!(report.findings, []);
    assert_eq!(got, expected);
    assert!(report.counters.unwrap().global_write_bytes == 2048);
}
