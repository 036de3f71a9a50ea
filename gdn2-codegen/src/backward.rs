//! The portable chunked backward pass: a reverse scan over each sequence that keeps the gradient of the state at every
//! chunk's end, then one block per chunk that makes every gradient from the states kept on both its sides, then, where
//! value heads share key heads, a sum of dq and dk over each group. Where forward kept nothing, a scan that recomputes
//! the states comes first.
//!
//! Chooses what a schedule leaves open, checks it against the architecture, lays out shared memory and parameters.

use crate::abi::{Arg, Condition, Extent, Factor, Param, Params, Tensor, Workspace};
use crate::arch::Arch;
use crate::forward::{self, WARP_ROWS};
use crate::kernel::{Illegal, Kernel, Launch, Pass, Region};
use crate::plan::{self, Fold, Plan};
use crate::schedule::{Backward, Forward, Matrix, Overrides, Schedule};
use gdn2_dsl::{Dtype, Rule};

/// Registers a thread of the gradient launch needs beyond its accumulators and words.
const OVERHEAD_REGISTERS: u32 = 60;

/// Threads of the launch that sums over heads.
pub(crate) const HEAD_THREADS: u32 = 32;

/// Fills in what the overrides leave open: the largest chunk up to 64 that fits, the value dim whole.
pub(crate) fn complete(rule: &Rule, arch: Arch, given: &Overrides) -> Backward {
    let plan = plan::plan(rule, Pass::Backward);
    let tiles = rule.value_dim.div_ceil(WARP_ROWS);
    let chunks = given.get("chunk").map_or_else(|| vec![64, 32, 16], |chunk| vec![chunk]);
    let splits = given.get("value_split").map_or_else(|| vec![1, 2, 4, 8, 16, 32], |split| vec![split]);
    let blocks = match given.get("value_tiles") {
        Some(given) => vec![given],
        None => [8, 4, 2, 1].map(|block| tiles.min(block)).to_vec(),
    };
    let recompute = given.get("recompute").unwrap_or(0);
    let mut last = None;
    for &chunk in &chunks {
        for &value_split in &splits {
            let warps = given.get("warps").unwrap_or(tiles.div_ceil(value_split).max(1));
            for &value_tiles in &blocks {
                let numbers = Backward {
                    chunk,
                    value_split,
                    warps,
                    stages: given.get("stages").unwrap_or(1),
                    value_tiles,
                    gradient_warps: given.get("gradient_warps").unwrap_or(8),
                    recompute,
                };
                let wide = given.get("warps").is_none() && warps > 8;
                if !wide && check(rule, &plan, numbers, arch).is_ok() {
                    return numbers;
                }
                last = last.or(Some(numbers));
            }
        }
    }
    last.unwrap_or(Backward {
        chunk: 64,
        value_split: 1,
        warps: tiles,
        stages: 1,
        value_tiles: tiles,
        gradient_warps: 8,
        recompute,
    })
}

/// The scan's numbers, as forward counts them.
pub(crate) fn scan(numbers: Backward) -> Forward {
    let Backward { chunk, value_split, warps, stages, .. } = numbers;
    Forward { chunk, value_split, warps, stages, matrix: Matrix::Mma, segments: 1 }
}

