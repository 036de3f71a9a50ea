//! The chunked forward pass: one kernel, no workspace. Chooses what a schedule leaves open, checks it against the
//! architecture, lays out the parameter list and, of the portable kernel, shared memory.
//!
//! A block serves one sequence, one value head and one slice of the value dim. Each of its warps holds 16 value rows
//! of Sᵀ, all of K, in matrix accumulators for the whole sequence; everything else of a chunk lives in shared memory.

use crate::abi::{Arg, Condition, Extent, Factor, Param, Params, Tensor, Workspace};
use crate::arch::Arch;
use crate::kernel::{Illegal, Kernel, Launch, Pass, Region};
use crate::plan::{self, Fold, Plan};
use crate::schedule::{Forward, Matrix, Overrides, Schedule};
use crate::segments;
use crate::warpgroup::{self, GROUP};
use gdn2_dsl::{Dtype, Rule};

/// Value rows one warp holds: the M of mma.m16n8k16.
pub(crate) const WARP_ROWS: u32 = 16;

/// Chunk lengths the device code is written for: whole 16-token blocks, powers of two.
const CHUNKS: [u32; 4] = [16, 32, 64, 128];

/// Registers a thread needs beyond state, accumulators and operands: addresses, fragments, factors.
const OVERHEAD_REGISTERS: u32 = 40;

/// Fills in what the overrides leave open: wgmma where it can serve the rule, the largest chunk up to 64 whose block covers
/// the whole value dim, two buffers where they fit. When nothing fits, the last candidate comes back for `bind` to refuse.
///
/// On wgmma the value dim decides about warps: a schedule that names them and no matrix instruction is one of mma, as mma
/// schedules are printed.
pub(crate) fn complete(rule: &Rule, arch: Arch, given: &Overrides) -> Forward {
    let plan = plan::plan(rule, Pass::Forward);
    match given.matrix() {
        Some(matrix) => complete_with(rule, &plan, arch, given, matrix),
        None if given.get("warps").is_some() => complete_with(rule, &plan, arch, given, Matrix::Mma),
        None => {
            on_wgmma(rule, &plan, arch, given).unwrap_or_else(|_| complete_with(rule, &plan, arch, given, Matrix::Mma))
        }
    }
}

/// Why the built-in schedule is not on wgmma where the architecture has it.
pub(crate) fn declined_wgmma(rule: &Rule, arch: Arch) -> Option<Illegal> {
    arch.limits().wgmma?;
    on_wgmma(rule, &plan::plan(rule, Pass::Forward), arch, &Overrides::default()).err()
}

fn on_wgmma(rule: &Rule, plan: &Plan, arch: Arch, given: &Overrides) -> Result<Forward, Illegal> {
    let numbers = complete_with(rule, plan, arch, given, Matrix::Wgmma);
    check(rule, plan, numbers, arch).map(|()| numbers)
}

fn complete_with(rule: &Rule, plan: &Plan, arch: Arch, given: &Overrides, matrix: Matrix) -> Forward {
    let tiles = rule.value_dim.div_ceil(WARP_ROWS);
    let chunks = given.get("chunk").map_or_else(|| vec![64, 32, 16], |chunk| vec![chunk]);
    let splits = match (given.get("value_split"), matrix) {
        (Some(split), _) => vec![split],
        (None, Matrix::Mma) => (0..6).map(|power| 1 << power).filter(|split| *split <= tiles).collect(),
        (None, Matrix::Wgmma) => (1..=tiles / GROUP).collect(),
    };
    let stages = given.get("stages").map_or_else(|| vec![2, 1], |stages| vec![stages]);
    let segments = given.get("segments").unwrap_or(1);
    let mut last = Forward { chunk: 64, value_split: 1, warps: 1, stages: 1, matrix, segments };
    for &value_split in &splits {
        let warps = given.get("warps").unwrap_or(tiles.div_ceil(value_split));
        for &chunk in &chunks {
            for &stages in &stages {
                last = Forward { chunk, value_split, warps, stages, matrix, segments };
                if (given.get("warps").is_some() || warps <= 8) && check(rule, plan, last, arch).is_ok() {
                    return last;
                }
            }
        }
    }
    last
}

