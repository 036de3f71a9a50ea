//! The tensors a rule has, as the fields of its generated structs, with the documentation a user reads beside each.

use gdn2_dsl::{Dtype, Grain, Rule, StateLayout, Write};

/// A token tensor of a rule.
pub(crate) struct Field {
    /// Name of the struct field.
    pub name: &'static str,
    /// Name of the tensor in files and in the façade's untyped call.
    pub tensor: &'static str,
    /// Its documentation.
    pub doc: String,
    /// The field beneath it in the façade's call is optional: a gate.
    pub gate: bool,
}

/// q, k, v and the gates that the rule has, in signature order.
pub(crate) fn token_tensors(rule: &Rule) -> Vec<Field> {
    let Rule { key_dim, value_dim, dtype, .. } = rule;
    let tensor = |name, doc| Field { name, tensor: name, doc, gate: false };
    let mut fields = vec![
        tensor("q", format!("Queries, `[B, T, H, {key_dim}]`, {dtype}.")),
        tensor("k", format!("Keys, `[B, T, H, {key_dim}]`, {dtype}; unit rows keep the recurrence stable.")),
        tensor("v", format!("Values, `[B, T, HV, {value_dim}]`, {dtype}; HV is a multiple of H.")),
    ];
    let mut gate = |name, tensor, grain, dim, dtype, words: &str| {
        if let Some(shape) = shape(grain, dim) {
            fields.push(Field { name, tensor, doc: format!("{words}, {shape}, {dtype}."), gate: true });
        }
    };
    let promise = rule.bound.map_or_else(String::new, |b| format!(", promised to lie in [{}, {}]", b.lower, b.upper));
    let decay = format!("Natural-log decay g ≤ 0 (α = exp g){promise}");
    gate("g", "g", rule.decay.grain, *key_dim, rule.decay.storage, &decay);
    match rule.write {
        Write::Tied => {
            let words = "Erase and write gate in one (`b` in files)";
            gate("beta", "b", rule.erase.grain, *key_dim, rule.erase.storage, words);
        }
        Write::Own(write) => {
            gate("b", "b", rule.erase.grain, *key_dim, rule.erase.storage, "Erase gate");
            gate("w", "w", write.grain, *value_dim, write.storage, "Write gate");
        }
    }
    fields
}

/// Shape and granularity of a gate, in words; None where the rule does not have it.
fn shape(grain: Grain, dim: u32) -> Option<String> {
    match grain {
        Grain::None => None,
        Grain::Scalar => Some("one number per token and value head, `[B, T, HV]`".to_string()),
        Grain::Channel => Some(format!("one number per channel, `[B, T, HV, {dim}]`")),
    }
}

/// The shape of a pool of states.
pub(crate) fn state_shape(rule: &Rule) -> String {
    let Rule { key_dim, value_dim, .. } = rule;
    match rule.state {
        StateLayout::Kv => format!("[N, HV, {key_dim}, {value_dim}]"),
        StateLayout::Vk => format!("[N, HV, {value_dim}, {key_dim}]"),
    }
}

/// A dtype's variant name.
pub(crate) fn variant(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::Bf16 => "Bf16",
        Dtype::F16 => "F16",
        Dtype::F32 => "F32",
    }
}
