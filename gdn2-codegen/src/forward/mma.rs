//! Shared memory of the forward pass on mma.sync, which backward's scans share, and what its segments ask for.

use super::numbers::{MOST, composes, map_rows};
use crate::arch::Arch;
use crate::chunk::numbers::{
    WARP_ROWS, check_numbers, check_registers, decay_threads, own_erase_operand, token_vectors,
};
use crate::gates::{fixed, fixed_bytes};
use crate::kernel::Illegal;
use crate::plan::{Fold, Plan};
use crate::schedule::{Forward, Scan};
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
    place(plan.scores_queries(), "q", stages * chunk * key * operand);
    place(true, "k", stages * chunk * key * operand);
    place(channels(plan.erase), "b", stages * chunk * key * plan.erase_storage.bytes());
    place(channels(plan.decay), "g", stages * chunk * key * plan.decay_storage.bytes());
    place(channels(plan.decay) && plan.decay_storage != Dtype::F32, "sums", chunk * key * 4);
    // Each warp's own slice of v and w.
    place(true, "v", warps * chunk * WARP_ROWS * operand);
    place(channels(plan.write), "w", warps * chunk * WARP_ROWS * plan.write_storage.bytes());
    // Ê where b leaves no room for it.
    place(own_erase_operand(plan), "e", chunk * key * operand);
    place(plan.scores_queries(), "p", chunk * chunk * operand);
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

/// Tiles of 16 rows of A^T that a block makes beside its rows of B^T: none where A is diagonal, which takes no tile.
pub(crate) fn map_tiles(rule: &Rule, plan: &Plan, numbers: Forward) -> u32 {
    if composes(numbers.segments) && map_rows(rule, plan) > 1 {
        map_rows(rule, plan).div_ceil(WARP_ROWS).div_ceil(numbers.scan.value_split)
    } else {
        0
    }
}

/// The scan of the launch that makes the segments' maps: warps enough for the tiles of A^T as well.
pub(crate) fn map_scan(rule: &Rule, plan: &Plan, numbers: Forward) -> Scan {
    let Forward { scan, .. } = numbers;
    Scan { warps: scan.warps.max(map_tiles(rule, plan, numbers)), ..scan }
}

pub(crate) fn check(rule: &Rule, plan: &Plan, numbers: Forward, arch: Arch) -> Result<(), Illegal> {
    let Forward { scan, segments, .. } = numbers;
    if !(1..=MOST).contains(&segments) {
        return Err(Illegal::new("segments", format!("1 to {MOST} parts of a sequence"), segments));
    }
    check_numbers(rule, scan, arch)?;
    let shared = shared_bytes(&shared_map(rule, plan, scan));
    let mut most = shared;
    if segments > 1 {
        let maps = map_scan(rule, plan, numbers);
        // A warp with rows of both holds two tiles of the state's size.
        let held = if map_tiles(rule, plan, numbers) > 0 { 2 } else { 1 };
        check_registers(rule, maps, held, arch)?;
        most = most.max(shared_bytes(&shared_map(rule, &plan.without_outputs(), maps)));
    }
    let limit = arch.limits().shared_per_block;
    if most > limit {
        return Err(Illegal::new("shared memory", format!("{limit} bytes on {arch}"), most));
    }
    Ok(())
}
