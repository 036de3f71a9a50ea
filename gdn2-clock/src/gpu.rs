//! The GPU that is simulated: rates of one GPU, latencies of its architecture, and how its matrix units are explained.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

const TABLE: &str = include_str!("architectures.json");

/// Latencies and queues of an architecture, clocks unless their entry of the table says otherwise. Units and sources
/// stand in `architectures.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Latencies {
    pub shared: f64,
    pub tiles: f64,
    pub shared_store: f64,
    pub shuffle: f64,
    pub transpose: f64,
    pub special: f64,
    pub conversion: f64,
    pub constant: f64,
    pub special_register: f64,
    pub fence: f64,
    pub dram: f64,
    pub l1: f64,
    pub bulk: f64,
    pub store: f64,
    pub barrier: f64,
    pub mbarrier: f64,
    pub wake: f64,
    pub arrive: f64,
    pub branch: f64,
    pub to_uniform: f64,
    pub other: f64,
    pub queue_rate: f64,
    pub uniform_rate: f64,
    pub wgmma_lead: f64,
    pub wgmma_tail_shared: f64,
    pub wgmma_tail_registers: f64,
    pub wgmma_queue: f64,
    pub wgmma_issue_shared: f64,
    pub wgmma_issue_registers: f64,
    pub shared_queue: f64,
    pub most_bytes: f64,
    pub block_start: f64,
}

#[derive(Deserialize)]
struct Table {
    rows: Vec<String>,
    latencies: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    values: Vec<f64>,
    #[allow(dead_code)]
    unit: String,
    #[allow(dead_code)]
    source: String,
}

/// An architecture that the table lacks, or a table that does not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GpuError {
    /// No row.
    #[error("no latencies of `{arch}`: use {known}")]
    UnknownArchitecture {
        /// What was asked for.
        arch: String,
        /// What there is.
        known: String,
    },
    /// The table of latencies is damaged.
    #[error("table of latencies: {0}")]
    Damaged(#[from] serde_json::Error),
}

impl Latencies {
    /// The row of an architecture, named as compilers name it.
    ///
    /// # Errors
    /// No such row.
    pub fn of(arch: &str) -> Result<Latencies, GpuError> {
        let table: Table = serde_json::from_str(TABLE)?;
        let Some(column) = table.rows.iter().position(|row| row == arch) else {
            return Err(GpuError::UnknownArchitecture { arch: arch.to_owned(), known: table.rows.join(", ") });
        };
        let values = table.latencies.iter().map(|(name, entry)| {
            let value = entry.values.get(column).copied().unwrap_or_default();
            (name.clone(), serde_json::json!(value))
        });
        Ok(serde_json::from_value(serde_json::Value::Object(values.collect()))?)
    }
}

/// How long a warpgroup's product keeps the matrix pipe and its accumulator. Published times refute the data sheet's rate
/// for products that follow each other on one accumulator; which of two explanations holds no published row decides.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Explanation {
    /// The data sheet's rate.
    DataSheet,
    /// The pipe takes that many times the data sheet's clocks.
    Pipe(f64),
    /// The pipe keeps the data sheet's rate; from one product to the next on the same accumulator it takes that many times
    /// its clocks.
    Chain(f64),
}

/// How many times its surplus on the pipe a product's surplus in a chain is. Fitted each alone, twice the data sheet's
/// clocks on the pipe and three times from product to product meet published times about as well.
const CHAIN_OVER_PIPE: f64 = 2.0;

impl Explanation {
    /// The two that predictions carry, as one number says how far products are off the data sheet's rate: 1 for twice its
    /// clocks on the pipe, or three times in a chain.
    pub const fn both(surplus: f64) -> [Explanation; 2] {
        [Explanation::Pipe(1.0 + surplus), Explanation::Chain(1.0 + CHAIN_OVER_PIPE * surplus)]
    }

