//! The portable chunked backward pass: a reverse scan over each sequence that keeps the gradient of the state at every
//! chunk's end, then one block per chunk that makes every gradient from the states kept on both its sides, then, where
//! value heads share key heads, a sum of dq and dk over each group. Where forward kept nothing, a scan that recomputes
//! the states comes first.
//!
//! Chooses what a schedule leaves open, checks it against the architecture, lays out shared memory and parameters.

mod gates;
mod gradients_wgmma;
mod map;
mod print;
mod print_gradients_computed;
mod print_gradients_wgmma;

pub(crate) use gates::value_rows;
pub(crate) use print::view;

use crate::abi::{Arg, Condition, Extent, Factor, Param, Tensor, Workspace};
use crate::arch::Arch;
use crate::chunk::numbers::{WARP_ROWS, check_numbers, states};
use crate::forward::numbers::{MAPS, STARTS, composes};
use crate::forward::{self, mma::shared_map, segments, wgmma};
use crate::kernel::{Illegal, Kernel, Launch, LaunchRole};
use crate::params::Params;
use crate::pass::Pass;
use crate::plan::{self, Fold, Plan};
use crate::schedule::{Backward, Matrix, Overrides, Scan, Schedule};
use crate::shared::{ALIGNMENT, Region, shared_bytes};
use gdn2_dsl::Rule;
use gdn2_dsl::prologue::GateOf;
use map::{Slices, gradient_map, scan_map, scan_plan};

/// Registers a thread of the gradient launch needs beyond its accumulators and words.
const OVERHEAD_REGISTERS: u32 = 60;

/// Threads of the launch that sums over heads.
pub(crate) const HEAD_THREADS: u32 = 32;

/// Fills in what the overrides leave open: the largest chunk up to 64 that fits, the value dim whole.
///
/// Gradients on mma.sync of a rule that erases and decays by channel, of more than 96 channels, take 32 tokens before 64: 64
/// leave a thread too few registers (84 bytes spilled for KDA on sm_80), and the clock has 32 ahead by a fifth on an a100.
pub(crate) fn complete(rule: &Rule, arch: Arch, given: &Overrides) -> Backward {
    let plan = plan::plan(rule, Pass::Backward);
    let tiles = rule.value_dim.div_ceil(WARP_ROWS);
    let anchored = plan.decay == Fold::Operand && plan.erase != Fold::Absent;
    let crowded = arch.limits().wgmma.is_none() && anchored && rule.key_dim > 96;
    let chunks = if crowded { vec![32, 64, 16] } else { vec![64, 32, 16] };
    let chunks = given.get("chunk").map_or(chunks, |chunk| vec![chunk]);
    let splits = given.get("value_split").map_or_else(|| vec![1, 2, 4, 8, 16, 32], |split| vec![split]);
    let recompute = given.get("recompute").unwrap_or(0);
    let instructions = |asked: Option<Matrix>, mma: bool| match asked {
        Some(matrix) => vec![matrix],
        None if mma || arch.limits().wgmma.is_none() => vec![Matrix::Mma],
        None => vec![Matrix::Wgmma, Matrix::Mma],
    };
    // Numbers without their matrix instruction are those of mma, as its schedules are printed; where nothing is kept forward
    // is scanned again, which is mma's as well.
    let matrices = instructions(given.matrix(), given.get("warps").is_some() || recompute == 1);
    let gradients = instructions(given.gradients(), given.get("value_tiles").or(given.get("gradient_warps")).is_some());
    let blocks = gradients.iter().flat_map(|gradients| {
        let tiles = match (given.get("value_tiles"), gradients) {
            (Some(given), _) => vec![given],
            (None, Matrix::Mma) => [8, 4, 2, 1].map(|block| tiles.min(block)).to_vec(),
            (None, Matrix::Wgmma) => vec![tiles],
        };
        tiles.into_iter().map(|tiles| (*gradients, tiles))
    });
    let blocks: Vec<(Matrix, u32)> = blocks.collect();
    let with = |matrix: Matrix, chunk: u32, value_split: u32, stages: u32, (gradients, value_tiles)| Backward {
        scan: Scan {
            chunk,
            value_split,
            warps: given.get("warps").unwrap_or(tiles.div_ceil(value_split.max(1)).max(1)),
            stages,
        },
        matrix,
        segments: given.get("segments").unwrap_or(1),
        value_tiles,
        gradient_warps: given.get("gradient_warps").unwrap_or(8),
        recompute,
        gradients,
    };
    let mut all = Vec::new();
    for &chunk in &chunks {
        for &matrix in &matrices {
            let buffers: &[u32] = if matrix == Matrix::Wgmma { &[2, 1] } else { &[1] };
            let buffers = given.get("stages").map_or_else(|| buffers.to_vec(), |stages| vec![stages]);
            for &value_split in &splits {
                for &block in &blocks {
                    all.extend(buffers.iter().map(|&stages| with(matrix, chunk, value_split, stages, block)));
                }
            }
        }
    }
    let wide = |numbers: &Backward| given.get("warps").is_none() && numbers.scan.warps > 8;
    let legal = all.iter().find(|numbers| !wide(numbers) && check(rule, &plan, **numbers, arch).is_ok());
    let last = (matrices.last(), gradients.last());
    let refused = || all.iter().find(|numbers| (Some(&numbers.matrix), Some(&numbers.gradients)) == last);
    legal.or_else(refused).copied().unwrap_or_else(|| with(Matrix::Mma, 64, 1, 1, (Matrix::Mma, tiles)))
}

