//! `--emit torch-ref`: the recurrence of a rule as PyTorch code to read, without chunks, blocks or bits.

use crate::pass::Pass;
use crate::plan::{Fold, plan};
use crate::print::template::fields;
use crate::print::template::fill;
use gdn2_dsl::formula::{Dialect, Formula, Function, Leaf};
use gdn2_dsl::prologue::{Axis, GateOf, LEAST_DECAY, NORM_EPSILON};
use gdn2_dsl::{Prologue, Rule, StateLayout};

const TEMPLATE: &str = include_str!("../templates/torch_ref.py.hbs");

/// A Python module with one function, named after the rule.
pub fn torch_ref(rule: &Rule) -> String {
    let plan = plan(rule, Pass::Decode);
    let gates =
        [("g", plan.decay, "K"), ("b", plan.erase, "K"), ("w", if plan.tied { Fold::Absent } else { plan.write }, "V")];
    let shapes: Vec<String> = gates
        .iter()
        .filter(|(name, ..)| rule.prologue.has_tensor(gate_of(name)))
        .filter_map(|(name, fold, channels)| match fold {
            Fold::Absent => None,
            Fold::Pair | Fold::Row => Some(format!("{name} [B,T,HV].")),
            Fold::Operand => Some(format!("{name} [B,T,HV,{channels}].")),
        })
        .chain(rule.prologue.named().iter().map(|own| format!("{} {}.", local(own.name), own.letters())))
        .collect();
    let given = |(name, fold, _): &(&str, Fold, &str)| {
        (*fold != Fold::Absent && rule.prologue.has_tensor(gate_of(name))).then(|| (*name).to_owned())
    };
    let inputs: Vec<String> = ["q", "k", "v"]
        .map(str::to_owned)
        .into_iter()
        .chain(gates.iter().filter_map(given))
        .chain(rule.prologue.named().iter().map(|own| local(own.name)))
        .collect();
    let is_channel = |gate: GateOf| gates[gate as usize].1 == Fold::Operand;
    let (state, transpose) = match rule.state {
        StateLayout::Kv => ("[N,HV,K,V]", ""),
        StateLayout::Vk => ("[N,HV,V,K]", ".transpose(1, 2)"),
    };
    let lines: Vec<String> = rule.to_string().lines().map(in_docstring).collect();
    let view = fields! {
        "name": function_name(&rule.name), "rule": lines, "inputs": inputs.join(", "),
        "shapes": shapes, "state": state, "transpose": transpose,
        "prologue": prologue(&rule.prologue, is_channel),
        "steps": steps(plan.decay, plan.erase, plan.write, plan.tied),
    };
    fill(TEMPLATE, &view)
}

/// Names that Python or the module itself gives a meaning: its keywords, and what the function's body calls.
const TAKEN: [&str; 43] = [
    "False",
    "None",
    "True",
    "and",
    "as",
    "assert",
    "async",
    "await",
    "break",
    "class",
    "continue",
    "def",
    "del",
    "elif",
    "else",
    "except",
    "finally",
    "for",
    "from",
    "global",
    "if",
    "import",
    "in",
    "is",
    "lambda",
    "nonlocal",
    "not",
    "or",
    "pass",
    "raise",
    "return",
    "try",
    "while",
    "with",
    "yield",
    "match",
    "case",
    "type",
    "torch",
    "enumerate",
    "range",
    "zip",
    "_",
];

/// The rule's name, with an underscore after it where Python or the module has another use for it.
fn function_name(rule: &str) -> String {
    // Names between double underscores belong to Python.
    let taken = TAKEN.contains(&rule) || (rule.starts_with("__") && rule.ends_with("__"));
    if taken { format!("{rule}_") } else { rule.to_owned() }
}

/// Text as it may stand in a Python docstring, where it is read as written and ends nothing: quotes, backslashes and
/// characters that do not show, direction marks among them, are escaped.
fn in_docstring(text: &str) -> String {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' => escaped.extend(['\\', c]),
            _ if hidden(c) => escaped.push_str(&format!("\\u{:04x}", u32::from(c))),
            _ => escaped.push(c),
        }
    }
    escaped
}

