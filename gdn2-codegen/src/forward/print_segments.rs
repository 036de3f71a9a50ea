//! What the launches of a forward pass in segments print: all of the joining one, and what segments change in the others.

use super::mma::map_tiles;
use super::numbers::{JOIN_ROWS, composes, first_blocks, map_blocks, map_rows};
use crate::kernel::{Kernel, Launch, LaunchRole};
use crate::pass::Pass;
use crate::plan::Fold;
use crate::print::signature::{describe, describe_write, params, regions};
use crate::print::template::{View, fields};
use crate::schedule::{Forward, Matrix, Scan};

const JOIN: &str = include_str!("../../templates/forward/join.cu.hbs");

/// The caller's state that a sequence starts from, and where the one it ends in goes.
pub(crate) const GIVEN: &str = "find_state(initial_state, initial_slots, work, value_heads)";
pub(crate) const END: &str = "find_state(final_state, final_slots, work, value_heads)";

/// The same of a scan back over the state's gradient.
const GIVEN_BACK: &str = "find_state(d_final_state, nullptr, work, value_heads)";
const END_BACK: &str = "find_state(d_initial_state, nullptr, work, value_heads)";

/// Where the state lies that a segment starts from, the one that the next starts from, and its A.
pub(crate) const START: &str = "segment_start(starts, work, work.segment, value_heads)";
pub(crate) const AFTER: &str = "segment_start(starts, work, work.segment + 1, value_heads)";
pub(crate) const MAP: &str = "segment_map(maps, work, work.segment, value_heads)";

/// Which launch of the pass a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The only one.
    Whole,
    /// The forward kernel over segments.
    Parts,
    /// The one before it that makes the segments' maps.
    Maps,
}

impl Role {
    /// What a launch of the scan does, but for the one that joins.
    pub(crate) fn of(launch: &Launch, numbers: Forward) -> Role {
        match launch.role {
            LaunchRole::SegmentMaps => Role::Maps,
            _ if numbers.segments > 1 => Role::Parts,
            _ => Role::Whole,
        }
    }

    /// What the template of wgmma prints otherwise for each.
    pub(crate) fn view(self, kernel: &Kernel, numbers: Forward, launch: &Launch) -> View {
        // Where a pass has several launches, each is a world of its own.
        let alone = kernel.launches.len() == 1;
        let scope = |line: String| if alone { Vec::new() } else { vec![line] };
        fields! {
            "title": self.title(kernel.pass), "serves": self.serves(kernel, numbers), "slices": self.slices(kernel, numbers),
            "open": scope(format!("namespace {}_parts {{", launch.entry)),
            "close": scope(format!("\n}}  // namespace {}_parts", launch.entry)),
            "find": self.find(numbers.matrix), "begin": self.begin(kernel.pass, numbers),
            "finish": self.finish(kernel.pass, numbers),
        }
    }

    /// What of the pass the launch does. A map keeps no states.
    pub(crate) fn kernel(self, kernel: &Kernel) -> Kernel {
        match self {
            Role::Maps if kernel.pass != Pass::Backward => {
                Kernel { plan: kernel.plan.without_outputs(), pass: Pass::Forward, ..kernel.clone() }
            }
            Role::Maps | Role::Whole | Role::Parts => kernel.clone(),
        }
    }

