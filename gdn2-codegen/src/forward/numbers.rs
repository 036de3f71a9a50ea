//! Segments in numbers: how many there may be, how many a call gets, the blocks and rows of the launches before the forward kernel's own.

use crate::abi::Extents;
use crate::arch::Arch;
use crate::gpu::standing;
use crate::plan::{Fold, Plan};
use crate::schedule::{Forward, Matrix, Scan, Schedule};
use gdn2_dsl::Rule;

/// Most segments of a sequence.
pub(crate) const MOST: u32 = 16;

/// Values a block of the joining launch serves.
pub(crate) const JOIN_ROWS: u32 = 16;

/// Parts of the sum over A's rows that threads of the joining launch divide among them, where A is a matrix.
pub(crate) const JOIN_PARTS: u32 = 4;

/// The states that segments start from.
pub(crate) const STARTS: &str = "starts";

/// A of the segments between the first and the last.
pub(crate) const MAPS: &str = "maps";

/// Whether there are segments whose A is needed.
pub(crate) fn composes(segments: u32) -> bool {
    segments > 2
}

/// Rows of A^T as it is made and stored: one where nothing is erased, which leaves A diagonal.
pub(crate) fn map_rows(rule: &Rule, plan: &Plan) -> u32 {
    if plan.erase == Fold::Absent { 1 } else { rule.key_dim }
}

/// Blocks of the first launch that make A of a segment and nothing else: on mma.sync those that make B make A as well.
pub(crate) fn map_blocks(rule: &Rule, plan: &Plan, numbers: Forward) -> u32 {
    if composes(numbers.segments) && numbers.matrix == Matrix::Wgmma {
        map_rows(rule, plan).div_ceil(rule.value_dim / numbers.scan.value_split)
    } else {
        0
    }
}

/// Blocks of the first launch that serve a sequence and head.
pub(crate) fn first_blocks(rule: &Rule, plan: &Plan, numbers: Forward) -> u32 {
    let Forward { scan: Scan { value_split, .. }, segments, .. } = numbers;
    (segments - 1) * value_split + segments.saturating_sub(2) * map_blocks(rule, plan, numbers)
}

/// What two more launches take, in times of a chunk: about 6 of its 2.4 microseconds.
const LAUNCHES: u64 = 3;

/// What composing one more map takes, likewise.
const COMPOSITION: u64 = 1;

/// The schedule of a scan and how its blocks come in waves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Division {
    /// The schedule.
    pub(crate) schedule: Schedule,
    chunk: u32,
    segments: u32,
    /// Blocks of a sequence and head: of the launch that makes the maps, of the one that writes outputs.
    blocks: (u32, u32),
    /// Multiprocessors that blocks are dealt to: those of the GPU that stands for the architecture. Others have more or
    /// fewer (RTX 3090 82, L40S 142, H100 PCIe 114, H20 78); there a part of the last wave may be idle.
    multiprocessors: u64,
}

impl Division {
    pub(crate) fn new(rule: &Rule, plan: &Plan, numbers: Forward, schedule: Schedule, arch: Arch) -> Division {
        let Forward { scan: Scan { chunk, value_split, .. }, segments, .. } = numbers;
        let first = if segments > 1 { first_blocks(rule, plan, numbers) } else { 0 };
        let blocks = (first, value_split * segments);
        Division { schedule, chunk, segments, blocks, multiprocessors: u64::from(standing(arch).multiprocessors) }
    }

    /// How long a call takes, in times of a chunk: waves of blocks, each as long as a segment, and what joins them.
    pub(crate) fn chunk_times(&self, extents: Extents) -> u64 {
        let heads = extents.sequences.saturating_mul(extents.value_heads);
        let waves = |blocks: u32| heads.saturating_mul(u64::from(blocks)).div_ceil(self.multiprocessors);
        let tokens = extents.total_tokens.div_ceil(extents.sequences.max(1));
        let chunks = tokens.div_ceil(u64::from(self.chunk)).div_ceil(u64::from(self.segments));
        let joined = if self.segments > 1 { LAUNCHES } else { 0 };
        let composed = u64::from(self.segments.saturating_sub(2)) * COMPOSITION;
        (waves(self.blocks.0) + waves(self.blocks.1)).saturating_mul(chunks) + joined + composed
    }
}
