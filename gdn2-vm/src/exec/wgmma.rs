//! Warpgroup matrix products: each of four warps computes its 16 rows, factors read through descriptors.

use crate::exec::access::aligned;
use crate::exec::block::Block;
use crate::exec::lanes::Word;
use crate::exec::level;
use crate::exec::mma::{pair, rows};
use crate::exec::observe::{Access, Agent, Kind, Observer, Sync};
use crate::exec::tiles;
use crate::exec::warp::Warp;
use crate::isa::hopper::{Async, FactorA, Factors, Wgmma};
use crate::isa::inst::Space;
use crate::isa::inst::{Factor, Order, Round, Slot};
use crate::memory::tensor_map::Swizzle;
use crate::num::{NAN32, Type, to_half};
use crate::report::trap::{Exec, Fault, fail};

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
        match m.factors {
            Factors::Same(Factor::Tf32) => {
                let value = |v| [pair(Factor::Tf32, v)[0]];
                self.product_of::<1, 1>(w, m, [&value, &value], |a| [rows(Factor::Tf32, a)])
            }
            Factors::Same(factor) => {
                let values = |v| pair(factor, v);
                self.product_of::<2, 1>(w, m, [&values, &values], |a| [rows(factor, a)])
            }
            Factors::Bytes(a, b) => {
                let values = [a, b].map(|ty| move |v: u32| std::array::from_fn(|i| tiles::value(v >> (8 * i), ty)));
                self.product_of::<4, 2>(w, m, [&values[0], &values[1]], |words| {
                    let flat = tiles::factor(words, 16, 32, a);
                    std::array::from_fn(|half| {
                        std::array::from_fn(|row| std::array::from_fn(|k| flat[row * 32 + half * 16 + k]))
                    })
                })
            }
        }
    }

    /// The product of factors with V values to a word; `PARTS` is how often 16 goes into its depth.
    fn product_of<const V: usize, const PARTS: usize>(
        &mut self,
        w: &mut Warp,
        m: &Wgmma,
        unpack: [&impl Fn(u32) -> [f32; V]; 2],
        of_registers: impl Fn(&[&Word]) -> [[[f32; 16]; 16]; PARTS],
    ) -> Exec<()> {
        let (n, k) = (m.n as usize, usize::from(m.k));
        let mut a = match &m.a {
            FactorA::Registers(r) => of_registers(&r.iter().map(|s| &w.regs.r[*s as usize]).collect::<Vec<_>>()),
            FactorA::Shared { descriptor, mn_major } => {
                let tile = Tile::decode(uniform(w, *descriptor)?, *mn_major);
                let mut a = [[[0.0; 16]; 16]; PARTS];
                // Each warp of the group owns 16 of the 64 rows.
                let first = w.id % 4 * 16;
                self.read(tile, unpack[0], first, 16, k, Agent::WgmmaA, |row, k, v| a[k / 16][row][k % 16] = v)?;
                a
            }
        };
        if m.negate {
            for v in a.as_flattened_mut().as_flattened_mut() {
                *v = -*v;
            }
        }
        let tile = Tile::decode(uniform(w, m.b)?, m.b_mn_major);
        let mut b = [[0.0; 16 * 256]; PARTS];
        self.read(tile, unpack[1], 0, m.n, k, Agent::WgmmaB, |col, k, v| b[k / 16][k % 16 * n + col] = v)?;
        let mut out = [0.0; 16 * 256];
        let depth = k / PARTS;
        level::dot(self.grid.level, &a[0], depth, &b[0][..depth * n], n, &mut out[..16 * n]);
        for (a, b) in a.iter().zip(&b).skip(1) {
            let mut more = [0.0; 16 * 256];
            level::dot(self.grid.level, a, depth, &b[..depth * n], n, &mut more[..16 * n]);
            out.iter_mut().zip(more).for_each(|(out, more)| *out += more);
        }
        accumulate(w, m, &out)
    }

    /// Hands on every element of lines `first` .. `first + count` of a factor, depth `k`.
    #[allow(clippy::too_many_arguments, reason = "the coordinates of one factor")]
    fn read<const V: usize>(
        &mut self,
        tile: Tile,
        unpack: &impl Fn(u32) -> [f32; V],
        first: u32,
        count: u32,
        k: usize,
        agent: Agent,
        mut put: impl FnMut(usize, usize, f32),
    ) -> Exec<()> {
        let per = 4 * V as u32;
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
                let inside = at >= self.grid.entry.shared_base && at as usize + 16 <= bytes.len();
                let Some(piece) = bytes.get(at as usize..at as usize + 16).filter(|_| inside) else {
                    let detail = format!("a descriptor of start {:#x} reaches it", tile.start);
                    return fail(Fault::OutOfBounds { space: "shared", address: u64::from(at), bytes: 16, detail });
                };
                for (i, word) in piece.chunks_exact(4).enumerate() {
                    let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
                    for (j, v) in unpack(word).into_iter().enumerate() {
                        let e = minor as usize * per as usize + i * V + j;
                        if tile.mn_major {
                            put(e - first as usize, line as usize, v);
                        } else {
                            put((line - first) as usize, e, v);
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
            let access = Access {
                agent,
                kind: Kind::Read,
                order: Order::Weak,
                space: Space::Shared,
                address: &address,
                bytes: 16,
                mask,
                data: None,
            };
            self.observer.access(self.at, &access);
        }
        Ok(())
    }
}

/// Adds a warp's 16 rows of products to its sums, or starts them.
fn accumulate(w: &mut Warp, m: &Wgmma, out: &[f32]) -> Exec<()> {
    let n = m.n as usize;
    let p = w.regs.p[m.scale_d.0 as usize] ^ m.scale_d.1;
    if p != 0 && p != u32::MAX {
        return fail(Fault::Wgmma("scale-d differs between lanes".to_owned()));
    }
    let keep = p != 0;
    for (i, d) in m.d.iter().enumerate() {
        let to = &mut w.regs.r[*d as usize];
        for (lane, v) in to.iter_mut().enumerate() {
            let (g, t) = (lane / 4, lane % 4);
            if m.sum == Type::F16 {
                let at = (g + i % 2 * 8) * n + i / 2 * 8 + 2 * t;
                let c = if keep { pair(Factor::F16, *v) } else { [0.0; 2] };
                let half = |v: f32| to_half(f64::from(v), Type::F16, Round::Nearest);
                *v = half(out[at] + c[0]) | half(out[at + 1] + c[1]) << 16;
                continue;
            }
            // Four words for each 8 columns: (g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1).
            let at = (g + i / 2 % 2 * 8) * n + i / 4 * 8 + 2 * t + i % 2;
            if m.sum == Type::S32 {
                // No sum of 32 products of bytes leaves what f32 holds exactly.
                let (start, products) = (if keep { *v as i32 } else { 0 }, out[at] as i32);
                *v = (if m.saturate { start.saturating_add(products) } else { start.wrapping_add(products) }) as u32;
            } else {
                let sum = out[at] + if keep { f32::from_bits(*v) } else { 0.0 };
                *v = if sum.is_nan() { NAN32 } else { sum.to_bits() };
            }
        }
    }
    Ok(())
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
