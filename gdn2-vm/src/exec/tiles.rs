//! Matrix products of every shape and type that `mma.m16n8` of halves and tf32 is not: bytes, 8-bit floats, doubles, and
//! the `wmma` instructions, whose fragments the PTX ISA leaves open and here lie as those of `mma` do.

use crate::exec::access::aligned;
use crate::exec::access::{Request, addresses};
use crate::exec::block::Block;
use crate::exec::fused::{self, Unit};
use crate::exec::lanes::{Regs, Word, lanes, put};
use crate::exec::observe::{Agent, Kind, Observer};
use crate::exec::warp::Warp;
use crate::isa::inst::Order;
use crate::isa::inst::{Fragment, Part, Round, Slot, Tiled};
use crate::num::float8;
use crate::num::{Type, from_half, to_half};
use crate::report::trap::{Exec, Fault, fail};

/// Bits of an element in a register or in memory.
fn bits(ty: Type) -> usize {
    match ty {
        Type::B1 => 1,
        Type::S4 | Type::U4 => 4,
        _ => 8 * usize::from(ty.bytes()),
    }
}

/// Elements in one register.
pub(crate) fn per_register(ty: Type) -> usize {
    (32 / bits(ty)).max(1)
}

/// Registers that a fragment of `lines` by `depth` elements fills in each lane.
pub(crate) fn registers(lines: usize, depth: usize, ty: Type) -> usize {
    lines * depth / 32 / per_register(ty)
}

/// Line (row of A, column of B) and depth of element `e` of register `r`: blocks of eight lines by four registers, the
/// blocks of one depth after another. PTX ISA, "Matrix Fragments for mma.m16n8k16" and its kin.
fn factor_place(lines: usize, ty: Type, lane: usize, r: usize, e: usize) -> (usize, usize) {
    let blocks = lines / 8;
    (lane / 4 + 8 * (r % blocks), (lane % 4 + 4 * (r / blocks)) * per_register(ty) + e)
}

/// Row and column of element `e` of register `r` of the sums: pairs of columns, blocks of eight rows by eight columns.
fn sum_place(rows: usize, ty: Type, lane: usize, r: usize, e: usize) -> (usize, usize) {
    let (i, blocks) = (r * per_register(ty) + e, rows / 8);
    (lane / 4 + 8 * (i / 2 % blocks), lane % 4 * 2 + i % 2 + 8 * (i / 2 / blocks))
}

/// The value of one element, exact in f32.
pub(crate) fn value(bits: u32, ty: Type) -> f32 {
    match ty {
        Type::F16 | Type::Bf16 => from_half(bits & 0xffff, ty),
        Type::E4m3 | Type::E5m2 => float8::value(bits, ty),
        Type::S8 => f32::from(bits as i8),
        Type::U8 => f32::from(bits as u8),
        Type::S4 => f32::from((bits as i8) << 4 >> 4),
        Type::U4 => f32::from(bits as u8 & 0xf),
        Type::B1 => f32::from(bits as u8 & 1),
        // One 32-bit value, its low 13 bits ignored.
        _ => f32::from_bits(bits & 0xffff_e000),
    }
}

/// A factor, its lines one after another; registers beyond what it needs are left aside.
pub(crate) fn factor(words: &[&Word], lines: usize, depth: usize, ty: Type) -> Vec<f32> {
    let mut all = vec![0.0; lines * depth];
    for (r, word) in words.iter().enumerate().take(registers(lines, depth, ty)) {
        for (lane, word) in word.iter().enumerate() {
            for e in 0..per_register(ty) {
                let (line, k) = factor_place(lines, ty, lane, r, e);
                all[line * depth + k] = value(word >> (bits(ty) * e), ty);
            }
        }
    }
    all
}

/// Runs one product on compute capability `sm` / 10.
pub(crate) fn product(g: &mut Regs, t: &Tiled, sm: u32) {
    let (m, n, k) = (usize::from(t.m), usize::from(t.n), usize::from(t.k));
    if t.sum == Type::F64 {
        return doubles(g, t, m, k);
    }
    let of = |slots: &[Slot], lines: usize, ty: Type| {
        factor(&slots.iter().map(|s| &g.r[*s as usize]).collect::<Vec<_>>(), lines, k, ty)
    };
    let (a, b) = (of(&t.a, m, t.factors[0]), of(&t.b, n, t.factors[1]));
    let unit = Unit::warp(sm, t.factors, t.sum);
    // Packed sums of halves share a register, so all are made before any is written.
    let mut out = vec![[0u32; 32]; t.d.len()];
    for (r, out) in out.iter_mut().enumerate() {
        for (lane, out) in out.iter_mut().enumerate() {
            for e in 0..per_register(t.sum) {
                let (row, column) = sum_place(m, t.sum, lane, r, e);
                let at = r * per_register(t.sum) + e;
                let from = per_register(t.start);
                let start = g.r[t.c[at / from] as usize][lane] >> (16 * (at % from));
                let factors = (&a[row * k..][..k], &b[column * k..][..k]);
                *out |= sum(t, &unit, factors, start) << (16 * e);
            }
        }
    }
    for (d, v) in t.d.iter().zip(out) {
        g.r[*d as usize] = v;
    }
}

