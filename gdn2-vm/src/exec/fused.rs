//! Sums of products as matrix units make them, bit for bit: of a group of products and what they are added to, each is
//! aligned to the largest exponent among them and cut off below a fixed number of bits; the sum of what is left is exact,
//! and cut to the result's precision. Groups follow one another in order of k.
//!
//! Published models that were held against the hardware: Hawkeye (arXiv 2603.20421), MMA-Sim (arXiv 2511.10909) and
//! Khattak and Mikaitis (arXiv 2512.07004). They agree on what is here.

use crate::isa::inst::Factor;
use crate::isa::inst::Round;
use crate::num::{NAN32, Type, exp2i, from_f16, to_half};

/// Rows of A that a warp multiplies.
pub(crate) const ROWS: usize = 16;
/// Columns that are summed side by side.
const LANES: usize = 8;
/// The largest depth of one instruction.
pub(crate) const DEPTH: usize = 32;

/// The exponent of what is no number: above all others.
const NO_NUMBER: i32 = 1 << 10;
/// Largest exponents between which products, scaled by a power of two, are exact in f32.
const PLAIN: std::ops::RangeInclusive<i32> = -90..=120;

/// What a sum becomes at the end of each group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Becomes {
    /// f32 of that many bits below the leading one, cut off.
    F32(i32),
    /// The nearest f16.
    F16,
}

/// How one architecture sums one kind of product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unit {
    /// Products that meet at once.
    pub(crate) group: usize,
    /// Bits kept below the largest exponent.
    pub(crate) bits: i32,
    pub(crate) becomes: Becomes,
    /// Smallest exponents of A's and B's formats and of what is added to.
    pub(crate) lowest: [i32; 3],
}

/// The smallest exponent of a format: subnormal numbers share it.
fn lowest(ty: Type) -> i32 {
    match ty {
        Type::F16 | Type::E5m2 => -14,
        Type::E4m3 => -6,
        _ => -126,
    }
}

impl Unit {
    /// `mma` and `wmma` on compute capability `sm` / 10.
    pub(crate) fn warp(sm: u32, factors: [Type; 2], sum: Type) -> Self {
        let eight_bits = matches!(factors[0], Type::E4m3 | Type::E5m2);
        // Ampere and Ada take 16 bytes of a row at once, Hopper and Blackwell all of it.
        let early = sm < 90;
        let group = match factors[0] {
            _ if !early && !eight_bits => DEPTH,
            Type::Tf32 => 4,
            Type::F16 | Type::Bf16 => 8,
            // Hopper has no such instruction: its compiler converts to f16, in an order that nobody has published.
            _ if early || sm < 100 => 16,
            _ => DEPTH,
        };
        let bits = if early { 24 } else { 25 };
        Self::new(group, if eight_bits && early { 13 } else { bits }, factors, sum)
    }

    /// `wgmma`: the whole depth at once. Sums of 8-bit floats keep 13 bits.
    pub(crate) fn warpgroup(factors: [Type; 2], sum: Type) -> Self {
        let eight_bits = matches!(factors[0], Type::E4m3 | Type::E5m2);
        Self::new(DEPTH, if eight_bits { 13 } else { 25 }, factors, sum)
    }

    fn new(group: usize, bits: i32, factors: [Type; 2], sum: Type) -> Self {
        let becomes = if sum == Type::F16 { Becomes::F16 } else { Becomes::F32(bits.min(23)) };
        Self { group, bits, becomes, lowest: [lowest(factors[0]), lowest(factors[1]), lowest(sum)] }
    }
}

impl Factor {
    /// The type of its elements.
    pub(crate) fn ty(self) -> Type {
        match self {
            Factor::Bf16 => Type::Bf16,
            Factor::F16 => Type::F16,
            Factor::Tf32 => Type::Tf32,
        }
    }
}

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

/// Exponent of a number of a format whose smallest is `lowest`; zero has that of the smallest f32.
#[inline(always)]
fn exponent(v: f32, lowest: i32) -> i32 {
    let bits = v.to_bits() & 0x7fff_ffff;
    let of = (bits >> 23) as i32 - 127;
    let of = if of > lowest { of } else { lowest };
    let of = if bits == 0 { -126 } else { of };
    if bits >= 0x7f80_0000 { NO_NUMBER } else { of }
}

