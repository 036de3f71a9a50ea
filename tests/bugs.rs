//! Bugs of the kind generators make, seeded into small kernels one at a time: each is caught, and called what it is.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use gdn2_runtime::nvrtc::{Nvrtc, Options};
use gdn2_tests::{engine, root};
use gdn2_vm::{Address, Check, Landing, Launch, Limits, MapType, Memory, Module, Rule, Swizzle, TensorMap, Value, run};
use rayon::prelude::*;

/// Which kernel, and how it is launched.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kernel {
    /// `gemm` of ampere.cu: this K, blocks and dynamic shared bytes.
    Gemm { k: usize, grid: u32, shared: u32 },
    /// `ring` of hopper.cu.
    Ring,
}

/// How it shows.
#[derive(Clone, Copy, Debug)]
enum Shows {
    Finding(Rule),
    /// The run stops, and says this.
    Trap(&'static str),
    /// Only the results are wrong.
    Numbers,
}

struct Bug {
    name: &'static str,
    kernel: Kernel,
    /// Text and what stands in its place; the occurrence, counted from 0.
    edit: Option<(&'static str, &'static str, usize)>,
    shows: Shows,
}

const GEMM: Kernel = Kernel::Gemm { k: 48, grid: 1, shared: 2304 };

const fn edited(
    name: &'static str,
    kernel: Kernel,
    from: &'static str,
    to: &'static str,
    nth: usize,
    shows: Shows,
) -> Bug {
    Bug { name, kernel, edit: Some((from, to, nth)), shows }
}

const fn launched(name: &'static str, kernel: Kernel, shows: Shows) -> Bug {
    Bug { name, kernel, edit: None, shows }
}

const BUGS: [Bug; 28] = [
    launched("unmasked tail", Kernel::Gemm { k: 40, grid: 1, shared: 2304 }, Shows::Trap("out of bounds")),
    launched("shared memory too small", Kernel::Gemm { k: 48, grid: 1, shared: 2048 }, Shows::Trap("out of bounds")),
    launched(
        "blocks with the same rows",
        Kernel::Gemm { k: 48, grid: 2, shared: 2304 },
        Shows::Finding(Rule::TwoBlocks),
    ),
    edited("missing transpose", GEMM, "x2.trans.shared", "x2.shared", 0, Shows::Numbers),
    edited("copy not waited for", GEMM, "cp.async.wait_group %0;", "// %0", 0, Shows::Finding(Rule::Unwaited)),
    edited(
        "copy waited for one group too early",
        GEMM,
        "\"cp.async.wait_group %0;\" ::\"n\"(0)",
        "\"cp.async.wait_group %0;\" ::\"n\"(1)",
        0,
        Shows::Finding(Rule::Unwaited),
    ),
    edited("copy never committed", GEMM, "cp.async.commit_group;", "", 0, Shows::Finding(Rule::Unwaited)),
    edited("no barrier before reading", GEMM, "__syncthreads();", "", 0, Shows::Finding(Rule::SharedRace)),
    edited("missing double buffer", GEMM, "__syncthreads();", "", 1, Shows::Finding(Rule::SharedRace)),
    edited(
        "barrier in divergent code",
        GEMM,
        "__syncthreads();",
        "if (lane < 16) __syncthreads();",
        0,
        Shows::Trap("divergent"),
    ),
    edited(
        "shuffle under divergence",
        GEMM,
        "row[0] = acc[0];",
        // Lanes that never come, and never leave either.
        "if (lane < 20) row[0] = __shfl_down_sync(~0u, acc[0], 0); else row[0] = __shfl_up_sync(~0u, acc[0], 1);",
        0,
        Shows::Trap("divergent"),
    ),
    edited(
        "sums not started at zero",
        GEMM,
        "float acc[4] = {0, 0, 0, 0};",
        "float acc[4];",
        0,
        Shows::Finding(Rule::UndefinedRegister),
    ),
    edited("result not stored", GEMM, "row[65] = acc[3];", "", 0, Shows::Finding(Rule::OutputUnwritten)),
    edited(
        "copy to a misaligned place",
        GEMM,
        "shared_address(tile + i * 16)",
        "shared_address(tile + i * 16 + 4)",
        0,
        Shows::Trap("misaligned"),
    ),
    edited(
        "part of a tile never copied",
        GEMM,
        "for (int i = t; i < 64 * 2; i += 128)",
        "for (int i = t; i < 63 * 2; i += 128)",
        0,
        Shows::Finding(Rule::UninitialisedShared),
    ),
    edited(
        "parity never flipped by the consumer",
        Kernel::Ring,
        "wait(full + 8 * s, (i >> 1) & 1);",
        "wait(full + 8 * s, 0);",
        0,
        Shows::Trap("deadlock"),
    ),
    edited("parity never flipped by the producer", Kernel::Ring, "((i >> 1) & 1) ^ 1", "1", 0, Shows::Trap("deadlock")),
    edited(
        "stage released before its last product",
        Kernel::Ring,
        "asm volatile(\"wgmma.wait_group.sync.aligned 0;\" ::: \"memory\");\n      arrive(empty + 8 * s);",
        "arrive(empty + 8 * s);\n      asm volatile(\"wgmma.wait_group.sync.aligned 0;\" ::: \"memory\");",
        0,
        Shows::Finding(Rule::SharedRace),
    ),
    edited(
        "too many transaction bytes",
        Kernel::Ring,
        "expect(full + 8 * s, stage_bytes)",
        "expect(full + 8 * s, stage_bytes + 16)",
        0,
        Shows::Trap("bytes missing"),
    ),
    edited(
        "mbarriers not published to the copy engine",
        Kernel::Ring,
        "asm volatile(\"fence.mbarrier_init.release.cluster;\" ::: \"memory\");",
        "",
        0,
        Shows::Finding(Rule::MissingProxyFence),
    ),
    edited(
        "no proxy fence before a tensor store",
        Kernel::Ring,
        "asm volatile(\"fence.proxy.async.shared::cta;\" ::: \"memory\");",
        "",
        0,
        Shows::Finding(Rule::MissingProxyFence),
    ),
    edited("wrong barrier count", Kernel::Ring, "bar.sync 1, 128;", "bar.sync 1, 160;", 1, Shows::Trap("deadlock")),
    edited(
        "no fence before a product",
        Kernel::Ring,
        "asm volatile(\"wgmma.fence.sync.aligned;\" ::: \"memory\");",
        "",
        0,
        Shows::Finding(Rule::MissingWgmmaFence),
    ),
    edited(
        "product not waited for",
        Kernel::Ring,
        "asm volatile(\"wgmma.wait_group.sync.aligned 0;\" ::: \"memory\");",
        "",
        0,
        Shows::Finding(Rule::Unwaited),
    ),
    edited("wrong swizzle", Kernel::Ring, "k * 32, 16, 1024, 1);", "k * 32, 16, 1024, 2);", 0, Shows::Numbers),
    edited(
        "descriptor past the end",
        Kernel::Ring,
        "8192, 1024, 1);",
        "8192, 1024, 2);",
        0,
        Shows::Trap("a descriptor of start"),
    ),
    edited("wrong descriptor stride", Kernel::Ring, "k * 32, 16, 1024, 1);", "k * 32, 16, 512, 1);", 0, Shows::Numbers),
    edited(
        "one arrival too few awaited",
        Kernel::Ring,
        "init(empty + 8 * i, 128);",
        "init(empty + 8 * i, 96);",
        0,
        Shows::Finding(Rule::SharedRace),
    ),
];

/// The text with its `nth` occurrence of `from` replaced.
fn edit(text: &str, from: &str, to: &str, nth: usize) -> String {
    let (at, _) = text.match_indices(from).nth(nth).unwrap_or_else(|| panic!("no occurrence {nth} of {from}"));
    format!("{}{to}{}", &text[..at], &text[at + from.len()..])
}

fn bf16(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect()
}

/// Small integers, whose sums are exact.
fn small(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i + seed).wrapping_mul(0x9e37_79b9) >> 13 & 7) as f32 - 4.0).collect()
}

