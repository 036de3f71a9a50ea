//! A kernel's text made ready, and a launch of it timed.

use crate::cubin::{self, CubinError, Entry};
use crate::gpu::{Explanation, Gpu};
use crate::launch::Launch;
use crate::sass::{Program, SassError};
use crate::sim::{Outcome, Role, SimulationError, Wait, costs, run};
use crate::walk::{Block, WalkError, walk};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

/// Blocks of a grid that are walked first; where they differ, more are.
const FEW: u64 = 3;
const MANY: u64 = 16;

/// What cannot be timed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClockError {
    /// The cubin.
    #[error(transparent)]
    Cubin(#[from] CubinError),
    /// The disassembly.
    #[error(transparent)]
    Sass(#[from] SassError),
    /// The walk.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// The simulation.
    #[error(transparent)]
    Simulation(#[from] SimulationError),
}

/// A kernel: its machine code and what its cubin says of it.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Facts.
    pub entry: Entry,
    /// Machine code.
    pub program: Program,
}

impl Kernel {
    /// Reads a kernel. `disassembly` is what `nvdisasm -c -hex` says of the cubin; without a name the cubin's only kernel
    /// is meant.
    ///
    /// # Errors
    /// No such kernel, or text that is no disassembly of it.
    pub fn read(cubin: &[u8], disassembly: &str, name: Option<&str>) -> Result<Kernel, ClockError> {
        let entry = cubin::entry(cubin, name)?;
        let program = Program::parse(disassembly, &entry.name)?;
        Ok(Kernel { entry, program })
    }

    /// Whether it has products of a warpgroup, whose cost two explanations give differently.
    pub fn uses_wgmma(&self) -> bool {
        self.program.instructions.iter().any(|one| matches!(one.name.as_str(), "HGMMA" | "QGMMA" | "IGMMA"))
    }

    /// Walks blocks that stand for the grid: its ends and its middle, more where these do not do the same.
    ///
    /// # Errors
    /// What a walk gives.
    pub fn sample(&self, launch: &Launch) -> Result<Sample, ClockError> {
        let blocks = launch.blocks();
        let mut sample = Sample { kinds: Vec::new(), of: Vec::new(), blocks, simulated: RefCell::default() };
        for many in [FEW, MANY] {
            let many = many.min(blocks);
            sample.of.clear();
            for place in 0..many {
                let index = if many < 2 { 0 } else { place * (blocks - 1) / (many - 1) };
                let block = walk(&self.program, &self.entry, launch, launch.coordinates(index))?;
                let kind = match sample.kinds.iter().position(|kind| kind.works_like(&block)) {
                    Some(kind) => kind,
                    None => {
                        sample.kinds.push(block);
                        sample.kinds.len() - 1
                    }
                };
                sample.of.push(kind);
            }
            if sample.kinds.len() < 2 {
                break;
            }
        }
        Ok(sample)
    }

    /// Blocks that a multiprocessor holds at once.
    pub fn resident(&self, launch: &Launch, gpu: &Gpu) -> u32 {
        let entry = &self.entry;
        gpu.resident(launch.threads(), entry.registers, launch.dynamic_shared + entry.static_shared)
    }

    /// The clocks that `blocks` blocks like those of a sample take on a GPU, always the same one of a sample. The fullest multiprocessor decides; where it
    /// runs many blocks alike, a straight line goes on from two numbers of them.
    ///
    /// # Errors
    /// A simulation that stands still.
    pub fn clocks(
        &self,
        launch: &Launch,
        sample: &Sample,
        blocks: u64,
        gpu: &Gpu,
        explanation: Explanation,
    ) -> Result<Clocks, ClockError> {
        let mut ready = None;
        let busy = blocks.min(u64::from(gpu.sms)).max(1);
        let mine = blocks.div_ceil(u64::from(gpu.sms.max(1))).max(1);
        let resident = u64::from(self.resident(launch, gpu)).min(mine);
        let mut of = |kind: usize, count: u64| -> Result<Outcome, ClockError> {
            let key = (kind, count, resident, gpu.share(busy).to_bits(), explanation.key());
            if let Some(known) = sample.simulated.borrow().get(&key) {
                return Ok(known.clone());
            }
            let costs = ready.get_or_insert_with(|| costs(&self.program, gpu));
            let queue: Vec<&Block> = (0..count).filter_map(|_| sample.kinds.get(kind)).collect();
            let outcome = run(costs, &queue, resident as u32, gpu, explanation, busy)?;
            sample.simulated.borrow_mut().insert(key, outcome.clone());
            Ok(outcome)
        };
        let largest = sample.largest();
        let (total, outcome) = if sample.kinds.len() > 1 {
            let mut times = Vec::new();
            for kind in 0..sample.kinds.len() {
                times.push(of(kind, resident)?);
            }
            let clocks: Vec<f64> = times.iter().map(|outcome| outcome.clocks).collect();
            let total = makespan(sample, blocks, u64::from(gpu.sms) * resident, &clocks);
            (total, times.swap_remove(largest))
        } else if mine <= 4 * resident {
            let outcome = of(0, mine)?;
            (outcome.clocks, outcome)
        } else {
            let (few, many) = (of(0, 2 * resident)?, of(0, 4 * resident)?);
            let each = (many.clocks - few.clocks) / (2 * resident) as f64;
            (many.clocks + each * (mine - 4 * resident) as f64, many)
        };
        Ok(Clocks { total, resident: resident as u32, waves: blocks.div_ceil(busy * resident), roles: outcome.roles })
    }
}

/// When the last block ends, if each in turn goes where one has ended.
fn makespan(sample: &Sample, blocks: u64, places: u64, clocks: &[f64]) -> f64 {
    let mut free: BinaryHeap<Reverse<u64>> = (0..places.min(blocks)).map(|_| Reverse(0)).collect();
    let mut last = 0;
    for block in 0..blocks {
        let Some(Reverse(from)) = free.pop() else { break };
        let place = block * (sample.of.len() as u64 - 1) / blocks.saturating_sub(1).max(1);
        let kind = sample.of.get(place as usize).copied().unwrap_or(0);
        let end = from + clocks.get(kind).copied().unwrap_or(0.0).round() as u64;
        last = last.max(end);
        free.push(Reverse(end));
    }
    last as f64
}

/// Blocks that stand for a grid.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Blocks that differ in what they do.
    pub kinds: Vec<Block>,
    /// The kind of each block that was looked at, from the grid's first to its last.
    pub of: Vec<usize>,
    /// Blocks of the grid.
    pub blocks: u64,
    simulated: RefCell<HashMap<Simulated, Outcome>>,
}

