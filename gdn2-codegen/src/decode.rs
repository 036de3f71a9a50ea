//! The decode pass: one token, or a short run of tokens, with the state in registers. One kernel, no workspace.
//! Chooses what a schedule leaves open, checks it against the architecture, and divides a head's state.
//!
//! A block serves one sequence, one value head and one slice of the value dim. Its warps lie in a grid along K and V;
//! sums over K go through the lanes of a warp and then through shared memory, once per token. A row of state is read
//! and written in 128 neighbouring bytes (64 where a block has only 16 values), a lane's share of it in 16.

use crate::abi::{Extent, Factor};
use crate::arch::Arch;
use crate::kernel::{Illegal, Kernel, Launch, Region};
use crate::plan::{self, Fold, Plan};
use crate::schedule::{Decode, Overrides, Schedule};
use crate::{forward, kernel::Pass};
use gdn2_dsl::{Dtype, Rule, StateLayout};

/// Registers a thread needs beyond its state and the inputs of two tokens: sums, factors, addresses.
const OVERHEAD_REGISTERS: u32 = 48;

/// Warps a block is given along K and V together when the schedule does not say: more would leave a thread too few
/// registers for its tiles.
const DEFAULT_WARPS_MAX: u32 = 16;

/// How a head's state is divided among blocks, warps, lanes and registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Division {
    /// Values of a block's slice.
    pub(crate) block_values: u32,
    /// Warps of a block along V.
    pub(crate) value_warps: u32,
    /// Warps of a block along K.
    pub(crate) key_warps: u32,
    /// Tiles a thread holds, one after another along K.
    pub(crate) key_steps: u32,
    /// Lanes of a warp along K.
    pub(crate) key_lanes: u32,
    /// Lanes of a warp along V.
    pub(crate) value_lanes: u32,
    /// Keys of a thread's tile.
    pub(crate) tile_keys: u32,
    /// Values of a thread's tile.
    pub(crate) tile_values: u32,
}

/// The division of a block with `warps` warps; `None` where they do not divide.
fn divide(rule: &Rule, value_split: u32, warps: u32) -> Option<Division> {
    let narrow = rule.value_dim.div_ceil(16).div_ceil(value_split) == 1;
    let (tile_keys, tile_values) = match rule.state {
        StateLayout::Kv => (8, 4),
        StateLayout::Vk => (4, 8),
    };
    let value_lanes = if narrow { 16 } else { 32 } / tile_values;
    let key_lanes = 32 / value_lanes;
    let value_warps = rule.value_dim.div_ceil(value_split).div_ceil(value_lanes * tile_values);
    let key_warps = warps / value_warps;
    let whole = key_warps > 0 && warps.is_multiple_of(value_warps);
    whole.then(|| Division {
        block_values: value_warps * value_lanes * tile_values,
        value_warps,
        key_warps,
        key_steps: rule.key_dim.div_ceil(key_lanes * tile_keys * key_warps),
        key_lanes,
        value_lanes,
        tile_keys,
        tile_values,
    })
}

/// Fills in what the overrides leave open: slices of 32 values, which keep the inputs that every slice reads again
/// within 4 % of the state's bytes, and one tile per thread.
pub(crate) fn complete(rule: &Rule, given: &Overrides) -> Decode {
    let value_split = given.get("value_split").unwrap_or(rule.value_dim.div_ceil(32));
    let warps = given.get("warps").unwrap_or_else(|| {
        let value_warps = (1..).find(|&warps| divide(rule, value_split, warps).is_some()).unwrap_or(1);
        let steps = divide(rule, value_split, value_warps).map_or(1, |division| division.key_steps);
        value_warps * steps.min(DEFAULT_WARPS_MAX / value_warps).max(1)
    });
    Decode { value_split, warps }
}

