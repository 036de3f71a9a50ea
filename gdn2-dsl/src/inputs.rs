//! What a kernel is given, in float64 and with the shapes of the case files: tensors, sequences, and one head's view of them.

use std::collections::BTreeMap;

use crate::canonical::Combination;
use crate::limits::{MOST_HEADS, MOST_NUMBERS, MOST_TOKENS};
use crate::prologue::{Axis, GateOf, NamedTensor};
use crate::rule::{Grain, Rule};

/// Sizes of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Dims {
    /// B; 1 when sequences are packed.
    pub batch: usize,
    /// T, tokens per batch row; all packed tokens together.
    pub tokens: usize,
    /// H, heads of q and k.
    pub heads: usize,
    /// HV, heads of everything else; a multiple of H. Value head h reads q and k of head h / (HV / H).
    pub value_heads: usize,
    /// K.
    pub key_dim: usize,
    /// V.
    pub value_dim: usize,
}

/// The tensors of one call, row-major, in float64.
#[derive(Clone, Debug, PartialEq)]
pub struct Inputs {
    /// Sizes.
    pub dims: Dims,
    /// `[B, T, H, K]`.
    pub q: Vec<f64>,
    /// `[B, T, H, K]`.
    pub k: Vec<f64>,
    /// `[B, T, HV, V]`.
    pub v: Vec<f64>,
    /// Natural log of the decay: absent, `[B, T, HV]` or `[B, T, HV, K]`. Where a formula computes the decay, its logit,
    /// absent where the formula reads none; so for `b` and `w`.
    pub g: Option<Vec<f64>>,
    /// Erase gate: absent, `[B, T, HV]` or `[B, T, HV, K]`. A tied gate is this one.
    pub b: Option<Vec<f64>>,
    /// Write gate: absent, `[B, T, HV]` or `[B, T, HV, V]`.
    pub w: Option<Vec<f64>>,
    /// `[N, HV, K, V]`, whatever the rule's state layout; zeros when absent.
    pub initial_state: Option<Vec<f64>>,
    /// N + 1 ascending offsets from 0 to T, for packed sequences.
    pub cu_seqlens: Option<Vec<usize>>,
    /// Multiplies o; 1/√K by default.
    pub scale: f64,
    /// What only a rule with formulas has, by name: parameters `[HV]` or `[HV, channels]`, and logits of its `let`s
    /// `[B, T, HV]` or `[B, T, HV, channels]`.
    pub named: BTreeMap<String, Vec<f64>>,
}

/// What the recurrence gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Outputs {
    /// `[B, T, HV, V]`.
    pub o: Vec<f64>,
    /// `[N, HV, K, V]`.
    pub final_state: Vec<f64>,
}

/// The gradient that arrives from outside.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputGradients {
    /// On o, `[B, T, HV, V]`; `do` in case files.
    pub d_out: Vec<f64>,
    /// On the final state, `[N, HV, K, V]`; zeros when absent.
    pub d_final_state: Option<Vec<f64>>,
}

/// The gradient of `sum(o·d_out) + sum(final_state·d_final_state)`, each tensor shaped as its input.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradients {
    /// `[B, T, H, K]`, summed over the value heads that share a head.
    pub dq: Vec<f64>,
    /// `[B, T, H, K]`, summed likewise.
    pub dk: Vec<f64>,
    /// `[B, T, HV, V]`.
    pub dv: Vec<f64>,
    /// As `g`.
    pub dg: Option<Vec<f64>>,
    /// As `b`; a tied gate's holds both its parts.
    pub db: Option<Vec<f64>>,
    /// As `w`.
    pub dw: Option<Vec<f64>>,
    /// `[N, HV, K, V]`, also where no initial state was given.
    pub d_initial_state: Vec<f64>,
    /// As `named`, by the names of what they are gradients of.
    pub named: BTreeMap<String, Vec<f64>>,
}

/// Why tensors are no inputs of a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// A tensor of the wrong size.
    #[error("{tensor}: {got} elements where the shape {shape} has {want}")]
    Size {
        /// Its name.
        tensor: &'static str,
        /// Its shape in words.
        shape: String,
        /// Elements that shape has.
        want: usize,
        /// Elements given.
        got: usize,
    },
    /// A gate that the rule has and the call lacks, or the other way round.
    #[error("{tensor}: {problem}")]
    Gate {
        /// `g`, `b` or `w`.
        tensor: &'static str,
        /// What is wrong.
        problem: &'static str,
    },
    /// A tensor that a rule names itself: missing, of the wrong size, or unknown to the rule.
    #[error("{tensor}: {problem}")]
    Named {
        /// Its name.
        tensor: String,
        /// What is wrong.
        problem: String,
    },
    /// Dims that contradict one another.
    #[error("{0}")]
    Dims(String),
    /// Offsets that cut the tokens into no sequences.
    #[error("cu_seqlens: {0}")]
    Offsets(String),
}