/// Fixes every number of the backward pass.
pub(crate) fn bind(rule: &Rule, plan: Plan, numbers: Backward, arch: Arch) -> Result<Kernel, Illegal> {
    check(rule, &plan, numbers, arch)?;
    let per_sequence =
        |split: u32| Extent { factors: vec![Factor::Sequences, Factor::ValueHeads], times: u64::from(split) };
    let chunks = Factor::Chunks { chunk: numbers.scan.chunk };
    // Rows that are normalised take their gradients through the sums over heads, one or several; or, on wgmma, those that no
    // heads share go back through their norms where they are made.
    let always = |always: bool| if always { Condition::Always } else { Condition::GroupedHeads };
    let normalised = rule.prologue.normalises_q() || rule.prologue.normalises_k();
    let in_place = numbers.gradients == Matrix::Wgmma && gradients_wgmma::pulls_back(rule);
    let sums_when = always(normalised && !in_place);
    let heads_when = always(normalised && (!in_place || gradients_wgmma::by_channel(&plan)));
    let launch = |role: LaunchRole, params: Vec<Param>, grid: Extent, threads: u32, shared: Vec<Region>| Launch {
        role,
        entry: format!("{}_{}", rule.name, suffix(role)),
        params,
        grid,
        block: threads,
        shared_bytes: shared_bytes(&shared),
        shared_alignment: match (role, numbers.gradients) {
            (LaunchRole::Gradients, Matrix::Wgmma) => wgmma::ALIGNMENT,
            _ => ALIGNMENT,
        },
        shared,
        when: if role == LaunchRole::HeadSums { sums_when } else { Condition::Always },
    };
    let mut launches = Vec::new();
    if numbers.recompute == 1 {
        let shared = shared_map(rule, &plan, numbers.scan);
        let grid = per_sequence(numbers.scan.value_split);
        let params = recompute_params(rule, &plan);
        launches.push(launch(LaunchRole::RecomputedStates, params, grid, numbers.scan.warps * 32, shared));
    }
    launches.extend(scan_launches(rule, &plan, numbers));
    let grid = Extent { factors: vec![chunks, Factor::ValueHeads], times: 1 };
    let threads = numbers.gradient_warps * 32;
    let shared = match numbers.gradients {
        Matrix::Mma => gradient_map(rule, &plan.with_wide_gates(), numbers),
        Matrix::Wgmma => gradients_wgmma::shared_map(rule, &plan),
    };
    launches.push(launch(LaunchRole::Gradients, gradient_params(rule, &plan), grid, threads, shared));
    let grid = Extent { factors: vec![Factor::TotalTokens, Factor::KeyHeads], times: 1 };
    launches.push(launch(LaunchRole::HeadSums, head_params(rule), grid, HEAD_THREADS, Vec::new()));
    let mut workspaces = Vec::new();
    if numbers.segments > 1 {
        workspaces.extend(segments::workspaces(rule, &plan, numbers.scan()));
    }
    if GateOf::ALL.iter().any(|gate| plan.computes(*gate).is_some()) {
        let grid = Extent { factors: vec![chunks, Factor::ValueHeads], times: 1 };
        let shared = gates::gate_map(rule, numbers.scan.chunk);
        let params = gates::gate_params(rule, &plan);
        launches.push(launch(LaunchRole::GateGradients, params, grid, gates::THREADS, shared));
        if !rule.prologue.params().is_empty() {
            let grid = Extent { factors: vec![Factor::ValueHeads], times: 1 };
            let params = gates::sum_params(rule);
            launches.push(launch(LaunchRole::ParamSums, params, grid, gates::THREADS, gates::sum_map()));
        }
        workspaces.extend(gates::workspaces(rule, &plan, numbers.scan.chunk, numbers.gradients));
    }
    let heads = |name: &str| Workspace {
        name: name.to_owned(),
        bytes: Extent { factors: vec![Factor::TotalTokens, Factor::ValueHeads], times: u64::from(rule.key_dim) * 4 },
        saved: false,
        when: heads_when,
    };
    let mut states = states(rule, numbers.scan.chunk);
    states.saved = numbers.recompute == 0;
    let dstates = Workspace { name: "dstates".to_owned(), saved: false, ..states.clone() };
    Ok(Kernel {
        rule: rule.clone(),
        pass: plan.pass,
        plan,
        schedule: Schedule::Backward(numbers),
        arch,
        launches,
        workspaces: [states, dstates, heads("dq_heads"), heads("dk_heads")].into_iter().chain(workspaces).collect(),
    })
}