/// One element of the result: a row times a column, and the addend.
fn sum(t: &Tiled, unit: &Unit, (row, column): (&[f32], &[f32]), start: u32) -> u32 {
    if t.sum == Type::S32 {
        let term = |(a, b): (&f32, &f32)| if t.differing { (a - b).abs() as i32 } else { (a * b) as i32 };
        let (start, products) = (start as i32, row.iter().zip(column).map(term).sum());
        return (if t.saturate { start.saturating_add(products) } else { start.wrapping_add(products) }) as u32;
    }
    let start = if t.start == Type::F16 { from_half(start & 0xffff, Type::F16) } else { f32::from_bits(start) };
    let parts = row.chunks(unit.group).zip(column.chunks(unit.group));
    let sum = parts.fold(start, |sum, (a, b)| fused::one(unit, a.iter().copied().zip(b.iter().copied()), sum));
    if t.sum == Type::F16 { to_half(f64::from(sum), Type::F16, Round::Nearest) } else { sum.to_bits() }
}

/// Doubles: a chain of fused multiply-adds in order of k.
fn doubles(g: &mut Regs, t: &Tiled, m: usize, k: usize) {
    let gather = |slots: &[Slot], lines: usize| {
        let mut all = vec![0.0; lines * k];
        for (r, slot) in slots.iter().enumerate() {
            for (lane, bits) in g.x[*slot as usize].iter().enumerate() {
                let (line, depth) = factor_place(lines, Type::F64, lane, r, 0);
                all[line * k + depth] = f64::from_bits(*bits);
            }
        }
        all
    };
    let (a, b) = (gather(&t.a, m), gather(&t.b, usize::from(t.n)));
    for (r, (d, c)) in t.d.iter().zip(&t.c).enumerate() {
        let start = g.x[*c as usize];
        g.x[*d as usize] = std::array::from_fn(|lane| {
            let (row, column) = sum_place(m, Type::F64, lane, r, 0);
            let products = a[row * k..][..k].iter().zip(&b[column * k..][..k]);
            products.fold(f64::from_bits(start[lane]), |sum, (a, b)| a.mul_add(*b, sum)).to_bits()
        });
    }
}

impl<O: Observer> Block<'_, O> {
    /// `wmma.load` and `wmma.store`.
    pub(crate) fn fragment(&mut self, w: &mut Warp, mask: u32, f: &Fragment) -> Exec<()> {
        aligned(w, mask)?;
        let (lines, depth, size) = (usize::from(f.lines), usize::from(f.depth), bits(f.ty) as u64);
        let lead = mask.trailing_zeros() as usize & 31;
        let base = addresses(w, f.at);
        let stride = f.stride.map(|s| &w.regs.r[s as usize]);
        let same = |i: usize| base[i] == base[lead] && stride.is_none_or(|s| s[i] == s[lead]);
        if !lanes(mask).all(same) {
            return fail(Fault::Wmma("address or stride differs between lanes".to_owned()));
        }
        let stride = stride.map_or(if f.across { lines } else { depth } as u64, |s| u64::from(s[lead]));
        // Each row (or column) starts at a multiple of the fragment, of 16 bytes at most.
        let whole = f.regs.len() as u64 * if f.ty == Type::F64 { 8 } else { 4 };
        let needs = whole.min(16);
        for what in [base[lead], stride * size / 8] {
            if what % needs != 0 {
                let what = format!("a row starts at, or steps by, {what:#x} bytes: it must be a multiple of {needs}");
                return fail(Fault::Wmma(what));
            }
        }
        let count = registers(lines, depth, f.ty);
        let per = per_register(f.ty);
        let at = |lane: usize, r: usize, e: usize| {
            let (line, k) = match f.part {
                Part::Factor => factor_place(lines, f.ty, lane, r, e),
                Part::Sum => sum_place(lines, f.ty, lane, r, e),
            };
            let (slow, fast) = if f.across { (k, line) } else { (line, k) };
            base[lead] + (slow as u64 * stride + fast as u64) * size / 8
        };
        // Elements of a register follow one another in memory unless the lines do.
        let together = if f.across { 1 } else { per };
        let bytes = together as u32 * size as u32 / 8;
        let kind = if f.store { Kind::Write } else { Kind::Read };
        let ask = Request {
            space: f.space,
            kind,
            agent: Agent::Warp,
            order: Order::Weak,
            bytes,
            align: bytes.min(size as u32 / 8).max(1),
        };
        for (r, slot) in f.regs.iter().enumerate() {
            if r >= count {
                // More registers than elements: they hold them again.
                w.regs.r[*slot as usize] = w.regs.r[f.regs[r % count] as usize];
                continue;
            }
            let mut words = [0u32; 32];
            for first in (0..per).step_by(together) {
                let place = std::array::from_fn(|lane| at(lane, r, first));
                let p = self.pointers(w, mask, &place, ask)?;
                let shift = size as usize * first;
                for lane in lanes(mask) {
                    // SAFETY: `pointers` checked `bytes` at each.
                    unsafe {
                        match (f.store, bytes) {
                            (false, 8) => w.regs.x[*slot as usize][lane] = p[lane].cast::<u64>().read_unaligned(),
                            (true, 8) => p[lane].cast::<u64>().write_unaligned(w.regs.x[*slot as usize][lane]),
                            (false, 4) => words[lane] = p[lane].cast::<u32>().read_unaligned(),
                            (false, 2) => words[lane] |= u32::from(p[lane].cast::<u16>().read_unaligned()) << shift,
                            (false, _) => words[lane] |= u32::from(p[lane].read()) << shift,
                            (true, 4) => p[lane].cast::<u32>().write_unaligned(w.regs.r[*slot as usize][lane]),
                            (true, _) => {
                                p[lane].cast::<u16>().write_unaligned((w.regs.r[*slot as usize][lane] >> shift) as u16);
                            }
                        }
                    }
                }
            }
            if !f.store && f.ty != Type::F64 {
                put(&mut w.regs.r[*slot as usize], &words, mask);
            }
        }
        Ok(())
    }
}
