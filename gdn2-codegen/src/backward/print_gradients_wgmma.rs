//! What `backward/gradients_wgmma.cu.hbs` prints: the numbers and types of its `Cfg`, and which rows each stage is given.

use super::gradients_wgmma::{by_channel, channel_plan, decay_parts};
use super::map::gradient_numbers;
use super::print::common;
use crate::abi::Tensor;
use crate::chunk::numbers::WARP_ROWS;
use crate::kernel::{Kernel, Launch};
use crate::plan::Fold;
use crate::print::regions::region_meaning;
use crate::print::signature::{extend, regions, rows, type_name};
use crate::print::template::{View, fields};
use crate::print::wgmma::{Left, copied_rows, gate_choices, product};
use crate::schedule::Backward;
use gdn2_dsl::prologue::GateOf;

const TEMPLATE: &str = include_str!("../../templates/backward/gradients_wgmma.cu.hbs");
const CHANNELS: &str = include_str!("../../templates/backward/gradients_channels_wgmma.cu.hbs");

/// The template and its view.
pub(super) fn view(kernel: &Kernel, numbers: Backward, launch: &Launch) -> (&'static str, View) {
    if by_channel(&kernel.plan) {
        let kernel = &Kernel { plan: channel_plan(&kernel.plan), ..kernel.clone() };
        let text = Text { kernel, chunk: numbers.scan.chunk };
        return (CHANNELS, extend(common(kernel, gradient_numbers(numbers), launch), text.channels(launch, numbers)));
    }
    let text = Text { kernel, chunk: numbers.scan.chunk };
    let (plan, chunk) = (&kernel.plan, numbers.scan.chunk);
    let products =
        [Left::Registers, Left::Tile, Left::AnyTile].map(|left| product(chunk, kernel.rule.dtype, left)).to_vec();
    let store = |tile: &str, from: &str| format!("store_pairs({tile}, {from}, block, lane);");
    let where_there = |fold: Fold, lines: &[&str]| -> Vec<String> {
        lines.iter().filter(|_| fold != Fold::Absent).map(|line| (*line).to_owned()).collect()
    };
    let erased = |lines: &[&str]| where_there(plan.erase, lines);
    let decays = |lines: &[&str]| where_there(plan.decay, lines);
    let mut store_pairs = vec![format!("if (group == 0) {}", store("buffer.p()", "pairs"))];
    store_pairs.extend(erased(&[&format!("if (group == 1) {}", store("buffer.m()", "pairs"))]));
    let more = fields! {
        "grid": format!("(total_tokens / {chunk} + sequences) * value_heads"),
        "products": products, "element": type_name(kernel.rule.dtype), "storages": text.computing().gate_types(),
        "choices": text.choices(), "formulas": text.computing().functions(), "computed": text.computed_files(),
        "fixed": text.fixed(), "prepare": text.prepare(text.normalise()),
        "scale_queries": text.scale_queries().as_slice(), "grouped": text.grouped(),
        "regions": regions(launch, meaning),
        "tile_rows": [text.rows(Tensor::Q, true), text.rows(Tensor::K, true)], "query_rows": [text.rows(Tensor::Q, true)],
        "vectors": text.vectors(), "value_rows": text.value_rows(),
        "erased_pairs": erased(&["else pair_gradients<Cfg, false>(pairs, rows, buffer, scale, block);"]),
        "overlap": decays(&[
            "tail = state_overlap<Element>(s, kept(dstates), lane) * at<float>(buffer.chunk_decay());",
        ]),
        "store_pairs": store_pairs,
        "erased_sums": erased(&["store_row_sums(Cfg::SMEM_ERASE_ROWS, erased, group, block, lane_index());"]),
        "decay_sums": decays(&[
            "store_row_sums(Cfg::SMEM_DECAY_ROWS + (Cfg::DECAY_PARTS - 2) * (CHUNK * 4), {rows[0], rows[1]}, group, block, \
             lane_index());",
            "store_tail(Cfg::SMEM_DECAY_TAIL, tail);",
        ]),
        "key_rows": text.key_rows(), "gradient_rows": text.gradient_rows(), "write": text.write(),
    };
    (TEMPLATE, extend(common(kernel, gradient_numbers(numbers), launch), more))
}