/// The reverse scan: one launch, or three over segments.
fn scan_launches(rule: &Rule, plan: &Plan, numbers: Backward) -> Vec<Launch> {
    let scan = numbers.scan();
    let plan = scan_plan(plan);
    let (shared, shared_alignment, block) = match numbers.matrix {
        Matrix::Mma => (scan_map(rule, &plan, numbers.scan), ALIGNMENT, numbers.scan.warps * 32),
        Matrix::Wgmma => (wgmma::shared_map(rule, &plan, numbers.scan), wgmma::ALIGNMENT, wgmma::threads(numbers.scan)),
    };
    let launch = Launch {
        role: LaunchRole::ReverseScan,
        entry: format!("{}_{}", rule.name, suffix(LaunchRole::ReverseScan)),
        params: scan_params(rule, &plan, if numbers.segments > 1 { Ends::Segments } else { Ends::Sequence }),
        grid: Extent {
            factors: vec![Factor::Sequences, Factor::ValueHeads],
            times: u64::from(numbers.scan.value_split * numbers.segments),
        },
        block,
        shared_bytes: shared_bytes(&shared),
        shared_alignment,
        shared,
        when: Condition::Always,
    };
    let mut launches = Vec::new();
    if numbers.segments > 1 {
        let params = scan_params(rule, &plan, Ends::Maps { composes: composes(numbers.segments) });
        launches = segments::launches(rule, &plan, scan, &launch, params);
    }
    launches.push(launch);
    launches
}

