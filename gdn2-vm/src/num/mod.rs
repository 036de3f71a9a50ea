//! Scalar types of PTX and the exact conversions between them: rounding, saturation, flushing.

pub(crate) mod directed;
pub(crate) mod float8;
pub(crate) mod math;
pub(crate) mod packed;
pub(crate) mod video;
pub(crate) mod words;

use crate::isa::operators::{Mode, Round};

/// A PTX scalar (or packed pair) type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Pred,
    B8,
    U8,
    S8,
    B16,
    U16,
    S16,
    B32,
    U32,
    S32,
    B64,
    U64,
    S64,
    F16,
    Bf16,
    F16x2,
    Bf16x2,
    F32,
    Tf32,
    F64,
    /// Pairs of f32 in 64 bits.
    F32x2,
    /// Pairs of 16-bit integers.
    U16x2,
    S16x2,
    /// 8-bit floats, and pairs of them in 16 bits: only conversions and matrix products know them.
    E4m3,
    E5m2,
    E4m3x2,
    E5m2x2,
    /// Floats of 4 and 6 bits, in a byte each (the pair of four bits in one), for conversions alone.
    E2m1,
    E2m3,
    E3m2,
    E2m1x2,
    E2m3x2,
    E3m2x2,
    /// Integers of 4 bits and single bits, eight and 32 to a register: only matrix products know them.
    S4,
    U4,
    B1,
}

impl Type {
    pub(crate) fn parse(s: &str) -> Option<Self> {
        use Type::*;
        Some(match s {
            "pred" => Pred,
            "b8" => B8,
            "u8" => U8,
            "s8" => S8,
            "b16" => B16,
            "u16" => U16,
            "s16" => S16,
            "b32" => B32,
            "u32" => U32,
            "s32" => S32,
            "b64" => B64,
            "u64" => U64,
            "s64" => S64,
            "f16" => F16,
            "bf16" => Bf16,
            "f16x2" => F16x2,
            "bf16x2" => Bf16x2,
            "f32" => F32,
            "tf32" => Tf32,
            "f64" => F64,
            "f32x2" => F32x2,
            "u16x2" => U16x2,
            "s16x2" => S16x2,
            "e4m3" => E4m3,
            "e5m2" => E5m2,
            "e4m3x2" => E4m3x2,
            "e5m2x2" => E5m2x2,
            "e2m1" => E2m1,
            "e2m3" => E2m3,
            "e3m2" => E3m2,
            "e2m1x2" => E2m1x2,
            "e2m3x2" => E2m3x2,
            "e3m2x2" => E3m2x2,
            "s4" => S4,
            "u4" => U4,
            "b1" => B1,
            _ => return None,
        })
    }

    pub(crate) fn bytes(self) -> u8 {
        use Type::*;
        match self {
            Pred | B8 | U8 | S8 | E4m3 | E5m2 | E2m1 | E2m3 | E3m2 | E2m1x2 | S4 | U4 | B1 => 1,
            B16 | U16 | S16 | F16 | Bf16 | E4m3x2 | E5m2x2 | E2m3x2 | E3m2x2 => 2,
            B32 | U32 | S32 | F16x2 | Bf16x2 | F32 | Tf32 | U16x2 | S16x2 => 4,
            B64 | U64 | S64 | F64 | F32x2 => 8,
        }
    }

    pub(crate) fn signed(self) -> bool {
        matches!(self, Type::S8 | Type::S16 | Type::S32 | Type::S64)
    }

    pub(crate) fn float(self) -> bool {
        use Type::*;
        matches!(self, F16 | Bf16 | F16x2 | Bf16x2 | F32 | Tf32 | F64 | F32x2) || self.small_float()
    }

    /// Of floats of at most 8 bits.
    pub(crate) fn small_float(self) -> bool {
        use Type::*;
        matches!(self, E4m3 | E5m2 | E4m3x2 | E5m2x2 | E2m1 | E2m3 | E3m2 | E2m1x2 | E2m3x2 | E3m2x2)
    }

