//! The forward pass on warpgroup products (wgmma): its limits, its registers, its shared memory.
//!
//! One kernel, no workspace. A block's first warpgroup makes the factors of a chunk while later ones advance the state
//! by the chunk before; the second copies what the chunk after needs. Chunks pass through a ring of `stages`.

use super::numbers::MOST;
use crate::arch::Arch;
use crate::chunk::numbers::{WARP_ROWS, own_erase_operand};
use crate::gates::{fixed, fixed_bytes, shared_logits};
use crate::kernel::Illegal;
use crate::pass::Pass;
use crate::plan::{Fold, Plan};
use crate::schedule::{Forward, Scan};
use crate::shared::{Region, shared_bytes};
use gdn2_dsl::Rule;
use gdn2_dsl::prologue::GateOf;

/// Warps of a warpgroup.
pub(crate) const GROUP: u32 = 4;

/// Warps before those that hold the state: one warpgroup for factors, one for copies.
pub(crate) const STATE_WARP: u32 = 2 * GROUP;

/// Value rows of a warpgroup: the M of wgmma.
const ROWS: u32 = 64;

/// Chunk lengths whose accumulators fit beside the state.
const CHUNKS: [u32; 3] = [16, 32, 64];

/// Chunk length beyond which, where a product is as wide as can be, the assembler of CUDA 13.0 finds no registers to keep
/// products under way and waits for each.
const CHUNK_AT_WIDEST: u32 = 16;

/// Registers a state thread needs beyond the state, its rounded copy and two accumulators over a chunk.
const OVERHEAD_REGISTERS: u32 = 44;

/// Registers per thread that the factor warpgroup gets at least.
const FACTOR_REGISTERS: u32 = 104;

/// The same where channels decay: 72 sums, 20 operands that count tokens, and a step's own.
const SCAN_REGISTERS: u32 = 152;

/// Registers a state thread needs there beyond the state, its rounded copy, an accumulator over a chunk and, rounded, what
/// the chunk writes.
const SCAN_OVERHEAD_REGISTERS: u32 = 24;

/// Registers a thread needs that holds the state's gradient, beyond that, its rounded copy, its sums over a chunk and dO.
const REVERSE_OVERHEAD_REGISTERS: u32 = 24;

/// Registers a product takes beside its sums, all of which a thread must have as it is launched.
const PRODUCT_REGISTERS: u32 = 30;

/// In how many parts the operand of S is made at most: each is a group of products on the way from chunk to chunk.
const PARTS: u32 = 3;

/// Bytes of a block's keys, 16 tokens and channels, as warps pass them on: 16-bit numbers.
pub(crate) const BLOCK_KEYS: u32 = 16 * 16 * 2;

/// Bytes of a block's decays over 16 channels, float32.
pub(crate) const BLOCK_DECAYS: u32 = 16 * 4;

/// What a swizzled tile starts on a multiple of, bytes.
pub(crate) const ALIGNMENT: u32 = 1024;

/// The same of a tile that no product reads: its longest run of a row.
const VALUE_ROW: u32 = 128;

/// Registers per thread, by what a warpgroup does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registers {
    /// What every thread starts with.
    pub(crate) launch: u32,
    /// Copies.
    pub(crate) load: u32,
    /// Factors.
    pub(crate) factors: u32,
    /// State.
    pub(crate) state: u32,
}

/// Threads of a block.
pub(crate) fn threads(scan: Scan) -> u32 {
    scan.warps.saturating_add(STATE_WARP).saturating_mul(32)
}

/// How the block's registers are dealt out: to the state as much as it can take, the rest to the factors.
pub(crate) fn registers(plan: &Plan, scan: Scan, arch: Arch) -> Option<Registers> {
    let limits = arch.limits();
    let wgmma = limits.wgmma?;
    let (groups, step) = (scan.warps / GROUP, wgmma.setmaxnreg_step);
    let most = wgmma.setmaxnreg_max.min(limits.registers_per_thread) / step * step;
    let launch = most.min(limits.registers_per_block / threads(scan) / step * step);
    let load = wgmma.setmaxnreg_min;
    let shared = (launch * (groups + 2)).checked_sub(load)?;
    let least = if plan.decay == Fold::Operand { SCAN_REGISTERS } else { FACTOR_REGISTERS };
    let state = (shared.checked_sub(least)? / groups.max(1) / step * step).min(most);
    let factors = (shared - groups * state).min(most) / step * step;
    Some(Registers { launch, load, factors, state })
}

/// Steps of 16 channels in each part of S's operand but the last, which takes what is left.
pub(crate) fn part_steps(rule: &Rule, parts: u32) -> u32 {
    (rule.key_dim / 16).div_ceil(parts)
}

