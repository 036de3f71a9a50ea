//! Reverse-mode gradients of the recurrence, by hand, last token first.
//!
//! With A = Diag(α) S_{t−1} and n = z − Aᵀe, so that S_t = A + k nᵀ, and dS the gradient on S_t:
//!
//! ```text
//! dn = dSᵀk   dk = dS n + b ⊙ de   de = −A dn   dz = dn   dA = dS − e dnᵀ   dg = rowsum(dA ⊙ A)   dS_{t−1} = Diag(α) dA
//! ```

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::{accumulate, dot, step};
use crate::canonical::Combination;
use crate::inputs::{Gradients, Head, InputError, Inputs, OutputGradients, row, row_mut};
use crate::rule::Grain;

/// The exact gradients of `sum(o·d_out) + sum(final_state·d_final_state)`.
///
/// # Errors
/// Tensors that do not fit the combination or one another.
pub fn backward(
    combination: Combination,
    inputs: &Inputs,
    upstream: &OutputGradients,
) -> Result<Gradients, InputError> {
    inputs.check(combination)?;
    inputs.check_gradients(upstream)?;
    let heads = inputs.heads(combination);
    let results: Vec<HeadGradients> = heads.par_iter().map(|head| backward_head(head, upstream)).collect();
    Ok(gather(combination, inputs, &heads, &results))
}

/// The gradients of one head, gates still one number per channel.
pub(crate) struct HeadGradients {
    /// `[T, K]`.
    pub dq: Vec<f64>,
    /// `[T, K]`.
    pub dk: Vec<f64>,
    /// `[T, V]`.
    pub dv: Vec<f64>,
    /// `[T, K]`.
    pub dg: Vec<f64>,
    /// `[T, K]`.
    pub db: Vec<f64>,
    /// `[T, V]`.
    pub dw: Vec<f64>,
    /// `[K, V]`.
    pub d_initial_state: Vec<f64>,
}