    /// Whether memory and registers hold values of this type: small floats and less than a byte only their own
    /// instructions read.
    pub(crate) fn stored(self) -> bool {
        !self.small_float() && !matches!(self, Type::S4 | Type::U4 | Type::B1)
    }

    pub(crate) fn packed(self) -> bool {
        matches!(self, Type::F16x2 | Type::Bf16x2)
    }
}

/// Significand bits (with the hidden one), lowest normal exponent, highest exponent.
struct Format {
    bits: i32,
    min: i32,
    max: i32,
}

const F16: Format = Format { bits: 11, min: -14, max: 15 };
const BF16: Format = Format { bits: 8, min: -126, max: 127 };
const TF32: Format = Format { bits: 11, min: -126, max: 127 };
const F32: Format = Format { bits: 24, min: -126, max: 127 };

fn format(ty: Type) -> Format {
    match ty {
        Type::F16 | Type::F16x2 => F16,
        Type::Bf16 | Type::Bf16x2 => BF16,
        Type::Tf32 => TF32,
        _ => F32,
    }
}

/// 2^e for any e a float of ours needs.
pub(crate) fn exp2i(e: i32) -> f64 {
    f64::from_bits(((e + 1023) as u64) << 52)
}

/// Rounds a finite double to the format; the result is exact in a double. Overflow gives infinity or the largest.
fn round_to(x: f64, f: &Format, round: Round) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let e = (((x.to_bits() >> 52) & 0x7ff) as i32 - 1023).max(f.min);
    let ulp = exp2i(e - f.bits + 1);
    let scaled = x / ulp;
    let r = match round {
        Round::Nearest => scaled.round_ties_even(),
        Round::Zero => scaled.trunc(),
        Round::Down => scaled.floor(),
        Round::Up => scaled.ceil(),
        Round::Away => scaled.round(),
    } * ulp;
    let r = if r == 0.0 { 0.0f64.copysign(x) } else { r };
    let limit = (2.0 - exp2i(1 - f.bits)) * exp2i(f.max);
    if r.abs() > limit {
        let to_inf = match round {
            Round::Nearest | Round::Away => true,
            Round::Zero => false,
            Round::Down => x < 0.0,
            Round::Up => x > 0.0,
        };
        return if to_inf { f64::INFINITY.copysign(x) } else { limit.copysign(x) };
    }
    r
}

/// The bits of a double rounded to a 16-bit format; NaN is the canonical 0x7fff.
pub(crate) fn to_half(x: f64, ty: Type, round: Round) -> u32 {
    if x.is_nan() {
        return 0x7fff;
    }
    let f = format(ty);
    let r = round_to(x, &f, round);
    let bits = (r as f32).to_bits();
    if matches!(ty, Type::Bf16 | Type::Bf16x2) {
        return bits >> 16;
    }
    let sign = (bits >> 16) & 0x8000;
    let a = r.abs();
    if a == f64::INFINITY {
        return sign | 0x7c00;
    }
    if a < exp2i(-14) {
        return sign | (a / exp2i(-24)) as u32;
    }
    let e = (bits >> 23) & 0xff;
    sign | ((e - 112) << 10) | ((bits >> 13) & 0x3ff)
}

/// The value of a 16-bit float.
pub(crate) fn from_half(bits: u32, ty: Type) -> f32 {
    if matches!(ty, Type::Bf16 | Type::Bf16x2) {
        return f32::from_bits(bits << 16);
    }
    from_f16(bits)
}

/// The value of an f16, exactly.
#[inline(always)]
pub(crate) fn from_f16(bits: u32) -> f32 {
    let sign = (bits & 0x8000) << 16;
    let rest = bits & 0x7fff;
    if rest >= 0x7c00 {
        return f32::from_bits(sign | 0x7f80_0000 | ((rest & 0x3ff) << 13));
    }
    // Scaling by 2^112 moves the exponent bias and makes subnormals right.
    let v = f32::from_bits(rest << 13) * f32::from_bits((112 + 127) << 23);
    f32::from_bits(v.to_bits() | sign)
}

