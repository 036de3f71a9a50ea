//! Shared memory of the forward pass on mma.sync, which backward's scans share.

use crate::chunk::numbers::{WARP_ROWS, decay_threads, own_erase_operand, token_vectors};
use crate::gates::{fixed, fixed_bytes};
use crate::plan::{Fold, Plan};
use crate::schedule::Scan;
use crate::shared::{Region, shared_bytes};
use gdn2_dsl::{Dtype, Rule};

/// The map of dynamic shared memory. Every size is a multiple of 16 bytes, so every region is 16-byte aligned.
pub(crate) fn shared_map(rule: &Rule, plan: &Plan, scan: Scan) -> Vec<Region> {
    let Scan { chunk, warps, stages, .. } = scan;
    let (key, operand) = (rule.key_dim, rule.dtype.bytes());
    let channels = |fold: Fold| fold == Fold::Operand;
    let mut map: Vec<Region> = Vec::new();
    let mut place = |wanted: bool, name: &str, bytes: u32| {
        if wanted {
            let offset = shared_bytes(&map);
            map.push(Region { name: name.to_owned(), offset, bytes });
        }
    };
    // Filled by asynchronous copies, one per stage. Q̂, K̄ and Ê overwrite q, k and b; prefix sums overwrite a float32
    // g.
    place(true, "q", stages * chunk * key * operand);
    place(true, "k", stages * chunk * key * operand);
    place(channels(plan.erase), "b", stages * chunk * key * plan.erase_storage.bytes());
    place(channels(plan.decay), "g", stages * chunk * key * plan.decay_storage.bytes());
    place(channels(plan.decay) && plan.decay_storage != Dtype::F32, "sums", chunk * key * 4);
    // Each warp's own slice of v and w.
    place(true, "v", warps * chunk * WARP_ROWS * operand);
    place(channels(plan.write), "w", warps * chunk * WARP_ROWS * plan.write_storage.bytes());
    // Ê where b leaves no room for it.
    place(own_erase_operand(plan), "e", chunk * key * operand);
    place(true, "p", chunk * chunk * operand);
    place(plan.erase != Fold::Absent, "m", chunk * chunk * operand);
    place(plan.erase != Fold::Absent, "l", chunk * chunk * 4);
    for name in token_vectors(plan) {
        place(true, name, chunk * 4);
    }
    place(channels(plan.decay), "totals", decay_threads(rule, scan) * key * 4);
    place(channels(plan.decay), "state_decay", key * 4);
    for part in fixed(rule, plan) {
        place(true, &part.name, fixed_bytes(rule, &part));
    }
    map
}