/// What a simulation of a sample's blocks depends on: their kind, how many, how many at once, bytes a clock, how products
/// are explained.
type Simulated = (usize, u64, u64, u64, (u8, u64));

impl Sample {
    /// The kind that most blocks have.
    fn largest(&self) -> usize {
        let count = |kind: usize| self.of.iter().filter(|own| **own == kind).count();
        (0..self.kinds.len()).max_by_key(|kind| count(*kind)).unwrap_or(0)
    }

    /// A block's mean of something over the grid: what was looked at stands for the blocks behind it, the grid's last block
    /// for itself alone.
    pub fn mean(&self, of: impl Fn(&Block) -> f64) -> f64 {
        let last = self.of.len().saturating_sub(1);
        let each = self.blocks.saturating_sub(1) as f64 / last.max(1) as f64;
        let weight = |place: usize| if place == last { 1.0 } else { each };
        let of = |kind: usize| self.kinds.get(kind).map_or(0.0, &of);
        let sum: f64 = self.of.iter().enumerate().map(|(place, kind)| weight(place) * of(*kind)).sum();
        sum / (each * last as f64 + 1.0)
    }

    /// Bytes that a mean block moves between its multiprocessor and the level-two cache.
    pub fn block_bytes(&self) -> f64 {
        self.mean(|block| f64::from(block.distinct) * 32.0 + block.bulk_bytes as f64)
    }

