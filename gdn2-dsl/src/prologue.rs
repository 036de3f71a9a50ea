//! What a rule computes before its recurrence: normalised rows, parameters, shared values, and its gates' formulas.

use std::fmt;

use crate::formula::{Dialect, Formula, Function, Leaf};
use crate::rule::{Dtype, Rule};
use serde::{Deserialize, Serialize, Serializer};

/// What a row's sum of squares is increased by before it is normalised, so that a row of zeros stays one.
pub const NORM_EPSILON: f64 = 1e-6;

/// The least value of a computed decay: e^−104 is below the smallest float32. Below it a decay has derivative 0.
pub const LEAST_DECAY: f64 = -104.0;

/// Which channels a number is given for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Axis {
    /// The key's, as decay and erase act on.
    Key,
    /// The value's, as write acts on.
    Value,
}

/// A parameter of a rule, f32: `[HV]`, or `[HV, K]` or `[HV, V]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Parameter {
    /// Its name in rules, files and calls.
    pub name: String,
    /// Its channels; none where it has one number per head.
    pub axis: Option<Axis>,
}

/// A value that several formulas share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Let {
    /// Its name, and its logit's.
    pub name: String,
    /// Its channels; none where it has one number per token and head.
    pub axis: Option<Axis>,
    /// How its logit is stored, if it reads one.
    pub storage: Dtype,
    /// What it is.
    pub formula: Formula,
}

/// A gate by its place in [`Prologue::gate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GateOf {
    /// g.
    Decay,
    /// b.
    Erase,
    /// w.
    Write,
}

/// All that a rule computes itself. Made by checks from text, and by nothing else; empty for a rule whose gates and rows
/// arrive computed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Prologue {
    pub(crate) normalises_q: bool,
    pub(crate) normalises_k: bool,
    pub(crate) params: Vec<Parameter>,
    pub(crate) lets: Vec<Let>,
    pub(crate) gates: [Option<Formula>; 3],
}

impl Axis {
    /// Channels of a rule.
    pub fn channels(self, rule: &Rule) -> u32 {
        match self {
            Axis::Key => rule.key_dim,
            Axis::Value => rule.value_dim,
        }
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Axis::Key => "K",
            Axis::Value => "V",
        })
    }
}

impl GateOf {
    /// All three, in the order of the rule's fields.
    pub const ALL: [GateOf; 3] = [GateOf::Decay, GateOf::Erase, GateOf::Write];

    /// The rule's word for it.
    pub fn name(self) -> &'static str {
        match self {
            GateOf::Decay => "decay",
            GateOf::Erase => "erase",
            GateOf::Write => "write",
        }
    }

    /// Its tensor's name.
    pub fn tensor(self) -> &'static str {
        match self {
            GateOf::Decay => "g",
            GateOf::Erase => "b",
            GateOf::Write => "w",
        }
    }

    /// The channels it acts on.
    pub fn axis(self) -> Axis {
        match self {
            GateOf::Decay | GateOf::Erase => Axis::Key,
            GateOf::Write => Axis::Value,
        }
    }
}

impl Prologue {
    /// Whether the rule computes nothing: rows and gates arrive as the recurrence takes them.
    pub fn is_empty(&self) -> bool {
        *self == Prologue::default()
    }

    /// Whether rows of q are normalised.
    pub fn normalises_q(&self) -> bool {
        self.normalises_q
    }

    /// Whether rows of k are normalised.
    pub fn normalises_k(&self) -> bool {
        self.normalises_k
    }

    /// The parameters, in the order of their declaration.
    pub fn params(&self) -> &[Parameter] {
        &self.params
    }

    /// The shared values, in the order of their declaration: none reads a later one.
    pub fn lets(&self) -> &[Let] {
        &self.lets
    }

    /// A gate's formula; none where the gate is absent, tied or arrives computed.
    pub fn gate(&self, gate: GateOf) -> Option<&Formula> {
        self.gates[gate as usize].as_ref()
    }

    /// Whether a gate that exists has a tensor: where it arrives computed, or its formula reads its logit.
    pub fn has_tensor(&self, gate: GateOf) -> bool {
        self.gate(gate).is_none_or(|formula| formula.reads(Leaf::Logit))
    }

