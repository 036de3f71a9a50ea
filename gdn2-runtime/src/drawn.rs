//! Cases made rather than found: a random draw with the definition's results, in the case files' format.

use crate::problem;
use crate::tensors::{Array, Case, CaseError, CuSeqlens, state_letters};
use gdn2_codegen::abi::Tensor;
use gdn2_codegen::schedule::Schedule;
use gdn2_dsl::bars::{Deviation, bar, drawn_bar};
use gdn2_dsl::{Draw, Dtype, InputError, Inputs, Rule, Write, reference, simulate};
use std::collections::BTreeMap;

impl Case {
    /// Draws inputs for a rule and computes outputs, and gradients if asked for, with the float64 reference.
    ///
    /// # Errors
    /// A draw whose sizes contradict one another.
    pub fn drawn(rule: &Rule, draw: &Draw, gradients: bool) -> Result<Case, CaseError> {
        let mut case = Case::drawn_inputs(rule, draw, gradients)?;
        let inputs = draw.inputs(rule);
        let outputs = reference::forward(rule.combination(), &inputs).map_err(|error| refused(draw, error))?;
        case.put(rule, &inputs, Tensor::O, Some(&outputs.o))?;
        case.put(rule, &inputs, Tensor::FinalState, Some(&outputs.final_state))?;
        if gradients {
            let upstream = draw.output_gradients(rule, &inputs);
            let found = reference::backward(rule.combination(), &inputs, &upstream);
            let found = found.map_err(|error| refused(draw, error))?;
            case.put(rule, &inputs, Tensor::DQ, Some(&found.dq))?;
            case.put(rule, &inputs, Tensor::DK, Some(&found.dk))?;
            case.put(rule, &inputs, Tensor::DV, Some(&found.dv))?;
            case.put(rule, &inputs, Tensor::DG, found.dg.as_ref())?;
            case.put(rule, &inputs, Tensor::DB, found.db.as_ref())?;
            case.put(rule, &inputs, Tensor::DW, found.dw.as_ref())?;
            case.put(rule, &inputs, Tensor::DInitialState, Some(&found.d_initial_state))?;
        }
        Ok(case)
    }

    /// Draws inputs, and the gradients backward starts from if asked for, and computes nothing.
    ///
    /// # Errors
    /// A draw whose sizes contradict one another.
    pub fn drawn_inputs(rule: &Rule, draw: &Draw, gradients: bool) -> Result<Case, CaseError> {
        draw.check(rule).map_err(|error| refused(draw, error))?;
        // In float64 here, in f32 in the case.
        problem::expect_room(&draw.dims(rule), draw.cu_seqlens.as_ref().map_or(draw.batch, Vec::len), 12)?;
        let inputs = draw.inputs(rule);
        let write = match rule.write {
            Write::Tied => "tied".to_owned(),
            Write::Own(gate) => gate.grain.to_string(),
        };
        let rounded = match rule.dtype {
            Dtype::Bf16 => "bfloat16",
            Dtype::F16 => "float16",
            Dtype::F32 => "float32",
        };
        let metadata = [
            ("decay", rule.decay.grain.to_string()),
            ("erase", rule.erase.grain.to_string()),
            ("write", write),
            ("scale", inputs.scale.to_string()),
            ("bar_scale", "1".to_owned()),
            ("inputs_rounded_to", rounded.to_owned()),
            ("layout", format!("{LAYOUT}; {}", state_letters(rule.state))),
        ];
        let offsets = |offsets: &Vec<usize>| CuSeqlens {
            offsets: offsets.iter().map(|offset| *offset as i64).collect(),
            is_64: false,
        };
        let mut case = Case {
            metadata: metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            cu_seqlens: inputs.cu_seqlens.as_ref().map(offsets),
            ..Case::default()
        };
        case.put(rule, &inputs, Tensor::Q, Some(&inputs.q))?;
        case.put(rule, &inputs, Tensor::K, Some(&inputs.k))?;
        case.put(rule, &inputs, Tensor::V, Some(&inputs.v))?;
        case.put(rule, &inputs, Tensor::G, inputs.g.as_ref())?;
        case.put(rule, &inputs, Tensor::B, inputs.b.as_ref())?;
        case.put(rule, &inputs, Tensor::W, inputs.w.as_ref())?;
        case.put(rule, &inputs, Tensor::InitialState, inputs.initial_state.as_ref())?;
        if gradients {
            let upstream = draw.output_gradients(rule, &inputs);
            case.put(rule, &inputs, Tensor::DO, Some(&upstream.d_out))?;
            case.put(rule, &inputs, Tensor::DFinalState, upstream.d_final_state.as_ref())?;
        }
        Ok(case)
    }

