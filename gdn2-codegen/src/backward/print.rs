//! What the backward templates print. The stages up to the factors are forward's; what follows them is here.

use super::map::{Slices, gradient_numbers, scan_plan, straddles};
use crate::abi::Tensor;
use crate::chunk::numbers::{WARP_ROWS, block_tiles, decay_threads};
use crate::chunk::text::{Logits, Own, Text};
use crate::forward;
use crate::kernel::{Kernel, Launch, LaunchRole};
use crate::plan::Fold;
use crate::print::regions::region_meaning;
use crate::print::signature::{
    describe, describe_write, extend, params, regions, rows, shared_name, storage, type_name,
};
use crate::print::template::{View, fields};
use crate::schedule::{Backward, Forward, Matrix, Scan};
use crate::shared::Region;
use gdn2_dsl::prologue::GateOf;
use gdn2_dsl::{Dtype, StateLayout};

const STATES: &str = include_str!("../../templates/backward/states.cu.hbs");
const GRADIENTS: &str = include_str!("../../templates/backward/gradients.cu.hbs");
const HEADS: &str = include_str!("../../templates/backward/heads.cu.hbs");

/// The template and the view of one launch.
pub(crate) fn view(kernel: &Kernel, numbers: Backward, launch: &Launch) -> (&'static str, View) {
    match launch.role {
        LaunchRole::RecomputedStates => {
            let whole = Forward { scan: numbers.scan, matrix: Matrix::Mma, segments: 1 };
            forward::view_mma(kernel, whole, launch)
        }
        LaunchRole::SegmentJoin => forward::view_join(kernel, numbers.scan(), launch),
        LaunchRole::SegmentMaps | LaunchRole::ReverseScan if numbers.matrix == Matrix::Wgmma => {
            let scan = Kernel { plan: scan_plan(&kernel.plan), ..kernel.clone() };
            forward::view_wgmma(&scan, numbers.scan(), launch)
        }
        LaunchRole::ReverseScan => (STATES, states(kernel, numbers, launch)),
        LaunchRole::HeadSums => (HEADS, heads(kernel, launch)),
        LaunchRole::GateGradients => super::gates::gate_view(kernel, numbers, launch),
        LaunchRole::ParamSums => super::gates::sum_view(kernel, numbers.scan.chunk, launch),
        _ if numbers.gradients == Matrix::Wgmma => super::print_gradients_wgmma::view(kernel, numbers, launch),
        _ => (GRADIENTS, gradients(kernel, numbers, launch)),
    }
}

/// What every launch prints of itself.
pub(super) fn common(kernel: &Kernel, scan: Scan, launch: &Launch) -> View {
    fields! {
        "entry": launch.entry, "rule": kernel.rule.name, "arch": kernel.arch.target(),
        "schedule": kernel.schedule.to_string(),
        "decay": describe(kernel.plan.decay), "erase": describe(kernel.plan.erase),
        "write": describe_write(&kernel.plan),
        "key": kernel.rule.key_dim, "value": kernel.rule.value_dim, "chunk": scan.chunk,
        "warps": scan.warps, "threads": launch.block,
        "shared_bytes": launch.shared_bytes, "shared_alignment": launch.shared_alignment,
        "decay_threads": decay_threads(&kernel.rule, scan),
        "regions": regions(launch, meaning), "params": params(kernel, launch),
    }
}

fn meaning(region: &str) -> &'static str {
    match region {
        "do" => "dO, a slice per 16 value rows",
        "end_keys" => "keys decayed to the chunk's end",
        "n" => "N, a slice per 16 value rows",
        "dr" => "dR, likewise",
        "s" => "S before the chunk, as kept",
        "ds" => "dS after the chunk, as kept",
        "dp" => "dP below the diagonal",
        "dl" => "dL",
        "diagonal" => "the diagonal of dP",
        "erase_rows" => "sums of the erase gate's gradient",
        "decay_rows" => "sums of the decay's gradient",
        "decay_tail" => "what the chunk's end adds to the decay's gradient",
        "value_rows" => "sums of the write gate's gradient",
        other => region_meaning(other),
    }
}

fn row(tensor: Tensor, suffix: &str) -> String {
    format!("{}{suffix};", rows(tensor))
}

