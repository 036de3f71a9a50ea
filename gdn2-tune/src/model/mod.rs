//! The time model: a launch takes the longer of its latency chain and its busiest unit, wave by wave, and no less than
//! its bytes take through memory.
//!
//! The chain is the block's longest path. On it each instruction costs its unit's stall: what the machine code's control
//! words say, for units of fixed latency, where a disassembler is at hand, else a constant. A warpgroup's products cost
//! their time on the matrix units on top, for they are waited for before their results are used; that a warpgroup does
//! other work meanwhile is left out. Where warpgroups divide the work, the path runs through their ring: it is the slowest
//! warpgroup's, for the others run beside it.
//!
//! It ranks and prunes. Its constants come from data sheets and one walk through machine code, so its absolute times
//! carry the error band that the constants state, until `calibrate` refits them on measured logs.

mod calibrate;
mod constants;
mod counts;
mod stalls;

pub(crate) use calibrate::spearman;
pub use calibrate::{Calibrated, Pair, calibrate, pairs};
pub use constants::{Constants, ConstantsError, Sourced};
pub use counts::{Load, Unit};
pub use stalls::{Stalls, stalls};

use gdn2_codegen::arch::Limits;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Blocks resident on one streaming multiprocessor at most: CUDA C++ Programming Guide, "Technical Specifications per
/// Compute Capability" (32 for 8.0 and 9.0, 16 and 24 elsewhere; only blocks of a warp come near).
const BLOCKS_PER_SM: u64 = 32;

/// What the model needs to know of one launch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LaunchLoad {
    /// Blocks.
    pub blocks: u64,
    /// Threads of a block.
    pub threads: u32,
    /// Registers of a thread.
    pub registers: u32,
    /// Shared memory of a block, bytes, dynamic and static.
    pub shared_bytes: u32,
    /// Work of a block.
    pub load: Load,
    /// What the machine code says of its stalls, where it was read.
    #[serde(default, skip_serializing_if = "Stalls::is_empty")]
    pub stalls: Stalls,
}

/// What decides a launch's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The chain of dependent instructions of one warp.
    Chain,
    /// Issue slots.
    Issue,
    /// Integer lanes.
    Integer,
    /// Float lanes.
    Float,
    /// Conversion lanes.
    Convert,
    /// Special function lanes.
    Special,
    /// Shared-memory banks.
    Shared,
    /// Shuffle lanes.
    Shuffle,
    /// Matrix units.
    Tensor,
    /// Level-two cache.
    L2,
    /// Memory.
    Memory,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Bound::Chain => "latency chain",
            Bound::Issue => "issue slots",
            Bound::Integer => "integer lanes",
            Bound::Float => "float lanes",
            Bound::Convert => "conversions",
            Bound::Special => "special functions",
            Bound::Shared => "shared memory",
            Bound::Shuffle => "shuffles",
            Bound::Tensor => "matrix units",
            Bound::L2 => "level-two cache",
            Bound::Memory => "memory",
        })
    }
}

/// A predicted pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// Time of all launches, microseconds.
    pub micros: f64,
    /// What decides the longest launch.
    pub bound: Bound,
    /// Which launch is the longest, from 0.
    pub longest: usize,
    /// Blocks resident on a streaming multiprocessor, of the longest launch.
    pub resident: u64,
    /// Waves of the longest launch.
    pub waves: u64,
    /// Latency chain of one block of the longest launch, clocks.
    pub chain: f64,
    /// Busiest unit of one block of the longest launch, clocks.
    pub busiest: f64,
}

/// Blocks of a launch that fit a streaming multiprocessor together.
pub fn resident_blocks(launch: &LaunchLoad, limits: &Limits) -> u64 {
    let warps = launch.threads.div_ceil(32);
    let registers = launch.registers.div_ceil(limits.register_granule).max(1) * limits.register_granule * warps * 32;
    let shared = launch.shared_bytes + limits.shared_reserved;
    let by = [
        limits.registers_per_block / registers.max(1),
        limits.shared_per_sm / shared.max(1),
        limits.threads_per_sm / (warps * 32).max(1),
    ];
    u64::from(by.into_iter().min().unwrap_or(1)).clamp(1, BLOCKS_PER_SM)
}

/// Clocks of a block's longest path when it never waits for another block's use of a unit.
fn chain(launch: &LaunchLoad, constants: &Constants) -> f64 {
    let stall = |unit: Unit| launch.stalls.get(&unit).copied().unwrap_or_else(|| constants.stall(unit));
    let issued: f64 = Unit::ALL.iter().map(|unit| launch.load.longest[*unit as usize] * stall(*unit)).sum();
    issued + launch.load.chained_wgmma / constants.get("wgmma")
}

