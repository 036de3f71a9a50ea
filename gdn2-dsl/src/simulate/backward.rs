//! The chunked backward pass with rounded operands, last chunk first.

use rayon::prelude::*;

use super::chunk::{Chunk, pair_blocks};
use super::matrix::Matrix;
use super::rounding::{Pattern, Rounding};
use super::{chunks, copy, heads, state_matrix, with_kept_rows};
use crate::inputs::{Gradients, Head, InputError, Inputs, OutputGradients, row, row_mut};
use crate::reference::{HeadGradients, gather};
use crate::rule::{Dtype, Gate, Rule, Write};

/// Runs the chunked backward pass; gradients are rounded as they would be stored, each like its input.
///
/// # Errors
/// Tensors that do not fit the rule or one another, or a chunk of 0.
pub fn backward(
    rule: &Rule,
    inputs: &Inputs,
    upstream: &OutputGradients,
    chunk: usize,
    pattern: Pattern,
) -> Result<Gradients, InputError> {
    let rounding = Rounding::new(rule.dtype, pattern);
    let inputs = &*with_kept_rows(rule, inputs, rounding);
    let heads = heads(rule, inputs, chunk)?;
    inputs.check_gradients(upstream)?;
    let parts: Vec<HeadGradients> =
        heads.par_iter().map(|head| backward_head(head, upstream, rounding, chunk)).collect();
    let mut all = gather(rule.combination(), inputs, &heads, &parts);
    let round = |tensor: &mut Vec<f64>, dtype: Dtype| tensor.iter_mut().for_each(|x| *x = dtype.round(*x));
    round(&mut all.dq, rule.dtype);
    round(&mut all.dk, rule.dtype);
    round(&mut all.dv, rule.dtype);
    if let Some(dg) = &mut all.dg {
        round(dg, rule.decay.storage);
    }
    if let Some(db) = &mut all.db {
        round(db, rule.erase.storage);
    }
    if let (Some(dw), Write::Own(Gate { storage, .. })) = (&mut all.dw, rule.write) {
        round(dw, storage);
    }
    Ok(all)
}

fn backward_head(head: &Head<'_>, upstream: &OutputGradients, rounding: Rounding, size: usize) -> HeadGradients {
    let dims = head.dims();
    let (keys, values, tokens) = (dims.key_dim, dims.value_dim, head.sequence.tokens);
    let mut out = HeadGradients {
        dq: vec![0.0; tokens * keys],
        dk: vec![0.0; tokens * keys],
        dv: vec![0.0; tokens * values],
        dg: vec![0.0; tokens * keys],
        db: vec![0.0; tokens * keys],
        dw: vec![0.0; tokens * values],
        d_initial_state: vec![0.0; dims.state()],
    };
    // Boundary states as forward keeps them for backward: in 16 bits.
    let mut state = state_matrix(head, &head.initial_state());
    let mut kept = Vec::new();
    for tokens in chunks(head, size) {
        kept.push(state.rounded(rounding));
        let chunk = Chunk::new(head, tokens, rounding);
        let written = chunk.written(&state, rounding).rounded(rounding);
        chunk.advance(&mut state, &written);
    }
    let mut d_state = match &upstream.d_final_state {
        Some(states) => state_matrix(head, row(states, head.state_row(), dims.state())),
        None => Matrix::zeros(keys, values),
    };
    for (range, state) in chunks(head, size).zip(kept).rev() {
        let chunk = Chunk::new(head, range.clone(), rounding);
        let d_out = Matrix::from_fn(range.len(), values, |i, j| {
            row(&upstream.d_out, head.value_row(range.start + i), values)[j] as f32
        });
        let part = chunk_backward(&chunk, &state, &d_out.rounded(rounding), &mut d_state, rounding);
        for (to, from, width) in [
            (&mut out.dq, &part.dq, keys),
            (&mut out.dk, &part.dk, keys),
            (&mut out.dv, &part.dv, values),
            (&mut out.dg, &part.dg, keys),
            (&mut out.db, &part.db, keys),
            (&mut out.dw, &part.dw, values),
        ] {
            for i in 0..range.len() {
                copy(row_mut(to, range.start + i, width), from.row(i));
            }
        }
    }
    copy(&mut out.d_initial_state, &d_state.data);
    out
}

/// The gradients of one chunk, `[C, K]` or `[C, V]`.
struct ChunkGradients {
    dq: Matrix,
    dk: Matrix,
    dv: Matrix,
    dg: Matrix,
    db: Matrix,
    dw: Matrix,
}

