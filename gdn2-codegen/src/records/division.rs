//! The ways to divide a kernel's work among blocks, and how long a call takes with each: which grid a call gets from a record
//! that is not its own.

use crate::abi::Extents;
use crate::arch::Arch;
use crate::backward;
use crate::forward;
use crate::forward::numbers::{JOIN_ROWS, composes, first_blocks};
use crate::gpu::standing;
use crate::pass::Pass;
use crate::plan::{self, Fold, Plan};
use crate::schedule::space::SPLITS;
use crate::schedule::{Backward, Forward, Matrix, Scan, Schedule};
use gdn2_dsl::Rule;

/// What a call takes in hundredths of the time in which a block that serves all values takes one chunk of GDN: what begins and ends a
/// kernel, two launches more, a third that joins maps, and in it a map for each wave of its blocks. Rounded from what the clock
/// says of GDN's forward pass on an H200 (`gdn2-tune/tests/times`), where such a chunk takes 3.05 microseconds.
const WHOLE: u64 = 170;
const LAUNCHES: u64 = 200;
const JOIN: u64 = 80;
const COMPOSITION: u64 = 100;
/// A chunk of a launch that makes maps, which writes no outputs.
const MAPS: u64 = 75;
/// What a block does for a chunk whatever values it serves; the rest is shared among the blocks of a head. Two blocks take 0.80
/// to 0.84 of the time of one, of GDN and of KDA.
const FACTORS: u64 = 60;
/// A chunk of one decay for all channels and of one for each, where a block serves all values, in hundredths of GDN's on an
/// H200: GDN's and KDA's take 3.05 and 6.6 microseconds there, and 9.1 and 16.3 on an A100's mma.sync, where shorter chunks
/// take less in proportion.
const ON_WGMMA: [u64; 2] = [100, 215];
const ON_MMA: [u64; 2] = [300, 535];

/// The grids of a kernel that leaves sequences whole, its own first: segments of a sequence, and slices of values on wgmma,
/// where a block has a multiprocessor to itself. `counts` are those of segments, 1 first. The forward pass of a training step is
/// divided as its backward pass is.
pub(crate) fn divisions(rule: &Rule, pass: Pass, schedule: Schedule, arch: Arch, counts: &[u32]) -> Vec<Division> {
    let plan = plan::plan(rule, pass);
    let division = |scan: Forward, own: Schedule| Division::new(rule, &plan, scan, own, arch);
    match (pass, schedule) {
        (Pass::Forward, Schedule::Forward(whole)) => {
            let legal = |scan: &Forward| *scan == whole || forward::check(rule, &plan, *scan, arch).is_ok();
            let all = grids(whole, counts).into_iter().filter(legal);
            all.map(|scan| division(scan, Schedule::Forward(scan))).collect()
        }
        (Pass::Backward, Schedule::Backward(whole)) => {
            let all = counts.iter().map(|segments| Backward { segments: *segments, ..whole });
            let legal = |own: &Backward| *own == whole || backward::check(rule, &plan, *own, arch).is_ok();
            all.filter(legal).map(|own| division(own.scan(), Schedule::Backward(own))).collect()
        }
        _ => Vec::new(),
    }
}

fn grids(whole: Forward, counts: &[u32]) -> Vec<Forward> {
    let Scan { value_split, warps, .. } = whole.scan;
    let others = SPLITS.into_iter().filter(|split| {
        *split != value_split && whole.matrix == Matrix::Wgmma && (warps * value_split).is_multiple_of(*split)
    });
    let of = |split: u32| {
        let scan = Scan { value_split: split, warps: warps * value_split / split, ..whole.scan };
        counts.iter().map(move |segments| Forward { scan, segments: *segments, ..whole })
    };
    [value_split].into_iter().chain(others).flat_map(of).collect()
}

/// A grid and how its blocks come in waves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Division {
    /// The schedule.
    pub(crate) schedule: Schedule,
    chunk: u32,
    segments: u32,
    /// A block's time for a chunk, in hundredths of that of GDN's block that serves all values.
    chunk_time: u64,
    /// Blocks of a sequence and head: of the launch that makes the maps, of the one that joins them, of the one that writes
    /// outputs.
    blocks: [u32; 3],
    /// Multiprocessors that blocks are dealt to: those of the GPU that stands for the architecture. Others have more or
    /// fewer (RTX 3090 82, L40S 142, H100 PCIe 114, H20 78); there a part of the last wave may be idle.
    multiprocessors: u64,
}

impl Division {
    fn new(rule: &Rule, plan: &Plan, numbers: Forward, schedule: Schedule, arch: Arch) -> Division {
        let Forward { scan: Scan { chunk, value_split, .. }, segments, .. } = numbers;
        let [scalar, channels] = match numbers.matrix {
            Matrix::Wgmma => ON_WGMMA,
            Matrix::Mma => ON_MMA.map(|time| time * u64::from(chunk) / 64),
        };
        let whole = if plan.decay == Fold::Operand { channels } else { scalar };
        let first = if segments > 1 { first_blocks(rule, plan, numbers) } else { 0 };
        Division {
            schedule,
            chunk,
            segments,
            chunk_time: whole * (FACTORS + (100 - FACTORS) / u64::from(value_split.max(1))) / 100,
            blocks: [first, rule.value_dim / JOIN_ROWS, value_split * segments],
            multiprocessors: u64::from(standing(arch).multiprocessors),
        }
    }

    /// How long a call takes: waves of blocks, each as long as a segment, and what joins them.
    pub(crate) fn time(&self, extents: Extents) -> u64 {
        let heads = extents.sequences.saturating_mul(extents.value_heads);
        let [first, join, last] =
            self.blocks.map(|blocks| heads.saturating_mul(u64::from(blocks)).div_ceil(self.multiprocessors));
        let tokens = extents.total_tokens.div_ceil(extents.sequences.max(1));
        let chunks = tokens.div_ceil(u64::from(self.chunk)).div_ceil(u64::from(self.segments));
        let waves = first.saturating_mul(MAPS).saturating_add(last.saturating_mul(100));
        let launches = if self.segments > 1 { LAUNCHES } else { 0 };
        let maps = u64::from(self.segments.saturating_sub(2));
        let joined = if composes(self.segments) { JOIN + join.saturating_mul(maps * COMPOSITION) } else { 0 };
        let scans = waves.saturating_mul(chunks).saturating_mul(self.chunk_time) / 100;
        WHOLE.saturating_add(scans).saturating_add(launches).saturating_add(joined)
    }
}
