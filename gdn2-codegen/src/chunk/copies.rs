//! What a forward kernel copies from global memory: tiles, slices of values, token gates, and where their rows begin.

use crate::abi::Tensor;
use crate::chunk::text::{Text, by_first_warp};
use crate::plan::Fold;
use crate::print::signature::{rows, shared_name, storage};
use gdn2_dsl::Dtype;

impl Text<'_> {
    /// Tensors whose chunks are tiles of all K channels.
    pub(crate) fn tile_tensors(&self) -> Vec<Tensor> {
        let plan = &self.kernel.plan;
        let gates = [(Tensor::B, plan.erase), (Tensor::G, plan.decay)];
        let gates = gates.into_iter().filter(|(_, fold)| *fold == Fold::Operand).map(|(tensor, _)| tensor);
        let queries = plan.scores_queries().then_some(Tensor::Q);
        queries.into_iter().chain([Tensor::K]).chain(gates).collect()
    }

    /// Gates with one number per token, with the vectors they fill.
    pub(crate) fn token_tensors(&self) -> Vec<Tensor> {
        let plan = &self.kernel.plan;
        let folds = [
            (Tensor::G, plan.decay == Fold::Pair),
            (Tensor::B, plan.erase == Fold::Row),
            (Tensor::W, plan.write == Fold::Row && !plan.tied),
        ];
        folds.into_iter().filter_map(|(tensor, there)| there.then_some(tensor)).collect()
    }

    /// Where the rows of all of them begin.
    pub(crate) fn rows(&self) -> Vec<String> {
        let plan = &self.kernel.plan;
        let queries = plan.scores_queries().then_some(Tensor::Q);
        let inputs = queries.into_iter().chain([Tensor::K, Tensor::V]).chain(plan.gate_tensors());
        let tensors: Vec<Tensor> = inputs.chain(self.outputs().then_some(Tensor::O)).collect();
        self.rows_of(&tensors).into_iter().chain(self.logit_rows()).collect()
    }

    /// Where the rows of these tensors begin.
    pub(crate) fn rows_of(&self, tensors: &[Tensor]) -> Vec<String> {
        tensors
            .iter()
            .map(|&tensor| {
                let channel_write = tensor == Tensor::W && self.kernel.plan.write == Fold::Operand;
                let shift = if matches!(tensor, Tensor::V | Tensor::O) || channel_write { " + value" } else { "" };
                format!("{}{shift};", rows(tensor))
            })
            .collect()
    }

    /// Copies of a chunk's tiles.
    pub(crate) fn copies(&self, tensors: &[Tensor]) -> Vec<String> {
        tensors
            .iter()
            .filter(|tensor| self.is_read(**tensor))
            .map(|&tensor| {
                let (name, ty) = (tensor.name(), storage(self.kernel, tensor));
                let bytes = self.stage_bytes(tensor);
                format!(
                    "copy_tile<{ty}, KEY>({} + stage * {bytes}, {name}_rows + first * {name}_token_stride, \
                     {name}_token_stride, exist);",
                    shared_name(name)
                )
            })
            .collect()
    }

    /// Bytes of a tensor's tile in one stage.
    pub(crate) fn stage_bytes(&self, tensor: Tensor) -> u32 {
        let bytes = match tensor {
            Tensor::G => self.kernel.plan.decay_storage.bytes(),
            Tensor::B => self.kernel.plan.erase_storage.bytes(),
            _ => self.kernel.rule.dtype.bytes(),
        };
        self.scan.chunk * self.kernel.rule.key_dim * bytes
    }

    /// Tensors of which each warp copies its own slice.
    pub(crate) fn slice_tensors(&self) -> Vec<Tensor> {
        let channel_write = self.kernel.plan.write == Fold::Operand;
        [Tensor::V].into_iter().chain(channel_write.then_some(Tensor::W)).collect()
    }

    /// Copies of a chunk's values, of which `exist` are there.
    pub(crate) fn copy_values(&self, exist: &str) -> Vec<String> {
        let copy = |tensor: &Tensor| {
            let (name, slices) = (tensor.name(), shared_name(tensor.name()));
            format!("copy_slice({slices}, {name}_rows + first * {name}_token_stride, {name}_token_stride, {exist});")
        };
        self.slice_tensors().iter().filter(|tensor| self.is_read(**tensor)).map(copy).collect()
    }

    /// Before a chunk's slices are read. A thread reads the 16-bit numbers it copied itself; only f32 gates cross lanes.
    pub(crate) fn values_wait(&self) -> Vec<String> {
        let pending = self.scan.stages - 1;
        // With one stage the wait for the chunk's tiles has covered the slices, which were asked for before them.
        let wait = (pending > 0).then(|| format!("copy_wait<{pending}>();"));
        wait.into_iter().chain(self.write_slice()).chain(self.values_read()).collect()
    }

    /// Before copies overwrite what other lanes have read.
    pub(crate) fn values_read(&self) -> Vec<String> {
        let crosses = self.kernel.plan.write == Fold::Operand && self.kernel.plan.write_storage == Dtype::F32;
        crosses.then(|| "__syncwarp();".to_owned()).into_iter().collect()
    }

    /// What carries each token gate from one chunk to the next.
    pub(crate) fn token_gates(&self) -> Vec<String> {
        let gates = self.token_tensors().into_iter().map(|tensor| tensor.name().to_owned());
        gates.chain(self.token_logits()).map(|name| format!("TokenGate {name}_gate;")).collect()
    }

    /// Fetches of token gates, `first` being what is added to the rows' start.
    pub(crate) fn fetches(&self, first: Option<&str>, exist: &str) -> Vec<String> {
        let fetch = |name: String| {
            let shift = first.map_or_else(String::new, |first| format!(" + {first} * {name}_token_stride"));
            format!("{name}_gate.fetch({name}_rows{shift}, {name}_token_stride, {exist});")
        };
        let gates = self.token_tensors().into_iter().filter(|tensor| self.is_read(*tensor));
        gates.map(|tensor| tensor.name().to_owned()).chain(self.token_logits()).map(fetch).collect()
    }

    /// Copies of the first chunks.
    pub(crate) fn prologue(&self) -> Vec<String> {
        let mut lines = vec!["copy_tiles(0);".to_owned(), "copy_values(0);".to_owned()];
        lines.extend((1..self.scan.stages).map(|stage| format!("copy_tiles({stage});")));
        lines.extend(self.first_fetches());
        lines.extend(self.fixed());
        lines
    }

    /// Fetches of the first chunk's token gates.
    pub(crate) fn first_fetches(&self) -> Vec<String> {
        by_first_warp(&self.fetches(None, "work.length"))
    }

    /// Offsets of this chunk's stage.
    pub(crate) fn chunk_tiles(&self) -> Vec<String> {
        let tile = |tensor: &Tensor| {
            let name = tensor.name();
            format!("const int {name}_tile = {} + stage * {};", shared_name(name), self.stage_bytes(*tensor))
        };
        self.tile_tensors().iter().map(tile).collect()
    }
}
