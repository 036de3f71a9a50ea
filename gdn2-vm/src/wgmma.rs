//! Warpgroup matrix products: each of four warps computes its 16 rows, factors read through descriptors.

use crate::block::Block;
use crate::exec_warp::aligned;
use crate::hopper::{Async, FactorA, Wgmma};
use crate::inst::Space;
use crate::inst::{Factor, Round, Slot};
use crate::level;
use crate::mma::{pair, rows};
use crate::num::{NAN32, Type, to_half};
use crate::observe::{Access, Agent, Kind, Observer, Sync};
use crate::tensor_map::Swizzle;
use crate::trap::{Exec, Fault, fail};
use crate::warp::Warp;

/// A matrix descriptor, decoded.
#[derive(Clone, Copy, Debug)]
struct Tile {
    start: u32,
    leading: u32,
    stride: u32,
    base_offset: u32,
    swizzle: Swizzle,
    mn_major: bool,
}

impl Tile {
    fn decode(bits: u64, mn_major: bool) -> Self {
        let field = |at: u32| ((bits >> at & 0x3fff) << 4) as u32;
        let swizzle = match bits >> 62 {
            0 => Swizzle::None,
            1 => Swizzle::B128,
            2 => Swizzle::B64,
            _ => Swizzle::B32,
        };
        Self {
            start: field(0),
            leading: field(16),
            stride: field(32),
            base_offset: (bits >> 49 & 7) as u32,
            swizzle,
            mn_major,
        }
    }

    /// Address of the 16-byte piece `minor` of line `major`: lines are rows (or columns of B) when K runs along
    /// memory, and steps of K when M or N does. Canonical layouts of the PTX ISA, "Strides" of wgmma.
    fn piece(&self, major: u32, minor: u32) -> u32 {
        let span = self.swizzle.span();
        let logical = match (self.mn_major, self.swizzle) {
            (false, Swizzle::None) => (major / 8) * self.stride + major % 8 * 16 + minor * self.leading,
            (false, _) => (major / 8) * self.stride + major % 8 * span + minor * 16,
            (true, Swizzle::None) => (major / 8) * self.leading + major % 8 * 16 + minor * self.stride,
            (true, _) => {
                let (block, within) = (minor * 16 / span, minor * 16 % span);
                block * self.leading + (major / 8) * self.stride + major % 8 * span + within
            }
        };
        self.swizzle.place(self.start.wrapping_add(logical), self.base_offset)
    }
}

