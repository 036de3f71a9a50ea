//! Products of the fragments of one warp.

use crate::exec::fused::{self, DEPTH, ROWS, Unit, pair};
use crate::exec::lanes::Word;
use crate::isa::inst::Factor;

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
        flat[lane] = pair(Factor::Tf32, word[lane])[0];
    }
    out
}

/// A's fragment by rows of `depth`: word i holds rows 8 (i % 2) + g and the i/2-th block of columns.
#[inline(always)]
pub(crate) fn rows(factor: Factor, a: &[&Word], depth: usize) -> [f32; ROWS * DEPTH] {
    let mut m = [0.0; ROWS * DEPTH];
    for (i, word) in a.iter().enumerate() {
        let (low, at) = (i % 2 * 8, i / 2);
        if factor == Factor::Tf32 {
            for (g, row) in block_tf32(word).iter().enumerate() {
                m[(low + g) * depth + at * 4..][..4].copy_from_slice(row);
            }
        } else {
            for (g, row) in block(factor, word).iter().enumerate() {
                m[(low + g) * depth + at * 8..][..8].copy_from_slice(row);
            }
        }
    }
    m
}

/// B's fragment by rows of 8: lanes hold columns.
#[inline(always)]
fn by_depth(factor: Factor, b: &[&Word]) -> [[f32; 8]; 16] {
    let mut m = [[0.0; 8]; 16];
    for (i, word) in b.iter().enumerate().take(2) {
        if factor == Factor::Tf32 {
            let columns = block_tf32(word);
            for k in 0..4 {
                for n in 0..8 {
                    m[i * 4 + k][n] = columns[n][k];
                }
            }
        } else {
            let columns = block(factor, word);
            for k in 0..8 {
                for n in 0..8 {
                    m[i * 8 + k][n] = columns[n][k];
                }
            }
        }
    }
    m
}

/// See [`crate::exec::level::mma`].
#[inline(always)]
pub(crate) fn product<const FMA: bool>(
    unit: &Unit,
    factor: Factor,
    a: &[&Word],
    b: &[&Word],
    c: &[Word; 4],
) -> [Word; 4] {
    // The compiler makes one function of each.
    match factor {
        Factor::F16 => product_of::<FMA>(unit, Factor::F16, a, b, c),
        Factor::Bf16 => product_of::<FMA>(unit, Factor::Bf16, a, b, c),
        Factor::Tf32 => product_of::<FMA>(unit, Factor::Tf32, a, b, c),
    }
}

#[inline(always)]
fn product_of<const FMA: bool>(unit: &Unit, factor: Factor, a: &[&Word], b: &[&Word], c: &[Word; 4]) -> [Word; 4] {
    let depth = (b.len() * if factor == Factor::Tf32 { 4 } else { 8 }).min(16);
    let (a, b) = (rows(factor, a, depth), by_depth(factor, b));
    // Words hold (row g or g + 8) x (column 2t or 2t + 1), and 8 g + 2 t is twice the lane.
    let mut sums = [0.0; ROWS * 8];
    for i in 0..4 {
        for lane in 0..32 {
            sums[i / 2 * 64 + 2 * lane + i % 2] = f32::from_bits(c[i][lane]);
        }
    }
    fused::add::<FMA>(unit, &a[..ROWS * depth], depth, b[..depth].as_flattened(), 8, &mut sums);
    let mut d = [[0; 32]; 4];
    for i in 0..4 {
        for lane in 0..32 {
            d[i][lane] = sums[i / 2 * 64 + 2 * lane + i % 2].to_bits();
        }
    }
    d
}
