//! The chunked form with every matrix operand rounded to the rule's dtype and sums in float32: what a perfect kernel
//! can be expected to lose. Tolerances for random inputs follow from it.

mod backward;
mod chunk;
mod matrix;
mod rounding;

use std::borrow::Cow;

use rayon::prelude::*;

use crate::inputs::{Head, InputError, Inputs, Outputs, row_mut};
use crate::rule::Rule;
use chunk::Chunk;
use matrix::Matrix;
use rounding::Rounding;

pub use backward::backward;
pub use rounding::Pattern;

/// Runs the chunked forward pass with `chunk` tokens per chunk. `inputs` are what the recurrence is given, rows normalised
/// and gates computed; o is rounded to the rule's dtype as it would be stored.
///
/// # Errors
/// Tensors that do not fit the rule or one another, or a chunk of 0.
pub fn forward(rule: &Rule, inputs: &Inputs, chunk: usize, pattern: Pattern) -> Result<Outputs, InputError> {
    let rounding = Rounding::new(rule.dtype, pattern);
    let inputs = &*with_kept_rows(rule, inputs, rounding);
    let heads = heads(rule, inputs, chunk)?;
    let dims = inputs.dims;
    let results: Vec<(Vec<Matrix>, Matrix)> =
        heads.par_iter().map(|head| forward_head(head, rounding, chunk)).collect();
    let mut outputs = Outputs {
        o: vec![0.0; inputs.v.len()],
        final_state: vec![0.0; inputs.states() * dims.value_heads * dims.state()],
    };
    for (head, (o, state)) in heads.iter().zip(&results) {
        for (t, o) in o.iter().flat_map(|o| o.data.chunks_exact(dims.value_dim)).enumerate() {
            copy(row_mut(&mut outputs.o, head.value_row(t), dims.value_dim), o);
        }
        copy(row_mut(&mut outputs.final_state, head.state_row(), dims.state()), &state.data);
    }
    Ok(outputs)
}

/// Rows that the rule normalises, as a kernel keeps them: rounded before anything is made of them, so that all that is
/// made of a row shares its error. Rows that are given are of the rule's dtype already.
fn with_kept_rows<'a>(rule: &Rule, inputs: &'a Inputs, rounding: Rounding) -> Cow<'a, Inputs> {
    let mut kept = Cow::Borrowed(inputs);
    let round = |rows: &mut Vec<f64>| rows.iter_mut().for_each(|x| *x = f64::from(rounding.round(*x as f32)));
    if rule.prologue.normalises_q() {
        round(&mut kept.to_mut().q);
    }
    if rule.prologue.normalises_k() {
        round(&mut kept.to_mut().k);
    }
    kept
}

fn heads<'a>(rule: &Rule, inputs: &'a Inputs, chunk: usize) -> Result<Vec<Head<'a>>, InputError> {
    inputs.check(rule.combination())?;
    if chunk == 0 {
        return Err(InputError::Dims("chunk: 0 tokens; at least 1 is needed".to_string()));
    }
    Ok(inputs.heads(rule.combination()))
}

fn copy(to: &mut [f64], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = f64::from(*from));
}

fn state_matrix(head: &Head<'_>, values: &[f64]) -> Matrix {
    let dims = head.dims();
    Matrix { rows: dims.key_dim, columns: dims.value_dim, data: values.iter().map(|x| *x as f32).collect() }
}

/// Token ranges of a head's chunks.
fn chunks(
    head: &Head<'_>,
    chunk: usize,
) -> impl DoubleEndedIterator<Item = std::ops::Range<usize>> + ExactSizeIterator {
    let tokens = head.sequence.tokens;
    (0..tokens.div_ceil(chunk)).map(move |index| index * chunk..((index + 1) * chunk).min(tokens))
}

/// o of each chunk, and the final state.
fn forward_head(head: &Head<'_>, rounding: Rounding, chunk: usize) -> (Vec<Matrix>, Matrix) {
    let mut state = state_matrix(head, &head.initial_state());
    let o = chunks(head, chunk)
        .map(|tokens| {
            let chunk = Chunk::new(head, tokens, rounding);
            let written = chunk.written(&state, rounding).rounded(rounding);
            let mut o = chunk.q_hat.times(&state.rounded(rounding));
            o += &chunk.p.times(&written);
            chunk.advance(&mut state, &written);
            o.rounded(rounding)
        })
        .collect();
    (o, state)
}