    /// What tells it from others in a table.
    pub(crate) fn key(self) -> (u8, u64) {
        match self {
            Explanation::DataSheet => (0, 0),
            Explanation::Pipe(times) => (1, times.to_bits()),
            Explanation::Chain(times) => (2, times.to_bits()),
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Explanation::DataSheet => f.write_str("the data sheet's rate"),
            Explanation::Pipe(times) => write!(f, "{times:.2} times the data sheet's clocks on the pipe"),
            Explanation::Chain(times) => write!(f, "{times:.2} times the data sheet's clocks in a chain"),
        }
    }
}

/// A GPU's rates.
#[derive(Clone, Debug, PartialEq)]
pub struct Gpu {
    /// Latencies of its architecture.
    pub latency: Latencies,
    /// Streaming multiprocessors.
    pub sms: u32,
    /// Clocks a microsecond.
    pub clock: f64,
    /// Memory, bytes a microsecond, as a copy attains them.
    pub dram: f64,
    /// Level-two cache, bytes a clock, whole GPU.
    pub l2: f64,
    /// Microseconds of a launch.
    pub launch: f64,
    /// 16-bit multiply-adds a clock and multiprocessor by instructions of a warp.
    pub mma: f64,
    /// The same by instructions of a warpgroup.
    pub wgmma: f64,
    /// Lanes a clock and multiprocessor: single-precision arithmetic,
    pub float_lanes: f64,
    /// integers,
    pub integer_lanes: f64,
    /// conversions to packed 16 bits,
    pub convert_lanes: f64,
    /// special functions.
    pub special_lanes: f64,
    /// Passes over shared memory a clock.
    pub shared_passes: f64,
    /// Limits of a multiprocessor.
    pub limits: Limits,
}

/// What a multiprocessor holds: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Registers.
    pub registers: u32,
    /// Registers of a thread are dealt out in multiples of this.
    pub register_granule: u32,
    /// Shared memory, bytes.
    pub shared: u32,
    /// Shared memory that each block costs beyond its own.
    pub shared_reserved: u32,
    /// Threads.
    pub threads: u32,
    /// Blocks.
    pub blocks: u32,
}

impl Gpu {
    fn per_scheduler(lanes: f64) -> f64 {
        128.0 / lanes.max(1.0)
    }

    pub(crate) fn float_rate(&self) -> f64 {
        Gpu::per_scheduler(self.float_lanes)
    }

    pub(crate) fn integer_rate(&self) -> f64 {
        Gpu::per_scheduler(self.integer_lanes)
    }

    pub(crate) fn convert_rate(&self) -> f64 {
        Gpu::per_scheduler(self.convert_lanes)
    }

    pub(crate) fn special_rate(&self) -> f64 {
        Gpu::per_scheduler(self.special_lanes)
    }

    /// Blocks of a kernel that a multiprocessor holds at once.
    pub fn resident(&self, threads: u32, registers: u32, shared: u32) -> u32 {
        let (limits, warps) = (self.limits, threads.div_ceil(32).max(1));
        let registers = registers.max(1).div_ceil(limits.register_granule) * limits.register_granule * warps * 32;
        let by = [
            limits.blocks,
            limits.registers / registers.max(1),
            limits.shared / (shared + limits.shared_reserved).max(1),
            limits.threads / (warps * 32),
        ];
        by.into_iter().min().unwrap_or(1).max(1)
    }

    /// Bytes a clock that each multiprocessor gets where so many are busy.
    pub fn share(&self, busy: u64) -> f64 {
        (self.l2 / busy.clamp(1, u64::from(self.sms.max(1))) as f64).min(self.latency.most_bytes)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_latency_has_a_value_for_every_architecture_and_a_source() {
        let table: Table = serde_json::from_str(TABLE).unwrap();
        for (name, entry) in &table.latencies {
            assert_eq!(entry.values.len(), table.rows.len(), "{name}");
            assert!(entry.values.iter().all(|value| *value > 0.0), "{name}");
            assert!(!entry.source.is_empty() && !entry.unit.is_empty(), "{name}");
        }
        for arch in &table.rows {
            assert!(Latencies::of(arch).unwrap().shared > 0.0, "{arch}");
        }
        assert!(Latencies::of("sm_70").is_err());
    }
}
