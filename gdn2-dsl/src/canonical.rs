//! A rule's canonical text, its content hash, overrides through the same checks, and the 30 combinations.

use std::fmt;

use crate::check::{KEY_DIMS, VALUE_DIMS, check_bound, check_dim, check_name};
use crate::diagnostics::parse_file;
use crate::prologue::{GateOf, Prologue, Texts};
use crate::rule::{Bound, Dtype, Gate, Grain, Rule, StateLayout, Write};

/// Why values do not make a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// A head dim that no kernel exists for.
    #[error("{field}: {got} {reason}; the nearest legal value is {nearest}")]
    Dim {
        /// `key_dim` or `value_dim`.
        field: &'static str,
        /// The value given.
        got: u32,
        /// The limit.
        reason: String,
        /// The nearest legal value.
        nearest: u32,
    },
    /// A dtype that q, k, v and o cannot have.
    #[error("dtype: q, k, v and o are bf16 or f16, not f32; gates and states may be f32")]
    Dtype,
    /// A gate's storage that no kernel reads.
    #[error("{gate}: stored {got}, but a gate of this rule is stored {legal}")]
    Storage {
        /// `decay`, `erase` or `write`.
        gate: &'static str,
        /// The storage given.
        got: Dtype,
        /// What is legal.
        legal: String,
    },
    /// A tie to an erase gate that is not scalar.
    #[error("write: tied to an erase gate that is {0}; a tie needs `erase: scalar`")]
    Tie(Grain),
    /// A bound that is none.
    #[error("decay: not a bound: {0}")]
    Bound(String),
    /// Formulas that do not suit the rule's other fields.
    #[error("formulas: {0}")]
    Formula(String),
    /// A name that cannot name kernels.
    #[error("name `{name}`: {reason}")]
    Name {
        /// The name given.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// The granularity of three gates: all that decides which kernel a rule gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Combination {
    /// Decay on K.
    pub decay: Grain,
    /// Erase on K.
    pub erase: Grain,
    /// Write on V, or None where it is tied to a scalar erase gate.
    pub write: Option<Grain>,
}

/// All 3 × (3 × 3 + 1) combinations of granularity.
pub fn granularity_combinations() -> Vec<Combination> {
    let grains = [Grain::None, Grain::Scalar, Grain::Channel];
    let mut combinations = Vec::with_capacity(30);
    for decay in grains {
        for erase in grains {
            combinations.extend(grains.map(|write| Combination { decay, erase, write: Some(write) }));
            if erase == Grain::Scalar {
                combinations.push(Combination { decay, erase, write: None });
            }
        }
    }
    combinations
}

impl Combination {
    /// A rule with these gates and default storages, named after them.
    ///
    /// # Errors
    /// A dim or dtype out of its range.
    pub fn rule(self, key_dim: u32, value_dim: u32, dtype: Dtype) -> Result<Rule, RuleError> {
        let own = |grain| Gate { grain, storage: dtype };
        Rule {
            name: self.to_string(),
            doc: String::new(),
            decay: Gate { grain: self.decay, storage: Dtype::F32 },
            bound: None,
            erase: own(self.erase),
            write: self.write.map_or(Write::Tied, |grain| Write::Own(own(grain))),
            key_dim,
            value_dim,
            dtype,
            state: StateLayout::Kv,
            prologue: Prologue::default(),
        }
        .checked()
    }

    /// What the literature calls this combination, if it has a name for it.
    pub fn known_as(self) -> Option<&'static str> {
        use Grain::{Channel, None as No, Scalar};
        Some(match (self.decay, self.erase, self.write) {
            (No, No, Some(No)) => "linear attention",
            (Scalar, No, Some(No)) => "RetNet, or Mamba-2/SSD with its step folded into v",
            (Scalar, No, Some(Scalar)) => "Mamba-2/SSD",
            (Channel, No, Some(No)) => "Gated Linear Attention (GLA)",
            (No, Scalar, None) => "DeltaNet",
            (Scalar, Scalar, None) => "Gated DeltaNet (GDN)",
            (Channel, Scalar, None) => "Kimi Delta Attention (KDA)",
            (Channel, Channel, Some(Channel)) => "Gated DeltaNet-2 (GDN-2)",
            _ => return None,
        })
    }
}

