//! `--emit torch-ref`: the recurrence of a rule as PyTorch code to read, without chunks, blocks or bits.

use crate::pass::Pass;
use crate::plan::{Fold, plan};
use crate::print::template::fill;
use gdn2_dsl::{Rule, StateLayout};
use serde_json::json;

const TEMPLATE: &str = include_str!("../templates/torch_ref.py.hbs");

/// A Python module with one function, named after the rule.
pub fn torch_ref(rule: &Rule) -> String {
    let plan = plan(rule, Pass::Decode);
    let gates =
        [("g", plan.decay, "K"), ("b", plan.erase, "K"), ("w", if plan.tied { Fold::Absent } else { plan.write }, "V")];
    let shapes: Vec<String> = gates
        .iter()
        .filter_map(|(name, fold, channels)| match fold {
            Fold::Absent => None,
            Fold::Pair | Fold::Row => Some(format!("{name} [B,T,HV].")),
            Fold::Operand => Some(format!("{name} [B,T,HV,{channels}].")),
        })
        .collect();
    let inputs: Vec<&str> = ["q", "k", "v"]
        .into_iter()
        .chain(gates.iter().filter(|(_, fold, _)| *fold != Fold::Absent).map(|(name, ..)| *name))
        .collect();
    let (state, transpose) = match rule.state {
        StateLayout::Kv => ("[N,HV,K,V]", ""),
        StateLayout::Vk => ("[N,HV,V,K]", ".transpose(1, 2)"),
    };
    let view = json!({
        "name": rule.name, "rule": rule.to_string().lines().collect::<Vec<_>>(), "inputs": inputs.join(", "),
        "shapes": shapes, "state": state, "transpose": transpose,
        "steps": steps(plan.decay, plan.erase, plan.write, plan.tied),
    });
    fill(TEMPLATE, &view)
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
}
