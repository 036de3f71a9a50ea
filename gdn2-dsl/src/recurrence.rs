//! What a rule was understood to mean, said back as a formula, as tensors and as a cost. For people, not for kernels.

use crate::check::ERASE_NONE;
use crate::formula::{Formula, Leaf};
use crate::prologue::{GateOf, NORM_EPSILON};
use crate::rule::{Dtype, Gate, Grain, Rule, StateLayout, Write};

/// A derivative longer than this is counted, not printed.
const LONGEST_DERIVATIVE: usize = 160;

/// A tensor of a rule: its name in files, its shape in the oracle's letters, its storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name: q k v g b w o, or `state`.
    pub name: &'static str,
    /// Shape, such as `[B,T,H,128]`.
    pub shape: String,
    /// Storage.
    pub dtype: Dtype,
    /// Elements per token and value head, q and k counted as if every value head had its own.
    pub per_token: u32,
}

/// What one token costs one value head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenCost {
    /// Multiply-adds of the recurrence as it is written.
    pub multiply_adds: u64,
    /// Bytes when each input is read once and each output written once, the state not counted.
    pub bytes: u64,
    /// Bytes of the state, which a decoded token reads once and writes once.
    pub state_bytes: u64,
}

impl Rule {
    /// The recurrence of one head, two lines: the state's step and the output.
    pub fn recurrence(&self) -> String {
        let decayed = match self.decay.grain {
            Grain::None => "S_{t-1}",
            Grain::Scalar => "exp(g_t) S_{t-1}",
            Grain::Channel => "Diag(exp g_t) S_{t-1}",
        };
        let kept = match self.erase.grain {
            Grain::None => decayed.to_owned(),
            Grain::Scalar => format!("(I - b_t k_t k_t^T) {decayed}"),
            Grain::Channel => format!("(I - k_t (b_t * k_t)^T) {decayed}"),
        };
        let written = match self.write {
            Write::Tied => "b_t k_t v_t^T",
            Write::Own(Gate { grain: Grain::None, .. }) => "k_t v_t^T",
            Write::Own(Gate { grain: Grain::Scalar, .. }) => "w_t k_t v_t^T",
            Write::Own(Gate { grain: Grain::Channel, .. }) => "k_t (w_t * v_t)^T",
        };
        format!("S_t = {kept} + {written}\no_t = scale S_t^T q_t, scale = 1/sqrt({}) unless given", self.key_dim)
    }