/// Fixes every number of the backward pass.
pub(crate) fn bind(rule: &Rule, plan: Plan, numbers: Backward, arch: Arch) -> Result<Kernel, Illegal> {
    check(rule, &plan, numbers, arch)?;
    let per_sequence =
        |split: u32| Extent { factors: vec![Factor::Sequences, Factor::ValueHeads], times: u64::from(split) };
    let chunks = Factor::Chunks { chunk: numbers.chunk };
    let launch =
        |suffix: &str, params: Vec<Param>, grid: Extent, threads: u32, shared: Vec<Region>, when: Condition| Launch {
            entry: format!("{}_{suffix}", rule.name),
            params,
            grid,
            block: threads,
            shared_bytes: forward::shared_bytes(&shared),
            shared,
            when,
        };
    let mut launches = Vec::new();
    if numbers.recompute == 1 {
        let shared = forward::shared_map(rule, &plan, scan(numbers));
        let grid = per_sequence(numbers.value_split);
        launches.push(launch(
            "backward_recompute",
            recompute_params(&plan),
            grid,
            numbers.warps * 32,
            shared,
            Condition::Always,
        ));
    }
    let shared = scan_map(rule, &plan, scan(numbers));
    launches.push(launch(
        "backward_states",
        scan_params(&plan),
        per_sequence(numbers.value_split),
        numbers.warps * 32,
        shared,
        Condition::Always,
    ));
    let grid = Extent { factors: vec![chunks, Factor::ValueHeads], times: 1 };
    let threads = numbers.gradient_warps * 32;
    let shared = gradient_map(rule, &plan, numbers);
    launches.push(launch("backward_gradients", gradient_params(&plan), grid, threads, shared, Condition::Always));
    let grid = Extent { factors: vec![Factor::TotalTokens, Factor::KeyHeads], times: 1 };
    launches.push(launch("backward_heads", head_params(), grid, HEAD_THREADS, Vec::new(), Condition::GroupedHeads));
    let heads = |name: &str| Workspace {
        name: name.to_owned(),
        bytes: Extent { factors: vec![Factor::TotalTokens, Factor::ValueHeads], times: u64::from(rule.key_dim) * 4 },
        saved: false,
        when: Condition::GroupedHeads,
    };
    let mut states = forward::states(rule, numbers.chunk);
    states.saved = numbers.recompute == 0;
    let dstates = Workspace { name: "dstates".to_owned(), saved: false, ..states.clone() };
    Ok(Kernel {
        rule: rule.clone(),
        pass: plan.pass,
        plan,
        schedule: Schedule::Backward(numbers),
        arch,
        launches,
        workspaces: vec![states, dstates, heads("dq_heads"), heads("dk_heads")],
    })
}

fn check(rule: &Rule, plan: &Plan, numbers: Backward, arch: Arch) -> Result<(), Illegal> {
    let limits = arch.limits();
    forward::check_numbers(rule, scan(numbers), arch)?;
    if numbers.recompute > 1 {
        return Err(Illegal::new(
            "recompute",
            "0 (forward keeps the states) or 1 (nothing is kept)",
            numbers.recompute,
        ));
    }
    let mut shared = vec![("backward_states", forward::shared_bytes(&scan_map(rule, plan, scan(numbers))))];
    if numbers.recompute == 1 {
        shared.push(("backward_recompute", forward::shared_bytes(&forward::shared_map(rule, plan, scan(numbers)))));
    }
    let Backward { chunk, value_tiles, gradient_warps: warps, .. } = numbers;
    let tiles = rule.value_dim.div_ceil(WARP_ROWS);
    if value_tiles == 0 || value_tiles > tiles {
        return Err(Illegal::new("value_tiles", format!("1 to {tiles} tiles of 16 value rows"), value_tiles));
    }
    let least = value_tiles.max(chunk / 16);
    let most = limits.threads_per_block / 32;
    if warps < least || warps > most {
        return Err(Illegal::new("gradient_warps", format!("{least} to {most} warps"), warps));
    }
    let groups = slice_groups(rule, numbers);
    let registers = groups * 24 + chunk + OVERHEAD_REGISTERS;
    let granted = limits.registers_per_thread.min(limits.registers_per_block / (warps * 32) / 8 * 8);
    if registers > granted {
        return Err(Illegal::new("gradient registers", format!("{granted} per thread at {warps} warps"), registers));
    }
    shared.push(("backward_gradients", forward::shared_bytes(&gradient_map(rule, plan, numbers))));
    for (launch, bytes) in shared {
        if bytes > limits.shared_per_block {
            let field = format!("shared memory of {launch}");
            return Err(Illegal::new(&field, format!("{} bytes on {arch}", limits.shared_per_block), bytes));
        }
    }
    Ok(())
}

/// Parts of K that warps of the gradient launch share among them, and groups of 16 channels in each.
pub(crate) fn slices(rule: &Rule, numbers: Backward) -> u32 {
    (numbers.gradient_warps / (numbers.chunk / 16)).min(rule.key_dim / 16)
}

