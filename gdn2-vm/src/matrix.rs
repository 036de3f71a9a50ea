//! Warp-level matrix instructions: fragments to rows and columns, the product, and back.

use crate::block::Block;
use crate::exec_mem::{Request, addresses};
use crate::exec_warp::aligned;
use crate::inst::Round;
use crate::inst::{Addr, Factor, Matrix, Slot, Space};
use crate::lanes::Word;
use crate::level;
use crate::num::{Type, from_f16, to_half};
use crate::observe::{Agent, Kind, Observer};
use crate::trap::Exec;
use crate::warp::Warp;

/// The two values of a packed word.
#[inline(always)]
pub(crate) fn pair(factor: Factor, v: u32) -> [f32; 2] {
    match factor {
        Factor::Bf16 => [f32::from_bits(v << 16), f32::from_bits(v & 0xffff_0000)],
        Factor::F16 => [from_f16(v & 0xffff), from_f16(v >> 16)],
        // One 32-bit value, its low 13 bits ignored.
        Factor::Tf32 => [f32::from_bits(v & 0xffff_e000), 0.0],
    }
}

/// A's fragment as 16 rows: words are (row g, g+8) × (column pairs t, t+4), for g = lane / 4, t = lane % 4.
pub(crate) fn rows(factor: Factor, a: &[&Word]) -> [[f32; 16]; 16] {
    let mut m = [[0.0; 16]; 16];
    for (i, word) in a.iter().enumerate() {
        let (low, block) = ((i % 2) * 8, i / 2);
        for (lane, v) in word.iter().enumerate() {
            let (g, t) = (lane / 4, lane % 4);
            if factor == Factor::Tf32 {
                m[g + low][block * 4 + t] = pair(factor, *v)[0];
            } else {
                let [x, y] = pair(factor, *v);
                m[g + low][block * 8 + 2 * t] = x;
                m[g + low][block * 8 + 2 * t + 1] = y;
            }
        }
    }
    m
}

/// B's fragment as depth × 8 columns.
fn columns(factor: Factor, b: &[&Word]) -> [f32; 128] {
    let mut m = [0.0; 128];
    for (i, word) in b.iter().enumerate() {
        for (lane, v) in word.iter().enumerate() {
            let (g, t) = (lane / 4, lane % 4);
            if factor == Factor::Tf32 {
                m[(i * 4 + t) * 8 + g] = pair(factor, *v)[0];
            } else {
                let [x, y] = pair(factor, *v);
                m[(i * 8 + 2 * t) * 8 + g] = x;
                m[(i * 8 + 2 * t + 1) * 8 + g] = y;
            }
        }
    }
    m
}

impl<O: Observer> Block<'_, O> {
    pub(crate) fn matrix(&mut self, w: &mut Warp, mask: u32, op: &Matrix) -> Exec<()> {
        aligned(w, mask)?;
        match op {
            Matrix::Mma { factor, k, d, a, b, c } => {
                let out = product(w, *factor, *k, a, b);
                for (i, (d, c)) in d.iter().zip(c).enumerate() {
                    let c = w.regs.r[*c as usize];
                    let (row, col) = (i / 2 * 8, i % 2);
                    let to = &mut w.regs.r[*d as usize];
                    for lane in 0..32 {
                        let sum = f32::from_bits(c[lane]) + out[(lane / 4 + row) * 8 + lane % 4 * 2 + col];
                        to[lane] = if sum.is_nan() { crate::num::NAN32 } else { sum.to_bits() };
                    }
                }
            }
            Matrix::MmaF16 { k, d, a, b, c } => {
                let out = product(w, Factor::F16, *k, a, b);
                for (i, (d, c)) in d.iter().zip(c).enumerate() {
                    let c = w.regs.r[*c as usize];
                    let to = &mut w.regs.r[*d as usize];
                    for lane in 0..32 {
                        let at = (lane / 4 + i * 8) * 8 + lane % 4 * 2;
                        let [x, y] = pair(Factor::F16, c[lane]);
                        let half = |v: f32| to_half(f64::from(v), Type::F16, Round::Nearest);
                        to[lane] = half(x + out[at]) | half(y + out[at + 1]) << 16;
                    }
                }
            }
            Matrix::Transpose { d, a } => {
                let v = transpose(&w.regs.r[*a as usize]);
                w.regs.r[*d as usize] = v;
            }
        }
        Ok(())
    }

    /// The row addresses of lanes 8i..8i+7 serve matrix i.
    fn matrix_rows(&mut self, w: &Warp, mask: u32, addr: Addr, n: usize, kind: Kind) -> Exec<[*mut u8; 32]> {
        aligned(w, mask)?;
        let at = addresses(w, addr);
        let q = Request { space: Space::Shared, kind, agent: Agent::Warp, bytes: 16, align: 16 };
        self.pointers(w, u32::MAX >> (32 - 8 * n), &at, q)
    }

    pub(crate) fn ldmatrix(&mut self, w: &mut Warp, mask: u32, trans: bool, addr: Addr, to: &[Slot]) -> Exec<()> {
        let p = self.matrix_rows(w, mask, addr, to.len(), Kind::Read)?;
        for (i, d) in to.iter().enumerate() {
            let mut v = [0; 32];
            for row in 0..8 {
                for t in 0..4 {
                    // SAFETY: each row's 16 bytes were checked.
                    v[row * 4 + t] = unsafe { p[i * 8 + row].cast::<u32>().add(t).read_unaligned() };
                }
            }
            w.regs.r[*d as usize] = if trans { transpose(&v) } else { v };
        }
        Ok(())
    }

    pub(crate) fn stmatrix(&mut self, w: &mut Warp, mask: u32, trans: bool, addr: Addr, from: &[Slot]) -> Exec<()> {
        let p = self.matrix_rows(w, mask, addr, from.len(), Kind::Write)?;
        for (i, s) in from.iter().enumerate() {
            let v = w.regs.r[*s as usize];
            let v = if trans { transpose(&v) } else { v };
            for row in 0..8 {
                for t in 0..4 {
                    // SAFETY: each row's 16 bytes were checked.
                    unsafe { p[i * 8 + row].cast::<u32>().add(t).write_unaligned(v[row * 4 + t]) };
                }
            }
        }
        Ok(())
    }
}

fn product(w: &Warp, factor: Factor, k: u8, a: &[Slot], b: &[Slot]) -> [f32; 128] {
    let word = |s: &Slot| &w.regs.r[*s as usize];
    let a = rows(factor, &a.iter().map(word).collect::<Vec<_>>());
    let b = columns(factor, &b.iter().map(word).collect::<Vec<_>>());
    let mut out = [0.0; 128];
    level::dot(&a, usize::from(k), &b, 8, &mut out);
    out
}

/// An 8×8 matrix of halves, two to a lane, with rows and columns exchanged.
fn transpose(v: &Word) -> Word {
    std::array::from_fn(|lane| {
        let (row, col) = (lane / 4, lane % 4 * 2);
        // Element (row, col) of the result is element (col, row): lane col * 4 + row / 2, half row % 2.
        let half = |c: usize| v[c * 4 + row / 2] >> (16 * (row % 2)) & 0xffff;
        half(col) | half(col + 1) << 16
    })
}
