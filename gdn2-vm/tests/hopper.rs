//! Hopper kernels compiled by NVRTC, run on the virtual machine and compared with plain sums of small integers.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use gdn2_vm::{
    Address, Check, Fault, Landing, Launch, Limits, MapType, Memory, Module, Report, Swizzle, TensorMap, Trap, Value,
    run,
};

#[path = "../../tests/src/mutants/mod.rs"]
mod mutants;

const HOPPER: &str = include_str!("ptx/hopper.ptx");
const LIMITS: Limits = Limits { shared_per_block: 227 * 1024, threads_per_block: 1024, sm: 90 };

fn launch<'a>(entry: &'a str, grid: u32, block: u32, shared_bytes: u32, args: &'a [Value]) -> Launch<'a> {
    Launch {
        entry,
        grid: [grid, 1, 1],
        block: [block, 1, 1],
        shared_bytes,
        args,
        limits: LIMITS,
        check: Check::Full,
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

fn bytes(v: &[f32]) -> Vec<u8> {
    v.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn bf16(v: &[f32]) -> Vec<u8> {
    v.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect()
}

/// Small integers and halves as f16, by their exact bits.
fn f16(v: &[f32]) -> Vec<u8> {
    let one = |v: f32| -> u16 {
        if v == 0.0 {
            return 0;
        }
        let b = v.to_bits();
        ((b >> 16 & 0x8000) | ((b >> 23 & 0xff) - 112) << 10 | (b >> 13 & 0x3ff)) as u16
    };
    v.iter().flat_map(|v| one(*v).to_le_bytes()).collect()
}

fn same(got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len());
    let wrong = got.iter().zip(expected).position(|(g, e)| g != e);
    assert_eq!(wrong.map(|i| (i, got[i], expected[i])), None);
}

/// The full checks found nothing.
fn clean(report: &Report) {
    let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

fn small(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7 + i / 5 + seed) % 9) as f32 - 4.0).collect()
}

fn map(element: MapType, address: Address, rows: u64, columns: u64, tile: [u32; 2], swizzle: Swizzle) -> Value {
    let map = TensorMap {
        element,
        address,
        dims: vec![columns, rows],
        strides: vec![columns * u64::from(element.bytes())],
        tile: tile.to_vec(),
        swizzle,
        fill_nan: false,
    };
    Value::Bytes(map.encode().unwrap().to_vec())
}

/// The ring kernel on `m` rows: what it gave, what it should, and the report.
fn ring(ptx: &str, m: usize, landing: Landing) -> (Vec<f32>, Vec<f32>, Result<Report, Trap>) {
    let k = 448;
    let (a, b) = (small(m * k, 0), small(k * 64, 3));
    let mut memory = Memory::new();
    let pa = memory.upload("a", &bf16(&a));
    let pb = memory.upload("b", &bf16(&b));
    let pc = memory.poisoned("c", m * 64 * 4);
    let args = [
        map(MapType::Bf16, pa, m as u64, k as u64, [64, 64], Swizzle::B128),
        map(MapType::Bf16, pb, k as u64, 64, [64, 64], Swizzle::B128),
        map(MapType::F32, pc, m as u64, 64, [64, 64], Swizzle::None),
        Value::I32(k as i32),
    ];
    let l = Launch { landing, ..launch("ring", m.div_ceil(64) as u32, 160, 32768, &args) };
    let report = run(&Module::parse(ptx).unwrap(), &l, &mut memory);
    let expected = (0..m * 64).map(|i| (0..k).map(|j| a[i / 64 * k + j] * b[j * 64 + i % 64]).sum()).collect();
    (floats(memory.read(pc)), expected, report)
}

#[test]
fn ring_of_tensor_copies_and_wgmma() {
    // 100 rows: the second block's tiles hang over the edge, read as zero and are not written.
    for (m, landing) in [(64, Landing::Early), (100, Landing::Early), (100, Landing::Late)] {
        let (got, expected, report) = ring(HOPPER, m, landing);
        clean(&report.unwrap());
        same(&got, &expected);
    }
}

#[test]
fn a_wrong_byte_count_is_a_deadlock_that_says_so() {
    // Without the loads of B each stage misses half its bytes.
    let load = "cp.async.bulk.tensor.2d.shared";
    let mut n = 0;
    let keep = |l: &&str| {
        n += usize::from(l.contains(load));
        !l.contains(load) || n % 2 == 1
    };
    let wrong = HOPPER.lines().filter(keep).collect::<Vec<_>>().join("\n");
    let (_, _, report) = ring(&wrong, 64, Landing::Early);
    let trap = report.unwrap_err();
    assert!(matches!(trap.fault, Fault::Deadlock { .. }), "{trap}");
    assert!(trap.to_string().contains("0 arrivals and 8192 bytes missing"), "{trap}");
}