/// Registers of a state thread that makes its operand of S in `parts`: S, the operand, two accumulators over a chunk.
/// Where channels decay queries read S only when what the chunk writes is known, and one accumulator serves both.
fn wanted(rule: &Rule, plan: &Plan, scan: Scan, parts: u32) -> u32 {
    let held = rule.key_dim / 2 + part_steps(rule, parts) * 4;
    if plan.pass == Pass::Backward {
        // Beside them dO, rounded, and a sum that lacks a factor per token.
        let sums = if plan.decay == Fold::Pair { scan.chunk } else { scan.chunk / 2 };
        held + sums + scan.chunk / 4 + REVERSE_OVERHEAD_REGISTERS
    } else if plan.decay == Fold::Operand {
        held + scan.chunk / 2 + scan.chunk / 4 + SCAN_OVERHEAD_REGISTERS
    } else {
        held + scan.chunk + OVERHEAD_REGISTERS
    }
}

/// In how many parts the operand of S is made: as few as the registers allow.
pub(crate) fn parts(rule: &Rule, plan: &Plan, scan: Scan, arch: Arch) -> u32 {
    let granted = registers(plan, scan, arch).map_or(0, |registers| registers.state);
    (1..PARTS).find(|&parts| wanted(rule, plan, scan, parts) <= granted).unwrap_or(PARTS)
}

pub(crate) fn check(rule: &Rule, plan: &Plan, numbers: Forward, arch: Arch) -> Result<(), Illegal> {
    let limits = arch.limits();
    let Some(wgmma) = limits.wgmma else {
        return Err(Illegal::new("matrix", format!("mma: {arch} has no wgmma"), "wgmma"));
    };
    if let Some(gate) = GateOf::ALL.into_iter().find(|gate| shares_logits(rule, plan, *gate)) {
        let limit = format!("mma where `{}` along channels needs the logit of a `let`", gate.tensor());
        return Err(Illegal::new("matrix", limit, "wgmma"));
    }
    let Forward { scan, segments, .. } = numbers;
    let Scan { chunk, value_split, warps, stages } = scan;
    if !CHUNKS.contains(&chunk) {
        return Err(Illegal::new("chunk", "16, 32 or 64 tokens with wgmma", chunk));
    }
    if !(1..=2).contains(&stages) {
        return Err(Illegal::new("stages", "1 or 2 buffers", stages));
    }
    if !(1..=MOST).contains(&segments) {
        return Err(Illegal::new("segments", format!("1 to {} parts of a sequence", MOST), segments));
    }
    if !rule.value_dim.is_multiple_of(ROWS) {
        return Err(Illegal::new("value_dim", format!("a multiple of {ROWS} with wgmma"), rule.value_dim));
    }
    let groups = rule.value_dim / ROWS;
    if value_split == 0 || !groups.is_multiple_of(value_split) {
        return Err(Illegal::new("value_split", format!("a divisor of {groups} blocks of {ROWS} rows"), value_split));
    }
    if warps != groups / value_split * GROUP {
        let limit = format!("{}, {GROUP} to {ROWS} value rows", groups / value_split * GROUP);
        return Err(Illegal::new("warps", limit, warps));
    }
    if threads(scan) > limits.threads_per_block {
        let limit = format!("at most {} beside {STATE_WARP} others", limits.threads_per_block / 32 - STATE_WARP);
        return Err(Illegal::new("warps", limit, warps));
    }
    if rule.key_dim > wgmma.n_max {
        return Err(Illegal::new("key_dim", format!("{} with wgmma", wgmma.n_max), rule.key_dim));
    }
    let (widest, launch) =
        (rule.key_dim / 2 + PRODUCT_REGISTERS, registers(plan, scan, arch).map_or(0, |registers| registers.launch));
    if widest > launch {
        return Err(Illegal::new("registers", format!("{launch} per thread as launched with {warps} warps"), widest));
    }
    let wanted = wanted(rule, plan, scan, parts(rule, plan, scan, arch));
    let granted = registers(plan, scan, arch).map_or(0, |registers| registers.state);
    if wanted > granted {
        return Err(Illegal::new("registers", format!("{granted} per state thread at {warps} warps"), wanted));
    }
    if rule.key_dim == wgmma.n_max && chunk > CHUNK_AT_WIDEST {
        return Err(Illegal::new("chunk", format!("{CHUNK_AT_WIDEST} tokens at key_dim {}", rule.key_dim), chunk));
    }
    let (shared, limit) = (shared_bytes(&shared_map(rule, plan, scan)), limits.shared_per_block);
    if shared > limit {
        return Err(Illegal::new("shared memory", format!("{limit} bytes on {arch}"), shared));
    }
    Ok(())
}