/// Adds the products of 16 rows of A, `depth` long, with `n` columns of B, a multiple of 8, to `sums`; all by rows.
#[inline(always)]
pub(crate) fn add<const FMA: bool>(unit: &Unit, a: &[f32], depth: usize, b: &[f32], n: usize, sums: &mut [f32]) {
    let mut own = [0; ROWS * DEPTH];
    for (own, a) in own.iter_mut().zip(a) {
        *own = exponent(*a, unit.lowest[0]);
    }
    let (mut tile, mut tops) = ([[0.0; LANES]; DEPTH], [[0; LANES]; DEPTH]);
    for first in (0..n).step_by(LANES) {
        for (k, row) in b.chunks_exact(n).take(DEPTH).enumerate() {
            tile[k].copy_from_slice(&row[first..first + LANES]);
            for l in 0..LANES {
                tops[k][l] = exponent(tile[k][l], unit.lowest[1]);
            }
        }
        let rows = a.chunks_exact(depth).zip(own.chunks_exact(depth)).zip(sums.chunks_exact_mut(n));
        for ((a, own), sums) in rows {
            let Some(sums) = sums[first..].first_chunk_mut() else { continue };
            for from in (0..depth).step_by(unit.group) {
                let k = from..(from + unit.group).min(depth);
                let part = Part { a: &a[k.clone()], own: &own[k.clone()], b: &tile[k.clone()], tops: &tops[k] };
                #[cfg(target_arch = "x86_64")]
                // SAFETY: `FMA` is true only in the levels with AVX2.
                if FMA && part.fits(unit) && unsafe { wide::group(unit, &part, sums) } {
                    continue;
                }
                group(unit, &part, sums);
            }
        }
    }
}

/// What meets at once: part of a row of A and of columns of B, with their exponents.
struct Part<'a> {
    a: &'a [f32],
    own: &'a [i32],
    b: &'a [[f32; LANES]],
    tops: &'a [[i32; LANES]],
}

impl Part<'_> {
    /// Whether `cut` takes its products: 16, or more where they come in fewer bits.
    fn fits(&self, unit: &Unit) -> bool {
        unit.becomes != Becomes::F16 && (self.a.len() <= 16 || unit.bits <= 13)
    }

    fn column(&self, l: usize) -> impl Iterator<Item = (f32, f32)> + Clone {
        self.a.iter().copied().zip(self.b.iter().map(move |b| b[l]))
    }
}

fn group(unit: &Unit, part: &Part<'_>, sums: &mut [f32; LANES]) {
    let mut top = sums.map(|sum| exponent(sum, unit.lowest[2]));
    for (tops, own) in part.tops.iter().zip(part.own) {
        for l in 0..LANES {
            top[l] = top[l].max(tops[l] + own);
        }
    }
    let high = top.iter().any(|top| top > PLAIN.end());
    let low = top.iter().any(|top| top < PLAIN.start());
    if high || low || !part.fits(unit) {
        for (l, sum) in sums.iter_mut().enumerate() {
            *sum = one(unit, part.column(l), *sum);
        }
        return;
    }
    let scale = top.map(|top| f32::from_bits(((unit.bits - top + 127) as u32) << 23));
    let mut whole = [0; LANES];
    for (a, b) in part.a.iter().zip(part.b) {
        for l in 0..LANES {
            whole[l] += cut(a * b[l] * scale[l]);
        }
    }
    let Becomes::F32(bits) = unit.becomes else { return };
    let below = !((1u64 << (52 - bits)) - 1);
    for l in 0..LANES {
        let back = exp2i(top[l] - unit.bits);
        let sum = (f64::from(whole[l]) + f64::from(cut(sums[l] * scale[l]))) * back;
        sums[l] = f64::from_bits(sum.to_bits() & below) as f32;
    }
}

/// A product or an addend, scaled, without its fraction: smaller than 4, the largest product of significands, times
/// 2^25. Sixteen of them are below 2^31.
#[inline(always)]
fn cut(scaled: f32) -> i32 {
    scaled as i32
}

/// One sum of any numbers.
#[cold]
pub(crate) fn one(unit: &Unit, factors: impl Iterator<Item = (f32, f32)> + Clone, start: f32) -> f32 {
    let products = factors.clone().map(|(a, b)| f64::from(a) * f64::from(b));
    let all = products.clone().fold(f64::from(start), |all, product| all + product);
    if !all.is_finite() {
        return if all.is_nan() { f32::from_bits(NAN32) } else { all as f32 };
    }
    let exponents = factors.map(|(a, b)| exponent(a, unit.lowest[0]) + exponent(b, unit.lowest[1]));
    let top = exponents.fold(exponent(start, unit.lowest[2]), i32::max);
    // Exact: 48 bits and 33 bits of numbers between 2^-298 and 2^260.
    let scale = exp2i(unit.bits - top);
    let terms = products.chain([f64::from(start)]).map(|term| (term * scale).trunc());
    // No sum is a negative zero.
    rounded(terms.fold(0.0, |sum, term| sum + term) / scale, unit.becomes)
}

fn rounded(sum: f64, to: Becomes) -> f32 {
    match to {
        Becomes::F16 => from_f16(to_half(sum, Type::F16, Round::Nearest)),
        Becomes::F32(bits) => {
            let exponent = (sum.to_bits() >> 52 & 0x7ff) as i32 - 1023;
            let step = exp2i(exponent.max(-126) - bits);
            ((sum / step).trunc() * step) as f32
        }
    }
}

