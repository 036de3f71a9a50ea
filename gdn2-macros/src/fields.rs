//! The tensors a rule has, as the fields of its generated structs, with the documentation a user reads beside each.

use gdn2_dsl::{Dtype, Rule, TensorSpec, Write};

/// A token tensor of a rule.
pub(crate) struct Field {
    /// Name of the struct field.
    pub name: &'static str,
    /// Name of the tensor in files and in the façade's untyped call.
    pub tensor: &'static str,
    /// Its documentation.
    pub doc: String,
    /// A gate: optional in the façade's untyped call.
    pub gate: bool,
}

/// q, k, v and the gates that the rule has, in signature order.
pub(crate) fn token_tensors(rule: &Rule) -> Vec<Field> {
    rule.tensors().iter().filter_map(|spec| field(rule, spec)).collect()
}

fn field(rule: &Rule, spec: &TensorSpec) -> Option<Field> {
    let promise = rule.bound.map_or_else(String::new, |b| format!(", promised to lie in [{}, {}]", b.lower, b.upper));
    let (name, words) = match spec.name {
        "q" => ("q", "Queries".to_owned()),
        "k" => ("k", "Keys; rows of length 1 keep the recurrence stable".to_owned()),
        "v" => ("v", "Values; HV is a multiple of H".to_owned()),
        "g" => ("g", format!("Natural-log decay, g ≤ 0 and α = exp g{promise}")),
        "b" if rule.write == Write::Tied => ("beta", "Erase and write gate in one, `b` in files".to_owned()),
        "b" => ("b", "Erase gate".to_owned()),
        "w" => ("w", "Write gate".to_owned()),
        _ => return None,
    };
    let gate = matches!(spec.name, "g" | "b" | "w");
    let grain = match (gate, spec.per_token) {
        (false, _) => "",
        (true, 1) => ", one number per token and value head",
        (true, _) => ", one number per channel",
    };
    Some(Field { name, tensor: spec.name, doc: format!("{words}: `{}`, {}{grain}.", spec.shape, spec.dtype), gate })
}

/// The shape of a pool of states.
pub(crate) fn state_shape(rule: &Rule) -> String {
    rule.tensors().into_iter().filter(|spec| spec.name == "state").map(|spec| spec.shape).collect()
}

/// A dtype's variant name.
pub(crate) fn variant(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::Bf16 => "Bf16",
        Dtype::F16 => "F16",
        Dtype::F32 => "F32",
    }
}
