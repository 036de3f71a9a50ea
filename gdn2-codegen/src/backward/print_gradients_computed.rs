//! What formulas add to gradients on wgmma: rows normalised and gates computed before anything else looks at them, and
//! where the gradients of computed gates and of normalised rows go.

use super::gates::value_rows;
use super::normalised;
use super::print_gradients_wgmma::Text;
use crate::abi::Tensor;
use crate::gates::{Block, fill};
use crate::print::computed::Computing;
use crate::print::signature::rows;
use gdn2_dsl::prologue::GateOf;

impl Text<'_> {
    pub(super) fn computing(&self) -> Computing<'_> {
        Computing { kernel: self.kernel, chunk: self.chunk, decay_tile: true }
    }

    /// Fixed parts, which the block has when it has met.
    pub(super) fn fixed(&self) -> Vec<String> {
        let lines = fill(&self.kernel.rule, &self.kernel.plan, &Block { values: None, scope: "Cfg::" });
        if lines.is_empty() {
            return lines;
        }
        let inner = ["const ChunkWork work = place.work();".to_owned()].into_iter().chain(lines);
        let inner = inner.map(|line| format!("  {line}"));
        ["{".to_owned()].into_iter().chain(inner).chain(["}".to_owned(), "__syncthreads();".to_owned()]).collect()
    }

    /// Rows that are normalised where they were copied, of those named; then the block has to meet again.
    pub(super) fn normalise(&self, tensors: &[Tensor]) -> Vec<String> {
        let normalised = normalised(&self.kernel.rule);
        let tile = |tensor: &Tensor| if *tensor == Tensor::Q { "buffer.queries()" } else { "buffer.keys()" };
        let own = tensors.iter().filter(|tensor| normalised.contains(tensor));
        own.map(|tensor| format!("normalise_rows<Element, CHUNK / (WARPS * 4)>({});", tile(tensor))).collect()
    }

    /// The same, the block having met.
    pub(super) fn prepare(&self, lines: Vec<String>) -> Vec<String> {
        let met = ["fence_async();", "__syncthreads();"].map(str::to_owned);
        if lines.is_empty() { lines } else { lines.into_iter().chain(met).collect() }
    }

    /// Whether dq and dk of every value head go to memory of their own: where heads share keys, and always where rows are
    /// normalised, whose gradients go back through their norms from there.
    pub(super) fn grouped(&self) -> &'static str {
        if normalised(&self.kernel.rule).is_empty() { "key_heads != value_heads" } else { "true" }
    }

    /// Where gates' gradients go.
    pub(super) fn gate_rows(&self, gates: impl IntoIterator<Item = Tensor>) -> Vec<String> {
        let plan = &self.kernel.plan;
        let computed = |tensor: Tensor| {
            let of = GateOf::ALL.into_iter().zip([Tensor::DG, Tensor::DB, Tensor::DW]);
            of.filter(|(gate, _)| plan.computes(*gate).is_some())
                .find_map(|(gate, own)| (own == tensor).then_some(gate))
        };
        let gates: Vec<Tensor> = gates.into_iter().collect();
        let token = "const i64 token = cu_seqlens == nullptr ? static_cast<i64>(work.batch) * tokens + work.first : work.first;";
        let any = gates.iter().any(|tensor| computed(*tensor).is_some());
        let lines = gates.into_iter().flat_map(|tensor| match computed(tensor) {
            Some(gate) => value_rows(plan, gate, "token").to_vec(),
            None => vec![format!("{};", rows(tensor))],
        });
        any.then(|| token.to_owned()).into_iter().chain(lines).collect()
    }
}
