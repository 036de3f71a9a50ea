//! Segments of the forward pass: parts of a sequence that run side by side where batch and heads alone leave
//! multiprocessors idle.
//!
//! A segment maps the state it starts from to A S + B. The first launch runs the forward kernel without its outputs over
//! every segment but the last: from zeros, which gives B, and with nothing written from the identity, which gives A. The
//! first segment starts from the caller's state and so needs no A. On wgmma blocks make rows of either; on mma.sync a
//! block makes rows of both with one set of factors. The second launch composes the maps in float32 into the
//! states that segments start from; the third is the forward kernel over all segments.

use super::numbers::{JOIN_PARTS, JOIN_ROWS, MAPS, STARTS, composes, first_blocks, map_rows};
use super::{mma, wgmma};
use crate::abi::{Arg, Condition, Extent, Factor, Param, Tensor, Workspace};
use crate::kernel::{Launch, LaunchRole};
use crate::params::Params;
use crate::plan::{Fold, Plan};
use crate::schedule::{Forward, Matrix};
use crate::shared::{ALIGNMENT, Region, shared_bytes};
use gdn2_dsl::Rule;

/// The launches before the scan's own, `scan`. The first has a plan and parameters of its own.
pub(crate) fn launches(rule: &Rule, maps: &Plan, numbers: Forward, scan: &Launch, params: Vec<Param>) -> Vec<Launch> {
    let grid = |blocks: u32| Extent { factors: vec![Factor::Sequences, Factor::ValueHeads], times: u64::from(blocks) };
    let (shared, block) = match numbers.matrix {
        Matrix::Wgmma => (wgmma::shared_map(rule, maps, numbers.scan), scan.block),
        Matrix::Mma => {
            let scan = mma::map_scan(rule, maps, numbers);
            (mma::shared_map(rule, maps, scan), scan.warps * 32)
        }
    };
    let first = Launch {
        role: LaunchRole::SegmentMaps,
        entry: format!("{}_maps", scan.entry),
        params,
        grid: grid(first_blocks(rule, maps, numbers)),
        block,
        shared_bytes: shared_bytes(&shared),
        shared_alignment: scan.shared_alignment,
        shared,
        when: Condition::Always,
    };
    let (threads, shared) = match maps.erase {
        Fold::Absent => (rule.key_dim, Vec::new()),
        Fold::Pair | Fold::Row | Fold::Operand => (rule.key_dim * JOIN_PARTS, join_map(rule)),
    };
    let join = Launch {
        role: LaunchRole::SegmentJoin,
        entry: format!("{}_join", scan.entry),
        params: join_params(),
        grid: grid(rule.value_dim / JOIN_ROWS),
        block: threads,
        shared_bytes: shared_bytes(&shared),
        shared_alignment: ALIGNMENT,
        shared,
        when: Condition::Always,
    };
    if composes(numbers.segments) { vec![first, join] } else { vec![first] }
}

/// What the join holds of S, its channels apart so that neighbours share no bank, and the parts of its sums.
fn join_map(rule: &Rule) -> Vec<Region> {
    let held = rule.key_dim * (JOIN_ROWS + 4) * 4;
    let sums = JOIN_PARTS * JOIN_ROWS * rule.key_dim * 4;
    vec![
        Region { name: "s".to_owned(), offset: 0, bytes: held },
        Region { name: "sums".to_owned(), offset: held, bytes: sums },
    ]
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
    if composes(numbers.segments) {
        workspaces.push(place(MAPS, numbers.segments - 2, map_rows(rule, plan)));
    }
    workspaces
}

/// The parameters of forward's first launch, by its own plan.
pub(crate) fn first_params(rule: &Rule, plan: &Plan, numbers: Forward) -> Vec<Param> {
    let queries = plan.scores_queries().then_some(Tensor::Q);
    let inputs = queries.into_iter().chain([Tensor::K, Tensor::V]);
    let tensors: Vec<Tensor> = inputs.chain(plan.gate_tensors()).collect();
    let mut params = Params::default();
    params.pointers(&tensors);
    params.pointers(&[Tensor::InitialState]);
    params.push("initial_slots", Arg::InitialSlots);
    params.workspaces(&[STARTS]);
    if composes(numbers.segments) {
        params.workspaces(&[MAPS]);
    }
    params.push("cu_seqlens", Arg::CuSeqlens);
    params.strides(&tensors);
    params.named(rule);
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