impl Rule {
    /// The granularity of its gates.
    pub fn combination(&self) -> Combination {
        let write = match self.write {
            Write::Own(gate) => Some(gate.grain),
            Write::Tied => None,
        };
        Combination { decay: self.decay.grain, erase: self.erase.grain, write }
    }

    /// The same rule with other head dims.
    ///
    /// # Errors
    /// A dim out of its range.
    pub fn with_dims(&self, key_dim: u32, value_dim: u32) -> Result<Rule, RuleError> {
        Rule { key_dim, value_dim, ..self.clone() }.checked()
    }

    /// The same rule with another dtype. Erase and write gates that are stored in the old dtype follow it.
    ///
    /// # Errors
    /// f32, which q, k, v and o cannot have.
    pub fn with_dtype(&self, dtype: Dtype) -> Result<Rule, RuleError> {
        let follow =
            |gate: Gate| Gate { storage: if gate.storage == self.dtype { dtype } else { gate.storage }, ..gate };
        let write = match self.write {
            Write::Own(gate) => Write::Own(follow(gate)),
            Write::Tied => Write::Tied,
        };
        // A logit is stored as rows are, a decay that arrives computed is not.
        let decay = if self.prologue.gate(GateOf::Decay).is_some() { follow(self.decay) } else { self.decay };
        let mut prologue = self.prologue.clone();
        for shared in prologue.lets.iter_mut().filter(|shared| shared.storage == self.dtype) {
            shared.storage = dtype;
        }
        Rule { decay, erase: follow(self.erase), write, dtype, prologue, ..self.clone() }.checked()
    }

    /// Establishes the invariants of a rule whose fields came from anywhere, and its canonical form.
    ///
    /// # Errors
    /// The first field that breaks one.
    pub fn checked(mut self) -> Result<Rule, RuleError> {
        check_name(&self.name).map_err(|reason| RuleError::Name { name: self.name.clone(), reason })?;
        let dim = |field, got, range| {
            check_dim(u64::from(got), &range).map_err(|(reason, nearest)| RuleError::Dim {
                field,
                got,
                reason,
                nearest,
            })
        };
        dim("key_dim", self.key_dim, KEY_DIMS)?;
        dim("value_dim", self.value_dim, VALUE_DIMS)?;
        if self.dtype == Dtype::F32 {
            return Err(RuleError::Dtype);
        }
        let computed = self.prologue.gate(GateOf::Decay).is_some();
        let default = if computed { self.dtype } else { Dtype::F32 };
        self.decay = stored("decay", self.decay, default, self.dtype)?;
        self.erase = stored("erase", self.erase, self.dtype, self.dtype)?;
        self.write = match self.write {
            Write::Own(gate) => Write::Own(stored("write", gate, self.dtype, self.dtype)?),
            Write::Tied if self.erase.grain == Grain::Scalar => Write::Tied,
            Write::Tied => return Err(RuleError::Tie(self.erase.grain)),
        };
        self.bound = match self.bound {
            None => None,
            Some(_) if self.prologue.gate(GateOf::Decay).is_some() => None,
            Some(_) if self.decay.grain == Grain::None => {
                return Err(RuleError::Bound("there is no decay to bound".to_string()));
            }
            Some(Bound { lower, upper }) => Some(check_bound(lower, upper).map_err(RuleError::Bound)?),
        };
        if self.prologue.is_empty() {
            return Ok(self);
        }
        let texts = self.prologue.texts();
        self.with_texts(&texts)
    }

    /// The rule with a prologue in words, which is checked as a rule file's is.
    ///
    /// # Errors
    /// A prologue with a mistake in it, or one that the rule's other fields do not suit.
    pub(crate) fn with_texts(self, texts: &Texts) -> Result<Rule, RuleError> {
        let plain = Rule { doc: String::new(), bound: None, prologue: Prologue::default(), ..self };
        let mut text = String::new();
        let written = plain.write_with(texts, &mut text);
        let wrong = |text: String| RuleError::Formula(text);
        written.map_err(|error| wrong(error.to_string()))?;
        let mut rules = parse_file(&text).map_err(|found| wrong(found.to_string()))?;
        match rules.pop() {
            Some(rule) if rules.is_empty() => Ok(Rule { doc: self.doc, ..rule }),
            _ => Err(wrong("they make more than one rule".to_owned())),
        }
    }

