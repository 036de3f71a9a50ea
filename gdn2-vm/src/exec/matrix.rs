//! Warp-level matrix instructions: fragments to rows and columns, the product, and back.

use crate::exec::access::aligned;
use crate::exec::access::{Request, addresses};
use crate::exec::block::Block;
use crate::exec::fused::{Unit, pair};
use crate::exec::lanes::Word;
use crate::exec::level;
use crate::exec::observe::{Agent, Kind, Observer};
use crate::exec::tiles;
use crate::exec::warp::Warp;
use crate::isa::inst::{Addr, Factor, Matrix, Order, Round, Slot, Space};
use crate::num::{Type, to_half};
use crate::report::trap::Exec;

impl<O: Observer> Block<'_, O> {
    pub(crate) fn matrix(&mut self, w: &mut Warp, mask: u32, op: &Matrix) -> Exec<()> {
        aligned(w, mask)?;
        match op {
            Matrix::Mma { factor, d, a, b, c, .. } => {
                let c = c.map(|c| w.regs.r[c as usize]);
                let out = self.fragments(w, *factor, Type::F32, a, b, &c);
                for (d, v) in d.iter().zip(out) {
                    w.regs.r[*d as usize] = v;
                }
            }
            Matrix::MmaF16 { d, a, b, c, .. } => {
                // Sums of halves: the words hold a pair each.
                let pairs = c.map(|c| w.regs.r[c as usize].map(|v| pair(Factor::F16, v).map(f32::to_bits)));
                let c: [Word; 4] = std::array::from_fn(|i| pairs[i / 2].map(|v| v[i % 2]));
                let out = self.fragments(w, Factor::F16, Type::F16, a, b, &c);
                let half = |v: u32| to_half(f64::from(f32::from_bits(v)), Type::F16, Round::Nearest);
                for (i, d) in d.iter().enumerate() {
                    w.regs.r[*d as usize] =
                        std::array::from_fn(|l| half(out[2 * i][l]) | half(out[2 * i + 1][l]) << 16);
                }
            }
            Matrix::Tiled(t) => tiles::product(&mut w.regs, t, self.grid.sm),
            Matrix::Transpose { d, a } => {
                let v = transpose(&w.regs.r[*a as usize]);
                w.regs.r[*d as usize] = v;
            }
        }
        Ok(())
    }

    fn fragments(&self, w: &Warp, factor: Factor, sum: Type, a: &[Slot], b: &[Slot], c: &[Word; 4]) -> [Word; 4] {
        let word = |s: &[Slot], i: usize| &w.regs.r[s[i.min(s.len() - 1)] as usize];
        let (wa, wb) = ([word(a, 0), word(a, 1), word(a, 2), word(a, 3)], [word(b, 0), word(b, 1)]);
        let unit = Unit::warp(self.grid.sm, [factor.ty(); 2], sum);
        level::mma(self.grid.level, &unit, factor, &wa[..a.len()], &wb[..b.len()], c)
    }

    /// The row addresses of lanes 8i..8i+7 serve matrix i.
    fn matrix_rows(
        &mut self,
        w: &Warp,
        mask: u32,
        (space, addr): (Space, Addr),
        n: usize,
        kind: Kind,
    ) -> Exec<[*mut u8; 32]> {
        aligned(w, mask)?;
        let mut at = addresses(w, addr);
        if space == Space::Generic {
            // Of shared memory all the same: another address is out of its bounds.
            at = at.map(|a| a ^ crate::memory::space::SHARED);
        }
        let q = Request { space: Space::Shared, kind, agent: Agent::Warp, order: Order::Weak, bytes: 16, align: 16 };
        self.pointers(w, u32::MAX >> (32 - 8 * n), &at, q)
    }

    pub(crate) fn ldmatrix(
        &mut self,
        w: &mut Warp,
        mask: u32,
        trans: bool,
        at: (Space, Addr),
        to: &[Slot],
    ) -> Exec<()> {
        let p = self.matrix_rows(w, mask, at, to.len(), Kind::Read)?;
        for (i, d) in to.iter().enumerate() {
            let mut v = [0; 32];
            for (row, to) in v.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                // SAFETY: each row's 16 bytes were checked.
                *to = unsafe { p[i * 8 + row].cast::<[u32; 4]>().read_unaligned() };
            }
            w.regs.r[*d as usize] = if trans { transpose(&v) } else { v };
        }
        Ok(())
    }

    pub(crate) fn stmatrix(
        &mut self,
        w: &mut Warp,
        mask: u32,
        trans: bool,
        at: (Space, Addr),
        from: &[Slot],
    ) -> Exec<()> {
        let p = self.matrix_rows(w, mask, at, from.len(), Kind::Write)?;
        for (i, s) in from.iter().enumerate() {
            let v = w.regs.r[*s as usize];
            let v = if trans { transpose(&v) } else { v };
            for (row, from) in v.as_chunks::<4>().0.iter().enumerate() {
                // SAFETY: each row's 16 bytes were checked.
                unsafe { p[i * 8 + row].cast::<[u32; 4]>().write_unaligned(*from) };
            }
        }
        Ok(())
    }
}

/// An 8×8 matrix of halves, two to a lane, with rows and columns exchanged.
pub(crate) fn transpose(v: &Word) -> Word {
    let mut flat = [0u16; 64];
    for (i, w) in v.iter().enumerate() {
        flat[2 * i] = *w as u16;
        flat[2 * i + 1] = (*w >> 16) as u16;
    }
    let mut out = [0; 32];
    for row in 0..8 {
        for t in 0..4 {
            out[row * 4 + t] = u32::from(flat[2 * t * 8 + row]) | u32::from(flat[(2 * t + 1) * 8 + row]) << 16;
        }
    }
    out
}