fn slice_groups(rule: &Rule, numbers: Backward) -> u32 {
    (rule.key_dim / 16).div_ceil(slices(rule, numbers))
}

/// The scan's shared memory: forward's, with a slice of dO in place of the values.
fn scan_map(rule: &Rule, plan: &Plan, numbers: Forward) -> Vec<Region> {
    let mut map = forward::shared_map(rule, &scan_plan(plan), numbers);
    for region in map.iter_mut().filter(|region| region.name == "v") {
        region.name = "do".to_owned();
    }
    map
}

/// Places regions one after another, and several lists of regions over the same bytes.
#[derive(Default)]
struct Map {
    regions: Vec<Region>,
    end: u32,
}

impl Map {
    fn place(&mut self, name: &str, bytes: u32) {
        if bytes > 0 {
            self.regions.push(Region { name: name.to_owned(), offset: self.end, bytes });
            self.end += bytes;
        }
    }

    /// Lists whose lives do not meet.
    fn share(&mut self, lists: &[Vec<(&str, u32)>]) {
        let start = self.end;
        let mut end = start;
        for list in lists {
            self.end = start;
            for (name, bytes) in list {
                self.place(name, *bytes);
            }
            end = end.max(self.end);
        }
        self.end = end;
    }
}

/// The gradient launch's shared memory. Lives that do not meet share bytes: g as stored and the scaled operands, which
/// N and dR follow where the value dim is served at once; L and the kept states; P, M and their gradients.
pub(crate) fn gradient_map(rule: &Rule, plan: &Plan, numbers: Backward) -> Vec<Region> {
    let Backward { chunk, value_tiles, gradient_warps: warps, .. } = numbers;
    let (key, operand) = (rule.key_dim, rule.dtype.bytes());
    let channel_decay = plan.decay == Fold::Operand;
    let channel_erase = plan.erase == Fold::Operand;
    let erases = plan.erase != Fold::Absent;
    let when = |wanted: bool, bytes: u32| if wanted { bytes } else { 0 };
    let tile = chunk * key * operand;
    let slice = value_tiles * chunk * WARP_ROWS * operand;
    let pairs = chunk * chunk * operand;
    let kept = value_tiles * WARP_ROWS * key * operand;
    let at_once = rule.value_dim.div_ceil(WARP_ROWS) <= value_tiles;
    let mut map = Map::default();
    map.place("q", tile);
    map.place("k", tile);
    map.place("b", when(channel_erase, chunk * key * plan.erase_storage.bytes()));
    let wide = plan.decay_storage == Dtype::F32;
    map.place("g", when(channel_decay && wide, chunk * key * 4));
    map.place("sums", when(channel_decay && !wide, chunk * key * 4));
    map.place("do", slice);
    let stored = ("g", when(channel_decay && !wide, chunk * key * plan.decay_storage.bytes()));
    let scaled = vec![("end_keys", when(channel_decay, tile)), ("e", when(channel_decay && erases, tile))];
    let writes = vec![("n", slice), ("dr", slice)];
    // b k without decay is read to the end.
    map.place("e", when(channel_erase && !channel_decay, tile));
    if at_once && channel_decay {
        map.share(&[vec![stored], scaled, writes]);
    } else {
        map.share(&[vec![stored], scaled]);
        map.share(&[writes]);
    }
    map.share(&[vec![("l", when(erases, chunk * chunk * 4))], vec![("s", kept), ("ds", kept)]]);
    let (factors, gradients) =
        (vec![("p", pairs), ("m", when(erases, pairs))], vec![("dp", pairs), ("dl", when(erases, pairs))]);
    if at_once {
        map.share(&[factors, gradients]);
    } else {
        map.share(&[factors]);
        map.share(&[gradients]);
    }
    for name in forward::token_vectors(plan) {
        map.place(name, chunk * 4);
    }
    map.place("totals", when(channel_decay, forward::decay_segments(rule, gradient_numbers(numbers)) * key * 4));
    map.place("diagonal", chunk * 4);
    let rows = slices(rule, numbers) * chunk * 4;
    map.place("erase_rows", when(plan.erase == Fold::Row, rows));
    map.place("decay_rows", when(plan.decay == Fold::Pair, rows + chunk / 16 * chunk * 4));
    let tail = match plan.decay {
        Fold::Operand => chunk / 16 * key * 4,
        Fold::Pair => (warps * 4).next_multiple_of(16),
        Fold::Absent | Fold::Row => 0,
    };
    map.place("decay_tail", tail);
    let value_rows = rule.value_dim.div_ceil(WARP_ROWS) * chunk * 4;
    map.place("value_rows", when(plan.write == Fold::Row, value_rows));
    let (regions, end) = (map.regions, map.end);
    closed(regions, end)
}