/// Clocks that a block keeps each unit of its streaming multiprocessor busy.
pub fn unit_clocks(load: &Load, constants: &Constants) -> [(Bound, f64); 8] {
    let per = |unit: Unit, lanes: &str| load.instructions[unit as usize] * 32.0 / constants.get(lanes);
    let issued: f64 = load.instructions.iter().sum();
    [
        (Bound::Tensor, load.mma / constants.get("mma") + load.wgmma / constants.get("wgmma")),
        (Bound::Shared, load.wavefronts / constants.get("shared_wavefronts")),
        (Bound::Special, per(Unit::Special, "special_lanes")),
        (Bound::Float, per(Unit::Float, "float_lanes")),
        (Bound::Integer, per(Unit::Integer, "integer_lanes")),
        (Bound::Convert, per(Unit::Convert, "convert_lanes")),
        (Bound::Shuffle, per(Unit::Shuffle, "shuffle_lanes")),
        (Bound::Issue, issued / constants.get("issue")),
    ]
}

fn longest<const N: usize>(bounds: [(Bound, f64); N]) -> (Bound, f64) {
    let longer = |a: (Bound, f64), b: (Bound, f64)| if b.1 > a.1 { b } else { a };
    bounds.into_iter().fold((Bound::Issue, 0.0), longer)
}

/// Predicts a pass. `compulsory_bytes`: what must cross memory whatever the schedule, once over all launches.
pub fn predict(launches: &[LaunchLoad], compulsory_bytes: f64, limits: &Limits, constants: &Constants) -> Prediction {
    let clocks_per_micro = constants.get("clock");
    let sms = constants.get("sms") as u64;
    let mut total = 0.0;
    let mut slowest: Option<(f64, Prediction)> = None;
    for (place, launch) in launches.iter().enumerate() {
        let resident = resident_blocks(launch, limits);
        let (chain, (unit, busiest)) = (chain(launch, constants), longest(unit_clocks(&launch.load, constants)));
        // The fullest streaming multiprocessor decides: whole rounds of resident blocks, then what is left.
        let mine = launch.blocks.div_ceil(sms.max(1));
        let round = |blocks: u64| chain.max(busiest * blocks as f64);
        let clocks =
            (mine / resident) as f64 * round(resident) + if mine % resident > 0 { round(mine % resident) } else { 0.0 };
        let traffic = launch.load.sector_bytes * launch.blocks as f64 / constants.get("l2_bytes");
        let inner = if chain >= busiest * resident.min(mine) as f64 { Bound::Chain } else { unit };
        let (bound, clocks) = longest([(inner, clocks), (Bound::L2, traffic)]);
        let micros = clocks / clocks_per_micro + constants.get("launch");
        total += micros;
        if slowest.as_ref().is_none_or(|(longest, _)| micros > *longest) {
            let waves = launch.blocks.div_ceil(resident * sms.max(1));
            slowest = Some((micros, Prediction { micros, bound, longest: place, resident, waves, chain, busiest }));
        }
    }
    let memory = compulsory_bytes / (constants.get("dram_bytes") * 1e3) + constants.get("launch");
    let bound = Bound::Memory;
    let none = Prediction { micros: 0.0, bound, longest: 0, resident: 0, waves: 0, chain: 0.0, busiest: 0.0 };
    let mut prediction = slowest.map_or(none, |(_, prediction)| prediction);
    prediction.micros = total;
    if memory > total {
        prediction.micros = memory;
        prediction.bound = Bound::Memory;
    }
    prediction
}

/// Microseconds that no kernel beats: the bytes once through memory, the multiply-adds at the best matrix rate.
pub fn floor_micros(compulsory_bytes: f64, multiply_adds: f64, constants: &Constants) -> f64 {
    let matrix = constants.get("mma").max(constants.get("wgmma")) * constants.get("sms") * constants.get("clock");
    (compulsory_bytes / (constants.get("dram_bytes") * 1e3)).max(multiply_adds / matrix)
}