/// One sequence of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Its number, which is its states' too.
    pub index: usize,
    /// Row of its first token in `[B·T, …]`.
    pub start: usize,
    /// Its tokens.
    pub tokens: usize,
}

impl Dims {
    /// The product of sizes, unless it overflows.
    fn product(sizes: &[usize]) -> Result<usize, InputError> {
        sizes
            .iter()
            .try_fold(1usize, |product, size| product.checked_mul(*size))
            .ok_or_else(|| InputError::Dims(format!("a tensor of {sizes:?} elements is too large")))
    }

    /// Numbers of q, k, v, o, of channel-wise gates and of `states` states: the most that a rule makes of a call. In
    /// floating point nothing overflows, and up to the limit every product is exact.
    pub fn numbers(&self, states: usize) -> f64 {
        let Dims { batch, tokens, heads, value_heads, key_dim, value_dim } = *self;
        let of = |sizes: &[usize]| sizes.iter().map(|size| *size as f64).product::<f64>();
        let keys = of(&[2, batch, tokens, heads, key_dim]) + of(&[2, batch, tokens, value_heads, key_dim]);
        keys + of(&[3, batch, tokens, value_heads, value_dim]) + of(&[states, value_heads, key_dim, value_dim])
    }

    /// Whether a call of these sizes with `states` states can be served: heads that group, and no more tokens, heads and
    /// numbers than the [limits](crate::limits). A product that would overflow is beyond them.
    ///
    /// # Errors
    /// The size that is not.
    pub fn check(&self, states: usize) -> Result<(), InputError> {
        let Dims { batch, tokens, heads, value_heads, key_dim, value_dim } = *self;
        if key_dim == 0 || value_dim == 0 || heads == 0 || !value_heads.is_multiple_of(heads) {
            return Err(InputError::Dims(format!(
                "heads: {value_heads} value heads over {heads} heads of {key_dim} by {value_dim}; \
                 HV must be a multiple of H and no size but T and B may be 0"
            )));
        }
        if batch.checked_mul(tokens).is_none_or(|all| all > MOST_TOKENS) || batch > MOST_TOKENS {
            return Err(InputError::Dims(format!("B = {batch}, T = {tokens}: B·T must be at most {MOST_TOKENS}")));
        }
        if value_heads > MOST_HEADS {
            return Err(InputError::Dims(format!("HV = {value_heads}: must be at most {MOST_HEADS}")));
        }
        match self.numbers(states) {
            all if all <= MOST_NUMBERS as f64 => Ok(()),
            _ => Err(InputError::Dims(format!(
                "B = {batch}, T = {tokens}, H = {heads}, HV = {value_heads} and {states} states of {key_dim} by \
                 {value_dim}: a call holds at most {MOST_NUMBERS} numbers; divide it into several"
            ))),
        }
    }

    /// Whether what a rule names itself keeps to the limit on a call's numbers too.
    ///
    /// # Errors
    /// More numbers than a call holds.
    pub(crate) fn check_named(&self, rule: &Rule) -> Result<(), InputError> {
        let numbers = |own: NamedTensor<'_>| {
            let channels = own.axis.map_or(1, |axis| axis.channels(rule)) as f64;
            let rows = if own.per_token { self.batch as f64 * self.tokens as f64 } else { 1.0 };
            rows * self.value_heads as f64 * channels
        };
        match rule.prologue.named().into_iter().map(numbers).sum::<f64>() {
            all if all <= MOST_NUMBERS as f64 => Ok(()),
            all => Err(InputError::Dims(format!(
                "parameters and logits of `let`s would be {all} numbers: a call holds at most {MOST_NUMBERS}; divide it"
            ))),
        }
    }

    /// Elements of one state, K·V.
    pub fn state(&self) -> usize {
        self.key_dim * self.value_dim
    }

    /// Value heads per head.
    pub fn group(&self) -> usize {
        self.value_heads / self.heads.max(1)
    }
}

impl Inputs {
    /// The scale where none is given: 1/√K.
    pub fn default_scale(key_dim: usize) -> f64 {
        1.0 / (key_dim as f64).sqrt()
    }

    /// The sequences of the call: one per batch row, or as `cu_seqlens` cuts them.
    pub fn sequences(&self) -> Vec<Sequence> {
        match &self.cu_seqlens {
            None => (0..self.dims.batch)
                .map(|index| Sequence { index, start: index * self.dims.tokens, tokens: self.dims.tokens })
                .collect(),
            Some(offsets) => offsets
                .iter()
                .zip(offsets.iter().skip(1))
                .enumerate()
                .map(|(index, (start, end))| Sequence { index, start: *start, tokens: end.saturating_sub(*start) })
                .collect(),
        }
    }

