//! The definition: the recurrence token by token in float64, and its exact gradients.
//!
//! ```text
//! S_t = (I − k_t e_tᵀ) Diag(α_t) S_{t−1} + k_t z_tᵀ     e_t = b_t ⊙ k_t   z_t = w_t ⊙ v_t   α_t = exp(g_t)
//! o_t = scale · S_tᵀ q_t
//! ```
//!
//! Everything else in the project is measured against these two functions; they are written to be read. Heads and
//! sequences run in parallel, sums run in one fixed order.

mod backward;

use rayon::prelude::*;

use crate::canonical::Combination;
use crate::inputs::{Head, InputError, Inputs, Outputs, Token, row_mut};

pub use backward::backward;
pub(crate) use backward::{HeadGradients, gather};

/// Runs the recurrence over every sequence and head.
///
/// # Errors
/// Tensors that do not fit the combination or one another.
pub fn forward(combination: Combination, inputs: &Inputs) -> Result<Outputs, InputError> {
    inputs.check(combination)?;
    let dims = inputs.dims;
    let heads = inputs.heads(combination);
    let results: Vec<(Vec<f64>, Vec<f64>)> = heads.par_iter().map(forward_head).collect();
    let mut outputs = Outputs {
        o: vec![0.0; inputs.v.len()],
        final_state: vec![0.0; inputs.states() * dims.value_heads * dims.state()],
    };
    for (head, (o, state)) in heads.iter().zip(&results) {
        for (t, o) in o.chunks_exact(dims.value_dim).enumerate() {
            row_mut(&mut outputs.o, head.value_row(t), dims.value_dim).copy_from_slice(o);
        }
        row_mut(&mut outputs.final_state, head.state_row(), dims.state()).copy_from_slice(state);
    }
    Ok(outputs)
}

/// o `[T, V]` and the final state `[K, V]` of one head.
fn forward_head(head: &Head<'_>) -> (Vec<f64>, Vec<f64>) {
    let width = head.dims().value_dim;
    let mut state = head.initial_state();
    let mut o = vec![0.0; head.sequence.tokens * width];
    for (t, o) in o.chunks_exact_mut(width).enumerate() {
        let token = head.token(t);
        step(&token, &mut state, width);
        for (row, q) in state.chunks_exact(width).zip(token.q) {
            accumulate(o, head.scale() * q, row);
        }
    }
    (o, state)
}

/// S_{t−1} to S_t in place. Returns n = z − Aᵀe, what the token really writes.
fn step(token: &Token<'_>, state: &mut [f64], width: usize) -> Vec<f64> {
    let mut n: Vec<f64> = token.v.iter().enumerate().map(|(j, v)| token.w.at(j) * v).collect();
    for (i, row) in state.chunks_exact_mut(width).enumerate() {
        let alpha = token.g.at(i).exp();
        row.iter_mut().for_each(|s| *s *= alpha);
        accumulate(&mut n, -token.b.at(i) * token.k[i], row);
    }
    for (row, k) in state.chunks_exact_mut(width).zip(token.k) {
        accumulate(row, *k, &n);
    }
    n
}

/// `sum += factor · row`
fn accumulate(sum: &mut [f64], factor: f64, row: &[f64]) {
    for (sum, x) in sum.iter_mut().zip(row) {
        *sum += factor * x;
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