fn states(kernel: &Kernel, numbers: Backward, launch: &Launch) -> View {
    let kernel = &Kernel { plan: scan_plan(&kernel.plan), ..kernel.clone() };
    let text = Text { kernel, scan: numbers.scan };
    let plan = &kernel.plan;
    let (state_key_stride, state_value_stride) = match kernel.rule.state {
        StateLayout::Kv => (kernel.rule.value_dim, 1),
        StateLayout::Vk => (1, kernel.rule.key_dim),
    };
    let mut heads: Vec<String> =
        [Tensor::Q, Tensor::K].into_iter().chain(plan.gate_tensors()).map(|tensor| row(tensor, "")).collect();
    heads.push(row(Tensor::DO, " + value"));
    heads.extend(text.logit_rows());
    let mut prologue = vec!["copy_tiles(chunks - 1);".to_owned(), "copy_values(chunks - 1);".to_owned()];
    prologue.extend((1..numbers.scan.stages).map(|stage| format!("copy_tiles(chunks - 1 - {stage});")));
    let (values, tiles) = ("copy_values(chunk - 1);".to_owned(), "copy_tiles(chunk - STAGES);".to_owned());
    // Copies end in the order they begin. With one stage a chunk's tiles come first, dO being wanted later; with more,
    // the chunk's tiles are on their way already and those that follow are wanted last.
    let (next_copies, tiles_pending) =
        if numbers.scan.stages == 1 { ([tiles, values], 1) } else { ([values, tiles], 2 * (numbers.scan.stages - 1)) };
    let fetches = text.fetches(Some("(chunks - 1) * CHUNK"), "work.length - (chunks - 1) * CHUNK");
    if !fetches.is_empty() {
        prologue.push("if (warp_index() == 0 && chunks > 0) {".to_owned());
        prologue.extend(fetches.into_iter().map(|line| format!("  {line}")));
        prologue.push("}".to_owned());
    }
    prologue.extend(text.fixed());
    let mut next = text.fetches(Some("(first - CHUNK)"), "CHUNK");
    for line in &mut next {
        *line = format!("if (chunk > 0) {line}");
    }
    let last = vec![match plan.erase {
        Fold::Absent | Fold::Pair => "const Reverse reverse{};".to_owned(),
        Fold::Row | Fold::Operand => format!("const Reverse reverse{{{}}};", text.left_tile()),
    }];
    let mut aliases = text.aliases();
    aliases.retain(|alias| !["Write", "Writes"].iter().any(|name| alias.text("name").is_ok_and(|own| own == *name)));
    let reverse = match plan.erase {
        Fold::Absent | Fold::Pair => "KeepAll".to_owned(),
        Fold::Row | Fold::Operand => format!("ReverseResidual<{}, {}>", text.residual(), shared_name("m")),
    };
    aliases.push(fields! { "name": "Reverse", "type": reverse });
    let more = fields! {
        "grid": format!("sequences * value_heads * {}", numbers.scan.value_split),
        "stages": numbers.scan.stages, "value_split": numbers.scan.value_split,
        "value_tiles": block_tiles(&kernel.rule, text.scan),
        "state_key_stride": state_key_stride, "state_value_stride": state_value_stride,
        "aliases": aliases, "formulas": text.functions(), "rows": heads,
        "copy_tiles": text.copies(&text.tile_tensors()),
        "copy_values": ["copy_slice(SMEM_DO, d_o_rows + first * d_o_token_stride, d_o_token_stride, exist);"],
        "token_gates": text.token_gates(),
        "prologue": prologue, "chunk_tiles": text.chunk_tiles(), "next_copies": next_copies,
        "calls": text.in_place(format!("copy_wait<{tiles_pending}>();"), "work.length - first", last, next),
        "values_pending": numbers.scan.stages - 1, "grad_slice": "SMEM_DO",
    };
    extend(common(kernel, text.scan, launch), more)
}

