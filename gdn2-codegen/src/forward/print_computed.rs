//! What formulas add to a scan on wgmma: gates that are computed as they are taken, what is made of tiles before a chunk's
//! factors, and the parts that are the same for all tokens.

use super::numbers::composes;
use super::print_segments::Role;
use super::print_wgmma::Text;
use crate::chunk::numbers::WARP_ROWS;
use crate::gates::{Block, fill};
use crate::print::computed::Computing;
use gdn2_dsl::prologue::GateOf;

impl Text<'_> {
    pub(super) fn computing(&self) -> Computing<'_> {
        Computing { kernel: self.kernel, chunk: self.scan.chunk, once: false }
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

    /// The device files that compute.
    pub(super) fn computed_files(&self) -> Vec<&'static str> {
        let prepared = self.prepares().then_some("prepared");
        self.computing().files().into_iter().chain(prepared).collect()
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

    fn computes_erase_tile(&self) -> bool {
        self.computing().along_channels(GateOf::Erase).is_some()
    }

    /// Whether tiles of a chunk change before its factors are made.
    fn prepares(&self) -> bool {
        let prologue = &self.kernel.rule.prologue;
        prologue.normalises_k() || (self.outputs() && prologue.normalises_q()) || self.computes_erase_tile()
    }
}
