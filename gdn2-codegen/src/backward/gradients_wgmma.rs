//! The gradient launch on warpgroup products: its limits and its shared memory.
//!
//! A block serves one chunk and value head, as on mma.sync, with two warpgroups. It takes half of a multiprocessor's registers
//! and shared memory, so that one block's products run beside what another waits for.

use crate::arch::Arch;
use crate::chunk::numbers::WARP_ROWS;
use crate::forward::wgmma::token_vectors;
use crate::kernel::Illegal;
use crate::plan::{Fold, Plan};
use crate::schedule::Backward;
use crate::shared::Region;
use gdn2_dsl::{Dtype, Rule};

use super::map::Map;

/// Warps of a block.
const WARPS: u32 = 8;

/// Tokens of a chunk: the rows of a product.
const CHUNK: u32 = 64;

/// Dims that two warpgroups divide by 64 channels or value rows.
const DIMS: [u32; 2] = [64, 128];

/// Warps whose sums over pairs give a decay its gradient: those of dP, and of dL.
fn pair_warps(plan: &Plan) -> u32 {
    if plan.erase == Fold::Absent { WARPS / 2 } else { WARPS }
}

/// Rows of partial sums of a decay's gradient: one to a warp that has pairs, one to a warpgroup.
pub(super) fn decay_parts(plan: &Plan) -> u32 {
    pair_warps(plan) + 2
}

pub(super) fn check(rule: &Rule, plan: &Plan, numbers: Backward, arch: Arch) -> Result<(), Illegal> {
    let refused = |limit: String| Err(Illegal::new("gradients", limit, "wgmma"));
    if arch.limits().wgmma.is_none() {
        return refused(format!("mma: {arch} has no wgmma"));
    }
    if rule.dtype != Dtype::Bf16 {
        return refused("mma for f16, whose states are kept in units of their own".to_owned());
    }
    if !rule.prologue.is_empty() {
        return refused("mma where a rule computes gates or rows itself".to_owned());
    }
    for (gate, fold) in [("decay", plan.decay), ("erase", plan.erase), ("write", plan.write)] {
        if fold == Fold::Operand {
            return refused(format!("mma for a channel-wise {gate} gate"));
        }
    }
    for (name, dim) in [("key_dim", rule.key_dim), ("value_dim", rule.value_dim)] {
        if !DIMS.contains(&dim) {
            return refused(format!("mma for {name} {dim}: wgmma takes 64 and 128"));
        }
    }
    if numbers.scan.chunk != CHUNK {
        return Err(Illegal::new("chunk", format!("{CHUNK} tokens with gradients on wgmma"), numbers.scan.chunk));
    }
    let tiles = rule.value_dim.div_ceil(WARP_ROWS);
    if numbers.value_tiles != tiles {
        return Err(Illegal::new("value_tiles", format!("{tiles}, all, with gradients on wgmma"), numbers.value_tiles));
    }
    if numbers.gradient_warps != WARPS {
        let limit = format!("{WARPS} warps with gradients on wgmma");
        return Err(Illegal::new("gradient_warps", limit, numbers.gradient_warps));
    }
    Ok(())
}

/// The map of dynamic shared memory. Lives that do not meet share bytes: q, which is copied a second time, P and M with S; dO
/// and dR with dS.
pub(super) fn shared_map(rule: &Rule, plan: &Plan) -> Vec<Region> {
    let (key, value, operand) = (rule.key_dim, rule.value_dim, rule.dtype.bytes());
    let erases = plan.erase != Fold::Absent;
    let when = |wanted: bool, bytes: u32| if wanted { bytes } else { 0 };
    let (keys, values, pairs, kept) =
        (CHUNK * key * operand, CHUNK * value * operand, CHUNK * CHUNK * operand, value * key * operand);
    let mut map = Map::default();
    map.place("k", keys);
    map.place("n", values);
    map.place("gated", when(erases, pairs));
    map.share(&[vec![("q", keys), ("p", pairs), ("m", when(erases, pairs))], vec![("s", kept)]]);
    map.share(&[vec![("do", values), ("dr", when(erases, values))], vec![("ds", kept)]]);
    for name in token_vectors(plan) {
        map.place(name, CHUNK * 4);
    }
    let pair_decay = plan.decay == Fold::Pair;
    map.place("chunk_decay", when(pair_decay, 16));
    map.place("decay_rows", when(pair_decay, decay_parts(plan) * CHUNK * 4));
    map.place("decay_tail", when(pair_decay, WARPS * 4));
    map.place("erase_rows", when(plan.erase == Fold::Row, key / 64 * CHUNK * 4));
    map.place("value_rows", when(plan.write == Fold::Row, value / WARP_ROWS * CHUNK * 4));
    map.closed()
}
