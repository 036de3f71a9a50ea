//! The forward pass on wgmma at K = V = 128: what the assembler made of it, the bytes it moves, and what a chunk of 64
//! tokens costs a multiprocessor, counted by the virtual machine.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::Pass;
use gdn2_dsl::{Draw, Rule};
use gdn2_runtime::device::Device;
use gdn2_runtime::device::vm::Settings;
use gdn2_runtime::engine::{Engine, Run};
use gdn2_runtime::tensors::Case;
use gdn2_runtime::toolchain::{Nvdisasm, Search};
use gdn2_tests::engine;
use gdn2_tests::named::{shipped, with_forward_bytes};
use gdn2_vm::{Class, Counters};

const CHUNK: usize = 64;

fn run<'a>(rule: &'a Rule, device: &'a Device) -> Run<'a> {
    let arch = Some(Arch::Sm90a);
    Run { arch, schedule: "matrix=wgmma", final_state: false, ..Run::new(rule, Pass::Forward, device) }
}

/// Counts of one block over a sequence without states.
fn counted(engine: &Engine, rule: &Rule, tokens: usize) -> Counters {
    let device = Device::Vm(Settings { count: true, ..Settings::default() });
    let draw = Draw { initial_state: false, ..Draw::new(1, tokens, 1, 1, 5) };
    let mut outcome = engine.run(&run(rule, &device), &Case::drawn(rule, &draw, false).unwrap()).unwrap();
    outcome.reports.remove(0).counters.unwrap()
}

#[test]
fn no_register_is_spilled_and_no_product_waits_for_another() {
    let engine = engine();
    let device = Device::vm();
    let disassembler = Nvdisasm::find(&Search::from_environment(None, None)).unwrap();
    for (rule, _) in with_forward_bytes() {
        let artifact = engine.artifact(&run(&rule, &device)).unwrap();
        let taken = &artifact.resources[0];
        assert_eq!((taken.spill_stores, taken.spill_loads), (0, 0), "{}", rule.name);
        assert!(!artifact.log.contains("serialized"), "{}: {}", rule.name, artifact.log);
        // All of a multiprocessor's registers, dealt out anew by role.
        let launch = &artifact.kernel.launches[0];
        assert_eq!((launch.block, taken.registers * launch.block), (512, 65_536), "{}", rule.name);
        assert!(launch.shared_bytes <= 232_448, "{}: {}", rule.name, launch.shared_bytes);
        let sass = disassembler.sass(artifact.cubin.as_ref().unwrap()).unwrap();
        let count = |word: &str| sass.lines().filter(|line| line.contains(word)).count();
        // S with erased keys and with queries, eight steps each; M R, P N and the update, four each. Keys with keys and
        // queries, eight steps each, where one decay serves all channels.
        let scores = if rule.name == "gdn" { 16 } else { 0 };
        assert_eq!(count(" HGMMA."), 28 + scores, "{}", rule.name);
        assert_eq!(count(".tnspB"), 4, "{}: the update alone reads across rows", rule.name);
        assert_eq!(count("USETMAXREG"), 3, "{}", rule.name);
        assert!(count(" HMMA.") > 0, "{}: factors", rule.name);
    }
}

/// Rules that compute their gates; of GDN-2's a warp of factors puts a register by twice a chunk.
#[test]
fn formulas_spill_no_register_that_a_step_needs_and_no_product_waits_for_another() {
    let engine = engine();
    let device = Device::vm();
    for (name, spilled) in
        [("gdn_layer", 0), ("mamba2_layer", 0), ("gla_layer", 0), ("kda_layer", 0), ("gdn2_layer", 8)]
    {
        let artifact = engine.artifact(&run(&shipped(name), &device)).unwrap();
        let taken = &artifact.resources[0];
        println!("{name}: {} bytes stored, {} loaded", taken.spill_stores, taken.spill_loads);
        assert!(taken.spill_stores.max(taken.spill_loads) <= spilled, "{name}: {taken:?}");
        assert!(!artifact.log.contains("serialized"), "{name}: {}", artifact.log);
    }
}

#[test]
fn each_input_is_read_once() {
    const TOKENS: usize = 4096;
    let engine = engine();
    for (rule, floor) in with_forward_bytes() {
        let counters = counted(&engine, &rule, TOKENS);
        let sectors = counters.global_read_sectors + counters.global_write_sectors;
        let ratio = 32.0 * sectors as f64 / TOKENS as f64 / floor;
        println!("{}: {ratio:.3} of {floor} bytes per token and head", rule.name);
        assert!(ratio <= 1.02, "{}: {ratio}", rule.name);
    }
}