    /// What was assumed, with how often.
    pub fn notes(&self) -> BTreeMap<String, u32> {
        let mut notes = BTreeMap::new();
        for (note, times) in self.kinds.iter().flat_map(|kind| &kind.notes) {
            *notes.entry(note.clone()).or_default() += times;
        }
        notes
    }
}

/// A launch's clocks under one explanation.
#[derive(Clone, Debug, PartialEq)]
pub struct Clocks {
    /// On the fullest multiprocessor.
    pub total: f64,
    /// Blocks resident on it.
    pub resident: u32,
    /// Waves of the grid.
    pub waves: u64,
    /// The warps of its first block, of the most frequent kind.
    pub roles: Vec<Role>,
}

/// What decides a launch's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decided {
    /// The launch itself.
    Launch,
    /// Memory.
    Memory,
    /// What the warp that waits least for others waits for most.
    Role(Wait),
}

impl std::fmt::Display for Decided {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Decided::Launch => f.write_str("launch"),
            Decided::Memory => f.write_str("memory"),
            Decided::Role(wait) => f.write_str(wait.name()),
        }
    }
}

/// Warps that do alike, and what they wait for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoleTime {
    /// Warps, first and last.
    pub warps: (usize, usize),
    /// Instructions of its busiest warp.
    pub issued: usize,
    /// The share of its time that its busiest warp waits for other warps: barriers and mbarriers.
    pub idle: f64,
    /// What its busiest warp waits for, in shares of its time, the largest first.
    pub waits: Vec<(Wait, f64)>,
}

const FOR_OTHERS: [Wait; 2] = [Wait::Barrier, Wait::Mbarrier];

fn idle(role: &Role) -> f64 {
    FOR_OTHERS.iter().map(|wait| role.waits[*wait as usize]).sum::<f64>() / role.clocks.max(1.0)
}

/// Neighbouring warpgroups whose warps issue about as much do alike.
pub fn roles(warps: &[Role]) -> Vec<RoleTime> {
    let mut groups: Vec<Vec<&Role>> = Vec::new();
    for group in warps.chunks(4) {
        let most = |group: &[&Role]| group.iter().map(|role| role.issued).max().unwrap_or(0) as f64;
        let group: Vec<&Role> = group.iter().collect();
        match groups.last_mut() {
            Some(last) if (most(last) / most(&group).max(1.0)).ln().abs() < 0.05 => last.extend(group),
            _ => groups.push(group),
        }
    }
    let of = |group: &Vec<&Role>| {
        let busiest = group.iter().min_by(|a, b| idle(a).total_cmp(&idle(b)))?;
        let mut waits: Vec<(Wait, f64)> =
            Wait::ALL.iter().map(|wait| (*wait, busiest.waits[*wait as usize] / busiest.clocks.max(1.0))).collect();
        waits.retain(|(_, share)| *share >= 0.01);
        waits.sort_by(|a, b| b.1.total_cmp(&a.1));
        let warps = (group.first()?.warp, group.last()?.warp);
        Some(RoleTime { warps, issued: busiest.issued, idle: idle(busiest), waits })
    };
    groups.iter().filter_map(of).collect()
}

impl Clocks {
    /// What decides: the role that waits least for others, and what it waits for most.
    pub fn decided(&self) -> Decided {
        let roles = roles(&self.roles);
        let busiest = roles.iter().min_by(|a, b| a.idle.total_cmp(&b.idle));
        let first = busiest.and_then(|role| role.waits.iter().find(|(wait, _)| !FOR_OTHERS.contains(wait)));
        Decided::Role(first.map_or(Wait::Own, |(wait, _)| *wait))
    }
}