fn gate_of(tensor: &str) -> GateOf {
    GateOf::ALL.into_iter().find(|gate| gate.tensor() == tensor).unwrap_or(GateOf::Write)
}

/// What the function's body calls its own.
const LOCALS: [&str; 21] = [
    "dtype",
    "o",
    "B",
    "T",
    "H",
    "K",
    "HV",
    "V",
    "S",
    "e",
    "n",
    "z",
    "t",
    "x",
    "row",
    "start",
    "end",
    "offsets",
    "scale",
    "sequences",
    "_",
];

/// A rule's own name as a variable, with an underscore after it where the function or Python has another use for it; other
/// names that end in one get another, so that no two are the same.
fn local(name: &str) -> String {
    let taken = LOCALS.contains(&name) || name.ends_with('_') || function_name(name) != name;
    if taken { format!("{name}_") } else { name.to_owned() }
}

/// A formula as PyTorch has it: numbers per head are spread over the channels of one that has any.
struct Torch<'a> {
    prologue: &'a Prologue,
    logit: &'a str,
    channel: bool,
}

impl Dialect for Torch<'_> {
    fn leaf(&self, leaf: Leaf) -> String {
        let name = |name: &str, axis: Option<Axis>, spread: &str| match axis {
            None if self.channel => format!("{}{spread}", local(name)),
            _ => local(name),
        };
        match leaf {
            Leaf::Logit => local(self.logit),
            Leaf::Param(at) => {
                let own = &self.prologue.params()[usize::from(at)];
                name(&own.name, own.axis, "[:, None]")
            }
            Leaf::Let(at) => {
                let own = &self.prologue.lets()[usize::from(at)];
                name(&own.name, own.axis, "[..., None]")
            }
        }
    }

    fn function(&self, function: Function) -> &'static str {
        function.torch_name()
    }
}

/// What is computed before the recurrence.
fn prologue(prologue: &Prologue, is_channel: impl Fn(GateOf) -> bool) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, normalised) in [("q", prologue.normalises_q()), ("k", prologue.normalises_k())] {
        if normalised {
            lines.push(format!(
                "{name} = {name} / torch.sqrt(({name} * {name}).sum(-1, keepdim=True) + {NORM_EPSILON:e})"
            ));
        }
    }
    let text = |formula: &Formula, logit: &str, axis: Option<Axis>| {
        let text = formula.text(&Torch { prologue, logit, channel: axis.is_some() });
        if formula.leaves().any(|leaf| !matches!(leaf, Leaf::Param(_))) {
            return text;
        }
        // The same for every token.
        let channels = axis.map_or_else(String::new, |axis| format!(", {axis}"));
        format!("torch.as_tensor({text}).expand(B, T, HV{channels})")
    };
    for own in prologue.lets() {
        lines.push(format!("{} = {}", local(&own.name), text(&own.formula, &own.name, own.axis)));
    }
    for gate in GateOf::ALL {
        let Some(formula) = prologue.gate(gate) else { continue };
        let text = text(formula, gate.tensor(), is_channel(gate).then_some(gate.axis()));
        lines.push(match gate {
            GateOf::Decay => format!("g = torch.clamp({text}, min={LEAST_DECAY})"),
            GateOf::Erase | GateOf::Write => format!("{} = {text}", gate.tensor()),
        });
    }
    lines
}

