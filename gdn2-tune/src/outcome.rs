//! What became of a candidate. The reasons are those of the T4 result format of the autotuning community: a candidate
//! that fails is data, never the end of a sweep.

use crate::model::{LaunchLoad, longest};
use crate::published::Kind;
use gdn2_codegen::record::Time;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Why a candidate cannot win.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// The compiler refused the kernel.
    Compile,
    /// It did not answer in time, by a deadlock for instance.
    Timeout,
    /// It trapped, or took its process with it.
    Runtime,
    /// It ran and missed the error bars, or left outputs unwritten.
    Correctness,
    /// It is not legal on the architecture, or spills registers.
    Constraints,
}

impl Reason {
    /// Every reason, in the order of the reports.
    pub const ALL: [Reason; 5] =
        [Reason::Constraints, Reason::Compile, Reason::Correctness, Reason::Runtime, Reason::Timeout];

    /// Its T4 name.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::Compile => "compile",
            Reason::Timeout => "timeout",
            Reason::Runtime => "runtime",
            Reason::Correctness => "correctness",
            Reason::Constraints => "constraints",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A figure that came with a candidate: registers, shared memory, warp instructions, occupancy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// What, in a word or two.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: String,
}

/// The metric of registers that a kernel keeps in memory.
pub const SPILLED: &str = "spilled registers";

/// A candidate that ran and was right.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Its time.
    #[serde(flatten)]
    pub time: Time,
    /// What else is known about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<Metric>,
    /// What was counted and simulated of it: with a measured time beside it, what constants are refitted on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub launches: Vec<LaunchLoad>,
}

/// What became of one evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub enum Outcome {
    /// It ran and was right.
    Correct(Sample),
    /// It has a time by the clock; nobody has looked at its results, for others are faster. It wins nothing like that.
    Timed(Sample),
    /// It cannot win.
    Invalid {
        /// Why, in one word.
        reason: Reason,
        /// Why, in full.
        detail: String,
    },
}

impl Outcome {
    /// A candidate that cannot win.
    pub fn invalid(reason: Reason, detail: impl fmt::Display) -> Outcome {
        Outcome::Invalid { reason, detail: detail.to_string() }
    }

    /// The median in microseconds, of a candidate that may win.
    pub fn micros(&self) -> Option<f64> {
        match self {
            Outcome::Correct(sample) | Outcome::Timed(sample) => Some(sample.time.micros),
            Outcome::Invalid { .. } => None,
        }
    }
}

impl Sample {
    /// Whose errors a prediction's are like: what decides the launch that takes longest.
    pub fn kind(&self) -> Option<Kind> {
        let (_, clocked) = longest(&self.launches)?;
        Some(match clocked.decided.as_str() {
            "memory" => Kind::Memory,
            _ if clocked.launch.uses_wgmma() => Kind::Wgmma,
            _ => Kind::Mma,
        })
    }

    /// Whether it spills registers: it has a time because calls get it today, and wins nothing.
    pub fn spills(&self) -> bool {
        self.metric(SPILLED).is_some()
    }

    /// A metric by name.
    pub fn metric(&self, name: &str) -> Option<f64> {
        self.metrics.iter().find(|metric| metric.name == name).map(|metric| metric.value)
    }
}
