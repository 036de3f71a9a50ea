//! The factors of one chunk: everything that does not depend on the state.

use std::ops::Range;

use super::matrix::Matrix;
use super::rounding::Rounding;
use crate::inputs::{GateRow, Head};

/// e^−104 is below the smallest float32: a larger decay adds nothing, but its prefix sums would swallow small ones.
const DEEPEST_DECAY: f32 = -104.0;
/// Rows of one block of the chunk: a matrix fragment.
const BLOCK: usize = 16;

/// One chunk of one head: C rows. Matrices that enter products as operands are rounded, all others are float32.
pub(crate) struct Chunk {
    /// `[C, K]`, `[C, K]`, `[C, V]`.
    pub q: Matrix,
    pub k: Matrix,
    pub v: Matrix,
    /// `[C, K]`.
    pub b: Matrix,
    /// `[C, V]`.
    pub w: Matrix,
    /// e = b ⊙ k, `[C, K]`.
    pub e: Matrix,
    /// Prefix sums of g, `[C, K]`.
    pub gamma: Matrix,
    /// Whether a token's channels decay alike, or not at all: decays then multiply results, and operands stay as they are.
    pub alike: bool,
    /// q kᵀ below the diagonal, in float32, decayed and scaled.
    pub near: Matrix,
    /// e kᵀ likewise, without the scale: L.
    pub left: Matrix,
    /// `[C, C]`, an operand.
    pub p: Matrix,
    /// (I + L)⁻¹, `[C, C]`, an operand.
    pub m: Matrix,
    /// scale · q ⊙ exp γ, an operand.
    pub q_hat: Matrix,
    /// e ⊙ exp γ, an operand.
    pub e_hat: Matrix,
    /// k ⊙ exp(γ_C − γ), an operand.
    pub k_bar: Matrix,
    /// exp γ_C, K numbers.
    pub decay: Vec<f32>,
    /// Multiplies o.
    pub scale: f32,
}

/// Rows and columns of the C × C triangle below the diagonal, in blocks that have an anchor between them: every row of
/// a block is at or after `rows.start`, every column before it, so that both factors of its exponential are at most 1.
pub(crate) fn pair_blocks(tokens: usize) -> Vec<(Range<usize>, Range<usize>)> {
    let mut blocks = Vec::new();
    for low in (0..tokens).step_by(BLOCK) {
        let high = (low + BLOCK).min(tokens);
        blocks.extend((0..low).step_by(BLOCK).map(|column| (low..high, column..column + BLOCK)));
        let mut half = BLOCK / 2;
        while half > 0 {
            for start in (low..high).step_by(2 * half) {
                let (middle, end) = (start + half, (start + 2 * half).min(high));
                if middle < end {
                    blocks.push((middle..end, start..middle));
                }
            }
            half /= 2;
        }
    }
    blocks
}

impl Chunk {
    pub fn new(head: &Head<'_>, tokens: Range<usize>, rounding: Rounding) -> Chunk {
        let (count, dims, first) = (tokens.len(), head.dims(), tokens.start);
        let keys =
            |value: &dyn Fn(usize, usize) -> f64| Matrix::from_fn(count, dims.key_dim, |i, d| value(i, d) as f32);
        let values =
            |value: &dyn Fn(usize, usize) -> f64| Matrix::from_fn(count, dims.value_dim, |i, d| value(i, d) as f32);
        let (q, k) = (keys(&|i, d| head.token(first + i).q[d]), keys(&|i, d| head.token(first + i).k[d]));
        let (v, w) = (values(&|i, d| head.token(first + i).v[d]), values(&|i, d| head.token(first + i).w.at(d)));
        let b = keys(&|i, d| head.token(first + i).b.at(d));
        let mut gamma = keys(&|i, d| head.token(first + i).g.at(d));
        for i in 0..count {
            for d in 0..dims.key_dim {
                let before = if i == 0 { 0.0 } else { gamma.at(i - 1, d) };
                *gamma.at_mut(i, d) = before + gamma.at(i, d).max(DEEPEST_DECAY);
            }
        }
        let e = b.zip(&k, |b, k| b * k);
        let scale = head.scale() as f32;
        let last = count - 1;
        let alike = matches!(head.token(first).g, GateRow::All(_));
        let grown = |x: &Matrix, factor: f32| x.zip(&gamma, |x, gamma| factor * x * gamma.exp());
        let (q_hat, e_hat) = match alike {
            true => (grown(&q.rounded(rounding), scale), grown(&e.rounded(rounding), 1.0)),
            false => (grown(&q, scale).rounded(rounding), grown(&e, 1.0).rounded(rounding)),
        };
        let k_bar =
            Matrix::from_fn(count, dims.key_dim, |i, d| k.at(i, d) * (gamma.at(last, d) - gamma.at(i, d)).exp());
        let decay = gamma.row(last).iter().map(|gamma| gamma.exp()).collect();
        let products = |x: &Matrix| match alike {
            true => alike_products(&x.rounded(rounding), &k.rounded(rounding), &gamma),
            false => pair_products(x, &k, &gamma, rounding),
        };
        let mut near = products(&q);
        near.data.iter_mut().for_each(|p| *p *= scale);
        let mut p = near.clone();
        let (q_operand, k_operand) = (q.rounded(rounding), k.rounded(rounding));
        for i in 0..count {
            *p.at_mut(i, i) = q_operand.row(i).iter().zip(k_operand.row(i)).map(|(q, k)| scale * q * k).sum();
        }
        let left = products(&e);
        let m = inverse(&left, rounding).rounded(rounding);
        let (p, k_bar) = (p.rounded(rounding), k_bar.rounded(rounding));
        Chunk { q, k, v, b, w, e, gamma, alike, near, left, p, m, q_hat, e_hat, k_bar, decay, scale }
    }