fn meaning(region: &str) -> &'static str {
    match region {
        "q" => "queries, copied again once S is read",
        "k" => "keys, in the end their gradients",
        "n" => "N, value rows by tokens",
        "gated" => "dL, its rows by their erase gates",
        "p" => "P, then dP",
        "m" => "M, then dL",
        "s" => "S before the chunk",
        "do" => "dO, value rows by tokens",
        "dr" => "dR, likewise",
        "ds" => "dS after the chunk",
        "decay_rows" => "sums of the decay's gradient",
        "q_norm" | "k_norm" => "what rows were scaled by to be normalised",
        "q_along" | "k_along" => "sums of their gradients along them",
        "decay_tail" => "what the chunk's end adds to the decay's gradient",
        "erase_rows" => "sums of the erase gate's gradient",
        "value_rows" => "sums of the write gate's gradient",
        other => region_meaning(other),
    }
}

fn channel_meaning(region: &str) -> &'static str {
    match region {
        "q" => "queries, in the end their gradients",
        "k" => "keys, likewise",
        "g" => "decays, likewise",
        "b" => "erase gates, likewise",
        "db_rows" => "where the gradient of an erase gate goes that has no room in its tile",
        "scaled_k" => "keys scaled to the chunk's end",
        "e" => "what is erased, scaled from the chunk's start",
        "p" => "P",
        "m" => "M",
        "dp" => "dP below the diagonal",
        "dl" => "dL",
        "handed" => "scores of half the channels that warpgroups hand each other",
        "diagonal" => "dP on the diagonal",
        other => meaning(other),
    }
}

pub(super) struct Text<'a> {
    pub(super) kernel: &'a Kernel,
    /// Tokens of a chunk.
    pub(super) chunk: u32,
}

