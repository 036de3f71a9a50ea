//! Shared memory of the backward pass, and its numbers and plan as the stages of forward count them.

use crate::chunk::numbers::{WARP_ROWS, decay_segments, token_vectors};
use crate::forward::mma::shared_map;
use crate::plan::{Fold, Plan};
use crate::schedule::{Backward, Forward, Matrix};
use crate::shared::{Region, shared_bytes};
use gdn2_dsl::{Dtype, Rule};

/// The scan's numbers, as forward counts them.
pub(crate) fn scan(numbers: Backward) -> Forward {
    let Backward { chunk, value_split, warps, stages, .. } = numbers;
    Forward { chunk, value_split, warps, stages, matrix: Matrix::Mma, segments: 1 }
}

/// Parts of K that warps of the gradient launch share among them, and groups of 16 channels in each.
pub(crate) fn slices(rule: &Rule, numbers: Backward) -> u32 {
    (numbers.gradient_warps / (numbers.chunk / 16)).min(rule.key_dim / 16)
}

pub(crate) fn slice_groups(rule: &Rule, numbers: Backward) -> u32 {
    (rule.key_dim / 16).div_ceil(slices(rule, numbers))
}

/// The scan's shared memory: forward's, with a slice of dO in place of the values.
pub(crate) fn scan_map(rule: &Rule, plan: &Plan, numbers: Forward) -> Vec<Region> {
    let mut map = shared_map(rule, &scan_plan(plan), numbers);
    for region in map.iter_mut().filter(|region| region.name == "v") {
        region.name = "do".to_owned();
    }
    map
}

/// Places regions one after another, and several lists of regions over the same bytes.
#[derive(Default)]
struct Map {
    regions: Vec<Region>,
    end: u32,
}

impl Map {
    fn place(&mut self, name: &str, bytes: u32) {
        if bytes > 0 {
            self.regions.push(Region { name: name.to_owned(), offset: self.end, bytes });
            self.end += bytes;
        }
    }

    /// Lists whose lives do not meet.
    fn share(&mut self, lists: &[Vec<(&str, u32)>]) {
        let start = self.end;
        let mut end = start;
        for list in lists {
            self.end = start;
            for (name, bytes) in list {
                self.place(name, *bytes);
            }
            end = end.max(self.end);
        }
        self.end = end;
    }
}

/// The gradient launch's shared memory. Lives that do not meet share bytes: g as stored and the scaled operands, which
/// N and dR follow where the value dim is served at once; L and the kept states; P, M and their gradients.
pub(crate) fn gradient_map(rule: &Rule, plan: &Plan, numbers: Backward) -> Vec<Region> {
    let Backward { chunk, value_tiles, gradient_warps: warps, .. } = numbers;
    let (key, operand) = (rule.key_dim, rule.dtype.bytes());
    let channel_decay = plan.decay == Fold::Operand;
    let channel_erase = plan.erase == Fold::Operand;
    let erases = plan.erase != Fold::Absent;
    let when = |wanted: bool, bytes: u32| if wanted { bytes } else { 0 };
    let tile = chunk * key * operand;
    let slice = value_tiles * chunk * WARP_ROWS * operand;
    let pairs = chunk * chunk * operand;
    let kept = value_tiles * WARP_ROWS * key * operand;
    let at_once = rule.value_dim.div_ceil(WARP_ROWS) <= value_tiles;
    let mut map = Map::default();
    map.place("q", tile);
    map.place("k", tile);
    map.place("b", when(channel_erase, chunk * key * plan.erase_storage.bytes()));
    let wide = plan.decay_storage == Dtype::F32;
    map.place("g", when(channel_decay && wide, chunk * key * 4));
    map.place("sums", when(channel_decay && !wide, chunk * key * 4));
    map.place("do", slice);
    let stored = ("g", when(channel_decay && !wide, chunk * key * plan.decay_storage.bytes()));
    let scaled = vec![("end_keys", when(channel_decay, tile)), ("e", when(channel_decay && erases, tile))];
    let writes = vec![("n", slice), ("dr", slice)];
    // b k without decay is read to the end.
    map.place("e", when(channel_erase && !channel_decay, tile));
    if at_once && channel_decay {
        map.share(&[vec![stored], scaled, writes]);
    } else {
        map.share(&[vec![stored], scaled]);
        map.share(&[writes]);
    }
    map.share(&[vec![("l", when(erases, chunk * chunk * 4))], vec![("s", kept), ("ds", kept)]]);
    let (factors, gradients) =
        (vec![("p", pairs), ("m", when(erases, pairs))], vec![("dp", pairs), ("dl", when(erases, pairs))]);
    if at_once {
        map.share(&[factors, gradients]);
    } else {
        map.share(&[factors]);
        map.share(&[gradients]);
    }
    for name in token_vectors(plan) {
        map.place(name, chunk * 4);
    }
    map.place("totals", when(channel_decay, decay_segments(rule, gradient_numbers(numbers)) * key * 4));
    map.place("diagonal", chunk * 4);
    let rows = slices(rule, numbers) * chunk * 4;
    map.place("erase_rows", when(plan.erase == Fold::Row, rows));
    map.place("decay_rows", when(plan.decay == Fold::Pair, rows + chunk / 16 * chunk * 4));
    let tail = match plan.decay {
        Fold::Operand => chunk / 16 * key * 4,
        Fold::Pair => (warps * 4).next_multiple_of(16),
        Fold::Absent | Fold::Row => 0,
    };
    map.place("decay_tail", tail);
    let value_rows = rule.value_dim.div_ceil(WARP_ROWS) * chunk * 4;
    map.place("value_rows", when(plan.write == Fold::Row, value_rows));
    let (regions, end) = (map.regions, map.end);
    closed(regions, end)
}

/// `shared_bytes` reads the last region's end: regions that share bytes are put in order of their ends.
fn closed(mut regions: Vec<Region>, end: u32) -> Vec<Region> {
    regions.sort_by_key(|region| (region.offset + region.bytes, region.offset));
    debug_assert_eq!(shared_bytes(&regions), end);
    regions
}

/// The gradient launch's numbers, as forward's factor stages count them.
pub(crate) fn gradient_numbers(numbers: Backward) -> Forward {
    let Backward { chunk, gradient_warps: warps, .. } = numbers;
    Forward { chunk, value_split: 1, warps, stages: 1, matrix: Matrix::Mma, segments: 1 }
}

/// The plan as the scan sees it: the write gate does not meet dO.
pub(crate) fn scan_plan(plan: &Plan) -> Plan {
    Plan { write: Fold::Absent, tied: false, ..plan.clone() }
}
