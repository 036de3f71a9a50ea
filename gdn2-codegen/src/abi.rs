//! The parameter list of a generated kernel, by name. The CUDA signature, the launcher, `--emit abi` and the macro
//! all read this one list; nothing refers to a parameter by position.

use serde::{Deserialize, Serialize};

/// A tensor a kernel reads or writes. Shapes as in the oracle: q, k `[B,T,H,K]`; v, o `[B,T,HV,V]`; gates `[B,T,HV]`
/// or `[B,T,HV,channels]`; states `[slots,HV,K,V]` or `[slots,HV,V,K]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tensor {
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
    /// Natural-log decay.
    G,
    /// Erase gate (beta where tied).
    B,
    /// Write gate.
    W,
    /// Output.
    O,
    /// State before the first token; null = zeros.
    InitialState,
    /// State after the last token; null = not asked for.
    FinalState,
    /// Gradient of `o`.
    DO,
    /// Gradient of q.
    DQ,
    /// Gradient of k.
    DK,
    /// Gradient of v.
    DV,
    /// Gradient of g.
    DG,
    /// Gradient of b.
    DB,
    /// Gradient of w.
    DW,
    /// Gradient of the final state; null = zeros.
    DFinalState,
    /// Gradient of the initial state; null = not asked for.
    DInitialState,
}

impl Tensor {
    /// Every tensor, in the order of this enum.
    pub const ALL: [Tensor; 18] = [
        Tensor::Q,
        Tensor::K,
        Tensor::V,
        Tensor::G,
        Tensor::B,
        Tensor::W,
        Tensor::O,
        Tensor::InitialState,
        Tensor::FinalState,
        Tensor::DO,
        Tensor::DQ,
        Tensor::DK,
        Tensor::DV,
        Tensor::DG,
        Tensor::DB,
        Tensor::DW,
        Tensor::DFinalState,
        Tensor::DInitialState,
    ];

    /// Its name in files, signatures and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Tensor::Q => "q",
            Tensor::K => "k",
            Tensor::V => "v",
            Tensor::G => "g",
            Tensor::B => "b",
            Tensor::W => "w",
            Tensor::O => "o",
            Tensor::InitialState => "initial_state",
            Tensor::FinalState => "final_state",
            Tensor::DO => "do",
            Tensor::DQ => "dq",
            Tensor::DK => "dk",
            Tensor::DV => "dv",
            Tensor::DG => "dg",
            Tensor::DB => "db",
            Tensor::DW => "dw",
            Tensor::DFinalState => "d_final_state",
            Tensor::DInitialState => "d_initial_state",
        }
    }

    /// Whether a pass writes it.
    pub(crate) const fn is_output(self) -> bool {
        match self {
            Tensor::Q | Tensor::K | Tensor::V | Tensor::G | Tensor::B | Tensor::W => false,
            Tensor::InitialState | Tensor::DO | Tensor::DFinalState => false,
            Tensor::O | Tensor::FinalState | Tensor::DInitialState => true,
            Tensor::DQ | Tensor::DK | Tensor::DV | Tensor::DG | Tensor::DB | Tensor::DW => true,
        }
    }

    /// The gradient of an input of a token; others stay as they are.
    pub(crate) const fn gradient(self) -> Tensor {
        match self {
            Tensor::G => Tensor::DG,
            Tensor::B => Tensor::DB,
            Tensor::W => Tensor::DW,
            Tensor::Q => Tensor::DQ,
            Tensor::K => Tensor::DK,
            Tensor::V => Tensor::DV,
            other => other,
        }
    }

    /// Name in CUDA text, where `do` is a keyword.
    pub(crate) const fn cuda_name(self) -> &'static str {
        match self {
            Tensor::DO => "d_o",
            other => other.name(),
        }
    }
}

/// A stride of a token tensor, counted in elements. The last axis is always contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Axis {
    /// Between batch rows (unused for packed sequences).
    Batch,
    /// Between tokens.
    Token,
    /// Between heads.
    Head,
}