/// What a chunk of one block costs, in clocks of the unit that bounds it.
#[derive(Debug, Default)]
struct Chunk {
    tensor: f64,
    special: f64,
    wavefronts: f64,
    /// Warp instructions of the PTX.
    instructions: f64,
    /// wgmma groups one warp waits for.
    groups: f64,
    /// Times the factor warpgroup meets.
    meets: f64,
}

impl Chunk {
    /// Rates per clock and multiprocessor: 2,048 16-bit multiply-adds of wgmma; of mma.sync 0.6 of that, half of it for
    /// tf32; 16 lanes of special functions.
    fn of(counters: &Counters) -> Chunk {
        let mut chunk =
            Chunk { tensor: 0.0, special: 0.0, wavefronts: counters.shared_wavefronts as f64, ..Chunk::default() };
        for row in &counters.instructions {
            let rate = match &row.instruction {
                text if text.contains("wgmma") => 2048.0,
                text if text.contains("tf32") => 0.3 * 2048.0,
                _ => 0.6 * 2048.0,
            };
            chunk.instructions += row.executed as f64;
            chunk.tensor += row.matrix_fmas as f64 / rate;
            if row.class == Class::Special {
                chunk.special += row.lanes as f64 / 16.0;
            }
            if row.instruction.starts_with("wgmma.wait_group") {
                chunk.groups += row.executed as f64 / 8.0; // warps that hold the state
            }
            if row.instruction.starts_with("bar.sync") {
                chunk.meets += row.executed as f64 / 4.0; // warps that make factors
            }
        }
        chunk
    }

    /// A chunk's share: what `many` have more than `few`.
    fn between(few: &Counters, many: &Counters, chunks: usize) -> Chunk {
        let (few, many) = (Chunk::of(few), Chunk::of(many));
        let share = |few: f64, many: f64| (many - few) / chunks as f64;
        Chunk {
            tensor: share(few.tensor, many.tensor),
            special: share(few.special, many.special),
            wavefronts: share(few.wavefronts, many.wavefronts),
            instructions: share(few.instructions, many.instructions),
            groups: share(few.groups, many.groups),
            meets: share(few.meets, many.meets),
        }
    }
}

#[test]
fn a_chunk_costs_what_the_ledger_says() {
    let engine = engine();
    // Times the factor warpgroup meets, clocks of matrix units and of special functions, instructions and wavefronts per
    // token at most.
    let limits =
        [(3.0, 3000.0, 600.0, 160.0, 48.0), (11.0, 3400.0, 2900.0, 320.0, 56.0), (11.0, 3400.0, 2900.0, 355.0, 62.0)];
    for ((rule, _), (meets, tensor, special, instructions, wavefronts)) in with_forward_bytes().into_iter().zip(limits)
    {
        let (few, many) = (counted(&engine, &rule, 2 * CHUNK), counted(&engine, &rule, 6 * CHUNK));
        let chunk = Chunk::between(&few, &many, 4);
        println!("{}: {chunk:?}", rule.name);
        assert!(chunk.tensor <= tensor, "{}: {chunk:?}", rule.name);
        assert!(chunk.special <= special, "{}: {chunk:?}", rule.name);
        assert!(chunk.wavefronts <= wavefronts * CHUNK as f64, "{}: {chunk:?}", rule.name);
        assert!(chunk.instructions <= instructions * CHUNK as f64, "{}: {chunk:?}", rule.name);
        // Two are waited for beside the state's chain: what queries read of S, and of what the chunk writes.
        assert!(chunk.groups - 2.0 <= 5.0, "{}: {chunk:?}", rule.name);
        assert_eq!(chunk.meets, meets, "{}: {chunk:?}", rule.name);
        // Once a chunk each: the load warpgroup for room, the factors for tiles, the state for factors and values.
        let waits = ["empty", "VALUES_READ", "full", "ready", "VALUES"];
        assert_eq!(barriers_waited_for(&engine, &rule), waits, "{}", rule.name);
    }
}

/// Barriers in shared memory that a chunk waits for, in the order of the kernel's text.
fn barriers_waited_for(engine: &Engine, rule: &Rule) -> Vec<String> {
    let device = Device::vm();
    let text = gdn2_codegen::render(&engine.artifact(&run(rule, &device)).unwrap().kernel).text;
    let name = |before: &str| {
        let before = before.trim_end_matches(['(', ')', '}']);
        let start = before.rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_').map_or(0, |at| at + 1);
        before[start..].trim_start_matches("SMEM_").to_owned()
    };
    let waits: Vec<&str> = text.split(".wait(").collect();
    waits[..waits.len() - 1].iter().map(|before| name(before)).collect()
}
