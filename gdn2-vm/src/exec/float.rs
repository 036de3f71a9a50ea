//! Scalar floating-point operations with PTX's rounding, flushing and NaN rules.

use crate::isa::inst::{FloatOp, FloatUnary, Mode, Round};
use crate::num::math::{self, extreme, ftz, rcp, rsqrt, through_double};
use crate::num::{NAN32, Type, finish, fma32, from_half, to_f32, to_half, two_sum};

fn bits(x: f32) -> u32 {
    if x.is_nan() { NAN32 } else { x.to_bits() }
}

/// Quotient and the exact sign of what it lost.
fn divide(a: f32, b: f32, round: Round) -> f32 {
    let (a, b) = (f64::from(a), f64::from(b));
    let q = a / b;
    if !q.is_finite() || q == 0.0 || round == Round::Nearest {
        // A double quotient of two floats rounds once more without harm: 53 >= 2 * 24 + 2.
        return q as f32;
    }
    let rest = (-q).mul_add(b, a) / b;
    to_f32(q, rest, round)
}

/// A two-operand f32 operation.
pub(crate) fn single(op: FloatOp, mode: Mode, a: u32, b: u32) -> u32 {
    if op == FloatOp::CopySign {
        return (a & 0x8000_0000) | (b & 0x7fff_ffff);
    }
    if mode.xorsign {
        let size = single(op, Mode { xorsign: false, ..mode }, a & 0x7fff_ffff, b & 0x7fff_ffff);
        return if size == NAN32 { size } else { size | (a ^ b) & 0x8000_0000 };
    }
    let (a, b) = (ftz(f32::from_bits(a), mode.ftz), ftz(f32::from_bits(b), mode.ftz));
    let r = match op {
        FloatOp::Add => sum(a, b, mode.round),
        FloatOp::Sub => sum(a, -b, mode.round),
        FloatOp::Mul => to_f32(f64::from(a) * f64::from(b), 0.0, mode.round),
        FloatOp::Div => divide(a, b, mode.round),
        FloatOp::DivApprox if b.is_finite() && b.abs() > 2f32.powi(126) => {
            if !a.is_finite() {
                f32::NAN
            } else {
                0f32.copysign(a * b.signum())
            }
        }
        FloatOp::DivApprox => divide(a, b, mode.round),
        FloatOp::Min => extreme(a.into(), b.into(), false, false) as f32,
        FloatOp::Max => extreme(a.into(), b.into(), true, false) as f32,
        FloatOp::MinNan => extreme(a.into(), b.into(), false, true) as f32,
        FloatOp::MaxNan => extreme(a.into(), b.into(), true, true) as f32,
        FloatOp::CopySign => a,
    };
    bits(finish(r, mode))
}

fn sum(a: f32, b: f32, round: Round) -> f32 {
    if round == Round::Nearest { a + b } else { fma32(a, 1.0, b, round) }
}

/// A one-operand f32 operation.
pub(crate) fn single_unary(op: FloatUnary, mode: Mode, a: u32) -> u32 {
    match op {
        // Sign operations keep a NaN's bits but for the flush.
        FloatUnary::Neg => return ftz(f32::from_bits(a ^ 0x8000_0000), mode.ftz).to_bits(),
        FloatUnary::Abs => return ftz(f32::from_bits(a & 0x7fff_ffff), mode.ftz).to_bits(),
        _ => {}
    }
    let x = ftz(f32::from_bits(a), mode.ftz);
    let r = match op {
        FloatUnary::Rcp => divide(1.0, x, mode.round),
        FloatUnary::Sqrt => root(x, mode.round),
        FloatUnary::Rsqrt => through_double(x, rsqrt),
        FloatUnary::Ex2 => math::ex2(x),
        FloatUnary::Lg2 => through_double(x, f64::log2),
        FloatUnary::Sin => through_double(x, f64::sin),
        FloatUnary::Cos => through_double(x, f64::cos),
        _ => through_double(x, f64::tanh),
    };
    bits(finish(r, mode))
}

fn root(x: f32, round: Round) -> f32 {
    let r = f64::from(x).sqrt();
    if round == Round::Nearest || !r.is_finite() || r == 0.0 {
        return r as f32;
    }
    to_f32(r, (-r).mul_add(r, f64::from(x)), round)
}

/// A two-operand f64 operation.
pub(crate) fn double(op: FloatOp, a: f64, b: f64) -> f64 {
    match op {
        FloatOp::Add => a + b,
        FloatOp::Sub => a - b,
        FloatOp::Mul => a * b,
        FloatOp::Div | FloatOp::DivApprox => a / b,
        FloatOp::Min | FloatOp::MinNan => extreme(a, b, false, op == FloatOp::MinNan),
        FloatOp::Max | FloatOp::MaxNan => extreme(a, b, true, op == FloatOp::MaxNan),
        FloatOp::CopySign => b.copysign(a),
    }
}