/// Whether a gate along channels is computed from logits that are no tile of its own.
pub(crate) fn shares_logits(rule: &Rule, plan: &Plan, gate: GateOf) -> bool {
    let computed = plan.computes(gate).filter(|_| plan.fold(gate) == Fold::Operand);
    let formula = computed.and_then(|_| rule.prologue.gate(gate));
    formula.is_some_and(|formula| !shared_logits(rule, formula).is_empty())
}

/// Whether P and M take the place of a channel-wise decay that is spent once operands are scaled.
pub(crate) fn factors_over_decay(rule: &Rule, plan: &Plan, scan: Scan) -> bool {
    plan.decay == Fold::Operand && rule.key_dim * plan.decay_storage.bytes() >= 2 * scan.chunk * rule.dtype.bytes()
}

/// The float32 vectors over tokens that a stage of the ring holds: what follows from gates with one number per token.
pub(crate) fn token_vectors(plan: &Plan) -> Vec<&'static str> {
    let (pair, row) = (plan.decay == Fold::Pair, plan.erase == Fold::Row);
    let (erases, queries) = (plan.erase != Fold::Absent, plan.scores_queries());
    let vectors = [
        ("gamma", pair && (erases || queries)),
        ("query", pair && queries),
        ("decay_out", pair),
        ("beta", row),
        ("residual", row || (erases && pair)),
        ("write", plan.write == Fold::Row && !plan.tied),
    ];
    vectors.into_iter().filter_map(|(name, wanted)| wanted.then_some(name)).collect()
}

/// The map of dynamic shared memory.
pub(crate) fn shared_map(rule: &Rule, plan: &Plan, scan: Scan) -> Vec<Region> {
    let Scan { chunk, warps, stages, .. } = scan;
    let (key, operand, values) = (rule.key_dim, rule.dtype.bytes(), warps * WARP_ROWS);
    let channels = |fold: Fold| fold == Fold::Operand;
    let own_factors = !factors_over_decay(rule, plan, scan);
    let mut map: Vec<Region> = Vec::new();
    let mut place = |wanted: bool, name: &str, bytes: u32, alignment: u32| {
        if wanted {
            let offset = shared_bytes(&map).next_multiple_of(alignment);
            map.push(Region { name: name.to_owned(), offset, bytes });
        }
    };
    // A stage each. Q̂, K̄ and Ê overwrite q, k and b, P and M g.
    place(plan.scores_queries(), "q", stages * chunk * key * operand, ALIGNMENT);
    place(true, "k", stages * chunk * key * operand, ALIGNMENT);
    place(channels(plan.erase), "b", stages * chunk * key * plan.erase_storage.bytes(), ALIGNMENT);
    place(channels(plan.decay), "g", stages * chunk * key * plan.decay_storage.bytes(), ALIGNMENT);
    place(own_erase_operand(plan), "e", stages * chunk * key * operand, ALIGNMENT);
    place(own_factors && plan.scores_queries(), "p", stages * chunk * chunk * operand, ALIGNMENT);
    place(own_factors && plan.erase != Fold::Absent, "m", stages * chunk * chunk * operand, ALIGNMENT);
    // One chunk's, of the block's values.
    place(true, "v_tile", chunk * values * operand, VALUE_ROW);
    place(channels(plan.write), "w_tile", chunk * values * plan.write_storage.bytes(), VALUE_ROW);
    // Each state warp's own.
    place(plan.writes_outputs(), "out", warps * 16 * WARP_ROWS * operand * (chunk / 16).min(2), 16);
    for name in token_vectors(plan) {
        place(true, name, stages * chunk * 4, 16);
    }
    place(channels(plan.decay), "chunk_decay", stages * key * 4, 16);
    place(plan.decay == Fold::Pair, "chunk_decay", stages * 16, 16);
    // The factor warpgroup's own.
    let blocks = chunk / 16;
    let passes = channels(plan.decay) && blocks > 1;
    place(passes, "passed_keys", 2 * blocks * BLOCK_KEYS, 16);
    place(passes, "passed_decays", 2 * blocks * BLOCK_DECAYS, 16);
    // How many tokens a chunk has, where decays are made of logits.
    place(
        channels(plan.decay) && plan.computes(GateOf::Decay).is_some(),
        "exist",
        (stages * 4).next_multiple_of(16),
        16,
    );
    for part in fixed(rule, plan) {
        place(true, &part.name, fixed_bytes(rule, &part), 16);
    }
    for name in ["full", "ready", "empty"] {
        place(true, name, stages * 8, 8);
    }
    for name in ["values", "values_read"] {
        place(true, name, 8, 8);
    }
    map
}
