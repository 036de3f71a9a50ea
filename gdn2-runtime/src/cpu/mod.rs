//! The recurrence natively, on all cores, in f32: no kernel, no chunks, token by token. Independent in sequence, value
//! head and slice of the value dim, which is what it runs in parallel over.

mod forward;

pub use forward::forward;

use crate::problem::Problem;
use gdn2_dsl::InputError;

/// What the recurrence gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Outputs {
    /// `[B, T, HV, V]`.
    pub o: Vec<f32>,
    /// `[slots, HV, K, V]` whatever the rule's layout, slots that no sequence writes as they were.
    pub final_state: Vec<f32>,
}

/// The same by the definition in float64, rounded to f32 at the end.
///
/// # Errors
/// Inputs the definition does not take.
pub fn defined(problem: &Problem<'_>) -> Result<Outputs, InputError> {
    let exact = gdn2_dsl::layer::forward(problem.rule(), &problem.inputs64())?;
    let narrow = |values: &[f64]| values.iter().map(|value| *value as f32).collect::<Vec<f32>>();
    let state = problem.dims().value_heads * problem.dims().state();
    let pool = problem.final_pool() * state;
    let before = problem.final_pool_before().map(|pool| problem.rule().as_kv(pool));
    let mut final_state = before.unwrap_or_else(|| vec![0f32; pool]);
    for sequence in 0..problem.sequences().len() {
        if let Some(slot) = problem.final_slot(sequence) {
            let values = narrow(&exact.final_state[sequence * state..(sequence + 1) * state]);
            final_state[slot * state..(slot + 1) * state].copy_from_slice(&values);
        }
    }
    Ok(Outputs { o: narrow(&exact.o), final_state })
}