/// The kernel with A in registers: products, doubled bias, and the report.
fn registers(ptx: &str, landing: Landing) -> (Vec<f32>, Vec<f32>, Result<Report, Trap>) {
    let (a, b, bias) = (small(64 * 32, 0), small(24 * 32, 5), small(24, 2));
    let mut memory = Memory::new();
    let pa = memory.upload("a", &f16(&a));
    let pb = memory.upload("b", &f16(&b));
    let pc = memory.poisoned("c", 64 * 24 * 4);
    let pbias = memory.upload("bias", &bytes(&bias));
    let twice = memory.poisoned("twice", 96);
    let args = [
        Value::Pointer(pa.0),
        map(MapType::F16, pb, 24, 32, [32, 24], Swizzle::B64),
        Value::Pointer(pc.0),
        Value::Pointer(pbias.0),
        Value::Pointer(twice.0),
    ];
    let l = Launch { landing, ..launch("registers", 1, 128, 0, &args) };
    let report = run(&Module::parse(ptx).unwrap(), &l, &mut memory);
    let product = |i: usize| (0..32).map(|j| a[i / 24 * 32 + j] * b[i % 24 * 32 + j]).sum::<f32>();
    let expected = (0..64 * 24).map(|i| bias[i % 24] - product(i)).chain(bias.iter().map(|v| v * 2.0)).collect();
    let mut got = floats(memory.read(pc));
    got.extend(floats(memory.read(twice)));
    (got, expected, report)
}

#[test]
fn wgmma_with_a_in_registers_and_bulk_copies() {
    for landing in [Landing::Early, Landing::Late] {
        let (got, expected, report) = registers(HOPPER, landing);
        clean(&report.unwrap());
        same(&got, &expected);
    }
}

fn core_matrices(ptx: &str) -> (Vec<f32>, Vec<f32>, Result<Report, Trap>) {
    let (a, b) = (small(64 * 8, 0), small(16 * 8, 5));
    let mut memory = Memory::new();
    let [pa, pb, pc] =
        [memory.upload("a", &bytes(&a)), memory.upload("b", &bytes(&b)), memory.poisoned("c", 64 * 16 * 4)];
    let args = [pa, pb, pc].map(|p| Value::Pointer(p.0));
    let report = run(&Module::parse(ptx).unwrap(), &launch("core_matrices", 1, 128, 0, &args), &mut memory);
    let expected = (0..64 * 16).map(|i| (0..8).map(|j| a[i / 16 * 8 + j] * b[i % 16 * 8 + j]).sum()).collect();
    (floats(memory.read(pc)), expected, report)
}

#[test]
fn wgmma_tf32_from_core_matrices() {
    let (got, expected, report) = core_matrices(HOPPER);
    clean(&report.unwrap());
    same(&got, &expected);
}

#[test]
fn each_ordering_statement_is_missed() {
    let starts: Vec<(usize, &str)> = HOPPER
        .lines()
        .enumerate()
        .filter_map(|(at, line)| Some((at, line.strip_prefix(".visible .entry ")?.trim_end_matches('('))))
        .collect();
    let (mut wrong, mut total) = (Vec::new(), 0);
    for (i, (start, entry)) in starts.iter().enumerate() {
        let end = starts.get(i + 1).map_or(usize::MAX, |next| next.0);
        let unnoticed = |ptx: &str| {
            // A wait that is over at once shows where the copy it is for lands late.
            [Landing::Early, Landing::Late].into_iter().all(|landing| {
                let (.., report) = match *entry {
                    "ring" => ring(ptx, 64, landing),
                    "registers" => registers(ptx, landing),
                    _ => core_matrices(ptx),
                };
                report.is_ok_and(|report| report.findings.is_empty())
            })
        };
        let lines = *start..end;
        for m in mutants::mutants(HOPPER, std::slice::from_ref(&lines)) {
            total += 1;
            if unnoticed(&m.ptx) {
                wrong.push(format!("{entry}: {m}"));
            }
        }
    }
    assert!(wrong.is_empty() && total > 0, "of {total}:\n{}", wrong.join("\n"));
}

/// Warp 1 works and arrives, warp 0 waits for it and goes on.
const HANDED_ON: &str = "
.version 8.0
.target sm_90
.address_size 64
.visible .entry handed_on()
{
    .reg .pred %p<5>;
    .reg .b32 %r<5>;
    .reg .b64 %rd<2>;
    .shared .align 8 .b8 meeting[8];
    mov.u32 %r1, %tid.x;
    mov.u32 %r2, meeting;
    setp.eq.u32 %p1, %r1, 0;
    @%p1 mbarrier.init.shared::cta.b64 [%r2], 32;
    bar.sync 0;
    setp.ge.u32 %p2, %r1, 32;
    @%p2 bra WORK;
WAIT:
    mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r2], 0;
    @!%p3 bra WAIT;
    sub.u32 %r3, %r1, 1;
    ret;
WORK:
    mov.u32 %r4, 0;
LOOP:
    add.u32 %r4, %r4, 1;
    setp.lt.u32 %p4, %r4, 100;
    @%p4 bra LOOP;
    mbarrier.arrive.shared::cta.b64 %rd1, [%r2];
    ret;
}
";

#[test]
fn an_mbarrier_hands_the_longest_path_on_and_asking_again_makes_none_longer() {
    let module = Module::parse(HANDED_ON).unwrap();
    let launch = Launch { count: true, check: Check::Basic, ..launch("handed_on", 1, 64, 0, &[]) };
    let counters = run(&module, &launch, &mut Memory::new()).unwrap().counters.unwrap();
    let of = |text: &str| {
        let mut rows = counters.instructions.iter().filter(|row| row.instruction.contains(text));
        rows.next().map(|row| (row.executed, row.longest)).unwrap()
    };
    assert_eq!(of("add.u32"), (100, 100), "the work that was waited for");
    assert_eq!(of("mbarrier.arrive"), (1, 1));
    assert_eq!(of("sub.u32"), (1, 1), "what came after it, by another warp");
    assert!(of("try_wait").1 <= 1, "{:?}", of("try_wait"));
}