fn gradients(kernel: &Kernel, numbers: Backward, launch: &Launch) -> View {
    let kernel = &Kernel { plan: kernel.plan.with_wide_gates(), ..kernel.clone() };
    let text = Text { kernel, scan: gradient_numbers(numbers) };
    let plan = &kernel.plan;
    let inputs: Vec<Tensor> = [Tensor::Q, Tensor::K, Tensor::V].into_iter().chain(plan.gate_tensors()).collect();
    let gates = GateOf::ALL.into_iter().zip([Tensor::DG, Tensor::DB, Tensor::DW]);
    let gates = gates.filter(|(gate, _)| plan.has(*gate)).map(|(_, tensor)| tensor);
    let outputs: Vec<Tensor> = [Tensor::DQ, Tensor::DK, Tensor::DV].into_iter().chain(gates).collect();
    // dv and a channel-wise dw leave as they are made, the rest at the end.
    let straddles = straddles(plan);
    let early = |tensor: &Tensor| match tensor {
        Tensor::DV => true,
        Tensor::DW => plan.write == Fold::Operand,
        // State terms of a computed decay are noted early.
        Tensor::DG => straddles,
        _ => false,
    };
    let (first, last): (Vec<Tensor>, Vec<Tensor>) = outputs.into_iter().partition(early);
    let gradient_row = |tensor: Tensor| text.value_rows(tensor).unwrap_or_else(|| vec![row(tensor, "")]);
    let mut heads: Vec<String> = inputs.iter().copied().chain([Tensor::DO]).map(|tensor| row(tensor, "")).collect();
    heads.extend(first.into_iter().flat_map(gradient_row));
    heads.extend(text.logit_rows());
    let gradient_heads: Vec<String> = last.into_iter().flat_map(gradient_row).collect();
    let copied = text.tile_tensors().into_iter().filter(|tensor| text.is_copied(*tensor));
    let copies = copied.map(|tensor| {
        let name = tensor.name();
        let ty = storage(kernel, tensor);
        format!("copy_tile<{ty}, KEY>({}, {name}_rows, {name}_token_stride, exist);", shared_name(name))
    });
    let mut token_gates = text.token_gates();
    let fetches = text.fetches(None, "exist");
    if !fetches.is_empty() {
        token_gates.push("if (warp == 0) {".to_owned());
        token_gates.extend(fetches.into_iter().map(|line| format!("  {line}")));
        token_gates.push("}".to_owned());
    }
    token_gates.extend(text.fixed());
    let left = match (plan.erase, plan.decay) {
        (Fold::Absent | Fold::Pair, _) => "",
        (Fold::Row, Fold::Absent | Fold::Pair | Fold::Row) => "k_tile",
        (Fold::Row, Fold::Operand) | (Fold::Operand, _) => "SMEM_E",
    };
    let mut calls: Vec<String> = text
        .tile_tensors()
        .iter()
        .map(|tensor| format!("const int {}_tile = {};", tensor.name(), shared_name(tensor.name())))
        .collect();
    calls.extend(text.calls(Own {
        wait: "copy_wait<0>();".to_owned(),
        logits: Logits { in_memory: true, token: "t", exist: "exist" },
        left: left.to_owned(),
        scales_in_place: false,
        scaled: format!("scale_ends<Element>(left, k_tile, {}, SMEM_END_KEYS);", text.sums()),
        fetches: Vec::new(),
        last: Vec::new(),
    }));
    let policies = Policies { text: &text, left };
    let slices = Slices::new(&kernel.rule, numbers);
    let more = fields! {
        "slices": slices.count, "slice_groups": slices.groups,
        "grid": format!("(total_tokens / {} + sequences) * value_heads", numbers.scan.chunk),
        "value_tiles": numbers.value_tiles,
        "value_blocks": kernel.rule.value_dim.div_ceil(WARP_ROWS).div_ceil(numbers.value_tiles),
        "aliases": policies.aliases(), "formulas": text.functions(), "rows": heads,
        "grouped": if super::normalised(&kernel.rule).is_empty() { "key_heads != value_heads" } else { "true" },
        "gradient_rows": gradient_heads,
        "copy_tiles": copies.collect::<Vec<_>>(), "token_gates": token_gates, "calls": calls,
        "writes_wait": writes_wait(launch), "policies": policies.policies(), "write_gate": policies.write_gate(),
        "grad_slice": "SMEM_DO",
        "end_keys": if plan.decay == Fold::Operand { "SMEM_END_KEYS" } else { "k_tile" },
        "sum_pairs": policies.sum_pairs(),
        "state_terms": policies.state_terms(), "finish": policies.finish(), "store": policies.store(),
        "write": policies.write(slices.count),
    };
    extend(common(kernel, text.scan, launch), more)
}

/// Before N and dR go over what other warps read to make theirs. Where they have bytes of their own, the blocks of
/// values before this one, the only other readers, are done with them.
fn writes_wait(launch: &Launch) -> Vec<&'static str> {
    let regions =
        |names: [&'static str; 2]| launch.shared.iter().filter(move |region| names.contains(&region.name.as_str()));
    let meet = |a: &Region, b: &Region| a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes;
    let covered = regions(["n", "dr"]).any(|write| regions(["end_keys", "e"]).any(|read| meet(write, read)));
    if covered { vec!["__syncthreads();"] } else { Vec::new() }
}

/// Which of the device code's alternatives a rule's gradients take.
struct Policies<'a> {
    text: &'a Text<'a>,
    left: &'static str,
}