    /// N = M (Z − Ê S), what the chunk writes, `[C, V]`, in float32.
    pub fn written(&self, state: &Matrix, rounding: Rounding) -> Matrix {
        let mut residual = self.v.zip(&self.w, |v, w| v * w);
        residual.add_block(0, 0, -1.0, &self.e_hat.times(&state.rounded(rounding)));
        self.m.times(&residual.rounded(rounding))
    }

    /// S' = Diag(exp γ_C) S + K̄ᵀ N; `written` as an operand.
    pub fn advance(&self, state: &mut Matrix, written: &Matrix) {
        self.scale_rows(state);
        *state += &self.k_bar.transpose_times(written);
    }

    /// Diag(exp γ_C) times a `[K, V]` matrix.
    pub fn scale_rows(&self, state: &mut Matrix) {
        let width = state.columns;
        for (row, decay) in state.data.chunks_exact_mut(width).zip(&self.decay) {
            row.iter_mut().for_each(|x| *x *= decay);
        }
    }

    /// exp(γ_i − γ_a) ⊙ rows of `x`, for rows at or after the anchor, or exp(γ_a − γ_j) ⊙ rows for those before it.
    pub fn anchored(x: &Matrix, gamma: &Matrix, rows: &Range<usize>, anchor: usize) -> Matrix {
        Matrix::from_fn(rows.len(), x.columns, |i, d| {
            x.at(rows.start + i, d) * Self::factor(gamma, rows.start + i, anchor, d)
        })
    }

    /// exp(−|γ_i − γ_a|), which is at most 1 on either side of the anchor.
    pub fn factor(gamma: &Matrix, row: usize, anchor: usize, channel: usize) -> f32 {
        let (at, anchored) = (gamma.at(row, channel), gamma.at(anchor, channel));
        if row >= anchor { (at - anchored).exp() } else { (anchored - at).exp() }
    }
}

/// Σ_d x_id k_jd exp(γ_id − γ_jd) below the diagonal, 0 elsewhere.
fn pair_products(x: &Matrix, k: &Matrix, gamma: &Matrix, rounding: Rounding) -> Matrix {
    let mut products = Matrix::zeros(x.rows, x.rows);
    for (rows, columns) in pair_blocks(x.rows) {
        let left = Chunk::anchored(x, gamma, &rows, rows.start).rounded(rounding);
        let right = Chunk::anchored(k, gamma, &columns, rows.start).rounded(rounding);
        products.add_block(rows.start, columns.start, 1.0, &left.times_transpose(&right));
    }
    products
}

/// The same where channels decay alike: the decay multiplies what the dot product gives.
fn alike_products(x: &Matrix, k: &Matrix, gamma: &Matrix) -> Matrix {
    let raw = x.times_transpose(k);
    Matrix::from_fn(
        x.rows,
        x.rows,
        |i, j| if i > j { raw.at(i, j) * (gamma.at(i, 0) - gamma.at(j, 0)).exp() } else { 0.0 },
    )
}

/// (I + L)⁻¹: diagonal blocks by forward substitution in float32, then merged two by two with rounded operands.
fn inverse(l: &Matrix, rounding: Rounding) -> Matrix {
    let count = l.rows;
    let mut m = Matrix::zeros(count, count);
    for low in (0..count).step_by(BLOCK) {
        let high = (low + BLOCK).min(count);
        for i in low..high {
            *m.at_mut(i, i) = 1.0;
            for j in low..i {
                let sum: f32 = (j..i).map(|s| l.at(i, s) * m.at(s, j)).sum();
                *m.at_mut(i, j) = -sum;
            }
        }
    }
    let mut size = BLOCK;
    while size < count {
        for low in (0..count).step_by(2 * size) {
            let (middle, high) = (low + size, (low + 2 * size).min(count));
            if middle < high {
                let (first, second) = (m.block(low..middle, low..middle), m.block(middle..high, middle..high));
                let between = l.block(middle..high, low..middle).rounded(rounding).times(&first.rounded(rounding));
                let merged = second.rounded(rounding).times(&between.rounded(rounding));
                m.add_block(middle, low, -1.0, &merged);
            }
        }
        size *= 2;
    }
    m
}

#[cfg(test)]
mod tests {
    use super::{Matrix, inverse, pair_blocks};
    use crate::rule::Dtype;
    use crate::simulate::rounding::Rounding;

    #[test]
    fn pair_blocks_cover_the_triangle_once() {
        for tokens in [1, 2, 15, 16, 17, 37, 64] {
            let mut covered = Matrix::zeros(tokens, tokens);
            for (rows, columns) in pair_blocks(tokens) {
                assert!(columns.end <= rows.start);
                covered.add_block(
                    rows.start,
                    columns.start,
                    1.0,
                    &Matrix::from_fn(rows.len(), columns.len(), |_, _| 1.0),
                );
            }
            assert_eq!(covered, Matrix::from_fn(tokens, tokens, |i, j| if i > j { 1.0 } else { 0.0 }));
        }
    }

    #[test]
    fn the_inverse_inverts() {
        let l = Matrix::from_fn(53, 53, |i, j| if i > j { ((i * 7 + j * 13) % 11) as f32 / 40.0 - 0.1 } else { 0.0 });
        let mut identity = Matrix::from_fn(53, 53, |i, j| if i == j { 1.0 } else { 0.0 });
        let mut matrix = l.clone();
        matrix += &identity;
        identity.add_block(0, 0, -1.0, &matrix.times(&inverse(&l, Rounding::nearest(Dtype::F32))));
        assert!(identity.data.iter().all(|x| x.abs() < 1e-4));
    }
}
