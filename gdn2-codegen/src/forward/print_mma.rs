//! What `forward/mma.cu.hbs` prints: every number, name, type and call of a forward kernel as a ready string.

use super::declined_wgmma;
use super::mma::{map_scan, map_tiles};
use super::numbers::{composes, first_blocks};
use super::print_segments::{AFTER, END, GIVEN, MAP, Role, START};
use crate::chunk::numbers::{WARP_ROWS, block_tiles, decay_threads};
use crate::chunk::text::Text;
use crate::kernel::{Kernel, Launch};
use crate::pass::Pass;
use crate::print::regions::region_meaning;
use crate::print::signature::{describe, describe_write, extend, params, regions};
use crate::print::template::{View, fields};
use crate::schedule::{Forward, Scan};
use gdn2_dsl::StateLayout;

const TEMPLATE: &str = include_str!("../../templates/forward/mma.cu.hbs");

/// The template and its view.
pub(crate) fn view(kernel: &Kernel, numbers: Forward, launch: &Launch) -> (&'static str, View) {
    let role = Role::of(launch, numbers);
    let scan = if role == Role::Maps { map_scan(&kernel.rule, &kernel.plan, numbers) } else { numbers.scan };
    let whole = kernel;
    let kernel = &role.kernel(kernel);
    let text = Text { kernel, scan };
    let Scan { chunk, warps, stages, .. } = scan;
    let (key, value) = (kernel.rule.key_dim, kernel.rule.value_dim);
    let (state_key_stride, state_value_stride) = match kernel.rule.state {
        StateLayout::Kv => (value, 1),
        StateLayout::Vk => (1, key),
    };
    let view = fields! {
        "entry": launch.entry, "rule": kernel.rule.name, "arch": kernel.arch.target(),
        "schedule": kernel.schedule.to_string(),
        "decay": describe(kernel.plan.decay), "erase": describe(kernel.plan.erase),
        "write": describe_write(&kernel.plan),
        "declined": text.declined(),
        "key": key, "value": value, "chunk": chunk, "warps": warps, "threads": launch.block, "stages": stages,
        "value_tiles": block_tiles(&kernel.rule, scan),
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
        "values_wait": text.values_wait(), "values_read": text.values_read(), "keep": text.keep(), "advance": text.advance(),
    };
    let own = fields! {
        "formulas": text.functions(),
        "title": role.title(Pass::Forward), "serves": serves(role, whole, numbers), "slices": role.slices(whole, numbers),
        "find": role.find(numbers.matrix), "begin": text.begin(role, numbers), "compose": compose(role, whole, numbers),
        "finish": text.finish(role, numbers),
        "open": text.scope(role, &format!("namespace {}_parts {{", launch.entry)),
        "close": text.scope(role, &format!("}}  // namespace {}_parts", launch.entry)),
    };
    (TEMPLATE, extend(view, own))
}

fn every_warp_active(kernel: &Kernel, scan: Scan) -> bool {
    scan.warps * WARP_ROWS * scan.value_split == kernel.rule.value_dim
}

/// What a block serves, and the grid.
fn serves(role: Role, kernel: &Kernel, numbers: Forward) -> Vec<String> {
    let Forward { scan: Scan { value_split, .. }, segments, .. } = numbers;
    let grid = |blocks: u32| format!("grid x is sequences * value_heads * {blocks}.");
    match role {
        Role::Whole => vec![format!(
            "A block serves one sequence, one value head and one slice of the value dim; {}",
            grid(value_split)
        )],
        Role::Parts => vec![format!(
            "A block serves one segment, one value head and one slice of the value dim; {}",
            grid(value_split * segments)
        )],
        Role::Maps => vec![
            "A block serves one segment of a sequence, one value head and one slice of the rows of B^T and of A^T;"
                .to_owned(),
            grid(first_blocks(&kernel.rule, &kernel.plan, numbers)),
        ],
    }
}

/// How a block of the maps advances A.
fn compose(role: Role, kernel: &Kernel, numbers: Forward) -> Vec<String> {
    if role != Role::Maps || !composes(numbers.segments) {
        return Vec::new();
    }
    let rows = map_tiles(&kernel.rule, &kernel.plan, numbers) > 0;
    vec![if rows { "a.advance(writes, k_tile);" } else { "a.advance();" }.to_owned()]
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

    /// The state that enters; of a map, A as well.
    fn begin(&self, role: Role, numbers: Forward) -> Vec<String> {
        let load = |from: &str| format!("if (active) state.load({from}, value);");
        match role {
            Role::Whole if self.recomputes() => vec![load("find_state(initial_state, nullptr, work, value_heads)")],
            Role::Whole => vec![load(GIVEN)],
            Role::Parts => vec![format!("if (active) load_rows(state, {START}, value);")],
            Role::Maps => {
                let first = format!("if (active && work.segment == 0) store_rows<VALUE>(state, {START}, value);");
                let from = if composes(numbers.segments) {
                    format!("work.segment == 0 ? {GIVEN} : nullptr")
                } else {
                    GIVEN.to_owned()
                };
                [load(&from), first].into_iter().chain(self.transition(numbers)).collect()
            }
        }
    }

    /// A of a segment between the first and the last.
    fn transition(&self, numbers: Forward) -> Option<String> {
        let rows = map_tiles(&self.kernel.rule, &self.kernel.plan, numbers) > 0;
        composes(numbers.segments).then(|| match rows {
            true => format!(
                "Transition<Element, Writes, {}, Out, Carry> a(work.value_block * MAP_TILES + warp_index(), work.segment > 0 \
                 && warp_index() < MAP_TILES);",
                self.residual()
            ),
            false => "DiagonalTransition<Carry> a(work.segment > 0 && work.value_block == 0);".to_owned(),
        })
    }

    /// The state after the last chunk, where it is asked for.
    fn finish(&self, role: Role, numbers: Forward) -> Vec<String> {
        let store = "if (active && end != nullptr) state.store(end, value);".to_owned();
        match role {
            Role::Whole if self.recomputes() => Vec::new(),
            Role::Whole => vec![format!("float* const end = {END};"), store],
            Role::Parts => vec![format!("float* const end = work.last ? {END} : nullptr;"), store],
            Role::Maps => {
                let next = format!("if (active && !work.last) store_rows<VALUE>(state, {AFTER}, value);");
                let map = composes(numbers.segments).then(|| format!("a.store({MAP});"));
                [next].into_iter().chain(map).collect()
            }
        }
    }

    /// A line around a launch that shares its file with others.
    fn scope(&self, role: Role, line: &str) -> Vec<String> {
        if self.recomputes() || role != Role::Whole { vec![line.to_owned()] } else { Vec::new() }
    }

    /// O and the next state; where backward recomputes, and in maps, the state alone.
    fn advance(&self) -> Vec<String> {
        let line = if !self.outputs() {
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
