//! The 8-bit floats: e4m3 (no infinities, one NaN of each sign) and e5m2 (the upper half of an f16).

use crate::isa::operators::Mode;
use crate::num::{Type, from_f16, to_half};

/// Largest finite e4m3.
const E4M3_MAX: f64 = 448.0;
const E4M3_NAN: u32 = 0x7f;
/// Largest finite e5m2.
const E5M2_MAX: f64 = 57344.0;
const E5M2_MAX_BITS: u32 = 0x7b;
const E5M2_NAN: u32 = 0x7f;

/// The value of a byte of `ty`.
pub(crate) fn value(byte: u32, ty: Type) -> f32 {
    let byte = byte & 0xff;
    if ty == Type::E5m2 {
        return from_f16(byte << 8);
    }
    if byte & 0x7f == E4M3_NAN {
        return f32::NAN;
    }
    // As an f16 of the same bits the exponent's bias is 15, not 7.
    from_f16((byte & 0x80) << 8 | (byte & 0x7f) << 7) * 256.0
}

/// The nearest byte of `ty`; what is beyond the largest number saturates, as `.satfinite` asks and the conversions demand.
pub(crate) fn bits(x: f64, ty: Type, mode: Mode) -> u32 {
    let x = if mode.relu && x < 0.0 { 0.0 } else { x };
    let sign = u32::from(x.is_sign_negative()) << 7;
    let size = x.abs();
    if ty == Type::E5m2 {
        if x.is_nan() {
            return E5M2_NAN;
        }
        if size >= E5M2_MAX {
            return sign | E5M2_MAX_BITS;
        }
        return sign | nearest(size, 2, -14);
    }
    if x.is_nan() {
        return E4M3_NAN;
    }
    sign | nearest(size.min(E4M3_MAX), 3, -6)
}

/// Magnitude bits of a number in range: `mantissa` bits below the leading one, `lowest` the smallest normal exponent.
fn nearest(size: f64, mantissa: i32, lowest: i32) -> u32 {
    if size == 0.0 {
        return 0;
    }
    let exponent = (((size.to_bits() >> 52) & 0x7ff) as i32 - 1023).max(lowest);
    let steps = (size / 2f64.powi(exponent - mantissa)).round_ties_even() as u32;
    // Steps of a normal carry the leading one into the exponent.
    steps + (((exponent - lowest) as u32) << mantissa)
}

/// A pair of bytes as a pair of f16; the low byte stays low.
pub(crate) fn to_f16x2(pair: u32, ty: Type, mode: Mode) -> u32 {
    let one = |byte: u32| {
        let v = f64::from(value(byte, ty));
        to_half(if mode.relu && v < 0.0 { 0.0 } else { v }, Type::F16, mode.round)
    };
    one(pair) | one(pair >> 8) << 16
}