/// Puts the heads' gradients together: groups and scalar gates summed, a tied gate's two parts added.
pub(crate) fn gather(
    combination: Combination,
    inputs: &Inputs,
    heads: &[Head<'_>],
    results: &[HeadGradients],
) -> Gradients {
    let dims = inputs.dims;
    let (keys, values) = (dims.key_dim, dims.value_dim);
    let like = |tensor: &Option<Vec<f64>>| tensor.as_ref().map(|tensor| vec![0.0; tensor.len()]);
    let mut all = Gradients {
        dq: vec![0.0; inputs.q.len()],
        dk: vec![0.0; inputs.k.len()],
        dv: vec![0.0; inputs.v.len()],
        dg: like(&inputs.g),
        db: like(&inputs.b),
        dw: like(&inputs.w),
        d_initial_state: vec![0.0; inputs.states() * dims.value_heads * dims.state()],
        named: BTreeMap::new(),
    };
    let gate = |grain: Grain, all: &mut [f64], at: usize, part: &[f64]| match grain {
        Grain::None => {}
        Grain::Scalar => all[at] += part.iter().sum::<f64>(),
        Grain::Channel => row_mut(all, at, part.len()).copy_from_slice(part),
    };
    for (head, part) in heads.iter().zip(results) {
        for t in 0..head.sequence.tokens {
            let (key_row, value_row) = (head.key_row(t), head.value_row(t));
            accumulate(row_mut(&mut all.dq, key_row, keys), 1.0, row(&part.dq, t, keys));
            accumulate(row_mut(&mut all.dk, key_row, keys), 1.0, row(&part.dk, t, keys));
            row_mut(&mut all.dv, value_row, values).copy_from_slice(row(&part.dv, t, values));
            if let Some(dg) = &mut all.dg {
                gate(combination.decay, dg, value_row, row(&part.dg, t, keys));
            }
            if let Some(db) = &mut all.db {
                gate(combination.erase, db, value_row, row(&part.db, t, keys));
                if combination.write.is_none() {
                    gate(Grain::Scalar, db, value_row, row(&part.dw, t, values));
                }
            }
            if let (Some(dw), Some(grain)) = (&mut all.dw, combination.write) {
                gate(grain, dw, value_row, row(&part.dw, t, values));
            }
        }
        row_mut(&mut all.d_initial_state, head.state_row(), dims.state()).copy_from_slice(&part.d_initial_state);
    }
    all
}

fn backward_head(head: &Head<'_>, upstream: &OutputGradients) -> HeadGradients {
    let dims = head.dims();
    let (keys, values, tokens) = (dims.key_dim, dims.value_dim, head.sequence.tokens);
    let mut out = HeadGradients {
        dq: vec![0.0; tokens * keys],
        dk: vec![0.0; tokens * keys],
        dv: vec![0.0; tokens * values],
        dg: vec![0.0; tokens * keys],
        db: vec![0.0; tokens * keys],
        dw: vec![0.0; tokens * values],
        d_initial_state: match &upstream.d_final_state {
            Some(states) => row(states, head.state_row(), dims.state()).to_vec(),
            None => vec![0.0; dims.state()],
        },
    };
    // Every state is needed once, in reverse: keep those at segment starts and walk each segment again, √T of each.
    let segment = tokens.isqrt().max(1);
    let mut starts: Vec<Vec<f64>> = Vec::new();
    let mut state = head.initial_state();
    for t in 0..tokens {
        if t % segment == 0 {
            starts.push(state.clone());
        }
        step(&head.token(t), &mut state, values);
    }
    for (index, start) in starts.into_iter().enumerate().rev() {
        let first = index * segment;
        let last = (first + segment).min(tokens);
        let mut state = start;
        // The state before each token of the segment, and what the token wrote.
        let mut walked: Vec<(Vec<f64>, Vec<f64>)> = Vec::with_capacity(last - first);
        for t in first..last {
            let before = state.clone();
            let n = step(&head.token(t), &mut state, values);
            walked.push((before, n));
        }
        for (t, (before, n)) in (first..last).zip(walked).rev() {
            let d_out = row(&upstream.d_out, head.value_row(t), values);
            token_backward(head, t, [&before, &state], &n, d_out, &mut out);
            state = before;
        }
    }
    out
}

/// One token back: `out.d_initial_state` holds the gradient on S_t on entry and on S_{t−1} on return.
fn token_backward(
    head: &Head<'_>,
    t: usize,
    [before, after]: [&[f64]; 2],
    n: &[f64],
    d_out: &[f64],
    out: &mut HeadGradients,
) {
    let token = head.token(t);
    let (keys, values) = (token.k.len(), token.v.len());
    let d_state = &mut out.d_initial_state;
    let mut dn = vec![0.0; values];
    for i in 0..keys {
        let d_row = row_mut(d_state, i, values);
        out.dq[t * keys + i] = head.scale() * dot(row(after, i, values), d_out);
        accumulate(d_row, head.scale() * token.q[i], d_out);
        out.dk[t * keys + i] = dot(d_row, n);
        accumulate(&mut dn, token.k[i], d_row);
    }
    for i in 0..keys {
        let (b, k, alpha) = (token.b.at(i), token.k[i], token.g.at(i).exp());
        // A = Diag(α) S_{t−1}, not S_t − k nᵀ: under strong decay that difference would be rounding noise.
        let before = row(before, i, values);
        let de = -alpha * dot(before, &dn);
        out.dk[t * keys + i] += b * de;
        out.db[t * keys + i] = k * de;
        let d_row = row_mut(d_state, i, values);
        accumulate(d_row, -b * k, &dn);
        out.dg[t * keys + i] = alpha * dot(d_row, before);
        d_row.iter_mut().for_each(|d| *d *= alpha);
    }
    for (j, dn) in dn.into_iter().enumerate() {
        out.dv[t * values + j] = token.w.at(j) * dn;
        out.dw[t * values + j] = token.v[j] * dn;
    }
}
