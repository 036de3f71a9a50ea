//! The only legality table: each architecture's limits, with their sources.

use serde::{Deserialize, Serialize};

/// An architecture the compiler generates for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Arch {
    /// Ampere, A100.
    #[serde(rename = "sm_80")]
    Sm80,
    /// Ampere, consumer and A40.
    #[serde(rename = "sm_86")]
    Sm86,
    /// Ada.
    #[serde(rename = "sm_89")]
    Sm89,
    /// Hopper with its architecture-specific instructions.
    #[serde(rename = "sm_90a")]
    Sm90a,
    /// Consumer Blackwell.
    #[serde(rename = "sm_120")]
    Sm120,
}