/// What was noticed: findings, a trap, or nothing but numbers.
enum Seen {
    Findings(Vec<(Rule, String)>),
    Trap(String),
    Numbers { right: bool },
}

fn tensor_map(element: MapType, address: Address, dims: [u64; 2], swizzle: Swizzle) -> Value {
    let strides = vec![dims[0] * u64::from(element.bytes())];
    let (dims, tile) = (dims.to_vec(), vec![64, 64]);
    let map = TensorMap { element, address, dims, strides, tile, swizzle, fill_nan: false };
    Value::Bytes(map.encode().unwrap().to_vec())
}

fn seen(ptx: &str, kernel: Kernel) -> Seen {
    let (k, columns) = match kernel {
        Kernel::Gemm { k, .. } => (k, 8),
        Kernel::Ring => (320, 64),
    };
    let (a, b) = (small(64 * k, 0), small(k * columns, 3));
    let mut memory = Memory::new();
    let (pa, pb) = (memory.upload("a", &bf16(&a)), memory.upload("b", &bf16(&b)));
    let pc = memory.poisoned("c", 64 * columns * 4);
    let (entry, grid, block, shared_bytes, args) = match kernel {
        Kernel::Gemm { grid, shared, .. } => {
            let args = vec![pa, pb, pc].into_iter().map(|p| Value::Pointer(p.0)).chain([Value::I32(k as i32)]);
            ("gemm", grid, 128, shared, args.collect::<Vec<_>>())
        }
        Kernel::Ring => {
            let args = vec![
                tensor_map(MapType::Bf16, pa, [k as u64, 64], Swizzle::B128),
                tensor_map(MapType::Bf16, pb, [64, k as u64], Swizzle::B128),
                tensor_map(MapType::F32, pc, [64, 64], Swizzle::None),
                Value::I32(k as i32),
            ];
            ("ring", 1, 160, 32768, args)
        }
    };
    let launch = Launch {
        entry,
        grid: [grid, 1, 1],
        block: [block, 1, 1],
        shared_bytes,
        args: &args,
        limits: Limits { shared_per_block: 227 * 1024, threads_per_block: 1024, sm: 90 },
        check: Check::Full,
        landing: Landing::Early,
        order: None,
        outputs: &[pc],
        count: false,
        instructions: gdn2_vm::INSTRUCTIONS,
    };
    let report = match run(&Module::parse(ptx).unwrap(), &launch, &mut memory) {
        Ok(report) => report,
        Err(trap) => return Seen::Trap(trap.to_string()),
    };
    if !report.findings.is_empty() {
        return Seen::Findings(report.findings.iter().map(|f| (f.rule, f.to_string())).collect());
    }
    let got = memory.read(pc).chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap()));
    let expected = |i: usize| (0..k).map(|j| a[i / columns * k + j] * b[j * columns + i % columns]).sum::<f32>();
    Seen::Numbers { right: got.enumerate().all(|(i, v)| v == expected(i)) }
}

