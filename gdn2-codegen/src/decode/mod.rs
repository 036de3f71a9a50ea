//! The decode pass: one token, or a short run of tokens, with the state in registers. One kernel, no workspace.
//! Chooses what a schedule leaves open, checks it against the architecture, and divides a head's state.
//!
//! A block serves one sequence, one value head and one slice of the value dim. Its warps lie in a grid along K and V;
//! sums over K go through the lanes of a warp and then through shared memory, once per token. A row of state is read
//! and written in 128 neighbouring bytes (64 where a block has only 16 values), a lane's share of it in 16.

mod computed;
mod print;

pub(crate) use print::view;

use crate::abi::{Condition, Extent, Factor};
use crate::arch::Arch;
use crate::gates::{fixed, fixed_bytes};
use crate::kernel::{Illegal, Kernel, Launch, LaunchRole};
use crate::params::inference;
use crate::plan::{Fold, Plan};
use crate::schedule::{Decode, Overrides, Schedule};
use crate::shared::{ALIGNMENT, Region, shared_bytes};
use gdn2_dsl::prologue::GateOf;
use gdn2_dsl::{Dtype, Rule, StateLayout};

/// Registers a thread needs beyond its state, the inputs of two tokens and a token's sums: factors and addresses.
const OVERHEAD_REGISTERS: u32 = 48;

/// Blocks that every architecture can hold at once (CUDA C++ Programming Guide, "Technical Specifications per Compute
/// Capability": 16 on 8.6, more on the others).
const RESIDENT_BLOCKS_MAX: u32 = 16;

/// Warps a block is given along K and V together when the schedule does not say: more would leave a thread too few
/// registers for its tiles.
const DEFAULT_WARPS_MAX: u32 = 8;

/// One warp's share of a state: lanes along K and V, each with a tile whose rows are 16 bytes in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lanes {
    /// Lanes along K.
    pub(crate) key_lanes: u32,
    /// Lanes along V.
    pub(crate) value_lanes: u32,
    /// Keys of a lane's tile.
    pub(crate) tile_keys: u32,
    /// Values of a lane's tile.
    pub(crate) tile_values: u32,
}

/// How a head's state is divided among blocks, warps, lanes and registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Division {
    /// A warp's lanes.
    pub(crate) lanes: Lanes,
    /// Warps of a block along V.
    pub(crate) value_warps: u32,
    /// Warps of a block along K.
    pub(crate) key_warps: u32,
    /// Tiles a thread holds, one after another along K.
    pub(crate) key_steps: u32,
}

impl Lanes {
    /// A warp covers 32 keys of 32 values, or 64 keys where a slice has only 16 values.
    fn new(rule: &Rule, value_split: u32) -> Lanes {
        let values = if rule.value_dim.div_ceil(value_split) <= 16 { 16 } else { 32 };
        let (tile_keys, tile_values) = match rule.state {
            StateLayout::Kv => (8, 4),
            StateLayout::Vk => (4, 8),
        };
        let value_lanes = values / tile_values;
        Lanes { key_lanes: 32 / value_lanes, value_lanes, tile_keys, tile_values }
    }

    fn keys(self) -> u32 {
        self.key_lanes * self.tile_keys
    }

    fn values(self) -> u32 {
        self.value_lanes * self.tile_values
    }

    /// Warp tiles that cover K.
    fn key_tiles(self, rule: &Rule) -> u32 {
        rule.key_dim.div_ceil(self.keys())
    }

    /// Warps that cover a slice of V.
    fn value_warps(self, rule: &Rule, value_split: u32) -> u32 {
        rule.value_dim.div_ceil(value_split).div_ceil(self.values())
    }
}

impl Division {
    /// The division a checked schedule stands for.
    pub(crate) fn new(rule: &Rule, numbers: Decode) -> Division {
        let lanes = Lanes::new(rule, numbers.value_split);
        let value_warps = lanes.value_warps(rule, numbers.value_split);
        let key_warps = (numbers.warps / value_warps).max(1);
        Division { lanes, value_warps, key_warps, key_steps: lanes.key_tiles(rule).div_ceil(key_warps) }
    }

    /// Values of a block's slice.
    pub(crate) fn block_values(self) -> u32 {
        self.value_warps * self.lanes.values()
    }
}

/// Fills in what the overrides leave open: slices of 32 values, which keep the inputs that every slice reads again
/// within 4 % of the state's bytes, and one tile per thread.
pub(crate) fn complete(rule: &Rule, given: &Overrides) -> Decode {
    let value_split = given.get("value_split").unwrap_or(rule.value_dim.div_ceil(32));
    let warps = given.get("warps").unwrap_or_else(|| {
        let lanes = Lanes::new(rule, value_split);
        let value_warps = lanes.value_warps(rule, value_split);
        value_warps * lanes.key_tiles(rule).min(DEFAULT_WARPS_MAX / value_warps).max(1)
    });
    Decode { value_split, warps }
}