impl Text<'_> {
    fn own_write(&self) -> bool {
        self.kernel.plan.write != Fold::Absent && !self.kernel.plan.tied
    }

    fn channel_write(&self) -> bool {
        self.kernel.plan.write == Fold::Operand
    }

    fn choices(&self) -> Vec<String> {
        let mut choices = gate_choices(&self.kernel.plan);
        choices.extend([
            "OUTPUTS = 1,  // queries are read".to_owned(),
            "OWN_ERASED = 0,  // what is erased has no tile of its own".to_owned(),
            "OVER_DECAYS = 0,  // P and M have bytes of their own".to_owned(),
            format!("DECAY_PARTS = {},  // of the sums of the decay's gradient", decay_parts(&self.kernel.plan)),
        ]);
        choices
    }

    /// The view where every channel decays at its own rate.
    fn channels(&self, launch: &Launch, numbers: Backward) -> View {
        let Kernel { plan, rule, .. } = self.kernel;
        let chunk = numbers.scan.chunk;
        let later = (1..chunk / 16).map(|blocks| product(blocks * 16, rule.dtype, Left::Registers));
        let whole = [Left::Registers, Left::AnyTile].map(|left| product(chunk, rule.dtype, left));
        let erases = plan.erase != Fold::Absent;
        let mut choices = gate_choices(plan);
        choices.extend([
            "OUTPUTS = 1,  // queries are read".to_owned(),
            format!("OWN_ERASED = {},  // what is erased has a tile of its own", u32::from(erases)),
            "OVER_DECAYS = 0,  // P and M have bytes of their own".to_owned(),
        ]);
        let mut copied = vec![(Tensor::Q, "buffer.queries()"), (Tensor::K, "buffer.keys()")];
        copied.extend(plan.computes(GateOf::Decay).is_none().then_some((Tensor::G, "buffer.decays()")));
        let erase_tile = plan.erase == Fold::Operand && plan.computes(GateOf::Erase).is_none_or(|own| own.reads_logit);
        copied.extend(erase_tile.then_some((Tensor::B, "buffer.gates()")));
        let copies =
            copied.iter().map(|(tensor, tile)| format!("copy_tile<KEY>({tile}, {}_rows, 0, exist);", tensor.name()));
        let gates = self.gates().into_iter().map(|(_, tensor)| tensor);
        let gates = gates.filter(|tensor| *tensor != Tensor::DB || !self.computing().leaves(GateOf::Erase));
        let gradients = [Tensor::DQ, Tensor::DK].map(|tensor| format!("{};", rows(tensor)));
        let write_keys = self.write_keys();
        let gradients = gradients.into_iter().filter(|_| !write_keys.is_empty()).chain(self.gate_rows(gates));
        let fixed = [self.fixed(), self.erase_rows()].concat();
        let prepare = [self.normalise(), self.compute_erases()].concat();
        fields! {
            "to_dw": self.to_dw(), "formulas": self.computing().functions(), "computed": self.computed_files(),
            "fixed": fixed, "decays": self.compute_decays(),
            "prepare": self.prepare(prepare),
            "no_head": if self.keeps_keys() { "key_heads == value_heads" } else { "false" }, "write_keys": write_keys,
            "grid": format!("(total_tokens / {chunk} + sequences) * value_heads"),
            "products": later.chain(whole).collect::<Vec<_>>(), "element": type_name(rule.dtype),
            "storages": self.computing().gate_types(), "choices": choices,
            "regions": regions(launch, channel_meaning),
            "tile_rows": copied.iter().map(|(tensor, _)| self.rows(*tensor, true)).collect::<Vec<_>>(),
            "copies": copies.collect::<Vec<_>>(), "vectors": self.vectors(), "value_rows": self.value_rows(),
            "gradient_rows": gradients.collect::<Vec<_>>(),
            "write": self.write(),
        }
    }

    fn rows(&self, tensor: Tensor, there: bool) -> String {
        copied_rows(self.kernel, tensor, there.then_some(tensor), "")
    }

    /// Vectors over the chunk's tokens, by the block's last warp.
    fn vectors(&self) -> Vec<String> {
        let plan = &self.kernel.plan;
        let gates = [
            (Tensor::G, plan.decay == Fold::Pair),
            (Tensor::B, plan.erase == Fold::Row),
            (Tensor::W, plan.write == Fold::Row && !plan.tied),
        ];
        if gates.iter().all(|(_, there)| !there) {
            return Vec::new();
        }
        let mut lines =
            vec!["if (warp_index() == WARPS - 1) {".to_owned(), "  const ChunkWork work = place.work();".to_owned()];
        let rows = |(tensor, there): (Tensor, bool)| {
            let computed = if there { self.computing().logit_rows(tensor, "") } else { None };
            format!("  {}", computed.unwrap_or_else(|| self.rows(tensor, there)))
        };
        lines.extend(gates.map(rows));
        lines.extend(
            [
                "  TokenGates<Cfg> gates;",
                "  gates.fetch(g_rows, b_rows, w_rows, 0, exist, lane_index());",
                "  store_vectors(buffer, gates, scale, lane_index());",
                "}",
            ]
            .map(str::to_owned),
        );
        lines
    }

    fn value_rows(&self) -> Vec<String> {
        let values = |tensor: Tensor, name: &str, ty: &str| {
            let rows_of = tensor.cuda_name();
            vec![
                format!("const auto {name} = [&] {{"),
                "  const ChunkWork work = place.work();".to_owned(),
                format!("  {};", rows(tensor)),
                format!("  return OwnValues<{ty}>{{{rows_of}_rows + row, {rows_of}_token_stride}};"),
                "};".to_owned(),
            ]
        };
        let mut lines = [
            values(Tensor::V, "v_values", "const Element"),
            values(Tensor::DO, "grad_values", "const Element"),
            values(Tensor::DV, "dv_values", "Element"),
        ]
        .concat();
        if let Some(computed) = self.write_values() {
            lines.extend(computed);
        } else if self.channel_write() {
            lines.extend(values(Tensor::W, "w_values", "const Element"));
            lines.extend(values(Tensor::DW, "dw_values", "Element"));
        } else if by_channel(&self.kernel.plan) {
            let none = ["w_values", self.to_dw()];
            lines.extend(none.map(|name| format!("const auto {name} = [] {{ return NoValues{{}}; }};")));
        }
        lines
    }

    /// What says where the write gate's gradient goes: the memory of a computed gate's has the usual name.
    pub(super) fn to_dw(&self) -> &'static str {
        if self.kernel.plan.computes(GateOf::Write).is_some() { "to_dw" } else { "dw_values" }
    }

    fn gates(&self) -> Vec<(&'static str, Tensor)> {
        let plan = &self.kernel.plan;
        let all = [
            ("decay", Tensor::DG, plan.decay != Fold::Absent),
            ("erase", Tensor::DB, plan.erase != Fold::Absent),
            ("write", Tensor::DW, self.own_write() && !self.channel_write()),
        ];
        all.into_iter().filter_map(|(gate, tensor, there)| there.then_some((gate, tensor))).collect()
    }

    /// Where dq and dk go.
    fn key_rows(&self) -> Vec<String> {
        let lines = |(name, tensor): (&str, Tensor)| {
            let rows_of = tensor.cuda_name();
            let to =
                format!("KeyRows<Element>{{{rows_of}_rows, {rows_of}_token_stride, head({name}_heads), head_stride}}");
            vec![
                format!("const auto to_{name} = [&] {{"),
                "  const ChunkWork work = place.work();".to_owned(),
                format!("  {};", rows(tensor)),
                format!("  return {};", self.key_rows_as(tensor, to)),
                "};".to_owned(),
            ]
        };
        [("dq", Tensor::DQ), ("dk", Tensor::DK)].map(lines).concat()
    }

    fn gradient_rows(&self) -> Vec<String> {
        let lines = self.gate_rows(self.gates().into_iter().map(|(_, tensor)| tensor));
        let work = (!lines.is_empty()).then(|| "const ChunkWork work = place.work();".to_owned());
        work.into_iter().chain(lines).collect()
    }

    /// Gradients of gates, a warp each.
    fn write(&self) -> Vec<String> {
        let Kernel { rule, plan, .. } = self.kernel;
        let parts = rule.key_dim / if by_channel(plan) { WARP_ROWS } else { 64 };
        let values = format!("sum_parts<{}>(Cfg::SMEM_VALUE_ROWS, lane_index())", rule.value_dim / WARP_ROWS);
        let line = |(warp, (gate, tensor)): (usize, (&str, Tensor))| {
            let name = tensor.cuda_name();
            let call = match gate {
                "decay" if plan.decay == Fold::Operand => {
                    return Some(format!("write_tile(buffer.decays(), {name}_rows, {name}_token_stride, exist);"));
                }
                "erase" if self.computing().leaves(GateOf::Erase) => return None,
                "erase" if plan.erase == Fold::Operand => {
                    return Some(format!("write_tile(buffer.gates(), {name}_rows, {name}_token_stride, exist);"));
                }
                "decay" => format!("write_decay_gradient<Cfg>({name}_rows, {name}_token_stride, exist);"),
                "erase" => {
                    let keys = format!("sum_parts<{parts}>(Cfg::SMEM_ERASE_ROWS, lane_index())");
                    let sum = if plan.tied { format!("add_both({keys}, {values})") } else { keys };
                    format!("write_tokens({name}_rows, {name}_token_stride, exist, {sum}, lane_index());")
                }
                _ => format!("write_tokens({name}_rows, {name}_token_stride, exist, {values}, lane_index());"),
            };
            Some(format!("if (warp_index() == {warp}) {call}"))
        };
        self.gates().into_iter().enumerate().filter_map(line).collect()
    }
}