/// Fixes every number of the forward pass.
pub(crate) fn bind(rule: &Rule, plan: Plan, numbers: Forward, arch: Arch) -> Result<Kernel, Illegal> {
    check(rule, &plan, numbers, arch)?;
    let (shared, threads) = match numbers.matrix {
        Matrix::Mma => (shared_map(rule, &plan, numbers), numbers.warps * 32),
        Matrix::Wgmma => (warpgroup::shared_map(rule, &plan, numbers), warpgroup::threads(numbers)),
    };
    let launch = Launch {
        entry: match plan.pass {
            Pass::ForwardForBackward => format!("{}_forward_for_backward", rule.name),
            Pass::Forward | Pass::Backward | Pass::Decode => format!("{}_forward", rule.name),
        },
        params: params(&plan, numbers.segments),
        grid: Extent {
            factors: vec![Factor::Sequences, Factor::ValueHeads],
            times: u64::from(numbers.value_split * numbers.segments),
        },
        block: threads,
        shared_bytes: shared_bytes(&shared),
        shared,
        when: Condition::Always,
    };
    let keeps = plan.pass == Pass::ForwardForBackward;
    let mut workspaces = if keeps { vec![states(rule, numbers.chunk)] } else { Vec::new() };
    let mut launches = vec![launch];
    if numbers.segments > 1 {
        workspaces.extend(segments::workspaces(rule, &plan, numbers));
        launches.splice(..0, segments::launches(rule, &plan, numbers, &launches[0]));
    }
    Ok(Kernel {
        rule: rule.clone(),
        pass: plan.pass,
        plan,
        schedule: Schedule::Forward(numbers),
        arch,
        launches,
        workspaces,
    })
}

fn check(rule: &Rule, plan: &Plan, numbers: Forward, arch: Arch) -> Result<(), Illegal> {
    if numbers.matrix == Matrix::Wgmma {
        return warpgroup::check(rule, plan, numbers, arch);
    }
    if numbers.segments != 1 {
        return Err(Illegal::new("segments", "1 without wgmma", numbers.segments));
    }
    check_numbers(rule, numbers, arch)?;
    let (shared, limit) = (shared_bytes(&shared_map(rule, plan, numbers)), arch.limits().shared_per_block);
    if shared > limit {
        return Err(Illegal::new("shared memory", format!("{limit} bytes on {arch}"), shared));
    }
    Ok(())
}

/// All but shared memory: what every scan over a sequence needs of its numbers.
pub(crate) fn check_numbers(rule: &Rule, numbers: Forward, arch: Arch) -> Result<(), Illegal> {
    let limits = arch.limits();
    let Forward { chunk, value_split, warps, stages, .. } = numbers;
    if !CHUNKS.contains(&chunk) {
        return Err(Illegal::new("chunk", "16, 32, 64 or 128 tokens", chunk));
    }
    if !(1..=2).contains(&stages) {
        return Err(Illegal::new("stages", "1 or 2 buffers", stages));
    }
    let threads = warps.saturating_mul(32);
    if warps == 0 || threads > limits.threads_per_block {
        return Err(Illegal::new("warps", format!("1 to {} warps", limits.threads_per_block / 32), warps));
    }
    let tiles = rule.value_dim.div_ceil(WARP_ROWS);
    if value_split == 0 || value_split > tiles {
        return Err(Illegal::new("value_split", format!("1 to {tiles} blocks of 16 value rows"), value_split));
    }
    let block_tiles = tiles.div_ceil(value_split);
    if block_tiles * (value_split - 1) >= tiles {
        return Err(Illegal::new("value_split", format!("no block of {tiles} value tiles left empty"), value_split));
    }
    if warps < block_tiles {
        return Err(Illegal::new("warps", format!("at least {block_tiles}, 16 value rows each"), warps));
    }
    let registers = rule.key_dim / 2 + chunk + OVERHEAD_REGISTERS;
    let granted = limits.registers_per_thread.min(limits.registers_per_block / threads / 8 * 8);
    if registers > granted {
        return Err(Illegal::new("registers", format!("{granted} per thread at {threads} threads"), registers));
    }
    Ok(())
}