    fn put(
        &mut self,
        rule: &Rule,
        inputs: &Inputs,
        tensor: Tensor,
        numbers: Option<&Vec<f64>>,
    ) -> Result<(), CaseError> {
        let Some(numbers) = numbers else { return Ok(()) };
        let (letters, want) = problem::shape(rule, &inputs.dims, tensor, inputs.states());
        let stored = laid_out(rule, tensor, numbers.iter().map(|x| *x as f32).collect());
        let array = Array::new(&want, stored);
        let got = vec![numbers.len()];
        self.tensors.insert(
            tensor,
            array.ok_or(CaseError::Shape { tensor: tensor.name(), got, letters, want: want.to_vec() })?,
        );
        Ok(())
    }
}

fn refused(draw: &Draw, error: InputError) -> CaseError {
    let Draw { batch, tokens, heads, value_heads, .. } = draw;
    let got = format!("B = {batch}, T = {tokens}, H = {heads}, HV = {value_heads}");
    CaseError::Size { field: "draw", got, limit: error.to_string() }
}

/// How far each result of a draw may be from the definition under a schedule: see [`gradient_bars`]. `exact` is the
/// draw's case, gradients included where the schedule is backward's.
///
/// # Errors
/// A draw whose sizes contradict one another.
pub fn bars(rule: &Rule, draw: &Draw, exact: &Case, schedule: &Schedule) -> Result<BTreeMap<Tensor, f64>, CaseError> {
    match schedule {
        Schedule::Backward(backward) => gradient_bars(rule, draw, exact, backward.chunk),
        Schedule::Forward(forward) => output_bars(rule, draw, exact, forward.chunk),
        // Decode goes token by token; the shortest chunk rounds no less.
        Schedule::Decode(_) => output_bars(rule, draw, exact, 16),
    }
}

fn output_bars(rule: &Rule, draw: &Draw, exact: &Case, chunk: u32) -> Result<BTreeMap<Tensor, f64>, CaseError> {
    let rounded = simulate::forward(rule, &draw.inputs(rule), chunk as usize).map_err(|error| refused(draw, error))?;
    let simulated = [(Tensor::O, Some(rounded.o)), (Tensor::FinalState, Some(rounded.final_state))];
    Ok(simulated.into_iter().filter_map(|(tensor, numbers)| limit(rule, exact, tensor, numbers?)).collect())
}

/// States as a case of the rule has them, other tensors as they are.
fn laid_out<T: Copy>(rule: &Rule, tensor: Tensor, numbers: Vec<T>) -> Vec<T> {
    match tensor {
        Tensor::InitialState | Tensor::FinalState | Tensor::DFinalState | Tensor::DInitialState => {
            rule.laid_out(numbers)
        }
        _ => numbers,
    }
}

/// A tensor's bar where simulation gave these numbers for it; `None` where the case does not have it.
fn limit(rule: &Rule, exact: &Case, tensor: Tensor, simulated: Vec<f64>) -> Option<(Tensor, f64)> {
    let reference: Vec<f64> = exact.tensors.get(&tensor)?.data.iter().copied().map(f64::from).collect();
    let rounding = Deviation::of(laid_out(rule, tensor, simulated).into_iter(), &reference).relative;
    Some((tensor, drawn_bar(bar(tensor.name())?, rounding)))
}

/// How far each gradient of a draw may be from the definition when a kernel goes `chunk` tokens at a time: the larger of
/// 1.5 bars and 1.5 times what rounding the matrix operands costs in simulation on that very draw, and never more than 6
/// bars. `exact` is the draw's case, gradients included.
///
/// # Errors
/// A draw whose sizes contradict one another.
pub fn gradient_bars(rule: &Rule, draw: &Draw, exact: &Case, chunk: u32) -> Result<BTreeMap<Tensor, f64>, CaseError> {
    let inputs = draw.inputs(rule);
    let upstream = draw.output_gradients(rule, &inputs);
    let rounded = simulate::backward(rule, &inputs, &upstream, chunk as usize).map_err(|error| refused(draw, error))?;
    let simulated = [
        (Tensor::DQ, Some(rounded.dq)),
        (Tensor::DK, Some(rounded.dk)),
        (Tensor::DV, Some(rounded.dv)),
        (Tensor::DG, rounded.dg),
        (Tensor::DB, rounded.db),
        (Tensor::DW, rounded.dw),
        (Tensor::DInitialState, Some(rounded.d_initial_state).filter(|_| draw.initial_state)),
    ];
    Ok(simulated.into_iter().filter_map(|(tensor, numbers)| limit(rule, exact, tensor, numbers?)).collect())
}

/// What the metadata of every case says about its tensors.
const LAYOUT: &str = "q,k [B,T,H,K]; v,o [B,T,HV,V]; gates [B,T,HV] or [B,T,HV,channels]";
