//! What `forward/mma.cu.hbs` prints: every number, name, type and call of a forward kernel as a ready string.

use super::declined_wgmma;
use crate::chunk::numbers::{WARP_ROWS, block_tiles, decay_threads};
use crate::chunk::text::Text;
use crate::kernel::{Kernel, Launch};
use crate::pass::Pass;
use crate::print::regions::region_meaning;
use crate::print::signature::{describe, describe_write, extend, params, regions};
use crate::schedule::Scan;
use gdn2_dsl::StateLayout;
use serde_json::{Value, json};

const TEMPLATE: &str = include_str!("../../templates/forward/mma.cu.hbs");

/// The template and its view.
pub(crate) fn view(kernel: &Kernel, scan: Scan, launch: &Launch) -> (&'static str, Value) {
    let text = Text { kernel, scan };
    let Scan { chunk, value_split, warps, stages } = scan;
    let (key, value) = (kernel.rule.key_dim, kernel.rule.value_dim);
    let (state_key_stride, state_value_stride) = match kernel.rule.state {
        StateLayout::Kv => (value, 1),
        StateLayout::Vk => (1, key),
    };
    let view = json!({
        "entry": launch.entry, "rule": kernel.rule.name, "arch": kernel.arch.target(),
        "schedule": kernel.schedule.to_string(),
        "decay": describe(kernel.plan.decay), "erase": describe(kernel.plan.erase),
        "write": describe_write(&kernel.plan),
        "declined": text.declined(),
        "grid": format!("sequences * value_heads * {value_split}"),
        "key": key, "value": value, "chunk": chunk, "warps": warps, "threads": launch.block, "stages": stages,
        "value_split": value_split, "value_tiles": block_tiles(&kernel.rule, scan),
        "active": if every_warp_active(kernel, scan) {
            "constexpr bool active = true;  // every warp holds value rows"
        } else {
            "const bool active = warp_index() < VALUE_TILES && tile * 16 < VALUE;  // this warp holds value rows"
        },
        "decay_threads": decay_threads(&kernel.rule, scan),
        "state_key_stride": state_key_stride, "state_value_stride": state_value_stride,
        "shared_bytes": launch.shared_bytes, "shared_alignment": launch.shared_alignment,
        "regions": regions(launch, region_meaning),
        "aliases": text.aliases(), "params": params(kernel, launch), "rows": text.rows(),
        "copy_tiles": text.copies(&text.tile_tensors()), "copy_values": text.copy_values("exist"),
        "token_gates": text.token_gates(), "prologue": text.prologue(), "chunk_tiles": text.chunk_tiles(),
        "calls": text.in_place(text.tiles_wait(), "exist", text.forward_last(), text.fetches(Some("(first + CHUNK)"), "exist - CHUNK")),
        "values_wait": text.values_wait(), "values_read": text.values_read(), "keep": text.keep(), "advance": text.advance(), "initial_slots": text.slots(), "finish": text.finish(),
        "open": text.scope(&format!("namespace {}_parts {{", launch.entry)),
        "close": text.scope(&format!("}}  // namespace {}_parts", launch.entry)),
    });
    (TEMPLATE, extend(view, json!({ "formulas": text.functions() })))
}

fn every_warp_active(kernel: &Kernel, scan: Scan) -> bool {
    scan.warps * WARP_ROWS * scan.value_split == kernel.rule.value_dim
}

impl Text<'_> {
    /// Why the rule's forward pass is not on wgmma, where the architecture has it.
    fn declined(&self) -> Vec<String> {
        let forward = (self.kernel.pass == Pass::Forward).then_some(self.kernel);
        let why = forward.and_then(|kernel| declined_wgmma(&kernel.rule, kernel.arch));
        why.into_iter().map(|why| format!("// Not on wgmma: {why}.")).collect()
    }

    fn forward_last(&self) -> Vec<String> {
        vec![format!("const Writes writes{{{}}};", self.left_tile())]
    }

    fn slots(&self) -> &'static str {
        if self.recomputes() { "nullptr" } else { "initial_slots" }
    }

    /// The state after the last chunk, where it is asked for.
    fn finish(&self) -> Vec<String> {
        if self.recomputes() {
            return Vec::new();
        }
        vec![
            "float* const end = find_state(final_state, final_slots, work, value_heads);".to_owned(),
            "if (active && end != nullptr) state.store(end, value);".to_owned(),
        ]
    }

    /// A line around a launch that shares its file with others.
    fn scope(&self, line: &str) -> Vec<String> {
        if self.recomputes() { vec![line.to_owned()] } else { Vec::new() }
    }

    /// O and the next state; where backward recomputes, the state alone.
    fn advance(&self) -> Vec<String> {
        let line = if self.recomputes() {
            "advance_only<Out, Carry>(state, n, k_tile);"
        } else {
            "advance_state<Into, Out, Carry>(state, n, q_tile, k_tile, SMEM_P, scale, o_rows + first * o_token_stride, \
             o_token_stride, exist);"
        };
        vec![line.to_owned()]
    }

    fn tiles_wait(&self) -> String {
        format!("copy_wait<{}>();", 2 * (self.scan.stages - 1))
    }
}

/// Keeps the tile height the device code assumes and the one `bind` checks the same.
const _: () = assert!(WARP_ROWS == 16);