impl<O: Observer> Block<'_, O> {
    pub(crate) fn warpgroup(&mut self, w: &mut Warp, mask: u32, op: &Async) -> Exec<()> {
        aligned(w, mask)?;
        if w.live != u32::MAX || w.id / 4 * 4 + 4 > self.grid.block.iter().product::<u32>() / 32 {
            return fail(Fault::Wgmma("it needs four whole warps, the first a multiple of four".to_owned()));
        }
        match op {
            Async::WgmmaFence => self.sync(mask, Sync::WgmmaFence),
            Async::WgmmaCommit => self.sync(mask, Sync::WgmmaCommit),
            Async::WgmmaWait { keep } => self.sync(mask, Sync::WgmmaWait { keep: *keep }),
            Async::Wgmma(m) => {
                self.product(w, m)?;
                self.sync(mask, Sync::WgmmaIssue);
            }
            _ => {}
        }
        Ok(())
    }

    fn product(&mut self, w: &mut Warp, m: &Wgmma) -> Exec<()> {
        let (n, k) = (m.n as usize, usize::from(m.k));
        let mut a = match &m.a {
            FactorA::Registers(r) => rows(m.factor, &r.iter().map(|s| &w.regs.r[*s as usize]).collect::<Vec<_>>()),
            FactorA::Shared { descriptor, mn_major } => {
                let tile = Tile::decode(uniform(w, *descriptor)?, *mn_major);
                let mut a = [[0.0; 16]; 16];
                // Each warp of the group owns 16 of the 64 rows.
                let first = w.id % 4 * 16;
                self.read(tile, m.factor, first, 16, k, Agent::WgmmaA, |row, k, v| a[row][k] = v)?;
                a
            }
        };
        if m.negate {
            for v in a.as_flattened_mut() {
                *v = -*v;
            }
        }
        let tile = Tile::decode(uniform(w, m.b)?, m.b_mn_major);
        let mut b = [0.0; 16 * 256];
        self.read(tile, m.factor, 0, m.n, k, Agent::WgmmaB, |col, k, v| b[k * n + col] = v)?;
        let mut out = [0.0; 16 * 256];
        level::dot(self.grid.level, &a, k, &b[..k * n], n, &mut out[..16 * n]);
        let p = w.regs.p[m.scale_d.0 as usize] ^ m.scale_d.1;
        if p != 0 && p != u32::MAX {
            return fail(Fault::Wgmma("scale-d differs between lanes".to_owned()));
        }
        let keep = p != 0;
        for (i, d) in m.d.iter().enumerate() {
            let to = &mut w.regs.r[*d as usize];
            for (lane, v) in to.iter_mut().enumerate() {
                let (g, t) = (lane / 4, lane % 4);
                if m.wide_sums {
                    // Four words for each 8 columns: (g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1).
                    let at = (g + i / 2 % 2 * 8) * n + i / 4 * 8 + 2 * t + i % 2;
                    let sum = out[at] + if keep { f32::from_bits(*v) } else { 0.0 };
                    *v = if sum.is_nan() { NAN32 } else { sum.to_bits() };
                } else {
                    let at = (g + i % 2 * 8) * n + i / 2 * 8 + 2 * t;
                    let c = if keep { pair(Factor::F16, *v) } else { [0.0; 2] };
                    let half = |v: f32| to_half(f64::from(v), Type::F16, Round::Nearest);
                    *v = half(out[at] + c[0]) | half(out[at + 1] + c[1]) << 16;
                }
            }
        }
        Ok(())
    }

    /// Hands on every element of lines `first` .. `first + count` of a factor, depth `k`.
    #[allow(clippy::too_many_arguments, reason = "the coordinates of one factor")]
    fn read(
        &mut self,
        tile: Tile,
        factor: Factor,
        first: u32,
        count: u32,
        k: usize,
        agent: Agent,
        mut put: impl FnMut(usize, usize, f32),
    ) -> Exec<()> {
        let per = if factor == Factor::Tf32 { 4 } else { 8 };
        // Lines and pieces of this part: (line, first element of the piece).
        let (lines, minors) = if tile.mn_major {
            (0..k as u32, first / per..(first + count) / per)
        } else {
            (first..first + count, 0..k as u32 / per)
        };
        let bytes = self.shared.as_slice();
        let mut seen = Vec::new();
        for line in lines {
            for minor in minors.clone() {
                let at = tile.piece(line, minor);
                let inside = at >= crate::decode::SHARED_BASE && at as usize + 16 <= bytes.len();
                let Some(piece) = bytes.get(at as usize..at as usize + 16).filter(|_| inside) else {
                    let detail = format!("a descriptor of start {:#x} reaches it", tile.start);
                    return fail(Fault::OutOfBounds { space: "shared", address: u64::from(at), bytes: 16, detail });
                };
                for (i, word) in piece.chunks_exact(4).enumerate() {
                    let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
                    let v = pair(factor, word);
                    let values = per as usize / 4;
                    for (j, v) in v.iter().take(values).enumerate() {
                        let e = minor as usize * per as usize + i * values + j;
                        if tile.mn_major {
                            put(e - first as usize, line as usize, *v);
                        } else {
                            put((line - first) as usize, e, *v);
                        }
                    }
                }
                if O::ON {
                    seen.push(u64::from(at));
                }
            }
        }
        for part in seen.chunks(32) {
            let address = std::array::from_fn(|i| part[i.min(part.len() - 1)]);
            let mask = u32::MAX >> (32 - part.len());
            let access = Access { agent, kind: Kind::Read, space: Space::Shared, address: &address, bytes: 16, mask };
            self.observer.access(self.at, &access);
        }
        Ok(())
    }
}

/// A descriptor: the same in every lane.
fn uniform(w: &Warp, slot: Slot) -> Exec<u64> {
    let x = &w.regs.x[slot as usize];
    if x.iter().all(|v| *v == x[0]) {
        Ok(x[0])
    } else {
        fail(Fault::Wgmma("the descriptor differs between lanes".to_owned()))
    }
}
