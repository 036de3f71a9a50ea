//! Warpgroup matrix products: each of four warps computes its 16 rows, factors read through descriptors.

use crate::exec::access::aligned;
use crate::exec::block::Block;
use crate::exec::fused::{DEPTH, ROWS, Unit, pair};
use crate::exec::lanes::Word;
use crate::exec::level;
use crate::exec::mma::rows;
use crate::exec::observe::{Access, Agent, Kind, Observer, Sync};
use crate::exec::tiles;
use crate::exec::warp::Warp;
use crate::isa::hopper::{Async, FactorA, Factors, Wgmma};
use crate::isa::inst::Space;
use crate::isa::inst::{Factor, Order, Round, Slot};
use crate::memory::tensor_map::Swizzle;
use crate::num::{Type, to_half};
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
                self.product_of(w, m, [&value, &value], |a| rows(Factor::Tf32, a, 8))
            }
            Factors::Same(factor) => {
                let values = |v| pair(factor, v);
                self.product_of(w, m, [&values, &values], |a| rows(factor, a, 16))
            }
            Factors::Bytes(a, b) => {
                let values = [a, b].map(|ty| move |v: u32| std::array::from_fn(|i| tiles::value(v >> (8 * i), ty)));
                self.product_of::<4>(w, m, [&values[0], &values[1]], |words| {
                    let flat = tiles::factor(words, ROWS, DEPTH, a);
                    std::array::from_fn(|i| flat[i])
                })
            }
        }
    }

    /// The product of factors with V values to a word.
    fn product_of<const V: usize>(
        &mut self,
        w: &mut Warp,
        m: &Wgmma,
        unpack: [&impl Fn(u32) -> [f32; V]; 2],
        of_registers: impl Fn(&[&Word]) -> [f32; ROWS * DEPTH],
    ) -> Exec<()> {
        let (n, k) = (m.n as usize, usize::from(m.k));
        let mut a = match &m.a {
            FactorA::Registers(r) => of_registers(&r.iter().map(|s| &w.regs.r[*s as usize]).collect::<Vec<_>>()),
            FactorA::Shared { descriptor, mn_major } => {
                let tile = Tile::decode(uniform(w, *descriptor)?, *mn_major);
                let mut a = [0.0; ROWS * DEPTH];
                // Each warp of the group owns 16 of the 64 rows.
                let first = w.id % 4 * 16;
                self.read(tile, unpack[0], first, 16, k, Agent::WgmmaA, |row, at, v| a[row * k + at] = v)?;
                a
            }
        };
        if m.negate {
            for v in &mut a {
                *v = -*v;
            }
        }
        let tile = Tile::decode(uniform(w, m.b)?, m.b_mn_major);
        let mut b = [0.0; DEPTH * 256];
        self.read(tile, unpack[1], 0, m.n, k, Agent::WgmmaB, |column, at, v| b[at * n + column] = v)?;
        let p = w.regs.p[m.scale_d.0 as usize] ^ m.scale_d.1;
        if p != 0 && p != u32::MAX {
            return fail(Fault::Wgmma("scale-d differs between lanes".to_owned()));
        }
        let (a, b, keep) = (&a[..ROWS * k], &b[..k * n], p != 0);
        if m.sum == Type::S32 {
            integers(w, m, a, b, keep);
            return Ok(());
        }
        let mut sums = [0.0; ROWS * 256];
        let per = if m.sum == Type::F16 { 2 } else { 1 };
        if keep {
            for (i, d) in m.d.iter().enumerate() {
                for (lane, v) in w.regs.r[*d as usize].iter().enumerate() {
                    let values = if per == 2 { pair(Factor::F16, *v) } else { [f32::from_bits(*v), 0.0] };
                    for (e, v) in values.into_iter().enumerate().take(per) {
                        let (row, column) = place(i * per + e, lane);
                        sums[row * n + column] = v;
                    }
                }
            }
        }
        let types = match m.factors {
            Factors::Same(factor) => [factor.ty(); 2],
            Factors::Bytes(a, b) => [a, b],
        };
        level::add(self.grid.level, &Unit::warpgroup(types, m.sum), a, k, b, n, &mut sums[..ROWS * n]);
        for (i, d) in m.d.iter().enumerate() {
            for (lane, d) in w.regs.r[*d as usize].iter_mut().enumerate() {
                let of = |e: usize| {
                    let (row, column) = place(i * per + e, lane);
                    sums[row * n + column]
                };
                let half = |v: f32| to_half(f64::from(v), Type::F16, Round::Nearest);
                *d = if per == 2 { half(of(0)) | half(of(1)) << 16 } else { of(0).to_bits() };
            }
        }
        Ok(())
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

/// Row and column of a lane's i-th sum: four for each 8 columns, (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
fn place(i: usize, lane: usize) -> (usize, usize) {
    (lane / 4 + i / 2 % 2 * 8, i / 4 * 8 + lane % 4 * 2 + i % 2)
}

/// Adds products of bytes to a warp's 16 rows of sums, or starts them.
fn integers(w: &mut Warp, m: &Wgmma, a: &[f32], b: &[f32], keep: bool) {
    let (n, k) = (m.n as usize, usize::from(m.k));
    for (i, d) in m.d.iter().enumerate() {
        for (lane, d) in w.regs.r[*d as usize].iter_mut().enumerate() {
            let (row, column) = place(i, lane);
            let factors = a[row * k..][..k].iter().zip(b[column..].iter().step_by(n));
            let products = factors.map(|(a, b)| (a * b) as i32).sum();
            let start = if keep { *d as i32 } else { 0 };
            *d = (if m.saturate { start.saturating_add(products) } else { start.wrapping_add(products) }) as u32;
        }
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