    pub(crate) fn title(self, pass: Pass) -> &'static str {
        match (self, pass) {
            (Role::Whole, Pass::Backward) => "the reverse scan of the backward pass",
            (Role::Parts, Pass::Backward) => "the reverse scan of the backward pass, a part of a sequence to a block,",
            (Role::Maps, Pass::Backward) => "what parts of a sequence make of the gradients they start from,",
            (Role::Whole, _) => "the chunked forward pass",
            (Role::Parts, _) => "the chunked forward pass, a part of a sequence to a block,",
            (Role::Maps, _) => "what parts of a sequence make of the states they start from,",
        }
    }

    /// What a block serves, and the grid.
    fn serves(self, kernel: &Kernel, numbers: Forward) -> Vec<String> {
        let Forward { scan: Scan { value_split, .. }, segments, .. } = numbers;
        let grid = |blocks: u32| format!("sequences * value_heads * {blocks}");
        match self {
            Role::Whole => vec![format!(
                "A block serves one sequence, one value head and one slice of the value dim; grid x is {}. Its \
                 warpgroups:",
                grid(value_split)
            )],
            Role::Parts => vec![
                "A block serves one segment of a sequence, one value head and one slice of the value dim.".to_owned(),
                format!("Grid x is {}. Its warpgroups:", grid(value_split * segments)),
            ],
            Role::Maps => vec![
                "A block serves one segment of a sequence, one value head and one slice of the rows of A^T or of B^T."
                    .to_owned(),
                format!("Grid x is {}. Its warpgroups:", grid(first_blocks(&kernel.rule, &kernel.plan, numbers))),
            ],
        }
    }

    /// The numbers of blocks and segments.
    pub(crate) fn slices(self, kernel: &Kernel, numbers: Forward) -> Vec<String> {
        let Forward { scan: Scan { value_split, .. }, segments, .. } = numbers;
        let back = format!("BACK = {},", u32::from(kernel.pass == Pass::Backward));
        let blocks = match self {
            Role::Whole => {
                let slices = format!("VALUE_SPLIT = {value_split},  // slices of the value dim");
                let ordered = numbers.matrix == Matrix::Wgmma;
                return [slices].into_iter().chain(ordered.then_some(back)).collect();
            }
            Role::Parts => value_split * segments,
            Role::Maps => first_blocks(&kernel.rule, &kernel.plan, numbers),
        };
        let mut lines = vec![
            format!("VALUE_SPLIT = {blocks},  // blocks that share a sequence and head"),
            format!("SLICES = {value_split},  // of the value dim"),
            format!("SEGMENTS = {segments},"),
            back,
            format!("MAP_ROWS = {},  // of A^T as it is stored", map_rows(&kernel.rule, &kernel.plan)),
        ];
        if self == Role::Maps {
            lines.push(match numbers.matrix {
                Matrix::Wgmma => {
                    let blocks = map_blocks(&kernel.rule, &kernel.plan, numbers);
                    format!("MAP_BLOCKS = {blocks},  // of a segment, that make A")
                }
                Matrix::Mma => {
                    let tiles = map_tiles(&kernel.rule, &kernel.plan, numbers);
                    format!("MAP_TILES = {tiles},  // of 16 rows of A^T, that a block makes")
                }
            });
        }
        lines
    }

    /// Which work is the block's.
    pub(crate) fn find(self, matrix: Matrix) -> Vec<String> {
        let work = "find_work(cu_seqlens, cu_seqlens_is_64, tokens, key_heads, value_heads)";
        let ordered = format!("longest_first({work}, cu_seqlens, cu_seqlens_is_64, sequences)");
        let part = format!("const Segment work = find_part({ordered});");
        let mapped = "if (!work.exists || (work.last && work.segment > 0)) return;".to_owned();
        match (self, matrix) {
            (Role::Whole, _) => vec![format!("const Work work = {work};")],
            (Role::Parts, _) => vec![part, "if (!work.exists) return;".to_owned()],
            (Role::Maps, Matrix::Wgmma) => vec![format!("const Map work = find_map({ordered});"), mapped],
            (Role::Maps, Matrix::Mma) => vec![part, mapped],
        }
    }

    /// The state that enters.
    fn begin(self, pass: Pass, numbers: Forward) -> Vec<String> {
        let (given, start) = (if pass == Pass::Backward { GIVEN_BACK } else { GIVEN }, START);
        match self {
            Role::Whole => vec![format!("state.load({given}, value);")],
            Role::Parts => vec![format!("load_rows(state, {start}, value);")],
            Role::Maps if composes(numbers.segments) => vec![
                "if (work.composes) {".to_owned(),
                "  begin_map(state, value);".to_owned(),
                "} else {".to_owned(),
                format!("  state.load(work.segment == 0 ? {given} : nullptr, value);"),
                format!("  if (work.segment == 0) store_rows<VALUE>(state, {start}, value);"),
                "}".to_owned(),
            ],
            Role::Maps => {
                vec![format!("state.load({given}, value);"), format!("store_rows<VALUE>(state, {start}, value);")]
            }
        }
    }

    /// The state that leaves.
    fn finish(self, pass: Pass, numbers: Forward) -> Vec<String> {
        let (given, after) = (if pass == Pass::Backward { END_BACK } else { END }, AFTER);
        let store = "if (end != nullptr) state.store(end, value);".to_owned();
        match self {
            Role::Whole => vec![format!("float* const end = {given};"), store],
            Role::Parts => vec![format!("float* const end = work.last ? {given} : nullptr;"), store],
            Role::Maps if composes(numbers.segments) => vec![
                "if (work.composes) {".to_owned(),
                format!("  store_rows<MAP_ROWS>(state, {MAP}, value);"),
                "} else if (!work.last) {".to_owned(),
                format!("  store_rows<VALUE>(state, {after}, value);"),
                "}".to_owned(),
            ],
            Role::Maps => vec![format!("if (!work.last) store_rows<VALUE>(state, {after}, value);")],
        }
    }
}

/// The template and the view of the joining launch.
pub(crate) fn join(kernel: &Kernel, numbers: Forward, launch: &Launch) -> (&'static str, View) {
    let (rule, plan) = (&kernel.rule, &kernel.plan);
    let join = match plan.erase {
        Fold::Absent => "join_decay",
        Fold::Pair | Fold::Row | Fold::Operand => "join_matrix",
    };
    let split = rule.value_dim / JOIN_ROWS;
    let view = fields! {
        "entry": launch.entry, "rule": rule.name, "arch": kernel.arch.target(),
        "schedule": kernel.schedule.to_string(),
        "decay": describe(plan.decay), "erase": describe(plan.erase), "write": describe_write(plan),
        "grid": format!("sequences * value_heads * {split}"),
        "key": rule.key_dim, "value": rule.value_dim, "chunk": numbers.scan.chunk, "rows": JOIN_ROWS,
        "value_split": split, "segments": numbers.segments, "back": u32::from(kernel.pass == Pass::Backward), "map_rows": map_rows(rule, plan), "join": join,
        "shared_bytes": launch.shared_bytes, "shared_alignment": launch.shared_alignment,
        "threads": launch.block, "parts": launch.block / rule.key_dim,
        "regions": regions(launch, |region| match region {
            "sums" => "parts of the sums over A's rows",
            _ => "S as it enters a segment",
        }),
        "params": params(kernel, launch),
    };
    (JOIN, view)
}
