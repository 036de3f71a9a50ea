//! What a finished run tells.

pub(crate) mod finding;
pub(crate) mod place;
pub(crate) mod trap;

use crate::report::finding::Finding;
use crate::report::place::SourceLine;
use serde::Serialize;

/// A finished run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Warp instructions executed.
    pub instructions: u64,
    /// Present when the launch asked to `count`.
    pub counters: Option<Counters>,
    /// What the full checks found; empty without them.
    pub findings: Vec<Finding>,
    /// How many more there are than can be told.
    pub left_out: u64,
    /// What the kernel printed, block after block.
    pub printed: String,
}

/// Totals over the grid, and the same per PTX instruction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// 32-byte sectors of global memory touched by reads, per warp request, no cache assumed.
    pub global_read_sectors: u64,
    /// The same for writes; an atomic counts as both.
    pub global_write_sectors: u64,
    /// 32-byte sectors of the buffers that the launch reads at least once, each counted once for the whole grid.
    pub distinct_read_sectors: u64,
    /// The same of those it writes; an atomic counts as both.
    pub distinct_write_sectors: u64,
    /// Bytes of global memory asked for by reads.
    pub global_read_bytes: u64,
    /// Bytes of global memory written.
    pub global_write_bytes: u64,
    /// Passes over the 32 shared-memory banks.
    pub shared_wavefronts: u64,
    /// Passes if there were no bank conflicts.
    pub shared_ideal_wavefronts: u64,
    /// Every PTX instruction that ran at least once, in order of the text.
    pub instructions: Vec<InstructionCount>,
}

/// What one PTX instruction did over the whole grid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InstructionCount {
    /// Line of the PTX text, from 1.
    pub ptx_line: u32,
    /// The instruction as written.
    pub instruction: String,
    /// CUDA source line, where the PTX has `.loc` lines.
    pub source: Option<SourceLine>,
    /// Of a function that the compiler wrote out in its caller: the line of the call, then that of the caller's own, and so
    /// on up to the kernel's body.
    pub called_from: Vec<SourceLine>,
    /// What kind of work it is.
    pub class: Class,
    /// Times a warp executed it.
    pub executed: u64,
    /// Those times with fewer than all 32 lanes.
    pub partial: u64,
    /// Products and sums (a multiply-add counts once) over all those times; 0 unless it is a matrix operation.
    pub matrix_fmas: u64,
    /// Times it lies on its block's longest path, the blocks' paths added up: the chain of instructions that, through
    /// one warp after another and handed on at block barriers and mbarriers, is longest. Of the turns of a wait that
    /// asks an mbarrier again and again, one counts; a warpgroup's product counts for its length.
    pub longest: u64,
    /// Lanes active over all those times.
    pub lanes: u64,
    /// 32-byte sectors read.
    pub global_read_sectors: u64,
    /// 32-byte sectors written.
    pub global_write_sectors: u64,
    /// Bytes of global memory asked for.
    pub global_read_bytes: u64,
    /// Bytes of global memory written.
    pub global_write_bytes: u64,
    /// Passes over the shared-memory banks.
    pub shared_wavefronts: u64,
    /// Passes without conflicts.
    pub shared_ideal_wavefronts: u64,
}

/// Kinds of instructions, by the unit that does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Integer and logic, comparisons and moves.
    Integer,
    /// Floating point.
    Float,
    /// Conversions between types.
    Convert,
    /// Special functions: exponentials, logarithms, reciprocals, roots.
    Special,
    /// Matrix products.
    Matrix,
    /// Loads and stores of shared memory.
    Shared,
    /// Loads and stores of device memory.
    Global,
    /// Other memory: parameters, constants, local.
    Local,
    /// Asynchronous copies.
    Copy,
    /// Exchange between lanes.
    Exchange,
    /// Barriers, waits and fences.
    Wait,
    /// Branches and exits.
    Branch,
}
