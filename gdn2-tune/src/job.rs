//! What is tuned: a rule's pass for one shape on one GPU, and by which kind of device.

use crate::model::Constants;
use crate::published::Learnt;
use gdn2_codegen::abi::Extents;
use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::Pass;
use gdn2_codegen::record::{Basis, rule_fingerprint, source_fingerprint};
use gdn2_codegen::schedule::Schedule;
use gdn2_dsl::Rule;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The shape of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shape {
    /// Dense rows.
    pub batch: u32,
    /// Tokens of a row.
    pub tokens: u32,
    /// Query and key heads.
    pub key_heads: u32,
    /// Value heads, a multiple of the key heads.
    pub value_heads: u32,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "B={},T={},H={},HV={}", self.batch, self.tokens, self.key_heads, self.value_heads)
    }
}

impl Shape {
    /// As the launch formulas want it.
    pub fn extents(self) -> Extents {
        Extents {
            sequences: u64::from(self.batch),
            total_tokens: u64::from(self.batch) * u64::from(self.tokens),
            key_heads: u64::from(self.key_heads),
            value_heads: u64::from(self.value_heads),
        }
    }
}

/// Where candidates run and what their time means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// A CUDA device by ordinal: measured.
    Cuda(u32),
    /// The clock: predicted from machine code.
    Model,
    /// The virtual machine, whole shape: counted cycles in place of time.
    Vm,
}

/// A text that is no engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("device `{0}`: use cuda:N, model or vm")]
pub struct BadEngine(pub String);

impl FromStr for Engine {
    type Err = BadEngine;

    fn from_str(text: &str) -> Result<Self, BadEngine> {
        match text {
            "model" => Ok(Engine::Model),
            "vm" => Ok(Engine::Vm),
            "cuda" => Ok(Engine::Cuda(0)),
            _ => {
                let ordinal = text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
                ordinal.map(Engine::Cuda).ok_or_else(|| BadEngine(text.to_owned()))
            }
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Engine::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            Engine::Model => f.write_str("model"),
            Engine::Vm => f.write_str("vm"),
        }
    }
}

impl Engine {
    /// What its times are worth.
    pub const fn basis(self) -> Basis {
        match self {
            Engine::Cuda(_) => Basis::Measured,
            Engine::Model => Basis::Predicted,
            Engine::Vm => Basis::Counted,
        }
    }
}

/// One search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The rule.
    pub rule: Rule,
    /// The pass.
    pub pass: Pass,
    /// The shape.
    pub shape: Shape,
    /// The GPU tuned for, by its name in `tuning/`.
    pub gpu: String,
    /// Its architecture.
    pub arch: Arch,
    /// Where candidates run.
    pub engine: Engine,
}

impl Job {
    /// Fingerprint of everything that two searches must share for the results of one to stand in the other: the job,
    /// the candidates (`space`) and `compiler` as in a record's provenance, the CUDA text of every legal candidate, and
    /// what the clock knows of the GPU and of published times, where times depend on that.
    pub fn identity(
        &self,
        space: &str,
        compiler: &str,
        legal: &[Schedule],
        model: (Option<&Constants>, Option<Learnt>),
    ) -> String {
        let Job { rule, pass, shape, gpu, arch, engine } = self;
        let fingerprint = rule_fingerprint(rule);
        let text = format!("{fingerprint}\n{pass:?}\n{shape}\n{gpu}\n{arch}\n{engine}\n{space}\n{compiler}");
        let mut hasher = blake3::Hasher::new();
        hasher.update(text.as_bytes());
        for schedule in legal {
            hasher.update(source_fingerprint(rule, *pass, *schedule, *arch).unwrap_or_default().as_bytes());
        }
        if engine.basis() != Basis::Measured {
            hasher.update(&serde_json::to_vec(&model).unwrap_or_default());
        }
        let mut hash = hasher.finalize().to_hex().to_string();
        hash.truncate(16);
        hash
    }

    /// Bytes that must cross memory whatever the schedule: every input read once, every output written once, the
    /// states of the sequences; for backward also the gradients.
    pub fn compulsory_bytes(&self) -> f64 {
        let tokens = f64::from(self.shape.batch) * f64::from(self.shape.tokens);
        let heads = f64::from(self.shape.value_heads);
        let tensors = self.rule.tensors().into_iter().map(|tensor| {
            let shared = matches!(tensor.name, "q" | "k");
            let heads = if shared { f64::from(self.shape.key_heads) } else { heads };
            f64::from(tensor.per_token) * f64::from(tensor.dtype.bytes()) * heads * tokens
        });
        let once: f64 = tensors.sum();
        let states = self.rule.token_cost().state_bytes as f64 * f64::from(self.shape.batch) * heads;
        match self.pass {
            Pass::Forward | Pass::ForwardForBackward => once + states,
            // Inputs and the output's gradient in, the inputs' gradients out.
            Pass::Backward => 2.0 * once + states,
            // Read and written.
            Pass::Decode => once + 2.0 * states,
        }
    }

    /// Multiply-adds of the recurrence itself, fewer than any chunked form needs.
    pub fn multiply_adds(&self) -> f64 {
        let tokens = f64::from(self.shape.batch) * f64::from(self.shape.tokens) * f64::from(self.shape.value_heads);
        let forward = self.rule.token_cost().multiply_adds as f64 * tokens;
        if self.pass == Pass::Backward { 2.0 * forward } else { forward }
    }
}
