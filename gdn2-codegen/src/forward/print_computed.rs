//! What formulas add to a scan on wgmma: types that say how a gate comes of its logits, their rows, the files of device
//! code that know them, and the parts that are the same for all tokens.

use super::numbers::composes;
use super::print_segments::Role;
use super::print_wgmma::Text;
use crate::abi::Tensor;
use crate::chunk::numbers::WARP_ROWS;
use crate::gates::{Block, call, cuda_name, fill, function, functions, shared_logits};
use crate::plan::Fold;
use crate::print::signature::{named_storage, storage, type_name};
use crate::print::wgmma::{GATES, gate_types, rows_of};
use gdn2_dsl::formula::{Formula, Leaf};
use gdn2_dsl::prologue::GateOf;

impl Text<'_> {
    /// The gates' functions.
    pub(super) fn formulas(&self) -> Vec<String> {
        let indented = |line: String| if line.is_empty() { line } else { format!("  {line}") };
        functions(&self.kernel.rule, &self.kernel.plan).into_iter().map(indented).collect()
    }

    /// Fixed parts, before the block meets, by the warps that want them first.
    pub(super) fn fixed(&self) -> Vec<String> {
        let maps = self.role == Role::Maps && composes(self.segments);
        let first = if maps { "(work.composes ? 0 : work.value_block * VALUES)" } else { "work.value_block * VALUES" };
        let block = Block { values: Some((first, self.scan.warps * WARP_ROWS)), scope: "Cfg::" };
        let lines = fill(&self.kernel.rule, &self.kernel.plan, &block);
        if lines.is_empty() {
            return lines;
        }
        let inner = lines.into_iter().map(|line| format!("  {line}"));
        ["if (warp_index() < WARPS) {".to_owned()].into_iter().chain(inner).chain(["}".to_owned()]).collect()
    }

    /// Of what the factor warpgroup makes a chunk's factors.
    pub(super) fn made(&self) -> &'static str {
        if self.prepares() { "Prepared<Cfg>" } else { "Cfg" }
    }

    /// What gates are stored as, those that are computed with their formulas.
    pub(super) fn gate_types(&self) -> Vec<String> {
        let given = gate_types(self.kernel).into_iter().zip(GATES);
        given
            .flat_map(|(given, (gate, name, _))| self.computed_type(gate, name).unwrap_or_else(|| vec![given]))
            .collect()
    }

    /// The device files that compute.
    pub(super) fn computed_files(&self) -> Vec<&'static str> {
        let any = |fold: fn(Fold) -> bool, gates: &[GateOf]| {
            gates.iter().any(|gate| self.formula(*gate).is_some() && fold(self.kernel.plan.fold(*gate)))
        };
        let is_channel = |fold| fold == Fold::Operand;
        let files = [
            ("computed", any(|_| true, &GateOf::ALL)),
            ("computed_tokens", any(|fold| fold != Fold::Operand, &GateOf::ALL)),
            ("computed_decay", any(is_channel, &[GateOf::Decay])),
            ("computed_write", any(is_channel, &[GateOf::Write])),
            ("prepared", self.prepares()),
        ];
        files.into_iter().filter_map(|(file, wanted)| wanted.then_some(file)).collect()
    }

    /// What of a chunk is made before its factors.
    pub(super) fn computed_choices(&self) -> Vec<String> {
        let prologue = &self.kernel.rule.prologue;
        if !self.prepares() {
            return Vec::new();
        }
        vec![
            format!("NORMALISES_Q = {},", u32::from(prologue.normalises_q())),
            format!("NORMALISES_K = {},", u32::from(prologue.normalises_k())),
            format!("COMPUTES_ERASE = {},  // along K", u32::from(self.computes_erase_tile())),
        ]
    }

    /// The rows that a computed gate's logits lie in.
    pub(super) fn logit_rows(&self, tensor: Tensor, shift: &str) -> Option<String> {
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
            GateOf::Decay => format!("const DecayRows<Cfg::{name}Formula, {ty}> {rows}{{{ty}{init}}};"),
            GateOf::Erase | GateOf::Write => format!("const {ty} {rows}{init};"),
        })
    }

    fn formula(&self, gate: GateOf) -> Option<&Formula> {
        self.kernel.plan.computes(gate).and_then(|_| self.kernel.rule.prologue.gate(gate))
    }

    fn computes_erase_tile(&self) -> bool {
        self.formula(GateOf::Erase).is_some() && self.kernel.plan.erase == Fold::Operand
    }

    /// Whether tiles of a chunk change before its factors are made.
    fn prepares(&self) -> bool {
        let prologue = &self.kernel.rule.prologue;
        prologue.normalises_k() || (self.outputs() && prologue.normalises_q()) || self.computes_erase_tile()
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

    /// A computed gate's formula as a type, and what says that it is computed: but for an erase gate along K, which takes
    /// the place of its logits before anything else looks at it.
    fn computed_type(&self, gate: GateOf, name: &str) -> Option<Vec<String>> {
        let formula = self.formula(gate)?;
        let (rule, plan) = (&self.kernel.rule, &self.kernel.plan);
        let tensor = GATES.into_iter().find_map(|(own, _, tensor)| (own == gate).then_some(tensor))?;
        let own = formula.reads(Leaf::Logit).then(|| storage(self.kernel, tensor));
        let of = |x: &str| call(rule, function(gate), formula, x, |_| String::new(), "d");
        let mut lines = vec![format!("struct {name}Formula {{")];
        let mut push = |line: String| lines.push(format!("  {line}"));
        let mut types: Vec<&str> = own.into_iter().collect();
        match (plan.fold(gate), gate) {
            (Fold::Operand, _) => push(format!("static METHOD float of(float x, int d) {{ return {}; }}", of("x"))),
            _ => {
                push("template <typename... X>".to_owned());
                push(format!("static METHOD float of(X... x) {{ return {}(x...); }}", function(gate)));
                types.extend(self.shared(formula).into_iter().map(|(ty, _)| ty));
            }
        }
        match (plan.fold(gate), gate) {
            (Fold::Operand, GateOf::Decay) => {
                let bytes = self.scan.chunk * rule.key_dim * plan.decay_storage.bytes();
                push(format!(
                    "static METHOD int exist(int tile) {{ return SMEM_EXIST + (tile - SMEM_G) / {bytes} * 4; }}"
                ));
            }
            (Fold::Operand, GateOf::Erase) => {
                let logits = own.map_or_else(|| "NoLogits{}".to_owned(), |ty| format!("TileLogits<{ty}>{{tile}}"));
                push(format!("static METHOD auto logits(int tile) {{ return {logits}; }}"));
            }
            _ => {}
        }
        lines.push("};".to_owned());
        lines.push(match (plan.fold(gate), gate) {
            (Fold::Operand, GateOf::Erase) => format!("using {name} = {};", type_name(plan.erase_storage)),
            _ => {
                let all: Vec<String> =
                    [format!("{name}Formula")].into_iter().chain(types.iter().map(|ty| (*ty).to_owned())).collect();
                format!("using {name} = Computed<{}>;", all.join(", "))
            }
        });
        Some(lines)
    }
}