impl Policies<'_> {
    fn aliases(&self) -> Vec<View> {
        let plan = &self.text.kernel.plan;
        let mut aliases = self.text.aliases();
        aliases.retain(|alias| {
            !["Write", "Writes", "Carry"].iter().any(|name| alias.text("name").is_ok_and(|own| own == *name))
        });
        if plan.decay == Fold::Operand {
            aliases.push(fields! { "name": "Pair", "type": "NoPairDecay" });
        }
        let (erased, pair_erase, key_left) = match plan.erase {
            Fold::Absent | Fold::Pair => {
                ("NothingErased".to_owned(), "NoErasePairs".to_owned(), "NoKeyErase".to_owned())
            }
            Fold::Row | Fold::Operand => {
                let storage = type_name(plan.erase_storage);
                let key_left = if plan.erase == Fold::Row {
                    "TokenKeyErase<Element, SMEM_DR, SMEM_DL, SMEM_BETA>".to_owned()
                } else {
                    format!("ChannelKeyErase<Element, {storage}, SMEM_DR, SMEM_DL>")
                };
                let erased = format!("ErasedValues<{}, SMEM_M>", self.text.residual());
                (erased, "ErasePairs<Element, SMEM_DR, SMEM_DL>".to_owned(), key_left)
            }
        };
        let key_decay = match plan.decay {
            Fold::Absent | Fold::Row => "NoDecayGradient",
            Fold::Pair => {
                "TokenDecayGradient<Element, SMEM_DECAY_IN, SMEM_DECAY_OUT, SMEM_DECAY_ROWS, SMEM_DECAY_TAIL>"
            }
            Fold::Operand if straddles(plan) => "StraddleDecayGradient<Element, SMEM_DECAY_TAIL>",
            Fold::Operand => "ChannelDecayGradient<Element, SMEM_DECAY_TAIL>",
        };
        let pair_totals = match plan.decay {
            Fold::Absent | Fold::Row | Fold::Operand => "NoPairTotals",
            Fold::Pair => "TokenPairTotals<Element, Left, SMEM_DECAY_ROWS>",
        };
        let write = match plan.write {
            Fold::Absent | Fold::Pair => "NoWriteGate".to_owned(),
            Fold::Row => {
                let vector = if plan.tied { "SMEM_BETA" } else { "SMEM_WRITE" };
                format!("TokenWriteGate<Each<{vector}>, SMEM_VALUE_ROWS>")
            }
            Fold::Operand => format!("ChannelWriteGate<{}>", type_name(plan.write_storage)),
        };
        let named = [
            ("Erased", erased),
            ("PairErase", pair_erase),
            ("KeyLeft", key_left),
            ("KeyDecay", key_decay.to_owned()),
            ("PairTotals", pair_totals.to_owned()),
            ("WriteGate", write),
        ];
        aliases.extend(named.into_iter().map(|(name, ty)| fields! { "name": name, "type": ty }));
        aliases
    }

    fn policies(&self) -> Vec<String> {
        let plan = &self.text.kernel.plan;
        let key_left = match plan.erase {
            Fold::Operand if plan.decay == Fold::Operand => "{}, b_tile, 0",
            Fold::Operand => "{}, b_tile, SMEM_E",
            Fold::Row | Fold::Absent | Fold::Pair => "",
        };
        let key_decay = match plan.decay {
            Fold::Operand if straddles(plan) => format!("{{{}}}", self.text.sums()),
            Fold::Operand => self.text.sums().to_owned(),
            Fold::Absent | Fold::Pair | Fold::Row => String::new(),
        };
        let pair_totals = if plan.decay == Fold::Pair { "left, q_tile, k_tile" } else { "" };
        vec![
            format!("const Erased erased{{{}}};", self.left),
            "const PairErase pair_erase{};".to_owned(),
            format!("const KeyLeft key_left{{{key_left}}};"),
            format!("const KeyDecay key_decay{{{key_decay}}};"),
            format!("const PairTotals pair_totals{{{pair_totals}}};"),
        ]
    }

    fn write_gate(&self) -> Vec<String> {
        if self.text.kernel.plan.write == Fold::Operand {
            let fetch = self.text.fetch_write();
            vec!["WriteGate write{{}, dw_rows + value, dw_token_stride, exist};".to_owned(), fetch]
        } else {
            vec!["const WriteGate write{};".to_owned()]
        }
    }

    fn sum_pairs(&self) -> String {
        let plan = &self.text.kernel.plan;
        let erased = if plan.erase == Fold::Absent { "NoErased" } else { "Erased" };
        if plan.decay == Fold::Operand {
            format!(
                "sum_pairs_anchored<Element, {erased}Anchored>(sums, left_sums, key_left, task, q_tile, k_tile, SMEM_DP, {});",
                self.text.sums()
            )
        } else {
            format!("sum_pairs<Element, {erased}Pairs>(sums, left_sums, key_left, task, q_tile, k_tile, SMEM_DP);")
        }
    }

    /// Where pairs give a decay its gradient one by one, what states give is noted before they are added.
    fn state_terms(&self) -> Vec<&'static str> {
        let line = "key_decay.note_states(decay_words, sums, left_sums, key_left, task, q_tile, k_tile, dg_rows, dg_token_stride, exist);";
        if straddles(&self.text.kernel.plan) { vec![line] } else { Vec::new() }
    }

    fn finish(&self) -> Vec<String> {
        let plan = &self.text.kernel.plan;
        let mut lines = Vec::new();
        if plan.erase == Fold::Row {
            lines.push("key_left.finish(left_words, task, SMEM_ERASE_ROWS);".to_owned());
        }
        if straddles(plan) {
            let erased = if plan.erase == Fold::Absent { "NoErased" } else { "Erased" };
            lines.push(format!(
                "straddle_pairs<Element, {erased}Anchored>(decay_words, key_left, task, q_tile, k_tile, SMEM_DP, {});",
                self.text.sums()
            ));
        }
        lines
    }

    fn store(&self) -> Vec<String> {
        let plan = &self.text.kernel.plan;
        let mut lines = Vec::new();
        if plan.erase == Fold::Operand {
            lines.push("key_left.store(left_words, task);".to_owned());
        }
        if plan.decay == Fold::Operand {
            lines.push("key_decay.store(decay_words, task);".to_owned());
        }
        lines
    }

    fn write(&self, slices: u32) -> Vec<String> {
        let plan = &self.text.kernel.plan;
        let tiles = self.text.kernel.rule.value_dim.div_ceil(WARP_ROWS);
        let values = format!("sum_partials<{tiles}>(SMEM_VALUE_ROWS, token)");
        let token_gate = |name: &str, sum: String| {
            format!(
                "if (warp == 0) write_token_gradient(d{name}_rows, d{name}_token_stride, exist, [&](int token) {{ \
                 return {sum}; }});"
            )
        };
        let mut lines = Vec::new();
        match plan.decay {
            Fold::Absent | Fold::Row => {}
            Fold::Pair => lines.push("if (warp == 0) key_decay.write(dg_rows, dg_token_stride, exist);".to_owned()),
            Fold::Operand => lines.push("key_decay.write(dg_rows, dg_token_stride, exist);".to_owned()),
        }
        match plan.erase {
            Fold::Absent | Fold::Pair => {}
            Fold::Operand => lines.push("write_tile(b_tile, db_rows, db_token_stride, exist);".to_owned()),
            Fold::Row => {
                let keys = format!("sum_partials<{slices}>(SMEM_ERASE_ROWS, token)");
                let sum = if plan.tied { format!("{keys} + {values}") } else { keys };
                lines.push(token_gate("b", sum));
            }
        }
        if plan.write == Fold::Row && !plan.tied {
            lines.push(token_gate("w", values));
        }
        lines
    }
}

fn heads(kernel: &Kernel, launch: &Launch) -> View {
    debug_assert_ne!(kernel.rule.dtype, Dtype::F32);
    let normalised = super::normalised(&kernel.rule);
    let sum = |tensor: Tensor| {
        let (name, gradient) = (tensor.name(), tensor.gradient().name());
        let row = |name: &str| {
            format!("{name} + batch * {name}_batch_stride + row * {name}_token_stride + key_head * {name}_head_stride")
        };
        let heads = format!("static_cast<const float*>({gradient}_heads)");
        let call = if normalised.contains(&tensor) {
            format!("sum_normed_heads({heads}, {}, {},", row(name), row(gradient))
        } else {
            format!("sum_heads({heads}, {},", row(gradient))
        };
        vec![call, "          token, key_head, group, value_heads);".to_owned()]
    };
    let sums = [sum(Tensor::Q), sum(Tensor::K)].concat();
    fields! {
        "entry": launch.entry, "rule": kernel.rule.name, "grid": "total_tokens * key_heads",
        "key": kernel.rule.key_dim, "threads": launch.block, "element": type_name(kernel.rule.dtype),
        "params": params(kernel, launch), "sums": sums,
    }
}