/// A one-operand f64 operation.
pub(crate) fn double_unary(op: FloatUnary, a: f64) -> f64 {
    match op {
        FloatUnary::Neg => -a,
        FloatUnary::Abs => a.abs(),
        FloatUnary::Rcp => rcp(a),
        FloatUnary::Sqrt => a.sqrt(),
        FloatUnary::Rsqrt => rsqrt(a),
        FloatUnary::Ex2 => a.exp2(),
        FloatUnary::Lg2 => a.log2(),
        FloatUnary::Sin => a.sin(),
        FloatUnary::Cos => a.cos(),
        FloatUnary::Tanh => a.tanh(),
    }
}

/// `rcp.approx.ftz.f64` and `rsqrt.approx.ftz.f64`: from the high word to the high word.
pub(crate) fn double_approx(op: FloatUnary, a: u64) -> u64 {
    let high = |x: f64| x.to_bits() & 0xffff_ffff_0000_0000;
    let flushed = |x: f64| if x.is_subnormal() { 0f64.copysign(x) } else { x };
    high(flushed(double_unary(op, flushed(f64::from_bits(high(f64::from_bits(a)))))))
}

fn finish_half(x: f64, ty: Type, mode: Mode) -> u32 {
    let x = if mode.sat {
        if x > 0.0 { x.min(1.0) } else { 0.0 }
    } else if mode.relu && x < 0.0 {
        0.0
    } else {
        x
    };
    flush_half(to_half(x, ty, mode.round), ty, mode.ftz)
}

pub(crate) fn flush_half(v: u32, ty: Type, on: bool) -> u32 {
    let smallest = if matches!(ty, Type::F16 | Type::F16x2) { 0x400 } else { 0x80 };
    if on && v & 0x7fff < smallest { v & 0x8000 } else { v }
}

fn value(v: u32, ty: Type, mode: Mode) -> f64 {
    f64::from(from_half(flush_half(v & 0xffff, ty, mode.ftz), ty))
}

/// A two-operand half operation on the low 16 bits of each.
pub(crate) fn half(op: FloatOp, ty: Type, mode: Mode, v: [u32; 2]) -> u32 {
    if mode.xorsign {
        let size = half(op, ty, Mode { xorsign: false, ..mode }, v.map(|v| v & 0x7fff));
        return if size == 0x7fff { size } else { size | (v[0] ^ v[1]) & 0x8000 };
    }
    let [a, b] = v.map(|v| value(v, ty, mode));
    // Products of halves fit a double; a sum of far-apart bf16s may not, so its remainder is kept.
    let r = match op {
        FloatOp::Add => odd(two_sum(a, b)),
        FloatOp::Sub => odd(two_sum(a, -b)),
        FloatOp::Mul => a * b,
        FloatOp::Min => extreme(a, b, false, false),
        FloatOp::Max => extreme(a, b, true, false),
        FloatOp::MinNan => extreme(a, b, false, true),
        FloatOp::MaxNan => extreme(a, b, true, true),
        FloatOp::Div | FloatOp::DivApprox => a / b,
        FloatOp::CopySign => b.copysign(a),
    };
    finish_half(r, ty, mode)
}

/// Folds an exact remainder into the last bit, so that a later rounding sees it.
fn odd((s, e): (f64, f64)) -> f64 {
    if e == 0.0 || !s.is_finite() || e.is_nan() || s.to_bits() & 1 == 1 {
        return s;
    }
    f64::from_bits(if (e > 0.0) == (s > 0.0) { s.to_bits() | 1 } else { s.to_bits() - 1 })
}

/// A fused multiply-add of halves, rounded once.
pub(crate) fn half_fma(ty: Type, mode: Mode, v: [u32; 3]) -> u32 {
    let [a, b, c] = v.map(|v| value(v, ty, mode));
    finish_half(odd(two_sum(a * b, c)), ty, mode)
}

/// A one-operand half operation.
pub(crate) fn half_unary(op: FloatUnary, ty: Type, mode: Mode, v: u32) -> u32 {
    match op {
        FloatUnary::Neg => flush_half((v ^ 0x8000) & 0xffff, ty, mode.ftz),
        FloatUnary::Abs => flush_half(v & 0x7fff, ty, mode.ftz),
        _ => finish_half(double_unary(op, value(v, ty, mode)), ty, mode),
    }
}
