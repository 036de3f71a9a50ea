//! A `Kernel` has every number fixed. Making one ([`crate::bind`]) may refuse; nothing after it can.

use crate::abi::{Arg, Condition, Extent, Param, Tensor, Workspace};
use crate::arch::Arch;
pub use crate::pass::Pass;
use crate::plan::Plan;
use crate::schedule::Schedule;
use crate::shared::Region;
use gdn2_dsl::Rule;
use serde::{Deserialize, Serialize};

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

impl Illegal {
    /// A refusal: what, how much is allowed, how much was asked for.
    pub(crate) fn new(field: &str, limit: impl ToString, got: impl ToString) -> Illegal {
        Illegal { field: field.to_owned(), limit: limit.to_string(), got: got.to_string() }
    }
}

/// Most parameters and logits that a rule with kernels may name.
pub const MOST_NAMED: usize = 16;

/// What a launch does of its pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LaunchRole {
    /// All of it: forward over whole sequences, or decode.
    Whole,
    /// Forward in segments: what each segment makes of the state it starts from.
    SegmentMaps,
    /// Forward in segments: from the maps, the states that segments start from.
    SegmentJoin,
    /// Forward in segments: the forward kernel, a segment to a block.
    Segments,
    /// Backward: the states at chunk boundaries, where forward kept none.
    RecomputedStates,
    /// Backward: the gradient of the state at chunk boundaries, last chunk first.
    ReverseScan,
    /// Backward: every chunk's gradients.
    Gradients,
    /// Backward: sums of dq and dk over value heads that share a key head, and back through their norms.
    HeadSums,
    /// Backward: from gates' gradients those of logits, and what each chunk gives to parameters.
    GateGradients,
    /// Backward: the gradients of parameters, chunks added up.
    ParamSums,
}

/// One kernel launch of a pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// What it does.
    pub role: LaunchRole,
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
    /// What the dynamic shared memory starts on a multiple of, bytes.
    pub shared_alignment: u32,
    /// What lies in it; regions whose lives do not meet may share bytes.
    pub shared: Vec<Region>,
    /// When it is launched at all.
    pub when: Condition,
}

/// A pass of a rule with every number fixed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Kernel {
    /// The rule.
    pub rule: Rule,
    /// The pass.
    pub pass: Pass,
    /// Stages and folds.
    pub plan: Plan,
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

impl CudaSource {
    /// A text and its hash.
    pub fn new(text: String) -> CudaSource {
        let hash = blake3::hash(text.as_bytes()).to_hex().to_string();
        CudaSource { text, hash }
    }
}

impl Launch {
    /// Whether the launch is given a tensor of this kind.
    pub fn takes(&self, tensor: Tensor) -> bool {
        self.params.iter().any(|param| param.arg == Arg::Pointer(tensor))
    }
}

impl Kernel {
    /// Everything a caller needs to launch the compiled kernel, as JSON: parameters in signature order, grid and
    /// workspace formulas, block and shared bytes of each launch.
    #[cfg(feature = "json")]
    pub fn abi_json(&self) -> serde_json::Value {
        serde_json::json!({
            "rule": self.rule.name, "pass": self.pass, "arch": self.arch, "schedule": self.schedule,
            "key_dim": self.rule.key_dim, "value_dim": self.rule.value_dim, "dtype": self.rule.dtype,
            "state": self.rule.state, "workspaces": self.workspaces,
            "launches": self.launches.iter().map(|launch| serde_json::json!({
                "entry": launch.entry, "grid_x": launch.grid, "block_x": launch.block,
                "shared_bytes": launch.shared_bytes, "when": launch.when,
                "params": launch.params.iter().map(|param| serde_json::json!({
                    "name": param.name, "type": param.arg.ty(), "arg": param.arg,
                })).collect::<Vec<_>>(),
            })).collect::<Vec<_>>(),
        })
    }

    /// The schedule, as overrides, of the forward pass that keeps what this backward kernel reads; `None` where it reads
    /// nothing of the kind.
    pub fn keeping_forward(&self) -> Option<String> {
        match self.schedule {
            Schedule::Backward(numbers) if self.workspaces.iter().any(|workspace| workspace.saved) => {
                let segments =
                    if numbers.segments > 1 { format!(",segments={}", numbers.segments) } else { String::new() };
                Some(format!("chunk={}{segments}", numbers.scan.chunk))
            }
            Schedule::Forward(_) | Schedule::Backward(_) | Schedule::Decode(_) => None,
        }
    }

    /// What the kernel takes of the GPU, as JSON: threads, the shared-memory map, workspaces.
    #[cfg(feature = "json")]
    pub fn resources_json(&self) -> serde_json::Value {
        serde_json::json!({
            "rule": self.rule.name, "pass": self.pass, "arch": self.arch, "schedule": self.schedule,
            "limits": self.arch.limits(), "workspaces": self.workspaces,
            "launches": self.launches.iter().map(|launch| serde_json::json!({
                "entry": launch.entry, "threads": launch.block,
                "shared_bytes": launch.shared_bytes, "shared": launch.shared,
            })).collect::<Vec<_>>(),
        })
    }
}
