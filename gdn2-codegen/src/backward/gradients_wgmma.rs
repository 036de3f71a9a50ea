//! The gradient launch on warpgroup products: its limits and its shared memory.
//!
//! Rules that compute gates or normalise rows are served alike: tiles change before anything else looks at them.
//!
//! A block serves one chunk and value head, as on mma.sync, with two warpgroups. Where the decay, if any, is one number per
//! token it takes half of a multiprocessor's registers and shared memory, so that one block's products run beside what another
//! waits for.
//!
//! Where every channel decays at its own rate the block has the multiprocessor to itself: 255 registers a thread and, at
//! K = V = 128 with decays in bfloat16, 213,760 bytes. Sums along K have channels as rows, 16 to a warp, and all 64 tokens as
//! columns: dq, de and dk are 96 registers. In that layout a decay is a factor of a register operand, and what passes a block
//! of 16 tokens loses one number to a channel: blocks are taken in order, each scaling what is there by its decay before it
//! adds its own, so that states and pairs of blocks are products of wgmma and no exponent is ever above 0. Pairs within a block
//! meet in the smallest group of 2, 4, 8 or 16 tokens that holds both, as in the scores, three products of mma.sync to a level.
//! Factors are products of single tokens' decays, each at most 1. The scores are made by both warpgroups, half of the channels
//! each.

use crate::abi::Tensor;
use crate::arch::Arch;
use crate::chunk::numbers::WARP_ROWS;
use crate::forward::wgmma::{BLOCK_DECAYS, BLOCK_KEYS, shares_logits, token_vectors};
use crate::gates::{fixed, fixed_bytes};
use crate::kernel::Illegal;
use crate::plan::{Fold, Plan};
use crate::print::computed::leaves_tile;
use crate::schedule::Backward;
use crate::shared::Region;
use gdn2_dsl::prologue::GateOf;
use gdn2_dsl::{Dtype, Rule};

use super::map::Map;

/// Warps of a block.
const WARPS: u32 = 8;

/// Tokens of a chunk: the rows of a product.
const CHUNK: u32 = 64;

/// Dims that two warpgroups divide by 64 channels or value rows.
const DIMS: [u32; 2] = [64, 128];

/// Whether every channel decays at its own rate, which is a kernel of its own.
pub(super) fn by_channel(plan: &Plan) -> bool {
    plan.decay == Fold::Operand
}

/// The plan of that kernel: a computed decay lies in its tile in float32.
pub(super) fn channel_plan(plan: &Plan) -> Plan {
    plan.with_wide(GateOf::Decay)
}

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
    let channels = by_channel(plan);
    if let Some(gate) = GateOf::ALL.into_iter().find(|gate| shares_logits(rule, plan, *gate)) {
        return refused(format!("mma where `{}` along channels needs the logit of a `let`", gate.tensor()));
    }
    for (gate, fold) in [("erase", plan.erase), ("write", plan.write)] {
        if fold == Fold::Operand && !channels {
            return refused(format!("mma for a channel-wise {gate} gate beside a decay that is not"));
        }
    }
    if plan.write == Fold::Operand && plan.computes(GateOf::Write).is_none() && plan.write_storage != rule.dtype {
        return refused(format!("mma for a channel-wise write gate stored as {}", plan.write_storage));
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

/// Whether rows of dq and dk go back through their norms as they are made, where no heads share them.
pub(super) fn pulls_back(rule: &Rule) -> bool {
    rule.prologue.normalises_q() && rule.prologue.normalises_k()
}

/// What rows are scaled by that is kept: to go back through norms, and for queries that are copied once more.
pub(super) fn kept_norms(rule: &Rule, plan: &Plan) -> Vec<&'static str> {
    let queries = rule.prologue.normalises_q() && (pulls_back(rule) || !by_channel(plan));
    let kept = [(Tensor::Q, queries), (Tensor::K, pulls_back(rule))];
    kept.into_iter().filter_map(|(tensor, kept)| kept.then_some(norm_name(tensor))).collect()
}

/// Where what a tensor's rows are scaled by lies.
pub(super) fn norm_name(tensor: Tensor) -> &'static str {
    if tensor == Tensor::Q { "q_norm" } else { "k_norm" }
}

