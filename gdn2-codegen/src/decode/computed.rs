//! What formulas add to a decode kernel: fixed parts once for a block, and each token's gates and normalised rows before
//! the token is taken.

use crate::abi::Tensor;
use crate::gates::{Block, call, cuda_name, fill, function, functions, named_logits};
use crate::kernel::Kernel;
use crate::plan::Fold;
use crate::print::signature::{named_rows, named_storage, storage};
use gdn2_dsl::prologue::{Axis, GateOf, NamedTensor};

/// The formulas of a decode kernel.
pub(super) struct Computing<'k> {
    pub(super) kernel: &'k Kernel,
}

impl Computing<'_> {
    fn is_empty(&self) -> bool {
        self.kernel.rule.prologue.is_empty()
    }

    /// The gates that are computed.
    fn gates(&self) -> Vec<GateOf> {
        GateOf::ALL.into_iter().filter(|gate| self.kernel.plan.computes(*gate).is_some()).collect()
    }

    /// The logits of `let`s.
    fn logits(&self) -> Vec<NamedTensor<'_>> {
        named_logits(&self.kernel.rule)
    }

    fn is_normalised(&self, tensor: Tensor) -> bool {
        match tensor {
            Tensor::Q => self.kernel.rule.prologue.normalises_q(),
            Tensor::K => self.kernel.rule.prologue.normalises_k(),
            _ => false,
        }
    }

    fn normalised(&self) -> impl Iterator<Item = Tensor> {
        [Tensor::Q, Tensor::K].into_iter().filter(|tensor| self.is_normalised(*tensor))
    }

    /// What a token has beside its tensors.
    pub(super) fn token_fields(&self) -> Vec<String> {
        let norms = self
            .normalised()
            .map(|tensor| format!("NormPairs<{}> {}_norm", storage(self.kernel, tensor), tensor.name()));
        let logits = self.logits().into_iter().map(|own| {
            let (name, ty) = (cuda_name(&self.kernel.rule, own.name), named_storage(self.kernel, own.name));
            match own.axis {
                None => format!("float {name}"),
                Some(Axis::Key) => format!("KeyNumbers<{ty}> {name}"),
                Some(Axis::Value) => format!("ValueNumbers<{ty}> {name}"),
            }
        });
        norms.chain(logits).collect()
    }

    /// How that is loaded.
    pub(super) fn loads(&self) -> Vec<String> {
        let norms = self.normalised().map(|tensor| {
            let name = tensor.name();
            format!("token.{name}_norm.load({name}_rows + t * {name}_token_stride);")
        });
        let logits = self.logits().into_iter().map(|own| {
            let name = cuda_name(&self.kernel.rule, own.name);
            let row = format!("{name}_rows + t * {name}_token_stride");
            match own.axis {
                None => format!("token.{name} = load_number({row});"),
                Some(_) => format!("token.{name}.load({row}, place);"),
            }
        });
        norms.chain(logits).collect()
    }

    /// Where rows of `let`s' logits begin.
    pub(super) fn rows(&self) -> Vec<String> {
        let rule = &self.kernel.rule;
        self.logits().iter().map(|own| format!("{};", named_rows(&cuda_name(rule, own.name)))).collect()
    }

    /// The formulas' functions, and what they make of a token.
    pub(super) fn declarations(&self) -> Vec<String> {
        if self.is_empty() {
            return Vec::new();
        }
        let mut lines = functions(&self.kernel.rule, &self.kernel.plan);
        lines.extend(["", "// What formulas make of a token.", "struct Computed {"].map(str::to_owned));
        for tensor in self.tensors() {
            lines.push(format!("  {} {};", self.field(tensor), tensor.name()));
        }
        lines.extend(["};", ""].map(str::to_owned));
        lines
    }

    /// What the update of a state reads, in the order of the fields.
    fn tensors(&self) -> Vec<Tensor> {
        let plan = &self.kernel.plan;
        let gates = [
            (Tensor::G, plan.decay != Fold::Absent),
            (Tensor::B, plan.erase != Fold::Absent),
            (Tensor::W, plan.write != Fold::Absent && !plan.tied),
        ];
        let gates = gates.into_iter().filter_map(|(tensor, there)| there.then_some(tensor));
        [Tensor::Q, Tensor::K, Tensor::V].into_iter().chain(gates).collect()
    }

    fn field(&self, tensor: Tensor) -> String {
        let (plan, ty) = (&self.kernel.plan, storage(self.kernel, tensor));
        let gate = GateOf::ALL.into_iter().find(|gate| gate.tensor() == tensor.name());
        match gate {
            Some(gate) if plan.fold(gate) != Fold::Operand => "float".to_owned(),
            Some(gate) if plan.computes(gate).is_some() => {
                if gate.axis() == Axis::Key { "KeyGates" } else { "ValueGates" }.to_owned()
            }
            Some(GateOf::Write) => format!("const ValueNumbers<{ty}>&"),
            Some(_) => format!("const KeyNumbers<{ty}>&"),
            None if self.is_normalised(tensor) => format!("NormedRow<{ty}>"),
            None if tensor == Tensor::V => format!("const ValueNumbers<{ty}>&"),
            None => format!("const KeyNumbers<{ty}>&"),
        }
    }

    /// Fixed parts, before the first token.
    pub(super) fn fixed(&self) -> Vec<String> {
        let mut lines = fill(&self.kernel.rule, &self.kernel.plan, &Block::default());
        if !lines.is_empty() {
            lines.push("__syncthreads();".to_owned());
        }
        lines
    }

    /// What the update reads: the token, or what is made of it.
    pub(super) fn inputs(&self) -> &'static str {
        if self.is_empty() { "token" } else { "computed" }
    }

    /// What is made of a token.
    pub(super) fn lines(&self) -> Vec<String> {
        if self.is_empty() {
            return Vec::new();
        }
        let plan = &self.kernel.plan;
        let gates = self.gates();
        let fields = self.tensors().into_iter().map(|tensor| {
            let name = tensor.name();
            let gate = gates.iter().find(|gate| gate.tensor() == name);
            match gate {
                Some(gate) if plan.fold(*gate) == Fold::Operand => "{}".to_owned(),
                Some(gate) => self.call(*gate, "0"),
                None if self.is_normalised(tensor) => format!("{{token.{name}, token.{name}_norm.inverse()}}"),
                None => format!("token.{name}"),
            }
        });
        let mut lines = vec![format!("Computed computed{{{}}};", fields.collect::<Vec<_>>().join(", "))];
        for gate in gates.iter().filter(|gate| plan.fold(**gate) == Fold::Operand) {
            let name = gate.tensor();
            let call = self.call(*gate, "d");
            lines.push(match gate.axis() {
                Axis::Key => {
                    format!("compute_keys(computed.{name}, place, [&](int step, int i, int d) {{ return {call}; }});")
                }
                Axis::Value => {
                    format!("compute_values(computed.{name}, place, [&](int j, int d) {{ return {call}; }});")
                }
            });
        }
        lines
    }

    /// A gate's value at a channel.
    fn call(&self, gate: GateOf, channel: &str) -> String {
        let (rule, plan) = (&self.kernel.rule, &self.kernel.plan);
        let Some(formula) = rule.prologue.gate(gate) else { return String::new() };
        let at = |axis: Option<Axis>| match axis {
            None => "",
            Some(Axis::Key) => ".at(step, i)",
            Some(Axis::Value) => ".at(j)",
        };
        let own = (plan.fold(gate) == Fold::Operand).then_some(gate.axis());
        let own = format!("token.{}{}", gate.tensor(), at(own));
        let shared = |place: u16| {
            let own = &rule.prologue.lets()[usize::from(place)];
            format!("token.{}{}", cuda_name(rule, &own.name), at(own.axis))
        };
        call(rule, function(gate), formula, &own, shared, channel)
    }
}
