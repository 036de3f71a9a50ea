//! Gates that a launch on wgmma computes: types that say how a gate comes of its logits, their rows, and the files of
//! device code that know them.

use super::wgmma::{GATES, gate_types, rows_of};
use crate::abi::Tensor;
use crate::gates::{call, cuda_name, function, functions, shared_logits};
use crate::kernel::Kernel;
use crate::plan::{Fold, Plan};
use crate::print::signature::{named_storage, storage, type_name};
use gdn2_dsl::Dtype;
use gdn2_dsl::formula::{Formula, Leaf};
use gdn2_dsl::prologue::GateOf;

/// What a kernel's formulas print.
pub(crate) struct Computing<'a> {
    pub(crate) kernel: &'a Kernel,
    /// Tokens of a chunk.
    pub(crate) chunk: u32,
    /// Where gradients are taken, gates along K and V are computed once: decays into a tile as well, not each time that a warp
    /// takes them.
    pub(crate) once: bool,
}

impl Computing<'_> {
    /// The gates' functions, among the kernel's numbers.
    pub(crate) fn functions(&self) -> Vec<String> {
        let indented = |line: String| if line.is_empty() { line } else { format!("  {line}") };
        functions(&self.kernel.rule, &self.kernel.plan).into_iter().map(indented).collect()
    }

    /// What gates are stored as, those that are computed with their formulas.
    pub(crate) fn gate_types(&self) -> Vec<String> {
        let given = gate_types(self.kernel).into_iter().zip(GATES);
        given
            .flat_map(|(given, (gate, name, _))| self.computed_type(gate, name).unwrap_or_else(|| vec![given]))
            .collect()
    }

    /// The device files that compute gates as they are taken.
    pub(crate) fn files(&self) -> Vec<&'static str> {
        let channels = |gate: GateOf| self.along_channels(gate).is_some();
        let tokens = GateOf::ALL.into_iter().any(|gate| self.formula(gate).is_some() && !channels(gate));
        let files = [
            ("computed", GateOf::ALL.into_iter().any(|gate| self.formula(gate).is_some())),
            ("computed_tokens", tokens),
            ("computed_decay", channels(GateOf::Decay) && !self.once),
            ("computed_write", channels(GateOf::Write) && !self.once),
        ];
        files.into_iter().filter_map(|(file, wanted)| wanted.then_some(file)).collect()
    }

    /// The rows that a computed gate's logits lie in.
    pub(crate) fn logit_rows(&self, tensor: Tensor, shift: &str) -> Option<String> {
        let (gate, name, _) = GATES.into_iter().find(|(.., own)| *own == tensor)?;
        let formula = self.formula(gate)?;
        let rows = format!("{}_rows", tensor.name());
        let own = formula.reads(Leaf::Logit).then(|| (storage(self.kernel, tensor), tensor.cuda_name().to_owned()));
        if self.kernel.plan.fold(gate) != Fold::Operand {
            let all: Vec<(&str, String)> = own.into_iter().chain(self.shared(formula)).collect();
            let types: Vec<&str> = all.iter().map(|(ty, _)| *ty).collect();
            let each = all.iter().map(|(ty, name)| format!("Rows<{ty}>{}", rows_of(name, "value_head", "")));
            let each: Vec<String> = each.collect();
            return Some(format!("const LogitRows<{}> {rows}{{{}}};", types.join(", "), each.join(", ")));
        }
        let (ty, init) = match own {
            Some((ty, name)) => (format!("Rows<{ty}>"), rows_of(&name, "value_head", shift)),
            None => ("NoRows".to_owned(), "{}".to_owned()),
        };
        Some(match gate {
            GateOf::Decay if !self.once => {
                format!("const DecayRows<Cfg::{name}Formula, {ty}> {rows}{{{ty}{init}}};")
            }
            GateOf::Decay | GateOf::Erase | GateOf::Write => format!("const {ty} {rows}{init};"),
        })
    }

    /// A computed gate's formula.
    pub(crate) fn formula(&self, gate: GateOf) -> Option<&Formula> {
        self.kernel.plan.computes(gate).and_then(|_| self.kernel.rule.prologue.gate(gate))
    }

    /// The same of one along channels.
    pub(crate) fn along_channels(&self, gate: GateOf) -> Option<&Formula> {
        self.formula(gate).filter(|_| self.kernel.plan.fold(gate) == Fold::Operand)
    }

    /// Whether the gradient of a gate along K finds no room where the gate lies, and leaves for memory as it is made.
    pub(crate) fn leaves(&self, gate: GateOf) -> bool {
        gate == GateOf::Erase && self.once && leaves_tile(&self.kernel.plan)
    }

    /// The logits of `let`s that a formula needs, their types and names.
    fn shared(&self, formula: &Formula) -> Vec<(&'static str, String)> {
        let rule = &self.kernel.rule;
        let own = |own: u16| {
            let name = &rule.prologue.lets()[usize::from(own)].name;
            (named_storage(self.kernel, name), cuda_name(rule, name))
        };
        shared_logits(rule, formula).into_iter().map(own).collect()
    }

    /// A computed gate's formula as a type, and what says that it is computed: but for one along K that takes the place of
    /// its logits, or a tile of its own, before anything else looks at it.
    fn computed_type(&self, gate: GateOf, name: &str) -> Option<Vec<String>> {
        let formula = self.formula(gate)?;
        let (rule, plan) = (&self.kernel.rule, &self.kernel.plan);
        let tensor = GATES.into_iter().find_map(|(own, _, tensor)| (own == gate).then_some(tensor))?;
        let own = formula.reads(Leaf::Logit).then(|| storage(self.kernel, tensor));
        let of = |x: &str| call(rule, function(gate), formula, x, |_| String::new(), "d");
        let mut lines = vec![format!("struct {name}Formula {{")];
        let mut push = |line: String| lines.push(format!("  {line}"));
        let mut types: Vec<&str> = own.into_iter().collect();
        match plan.fold(gate) {
            Fold::Operand => push(format!("static METHOD float of(float x, int d) {{ return {}; }}", of("x"))),
            Fold::Absent | Fold::Pair | Fold::Row => {
                push("template <typename... X>".to_owned());
                push(format!("static METHOD float of(X... x) {{ return {}(x...); }}", function(gate)));
                types.extend(self.shared(formula).into_iter().map(|(ty, _)| ty));
            }
        }
        let in_tile = match (plan.fold(gate), gate) {
            (Fold::Operand, GateOf::Decay) if self.once => Some(type_name(plan.decay_storage).to_owned()),
            (Fold::Operand, GateOf::Decay) => {
                let bytes = self.chunk * rule.key_dim * plan.decay_storage.bytes();
                push(format!(
                    "static METHOD int exist(int tile) {{ return SMEM_EXIST + (tile - SMEM_G) / {bytes} * 4; }}"
                ));
                None
            }
            (Fold::Operand, GateOf::Erase) => {
                let logits = own.map_or_else(|| "NoLogits{}".to_owned(), |ty| format!("TileLogits<{ty}>{{tile}}"));
                push(format!("static METHOD auto logits(int tile) {{ return {logits}; }}"));
                let storage = type_name(plan.erase_storage);
                if self.leaves(gate) {
                    push("static METHOD const HeadRows& gradients() { return at<HeadRows>(SMEM_DB_ROWS); }".to_owned());
                    Some(format!("InTile<{name}Formula, {storage}>"))
                } else {
                    Some(storage.to_owned())
                }
            }
            _ => None,
        };
        lines.push("};".to_owned());
        lines.push(match in_tile {
            Some(storage) => format!("using {name} = {storage};"),
            None => {
                let all: Vec<String> =
                    [format!("{name}Formula")].into_iter().chain(types.iter().map(|ty| (*ty).to_owned())).collect();
                format!("using {name} = Computed<{}>;", all.join(", "))
            }
        });
        Some(lines)
    }
}

/// Whether a computed erase gate along K lies in a tile of 16-bit numbers, which have no room for its gradient.
pub(crate) fn leaves_tile(plan: &Plan) -> bool {
    let computed = plan.computes(GateOf::Erase).is_some() && plan.erase == Fold::Operand;
    computed && plan.erase_storage != Dtype::F32
}