/// The same of most groups, eight columns to a register.
#[cfg(target_arch = "x86_64")]
mod wide {
    use super::{Becomes, LANES, NO_NUMBER, PLAIN, Part, Unit};
    use std::arch::x86_64::*;

    /// As [`super::exponent`].
    #[target_feature(enable = "avx2")]
    fn exponent(v: __m256, lowest: i32) -> __m256i {
        let bits = _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7fff_ffff));
        let of = _mm256_sub_epi32(_mm256_srli_epi32::<23>(bits), _mm256_set1_epi32(127));
        let of = _mm256_max_epi32(of, _mm256_set1_epi32(lowest));
        let zero = _mm256_cmpeq_epi32(bits, _mm256_setzero_si256());
        let of = _mm256_blendv_epi8(of, _mm256_set1_epi32(-126), zero);
        let none = _mm256_cmpgt_epi32(bits, _mm256_set1_epi32(0x7f7f_ffff));
        _mm256_blendv_epi8(of, _mm256_set1_epi32(NO_NUMBER), none)
    }

    /// Whether a sum with an exponent too small for the scale is of more than zeros, in any lane.
    #[cold]
    #[target_feature(enable = "avx2")]
    fn tiny(part: &Part<'_>, start: __m256, top: __m256i) -> bool {
        let mut some = start;
        for (_, b) in part.a.iter().zip(part.b).filter(|(a, _)| **a != 0.0) {
            // SAFETY: eight elements of an array of eight.
            some = _mm256_or_ps(some, unsafe { _mm256_loadu_ps(b.as_ptr()) });
        }
        let low = _mm256_cmpgt_epi32(_mm256_set1_epi32(*PLAIN.start()), top);
        let low = _mm256_and_si256(low, _mm256_set1_epi32(0x7fff_ffff));
        _mm256_testz_si256(_mm256_castps_si256(some), low) == 0
    }

    /// Four sums: scaled products and addends together, scaled back, cut off.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn four(whole: __m128i, start: __m128i, back: __m128i, below: __m256i) -> __m128 {
        let sum = _mm256_add_pd(_mm256_cvtepi32_pd(whole), _mm256_cvtepi32_pd(start));
        let back = _mm256_slli_epi64::<52>(_mm256_cvtepi32_epi64(back));
        let sum = _mm256_mul_pd(sum, _mm256_castsi256_pd(back));
        _mm256_cvtpd_ps(_mm256_and_pd(sum, _mm256_castsi256_pd(below)))
    }

    /// Whether all exponents were in range; if not, nothing has changed.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn group(unit: &Unit, part: &Part<'_>, sums: &mut [f32; LANES]) -> bool {
        let Becomes::F32(bits) = unit.becomes else { return false };
        // SAFETY: eight elements of an array of eight, here and below.
        let start = unsafe { _mm256_loadu_ps(sums.as_ptr()) };
        let mut top = exponent(start, unit.lowest[2]);
        for (tops, own) in part.tops.iter().zip(part.own) {
            // SAFETY: as above.
            let of_b = unsafe { _mm256_loadu_si256(tops.as_ptr().cast()) };
            top = _mm256_max_epi32(top, _mm256_add_epi32(of_b, _mm256_set1_epi32(*own)));
        }
        let high = _mm256_cmpgt_epi32(top, _mm256_set1_epi32(*PLAIN.end()));
        let least = _mm256_set1_epi32(*PLAIN.start());
        let low = _mm256_movemask_epi8(_mm256_cmpgt_epi32(least, top)) != 0;
        if _mm256_movemask_epi8(high) != 0 || low && tiny(part, start, top) {
            return false;
        }
        // Zeros are zeros at any scale.
        let top = _mm256_max_epi32(top, least);
        let scale = _mm256_sub_epi32(_mm256_set1_epi32(unit.bits + 127), top);
        let scale = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(scale));
        let mut whole = _mm256_setzero_si256();
        for (a, b) in part.a.iter().zip(part.b) {
            // SAFETY: as above.
            let b = unsafe { _mm256_loadu_ps(b.as_ptr()) };
            let scaled = _mm256_mul_ps(_mm256_mul_ps(_mm256_set1_ps(*a), b), scale);
            whole = _mm256_add_epi32(whole, _mm256_cvttps_epi32(scaled));
        }
        let start = _mm256_cvttps_epi32(_mm256_mul_ps(start, scale));
        let back = _mm256_add_epi32(top, _mm256_set1_epi32(1023 - unit.bits));
        let below = _mm256_set1_epi64x(!((1i64 << (52 - bits)) - 1));
        let [whole, start, back] =
            [whole, start, back].map(|v| [_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v)]);
        let [low, high] = [0, 1].map(|half| four(whole[half], start[half], back[half], below));
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(sums.as_mut_ptr(), _mm256_set_m128(high, low)) };
        true
    }
}