/// Fixes every number of the decode pass.
pub(crate) fn bind(rule: &Rule, plan: Plan, numbers: Decode, arch: Arch) -> Result<Kernel, Illegal> {
    let division = check(rule, &plan, numbers, arch)?;
    let shared = shared_map(rule, &plan, division);
    let launch = Launch {
        role: LaunchRole::Whole,
        entry: format!("{}_decode", rule.name),
        params: inference(rule, &plan, None),
        grid: Extent { factors: vec![Factor::Sequences, Factor::ValueHeads], times: u64::from(numbers.value_split) },
        block: numbers.warps * 32,
        shared_bytes: shared_bytes(&shared),
        shared_alignment: ALIGNMENT,
        shared,
        when: Condition::Always,
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
    let division = Division::new(rule, numbers);
    let Division { lanes, value_warps, .. } = division;
    if division.block_values() * (value_split - 1) >= rule.value_dim {
        return Err(Illegal::new(
            "value_split",
            format!("no slice of {} values left empty", division.block_values()),
            value_split,
        ));
    }
    if !warps.is_multiple_of(value_warps) || warps / value_warps > lanes.key_tiles(rule) {
        let most = value_warps * lanes.key_tiles(rule);
        return Err(Illegal::new("warps", format!("a multiple of {value_warps} up to {most}"), warps));
    }
    let registers = registers(rule, plan, division);
    let granted = limits.registers_per_thread.min(limits.registers_per_block / threads / 8 * 8);
    if registers > granted {
        return Err(Illegal::new("registers", format!("{granted} per thread at {threads} threads"), registers));
    }
    Ok(division)
}

/// Registers of a thread: its tiles, its share of the inputs of this token and the next, and what it sums and writes.
fn registers(rule: &Rule, plan: &Plan, division: Division) -> u32 {
    let words = |fold: Fold, numbers: u32, storage: Dtype| match fold {
        Fold::Absent => 0,
        Fold::Pair | Fold::Row => 1,
        Fold::Operand => numbers * storage.bytes() / 4,
    };
    let (keys, values) = (division.key_steps * division.lanes.tile_keys, division.lanes.tile_values);
    let token = words(Fold::Operand, 2 * keys + values, rule.dtype)
        + words(plan.decay, keys, plan.decay_storage)
        + words(plan.erase, keys, plan.erase_storage)
        + if plan.tied { 0 } else { words(plan.write, values, plan.write_storage) };
    // Computed gates and normalised rows are held beside what they are made of.
    let along = |gate: GateOf, numbers: u32| {
        let there = plan.computes(gate).is_some();
        if there && plan.fold(gate) == Fold::Operand { numbers } else { 0 }
    };
    let computed = along(GateOf::Decay, keys) + along(GateOf::Erase, keys) + along(GateOf::Write, values);
    keys * values + 2 * token + computed + 4 * values + OVERHEAD_REGISTERS
}

/// Blocks the registers of a streaming multiprocessor are to hold. The compiler is told: left to itself it spills where
/// that makes room for one more.
pub(crate) fn resident_blocks(rule: &Rule, plan: &Plan, numbers: Decode, arch: Arch) -> u32 {
    let limits = arch.limits();
    let registers = registers(rule, plan, Division::new(rule, numbers)).next_multiple_of(limits.register_granule);
    (limits.registers_per_block / (registers * numbers.warps * 32)).clamp(1, RESIDENT_BLOCKS_MAX)
}

/// The map of dynamic shared memory: each warp's sums, two buffers; fixed parts of formulas.
fn shared_map(rule: &Rule, plan: &Plan, division: Division) -> Vec<Region> {
    let sums = 2 * division.key_warps * division.block_values() * 4;
    let dots = (2 * division.key_warps * division.value_warps * 4).next_multiple_of(16);
    let erases = plan.erase != Fold::Absent;
    let mut map: Vec<Region> = Vec::new();
    for (name, bytes, wanted) in [("read", sums, true), ("erased", sums, erases), ("dots", dots, erases)] {
        if wanted {
            let offset = shared_bytes(&map);
            map.push(Region { name: name.to_owned(), offset, bytes });
        }
    }
    for part in fixed(rule, plan) {
        let offset = shared_bytes(&map);
        map.push(Region { name: part.name.clone(), offset, bytes: fixed_bytes(rule, &part) });
    }
    map
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use crate::arch::Arch;
    use crate::pass::Pass;
    use crate::schedule::Schedule;
    use gdn2_dsl::{Rule, StateLayout};

    fn rule(key_dim: u32, value_dim: u32, state: StateLayout) -> Rule {
        let text = "rule r { decay: channel as f32; erase: channel as f32; write: channel as f32; \
                    key_dim: 64; value_dim: 64; dtype: f16; }";
        let rule = gdn2_dsl::parse_file(text).unwrap().remove(0);
        Rule { state, ..rule.with_dims(key_dim, value_dim).unwrap() }
    }

    fn bind(rule: &Rule, arch: Arch, text: &str) -> Result<String, String> {
        let schedule = Schedule::from_overrides(rule, Pass::Decode, arch, text).unwrap();
        crate::bind(rule, Pass::Decode, schedule, arch).map_err(|illegal| illegal.field).map(|_| schedule.to_string())
    }

    #[test]
    fn the_built_in_schedule_serves_every_shape_everywhere() {
        for state in [StateLayout::Kv, StateLayout::Vk] {
            for key_dim in (16..=256).step_by(16) {
                for value_dim in (16..=512).step_by(16) {
                    for arch in Arch::ALL {
                        let bound = bind(&rule(key_dim, value_dim, state), arch, "");
                        assert!(bound.is_ok(), "{key_dim} {value_dim} {state:?} {arch}: {bound:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_does_not_divide_is_refused_by_field() {
        let rule = rule(128, 80, StateLayout::Kv);
        let refused = |text| bind(&rule, Arch::Sm80, text).unwrap_err();
        assert_eq!(refused("value_split=6"), "value_split"); // five tiles of 16 values
        assert_eq!(refused("value_split=4"), "value_split"); // slices of 32 values: the fourth would be empty
        assert_eq!(refused("value_split=1,warps=4"), "warps"); // three warps along V, or a multiple
        assert_eq!(refused("warps=5"), "warps"); // K is four tiles of 32
        assert_eq!(refused("warps=33"), "warps");
        assert_eq!(refused("warps=1"), "registers");
    }
}