/// What a scan over the gradient of the state begins from and ends in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// The caller's gradients.
    Sequence,
    /// What joined the segments' maps; the last one's end is the caller's.
    Segments,
    /// A map's rows; the first segment begins from the caller's.
    Maps { composes: bool },
}

/// What the entry of a launch is called after its rule.
fn suffix(role: LaunchRole) -> &'static str {
    match role {
        LaunchRole::RecomputedStates => "backward_recompute",
        LaunchRole::ReverseScan => "backward_states",
        LaunchRole::HeadSums => "backward_heads",
        LaunchRole::GateGradients => "backward_gates",
        LaunchRole::ParamSums => "backward_params",
        _ => "backward_gradients",
    }
}

pub(crate) fn check(rule: &Rule, plan: &Plan, numbers: Backward, arch: Arch) -> Result<(), Illegal> {
    let limits = arch.limits();
    match numbers.matrix {
        Matrix::Mma if numbers.segments > 1 => {
            return Err(Illegal::new("segments", "1 with mma", numbers.segments));
        }
        Matrix::Mma => check_numbers(rule, numbers.scan, arch)?,
        Matrix::Wgmma if numbers.recompute == 1 => {
            return Err(Illegal::new("matrix", "mma where nothing is kept (recompute 1)", "wgmma"));
        }
        Matrix::Wgmma => {
            forward::check(rule, &scan_plan(plan), numbers.scan(), arch).map_err(|refused| match &*refused.field {
                "shared memory" => Illegal { field: "shared memory of backward_states".to_owned(), ..refused },
                _ => refused,
            })?;
        }
    }
    if numbers.recompute > 1 {
        return Err(Illegal::new(
            "recompute",
            "0 (forward keeps the states) or 1 (nothing is kept)",
            numbers.recompute,
        ));
    }
    let mut shared = Vec::new();
    if numbers.matrix == Matrix::Mma {
        shared.push(("backward_states", shared_bytes(&scan_map(rule, plan, numbers.scan))));
    }
    if numbers.recompute == 1 {
        shared.push(("backward_recompute", shared_bytes(&shared_map(rule, plan, numbers.scan))));
    }
    let Backward { scan: Scan { chunk, .. }, value_tiles, gradient_warps: warps, .. } = numbers;
    let tiles = rule.value_dim.div_ceil(WARP_ROWS);
    if value_tiles == 0 || value_tiles > tiles {
        return Err(Illegal::new("value_tiles", format!("1 to {tiles} tiles of 16 value rows"), value_tiles));
    }
    if numbers.gradients == Matrix::Wgmma {
        gradients_wgmma::check(rule, plan, numbers, arch)?;
        shared.push(("backward_gradients", shared_bytes(&gradients_wgmma::shared_map(rule, plan))));
        return check_shared(&shared, arch);
    }
    let least = value_tiles.max(chunk / 16);
    let most = limits.threads_per_block / 32;
    if warps < least || warps > most {
        return Err(Illegal::new("gradient_warps", format!("{least} to {most} warps"), warps));
    }
    let registers = Slices::new(rule, numbers).groups * 24 + chunk + OVERHEAD_REGISTERS;
    let granted = limits.registers_per_thread.min(limits.registers_per_block / (warps * 32) / 8 * 8);
    if registers > granted {
        return Err(Illegal::new("gradient registers", format!("{granted} per thread at {warps} warps"), registers));
    }
    shared.push(("backward_gradients", shared_bytes(&gradient_map(rule, &plan.with_wide_gates(), numbers))));
    check_shared(&shared, arch)
}

/// Launches and their shared memory.
fn check_shared(shared: &[(&str, u32)], arch: Arch) -> Result<(), Illegal> {
    let limit = arch.limits().shared_per_block;
    match shared.iter().find(|(_, bytes)| *bytes > limit) {
        Some((launch, bytes)) => {
            let field = format!("shared memory of {launch}");
            Err(Illegal::new(&field, format!("{limit} bytes on {arch}"), bytes))
        }
        None => Ok(()),
    }
}