/// `d_state` is the gradient on the state after the chunk on entry and before it on return; `state` and `d_out` are
/// operands.
fn chunk_backward(
    c: &Chunk,
    state: &Matrix,
    d_out: &Matrix,
    d_state: &mut Matrix,
    rounding: Rounding,
) -> ChunkGradients {
    let (count, keys) = (c.q.rows, c.q.columns);
    let after = d_state.rounded(rounding);
    let n = c.written(state, rounding).rounded(rounding);
    let mut dn = c.p.transpose_times(d_out);
    dn += &c.k_bar.times(&after);
    let dr_sum = c.m.transpose_times(&dn.rounded(rounding));
    let dr = dr_sum.rounded(rounding);

    let triangle = |full: Matrix, sign: f32| {
        Matrix::from_fn(count, count, |i, j| if i >= j { sign * full.at(i, j) } else { 0.0 }).rounded(rounding)
    };
    let dp = triangle(d_out.times_transpose(&n), 1.0);
    let dl = triangle(dr.times_transpose(&n), -1.0);

    let scale = c.scale;
    let grown = |x: &Matrix, factor: f32| x.zip(&c.gamma, |x, gamma| factor * x * gamma.exp());
    let mut dq = grown(&d_out.times_transpose(state), scale);
    let mut de = grown(&dr.times_transpose(state), -1.0);
    let from_state = (dq.clone(), de.clone());
    let last = count - 1;
    let tail_products = n.times_transpose(&after);
    let tail =
        Matrix::from_fn(count, keys, |i, d| tail_products.at(i, d) * (c.gamma.at(last, d) - c.gamma.at(i, d)).exp());
    let mut kappa = Matrix::zeros(count, keys);
    for (rows, columns) in pair_blocks(count) {
        let anchor = rows.start;
        let anchored = |x: &Matrix, range| Chunk::anchored(x, &c.gamma, range, anchor).rounded(rounding);
        let (k, q, e) = (anchored(&c.k, &columns), anchored(&c.q, &rows), anchored(&c.e, &rows));
        let (dp, dl) = (dp.block(rows.clone(), columns.clone()), dl.block(rows.clone(), columns.clone()));
        let add = |to: &mut Matrix, range: &std::ops::Range<usize>, factor: f32, part: &Matrix| {
            for i in 0..part.rows {
                for d in 0..keys {
                    let grow = Chunk::factor(&c.gamma, range.start + i, anchor, d);
                    *to.at_mut(range.start + i, d) += factor * grow * part.at(i, d);
                }
            }
        };
        add(&mut dq, &rows, scale, &dp.times(&k));
        add(&mut de, &rows, 1.0, &dl.times(&k));
        add(&mut kappa, &columns, scale, &dp.transpose_times(&q));
        add(&mut kappa, &columns, 1.0, &dl.transpose_times(&e));
    }

    // The decay's gradient, before the diagonal pairs join dq and dk: they carry no decay. Where channels decay alike, what
    // the pairs give is taken from the products themselves, in float32: q dq + e de - k kappa would be a difference of sums
    // that were rounded apart.
    let mut d_gamma = if c.alike {
        let mut d_gamma = Matrix::from_fn(count, keys, |i, d| {
            c.q.at(i, d) * from_state.0.at(i, d) + c.e.at(i, d) * from_state.1.at(i, d) - c.k.at(i, d) * tail.at(i, d)
        });
        let (dp, dl) = (d_out.times_transpose(&n), dr.times_transpose(&n));
        for i in 0..count {
            for j in 0..i {
                let pair = dp.at(i, j) * c.near.at(i, j) - dl.at(i, j) * c.left.at(i, j);
                *d_gamma.at_mut(i, 0) += pair;
                *d_gamma.at_mut(j, 0) -= pair;
            }
        }
        d_gamma
    } else {
        Matrix::from_fn(count, keys, |i, d| {
            c.q.at(i, d) * dq.at(i, d) + c.e.at(i, d) * de.at(i, d) - c.k.at(i, d) * (kappa.at(i, d) + tail.at(i, d))
        })
    };
    for d in 0..keys {
        let tails: f32 = (0..count).map(|i| c.k.at(i, d) * tail.at(i, d)).sum();
        let kept: f32 = state.row(d).iter().zip(d_state.row(d)).map(|(s, ds)| s * ds).sum();
        *d_gamma.at_mut(last, d) += tails + c.decay[d] * kept;
        for i in (0..last).rev() {
            *d_gamma.at_mut(i, d) += d_gamma.at(i + 1, d);
        }
    }
    for i in 0..count {
        for d in 0..keys {
            *dq.at_mut(i, d) += scale * dp.at(i, i) * c.k.at(i, d);
            *kappa.at_mut(i, d) += scale * dp.at(i, i) * c.q.at(i, d);
        }
    }

    c.scale_rows(d_state);
    *d_state += &c.q_hat.transpose_times(d_out);
    d_state.add_block(0, 0, -1.0, &c.e_hat.transpose_times(&dr));
    let mut dk = c.b.zip(&de, |b, de| b * de);
    dk += &kappa;
    dk += &tail;
    ChunkGradients {
        dq,
        dk,
        dv: c.w.zip(&dr_sum, |w, dr| w * dr),
        dg: d_gamma,
        db: c.k.zip(&de, |k, de| k * de),
        dw: c.v.zip(&dr_sum, |v, dr| v * dr),
    }
}
