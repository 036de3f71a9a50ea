//! Shared memory of the backward pass, and its numbers and plan as the stages of forward count them.

use crate::chunk::numbers::{WARP_ROWS, decay_threads, token_vectors};
use crate::forward::mma::shared_map;
use crate::gates::{fixed, fixed_bytes};
use crate::plan::{Fold, Plan};
use crate::schedule::{Backward, Scan};
use crate::shared::{Region, shared_bytes};
use gdn2_dsl::prologue::GateOf;
use gdn2_dsl::{Dtype, Rule};

/// How the warps of the gradient launch divide K among them. A warp serves 16 tokens and one slice; no slice is empty, for
/// sums over K read what every one of them wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slices {
    /// Slices of K.
    pub(crate) count: u32,
    /// Groups of 16 channels in a slice; the last may have fewer, but has one.
    pub(crate) groups: u32,
}

impl Slices {
    /// Divides K as evenly as whole groups allow among the warps that share 16 tokens.
    pub(crate) fn new(rule: &Rule, numbers: Backward) -> Slices {
        let all = rule.key_dim.div_ceil(16);
        let warps = numbers.gradient_warps / numbers.scan.chunk.div_ceil(16);
        let groups = all.div_ceil(warps.clamp(1, all));
        Slices { count: all.div_ceil(groups), groups }
    }
}

/// The scan's shared memory: forward's, with a slice of dO in place of the values.
pub(crate) fn scan_map(rule: &Rule, plan: &Plan, scan: Scan) -> Vec<Region> {
    let mut map = shared_map(rule, &scan_plan(plan), scan);
    for region in map.iter_mut().filter(|region| region.name == "v") {
        region.name = "do".to_owned();
    }
    map
}

/// Places regions one after another, and several lists of regions over the same bytes.
#[derive(Default)]
pub(super) struct Map {
    regions: Vec<Region>,
    end: u32,
}

impl Map {
    pub(super) fn place(&mut self, name: &str, bytes: u32) {
        if bytes > 0 {
            self.regions.push(Region { name: name.to_owned(), offset: self.end, bytes });
            self.end += bytes;
        }
    }

    /// Lists whose lives do not meet.
    pub(super) fn share(&mut self, lists: &[Vec<(&str, u32)>]) {
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

    /// The regions. `shared_bytes` reads the last one's end: those that share bytes are put in order of their ends.
    pub(super) fn closed(self) -> Vec<Region> {
        let Map { mut regions, end } = self;
        regions.sort_by_key(|region| (region.offset + region.bytes, region.offset));
        debug_assert_eq!(shared_bytes(&regions), end);
        regions
    }
}

/// The gradient launch's shared memory. Lives that do not meet share bytes: g as stored and the scaled operands, which
/// N and dR follow where the value dim is served at once; L and the kept states; P, M and their gradients.
pub(crate) fn gradient_map(rule: &Rule, plan: &Plan, numbers: Backward) -> Vec<Region> {
    let Backward { scan: Scan { chunk, .. }, value_tiles, gradient_warps: warps, .. } = numbers;
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
    map.place("totals", when(channel_decay, decay_threads(rule, gradient_numbers(numbers)) * key * 4));
    map.place("diagonal", chunk * 4);
    let rows = Slices::new(rule, numbers).count * chunk * 4;
    map.place("erase_rows", when(plan.erase == Fold::Row, rows));
    map.place("decay_rows", when(plan.decay == Fold::Pair, rows + chunk / 16 * chunk * 4));
    let tail = match plan.decay {
        // Where pairs are summed one by one, what passes from state to state has a row of its own.
        Fold::Operand => (chunk / 16 + u32::from(straddles(plan))) * key * 4,
        Fold::Pair => (warps * 4).next_multiple_of(16),
        Fold::Absent | Fold::Row => 0,
    };
    map.place("decay_tail", tail);
    for part in fixed(rule, plan) {
        map.place(&part.name, fixed_bytes(rule, &part));
    }
    let value_rows = rule.value_dim.div_ceil(WARP_ROWS) * chunk * 4;
    map.place("value_rows", when(plan.write == Fold::Row, value_rows));
    map.closed()
}

/// Whether a decay's gradient is summed from what straddles each token: a formula would multiply what a difference of rounded
/// sums leaves.
pub(crate) fn straddles(plan: &Plan) -> bool {
    plan.decay == Fold::Operand && plan.computes(GateOf::Decay).is_some()
}

/// The gradient launch's numbers, as the stages of a scan count them.
pub(crate) fn gradient_numbers(numbers: Backward) -> Scan {
    Scan { chunk: numbers.scan.chunk, value_split: 1, warps: numbers.gradient_warps, stages: 1 }
}

/// The plan as the scan sees it: the write gate does not meet dO.
pub(crate) fn scan_plan(plan: &Plan) -> Plan {
    Plan { write: Fold::Absent, tied: false, ..plan.clone() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::Slices;
    use crate::arch::Arch;
    use crate::backward::complete;
    use crate::schedule::{Backward, Overrides, Scan};
    use gdn2_dsl::{Combination, Dtype, Grain, Rule};

    fn rule(key_dim: u32) -> Rule {
        let combination = Combination { decay: Grain::Scalar, erase: Grain::Channel, write: Some(Grain::Scalar) };
        combination.rule(key_dim, 128, Dtype::Bf16).unwrap()
    }

    #[test]
    fn every_slice_has_channels_and_every_channel_one_slice() {
        let numbers = complete(&rule(64), Arch::Sm80, &Overrides::default());
        let with = |chunk, gradient_warps| {
            let scan = Scan { chunk, ..numbers.scan };
            Backward { scan, gradient_warps, ..numbers }
        };
        for rule in (1..=16).map(|tiles| rule(16 * tiles)) {
            for chunk in [16, 32, 64, 128] {
                for gradient_warps in chunk / 16..=32 {
                    let Slices { count, groups } = Slices::new(&rule, with(chunk, gradient_warps));
                    let what = format!("K = {}, chunk {chunk}, {gradient_warps} warps", rule.key_dim);
                    assert!(count * (chunk / 16) <= gradient_warps, "{what}: {count} slices");
                    let all = rule.key_dim / 16;
                    assert!((count - 1) * groups < all && all <= count * groups, "{what}: {count} slices of {groups}");
                }
            }
        }
    }
}