/// Clocks counted on the busiest unit with every wave full, as microseconds at the GPU's clock: the virtual machine's
/// stand-in for a measured time.
pub fn counted_micros(launches: &[LaunchLoad], constants: &Constants) -> f64 {
    let clocks = launches.iter().map(|launch| {
        let mine = launch.blocks.div_ceil((constants.get("sms") as u64).max(1));
        longest(unit_clocks(&launch.load, constants)).1.max(chain(launch, constants)) * mine as f64
    });
    clocks.sum::<f64>() / constants.get("clock")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use gdn2_codegen::arch::Arch;

    fn launch(blocks: u64) -> LaunchLoad {
        // Long enough that the launch overhead does not hide what is tested.
        let mut load = Load { mma: 1.0e8, ..Load::default() };
        load.instructions[Unit::Mma as usize] = 50_000.0;
        load.longest[Unit::Mma as usize] = 12_500.0;
        let stalls = Stalls::default();
        LaunchLoad { blocks, threads: 128, registers: 128, shared_bytes: 100 * 1024, load, stalls }
    }

    #[test]
    fn occupancy_is_the_scarcest_resource() {
        let limits = Arch::Sm90a.limits();
        assert_eq!(resident_blocks(&launch(1), &limits), 2, "shared memory: 228 KB hold two blocks of 101 KB");
        let registers = LaunchLoad { registers: 255, shared_bytes: 0, threads: 256, ..launch(1) };
        assert_eq!(resident_blocks(&registers, &limits), 1, "65,536 registers hold one block of 256 x 256");
        let threads = LaunchLoad { registers: 8, shared_bytes: 0, threads: 1024, ..launch(1) };
        assert_eq!(resident_blocks(&threads, &limits), 2);
    }

    #[test]
    fn a_wave_more_costs_a_wave_and_memory_is_a_floor() {
        let (limits, constants) = (Arch::Sm90a.limits(), Constants::shipped("h200").unwrap());
        let time = |blocks: u64, bytes: f64| predict(&[launch(blocks)], bytes, &limits, &constants);
        let (one, same, more) = (time(1, 0.0), time(132, 0.0), time(133, 0.0));
        assert!((one.micros - same.micros).abs() < 1e-9, "132 blocks on 132 multiprocessors run side by side");
        assert!(more.micros >= same.micros && time(264 + 1, 0.0).micros > time(264, 0.0).micros * 1.2);
        let bytes = time(1, 1e12);
        assert_eq!(bytes.bound, Bound::Memory);
        assert!((bytes.micros - 1e12 / 4.3e6).abs() / bytes.micros < 0.01, "a terabyte at 4.3 TB/s: {bytes:?}");
    }

    /// Loads of every kind, told apart by a seed.
    fn some(seed: u64) -> LaunchLoad {
        let mut state = seed;
        let mut next = |most: f64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / (1u64 << 31) as f64 * most
        };
        let mut load = Load { mma: next(1e8), wgmma: next(1e8), wavefronts: next(1e6), ..Load::default() };
        load.sector_bytes = next(1e8);
        load.instructions = load.instructions.map(|_| next(1e5));
        load.longest = load.instructions.map(|count| count / 8.0);
        load.chained_wgmma = load.wgmma / 2.0;
        LaunchLoad { blocks: 1 + next(600.0) as u64, load, ..launch(1) }
    }

    #[test]
    fn no_prediction_beats_the_floor_and_more_work_is_never_faster() {
        let limits = Arch::Sm90a.limits();
        let grown = |name: &str, seed: u64| {
            let mut launch = some(seed);
            let load = &mut launch.load;
            match name {
                "mma" => load.mma *= 1.5,
                "wgmma" => (load.wgmma, load.chained_wgmma) = (load.wgmma * 1.5, load.chained_wgmma * 1.5),
                "wavefronts" => load.wavefronts *= 1.5,
                "bytes" => load.sector_bytes *= 1.5,
                "instructions" => load.instructions = load.instructions.map(|count| count * 1.5),
                "chain" => load.longest = load.longest.map(|count| count * 1.5),
                _ => launch.blocks += 1,
            }
            launch
        };
        for constants in ["h200", "a100"].map(|gpu| Constants::shipped(gpu).unwrap()) {
            for seed in 0..200 {
                let bytes = seed as f64 * 1e7;
                let time = |launch: LaunchLoad| predict(&[launch], bytes, &limits, &constants).micros;
                let (launch, at) = (some(seed), time(some(seed)));
                let products = (launch.load.mma + launch.load.wgmma) * launch.blocks as f64;
                let floor = floor_micros(bytes, products, &constants);
                assert!(at >= floor, "{}, seed {seed}: {at} is under the floor of {floor}", constants.gpu);
                for name in ["mma", "wgmma", "wavefronts", "bytes", "instructions", "chain", "blocks"] {
                    assert!(time(grown(name, seed)) >= at, "{}, seed {seed}: faster with more {name}", constants.gpu);
                }
            }
        }
    }

    /// A group of products that the state waits for costs at least its time on the matrix units, however few
    /// instructions it takes to ask for it.
    #[test]
    fn products_of_a_warpgroup_lie_on_the_chain() {
        let (limits, constants) = (Arch::Sm90a.limits(), Constants::shipped("h200").unwrap());
        let mut launch = launch(1);
        launch.load = Load { wgmma: 4e8, chained_wgmma: 4e8, ..Load::default() };
        launch.load.longest[Unit::Wgmma as usize] = 3000.0;
        let prediction = predict(std::slice::from_ref(&launch), 0.0, &limits, &constants);
        assert!(prediction.chain > 4e8 / 2048.0, "{prediction:?}");
        launch.load.longest[Unit::WgmmaWait as usize] = 640.0;
        assert!(predict(&[launch], 0.0, &limits, &constants).chain > prediction.chain);
    }

    #[test]
    fn what_the_machine_code_says_stands_before_the_constants() {
        let (limits, constants) = (Arch::Sm90a.limits(), Constants::shipped("h200").unwrap());
        let mut launch = launch(1);
        let chain = |launch: &LaunchLoad| predict(std::slice::from_ref(launch), 0.0, &limits, &constants).chain;
        let before = chain(&launch);
        launch.stalls = Stalls::from([(Unit::Mma, 2.0 * constants.stall(Unit::Mma))]);
        assert!((chain(&launch) - 2.0 * before).abs() < 1e-6 * before);
    }
}
