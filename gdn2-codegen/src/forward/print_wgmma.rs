//! What `forward/wgmma.cu.hbs` prints: the numbers and types of its `Cfg`, and which rows each role is given. The loops
//! over chunks are in `templates/forward/wgmma/`.

use super::numbers::composes;
use super::print_segments::Role;
use super::wgmma::{Registers, factors_over_decay, part_steps, parts, registers};
use crate::abi::Tensor;
use crate::chunk::numbers::{WARP_ROWS, own_erase_operand};
use crate::kernel::{Kernel, Launch};
use crate::pass::Pass;
use crate::plan::{Fold, Plan};
use crate::print::regions::region_meaning;
use crate::print::signature::{describe, describe_write, extend, params, regions, storage, type_name};
use crate::schedule::{Forward, Scan};
use gdn2_dsl::{Dtype, StateLayout};
use serde_json::{Value, json};

const TEMPLATE: &str = include_str!("../../templates/forward/wgmma.cu.hbs");

/// The template and its view.
pub(crate) fn view(kernel: &Kernel, numbers: Forward, launch: &Launch) -> (&'static str, Value) {
    let role = Role::of(launch, numbers);
    let own = role.kernel(kernel);
    let scan = numbers.scan;
    let back = own.pass == Pass::Backward;
    let text = Text { kernel: &own, scan, role, segments: numbers.segments, back };
    let (rule, plan) = (&own.rule, &own.plan);
    let (state_key_stride, state_value_stride) = match rule.state {
        StateLayout::Kv => (rule.value_dim, 1),
        StateLayout::Vk => (1, rule.key_dim),
    };
    // A bound kernel has them.
    let dealt = registers(&kernel.plan, scan, own.arch);
    let dealt = |of: fn(&Registers) -> u32| dealt.as_ref().map_or(0, of);
    let factor_change = if dealt(|r| r.factors) < dealt(|r| r.launch) { "dec" } else { "inc" };
    let view = json!({
        "entry": launch.entry, "rule": rule.name, "arch": own.arch.target(), "schedule": own.schedule.to_string(),
        "decay": describe(plan.decay), "erase": describe(plan.erase), "write": describe_write(plan),
        "key": rule.key_dim, "value": rule.value_dim, "values": scan.warps * WARP_ROWS,
        "chunk": scan.chunk, "warps": scan.warps, "threads": launch.block, "stages": scan.stages,
        "state_key_stride": state_key_stride, "state_value_stride": state_value_stride,
        "shared_bytes": launch.shared_bytes, "shared_alignment": launch.shared_alignment, "regions": regions(launch, region_meaning),
        "factors": text.factors(), "products": text.products(), "params": params(&own, launch),
        "element": type_name(rule.dtype), "storages": text.storages(), "choices": text.choices(),
        "load_registers": dealt(|r| r.load), "factor_change": factor_change,
        "factor_registers": dealt(|r| r.factors), "state_registers": dealt(|r| r.state),
        "rows": text.rows(), "written": text.written(), "scale": text.scale(), "outputs": text.output_rows(),
        "advance": text.advance(),
        "formula": if back { REVERSE } else { RECURRENCE },
        "streamed": if back { "dO" } else { "the values" }, "state": if back { "dS" } else { "S" },
        "scan": if back { "backward/wgmma/reverse" } else { "forward/wgmma/advance" },
    });
    (TEMPLATE, extend(view, role.view(kernel, numbers, launch)))
}

/// What a block computes, forward and back.
const RECURRENCE: &str =
    "S_t = (I - k_t e_t^T) Diag(exp g_t) S_(t-1) + k_t z_t^T     e = b k     z = w v     o_t = scale S_t^T q_t";
const REVERSE: &str = "dN = PT dO + K^ dS'      dR = MT dN      dS = D dS' + Q^T dO - E^T dR";

struct Text<'a> {
    kernel: &'a Kernel,
    scan: Scan,
    role: Role,
    /// Parts of a sequence that run side by side.
    segments: u32,
    /// Chunks last to first, and the state's gradient in place of the state.
    back: bool,
}

