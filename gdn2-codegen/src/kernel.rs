//! A `Kernel` has every number fixed. Making one (`bind`) may refuse; nothing after it can.

use crate::abi::{Extent, Param, Workspace};
use crate::arch::Arch;
use crate::schedule::Schedule;
use gdn2_dsl::Rule;
use serde::{Deserialize, Serialize};

/// Which computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pass {
    /// Chunked forward.
    Forward,
    /// Chunked forward that also writes what backward wants kept.
    ForwardForBackward,
    /// Chunked backward.
    Backward,
    /// One token, or a short run of tokens, per sequence.
    Decode,
}

/// A schedule that cannot serve a rule on an architecture: the field, the limit, what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("illegal: {field} {got}, limit {limit}")]
pub struct Illegal {
    /// The schedule field or derived quantity.
    pub field: String,
    /// The limit, with its unit.
    pub limit: String,
    /// The value asked for.
    pub got: String,
}

/// One kernel launch of a pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// Entry name in the CUDA text, stable across versions of the same rule, pass and schedule.
    pub entry: String,
    /// Parameters in signature order.
    pub params: Vec<Param>,
    /// Blocks along x; y and z are 1.
    pub grid: Extent,
    /// Threads per block along x.
    pub block: u32,
    /// Dynamic shared memory in bytes.
    pub shared_bytes: u32,
}

/// A pass of a rule with every number fixed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Kernel {
    /// The rule.
    pub rule: Rule,
    /// The pass.
    pub pass: Pass,
    /// The schedule it was bound with.
    pub schedule: Schedule,
    /// The architecture it was bound for.
    pub arch: Arch,
    /// Launches, in order, on one stream.
    pub launches: Vec<Launch>,
    /// Scratch the launches share.
    pub workspaces: Vec<Workspace>,
}

/// Self-contained CUDA text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaSource {
    /// The text.
    pub text: String,
    /// blake3 of the text, hexadecimal.
    pub hash: String,
}