/// Bytes of the tiles in the rule's dtype: tokens by channels, by value rows and by tokens, and a state.
struct Bytes {
    keys: u32,
    values: u32,
    pairs: u32,
    kept: u32,
}

impl Bytes {
    fn of(rule: &Rule) -> Bytes {
        let (key, value, operand) = (rule.key_dim, rule.value_dim, rule.dtype.bytes());
        let tokens = CHUNK * operand;
        Bytes { keys: tokens * key, values: tokens * value, pairs: tokens * CHUNK, kept: value * key * operand }
    }
}

fn when(wanted: bool, bytes: u32) -> u32 {
    if wanted { bytes } else { 0 }
}

/// The map of dynamic shared memory.
pub(super) fn shared_map(rule: &Rule, plan: &Plan) -> Vec<Region> {
    if by_channel(plan) { channel_map(rule, &channel_plan(plan)) } else { token_map(rule, plan) }
}

/// Where every channel decays at its own rate. dP and dL follow scaled keys, dO what is erased, S and dS what warpgroups hand
/// each other of scores, dR what warps pass on as they make them.
fn channel_map(rule: &Rule, plan: &Plan) -> Vec<Region> {
    let (key, value) = (rule.key_dim, rule.value_dim);
    let erases = plan.erase != Fold::Absent;
    let Bytes { keys, values, pairs, kept } = Bytes::of(rule);
    let mut map = Map::default();
    map.place("q", keys);
    map.place("k", keys);
    map.place("g", CHUNK * key * plan.decay_storage.bytes());
    map.place("b", when(plan.erase == Fold::Operand, CHUNK * key * plan.erase_storage.bytes()));
    map.place("n", values);
    map.share(&[vec![("scaled_k", keys)], vec![("dp", pairs), ("dl", when(erases, pairs))]]);
    map.share(&[vec![("e", when(erases, keys))], vec![("do", values)]]);
    map.place("p", pairs);
    map.place("m", when(erases, pairs));
    let blocks = CHUNK / 16;
    // What lanes of one warpgroup have of scores for those of the other: of P and of L, float32.
    let of_l = 4 + (blocks - 1) * 8;
    map.share(&[vec![("s", kept), ("ds", kept)], vec![("handed", (of_l + 8 + when(erases, of_l)) * CHUNK * 2 * 4)]]);
    let passed = vec![("passed_keys", 4 * blocks * BLOCK_KEYS), ("passed_decays", 4 * blocks * BLOCK_DECAYS)];
    map.share(&[vec![("dr", when(erases, values))], passed]);
    for name in token_vectors(plan) {
        map.place(name, CHUNK * 4);
    }
    map.place("chunk_decay", key * 4);
    map.place("diagonal", CHUNK * 4);
    map.place("erase_rows", when(plan.erase == Fold::Row, key / WARP_ROWS * CHUNK * 4));
    map.place("value_rows", when(plan.write == Fold::Row, value / WARP_ROWS * CHUNK * 4));
    map.place("db_rows", when(leaves_tile(plan), 32));
    place_computed(&mut map, rule, plan);
    map.closed()
}

/// Norms of rows, and parts of formulas that are the same for all tokens.
fn place_computed(map: &mut Map, rule: &Rule, plan: &Plan) {
    for name in kept_norms(rule, plan) {
        map.place(name, CHUNK * 4);
    }
    for part in fixed(rule, plan) {
        map.place(&part.name, fixed_bytes(rule, &part));
    }
}

/// Where it is one number per token, or none. Lives that do not meet share bytes: q, which is copied a second time, P and M
/// with S; dO and dR with dS.
fn token_map(rule: &Rule, plan: &Plan) -> Vec<Region> {
    let (key, value) = (rule.key_dim, rule.value_dim);
    let erases = plan.erase != Fold::Absent;
    let Bytes { keys, values, pairs, kept } = Bytes::of(rule);
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
    for name in ["q_along", "k_along"] {
        map.place(name, when(pulls_back(rule), key / 64 * CHUNK * 4));
    }
    place_computed(&mut map, rule, plan);
    map.closed()
}
