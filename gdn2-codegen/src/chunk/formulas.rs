//! What formulas add to a chunk: fixed parts once for a block, gates computed and rows normalised where their tiles lie.

use crate::abi::Tensor;
use crate::chunk::text::{Logits, Text};
use crate::gates::{Block, call, cuda_name, fill, function, functions, named_logits, shared_logits};
use crate::plan::Fold;
use crate::print::signature::{named_rows, shared_name, storage, type_name};
use gdn2_dsl::Dtype;
use gdn2_dsl::prologue::GateOf;

impl Text<'_> {
    /// The device functions of all that is computed.
    pub(crate) fn functions(&self) -> Vec<String> {
        functions(&self.kernel.rule, &self.kernel.plan)
    }

    /// Fixed parts, before the first chunk.
    pub(crate) fn fixed(&self) -> Vec<String> {
        let mut lines = fill(&self.kernel.rule, &self.kernel.plan, &Block::default());
        if !lines.is_empty() {
            lines.push("__syncthreads();".to_owned());
        }
        lines
    }

    /// Whether the pass reads a tensor: not where a gate's formula reads no logit.
    pub(crate) fn is_read(&self, tensor: Tensor) -> bool {
        let computed = gate_of(tensor).and_then(|gate| self.kernel.plan.computes(gate));
        computed.is_none_or(|computed| computed.reads_logit)
    }

    /// Whether a tile holds a tensor as it is in memory: not where the gradients of a computed gate are taken, whose tile
    /// holds the gate alone.
    pub(crate) fn is_copied(&self, tensor: Tensor) -> bool {
        gate_of(tensor).and_then(|gate| self.kernel.plan.computes(gate)).is_none()
    }

    /// Where the gradient of a computed gate goes: to memory of its own, float32, from where it is pulled back.
    pub(crate) fn value_rows(&self, gradient: Tensor) -> Option<Vec<String>> {
        let gates = GateOf::ALL.into_iter().zip([Tensor::DG, Tensor::DB, Tensor::DW]);
        let (gate, _) =
            gates.filter(|(gate, _)| self.kernel.plan.computes(*gate).is_some()).find(|(_, of)| *of == gradient)?;
        Some(crate::backward::value_rows(&self.kernel.plan, gate, Dtype::F32, "work.token").to_vec())
    }

    /// Fetches a warp's channels of the write gate, where its gradient is taken.
    pub(crate) fn fetch_write(&self) -> String {
        let Some(computed) = self.kernel.plan.computes(GateOf::Write) else {
            return "write.w.fetch(w_rows + value, w_token_stride, exist);".to_owned();
        };
        let logits = Logits { in_memory: true, token: "t", exist: "exist" };
        let source = if computed.reads_logit {
            format!("FourLogits<{}>{{w_rows + value, w_token_stride}}", storage(self.kernel, Tensor::W))
        } else {
            "NoFourLogits{}".to_owned()
        };
        format!("compute_rows(write.w, {source}, value, exist, {});", self.lambda(GateOf::Write, logits))
    }

    /// Where the rows of `let`s' logits begin.
    pub(crate) fn logit_rows(&self) -> Vec<String> {
        let rule = &self.kernel.rule;
        named_logits(rule).iter().map(|own| format!("{};", named_rows(&cuda_name(rule, own.name)))).collect()
    }

    /// The logits of `let`s that gates with one number per token need.
    pub(crate) fn token_logits(&self) -> Vec<String> {
        let rule = &self.kernel.rule;
        let gates = GateOf::ALL.into_iter().filter(|gate| self.is_token_gate(*gate));
        let mut needed: Vec<u16> = gates
            .filter_map(|gate| rule.prologue.gate(gate))
            .flat_map(|formula| shared_logits(rule, formula))
            .collect();
        needed.sort_unstable();
        needed.dedup();
        needed.into_iter().map(|own| cuda_name(rule, &rule.prologue.lets()[usize::from(own)].name)).collect()
    }

    /// Whether a gate is computed once for a token.
    fn is_token_gate(&self, gate: GateOf) -> bool {
        let plan = &self.kernel.plan;
        plan.computes(gate).is_some() && matches!(plan.fold(gate), Fold::Pair | Fold::Row)
    }

    /// Whether it is computed for every channel.
    fn is_channel_gate(&self, gate: GateOf) -> bool {
        self.kernel.plan.computes(gate).is_some() && self.kernel.plan.fold(gate) == Fold::Operand
    }

    /// Token gates from their logits, in the warp that holds them.
    pub(crate) fn compute_tokens(&self, logits: Logits) -> Vec<String> {
        let rule = &self.kernel.rule;
        let gates = GateOf::ALL.into_iter().filter(|gate| self.is_token_gate(*gate));
        let compute = |gate: GateOf| {
            let formula = rule.prologue.gate(gate)?;
            let name = gate.tensor();
            let shared = |own: u16| {
                let name = cuda_name(rule, &rule.prologue.lets()[usize::from(own)].name);
                format!("{name}_gate.value[r]")
            };
            let of = call(rule, function(gate), formula, &format!("{name}_gate.value[r]"), shared, "0");
            Some(format!("compute_tokens({name}_gate, {}, [&](int r) {{ return {of}; }});", logits.exist))
        };
        gates.filter_map(compute).collect()
    }

    /// A lambda that computes a gate at a token and channel.
    fn lambda(&self, gate: GateOf, logits: Logits) -> String {
        let rule = &self.kernel.rule;
        let Some(formula) = rule.prologue.gate(gate) else { return String::new() };
        let shared = |own: u16| {
            let own = &rule.prologue.lets()[usize::from(own)];
            let (name, shift) = (cuda_name(rule, &own.name), if own.axis.is_some() { " + d" } else { "" });
            format!("load_number({name}_rows + {} * {name}_token_stride{shift})", logits.token)
        };
        let of = call(rule, function(gate), formula, "x", shared, "d");
        format!("[&](float x, int t, int d) {{ return {of}; }}")
    }

    /// Rows and gates along K, once a chunk's tiles are there.
    pub(crate) fn compute(&self, logits: Logits) -> Vec<String> {
        let (rule, plan) = (&self.kernel.rule, &self.kernel.plan);
        let tiles = self.tile_tensors();
        let normalised = [(Tensor::Q, rule.prologue.normalises_q()), (Tensor::K, rule.prologue.normalises_k())];
        let normalised = normalised.into_iter().filter(|(tensor, wanted)| *wanted && tiles.contains(tensor));
        let mut lines: Vec<String> =
            normalised.map(|(tensor, _)| format!("normalise_rows<Element>({}_tile);", tensor.name())).collect();
        for (gate, tensor) in [(GateOf::Decay, Tensor::G), (GateOf::Erase, Tensor::B)] {
            let Some(computed) = plan.computes(gate).filter(|_| self.is_channel_gate(gate)) else { continue };
            let (name, ty) = (tensor.name(), storage(self.kernel, tensor));
            let source = match (computed.reads_logit, logits.in_memory) {
                (false, _) => "NoLogits{}".to_owned(),
                (true, true) => format!("MemoryLogits<{ty}>{{{name}_rows, {name}_token_stride}}"),
                (true, false) => format!("TileLogits<{ty}>{{{name}_tile}}"),
            };
            let (to, tile) = match gate {
                GateOf::Decay => ("float", self.sums()),
                _ => (type_name(plan.erase_storage), "b_tile"),
            };
            let lambda = self.lambda(gate, logits);
            lines.push(format!("compute_tile<{to}>({tile}, {source}, {}, {lambda});", logits.exist));
        }
        lines
    }

    /// A write gate along V, in each warp's slice.
    pub(crate) fn write_slice(&self) -> Vec<String> {
        if !self.is_channel_gate(GateOf::Write) {
            return Vec::new();
        }
        let logits = Logits { in_memory: false, token: "(first + t)", exist: "exist" };
        let (lambda, region) = (self.lambda(GateOf::Write, logits), shared_name("w"));
        let to = type_name(self.kernel.plan.write_storage);
        let compute = if self.kernel.plan.write_storage == Dtype::F32 {
            "compute_wide_slice".to_owned()
        } else {
            // Where no logit is read what is there is not looked at.
            let from = if self.is_read(Tensor::W) { storage(self.kernel, Tensor::W) } else { to };
            format!("compute_slice<{from}, {to}>")
        };
        vec![format!("if (active) {compute}({region}, value, exist, {lambda});")]
    }
}

/// The gate whose tensor this is.
fn gate_of(tensor: Tensor) -> Option<GateOf> {
    GateOf::ALL.into_iter().find(|gate| gate.tensor() == tensor.name())
}