    /// The rule's text without its doc comment: equal for equal kernels of one name.
    fn canonical_text(&self) -> String {
        Rule { doc: String::new(), ..self.clone() }.to_string()
    }

    /// A hash of everything the rule says but its doc comment, the same on every machine and in every build.
    pub fn content_hash(&self) -> [u8; 32] {
        *blake3::hash(self.canonical_text().as_bytes()).as_bytes()
    }
}

/// An absent gate has its default storage; a present one f32, bf16 or that default.
fn stored(name: &'static str, gate: Gate, default: Dtype, dtype: Dtype) -> Result<Gate, RuleError> {
    if gate.grain == Grain::None {
        return Ok(Gate { storage: default, ..gate });
    }
    if gate.storage == Dtype::F16 && default != Dtype::F16 {
        let legal = if dtype == Dtype::F16 { "f32 or bf16 (an f16 decay is too coarse)" } else { "f32 or bf16" };
        return Err(RuleError::Storage { gate: name, got: gate.storage, legal: legal.to_string() });
    }
    Ok(gate)
}

impl fmt::Display for Grain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Grain::None => "none",
            Grain::Scalar => "scalar",
            Grain::Channel => "channel",
        })
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dtype::Bf16 => "bf16",
            Dtype::F16 => "f16",
            Dtype::F32 => "f32",
        })
    }
}

impl fmt::Display for StateLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StateLayout::Kv => "kv",
            StateLayout::Vk => "vk",
        })
    }
}

/// `channel_scalar_tied`
impl fmt::Display for Combination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}_", self.decay, self.erase)?;
        match self.write {
            Some(grain) => write!(f, "{grain}"),
            None => f.write_str("tied"),
        }
    }
}

/// The rule as a rule file would have it, defaults left out.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_with(&self.prologue.texts(), f)
    }
}

impl Rule {
    /// Writes the rule with these words for its prologue.
    fn write_with(&self, texts: &Texts, f: &mut dyn fmt::Write) -> fmt::Result {
        for line in self.doc.lines() {
            writeln!(f, "{}", format!("/// {line}").trim_end())?;
        }
        let storage = |gate: Gate, default| match gate.storage {
            storage if gate.grain == Grain::None || storage == default => String::new(),
            storage => format!(" as {storage}"),
        };
        let formula = |gate: GateOf| match &texts.gates[gate as usize] {
            Some(formula) => format!(" = {formula}"),
            None => String::new(),
        };
        writeln!(f, "rule {} {{", self.name)?;
        let norms: Vec<&str> = [(texts.q, "q: l2norm;"), (texts.k, "k: l2norm;")]
            .into_iter()
            .filter_map(|(on, words)| on.then_some(words))
            .collect();
        if !norms.is_empty() {
            writeln!(f, "    {}", norms.join(" "))?;
        }
        for (name, grain) in &texts.params {
            writeln!(f, "    param {name}: {grain};")?;
        }
        for (name, grain, stored, formula) in &texts.lets {
            let stored = if *stored == self.dtype { String::new() } else { format!(" as {stored}") };
            writeln!(f, "    let {name}: {grain}{stored} = {formula};")?;
        }
        let computed = texts.gates[GateOf::Decay as usize].is_some();
        let default = if computed { self.dtype } else { Dtype::F32 };
        write!(f, "    decay: {}{}", self.decay.grain, storage(self.decay, default))?;
        // A formula proves its own bound.
        if let Some(Bound { lower, upper }) = self.bound.filter(|_| !computed) {
            write!(f, " in [{lower}, {upper}]")?;
        }
        writeln!(f, "{};", formula(GateOf::Decay))?;
        writeln!(f, "    erase: {}{}{};", self.erase.grain, storage(self.erase, self.dtype), formula(GateOf::Erase))?;
        match self.write {
            Write::Own(gate) => {
                writeln!(f, "    write: {}{}{};", gate.grain, storage(gate, self.dtype), formula(GateOf::Write))?;
            }
            Write::Tied => writeln!(f, "    write: erase;")?,
        }
        write!(f, "    key_dim: {}; value_dim: {}; dtype: {};", self.key_dim, self.value_dim, self.dtype)?;
        if self.state != StateLayout::Kv {
            write!(f, " state: {};", self.state)?;
        }
        f.write_str("\n}\n")
    }
}