/// Fixes every number of the decode pass.
pub(crate) fn bind(rule: &Rule, plan: Plan, numbers: Decode, arch: Arch) -> Result<Kernel, Illegal> {
    let division = check(rule, &plan, numbers, arch)?;
    let shared = shared_map(&plan, division);
    let launch = Launch {
        entry: format!("{}_decode", rule.name),
        params: forward::params(&plan),
        grid: Extent { factors: vec![Factor::Sequences, Factor::ValueHeads], times: u64::from(numbers.value_split) },
        block: numbers.warps * 32,
        shared_bytes: forward::shared_bytes(&shared),
        shared,
    };
    Ok(Kernel {
        rule: rule.clone(),
        pass: plan.pass,
        plan,
        schedule: Schedule::Decode(numbers),
        arch,
        launches: vec![launch],
        workspaces: Vec::new(),
    })
}

fn check(rule: &Rule, plan: &Plan, numbers: Decode, arch: Arch) -> Result<Division, Illegal> {
    let limits = arch.limits();
    let Decode { value_split, warps } = numbers;
    let tiles = rule.value_dim.div_ceil(16);
    if value_split == 0 || value_split > tiles {
        return Err(Illegal::new("value_split", format!("1 to {tiles} blocks of 16 value rows"), value_split));
    }
    let threads = warps.saturating_mul(32);
    if warps == 0 || threads > limits.threads_per_block {
        return Err(Illegal::new("warps", format!("1 to {} warps", limits.threads_per_block / 32), warps));
    }
    let Some(division) = divide(rule, value_split, warps) else {
        let slice = rule.value_dim.div_ceil(value_split);
        return Err(Illegal::new("warps", format!("a multiple of {}, 32 values of a slice each", slice.div_ceil(32)), warps));
    };
    if division.block_values * (value_split - 1) >= rule.value_dim {
        return Err(Illegal::new("value_split", "no block left empty", value_split));
    }
    let keys = division.key_lanes * division.tile_keys;
    if division.key_warps > rule.key_dim.div_ceil(keys) {
        let most = division.value_warps * rule.key_dim.div_ceil(keys);
        return Err(Illegal::new("warps", format!("at most {most}, {keys} keys each"), warps));
    }
    let registers = registers(rule, plan, division);
    let granted = limits.registers_per_thread.min(limits.registers_per_block / threads / 8 * 8);
    if registers > granted {
        return Err(Illegal::new("registers", format!("{granted} per thread at {threads} threads"), registers));
    }
    Ok(division)
}

/// Registers of a thread: its tiles, and its share of the inputs of this token and the next.
fn registers(rule: &Rule, plan: &Plan, division: Division) -> u32 {
    let words = |fold: Fold, numbers: u32, storage: Dtype| match fold {
        Fold::Absent => 0,
        Fold::Pair | Fold::Row => 1,
        Fold::Operand => numbers * storage.bytes() / 4,
    };
    let (keys, values) = (division.key_steps * division.tile_keys, division.tile_values);
    let token = words(Fold::Operand, 2 * keys + values, rule.dtype)
        + words(plan.decay, keys, plan.decay_storage)
        + words(plan.erase, keys, plan.erase_storage)
        + if plan.tied { 0 } else { words(plan.write, values, plan.write_storage) };
    keys * values + 2 * token + OVERHEAD_REGISTERS
}

/// The map of dynamic shared memory: each warp's sums, two buffers.
fn shared_map(plan: &Plan, division: Division) -> Vec<Region> {
    let sums = 2 * division.key_warps * division.block_values * 4;
    let dots = (2 * division.key_warps * division.value_warps * 4).next_multiple_of(16);
    let erases = plan.erase != Fold::Absent;
    let mut map: Vec<Region> = Vec::new();
    for (name, bytes, wanted) in [("read", sums, true), ("erased", sums, erases), ("dots", dots, erases)] {
        if wanted {
            let offset = forward::shared_bytes(&map);
            map.push(Region { name: name.to_owned(), offset, bytes });
        }
    }
    map
}
