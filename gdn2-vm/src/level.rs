//! Code paths chosen once at run time by what the processor has: baseline, AVX2 with FMA, AVX-512.

use crate::inst::Round;
use crate::lanes::Word;
use crate::num::{NAN32, fma32};
use std::sync::OnceLock;

/// out[i][j] = sum over k of a[i][k] * b[k][j], with 16 rows, `n` columns (a multiple of 8), depth 16.
type Dot = unsafe fn(a: &[[f32; 16]; 16], depth: usize, b: &[f32], n: usize, out: &mut [f32]);
type Fma = unsafe fn(&Word, &Word, &Word) -> Word;

struct Paths {
    dot: Dot,
    fma: Fma,
}

fn paths() -> &'static Paths {
    static PATHS: OnceLock<Paths> = OnceLock::new();
    PATHS.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        {
            let v3 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if v3 && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
                return Paths { dot: dot_v4, fma: fma_v3 };
            }
            if v3 {
                return Paths { dot: dot_v3, fma: fma_v3 };
            }
        }
        Paths { dot: dot_base, fma: fma_base }
    })
}

/// The matrix product of one warp; products of 16-bit and tf32 factors are exact, so every path sums the same way.
pub(crate) fn dot(a: &[[f32; 16]; 16], depth: usize, b: &[f32], n: usize, out: &mut [f32]) {
    // SAFETY: a path is chosen only after its features were detected.
    unsafe { (paths().dot)(a, depth, b, n, out) }
}

/// Fused multiply-add of 32 lanes, rounded once; NaN is canonical.
#[inline]
pub(crate) fn fma(a: &Word, b: &Word, c: &Word) -> Word {
    // SAFETY: as above.
    unsafe { (paths().fma)(a, b, c) }
}

#[inline(always)]
fn dot_lanes<const W: usize>(a: &[[f32; 16]; 16], depth: usize, b: &[f32], n: usize, out: &mut [f32]) {
    for j in (0..n).step_by(W) {
        for i in (0..16).step_by(4) {
            let mut acc = [[0f32; W]; 4];
            for k in 0..depth {
                let row: &[f32] = &b[k * n + j..k * n + j + W];
                for r in 0..4 {
                    let x = a[i + r][k];
                    for c in 0..W {
                        acc[r][c] += x * row[c];
                    }
                }
            }
            for r in 0..4 {
                out[(i + r) * n + j..(i + r) * n + j + W].copy_from_slice(&acc[r]);
            }
        }
    }
}

#[inline(always)]
fn dot_any(a: &[[f32; 16]; 16], depth: usize, b: &[f32], n: usize, out: &mut [f32]) {
    dot_lanes::<8>(a, depth, b, n, out);
}

fn dot_base(a: &[[f32; 16]; 16], depth: usize, b: &[f32], n: usize, out: &mut [f32]) {
    dot_any(a, depth, b, n, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn dot_v3(a: &[[f32; 16]; 16], depth: usize, b: &[f32], n: usize, out: &mut [f32]) {
    dot_any(a, depth, b, n, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512vl")]
fn dot_v4(a: &[[f32; 16]; 16], depth: usize, b: &[f32], n: usize, out: &mut [f32]) {
    if n.is_multiple_of(16) {
        dot_lanes::<16>(a, depth, b, n, out);
    } else {
        dot_any(a, depth, b, n, out);
    }
}

fn fma_base(a: &Word, b: &Word, c: &Word) -> Word {
    std::array::from_fn(|i| {
        let r = fma32(f32::from_bits(a[i]), f32::from_bits(b[i]), f32::from_bits(c[i]), Round::Nearest);
        if r.is_nan() { NAN32 } else { r.to_bits() }
    })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn fma_v3(a: &Word, b: &Word, c: &Word) -> Word {
    let mut o = [0; 32];
    for i in 0..32 {
        let r = f32::from_bits(a[i]).mul_add(f32::from_bits(b[i]), f32::from_bits(c[i]));
        o[i] = if r.is_nan() { NAN32 } else { r.to_bits() };
    }
    o
}