fn compile(nvrtc: &Nvrtc, kernel: Kernel, change: Option<(&str, &str, usize)>) -> String {
    let (file, target) = match kernel {
        Kernel::Gemm { .. } => ("ampere.cu", "compute_80"),
        Kernel::Ring => ("hopper.cu", "compute_90a"),
    };
    let text = std::fs::read_to_string(root().join("gdn2-vm/tests/ptx").join(file)).unwrap();
    let text = change.map_or(text.clone(), |(from, to, nth)| {
        // Edits count from the kernel they are for.
        let at = if kernel == Kernel::Ring { text.find("ring(").unwrap() } else { 0 };
        format!("{}{}", &text[..at], edit(&text[at..], from, to, nth))
    });
    nvrtc.compile(&text, target, &Options::default()).unwrap().ptx
}

#[test]
fn every_seeded_bug_is_caught_and_named() {
    let engine = engine();
    let nvrtc = engine.compiler().nvrtc().unwrap();
    for kernel in [GEMM, Kernel::Ring] {
        let clean = seen(&compile(nvrtc, kernel, None), kernel);
        assert!(matches!(clean, Seen::Numbers { right: true }), "{kernel:?} is clean");
    }
    let texts: Vec<String> = BUGS.iter().map(|bug| compile(nvrtc, bug.kernel, bug.edit)).collect();
    let wrong: Vec<String> = BUGS
        .par_iter()
        .zip(&texts)
        .filter_map(|(bug, ptx)| {
            let seen = seen(ptx, bug.kernel);
            let caught = match (&seen, bug.shows) {
                (Seen::Findings(found), Shows::Finding(rule)) => found.iter().any(|(r, _)| *r == rule),
                (Seen::Trap(text), Shows::Trap(says)) => text.contains(says),
                (Seen::Numbers { right }, Shows::Numbers) => !right,
                _ => false,
            };
            let saw = match seen {
                Seen::Findings(found) => found.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join("\n"),
                Seen::Trap(text) => text,
                Seen::Numbers { right } => {
                    format!("nothing, and the numbers are {}", if right { "right" } else { "wrong" })
                }
            };
            (!caught).then(|| format!("{}: expected {:?}, saw {saw}", bug.name, bug.shows))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
