//! Segments of the forward pass on wgmma: parts of a sequence that run side by side where batch and heads alone leave
//! multiprocessors idle.
//!
//! A segment maps the state it starts from to A S + B. The first launch runs the forward kernel without its outputs over
//! every segment but the last: from zeros, which gives B, and with nothing written from the identity, which gives A. The
//! first segment starts from the caller's state and so needs no A. The second launch composes the maps in float32 into the
//! states that segments start from; the third is the forward kernel over all segments.

use crate::abi::{Arg, Condition, Extent, Factor, Param, Params, Tensor, Workspace};
use crate::forward::shared_bytes;
use crate::kernel::{Launch, Region};
use crate::plan::{Fold, Plan};
use crate::schedule::Forward;
use crate::warpgroup;
use gdn2_dsl::Rule;

/// Most segments of a sequence.
pub(crate) const MOST: u32 = 16;

/// Values a block of the joining launch serves.
pub(crate) const JOIN_ROWS: u32 = 16;

/// The states that segments start from.
pub(crate) const STARTS: &str = "starts";

/// A of the segments between the first and the last.
pub(crate) const MAPS: &str = "maps";

/// Whether there are segments whose A is needed.
pub(crate) fn composes(numbers: Forward) -> bool {
    numbers.segments > 2
}

/// Rows of A^T as it is made and stored: one where nothing is erased, which leaves A diagonal.
pub(crate) fn map_rows(rule: &Rule, plan: &Plan) -> u32 {
    if plan.erase == Fold::Absent { 1 } else { rule.key_dim }
}

/// Blocks of the first launch that make A of a segment.
pub(crate) fn map_blocks(rule: &Rule, plan: &Plan, numbers: Forward) -> u32 {
    if composes(numbers) { map_rows(rule, plan).div_ceil(rule.value_dim / numbers.value_split) } else { 0 }
}

/// Blocks of the first launch that serve a sequence and head.
pub(crate) fn first_blocks(rule: &Rule, plan: &Plan, numbers: Forward) -> u32 {
    let Forward { value_split, segments, .. } = numbers;
    (segments - 1) * value_split + segments.saturating_sub(2) * map_blocks(rule, plan, numbers)
}

/// The launches before the forward kernel's own.
pub(crate) fn launches(rule: &Rule, plan: &Plan, numbers: Forward, forward: &Launch) -> Vec<Launch> {
    let grid = |blocks: u32| Extent { factors: vec![Factor::Sequences, Factor::ValueHeads], times: u64::from(blocks) };
    let shared = warpgroup::shared_map(rule, &plan.without_outputs(), numbers);
    let first = Launch {
        entry: format!("{}_maps", forward.entry),
        params: first_params(&plan.without_outputs(), numbers),
        grid: grid(first_blocks(rule, plan, numbers)),
        block: forward.block,
        shared_bytes: shared_bytes(&shared),
        shared,
        when: Condition::Always,
    };
    let bytes = if plan.erase == Fold::Absent { 0 } else { rule.key_dim * JOIN_ROWS * 4 };
    let shared: Vec<Region> =
        (bytes > 0).then(|| Region { name: "s".to_owned(), offset: 0, bytes }).into_iter().collect();
    let join = Launch {
        entry: format!("{}_join", forward.entry),
        params: join_params(),
        grid: grid(rule.value_dim / JOIN_ROWS),
        block: rule.key_dim,
        shared_bytes: shared_bytes(&shared),
        shared,
        when: Condition::Always,
    };
    if composes(numbers) { vec![first, join] } else { vec![first] }
}

/// Scratch that the launches share, float32.
pub(crate) fn workspaces(rule: &Rule, plan: &Plan, numbers: Forward) -> Vec<Workspace> {
    let place = |name: &str, count: u32, rows: u32| Workspace {
        name: name.to_owned(),
        bytes: Extent {
            factors: vec![Factor::Sequences, Factor::ValueHeads],
            times: u64::from(count) * u64::from(rows * rule.key_dim * 4),
        },
        saved: false,
        when: Condition::Always,
    };
    let mut workspaces = vec![place(STARTS, numbers.segments, rule.value_dim)];
    if composes(numbers) {
        workspaces.push(place(MAPS, numbers.segments - 2, map_rows(rule, plan)));
    }
    workspaces
}

fn first_params(plan: &Plan, numbers: Forward) -> Vec<Param> {
    let queries = plan.scores_queries().then_some(Tensor::Q);
    let inputs = queries.into_iter().chain([Tensor::K, Tensor::V]);
    let tensors: Vec<Tensor> = inputs.chain(plan.gate_tensors()).collect();
    let mut params = Params::default();
    params.pointers(&tensors);
    params.pointers(&[Tensor::InitialState]);
    params.push("initial_slots", Arg::InitialSlots);
    params.workspaces(&[STARTS]);
    if composes(numbers) {
        params.workspaces(&[MAPS]);
    }
    params.push("cu_seqlens", Arg::CuSeqlens);
    params.strides(&tensors);
    params.sizes();
    params.list
}

fn join_params() -> Vec<Param> {
    let mut params = Params::default();
    params.workspaces(&[STARTS, MAPS]);
    params.push("cu_seqlens", Arg::CuSeqlens);
    params.sizes();
    params.list
}
