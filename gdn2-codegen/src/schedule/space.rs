//! Every schedule the autotuner considers for a pass, legal or not, and its fingerprint. Which of them are legal is
//! `bind`'s to say, so that what a search rejects and what a user is refused are the same thing in the same words.

use crate::arch::{Arch, WgmmaLimits};
use crate::chunk::numbers::WARP_ROWS;
use crate::pass::Pass;
use crate::schedule::{Backward, Decode, Forward, Matrix, Scan, Schedule, ScheduleError};
use gdn2_dsl::Rule;

const CHUNKS: [u32; 4] = [16, 32, 64, 128];
/// Values of `value_split`.
pub(crate) const SPLITS: [u32; 4] = [1, 2, 4, 8];
const WARPS: [u32; 8] = [1, 2, 3, 4, 6, 8, 12, 16];
const STAGES: [u32; 2] = [1, 2];
/// Values of `segments`, 1 first.
pub(crate) const SEGMENTS: [u32; 8] = [1, 2, 3, 4, 6, 8, 12, 16];

/// The candidates for a pass, the built-in schedule first.
pub fn space(rule: &Rule, pass: Pass, arch: Arch) -> Result<Vec<Schedule>, ScheduleError> {
    let mut space = vec![Schedule::default_for(rule, pass, arch)?];
    let others = match pass {
        Pass::Forward | Pass::ForwardForBackward => {
            let wgmma = arch.limits().wgmma.map_or_else(Vec::new, |wgmma| forward_wgmma(rule, wgmma));
            forward().into_iter().chain(forward_segments(rule)).chain(wgmma).collect()
        }
        Pass::Decode => decode(),
        Pass::Backward => {
            let wgmma = arch.limits().wgmma.map_or_else(Vec::new, |wgmma| backward_wgmma(rule, wgmma));
            backward().into_iter().chain(wgmma).collect()
        }
    };
    let built_in = space[0];
    space.extend(others.into_iter().filter(|schedule| *schedule != built_in));
    Ok(space)
}

fn forward() -> Vec<Schedule> {
    let mut all = Vec::new();
    for chunk in CHUNKS {
        for value_split in SPLITS {
            for warps in WARPS {
                for stages in STAGES {
                    let scan = Scan { chunk, value_split, warps, stages };
                    all.push(Schedule::Forward(Forward { scan, matrix: Matrix::Mma, segments: 1 }));
                }
            }
        }
    }
    all
}

/// In segments on mma.sync: a block's warps as many as its value tiles, chunks that leave a warp room for rows of A.
fn forward_segments(rule: &Rule) -> Vec<Schedule> {
    let tiles = rule.value_dim.div_ceil(WARP_ROWS);
    let mut all = Vec::new();
    for chunk in [16, 32, 64] {
        for value_split in [1, 2] {
            for stages in STAGES {
                let scan = Scan { chunk, value_split, warps: tiles.div_ceil(value_split), stages };
                let divided = SEGMENTS.into_iter().filter(|segments| *segments > 1);
                all.extend(divided.map(|segments| Schedule::Forward(Forward { scan, matrix: Matrix::Mma, segments })));
            }
        }
    }
    all
}

/// With wgmma the value dim decides how many warps there are.
fn forward_wgmma(rule: &Rule, wgmma: WgmmaLimits) -> Vec<Schedule> {
    let mut all = Vec::new();
    for chunk in CHUNKS {
        for value_split in SPLITS {
            for stages in STAGES {
                let warps = (rule.value_dim / wgmma.m / value_split).max(1) * wgmma.warps;
                all.extend(SEGMENTS.map(|segments| {
                    let scan = Scan { chunk, value_split, warps, stages };
                    Schedule::Forward(Forward { scan, matrix: Matrix::Wgmma, segments })
                }));
            }
        }
    }
    all
}

fn backward() -> Vec<Schedule> {
    let mut all = Vec::new();
    for chunk in [16, 32, 64] {
        for value_split in SPLITS {
            for warps in [1, 2, 4, 8] {
                for (value_tiles, gradient_warps) in [(1, 8), (2, 8), (4, 8), (8, 8), (4, 4)] {
                    for recompute in [0, 1] {
                        all.push(Schedule::Backward(Backward {
                            scan: Scan { chunk, value_split, warps, stages: 1 },
                            matrix: Matrix::Mma,
                            segments: 1,
                            value_tiles,
                            gradient_warps,
                            recompute,
                            gradients: Matrix::Mma,
                        }));
                    }
                }
            }
        }
    }
    all
}

/// The scan on wgmma, the gradients without it or with it, and the gradients alone on wgmma.
fn backward_wgmma(rule: &Rule, wgmma: WgmmaLimits) -> Vec<Schedule> {
    let tiles = rule.value_dim.div_ceil(WARP_ROWS);
    let on_wgmma = (tiles, 2 * wgmma.warps, Matrix::Wgmma);
    let mut all = Vec::new();
    for scan in forward_wgmma(rule, wgmma) {
        let Schedule::Forward(Forward { scan, matrix, segments }) = scan else { continue };
        let parts = [(4, 8), (8, 8), (4, 4)].map(|(value_tiles, warps)| (value_tiles, warps, Matrix::Mma));
        for (value_tiles, gradient_warps, gradients) in parts.into_iter().chain([on_wgmma]) {
            let numbers = Backward { scan, matrix, segments, value_tiles, gradient_warps, recompute: 0, gradients };
            all.push(Schedule::Backward(numbers));
        }
    }
    let (value_tiles, gradient_warps, gradients) = on_wgmma;
    for value_split in SPLITS {
        for recompute in [0, 1] {
            let scan = Scan { chunk: 64, value_split, warps: tiles.div_ceil(value_split), stages: 1 };
            let matrix = Matrix::Mma;
            let numbers = Backward { scan, matrix, segments: 1, value_tiles, gradient_warps, recompute, gradients };
            all.push(Schedule::Backward(numbers));
        }
    }
    all
}

fn decode() -> Vec<Schedule> {
    let pairs = SPLITS.into_iter().flat_map(|value_split| WARPS.into_iter().map(move |warps| (value_split, warps)));
    pairs.map(|(value_split, warps)| Schedule::Decode(Decode { value_split, warps })).collect()
}

/// Fingerprint of a space: a record made by choosing from another set of candidates is no record of this one.
pub fn fingerprint(space: &[Schedule]) -> String {
    let mut hasher = blake3::Hasher::new();
    for schedule in space {
        hasher.update(schedule.to_string().as_bytes());
        hasher.update(b"\n");
    }
    short(&hasher.finalize())
}

/// The first 16 hexadecimal digits of a hash: enough to notice a difference, short enough to review.
pub(crate) fn short(hash: &blake3::Hash) -> String {
    let mut text = hash.to_hex().to_string();
    text.truncate(16);
    text
}
