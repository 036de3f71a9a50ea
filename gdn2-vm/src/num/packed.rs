//! Integers that share a word: pairs of 16 bits, dot products of bytes, and minima and maxima that stop at zero.

use crate::isa::operators::PackedOp;

/// A two-operand operation on packed integers.
pub(crate) fn binary(op: PackedOp, a: u32, b: u32) -> u32 {
    match op {
        PackedOp::Add16 => pairs(a, b, u16::wrapping_add),
        PackedOp::MinU16 => pairs(a, b, u16::min),
        PackedOp::MaxU16 => pairs(a, b, u16::max),
        PackedOp::MinS16 => signed_pairs(a, b, i16::min),
        PackedOp::MaxS16 => signed_pairs(a, b, i16::max),
        PackedOp::MinS16Relu => signed_pairs(a, b, |a, b| a.min(b).max(0)),
        PackedOp::MaxS16Relu => signed_pairs(a, b, |a, b| a.max(b).max(0)),
        PackedOp::MinS32Relu => (a as i32).min(b as i32).max(0) as u32,
        PackedOp::MaxS32Relu => (a as i32).max(b as i32).max(0) as u32,
    }
}

fn pairs(a: u32, b: u32, f: impl Fn(u16, u16) -> u16) -> u32 {
    u32::from(f(a as u16, b as u16)) | u32::from(f((a >> 16) as u16, (b >> 16) as u16)) << 16
}

fn signed_pairs(a: u32, b: u32, f: impl Fn(i16, i16) -> i16) -> u32 {
    pairs(a, b, |a, b| f(a as i16, b as i16) as u16)
}

/// Byte `k`, with its sign or without.
fn byte(v: u32, k: u32, signed: bool) -> i32 {
    let v = (v >> (8 * k)) as u8;
    if signed { i32::from(v as i8) } else { i32::from(v) }
}

/// Dot product of four bytes, added to `c`; whether a and b are signed.
pub(crate) fn dp4a([sa, sb]: [bool; 2], [a, b, c]: [u32; 3]) -> u32 {
    (0..4).fold(c, |c, k| c.wrapping_add((byte(a, k, sa) * byte(b, k, sb)) as u32))
}

/// Dot product of the two halves of a and the low or high two bytes of b, added to `c`.
pub(crate) fn dp2a(high: bool, [sa, sb]: [bool; 2], [a, b, c]: [u32; 3]) -> u32 {
    (0..2).fold(c, |c, k| {
        let half = (a >> (16 * k)) as u16;
        let half = if sa { i32::from(half as i16) } else { i32::from(half) };
        c.wrapping_add(half.wrapping_mul(byte(b, k + 2 * u32::from(high), sb)) as u32)
    })
}
