//! Products of matrix fragments. Products of 16-bit and tf32 factors are exact in f32 and are summed in order of
//! k from zero, so that every feature level gives the same bits; the addend joins last.

use crate::exec::lanes::Word;
use crate::isa::inst::Factor;
use crate::num::{NAN32, from_f16};

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

/// A word of packed halves as 8 rows of 8: row g of a fragment lies in lanes 4g to 4g + 3.
#[inline(always)]
fn block(factor: Factor, word: &Word) -> [[f32; 8]; 8] {
    let mut out = [[0.0; 8]; 8];
    let flat = out.as_flattened_mut();
    for lane in 0..32 {
        let [x, y] = pair(factor, word[lane]);
        flat[2 * lane] = x;
        flat[2 * lane + 1] = y;
    }
    out
}

/// A word of tf32 values as 8 rows of 4.
#[inline(always)]
fn block_tf32(word: &Word) -> [[f32; 4]; 8] {
    let mut out = [[0.0; 4]; 8];
    let flat = out.as_flattened_mut();
    for lane in 0..32 {
        flat[lane] = f32::from_bits(word[lane] & 0xffff_e000);
    }
    out
}

/// A's fragment as 16 rows: word i holds rows 8 (i % 2) + g and the i/2-th block of columns.
#[inline(always)]
pub(crate) fn rows(factor: Factor, a: &[&Word]) -> [[f32; 16]; 16] {
    let mut m = [[0.0; 16]; 16];
    for (i, word) in a.iter().enumerate() {
        let (low, at) = (i % 2 * 8, i / 2);
        if factor == Factor::Tf32 {
            for (g, row) in block_tf32(word).iter().enumerate() {
                m[low + g][at * 4..at * 4 + 4].copy_from_slice(row);
            }
        } else {
            for (g, row) in block(factor, word).iter().enumerate() {
                m[low + g][at * 8..at * 8 + 8].copy_from_slice(row);
            }
        }
    }
    m
}

/// Adds a block of depth b: out[i][j] += a[i][at + k] * b[k][j].
#[inline(always)]
fn sum<const FMA: bool>(a: &[[f32; 16]; 16], at: usize, b: &[[f32; 8]], out: &mut [[f32; 8]; 16]) {
    #[cfg(target_arch = "x86_64")]
    if FMA {
        // SAFETY: `FMA` is true only in the levels with AVX2 and FMA.
        return unsafe { wide::sum(a, at, b, out) };
    }
    for (row, out) in a.iter().zip(out) {
        for (k, b) in b.iter().enumerate() {
            let x = row[at + k];
            for j in 0..8 {
                out[j] += x * b[j];
            }
        }
    }
}

/// See [`crate::exec::level::mma_halves`].
#[inline(always)]
pub(crate) fn halves<const FMA: bool>(factor: Factor, a: &[&Word], b: &[&Word], c: &[Word; 4]) -> [Word; 4] {
    match factor {
        Factor::F16 => halves_of::<FMA>(Factor::F16, a, b, c),
        _ => halves_of::<FMA>(Factor::Bf16, a, b, c),
    }
}

#[inline(always)]
fn halves_of<const FMA: bool>(factor: Factor, a: &[&Word], b: &[&Word], c: &[Word; 4]) -> [Word; 4] {
    let a = rows(factor, a);
    let mut out = [[0.0; 8]; 16];
    for (i, word) in b.iter().enumerate() {
        // Lanes hold columns: transpose to rows of k.
        let columns = block(factor, word);
        let mut rows = [[0.0; 8]; 8];
        for k in 0..8 {
            for n in 0..8 {
                rows[k][n] = columns[n][k];
            }
        }
        sum::<FMA>(&a, i * 8, &rows, &mut out);
    }
    finish(&out, c)
}

/// See [`crate::exec::level::mma_tf32`].
#[inline(always)]
pub(crate) fn tf32<const FMA: bool>(a: &[&Word], b: &[&Word], c: &[Word; 4]) -> [Word; 4] {
    let a = rows(Factor::Tf32, a);
    let mut out = [[0.0; 8]; 16];
    for (i, word) in b.iter().enumerate() {
        let columns = block_tf32(word);
        let mut rows = [[0.0; 8]; 4];
        for k in 0..4 {
            for n in 0..8 {
                rows[k][n] = columns[n][k];
            }
        }
        sum::<FMA>(&a, i * 4, &rows, &mut out);
    }
    finish(&out, c)
}

/// Adds the addend: words hold (row g or g + 8) x (column 2t or 2t + 1), and 8 g + 2 t is twice the lane.
#[inline(always)]
fn finish(out: &[[f32; 8]; 16], c: &[Word; 4]) -> [Word; 4] {
    let flat = out.as_flattened();
    let mut d = [[0; 32]; 4];
    for i in 0..4 {
        for lane in 0..32 {
            let sum = f32::from_bits(c[i][lane]) + flat[i / 2 * 64 + 2 * lane + i % 2];
            d[i][lane] = if sum.is_nan() { NAN32 } else { sum.to_bits() };
        }
    }
    d
}

/// See [`crate::exec::level::dot`].
#[inline(always)]
pub(crate) fn dot<const FMA: bool>(a: &[[f32; 16]; 16], depth: usize, b: &[f32], n: usize, out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if FMA {
        // SAFETY: `FMA` is true only in the levels with AVX2 and FMA.
        return unsafe { wide::dot(a, depth, b, n, out) };
    }
    for (row, out) in a.iter().zip(out.chunks_exact_mut(n)) {
        out.fill(0.0);
        for (x, b) in row[..depth].iter().zip(b.chunks_exact(n)) {
            for (o, b) in out.iter_mut().zip(b) {
                *o += x * b;
            }
        }
    }
}

/// The same sums, eight columns to a register.
#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps};

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn sum(a: &[[f32; 16]; 16], at: usize, b: &[[f32; 8]], out: &mut [[f32; 8]; 16]) {
        for half in 0..2 {
            // SAFETY: every load and store is of eight floats of an array of eight.
            unsafe {
                let mut acc = [_mm256_setzero_ps(); 8];
                for r in 0..8 {
                    acc[r] = _mm256_loadu_ps(out[half * 8 + r].as_ptr());
                }
                for (k, b) in b.iter().enumerate() {
                    let b = _mm256_loadu_ps(b.as_ptr());
                    for r in 0..8 {
                        acc[r] = _mm256_fmadd_ps(_mm256_set1_ps(a[half * 8 + r][at + k]), b, acc[r]);
                    }
                }
                for r in 0..8 {
                    _mm256_storeu_ps(out[half * 8 + r].as_mut_ptr(), acc[r]);
                }
            }
        }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn dot(a: &[[f32; 16]; 16], depth: usize, b: &[f32], n: usize, out: &mut [f32]) {
        for j in (0..n).step_by(8) {
            for half in 0..2 {
                let mut acc = [_mm256_setzero_ps(); 8];
                for k in 0..depth {
                    let b = &b[k * n + j..k * n + j + 8];
                    // SAFETY: eight floats, just sliced.
                    let b = unsafe { _mm256_loadu_ps(b.as_ptr()) };
                    for r in 0..8 {
                        acc[r] = _mm256_fmadd_ps(_mm256_set1_ps(a[half * 8 + r][k]), b, acc[r]);
                    }
                }
                for (r, acc) in acc.iter().enumerate() {
                    let at = (half * 8 + r) * n + j;
                    // SAFETY: as above.
                    unsafe { _mm256_storeu_ps(out[at..at + 8].as_mut_ptr(), *acc) };
                }
            }
        }
    }
}