/// `shared_bytes` reads the last region's end: regions that share bytes are put in order of their ends.
fn closed(mut regions: Vec<Region>, end: u32) -> Vec<Region> {
    regions.sort_by_key(|region| (region.offset + region.bytes, region.offset));
    debug_assert_eq!(forward::shared_bytes(&regions), end);
    regions
}

/// The gradient launch's numbers, as forward's factor stages count them.
pub(crate) fn gradient_numbers(numbers: Backward) -> Forward {
    let Backward { chunk, gradient_warps: warps, .. } = numbers;
    Forward { chunk, value_split: 1, warps, stages: 1, matrix: Matrix::Mma, segments: 1 }
}

/// The plan as the scan sees it: the write gate does not meet dO.
pub(crate) fn scan_plan(plan: &Plan) -> Plan {
    Plan { write: Fold::Absent, tied: false, ..plan.clone() }
}

fn recompute_params(plan: &Plan) -> Vec<Param> {
    let tensors: Vec<Tensor> = [Tensor::Q, Tensor::K, Tensor::V].into_iter().chain(plan.gate_tensors()).collect();
    let mut params = Params::default();
    params.pointers(&tensors);
    params.pointers(&[Tensor::InitialState]);
    params.workspaces(&["states"]);
    params.push("cu_seqlens", Arg::CuSeqlens);
    params.strides(&tensors);
    params.sizes();
    params.list
}

fn scan_params(plan: &Plan) -> Vec<Param> {
    let tensors: Vec<Tensor> =
        [Tensor::Q, Tensor::K].into_iter().chain(scan_plan(plan).gate_tensors()).chain([Tensor::DO]).collect();
    let mut params = Params::default();
    params.pointers(&tensors);
    params.pointers(&[Tensor::DFinalState, Tensor::DInitialState]);
    params.workspaces(&["dstates"]);
    params.push("cu_seqlens", Arg::CuSeqlens);
    params.strides(&tensors);
    params.sizes();
    params.push("scale", Arg::Scale);
    params.list
}

/// The gradient of each gate tensor.
pub(crate) fn gradient_of(tensor: Tensor) -> Tensor {
    match tensor {
        Tensor::G => Tensor::DG,
        Tensor::B => Tensor::DB,
        Tensor::W => Tensor::DW,
        Tensor::Q => Tensor::DQ,
        Tensor::K => Tensor::DK,
        Tensor::V => Tensor::DV,
        other => other,
    }
}

fn gradient_params(plan: &Plan) -> Vec<Param> {
    let inputs: Vec<Tensor> = [Tensor::Q, Tensor::K, Tensor::V].into_iter().chain(plan.gate_tensors()).collect();
    let gradients: Vec<Tensor> = inputs.iter().copied().map(gradient_of).collect();
    let tensors: Vec<Tensor> = inputs.into_iter().chain([Tensor::DO]).chain(gradients).collect();
    let mut params = Params::default();
    params.pointers(&tensors);
    params.workspaces(&["states", "dstates", "dq_heads", "dk_heads"]);
    params.push("cu_seqlens", Arg::CuSeqlens);
    params.strides(&tensors);
    params.sizes();
    params.push("scale", Arg::Scale);
    params.list
}

fn head_params() -> Vec<Param> {
    let tensors = [Tensor::DQ, Tensor::DK];
    let mut params = Params::default();
    params.pointers(&tensors);
    params.workspaces(&["dq_heads", "dk_heads"]);
    params.strides(&tensors);
    params.push("tokens", Arg::Tokens);
    params.push("key_heads", Arg::KeyHeads);
    params.push("value_heads", Arg::ValueHeads);
    params.list
}