    /// N, how many states the call has.
    pub fn states(&self) -> usize {
        self.cu_seqlens.as_ref().map_or(self.dims.batch, |offsets| offsets.len().saturating_sub(1))
    }

    /// Whether every tensor that a rule of this combination needs is here, of the right size, and no other.
    ///
    /// # Errors
    /// The first tensor that is wrong.
    pub fn check(&self, combination: Combination) -> Result<(), InputError> {
        self.check_tensors(combination, &[], |_| true)
    }

    /// Whether every tensor that a rule is given is here, of the right size, and no other.
    ///
    /// # Errors
    /// The first tensor that is wrong.
    pub fn check_rule(&self, rule: &Rule) -> Result<(), InputError> {
        if (self.dims.key_dim, self.dims.value_dim) != (rule.key_dim as usize, rule.value_dim as usize) {
            let (key, value) = (rule.key_dim, rule.value_dim);
            let own = format!("{} by {}", self.dims.key_dim, self.dims.value_dim);
            return Err(InputError::Dims(format!("heads: {own}, where the rule has {key} by {value}")));
        }
        self.check_tensors(rule.combination(), &rule.prologue.named(), |gate| rule.prologue.has_tensor(gate))
    }

    fn check_tensors(
        &self,
        combination: Combination,
        named: &[NamedTensor<'_>],
        has_tensor: impl Fn(GateOf) -> bool,
    ) -> Result<(), InputError> {
        let Dims { batch, tokens, heads, value_heads, key_dim, value_dim } = self.dims;
        self.dims.check(self.states())?;
        if let Some(offsets) = &self.cu_seqlens {
            if batch != 1 {
                return Err(InputError::Offsets(format!("packed sequences need B = 1, not {batch}")));
            }
            if offsets.first() != Some(&0) || offsets.last() != Some(&tokens) || !offsets.is_sorted() {
                return Err(InputError::Offsets(format!("must ascend from 0 to T = {tokens}, but are {offsets:?}")));
            }
        }
        size("q", &self.q, "[B, T, H, K]", &[batch, tokens, heads, key_dim])?;
        size("k", &self.k, "[B, T, H, K]", &[batch, tokens, heads, key_dim])?;
        size("v", &self.v, "[B, T, HV, V]", &[batch, tokens, value_heads, value_dim])?;
        let gate = |of: GateOf, grain, values: &Option<Vec<f64>>, channels| {
            let tensor = of.tensor();
            let grain = if has_tensor(of) { grain } else { Grain::None };
            match (grain, values) {
                (Grain::None, None) => Ok(()),
                (Grain::None, Some(_)) => Err(InputError::Gate { tensor, problem: "the rule has no such gate" }),
                (_, None) => {
                    Err(InputError::Gate { tensor, problem: "the rule has this gate, but no tensor is given" })
                }
                (Grain::Scalar, Some(values)) => size(tensor, values, "[B, T, HV]", &[batch, tokens, value_heads]),
                (Grain::Channel, Some(values)) => {
                    size(tensor, values, "[B, T, HV, channels]", &[batch, tokens, value_heads, channels])
                }
            }
        };
        gate(GateOf::Decay, combination.decay, &self.g, key_dim)?;
        gate(GateOf::Erase, combination.erase, &self.b, key_dim)?;
        gate(GateOf::Write, combination.write.unwrap_or(Grain::None), &self.w, value_dim)?;
        self.check_named(named)?;
        if let Some(state) = &self.initial_state {
            size("initial_state", state, "[N, HV, K, V]", &[self.states(), value_heads, key_dim, value_dim])?;
        }
        Dims::product(&[self.states(), value_heads, key_dim, value_dim]).map(|_| ())
    }

    fn check_named(&self, wanted: &[NamedTensor<'_>]) -> Result<(), InputError> {
        let wrong = |tensor: &str, problem: String| Err(InputError::Named { tensor: tensor.to_owned(), problem });
        if let Some(name) = self.named.keys().find(|name| wanted.iter().all(|own| own.name != name.as_str())) {
            return wrong(name, "the rule has no such tensor".to_owned());
        }
        let Dims { batch, tokens, value_heads, key_dim, value_dim, .. } = self.dims;
        for own in wanted {
            let Some(values) = self.named.get(own.name) else {
                return wrong(own.name, format!("missing, the rule needs it as {}", own.letters()));
            };
            let channels = match own.axis {
                None => 1,
                Some(Axis::Key) => key_dim,
                Some(Axis::Value) => value_dim,
            };
            let rows = if own.per_token { Dims::product(&[batch, tokens])? } else { 1 };
            let want = Dims::product(&[rows, value_heads, channels])?;
            if values.len() != want {
                let problem = format!("{} elements where {} has {want}", values.len(), own.letters());
                return wrong(own.name, problem);
            }
        }
        Ok(())
    }

    /// Whether the gradients belong to these inputs.
    pub(crate) fn check_gradients(&self, gradients: &OutputGradients) -> Result<(), InputError> {
        let Dims { batch, tokens, value_heads, key_dim, value_dim, .. } = self.dims;
        size("do", &gradients.d_out, "[B, T, HV, V]", &[batch, tokens, value_heads, value_dim])?;
        match &gradients.d_final_state {
            Some(state) => {
                size("d_final_state", state, "[N, HV, K, V]", &[self.states(), value_heads, key_dim, value_dim])
            }
            None => Ok(()),
        }
    }

    /// Every (sequence, value head) pair, in the order of their states.
    pub(crate) fn heads(&self, combination: Combination) -> Vec<Head<'_>> {
        let heads =
            |sequence| (0..self.dims.value_heads).map(move |head| Head { inputs: self, combination, sequence, head });
        self.sequences().into_iter().flat_map(heads).collect()
    }
}

fn size(tensor: &'static str, values: &[f64], shape: &str, sizes: &[usize]) -> Result<(), InputError> {
    let want = Dims::product(sizes)?;
    if values.len() == want {
        return Ok(());
    }
    Err(InputError::Size { tensor, shape: format!("{shape} = {sizes:?}"), want, got: values.len() })
}

/// One value head of one sequence: the independent unit of work.
#[derive(Clone, Copy)]
pub(crate) struct Head<'a> {
    inputs: &'a Inputs,
    combination: Combination,
    pub sequence: Sequence,
    pub head: usize,
}