fn recompute_params(rule: &Rule, plan: &Plan) -> Vec<Param> {
    let tensors: Vec<Tensor> = [Tensor::Q, Tensor::K, Tensor::V].into_iter().chain(plan.gate_tensors()).collect();
    let mut params = Params::default();
    params.pointers(&tensors);
    params.pointers(&[Tensor::InitialState]);
    params.workspaces(&["states"]);
    params.push("cu_seqlens", Arg::CuSeqlens);
    params.strides(&tensors);
    params.named(rule);
    params.sizes();
    params.list
}

/// By the scan's own plan.
fn scan_params(rule: &Rule, plan: &Plan, ends: Ends) -> Vec<Param> {
    let tensors: Vec<Tensor> =
        [Tensor::Q, Tensor::K].into_iter().chain(plan.gate_tensors()).chain([Tensor::DO]).collect();
    let mut params = Params::default();
    params.pointers(&tensors);
    match ends {
        Ends::Sequence => {
            params.pointers(&[Tensor::DFinalState, Tensor::DInitialState]);
            params.workspaces(&["dstates"]);
        }
        Ends::Segments => {
            params.pointers(&[Tensor::DInitialState]);
            params.workspaces(&[STARTS, "dstates"]);
        }
        Ends::Maps { composes } => {
            params.pointers(&[Tensor::DFinalState]);
            params.workspaces(if composes { &[STARTS, MAPS] } else { &[STARTS] });
        }
    }
    params.push("cu_seqlens", Arg::CuSeqlens);
    params.strides(&tensors);
    params.named(rule);
    params.sizes();
    params.push("scale", Arg::Scale);
    params.list
}

fn gradient_params(rule: &Rule, plan: &Plan) -> Vec<Param> {
    let inputs: Vec<Tensor> = [Tensor::Q, Tensor::K, Tensor::V].into_iter().chain(plan.gate_tensors()).collect();
    // Gradients of computed gates go through memory to where they are pulled back.
    let values: Vec<GateOf> = GateOf::ALL.into_iter().filter(|gate| plan.computes(*gate).is_some()).collect();
    let is_value = |tensor: &Tensor| values.iter().any(|gate| gate.tensor() == tensor.name());
    let gradients: Vec<Tensor> =
        inputs.iter().copied().filter(|tensor| !is_value(tensor)).map(Tensor::gradient).collect();
    let tensors: Vec<Tensor> = inputs.into_iter().chain([Tensor::DO]).chain(gradients).collect();
    let mut params = Params::default();
    params.pointers(&tensors);
    params.workspaces(&["states", "dstates", "dq_heads", "dk_heads"]);
    for gate in values {
        params.workspaces(&[gates::values_name(gate)]);
    }
    params.push("cu_seqlens", Arg::CuSeqlens);
    params.strides(&tensors);
    params.named(rule);
    params.sizes();
    params.push("scale", Arg::Scale);
    params.list
}

fn head_params(rule: &Rule) -> Vec<Param> {
    let tensors: Vec<Tensor> = normalised(rule).into_iter().chain([Tensor::DQ, Tensor::DK]).collect();
    let mut params = Params::default();
    params.pointers(&tensors);
    params.workspaces(&["dq_heads", "dk_heads"]);
    params.strides(&tensors);
    params.push("tokens", Arg::Tokens);
    params.push("key_heads", Arg::KeyHeads);
    params.push("value_heads", Arg::ValueHeads);
    params.list
}

/// Rows whose gradients go back through their norms.
pub(crate) fn normalised(rule: &Rule) -> Vec<Tensor> {
    let rows = [(Tensor::Q, rule.prologue.normalises_q()), (Tensor::K, rule.prologue.normalises_k())];
    rows.into_iter().filter_map(|(tensor, normalised)| normalised.then_some(tensor)).collect()
}