    /// What its absent gates mean, one line each: the words in rule files are shorter than their consequences.
    pub fn absences(&self) -> Vec<&'static str> {
        let mut lines = Vec::new();
        if self.decay.grain == Grain::None {
            lines.push("`decay: none` means g = 0: the state does not fade");
        }
        if self.erase.grain == Grain::None {
            lines.push(ERASE_NONE);
        }
        if !self.has_write_tensor() && self.write != Write::Tied {
            lines.push("`write: none` means w = 1: values are written as they are");
        }
        lines
    }

    /// What the rule computes before its recurrence, a line each: rows that are normalised; every formula with the
    /// interval its value is proved to lie in, its derivatives, and the parts of it that are computed once for all
    /// tokens.
    pub fn prologue_lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let prologue = &self.prologue;
        for (name, normalised) in [("q", prologue.normalises_q()), ("k", prologue.normalises_k())] {
            if normalised {
                lines.push(format!("{name}_t is {name} / sqrt(sum {name}^2 + {NORM_EPSILON:e})"));
            }
        }
        for own in prologue.lets() {
            self.formula_lines(&format!("{}_t", own.name), &own.name, &own.formula, &mut lines);
        }
        for gate in GateOf::ALL {
            if let Some(formula) = prologue.gate(gate) {
                self.formula_lines(&format!("{}_t", gate.tensor()), gate.tensor(), formula, &mut lines);
            }
        }
        lines
    }

    fn formula_lines(&self, name: &str, logit: &str, formula: &Formula, lines: &mut Vec<String>) {
        let prologue = &self.prologue;
        let reads = if formula.reads(Leaf::Logit) { format!(", x the logit {logit}") } else { String::new() };
        lines.push(format!("{name} = {} in {}{reads}", formula.text(prologue), formula.range()));
        for (leaf, text) in formula.partial_texts(prologue) {
            let text = if text.len() > LONGEST_DERIVATIVE { format!("{} characters", text.len()) } else { text };
            lines.push(format!("  d{name}/d{} = {text}", prologue.leaf(leaf, "x")));
        }
        for (text, per_channel) in formula.hoisted(prologue) {
            lines.push(format!("  once per {}: {text}", if per_channel { "head and channel" } else { "head" }));
        }
    }

    /// The tensors that every rule may have, inputs first; [`Prologue::named`](crate::Prologue::named) has the others.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let (key, value) = (self.key_dim, self.value_dim);
        let wide = |name, heads: &str, dim: u32| TensorSpec {
            name,
            shape: format!("[B,T,{heads},{dim}]"),
            dtype: self.dtype,
            per_token: dim,
        };
        let gate = |of: GateOf, gate: Gate, dim: u32| match (of.tensor(), gate.grain) {
            (_, Grain::None) => None,
            _ if !self.prologue.has_tensor(of) => None,
            (name, Grain::Scalar) => {
                Some(TensorSpec { name, shape: "[B,T,HV]".to_owned(), dtype: gate.storage, per_token: 1 })
            }
            (name, Grain::Channel) => Some(TensorSpec { dtype: gate.storage, ..wide(name, "HV", dim) }),
        };
        let own_write = match self.write {
            Write::Own(write) => gate(GateOf::Write, write, value),
            Write::Tied => None,
        };
        let mut tensors = vec![wide("q", "H", key), wide("k", "H", key), wide("v", "HV", value)];
        tensors.extend(gate(GateOf::Decay, self.decay, key));
        tensors.extend(gate(GateOf::Erase, self.erase, key));
        tensors.extend(own_write);
        tensors.push(wide("o", "HV", value));
        let (rows, columns) = match self.state {
            StateLayout::Kv => (key, value),
            StateLayout::Vk => (value, key),
        };
        tensors.push(TensorSpec {
            name: "state",
            shape: format!("[N,HV,{rows},{columns}]"),
            dtype: Dtype::F32,
            per_token: 0,
        });
        tensors
    }

    /// What one token costs one value head.
    pub fn token_cost(&self) -> TokenCost {
        let square = u64::from(self.key_dim) * u64::from(self.value_dim);
        // S is scaled (decay), read against e (erase), added to (write) and read against q (output).
        let passes = 2 + u64::from(self.decay.grain != Grain::None) + u64::from(self.erase.grain != Grain::None);
        let logits = self.prologue.named().into_iter().filter(|own| own.per_token);
        let logits = logits.map(|own| u64::from(own.axis.map_or(1, |axis| axis.channels(self)) * own.storage.bytes()));
        TokenCost {
            multiply_adds: passes * square,
            bytes: self.tensors().iter().map(|tensor| u64::from(tensor.per_token * tensor.dtype.bytes())).sum::<u64>()
                + logits.sum::<u64>(),
            state_bytes: square * u64::from(Dtype::F32.bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::parse_file;

    #[test]
    fn says_back_what_each_gate_does() {
        let rules = parse_file(
            "rule gdn2 { decay: channel as bf16; erase: channel; write: channel; key_dim: 128; value_dim: 128; dtype: bf16; }
             rule kda { decay: channel; erase: scalar; write: erase; key_dim: 64; value_dim: 32; dtype: bf16; }",
        )
        .unwrap();
        assert!(
            rules[0]
                .recurrence()
                .starts_with("S_t = (I - k_t (b_t * k_t)^T) Diag(exp g_t) S_{t-1} + k_t (w_t * v_t)^T\n")
        );
        assert!(rules[1].recurrence().starts_with("S_t = (I - b_t k_t k_t^T) Diag(exp g_t) S_{t-1} + b_t k_t v_t^T\n"));
        assert!(rules[0].absences().is_empty() && rules[1].absences().is_empty());
        assert_eq!(rules[0].token_cost().bytes, 1792);
        assert_eq!(rules[1].token_cost().bytes, 2 * (2 * 64 + 2 * 32) + 4 * 64 + 2);
        assert_eq!(rules[1].token_cost().multiply_adds, 4 * 64 * 32);
        let names: Vec<_> = rules[1].tensors().iter().map(|tensor| tensor.name).collect();
        assert_eq!(names, ["q", "k", "v", "g", "b", "o", "state"]);
    }

    #[test]
    fn says_that_nothing_is_erased() {
        let rules =
            parse_file("rule r { decay: none; erase: none; write: none; key_dim: 64; value_dim: 64; dtype: bf16; }")
                .unwrap();
        assert_eq!(rules[0].absences().len(), 3);
        assert!(rules[0].absences()[1].contains("b = 0"));
        assert!(rules[0].recurrence().starts_with("S_t = S_{t-1} + k_t v_t^T\n"));
    }
}
