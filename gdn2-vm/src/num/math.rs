//! The approximate functions. Hardware is within about two units in the last place; these are at least as near.

use crate::num::{NAN32, flush};

/// Coefficients of 2^f on [-0.5, 0.5], from the sixth power down: (2^f - 1) / f interpolated at six Chebyshev nodes.
const EX2: [f32; 6] = [1.545_316_3e-4, 1.339_086_3e-3, 9.618_083e-3, 5.550_357e-2, 2.402_265e-1, 6.931_472e-1];

/// 2^x; exact at integers; vectorises.
#[inline(always)]
pub(crate) fn ex2(x: f32) -> f32 {
    // Outside, the result is infinite or zero anyway.
    let c = if x > 129.0 { 129.0 } else { x };
    let c = if c < -151.0 { -151.0 } else { c };
    // Adding 1.5 * 2^23 leaves the nearest integer in the low bits.
    let magic = 12_582_912.0f32;
    let t = c + magic;
    let n = t.to_bits().wrapping_sub(magic.to_bits()) as i32;
    let f = c - (t - magic);
    let mut p = EX2[0];
    let mut i = 1;
    while i < 6 {
        p = p * f + EX2[i];
        i += 1;
    }
    let p = p * f + 1.0;
    let half = n >> 1;
    let s1 = f32::from_bits(((half + 127) as u32) << 23);
    let s2 = f32::from_bits(((n - half + 127) as u32) << 23);
    let r = p * s1 * s2;
    if x.is_nan() { f32::from_bits(NAN32) } else { r }
}

/// The other unary approximations, through double precision and one rounding.
pub(crate) fn through_double(x: f32, f: fn(f64) -> f64) -> f32 {
    let r = f(f64::from(x)) as f32;
    if r.is_nan() { f32::from_bits(NAN32) } else { r }
}

/// 1/sqrt(x), rounded once.
pub(crate) fn rsqrt(x: f64) -> f64 {
    1.0 / x.sqrt()
}

/// 1/x, rounded once.
pub(crate) fn rcp(x: f64) -> f64 {
    1.0 / x
}

/// min or max with PTX's rules: a NaN loses (or wins, `nan`), and -0 < +0.
pub(crate) fn extreme(a: f64, b: f64, max: bool, nan: bool) -> f64 {
    if a.is_nan() || b.is_nan() {
        return if nan || (a.is_nan() && b.is_nan()) {
            f64::NAN
        } else if a.is_nan() {
            b
        } else {
            a
        };
    }
    if a == b {
        return if a.is_sign_negative() == max { b } else { a };
    }
    if (a < b) != max { a } else { b }
}

/// Flushes when asked.
#[inline(always)]
pub(crate) fn ftz(x: f32, on: bool) -> f32 {
    if on { flush(x) } else { x }
}
