//! What `forward/wgmma.cu.hbs` prints: the numbers and types of its `Cfg`, and which rows each role is given. The loops
//! over chunks are in `templates/forward/wgmma/`.

use super::numbers::composes;
use super::print_segments::Role;
use super::wgmma::{Registers, factors_over_decay, part_steps, parts, registers};
use crate::abi::Tensor;
use crate::chunk::numbers::{WARP_ROWS, own_erase_operand};
use crate::kernel::{Kernel, Launch};
use crate::pass::Pass;
use crate::plan::Fold;
use crate::print::regions::region_meaning;
use crate::print::signature::{describe, describe_write, extend, params, regions, type_name};
use crate::print::template::{View, fields};
use crate::print::wgmma::{Left, copied_rows, gate_choices, product};
use crate::schedule::{Forward, Scan};
use gdn2_dsl::StateLayout;

const TEMPLATE: &str = include_str!("../../templates/forward/wgmma.cu.hbs");

/// The template and its view.
pub(crate) fn view(kernel: &Kernel, numbers: Forward, launch: &Launch) -> (&'static str, View) {
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
    let meaning = |region: &str| match region {
        "v_tile" if back => "dO",
        other => region_meaning(other),
    };
    // A bound kernel has them.
    let dealt = registers(&kernel.plan, scan, own.arch);
    let dealt = |of: fn(&Registers) -> u32| dealt.as_ref().map_or(0, of);
    let factor_change = if dealt(|r| r.factors) < dealt(|r| r.launch) { "dec" } else { "inc" };
    let view = fields! {
        "entry": launch.entry, "rule": rule.name, "arch": own.arch.target(), "schedule": own.schedule.to_string(),
        "decay": describe(plan.decay), "erase": describe(plan.erase), "write": describe_write(plan),
        "key": rule.key_dim, "value": rule.value_dim, "values": scan.warps * WARP_ROWS,
        "chunk": scan.chunk, "warps": scan.warps, "threads": launch.block, "stages": scan.stages,
        "state_key_stride": state_key_stride, "state_value_stride": state_value_stride,
        "shared_bytes": launch.shared_bytes, "shared_alignment": launch.shared_alignment,
        "regions": regions(launch, meaning),
        "factors": text.factors(), "products": text.products(), "params": params(&own, launch),
        "element": type_name(rule.dtype), "storages": text.computing().gate_types(), "choices": text.choices(),
        "load_registers": dealt(|r| r.load), "factor_change": factor_change,
        "factor_registers": dealt(|r| r.factors), "state_registers": dealt(|r| r.state),
        "rows": text.rows(), "written": text.written(), "scale": text.scale(), "outputs": text.output_rows(),
        "advance": text.advance(), "formulas": text.computing().functions(), "fixed": text.fixed(), "made": text.made(),
        "formula": if back { REVERSE } else { RECURRENCE },
        "streamed": if back { "dO" } else { "the values" }, "state": if back { "dS" } else { "S" },
        "scan": if back { "backward/wgmma/reverse" } else { "forward/wgmma/advance" },
    };
    (TEMPLATE, extend(view, role.view(kernel, numbers, launch)))
}

/// What a block computes, forward and back.
const RECURRENCE: &str =
    "S_t = (I - k_t e_t^T) Diag(exp g_t) S_(t-1) + k_t z_t^T     e = b k     z = w v     o_t = scale S_t^T q_t";
const REVERSE: &str = "dN = PT dO + K^ dS'      dR = MT dN      dS = D dS' + Q^T dO - E^T dR";

pub(super) struct Text<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) scan: Scan,
    pub(super) role: Role,
    /// Parts of a sequence that run side by side.
    pub(super) segments: u32,
    /// Chunks last to first, and the state's gradient in place of the state.
    back: bool,
}

impl Text<'_> {
    /// Whether queries are read.
    pub(super) fn outputs(&self) -> bool {
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
        let mut factors = match (self.kernel.plan.decay, self.kernel.plan.erase) {
            (Fold::Operand, _) => vec!["channel_scores"],
            (_, Fold::Operand) => vec!["pair_scores", "erased"],
            _ => vec!["pair_scores"],
        };
        factors.extend(self.computed_files());
        factors
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

    /// The constants that device code is compiled by.
    fn choices(&self) -> Vec<String> {
        let rule = &self.kernel.rule;
        let steps = part_steps(rule, parts(rule, &self.kernel.plan, self.scan, self.kernel.arch));
        let over = factors_over_decay(rule, &self.kernel.plan, self.scan);
        let mut choices = gate_choices(&self.kernel.plan);
        choices.extend([
            format!("OUTPUTS = {},  // queries are read, outputs written", u32::from(self.outputs())),
            format!(
                "OWN_ERASED = {},  // what is erased has a tile of its own",
                u32::from(own_erase_operand(&self.kernel.plan))
            ),
            format!("OVER_DECAYS = {},  // P and M lie where decays lay", u32::from(over)),
            format!("STEPS = {steps},  // of 16 channels, that S enters products by at once"),
        ]);
        choices.extend(self.computed_choices());
        choices
    }

    /// The rows that the load warpgroup copies, by the names of its parameters.
    fn rows(&self) -> Vec<String> {
        let plan = &self.kernel.plan;
        let own_write = plan.write != Fold::Absent && !plan.tied;
        let tensors = [
            (Tensor::Q, self.outputs()),
            (Tensor::K, true),
            (Tensor::V, true),
            (Tensor::G, plan.decay != Fold::Absent),
            (Tensor::B, plan.erase != Fold::Absent),
            (Tensor::W, own_write),
        ];
        let line = |(tensor, there): (Tensor, bool)| {
            // Going back, dO comes in place of values.
            let given = if self.back && tensor == Tensor::V { Tensor::DO } else { tensor };
            let of_values = tensor == Tensor::V || (tensor == Tensor::W && plan.write == Fold::Operand);
            let shift = if of_values { " + value" } else { "" };
            let computed = if there { self.computing().logit_rows(tensor, shift) } else { None };
            computed.unwrap_or_else(|| copied_rows(self.kernel, tensor, there.then_some(given), shift))
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
