//! The hot register-to-register instructions, 32 lanes at a time.

use crate::exec::lanes::{Regs, mask_of, put};
use crate::isa::inst::{Alu, Bool, Cmp, IntOp, IntUnary, Round};
use crate::num::math;
use crate::num::words;
use crate::num::{NAN32, bf16_bits, f16_bits, flush, fma32, from_f16};

/// Runs one; `mask` is not empty.
#[inline(always)]
pub(crate) fn run<const FMA: bool>(g: &mut Regs, mask: u32, op: &Alu) {
    match *op {
        Alu::Int32(o, d, a, b) => int32(g, mask, o, d, a, b),
        Alu::Int64(o, d, a, b) => int64(g, mask, o, d, a, b),
        Alu::Un32(o, d, a) => match o {
            IntUnary::Mov => g.w1(mask, d, a, |a| a),
            IntUnary::Neg => g.w1(mask, d, a, u32::wrapping_neg),
            IntUnary::Abs => g.w1(mask, d, a, |a| (a as i32).wrapping_abs() as u32),
            IntUnary::Not => g.w1(mask, d, a, |a| !a),
            IntUnary::Cnot => g.w1(mask, d, a, |a| u32::from(a == 0)),
            IntUnary::Brev => g.w1(mask, d, a, u32::reverse_bits),
        },
        Alu::Un64(o, d, a) => match o {
            IntUnary::Mov => g.x1(mask, d, a, |a| a),
            IntUnary::Neg => g.x1(mask, d, a, u64::wrapping_neg),
            IntUnary::Abs => g.x1(mask, d, a, |a| (a as i64).wrapping_abs() as u64),
            IntUnary::Not => g.x1(mask, d, a, |a| !a),
            IntUnary::Cnot => g.x1(mask, d, a, |a| u64::from(a == 0)),
            IntUnary::Brev => g.x1(mask, d, a, u64::reverse_bits),
        },
        Alu::Mad32(d, a, b, c) => g.w3(mask, d, [a, b, c], |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        Alu::Mad64(d, a, b, c) => {
            let (a, b, c) = (&g.x[a as usize], &g.x[b as usize], &g.x[c as usize]);
            let mut o = [0u64; 32];
            for i in 0..32 {
                o[i] = a[i].wrapping_mul(b[i]).wrapping_add(c[i]);
            }
            put(&mut g.x[d as usize], &o, mask);
        }
        Alu::MulWideU(d, a, b) => wide(g, mask, d, a, b, |a, b| u64::from(a) * u64::from(b)),
        Alu::MulWideS(d, a, b) => wide(g, mask, d, a, b, mul_wide_s),
        Alu::MadWideU(d, a, b, c) => mad_wide(g, mask, d, [a, b, c], |a, b| u64::from(a) * u64::from(b)),
        Alu::MadWideS(d, a, b, c) => mad_wide(g, mask, d, [a, b, c], mul_wide_s),
        Alu::Lop3(table, d, a, b, c) => {
            let on = words::lop3_rows(table);
            g.w3(mask, d, [a, b, c], |a, b, c| words::lop3(&on, a, b, c));
        }
        Alu::Funnel(left, clamp, d, a, b, c) => g.w3(mask, d, [a, b, c], |lo, hi, n| {
            let n = if clamp { n.min(32) } else { n & 31 };
            let v = u64::from(hi) << 32 | u64::from(lo);
            if left { (v << n >> 32) as u32 } else { (v >> n) as u32 }
        }),
        Alu::Bfi32([d, a, b, pos, len]) => {
            let (a, b, pos, len) = (&g.r[a as usize], &g.r[b as usize], &g.r[pos as usize], &g.r[len as usize]);
            let mut o = [0u32; 32];
            for i in 0..32 {
                let (pos, len) = (pos[i] & 0xff, len[i] & 0xff);
                let field = if len >= 32 { u64::from(u32::MAX) } else { (1 << len) - 1 };
                let field = if pos >= 32 { 0 } else { (field << pos) as u32 };
                o[i] = (b[i] & !field) | (a[i].checked_shl(pos).unwrap_or(0) & field);
            }
            put(&mut g.r[d as usize], &o, mask);
        }
        Alu::Bfe32(signed, [d, a, pos, len]) => {
            g.w3(mask, d, [a, pos, len], |a, pos, len| bfe32(signed, a, pos & 0xff, len & 0xff))
        }
        Alu::Prmt([d, a, b, c]) => g.w3(mask, d, [a, b, c], prmt),
        Alu::Add(d, a, b) => g.f2(mask, d, a, b, |a, b| a + b),
        Alu::Sub(d, a, b) => g.f2(mask, d, a, b, |a, b| a - b),
        Alu::Mul(d, a, b) => g.f2(mask, d, a, b, |a, b| a * b),
        Alu::Fma(d, a, b, c) => g.w3(mask, d, [a, b, c], |a, b, c| fma::<FMA>(a, b, c, false)),
        Alu::FmaFtz(d, a, b, c) => g.w3(mask, d, [a, b, c], |a, b, c| fma::<FMA>(a, b, c, true)),
        Alu::AddFtz(d, a, b) => g.f2(mask, d, a, b, |a, b| flush(flush(a) + flush(b))),
        Alu::MulFtz(d, a, b) => g.f2(mask, d, a, b, |a, b| flush(flush(a) * flush(b))),
        Alu::Min(d, a, b) => g.f2(mask, d, a, b, smaller),
        Alu::Max(d, a, b) => g.f2(mask, d, a, b, |a, b| -smaller(-a, -b)),
        Alu::Neg(d, a) => g.w1(mask, d, a, |a| a ^ 0x8000_0000),
        Alu::Abs(d, a) => g.w1(mask, d, a, |a| a & 0x7fff_ffff),
        Alu::Ex2(ftz, d, a) => g.w1(mask, d, a, |a| {
            let r = math::ex2(math::ftz(f32::from_bits(a), ftz));
            math::ftz(r, ftz).to_bits()
        }),
        Alu::Cmp32S(c, p, a, b) => cmp32(g, mask, c, p, a, b, |x| x as i32),
        Alu::Cmp32U(c, p, a, b) => cmp32(g, mask, c, p, a, b, |x| x),
        Alu::CmpF32(c, p, a, b) => cmp_f32(g, mask, c, p, a, b),
        Alu::Sel32(d, a, b, p) => {
            let p = g.p[p as usize];
            let (a, b) = (&g.r[a as usize], &g.r[b as usize]);
            let mut o = [0u32; 32];
            for i in 0..32 {
                o[i] = if p >> i & 1 != 0 { a[i] } else { b[i] };
            }
            put(&mut g.r[d as usize], &o, mask);
        }
        Alu::Sel64(d, a, b, p) => {
            let p = g.p[p as usize];
            let (a, b) = (&g.x[a as usize], &g.x[b as usize]);
            let mut o = [0u64; 32];
            for i in 0..32 {
                o[i] = if p >> i & 1 != 0 { a[i] } else { b[i] };
            }
            put(&mut g.x[d as usize], &o, mask);
        }
        Alu::Pred(o, d, a, b, flip) => {
            let (a, b) = (g.p[a as usize], g.p[b as usize] ^ flip);
            let v = match o {
                Bool::And => a & b,
                Bool::Or => a | b,
                Bool::Xor => a ^ b,
            };
            g.set_pred(d, v, mask);
        }
        Alu::Bf16x2(d, a, b) => {
            g.w2(mask, d, a, b, |a, b| bf16_bits(f32::from_bits(a)) << 16 | bf16_bits(f32::from_bits(b)));
        }
        Alu::F16x2(d, a, b) => {
            g.w2(mask, d, a, b, |a, b| f16_bits(f32::from_bits(a)) << 16 | f16_bits(f32::from_bits(b)));
        }
        Alu::Bf16FromF32(d, a) => g.w1(mask, d, a, |a| bf16_bits(f32::from_bits(a))),
        Alu::F16FromF32(d, a) => g.w1(mask, d, a, |a| f16_bits(f32::from_bits(a))),
        // A NaN converted is the canonical one.
        Alu::F32FromBf16(d, a) => g.w1(mask, d, a, |a| canonical(f32::from_bits(a << 16))),
        Alu::F32FromF16(d, a) => g.w1(mask, d, a, |a| canonical(from_f16(a & 0xffff))),
        Alu::Tf32(d, a) => {
            g.w1(mask, d, a, |a| if f32::from_bits(a).is_nan() { NAN32 } else { a.wrapping_add(0x1000) & 0xffff_e000 })
        }
        Alu::Pack32(d, a, b) => g.w2(mask, d, a, b, |a, b| (a & 0xffff) | b << 16),
        Alu::Unpack32(lo, hi, a) => {
            let a = g.r[a as usize];
            put(&mut g.r[lo as usize], &each(&a, |a| a & 0xffff), mask);
            put(&mut g.r[hi as usize], &each(&a, |a| a >> 16), mask);
        }
        Alu::F32FromU32(d, a) => g.w1(mask, d, a, |a| (a as f32).to_bits()),
        Alu::F32FromS32(d, a) => g.w1(mask, d, a, |a| (a as i32 as f32).to_bits()),
        Alu::WidenU(d, a) => {
            let o = each(&g.r[a as usize], u64::from);
            put(&mut g.x[d as usize], &o, mask);
        }
        Alu::WidenS(d, a) => {
            let o = each(&g.r[a as usize], |a| i64::from(a as i32) as u64);
            put(&mut g.x[d as usize], &o, mask);
        }
        Alu::Narrow(d, a) => {
            let o = each(&g.x[a as usize], |a| a as u32);
            put(&mut g.r[d as usize], &o, mask);
        }
        Alu::Pack64(d, a, b) => wide(g, mask, d, a, b, |a, b| u64::from(b) << 32 | u64::from(a)),
        Alu::Unpack64(lo, hi, a) => {
            let a = g.x[a as usize];
            put(&mut g.r[lo as usize], &each(&a, |a| a as u32), mask);
            put(&mut g.r[hi as usize], &each(&a, |a| (a >> 32) as u32), mask);
        }
    }
}

/// `map`, inlined into each feature level.
#[inline(always)]
fn each<T: Copy, U: Copy + Default>(v: &[T; 32], f: impl Fn(T) -> U) -> [U; 32] {
    let mut o = [U::default(); 32];
    for i in 0..32 {
        o[i] = f(v[i]);
    }
    o
}

#[inline(always)]
fn canonical(x: f32) -> u32 {
    if x.is_nan() { NAN32 } else { x.to_bits() }
}

#[inline(always)]
fn fma<const FMA: bool>(a: u32, b: u32, c: u32, ftz: bool) -> u32 {
    let [a, b, c] = [a, b, c].map(|v| math::ftz(f32::from_bits(v), ftz));
    let r = if FMA { a.mul_add(b, c) } else { fma32(a, b, c, Round::Nearest) };
    canonical(math::ftz(r, ftz))
}

/// The smaller; a NaN loses, and -0 < +0.
#[inline(always)]
fn smaller(a: f32, b: f32) -> f32 {
    let zeros = f32::from_bits(a.to_bits() | b.to_bits());
    let least = if a == b {
        zeros
    } else if a < b {
        a
    } else {
        b
    };
    if a.is_nan() {
        b
    } else if b.is_nan() {
        a
    } else {
        least
    }
}

#[inline(always)]
fn mul_wide_s(a: u32, b: u32) -> u64 {
    (i64::from(a as i32) * i64::from(b as i32)) as u64
}

#[inline(always)]
fn wide(g: &mut Regs, mask: u32, d: u32, a: u32, b: u32, f: impl Fn(u32, u32) -> u64) {
    let (a, b) = (&g.r[a as usize], &g.r[b as usize]);
    let mut o = [0; 32];
    for i in 0..32 {
        o[i] = f(a[i], b[i]);
    }
    put(&mut g.x[d as usize], &o, mask);
}

#[inline(always)]
fn mad_wide(g: &mut Regs, mask: u32, d: u32, [a, b, c]: [u32; 3], f: impl Fn(u32, u32) -> u64) {
    let (a, b, c) = (&g.r[a as usize], &g.r[b as usize], &g.x[c as usize]);
    let mut o = [0; 32];
    for i in 0..32 {
        o[i] = f(a[i], b[i]).wrapping_add(c[i]);
    }
    put(&mut g.x[d as usize], &o, mask);
}

#[inline(always)]
fn int32(g: &mut Regs, m: u32, op: IntOp, d: u32, a: u32, b: u32) {
    match op {
        IntOp::Add => g.w2(m, d, a, b, u32::wrapping_add),
        IntOp::AddSat => g.w2(m, d, a, b, |a, b| (a as i32).saturating_add(b as i32) as u32),
        IntOp::Sub => g.w2(m, d, a, b, u32::wrapping_sub),
        IntOp::SubSat => g.w2(m, d, a, b, |a, b| (a as i32).saturating_sub(b as i32) as u32),
        IntOp::Mul => g.w2(m, d, a, b, u32::wrapping_mul),
        IntOp::MulHiU => g.w2(m, d, a, b, |a, b| ((u64::from(a) * u64::from(b)) >> 32) as u32),
        IntOp::MulHiS => g.w2(m, d, a, b, |a, b| (mul_wide_s(a, b) >> 32) as u32),
        // Division by zero gives all ones, as the hardware's routine does.
        IntOp::DivU => g.w2(m, d, a, b, |a, b| a.checked_div(b).unwrap_or(u32::MAX)),
        IntOp::DivS => {
            g.w2(m, d, a, b, |a, b| if b == 0 { u32::MAX } else { (a as i32).wrapping_div(b as i32) as u32 })
        }
        IntOp::RemU => g.w2(m, d, a, b, |a, b| a.checked_rem(b).unwrap_or(a)),
        IntOp::RemS => g.w2(m, d, a, b, |a, b| if b == 0 { a } else { (a as i32).wrapping_rem(b as i32) as u32 }),
        IntOp::MinU => g.w2(m, d, a, b, u32::min),
        IntOp::MinS => g.w2(m, d, a, b, |a, b| (a as i32).min(b as i32) as u32),
        IntOp::MaxU => g.w2(m, d, a, b, u32::max),
        IntOp::MaxS => g.w2(m, d, a, b, |a, b| (a as i32).max(b as i32) as u32),
        IntOp::And => g.w2(m, d, a, b, |a, b| a & b),
        IntOp::Or => g.w2(m, d, a, b, |a, b| a | b),
        IntOp::Xor => g.w2(m, d, a, b, |a, b| a ^ b),
        IntOp::Shl => g.w2(m, d, a, b, |a, b| if b > 31 { 0 } else { a << b }),
        IntOp::ShrU => g.w2(m, d, a, b, |a, b| if b > 31 { 0 } else { a >> b }),
        IntOp::ShrS => g.w2(m, d, a, b, |a, b| ((a as i32) >> b.min(31)) as u32),
    }
}

/// One 64-bit operation.
#[inline(always)]
fn int64(g: &mut Regs, m: u32, op: IntOp, d: u32, a: u32, b: u32) {
    match op {
        IntOp::Add => g.x2(m, d, a, b, u64::wrapping_add),
        IntOp::Shl | IntOp::ShrU | IntOp::ShrS => {
            let (a, n) = (&g.x[a as usize], &g.r[b as usize]);
            let mut o = [0u64; 32];
            for i in 0..32 {
                o[i] = match op {
                    IntOp::Shl => a[i].checked_shl(n[i]).unwrap_or(0),
                    IntOp::ShrU => a[i].checked_shr(n[i]).unwrap_or(0),
                    _ => ((a[i] as i64) >> n[i].min(63)) as u64,
                };
            }
            put(&mut g.x[d as usize], &o, m);
        }
        _ => g.x2(m, d, a, b, |a, b| int64_lane(op, a, b)),
    }
}

#[inline(always)]
fn int64_lane(op: IntOp, a: u64, b: u64) -> u64 {
    let (sa, sb) = (a as i64, b as i64);
    match op {
        IntOp::Add => a.wrapping_add(b),
        IntOp::AddSat => sa.saturating_add(sb) as u64,
        IntOp::Sub => a.wrapping_sub(b),
        IntOp::SubSat => sa.saturating_sub(sb) as u64,
        IntOp::Mul => a.wrapping_mul(b),
        IntOp::MulHiU => ((u128::from(a) * u128::from(b)) >> 64) as u64,
        IntOp::MulHiS => ((i128::from(sa) * i128::from(sb)) >> 64) as u64,
        IntOp::DivU => a.checked_div(b).unwrap_or(u64::MAX),
        IntOp::DivS if b == 0 => u64::MAX,
        IntOp::DivS => sa.wrapping_div(sb) as u64,
        IntOp::RemU => a.checked_rem(b).unwrap_or(a),
        IntOp::RemS if b == 0 => a,
        IntOp::RemS => sa.wrapping_rem(sb) as u64,
        IntOp::MinU => a.min(b),
        IntOp::MinS => sa.min(sb) as u64,
        IntOp::MaxU => a.max(b),
        IntOp::MaxS => sa.max(sb) as u64,
        IntOp::And => a & b,
        IntOp::Or => a | b,
        IntOp::Xor => a ^ b,
        IntOp::Shl => a.checked_shl(b as u32).unwrap_or(0),
        IntOp::ShrU => a.checked_shr(b as u32).unwrap_or(0),
        IntOp::ShrS => (sa >> b.min(63)) as u64,
    }
}

#[inline(always)]
fn bfe32(signed: bool, a: u32, pos: u32, len: u32) -> u32 {
    crate::exec::slow::bfe(signed, 32, if signed { i64::from(a as i32) as u64 } else { u64::from(a) }, pos, len) as u32
}

#[inline(always)]
fn prmt(a: u32, b: u32, sel: u32) -> u32 {
    let v = u64::from(b) << 32 | u64::from(a);
    let mut r = 0;
    for i in 0..4 {
        let s = sel >> (4 * i);
        let byte = (v >> (8 * (s & 7))) as u8;
        let byte = if s & 8 != 0 { if byte & 0x80 != 0 { 0xff } else { 0 } } else { byte };
        r |= u32::from(byte) << (8 * i);
    }
    r
}

#[inline(always)]
fn cmp32<T: PartialOrd>(g: &mut Regs, m: u32, c: Cmp, p: u32, a: u32, b: u32, as_: impl Fn(u32) -> T) {
    match c {
        Cmp::Eq | Cmp::Equ => g.compare(m, p, a, b, |a, b| a == b),
        Cmp::Ne | Cmp::Neu => g.compare(m, p, a, b, |a, b| a != b),
        Cmp::Lt | Cmp::Ltu => g.compare(m, p, a, b, |a, b| as_(a) < as_(b)),
        Cmp::Le | Cmp::Leu => g.compare(m, p, a, b, |a, b| as_(a) <= as_(b)),
        Cmp::Gt | Cmp::Gtu => g.compare(m, p, a, b, |a, b| as_(a) > as_(b)),
        Cmp::Ge | Cmp::Geu => g.compare(m, p, a, b, |a, b| as_(a) >= as_(b)),
        Cmp::Num => g.set_pred(p, u32::MAX, m),
        Cmp::Nan => g.set_pred(p, 0, m),
    }
}

#[inline(always)]
fn cmp_f32(g: &mut Regs, mask: u32, c: Cmp, p: u32, a: u32, b: u32) {
    let (a, b) = (&g.r[a as usize], &g.r[b as usize]);
    let f = |i: usize| (f32::from_bits(a[i]), f32::from_bits(b[i]));
    let v = match c {
        Cmp::Eq => mask_of(|i| f(i).0 == f(i).1),
        Cmp::Ne => mask_of(|i| f(i).0 < f(i).1 || f(i).0 > f(i).1),
        Cmp::Lt => mask_of(|i| f(i).0 < f(i).1),
        Cmp::Le => mask_of(|i| f(i).0 <= f(i).1),
        Cmp::Gt => mask_of(|i| f(i).0 > f(i).1),
        Cmp::Ge => mask_of(|i| f(i).0 >= f(i).1),
        Cmp::Equ => !mask_of(|i| f(i).0 < f(i).1 || f(i).0 > f(i).1),
        Cmp::Neu => !mask_of(|i| f(i).0 == f(i).1),
        Cmp::Ltu => !mask_of(|i| f(i).0 >= f(i).1),
        Cmp::Leu => !mask_of(|i| f(i).0 > f(i).1),
        Cmp::Gtu => !mask_of(|i| f(i).0 <= f(i).1),
        Cmp::Geu => !mask_of(|i| f(i).0 < f(i).1),
        Cmp::Num => !mask_of(|i| f(i).0.is_nan() || f(i).1.is_nan()),
        Cmp::Nan => mask_of(|i| f(i).0.is_nan() || f(i).1.is_nan()),
    };
    g.set_pred(p, v, mask);
}
