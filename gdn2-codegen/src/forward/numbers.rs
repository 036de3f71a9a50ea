//! Segments in numbers: how many there may be, the blocks and rows of the launches before the forward kernel's own.

use crate::plan::{Fold, Plan};
use crate::schedule::{Forward, Matrix, Scan};
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