    /// The tensors that only this rule has, by the name that rules and files give them: parameters, then the logits of
    /// shared values. Whether each has a row per token, its channels, and its storage.
    pub fn named(&self) -> Vec<NamedTensor<'_>> {
        self.each_named().collect()
    }

    fn each_named(&self) -> impl Iterator<Item = NamedTensor<'_>> {
        let params = self.params.iter().map(|param| NamedTensor {
            name: &param.name,
            per_token: false,
            axis: param.axis,
            storage: Dtype::F32,
        });
        let logits = self.lets.iter().filter(|shared| shared.formula.reads(Leaf::Logit));
        let logits = logits.map(|shared| NamedTensor {
            name: &shared.name,
            per_token: true,
            axis: shared.axis,
            storage: shared.storage,
        });
        params.chain(logits)
    }

    /// How many tensors only this rule has.
    pub fn named_count(&self) -> usize {
        self.each_named().count()
    }

    /// One of [`Prologue::named`]; allocates nothing.
    pub fn named_at(&self, place: usize) -> Option<NamedTensor<'_>> {
        self.each_named().nth(place)
    }

    /// The place of a name among [`Prologue::named`]; allocates nothing.
    pub fn place(&self, name: &str) -> Option<usize> {
        self.each_named().position(|own| own.name == name)
    }

    /// The name of a leaf, `logit` where it is the logit.
    pub fn leaf<'a>(&'a self, leaf: Leaf, logit: &'a str) -> &'a str {
        match leaf {
            Leaf::Logit => logit,
            Leaf::Param(at) => self.params.get(usize::from(at)).map_or("", |param| &param.name),
            Leaf::Let(at) => self.lets.get(usize::from(at)).map_or("", |shared| &shared.name),
        }
    }
}

/// A tensor that a rule names itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedTensor<'a> {
    /// Its name.
    pub name: &'a str,
    /// `[B,T,HV,…]`, else `[HV,…]`.
    pub per_token: bool,
    /// Its last axis.
    pub axis: Option<Axis>,
    /// How it is stored.
    pub storage: Dtype,
}

impl NamedTensor<'_> {
    /// Its shape with the rule's channels, such as `[HV,128]`.
    pub fn shape(&self, rule: &Rule) -> String {
        let rows = if self.per_token { "B,T,HV" } else { "HV" };
        match self.axis {
            None => format!("[{rows}]"),
            Some(axis) => format!("[{rows},{}]", axis.channels(rule)),
        }
    }

    /// Its shape in letters.
    pub fn letters(&self) -> &'static str {
        match (self.per_token, self.axis) {
            (false, None) => "[HV]",
            (false, Some(Axis::Key)) => "[HV,K]",
            (false, Some(Axis::Value)) => "[HV,V]",
            (true, None) => "[B,T,HV]",
            (true, Some(Axis::Key)) => "[B,T,HV,K]",
            (true, Some(Axis::Value)) => "[B,T,HV,V]",
        }
    }
}

/// Formulas in the words of rules.
impl Dialect for Prologue {
    fn leaf(&self, leaf: Leaf) -> String {
        self.leaf(leaf, "x").to_owned()
    }

    fn function(&self, function: Function) -> &'static str {
        function.name()
    }
}

impl Let {
    /// `scalar` or `channel`.
    pub fn grain(&self) -> &'static str {
        if self.axis.is_some() { "channel" } else { "scalar" }
    }
}

impl Parameter {
    /// `head` or `channel`.
    pub fn grain(&self) -> &'static str {
        if self.axis.is_some() { "channel" } else { "head" }
    }
}

/// A prologue in words: what rule files, records and hashes hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Texts {
    pub q: bool,
    pub k: bool,
    /// Name and grain.
    pub params: Vec<(String, String)>,
    /// Name, grain, storage of the logit and formula.
    pub lets: Vec<(String, String, Dtype, String)>,
    /// Decay, erase, write.
    pub gates: [Option<String>; 3],
}

impl Prologue {
    pub(crate) fn texts(&self) -> Texts {
        let shared = |own: &Let| (own.name.clone(), own.grain().to_owned(), own.storage, own.formula.text(self));
        Texts {
            q: self.normalises_q,
            k: self.normalises_k,
            params: self.params.iter().map(|param| (param.name.clone(), param.grain().to_owned())).collect(),
            lets: self.lets.iter().map(shared).collect(),
            gates: GateOf::ALL.map(|gate| self.gate(gate).map(|formula| formula.text(self))),
        }
    }
}

impl Serialize for Prologue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.texts().serialize(serializer)
    }
}
