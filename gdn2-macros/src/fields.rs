//! The tensors a rule has, as the fields of its generated structs, with the documentation a user reads beside each.

use gdn2_dsl::prologue::GateOf;
use gdn2_dsl::{Dtype, Rule, TensorSpec, Write};
use proc_macro2::{Ident, Span, TokenStream};
use quote::quote_spanned;

/// A token tensor of a rule.
pub(crate) struct Field {
    /// Name of the struct field.
    pub name: String,
    /// Name of the tensor in files and in the façade's untyped call.
    pub tensor: String,
    /// Its documentation.
    pub doc: String,
    /// A gate: optional in the façade's untyped call.
    pub gate: bool,
    /// Named by the rule itself.
    pub own: bool,
}

/// q, k, v and the gates that the rule has, in signature order, then what it names itself.
pub(crate) fn token_tensors(rule: &Rule) -> Vec<Field> {
    let own = rule.prologue.named().into_iter().map(|own| {
        let words = if own.per_token { "Logit" } else { "Parameter" };
        let name = own.name.to_owned();
        let doc = format!("{words}: `{}`, {}.", own.shape(rule), own.storage);
        Field { name: name.clone(), tensor: name, doc, gate: false, own: true }
    });
    let tensors = rule.tensors();
    let given: Vec<Field> = tensors.iter().filter_map(|spec| field(rule, spec)).collect();
    given.into_iter().chain(own).collect()
}

/// The gate of a tensor, where a formula computes it.
fn formula_of(rule: &Rule, tensor: &str) -> Option<String> {
    let gate = GateOf::ALL.into_iter().find(|gate| gate.tensor() == tensor)?;
    Some(rule.prologue.gate(gate)?.text(&rule.prologue))
}

fn field(rule: &Rule, spec: &TensorSpec) -> Option<Field> {
    let formula = formula_of(rule, spec.name);
    let normalised = |is: bool| if is { ", as projected: the kernels normalise its rows" } else { "" };
    let promise = rule.bound.map_or_else(String::new, |b| format!(", promised to lie in [{}, {}]", b.lower, b.upper));
    let (name, words) = match spec.name {
        "q" => ("q", format!("Queries{}", normalised(rule.prologue.normalises_q()))),
        "k" if rule.prologue.normalises_k() => ("k", format!("Keys{}", normalised(true))),
        "k" => ("k", "Keys; rows of length 1 keep the recurrence stable".to_owned()),
        "v" => ("v", "Values; HV is a multiple of H".to_owned()),
        "g" | "b" | "w" if formula.is_some() => {
            let name = match spec.name {
                "b" if rule.write == Write::Tied => "beta",
                other => other,
            };
            (name, format!("Logit `x` of `{}`", formula.unwrap_or_default()))
        }
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
    let doc = format!("{words}: `{}`, {}{grain}.", spec.shape, spec.dtype);
    Some(Field { name: name.to_owned(), tensor: spec.name.to_owned(), doc, gate, own: false })
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

/// What the rule names itself of `holder`, as a field of the façade's call.
pub(crate) fn named(tensors: &[Field], holder: &str, span: Span) -> TokenStream {
    let holder = Ident::new(holder, span);
    let names = tensors.iter().filter(|field| field.own).map(|field| ident(&field.name, span));
    quote_spanned! { span=> named: __gdn2::named([#(#holder.#names),*]), }
}

/// A name as an identifier: of a rule's own names, which are Rust's.
pub(crate) fn ident(name: &str, span: Span) -> Ident {
    Ident::new(name, span)
}