impl Text<'_> {
    /// Whether queries are read.
    fn outputs(&self) -> bool {
        self.role != Role::Maps || self.back
    }

    fn scale(&self) -> &'static str {
        if self.outputs() { "scale" } else { "1.0f" }
    }

    /// The loop over chunks.
    fn advance(&self) -> String {
        let (scale, keep) = (self.scale(), self.keep());
        if self.back {
            format!("reverse_chunks<Cfg>(state, work.length, {scale}, {keep});")
        } else {
            format!("advance_chunks<Cfg>(state, o_rows, o_stride, work.length, {scale}, {keep});")
        }
    }

    /// The device files of the rule's own kind of factors.
    fn factors(&self) -> Vec<&'static str> {
        match (self.kernel.plan.decay, self.kernel.plan.erase) {
            (Fold::Operand, _) => vec!["channel_scores"],
            (_, Fold::Operand) => vec!["pair_scores", "erased"],
            _ => vec!["pair_scores"],
        }
    }

    /// The products themselves, by their number of columns: over a chunk's tokens, over the key's channels.
    fn products(&self) -> Vec<String> {
        let (chunk, key, dtype) = (self.scan.chunk, self.kernel.rule.key_dim, self.kernel.rule.dtype);
        let mut widths = vec![chunk, key];
        widths.dedup();
        let mut products: Vec<String> = widths.into_iter().map(|n| product(n, dtype, Left::Registers)).collect();
        if self.kernel.plan.decay != Fold::Operand {
            products.push(product(chunk, dtype, Left::Tile));
        }
        products
    }

    /// What gates are stored as; a gate that is absent is looked at nowhere.
    fn storages(&self) -> Vec<String> {
        let gates = [("Decay", Tensor::G), ("Erase", Tensor::B), ("Write", Tensor::W)];
        gates.map(|(name, tensor)| format!("using {name} = {};", storage(self.kernel, tensor))).to_vec()
    }

    /// The constants that device code is compiled by.
    fn choices(&self) -> Vec<String> {
        let Plan { decay, erase, write, tied, .. } = self.kernel.plan;
        let rule = &self.kernel.rule;
        let steps = part_steps(rule, parts(rule, &self.kernel.plan, self.scan, self.kernel.arch));
        let over = factors_over_decay(rule, &self.kernel.plan, self.scan);
        vec![
            format!("DECAY = {},", numbers_of(decay)),
            format!("ERASE = {},", numbers_of(erase)),
            format!("WRITE = {},", numbers_of(write)),
            format!("TIED = {},  // write is erase", u32::from(tied && write != Fold::Absent)),
            format!("OUTPUTS = {},  // queries are read, outputs written", u32::from(self.outputs())),
            format!(
                "OWN_ERASED = {},  // what is erased has a tile of its own",
                u32::from(own_erase_operand(&self.kernel.plan))
            ),
            format!("OVER_DECAYS = {},  // P and M lie where decays lay", u32::from(over)),
            format!("STEPS = {steps},  // of 16 channels, that S enters products by at once"),
        ]
    }

    /// The rows that the load warpgroup copies, by the names of its parameters.
    fn rows(&self) -> Vec<String> {
        let plan = &self.kernel.plan;
        let own_write = plan.write != Fold::Absent && !plan.tied;
        let tensors = [
            (Tensor::Q, self.outputs()),
            (Tensor::K, true),
            (Tensor::V, true), // dO in its place, going back
            (Tensor::G, plan.decay != Fold::Absent),
            (Tensor::B, plan.erase != Fold::Absent),
            (Tensor::W, own_write),
        ];
        let line = |(tensor, there): (Tensor, bool)| {
            let rows = tensor.name();
            if !there {
                return format!("const NoRows {rows}_rows{{}};");
            }
            let name = if self.back && tensor == Tensor::V { Tensor::DO.cuda_name() } else { rows };
            let head = if matches!(tensor, Tensor::Q | Tensor::K) { "key_head" } else { "value_head" };
            let of_values = tensor == Tensor::V || (tensor == Tensor::W && plan.write == Fold::Operand);
            let shift = if of_values { " + value" } else { "" };
            format!(
                "const Rows<{}> {rows}_rows{{work.rows({name}, {name}_batch_stride, {name}_token_stride, \
                 {name}_head_stride, work.{head}){shift}, {name}_token_stride}};",
                storage(self.kernel, tensor)
            )
        };
        tensors.into_iter().map(line).collect()
    }

    /// For how many tokens values are written; none where a segment's A is made.
    fn written(&self) -> &'static str {
        if self.role == Role::Maps && composes(self.segments) {
            "work.composes ? 0 : work.length"
        } else {
            "work.length"
        }
    }

    /// Where outputs go.
    fn output_rows(&self) -> Vec<String> {
        if self.back {
            return Vec::new();
        }
        let rows = if self.outputs() {
            "work.rows(o, o_batch_stride, o_token_stride, o_head_stride, work.value_head) + value"
        } else {
            "nullptr"
        };
        let stride = if self.outputs() { "o_token_stride" } else { "0" };
        vec![format!("Element* const o_rows = {rows};"), format!("const i64 o_stride = {stride};")]
    }

    /// What is done with the state as it enters a chunk.
    fn keep(&self) -> String {
        let kept = match self.kernel.pass {
            Pass::ForwardForBackward => "states",
            Pass::Backward if self.role != Role::Maps => "dstates",
            _ => return "KeepsNothing{}".to_owned(),
        };
        format!(
            "KeepsStates<Element>({kept}, work.first + static_cast<i64>(work.batch) * tokens, work.sequence, \
             work.value_head, value_heads, value / 16)"
        )
    }
}