/// What a kernel parameter means.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arg {
    /// Base pointer of a tensor (64-bit address).
    Pointer(Tensor),
    /// A stride in elements (i64).
    Stride(Tensor, Axis),
    /// Base pointer of a tensor that the rule names itself: a parameter, f32 `[HV]` or `[HV,channels]`, or the logit of a
    /// `let`, `[B,T,HV]` or `[B,T,HV,channels]`.
    Named(String),
    /// A stride of such a logit (i64).
    NamedStride(String, Axis),
    /// Base pointer of the gradient of a tensor that the rule names itself, shaped and stored as it.
    NamedGradient(String),
    /// A stride of such a logit's gradient (i64).
    NamedGradientStride(String, Axis),
    /// Slot of each sequence in the initial-state pool: int32 `[N]`, negative = skip; null = sequence index.
    InitialSlots,
    /// Slot of each sequence in the final-state pool, likewise.
    FinalSlots,
    /// Offsets of packed sequences, `[N+1]`; null = B dense rows of T tokens.
    CuSeqlens,
    /// 1 when `CuSeqlens` is int64, 0 when int32 (i32).
    CuSeqlensIs64,
    /// N: sequences (i32).
    Sequences,
    /// T: tokens per dense row, or the total for packed sequences (i32).
    Tokens,
    /// H: query/key heads (i32).
    KeyHeads,
    /// HV: value heads, a multiple of H (i32).
    ValueHeads,
    /// Softmax-style scale on q (f32).
    Scale,
    /// Scratch memory by name; see [`Workspace`].
    Workspace(String),
}

/// The machine type of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArgType {
    /// 64-bit device address.
    Pointer,
    /// 64-bit signed integer.
    I64,
    /// 32-bit signed integer.
    I32,
    /// 32-bit float.
    F32,
}

/// One parameter: its name in the CUDA signature and its meaning.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Param {
    /// Name in the CUDA text.
    pub name: String,
    /// Meaning.
    pub arg: Arg,
}

impl Arg {
    /// The machine type that carries this argument.
    pub fn ty(&self) -> ArgType {
        match self {
            Arg::Pointer(_) | Arg::Named(_) | Arg::NamedGradient(_) => ArgType::Pointer,
            Arg::InitialSlots | Arg::FinalSlots | Arg::CuSeqlens | Arg::Workspace(_) => ArgType::Pointer,
            Arg::Stride(..) | Arg::NamedStride(..) | Arg::NamedGradientStride(..) => ArgType::I64,
            Arg::CuSeqlensIs64 | Arg::Sequences | Arg::Tokens | Arg::KeyHeads | Arg::ValueHeads => ArgType::I32,
            Arg::Scale => ArgType::F32,
        }
    }
}

/// A count that depends on the call, as a product of run-time extents and a constant: grids and workspace sizes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Extent {
    /// Run-time factors, multiplied together.
    pub factors: Vec<Factor>,
    /// Constant factor.
    pub times: u64,
}

/// A run-time extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Factor {
    /// N sequences.
    Sequences,
    /// HV value heads.
    ValueHeads,
    /// H key heads.
    KeyHeads,
    /// Total tokens over all sequences (B·T when dense).
    TotalTokens,
    /// An upper bound on chunks over all sequences that needs no look at cu_seqlens: `total_tokens / chunk + N`.
    Chunks {
        /// Tokens per chunk.
        chunk: u32,
    },
}

/// When a launch or a workspace is wanted, decided by a call's sizes alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// Always.
    Always,
    /// Where value heads outnumber key heads.
    GroupedHeads,
}

impl Condition {
    /// Whether it holds for a call.
    pub fn holds(self, extents: Extents) -> bool {
        match self {
            Condition::Always => true,
            Condition::GroupedHeads => extents.value_heads > extents.key_heads,
        }
    }
}

/// Scratch memory a pass needs, sized before anything is launched.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Workspace {
    /// Name, as in [`Arg::Workspace`].
    pub name: String,
    /// Size in bytes.
    pub bytes: Extent,
    /// True when it is written by forward-for-backward and read by backward.
    pub saved: bool,
    /// When it is needed; else its pointer is null.
    pub when: Condition,
}

/// The run-time extents of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extents {
    /// N.
    pub sequences: u64,
    /// Total tokens over all sequences.
    pub total_tokens: u64,
    /// H.
    pub key_heads: u64,
    /// HV.
    pub value_heads: u64,
}

impl Extent {
    /// The value for one call; `None` when it does not fit 64 bits.
    pub fn eval(&self, extents: Extents) -> Option<u64> {
        self.factors.iter().try_fold(self.times, |product, factor| {
            let value = match *factor {
                Factor::Sequences => extents.sequences,
                Factor::ValueHeads => extents.value_heads,
                Factor::KeyHeads => extents.key_heads,
                Factor::TotalTokens => extents.total_tokens,
                Factor::Chunks { chunk } => (extents.total_tokens / u64::from(chunk)).checked_add(extents.sequences)?,
            };
            product.checked_mul(value)
        })
    }
}
