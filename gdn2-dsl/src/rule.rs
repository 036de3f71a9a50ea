//! What a rule says: three gates with their granularity and storage, head dims, dtype, state layout.
//!
//! A [`Rule`] is canonical: however it was written, rules that say the same are equal and hash alike. It holds no
//! span, no batch or sequence size and no GPU word.

use serde::{Deserialize, Serialize};

use crate::canonical::RuleError;
use crate::prologue::{Prologue, Texts};

/// How finely a gate acts: not at all, one number per token and head, or one per channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grain {
    /// The gate is absent: decay 1, erase 0, write 1.
    None,
    /// One number per token and value head.
    Scalar,
    /// One number per token, value head and channel (K for decay and erase, V for write).
    Channel,
}

/// The type a tensor is stored in. Arithmetic and state are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
    /// IEEE single precision: gates and states, never q, k, v, o.
    F32,
}

/// One gate of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Gate {
    /// Its granularity.
    pub grain: Grain,
    /// How its tensor is stored; for an absent gate, the default it would have.
    pub storage: Dtype,
}

/// A bound on the decay's natural log per token, `lower <= g <= upper <= 0`: the caller's promise.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Bound {
    /// Most negative g per token.
    pub lower: f32,
    /// Largest g per token, at most 0.
    pub upper: f32,
}

/// How the write gate is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Write {
    /// A gate (or none) of its own.
    Own(Gate),
    /// The scalar erase gate serves as write gate too; files call the one tensor `b`, Rust calls it `beta`.
    Tied,
}

/// Memory order of a head's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateLayout {
    /// `[K, V]`, V contiguous. The default.
    Kv,
    /// `[V, K]`, K contiguous.
    Vk,
}

/// A checked delta rule.
///
/// Invariants, established by `check` and by nothing else: `key_dim` in 16..=256 and `value_dim` in 16..=512, both
/// multiples of 16; `dtype` is bf16 or f16; a tie only with a scalar erase gate; a bound only on a decay that exists.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Rule {
    /// The rule's identifier.
    pub name: String,
    /// Its doc comment, lines joined by newlines; empty when absent.
    pub doc: String,
    /// Decay alpha = exp(g) on K.
    pub decay: Gate,
    /// The promise about g, if one was given.
    pub bound: Option<Bound>,
    /// Erase gate b on K.
    pub erase: Gate,
    /// Write gate w on V.
    pub write: Write,
    /// K.
    pub key_dim: u32,
    /// V.
    pub value_dim: u32,
    /// Storage of q, k, v, o.
    pub dtype: Dtype,
    /// Memory order of the state.
    pub state: StateLayout,
    /// What the rule computes before its recurrence. Serialised only where there is any.
    #[serde(skip_serializing_if = "Prologue::is_empty")]
    pub prologue: Prologue,
}

/// By bits: a checked bound is finite and has no negative zero, so this is also numeric equality.
impl PartialEq for Bound {
    fn eq(&self, other: &Self) -> bool {
        self.bits() == other.bits()
    }
}

impl Eq for Bound {}

impl std::hash::Hash for Bound {
    fn hash<H: std::hash::Hasher>(&self, hasher: &mut H) {
        self.bits().hash(hasher);
    }
}

impl Bound {
    fn bits(self) -> (u32, u32) {
        (self.lower.to_bits(), self.upper.to_bits())
    }
}

/// A rule's fields as a record or a cache holds them, before anything is known about them.
#[derive(Deserialize)]
struct Unchecked {
    name: String,
    doc: String,
    decay: Gate,
    bound: Option<Bound>,
    erase: Gate,
    write: Write,
    key_dim: u32,
    value_dim: u32,
    dtype: Dtype,
    state: StateLayout,
    prologue: Option<Texts>,
}

impl TryFrom<Unchecked> for Rule {
    type Error = RuleError;

    fn try_from(fields: Unchecked) -> Result<Rule, RuleError> {
        let Unchecked { name, doc, decay, bound, erase, write, key_dim, value_dim, dtype, state, prologue } = fields;
        let none = Prologue::default();
        let rule = Rule { name, doc, decay, bound, erase, write, key_dim, value_dim, dtype, state, prologue: none };
        match prologue {
            None => rule.checked(),
            Some(texts) => rule.with_texts(&texts),
        }
    }
}

impl Dtype {
    /// Bytes per element.
    pub const fn bytes(self) -> u32 {
        match self {
            Dtype::Bf16 | Dtype::F16 => 2,
            Dtype::F32 => 4,
        }
    }

    /// The nearest number this type can hold, ties to even.
    pub fn round(self, x: f64) -> f64 {
        match self {
            Dtype::Bf16 => half::bf16::from_f64(x).to_f64(),
            Dtype::F16 => half::f16::from_f64(x).to_f64(),
            Dtype::F32 => f64::from(x as f32),
        }
    }
}

impl Rule {
    /// The granularity of the write gate as the value path sees it: a tie is scalar.
    pub fn write_grain(&self) -> Grain {
        match self.write {
            Write::Own(gate) => gate.grain,
            Write::Tied => self.erase.grain,
        }
    }

    /// Whether the rule has a tensor `w` of its own.
    pub fn has_write_tensor(&self) -> bool {
        matches!(self.write, Write::Own(gate) if gate.grain != Grain::None)
    }
}

impl Rule {
    /// States `[…, K, V]` in the rule's layout: `[…, V, K]` for `state: vk`.
    pub fn laid_out<T: Copy>(&self, states: Vec<T>) -> Vec<T> {
        match self.state {
            StateLayout::Kv => states,
            StateLayout::Vk => transposed(&states, self.key_dim as usize, self.value_dim as usize),
        }
    }

    /// States of the rule's layout as `[…, K, V]`.
    pub fn as_kv<T: Copy>(&self, states: Vec<T>) -> Vec<T> {
        match self.state {
            StateLayout::Kv => states,
            StateLayout::Vk => transposed(&states, self.value_dim as usize, self.key_dim as usize),
        }
    }
}

/// Every `[rows, columns]` matrix of a pool as `[columns, rows]`.
fn transposed<T: Copy>(pool: &[T], rows: usize, columns: usize) -> Vec<T> {
    let mut turned = Vec::with_capacity(pool.len());
    for matrix in pool.chunks_exact(rows * columns) {
        turned.extend((0..columns).flat_map(|column| matrix.iter().skip(column).step_by(columns)));
    }
    turned
}
