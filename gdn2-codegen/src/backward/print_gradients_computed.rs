//! What formulas add to gradients on wgmma: rows normalised and gates computed before anything else looks at them, and
//! where the gradients of computed gates and of normalised rows go.

use super::gates::{value_rows, value_storage};
use super::gradients_wgmma::{by_channel, kept_norms, norm_name, pulls_back};
use super::normalised;
use super::print_gradients_wgmma::Text;
use crate::abi::Tensor;
use crate::gates::{Block, fill};
use crate::print::computed::Computing;
use crate::print::signature::{rows, shared_name, storage};
use crate::schedule::Matrix;
use gdn2_dsl::formula::Leaf;
use gdn2_dsl::prologue::GateOf;

/// A chunk's first token among those of all sequences.
const TOKEN: &str = "cu_seqlens == nullptr ? static_cast<i64>(work.batch) * tokens + work.first : work.first";

impl Text<'_> {
    pub(super) fn computing(&self) -> Computing<'_> {
        Computing { kernel: self.kernel, chunk: self.chunk, once: true }
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

    /// Rows that are normalised where they were copied; what they were scaled by is kept where it is wanted.
    pub(super) fn normalise(&self) -> Vec<String> {
        let kept = kept_norms(&self.kernel.rule, &self.kernel.plan);
        let line = |tensor: Tensor| {
            let tile = if tensor == Tensor::Q { "buffer.queries()" } else { "buffer.keys()" };
            let norm = norm_name(tensor);
            let keep = if kept.contains(&norm) {
                format!(", [](int row, float norm) {{ at<float>(Cfg::{} + row * 4) = norm; }}", shared_name(norm))
            } else {
                String::new()
            };
            format!("normalise_rows<Element, CHUNK / (WARPS * 4)>({tile}{keep});")
        };
        normalised(&self.kernel.rule).into_iter().map(line).collect()
    }

    /// Queries that are copied once more.
    pub(super) fn scale_queries(&self) -> Option<&'static str> {
        let line = "scale_copied<Element>(buffer.queries(), Cfg::SMEM_Q_NORM);";
        self.kernel.rule.prologue.normalises_q().then_some(line)
    }

    /// What changes tiles once the block has met, which then has to meet again.
    pub(super) fn prepare(&self, lines: Vec<String>) -> Vec<String> {
        // Products read tiles themselves where they do not decay by channel.
        let fence = (!by_channel(&self.kernel.plan)).then_some("fence_async();");
        let met = fence.into_iter().chain(["__syncthreads();"]).map(str::to_owned);
        if lines.is_empty() { lines } else { lines.into_iter().chain(met).collect() }
    }

    /// Decays along K, into their tile from logits in memory.
    pub(super) fn compute_decays(&self) -> Vec<String> {
        let (computing, tensor) = (self.computing(), Tensor::G);
        let Some(formula) = computing.along_channels(GateOf::Decay) else { return Vec::new() };
        let (rows, logits) = if formula.reads(Leaf::Logit) {
            let logits = format!("MemoryLogits<{}>{{g_rows.first, g_rows.stride}}", storage(self.kernel, tensor));
            (computing.logit_rows(tensor, ""), logits)
        } else {
            (None, "NoLogits{}".to_owned())
        };
        let compute = self.compute("Decay", "buffer.decays()", &logits);
        if rows.is_none() {
            return vec![compute];
        }
        let inner = ["const ChunkWork work = place.work();".to_owned()].into_iter().chain(rows).chain([compute]);
        let inner = inner.map(|line| format!("  {line}"));
        ["{".to_owned()].into_iter().chain(inner).chain(["}".to_owned()]).collect()
    }

    /// Erase gates along K, where their logits lie.
    pub(super) fn compute_erases(&self) -> Vec<String> {
        let erases = self.computing().along_channels(GateOf::Erase).is_some();
        let logits = "Cfg::EraseFormula::logits(buffer.gates())";
        erases.then(|| self.compute("Erase", "buffer.gates()", logits)).into_iter().collect()
    }

    fn compute(&self, gate: &str, tile: &str, logits: &str) -> String {
        let of = format!("[](float x, int, int d) {{ return Cfg::{gate}Formula::of(x, d); }}");
        format!("compute_tile<Cfg::{gate}, CHUNK * KEY / (THREADS * 8)>({tile}, {logits}, exist, {of});")
    }

    /// Where the gradient of an erase gate goes that leaves as it is made.
    pub(super) fn erase_rows(&self) -> Vec<String> {
        if !self.computing().leaves(GateOf::Erase) {
            return Vec::new();
        }
        let mut lines =
            vec!["if (thread_index() == 0) {".to_owned(), "  const ChunkWork work = place.work();".to_owned()];
        lines.extend(self.gate_rows([Tensor::DB]).into_iter().map(|line| format!("  {line}")));
        lines.push("  at<HeadRows>(Cfg::SMEM_DB_ROWS) = HeadRows{db_rows, db_token_stride, exist};".to_owned());
        lines.push("}".to_owned());
        lines
    }

    /// Where a warp's logits of a computed write gate along V lie, and where its gradient goes.
    pub(super) fn write_values(&self) -> Option<Vec<String>> {
        let computing = self.computing();
        let formula = computing.along_channels(GateOf::Write)?;
        let ty = storage(self.kernel, Tensor::W);
        let mut lines = vec!["const auto w_values = [&] {".to_owned()];
        let (logits, from) = if formula.reads(Leaf::Logit) {
            lines.extend(["  const ChunkWork work = place.work();".to_owned(), format!("  {};", rows(Tensor::W))]);
            (format!("FourLogits<{ty}>"), "{w_rows + row, w_token_stride}")
        } else {
            ("NoFourLogits".to_owned(), "{}")
        };
        lines.push(format!("  return ComputedValues<Cfg::WriteFormula, Element, {logits}>{{{from}, row}};"));
        lines.extend(["};", "const auto to_dw = [&] {", "  const ChunkWork work = place.work();"].map(str::to_owned));
        lines.extend(self.gate_rows([Tensor::DW]).into_iter().map(|line| format!("  {line}")));
        lines.extend(["  return OwnValues<Element>{dw_rows + row, dw_token_stride};", "};"].map(str::to_owned));
        Some(lines)
    }

    /// The device files that compute.
    pub(super) fn computed_files(&self) -> Vec<String> {
        let computing = self.computing();
        let along = [GateOf::Erase, GateOf::Write].iter().any(|gate| computing.along_channels(*gate).is_some());
        let own = along.then(|| "backward/wgmma/channel_computed.cuh".to_owned());
        computing.files().into_iter().map(|file| format!("forward/wgmma/{file}.cuh")).chain(own).collect()
    }

    /// Whether dq and dk of every value head go to memory of their own: where heads share keys; and where rows are normalised
    /// that do not go back through their norms here.
    pub(super) fn grouped(&self) -> &'static str {
        let rule = &self.kernel.rule;
        if normalised(rule).is_empty() || pulls_back(rule) { "key_heads != value_heads" } else { "true" }
    }

    /// Where rows of dq or dk of 64 channels go.
    pub(super) fn key_rows_as(&self, tensor: Tensor, rows: String) -> String {
        if !pulls_back(&self.kernel.rule) {
            return rows;
        }
        let (tile, name) = match tensor {
            Tensor::DQ => ("buffer.queries()", "Q"),
            _ => ("buffer.keys()", "K"),
        };
        format!("NormedKeys<Element>{{{rows}, {tile}, Cfg::SMEM_{name}_NORM, Cfg::SMEM_{name}_ALONG}}")
    }

    /// dq and dk on their way out where warps have channels.
    pub(super) fn write_keys(&self) -> Vec<String> {
        let rows = [("q", "buffer.queries()"), ("k", "buffer.keys()")];
        let write = |(name, tile): (&str, &str)| match self.keeps_keys() {
            true => format!("write_tile({tile}, d{name}_rows, d{name}_token_stride, work.exist);"),
            false => format!(
                "write_normed(made_rows(work, d{name}_heads, cu_seqlens, tokens, value_heads), {tile}, \
                 Cfg::SMEM_{}_NORM, d{name}_rows, d{name}_token_stride);",
                name.to_uppercase()
            ),
        };
        if !self.keeps_keys() && !pulls_back(&self.kernel.rule) {
            return Vec::new();
        }
        let inner = rows.iter().map(|row| format!("  {}", write(*row)));
        ["if (key_heads == value_heads) {".to_owned()].into_iter().chain(inner).chain(["}".to_owned()]).collect()
    }

    /// Whether dq and dk of a head that shares its keys with none leave from the tiles of q and k.
    pub(super) fn keeps_keys(&self) -> bool {
        normalised(&self.kernel.rule).is_empty()
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
        let any = gates.iter().any(|tensor| computed(*tensor).is_some());
        let lines = gates.into_iter().flat_map(|tensor| match computed(tensor) {
            Some(gate) => {
                let storage = value_storage(&self.kernel.rule, plan, gate, Matrix::Wgmma);
                value_rows(plan, gate, storage, "token").to_vec()
            }
            None => vec![format!("{};", rows(tensor))],
        });
        any.then(|| format!("const i64 token = {TOKEN};")).into_iter().chain(lines).collect()
    }
}