/// Value tiles of 16 rows each block serves.
pub(crate) fn block_tiles(rule: &Rule, numbers: Forward) -> u32 {
    rule.value_dim.div_ceil(WARP_ROWS).div_ceil(numbers.value_split)
}

/// The map of dynamic shared memory. Every size is a multiple of 16 bytes, so every region is 16-byte aligned.
pub(crate) fn shared_map(rule: &Rule, plan: &Plan, numbers: Forward) -> Vec<Region> {
    let Forward { chunk, warps, stages, .. } = numbers;
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
    place(channels(plan.decay), "totals", decay_segments(rule, numbers) * key * 4);
    place(channels(plan.decay), "state_decay", key * 4);
    map
}

/// Whether Ê needs a tile of its own: it overwrites b only where b is channel-wise and as wide as an operand.
pub(crate) fn own_erase_operand(plan: &Plan) -> bool {
    match plan.erase {
        Fold::Operand => plan.erase_storage == Dtype::F32,
        Fold::Row => plan.decay == Fold::Operand,
        Fold::Absent | Fold::Pair => false,
    }
}

/// Threads that share a channel's prefix sum.
pub(crate) fn decay_segments(rule: &Rule, numbers: Forward) -> u32 {
    let most = (numbers.warps * 32 / rule.key_dim).clamp(1, numbers.chunk / 4);
    1 << most.ilog2()
}

/// The float32 vectors over a chunk's tokens that the token-gate stage fills.
pub(crate) fn token_vectors(plan: &Plan) -> Vec<&'static str> {
    let (pair, row) = (plan.decay == Fold::Pair, plan.erase == Fold::Row);
    let vectors = [
        ("gamma", pair),
        ("decay_in", pair),
        ("decay_out", pair),
        ("beta", row),
        ("erase_in", pair && row),
        ("write", plan.write == Fold::Row && !plan.tied),
    ];
    vectors.into_iter().filter_map(|(name, wanted)| wanted.then_some(name)).collect()
}

pub(crate) fn shared_bytes(map: &[Region]) -> u32 {
    map.last().map_or(0, |region| region.offset + region.bytes)
}

/// The parameters of a kernel that reads every input and writes `o`. In segments it finds the states it starts from in a
/// workspace.
pub(crate) fn params(plan: &Plan, segments: u32) -> Vec<Param> {
    let inputs = [Tensor::Q, Tensor::K, Tensor::V].into_iter().chain(plan.gate_tensors());
    let streams: Vec<Tensor> = inputs.chain([Tensor::O]).collect();
    let mut params = Params::default();
    params.pointers(&streams);
    if segments == 1 {
        params.pointers(&[Tensor::InitialState, Tensor::FinalState]);
        params.push("initial_slots", Arg::InitialSlots);
    } else {
        params.pointers(&[Tensor::FinalState]);
    }
    params.push("final_slots", Arg::FinalSlots);
    if segments > 1 {
        params.workspaces(&[segments::STARTS]);
    }
    if plan.pass == Pass::ForwardForBackward {
        params.workspaces(&["states"]);
    }
    params.push("cu_seqlens", Arg::CuSeqlens);
    params.strides(&streams);
    params.sizes();
    params.push("scale", Arg::Scale);
    params.list
}

/// S as it enters every chunk, kept as operands.
pub(crate) fn states(rule: &Rule, chunk: u32) -> Workspace {
    let tiles = rule.value_dim.div_ceil(WARP_ROWS);
    let bytes = u64::from(tiles * WARP_ROWS * rule.key_dim * rule.dtype.bytes());
    Workspace {
        name: "states".to_owned(),
        bytes: Extent { factors: vec![Factor::Chunks { chunk }, Factor::ValueHeads], times: bytes },
        saved: true,
        when: Condition::Always,
    }
}
