//! What the numbers of every chunked pass mean: their limits, and what follows from them for a rule.

use crate::abi::{Condition, Extent, Factor, Workspace};
use crate::arch::Arch;
use crate::kernel::Illegal;
use crate::plan::{Fold, Plan};
use crate::schedule::Scan;
use gdn2_dsl::{Dtype, Rule};

/// Value rows one warp holds: the M of mma.m16n8k16.
pub(crate) const WARP_ROWS: u32 = 16;

/// Chunk lengths the device code is written for: whole 16-token blocks, powers of two.
const CHUNKS: [u32; 4] = [16, 32, 64, 128];

/// Registers a thread needs beyond state, accumulators and operands: addresses, fragments, factors.
const OVERHEAD_REGISTERS: u32 = 40;

/// All but shared memory: what every scan over a sequence needs of its numbers.
pub(crate) fn check_numbers(rule: &Rule, scan: Scan, arch: Arch) -> Result<(), Illegal> {
    let limits = arch.limits();
    let Scan { chunk, value_split, warps, stages } = scan;
    if !CHUNKS.contains(&chunk) {
        return Err(Illegal::new("chunk", "16, 32, 64 or 128 tokens", chunk));
    }
    if !(1..=2).contains(&stages) {
        return Err(Illegal::new("stages", "1 or 2 buffers", stages));
    }
    let threads = warps.saturating_mul(32);
    if warps == 0 || threads > limits.threads_per_block {
        return Err(Illegal::new("warps", format!("1 to {} warps", limits.threads_per_block / 32), warps));
    }
    let tiles = rule.value_dim.div_ceil(WARP_ROWS);
    if value_split == 0 || value_split > tiles {
        return Err(Illegal::new("value_split", format!("1 to {tiles} blocks of 16 value rows"), value_split));
    }
    let block_tiles = tiles.div_ceil(value_split);
    if block_tiles * (value_split - 1) >= tiles {
        return Err(Illegal::new("value_split", format!("no block of {tiles} value tiles left empty"), value_split));
    }
    if warps < block_tiles {
        return Err(Illegal::new("warps", format!("at least {block_tiles}, 16 value rows each"), warps));
    }
    check_registers(rule, scan, 1, arch)
}

/// The registers of a scan whose warps hold as many tiles of the state's size as `held` says.
pub(crate) fn check_registers(rule: &Rule, scan: Scan, held: u32, arch: Arch) -> Result<(), Illegal> {
    let (limits, threads) = (arch.limits(), scan.warps.saturating_mul(32));
    let registers = held * (rule.key_dim / 2) + scan.chunk + OVERHEAD_REGISTERS;
    let granted = limits.registers_per_thread.min(limits.registers_per_block / threads / 8 * 8);
    if registers > granted {
        return Err(Illegal::new("registers", format!("{granted} per thread at {threads} threads"), registers));
    }
    Ok(())
}

/// Value tiles of 16 rows each block serves.
pub(crate) fn block_tiles(rule: &Rule, scan: Scan) -> u32 {
    rule.value_dim.div_ceil(WARP_ROWS).div_ceil(scan.value_split)
}

/// Whether Ê needs a tile of its own: it overwrites b only where b is channel-wise and as wide as an operand.
pub(crate) fn own_erase_operand(plan: &Plan) -> bool {
    match plan.erase {
        Fold::Operand => plan.erase_storage == Dtype::F32,
        Fold::Row => plan.decay == Fold::Operand,
        Fold::Absent | Fold::Pair => false,
    }
}

/// Threads that share a channel's prefix sum.
pub(crate) fn decay_threads(rule: &Rule, scan: Scan) -> u32 {
    let most = (scan.warps * 32 / rule.key_dim).clamp(1, scan.chunk / 4);
    1 << most.ilog2()
}

/// The float32 vectors over a chunk's tokens that the token-gate stage fills.
pub(crate) fn token_vectors(plan: &Plan) -> Vec<&'static str> {
    let (pair, row) = (plan.decay == Fold::Pair, plan.erase == Fold::Row);
    let vectors = [
        ("gamma", pair),
        ("decay_in", pair),
        ("decay_out", pair),
        ("beta", row),
        ("erase_in", pair && row),
        ("write", plan.write == Fold::Row && !plan.tied),
    ];
    vectors.into_iter().filter_map(|(name, wanted)| wanted.then_some(name)).collect()
}

/// S as it enters every chunk, kept as operands.
pub(crate) fn states(rule: &Rule, chunk: u32) -> Workspace {
    let tiles = rule.value_dim.div_ceil(WARP_ROWS);
    // The exponent of an f16 tile's unit takes a word.
    let unit = if rule.dtype == Dtype::F16 { 16 } else { 0 };
    let bytes = u64::from(tiles * (WARP_ROWS * rule.key_dim * rule.dtype.bytes() + unit));
    Workspace {
        name: "states".to_owned(),
        bytes: Extent { factors: vec![Factor::Chunks { chunk }, Factor::ValueHeads], times: bytes },
        saved: true,
        when: Condition::Always,
    }
}