/// Nearest bf16 of an f32; NaN is 0x7fff.
#[inline(always)]
pub(crate) fn bf16_bits(x: f32) -> u32 {
    let b = x.to_bits();
    if x.is_nan() { 0x7fff } else { b.wrapping_add(0x7fff + ((b >> 16) & 1)) >> 16 }
}

/// Nearest f16 of an f32; NaN is 0x7fff.
#[inline(always)]
pub(crate) fn f16_bits(x: f32) -> u32 {
    let sign = (x.to_bits() >> 16) & 0x8000;
    let a = x.to_bits() & 0x7fff_ffff;
    // Adding 0.5 leaves multiples of 2^-24, the step of f16's subnormals, in the low bits.
    let small = (f32::from_bits(a) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let normal = a.wrapping_add(0xfff + ((a >> 13) & 1)).wrapping_sub(0x3800_0000) >> 13;
    let r = if a < 0x3880_0000 { small } else { normal };
    let r = if a >= 0x477f_f000 { 0x7c00 } else { r };
    if a > 0x7f80_0000 { 0x7fff } else { sign | r }
}

/// A double nearest to a number, and what it lost: the number rounded in a direction.
fn toward(x: f64, err: f64, round: Round) -> f64 {
    let down = match round {
        Round::Down => err < 0.0,
        Round::Zero => x > 0.0 && err < 0.0,
        Round::Up | Round::Nearest | Round::Away => false,
    };
    let up = match round {
        Round::Up => err > 0.0,
        Round::Zero => x < 0.0 && err > 0.0,
        Round::Down | Round::Nearest | Round::Away => false,
    };
    match (down, up) {
        (true, _) => x.next_down(),
        (_, true) => x.next_up(),
        _ => x,
    }
}

/// Folds what a double lost into a last bit that is odd, so that one more rounding sees it.
fn sticky(x: f64, err: f64) -> f64 {
    if !x.is_finite() || err.is_nan() {
        return x;
    }
    let mut bits = x.to_bits();
    if err != 0.0 && bits & 1 == 0 {
        if x == 0.0 {
            bits = f64::MIN_POSITIVE.copysign(err).to_bits();
        } else if (err > 0.0) == (x > 0.0) {
            bits |= 1;
        } else {
            bits -= 1;
        }
    }
    f64::from_bits(bits)
}

/// A double rounded to f32 in a direction, given what the double itself lost (`err`, exact remainder).
pub(crate) fn to_f32(x: f64, err: f64, round: Round) -> f32 {
    if !x.is_finite() || err.is_nan() {
        return x as f32;
    }
    round_to(sticky(x, err), &F32, round) as f32
}

/// Sum and its exact rounding error.
pub(crate) fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let s = a + b;
    let t = s - a;
    (s, (a - (s - t)) + (b - t))
}

/// A subnormal becomes a zero of its sign.
#[inline(always)]
pub(crate) fn flush(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { f32::from_bits(x.to_bits() & 0x8000_0000) } else { x }
}

/// Finishes an f32 result.
#[inline]
pub(crate) fn finish(x: f32, mode: Mode) -> f32 {
    let x = if mode.ftz { flush(x) } else { x };
    if mode.sat {
        // A NaN saturates to zero.
        if x > 0.0 { x.min(1.0) } else { 0.0 }
    } else if mode.relu {
        if x.is_nan() { x } else { x.max(0.0) }
    } else {
        x
    }
}

/// The one NaN the hardware produces for f32 results.
pub(crate) const NAN32: u32 = 0x7fff_ffff;

/// Fused multiply-add with one rounding.
#[inline]
pub(crate) fn fma32(a: f32, b: f32, c: f32, round: Round) -> f32 {
    let (s, e) = two_sum(f64::from(a) * f64::from(b), f64::from(c));
    if round == Round::Down && s == 0.0 && e == 0.0 && (a * b).is_sign_negative() != c.is_sign_negative() {
        return -0.0;
    }
    to_f32(s, e, round)
}

