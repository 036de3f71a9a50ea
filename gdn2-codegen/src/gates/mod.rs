//! Formulas in kernels: which gates a launch computes, what of them is the same for all tokens, and their text.

mod text;

pub(crate) use text::{Block, call, fill, functions, gradient_call, gradient_functions, value_call};

use crate::plan::{Computed, Fold, Plan};
use gdn2_dsl::formula::{Formula, Leaf, Node};
use gdn2_dsl::prologue::{Axis, GateOf, NamedTensor};
use gdn2_dsl::{Dtype, Rule};

/// The largest number that float16 holds.
const LARGEST_F16: f64 = 65504.0;

/// A gate or `let` that a launch computes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'r> {
    /// Its device function.
    pub(crate) name: &'static str,
    /// A `let`'s place among the rule's; none for gates.
    pub(crate) shared: Option<u16>,
    /// What it is.
    pub(crate) formula: &'r Formula,
}

/// A part of a formula that is the same for all tokens.
#[derive(Clone, Debug)]
pub(crate) struct Fixed<'r> {
    /// Its region of shared memory.
    pub(crate) name: String,
    /// Its channels; none where it has one number per head.
    pub(crate) axis: Option<Axis>,
    /// Whose it is.
    pub(crate) formula: &'r Formula,
    /// Which part.
    pub(crate) node: Node,
}

/// How a rule computes a gate, as plans say it.
pub(crate) fn computed(rule: &Rule, gate: GateOf, storage: Dtype) -> Option<Computed> {
    let formula = rule.prologue.gate(gate)?;
    Some(Computed { reads_logit: formula.reads(Leaf::Logit), logit: storage })
}

/// What tiles hold of a gate with channels. A computed one lies where its logits lay, so it is as wide as they are: as
/// float16, whose digits are enough to be rounded again, where its formula is proved to fit; decays are summed in float32.
pub(crate) fn tile_storage(rule: &Rule, gate: GateOf, storage: Dtype) -> Dtype {
    let Some(formula) = rule.prologue.gate(gate) else { return storage };
    let reads_logit = formula.reads(Leaf::Logit);
    let range = formula.range();
    let fits = -LARGEST_F16 <= range.lower() && range.upper() <= LARGEST_F16;
    match (gate, storage) {
        (GateOf::Decay, _) => {
            if reads_logit {
                storage
            } else {
                Dtype::F32
            }
        }
        (_, Dtype::F32) if reads_logit => Dtype::F32,
        _ if fits => Dtype::F16,
        _ => Dtype::Bf16,
    }
}

impl Plan {
    /// How a gate is computed where it is there at all.
    pub(crate) fn computes(&self, gate: GateOf) -> Option<Computed> {
        self.computed[gate as usize].filter(|_| self.has(gate))
    }

    /// Whether a gate has a gradient of its own.
    pub(crate) fn has(&self, gate: GateOf) -> bool {
        self.fold(gate) != Fold::Absent && !(gate == GateOf::Write && self.tied)
    }

    /// How it is folded.
    pub(crate) fn fold(&self, gate: GateOf) -> Fold {
        match gate {
            GateOf::Decay => self.decay,
            GateOf::Erase => self.erase,
            GateOf::Write => self.write,
        }
    }
}

/// The name of a tensor that a rule names itself, in a kernel's text.
pub(crate) fn cuda_name(rule: &Rule, name: &str) -> String {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let place = rule.prologue.named().iter().position(|own| own.name == name).unwrap_or_default();
    if plain { format!("own_{name}") } else { format!("own_{place}") }
}

/// The logits of `let`s that a formula needs, by their places, its own apart.
pub(crate) fn shared_logits(rule: &Rule, formula: &Formula) -> Vec<u16> {
    let lets = rule.prologue.lets();
    let mut found: Vec<u16> = lets_below(rule, formula);
    found.retain(|own| lets.get(usize::from(*own)).is_some_and(|own| own.formula.reads(Leaf::Logit)));
    found
}

/// The `let`s that a formula needs, directly or not.
fn lets_below(rule: &Rule, formula: &Formula) -> Vec<u16> {
    let mut found: Vec<u16> = Vec::new();
    let mut next: Vec<&Formula> = vec![formula];
    while let Some(formula) = next.pop() {
        for leaf in formula.leaves() {
            if let Leaf::Let(own) = leaf
                && !found.contains(&own)
            {
                found.push(own);
                next.extend(rule.prologue.lets().get(usize::from(own)).map(|own| &own.formula));
            }
        }
    }
    found.sort_unstable();
    found
}

/// What a launch computes: `let`s, then gates.
pub(crate) fn places<'r>(rule: &'r Rule, plan: &Plan) -> Vec<Place<'r>> {
    let gates = GateOf::ALL.into_iter().filter(|gate| plan.computes(*gate).is_some());
    let gates: Vec<Place<'r>> = gates
        .filter_map(|gate| Some(Place { name: function(gate), shared: None, formula: rule.prologue.gate(gate)? }))
        .collect();
    let mut lets: Vec<u16> = gates.iter().flat_map(|place| lets_below(rule, place.formula)).collect();
    lets.sort_unstable();
    lets.dedup();
    let lets = lets.into_iter().filter_map(|own| {
        let formula = &rule.prologue.lets().get(usize::from(own))?.formula;
        Some(Place { name: "shared_formula", shared: Some(own), formula })
    });
    lets.chain(gates).collect()
}

/// A gate's device function.
pub(crate) fn function(gate: GateOf) -> &'static str {
    match gate {
        GateOf::Decay => "decay_formula",
        GateOf::Erase => "erase_formula",
        GateOf::Write => "write_formula",
    }
}

/// The fixed parts of all that a launch computes, in the order of their regions.
pub(crate) fn fixed<'r>(rule: &'r Rule, plan: &Plan) -> Vec<Fixed<'r>> {
    let parts = places(rule, plan).into_iter().flat_map(|place| {
        let formula = place.formula;
        formula.fixed_parts().into_iter().map(move |node| (formula, node))
    });
    let fixed = |(at, (formula, node)): (usize, (&'r Formula, Node))| {
        let leaves = formula.leaves_of(node);
        let params = leaves.into_iter().filter_map(|leaf| match leaf {
            Leaf::Param(own) => rule.prologue.params().get(usize::from(own)),
            Leaf::Logit | Leaf::Let(_) => None,
        });
        let axis = params.filter_map(|param| param.axis).next();
        Fixed { name: format!("fixed_{at}"), axis, formula, node }
    };
    parts.enumerate().map(fixed).collect()
}

/// Bytes of a fixed part.
pub(crate) fn fixed_bytes(rule: &Rule, fixed: &Fixed<'_>) -> u32 {
    (count(rule, fixed) * 4).next_multiple_of(16)
}

/// Numbers of a fixed part.
pub(crate) fn count(rule: &Rule, fixed: &Fixed<'_>) -> u32 {
    fixed.axis.map_or(1, |axis| axis.channels(rule))
}

/// The logits among what a rule names itself.
pub(crate) fn named_logits(rule: &Rule) -> Vec<NamedTensor<'_>> {
    rule.prologue.named().into_iter().filter(|own| own.per_token).collect()
}