/// What a token does to the state before it is added to it: the decay, and z, less what the erase gate reads back.
fn steps(decay: Fold, erase: Fold, write: Fold, tied: bool) -> Vec<String> {
    let w = if tied { "b" } else { "w" };
    let mut lines = Vec::new();
    match decay {
        Fold::Absent => {}
        Fold::Pair | Fold::Row => lines.push("S = torch.exp(g[row, t])[:, None, None] * S".to_owned()),
        Fold::Operand => lines.push("S = torch.exp(g[row, t])[:, :, None] * S".to_owned()),
    }
    lines.push(match write {
        Fold::Absent => "z = v[row, t]".to_owned(),
        Fold::Pair | Fold::Row => format!("z = {w}[row, t][:, None] * v[row, t]"),
        Fold::Operand => format!("z = {w}[row, t] * v[row, t]"),
    });
    let erased = match erase {
        Fold::Absent => return lines,
        Fold::Pair | Fold::Row => "e = b[row, t][:, None] * k[row, t]",
        Fold::Operand => "e = b[row, t] * k[row, t]",
    };
    lines.push(erased.to_owned());
    lines.push("z = z - torch.einsum(\"hkv,hk->hv\", S, e)".to_owned());
    lines
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::torch_ref;
    use gdn2_dsl::{Dtype, granularity_combinations};

    #[test]
    fn text_of_a_rule_never_becomes_python() {
        let rule = granularity_combinations()[0].rule(64, 32, Dtype::Bf16).unwrap();
        let docs = [
            r#"Nice. """; import os; """ x"#,
            r#"ends in quotes ""#,
            r"ends in a backslash \",
            r"\N{BULLET} \u \x",
            "carriage\rimport os",
            "nul\0 and bell\u{7}",
            "turned \u{202e}round",
            "line\u{2028}separator",
        ];
        for doc in docs {
            let text = torch_ref(&gdn2_dsl::Rule { doc: doc.to_owned(), ..rule.clone() });
            let body = text.strip_prefix("\"\"\"").unwrap();
            let docstring = &body[..body.find("\"\"\"\n\nimport torch").unwrap()];
            let mut escaped = false;
            for c in docstring.chars() {
                assert!(escaped || c != '"', "{doc:?} gives {docstring}");
                assert!(c == '\n' || !c.is_control(), "{doc:?} gives {docstring:?}");
                escaped = c == '\\' && !escaped;
            }
            assert!(!escaped, "{doc:?} gives {docstring}");
        }
        for name in ["class", "None", "torch", "range", "match", "__name__", "_"] {
            let text = torch_ref(&gdn2_dsl::Rule { name: name.to_owned(), ..rule.clone() });
            assert!(text.contains(&format!("def {name}_(")), "{text}");
        }
    }

    #[test]
    fn every_combination_names_exactly_its_gates() {
        for combination in granularity_combinations() {
            let rule = combination.rule(64, 32, Dtype::Bf16).unwrap();
            let text = torch_ref(&rule);
            assert!(!text.contains("#error") && !text.contains("{{"), "{combination}: {text}");
            let has = |name: &str| rule.tensors().iter().any(|tensor| tensor.name == name);
            for name in ["g", "b", "w"] {
                assert_eq!(text.contains(&format!("{name}[row, t]")), has(name), "{combination}: {name}\n{text}");
            }
        }
    }

    #[test]
    fn formulas_are_stated_and_names_kept_apart() {
        let text = "rule r { q: l2norm; param S: head; param d: channel; let dt: scalar = softplus(x);
            decay: channel = -exp(S) * softplus(x + d) * dt; erase: scalar = 2 * sigmoid(x); write: erase;
            key_dim: 64; value_dim: 32; dtype: bf16; }
            rule retnet { param a: head; decay: scalar = -exp(a); erase: none; write: none;
            key_dim: 64; value_dim: 32; dtype: bf16; }";
        let rules = gdn2_dsl::parse_file(text).unwrap();
        let text = torch_ref(&rules[0]);
        for line in [
            "def r(q, k, v, g, b, S_, d, dt, initial_state=None, cu_seqlens=None, scale=None):",
            "    S_ [HV].",
            "    d [HV,K].",
            "    dt [B,T,HV].",
            "    q = q / torch.sqrt((q * q).sum(-1, keepdim=True) + 1e-6)",
            "    dt = torch.nn.functional.softplus(dt)",
            "    g = torch.clamp(-torch.exp(S_[:, None]) * torch.nn.functional.softplus(g + d) * dt[..., None], min=-104)",
            "    b = 2 * torch.sigmoid(b)",
        ] {
            assert!(text.lines().any(|own| own == line), "{line}\n{text}");
        }
        let text = torch_ref(&rules[1]);
        let line = "    g = torch.clamp(torch.as_tensor(-torch.exp(a)).expand(B, T, HV), min=-104)";
        assert!(text.lines().any(|own| own == line), "{text}");
        assert!(text.contains("def retnet(q, k, v, a, initial_state"), "{text}");
    }
}
