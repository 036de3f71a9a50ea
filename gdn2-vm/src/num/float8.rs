//! Floats of at most 8 bits: e4m3 (no infinities, one NaN of each sign), e5m2 (the upper half of an f16), and those of 6
//! and 4 bits, all of whose values are numbers. PTX ISA, "Alternate Floating-Point Data Formats".

use crate::isa::operators::Mode;
use crate::num::{Type, to_half};

/// A format by its layout.
struct Small {
    /// Bits of the whole.
    bits: u32,
    mantissa: i32,
    /// The smallest exponent of a normal number; subnormals share it.
    lowest: i32,
    /// Bits of the largest number.
    most: u32,
    /// Bits of NaN; numbers that are none become the largest where there is none.
    nan: Option<u32>,
}

const fn format(ty: Type) -> Small {
    match ty {
        Type::E5m2 => Small { bits: 8, mantissa: 2, lowest: -14, most: 0x7b, nan: Some(0x7f) },
        Type::E3m2 => Small { bits: 6, mantissa: 2, lowest: -2, most: 0x1f, nan: None },
        Type::E2m3 => Small { bits: 6, mantissa: 3, lowest: 0, most: 0x1f, nan: None },
        Type::E2m1 => Small { bits: 4, mantissa: 1, lowest: 0, most: 0x7, nan: None },
        _ => Small { bits: 8, mantissa: 3, lowest: -6, most: 0x7e, nan: Some(0x7f) },
    }
}

/// The value of a number of `ty` at the bottom of a word.
pub(crate) fn value(word: u32, ty: Type) -> f32 {
    let Small { bits, mantissa, lowest, most, nan } = format(ty);
    let sign = word >> (bits - 1) & 1 != 0;
    let size = word & ((1 << (bits - 1)) - 1);
    let (field, fraction) = ((size >> mantissa) as i32, size & ((1 << mantissa) - 1));
    let leading = if field == 0 { 0 } else { 1 << mantissa };
    let value = match size {
        _ if size <= most => (fraction + leading) as f32 * 2f32.powi(field.max(1) - 1 + lowest - mantissa),
        // Of e5m2 alone there is something between the largest number and its NaNs.
        _ if nan.is_some() && size == most + 1 && ty == Type::E5m2 => f32::INFINITY,
        _ => f32::NAN,
    };
    if sign { -value } else { value }
}

/// The nearest number of `ty`; what is beyond the largest saturates, as `.satfinite` asks and the conversions demand.
pub(crate) fn bits(x: f64, ty: Type, mode: Mode) -> u32 {
    let x = if mode.relu && x < 0.0 { 0.0 } else { x };
    let Small { bits, mantissa, lowest, most, nan } = format(ty);
    if x.is_nan() {
        return nan.unwrap_or(most);
    }
    let sign = u32::from(x.is_sign_negative()) << (bits - 1);
    sign | nearest(x.abs().min(value(most, ty).into()), mantissa, lowest)
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

/// How far the second number of a pair lies above the first.
pub(crate) const fn apart(ty: Type) -> u32 {
    if matches!(ty, Type::E2m1) { 4 } else { 8 }
}

/// A pair as a pair of f16; the low one stays low.
pub(crate) fn to_f16x2(pair: u32, ty: Type, mode: Mode) -> u32 {
    let one = |word: u32| {
        let v = f64::from(value(word, ty));
        to_half(if mode.relu && v < 0.0 { 0.0 } else { v }, Type::F16, mode.round)
    };
    one(pair) | one(pair >> apart(ty)) << 16
}