/// A gate at one token: the same for all channels, or one number each.
#[derive(Clone, Copy)]
pub(crate) enum GateRow<'a> {
    All(f64),
    Each(&'a [f64]),
}

/// One token as one head sees it; absent gates have their neutral values.
#[derive(Clone, Copy)]
pub(crate) struct Token<'a> {
    pub q: &'a [f64],
    pub k: &'a [f64],
    pub v: &'a [f64],
    pub g: GateRow<'a>,
    pub b: GateRow<'a>,
    pub w: GateRow<'a>,
}

impl GateRow<'_> {
    pub fn at(self, channel: usize) -> f64 {
        match self {
            GateRow::All(value) => value,
            GateRow::Each(values) => values[channel],
        }
    }
}

impl<'a> Head<'a> {
    pub fn dims(&self) -> Dims {
        self.inputs.dims
    }

    pub fn scale(&self) -> f64 {
        self.inputs.scale
    }

    /// The row of token `t` of this sequence in a `[B·T, HV, …]` tensor.
    pub fn value_row(&self, t: usize) -> usize {
        (self.sequence.start + t) * self.dims().value_heads + self.head
    }

    /// The row of token `t` in a `[B·T, H, …]` tensor.
    pub fn key_row(&self, t: usize) -> usize {
        (self.sequence.start + t) * self.dims().heads + self.head / self.dims().group()
    }

    /// The row of this head's state in `[N, HV, K·V]`.
    pub fn state_row(&self) -> usize {
        self.sequence.index * self.dims().value_heads + self.head
    }

    pub fn token(&self, t: usize) -> Token<'a> {
        let Dims { key_dim, value_dim, .. } = self.dims();
        let (keys, values) = (self.key_row(t), self.value_row(t));
        let gate = |grain, tensor: &'a Option<Vec<f64>>, channels, neutral| match (grain, tensor) {
            (Grain::Scalar, Some(tensor)) => GateRow::All(tensor[values]),
            (Grain::Channel, Some(tensor)) => GateRow::Each(row(tensor, values, channels)),
            _ => GateRow::All(neutral),
        };
        let b = gate(self.combination.erase, &self.inputs.b, key_dim, 0.0);
        Token {
            q: row(&self.inputs.q, keys, key_dim),
            k: row(&self.inputs.k, keys, key_dim),
            v: row(&self.inputs.v, values, value_dim),
            g: gate(self.combination.decay, &self.inputs.g, key_dim, 0.0),
            b,
            w: self.combination.write.map_or(b, |grain| gate(grain, &self.inputs.w, value_dim, 1.0)),
        }
    }

    pub fn initial_state(&self) -> Vec<f64> {
        let size = self.dims().state();
        match &self.inputs.initial_state {
            Some(states) => row(states, self.state_row(), size).to_vec(),
            None => vec![0.0; size],
        }
    }
}

/// Row `index` of a matrix with `width` columns.
pub(crate) fn row(values: &[f64], index: usize, width: usize) -> &[f64] {
    &values[index * width..(index + 1) * width]
}

/// The same, to write to.
pub(crate) fn row_mut(values: &mut [f64], index: usize, width: usize) -> &mut [f64] {
    &mut values[index * width..(index + 1) * width]
}