/// How many numbers a gate has, as device code says it.
pub(crate) fn numbers_of(fold: Fold) -> &'static str {
    match fold {
        Fold::Absent => "ABSENT",
        Fold::Pair | Fold::Row => "TOKEN",
        Fold::Operand => "CHANNEL",
    }
}

/// Where the left operand of a product is.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Left {
    Registers,
    /// Its depth runs along its rows.
    Tile,
    /// Depths run along rows or across them.
    AnyTile,
}

/// Operands to a line of a product's lists.
const TO_A_LINE: usize = 8;

/// One wgmma of `n` columns as a function.
pub(crate) fn product(n: u32, dtype: Dtype, left: Left) -> String {
    // Rules have 16-bit operands.
    let ty = if dtype == Dtype::Bf16 { "bf16" } else { "f16" };
    let sums = (n / 2) as usize;
    let list = |texts: Vec<String>, separator: &str, open: &str, close: &str| {
        let lines: Vec<String> = texts.chunks(TO_A_LINE).map(|line| format!("{open}{}", line.join(","))).collect();
        lines.join(&format!("{separator}{close}\n      "))
    };
    let numbers = list((0..sums).map(|i| format!("%{i}")).collect(), ",", "\"", "\"");
    let held = list((0..sums).map(|i| format!(" \"+f\"(d[{}][{}])", i / 4, i % 4)).collect(), ",", "", "");
    let name = match left {
        Left::Registers => "multiply",
        Left::Tile => "multiply_tiles",
        Left::AnyTile => "multiply_turned",
    };
    let (what, head, a, inputs, majors) = match left {
        Left::Registers => (
            format!(
                "// d[64][{n}] = a[64][16] b[16][{n}], added to d where it is kept. MAJOR 1: the depth of b runs across its \
                 rows.\ntemplate <int MAJOR>\n"
            ),
            "const u32 (&a)[4], u64 b",
            format!("{{%{}, %{}, %{}, %{}}}, %{}", sums, sums + 1, sums + 2, sums + 3, sums + 4),
            "\"r\"(a[0]), \"r\"(a[1]), \"r\"(a[2]), \"r\"(a[3]), \"l\"(b)",
            (format!(", %{}", sums + 6), ", \"n\"(MAJOR)"),
        ),
        Left::Tile => (
            "// The same with a in a tile as well; depths run along rows.\n".to_owned(),
            "u64 a, u64 b",
            format!("%{}, %{}", sums, sums + 1),
            "\"l\"(a), \"l\"(b)",
            (", 0, 0".to_owned(), ""),
        ),
        Left::AnyTile => (
            "// The same, LEFT and RIGHT 1: the depth of a, of b runs across rows.\ntemplate <int LEFT, int RIGHT>\n"
                .to_owned(),
            "u64 a, u64 b",
            format!("%{}, %{}", sums, sums + 1),
            "\"l\"(a), \"l\"(b)",
            (format!(", %{}, %{}", sums + 3, sums + 4), ", \"n\"(LEFT), \"n\"(RIGHT)"),
        ),
    };
    let keep = sums + if left == Left::Registers { 5 } else { 2 };
    format!(
        "{what}DEVICE void {name}(float (&d)[{}][4], {head}, bool keep) {{\n  \
         asm volatile(\n      \
         \"{{ .reg .pred keep; setp.ne.b32 keep, %{keep}, 0;\\n\"\n      \
         \"wgmma.mma_async.sync.aligned.m64n{n}k16.f32.{ty}.{ty} {{\"\n      \
         {numbers}\"\n      \
         \"}}, {a}, keep, 1, 1{}; }}\"\n      \
         :{held}\n      \
         : {inputs}, \"r\"(static_cast<int>(keep)){});\n\
         }}\n",
        n / 8,
        majors.0,
        majors.1,
    )
}