/// Integer bits of `ty` (zero-extended in 64) as a wide signed value.
pub(crate) fn int_value(bits: u64, ty: Type) -> i128 {
    match ty {
        Type::S8 => i128::from(bits as i8),
        Type::S16 => i128::from(bits as i16),
        Type::S32 => i128::from(bits as i32),
        Type::S64 => i128::from(bits as i64),
        Type::U8 | Type::B8 => i128::from(bits as u8),
        Type::U16 | Type::B16 => i128::from(bits as u16),
        Type::U32 | Type::B32 => i128::from(bits as u32),
        _ => i128::from(bits),
    }
}

fn int_range(ty: Type) -> (i128, i128) {
    let n = u32::from(ty.bytes()) * 8;
    if ty.signed() { (-(1i128 << (n - 1)), (1i128 << (n - 1)) - 1) } else { (0, (1i128 << n) - 1) }
}

/// Float bits of `ty` as a double, exactly.
pub(crate) fn float_value(bits: u64, ty: Type) -> f64 {
    match ty {
        Type::F64 => f64::from_bits(bits),
        Type::F16 | Type::Bf16 => f64::from(from_half(bits as u32, ty)),
        _ => f64::from(f32::from_bits(bits as u32)),
    }
}

/// `.satfinite`: the largest finite number of the format in place of what is beyond it.
pub(crate) fn within(x: f64, ty: Type, mode: Mode) -> f64 {
    let f = format(ty);
    let limit = (2.0 - exp2i(1 - f.bits)) * exp2i(f.max);
    if mode.finite { x.clamp(-limit, limit) } else { x }
}

/// The bits of a double (plus its lost remainder's sign in `err`) as a float of `ty`.
fn float_bits(x: f64, err: f64, ty: Type, mode: Mode) -> u64 {
    let mut x = x;
    if mode.sat {
        x = if x > 0.0 { x.min(1.0) } else { 0.0 };
    }
    if mode.relu && x < 0.0 {
        x = 0.0;
    }
    x = within(x, ty, mode);
    match ty {
        Type::F64 => toward(x, err, mode.round).to_bits(),
        Type::F16 | Type::Bf16 => u64::from(to_half(sticky(x, err), ty, mode.round)),
        Type::Tf32 => {
            let rounded = round_to(sticky(x, err), &TF32, mode.round) as f32;
            u64::from(if x.is_nan() { NAN32 } else { rounded.to_bits() })
        }
        _ if x.is_nan() => u64::from(NAN32),
        _ => {
            let f = to_f32(x, err, mode.round);
            u64::from((if mode.ftz { flush(f) } else { f }).to_bits())
        }
    }
}

/// `cvt`: bits of `from` to bits of `to`.
pub(crate) fn convert(bits: u64, from: Type, to: Type, mode: Mode) -> u64 {
    if from.float() {
        let mut x = float_value(bits, from);
        if mode.ftz && from == Type::F32 {
            x = f64::from(flush(x as f32));
        }
        if to.float() {
            if mode.integral {
                x = integral(x, mode.round);
            }
            return float_bits(
                x,
                0.0,
                to,
                Mode { round: if mode.integral { Round::Nearest } else { mode.round }, ..mode },
            );
        }
        let (lo, hi) = int_range(to);
        // PTX ISA, cvt: a NaN becomes zero where neither the source is f64 nor the destination has 64 bits.
        if x.is_nan() {
            return if to.bytes() == 8 || from == Type::F64 { 1 << (u32::from(to.bytes()) * 8 - 1) } else { 0 };
        }
        // `as` saturates; every limit of ours fits.
        return ((integral(x, mode.round) as i128).clamp(lo, hi)) as u64;
    }
    let v = int_value(bits, from);
    if to.float() {
        let x = v as f64;
        let err = (v - x as i128) as f64;
        return float_bits(x, err, to, mode);
    }
    if mode.sat {
        let (lo, hi) = int_range(to);
        return v.clamp(lo, hi) as u64;
    }
    v as u64
}

fn integral(x: f64, round: Round) -> f64 {
    match round {
        Round::Nearest => x.round_ties_even(),
        Round::Zero => x.trunc(),
        Round::Down => x.floor(),
        Round::Up => x.ceil(),
        Round::Away => x.round(),
    }
}
