//! Cases made rather than found: a random draw with the definition's results, in the case files' format.

use crate::problem;
use crate::tensors::{Array, Case, CaseError, CuSeqlens, state_letters};
use gdn2_codegen::abi::Tensor;
use gdn2_codegen::schedule::Schedule;
use gdn2_dsl::bars::{Bar, Cost, PATTERNS, bar};
use gdn2_dsl::simulate::Pattern;
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

    /// The same, with the bars that rounding asks for on this draw, whatever the chunk: what a file is to hold.
    ///
    /// # Errors
    /// A draw whose sizes contradict one another.
    pub fn drawn_with_bars(rule: &Rule, draw: &Draw, gradients: bool) -> Result<Case, CaseError> {
        let mut case = Case::drawn(rule, draw, gradients)?;
        let bars = bars_of_any_chunk(rule, draw, &case)?;
        case.set_bars(&bars);
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

/// How far each result of a draw may be from the definition under a schedule: see [`Bar::drawn`]. `exact` is the draw's
/// case, gradients included where the schedule is backward's.
///
/// # Errors
/// A draw whose sizes contradict one another.
pub fn bars(rule: &Rule, draw: &Draw, exact: &Case, schedule: &Schedule) -> Result<BTreeMap<Tensor, Bar>, CaseError> {
    match schedule {
        Schedule::Backward(backward) => gradient_bars(rule, draw, exact, backward.chunk),
        Schedule::Forward(forward) => output_bars(rule, draw, exact, forward.chunk),
        // Decode goes token by token; the shortest chunk rounds no less.
        Schedule::Decode(_) => output_bars(rule, draw, exact, 16),
    }
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

/// The bars of a kernel that goes by chunks of any length, for one result or one pass or another.
///
/// # Errors
/// A draw whose sizes contradict one another.
fn bars_of_any_chunk(rule: &Rule, draw: &Draw, exact: &Case) -> Result<BTreeMap<Tensor, Bar>, CaseError> {
    let mut all: BTreeMap<Tensor, Bar> = BTreeMap::new();
    for chunk in [16, 64] {
        let mut bars = output_bars(rule, draw, exact, chunk)?;
        if exact.tensors.contains_key(&Tensor::DO) {
            bars.extend(all_gradient_bars(rule, draw, exact, chunk)?);
        }
        for (tensor, bar) in bars {
            all.entry(tensor).and_modify(|wider| *wider = wider.or(bar)).or_insert(bar);
        }
    }
    Ok(all)
}

/// One simulation of a draw per rounding, by result.
type Simulated = Vec<(Tensor, Vec<Vec<f64>>)>;

fn output_bars(rule: &Rule, draw: &Draw, exact: &Case, chunk: u32) -> Result<BTreeMap<Tensor, Bar>, CaseError> {
    let inputs = draw.inputs(rule);
    let mut simulated: Simulated = [Tensor::O, Tensor::FinalState].map(|tensor| (tensor, Vec::new())).into();
    for pattern in patterns(&inputs) {
        let outputs = simulate::forward(rule, &inputs, chunk as usize, pattern);
        let outputs = outputs.map_err(|error| refused(draw, error))?;
        for ((_, all), numbers) in simulated.iter_mut().zip([outputs.o, outputs.final_state]) {
            all.push(numbers);
        }
    }
    Ok(limits(rule, exact, simulated))
}

/// How far each gradient of a draw may be from the definition when a kernel goes `chunk` tokens at a time. `exact` is the
/// draw's case, gradients included.
///
/// # Errors
/// A draw whose sizes contradict one another.
pub fn gradient_bars(rule: &Rule, draw: &Draw, exact: &Case, chunk: u32) -> Result<BTreeMap<Tensor, Bar>, CaseError> {
    let mut bars = all_gradient_bars(rule, draw, exact, chunk)?;
    if !draw.initial_state {
        bars.remove(&Tensor::DInitialState);
    }
    Ok(bars)
}

/// The same with that of a state that was not given.
fn all_gradient_bars(rule: &Rule, draw: &Draw, exact: &Case, chunk: u32) -> Result<BTreeMap<Tensor, Bar>, CaseError> {
    const GRADIENTS: [Tensor; 7] =
        [Tensor::DQ, Tensor::DK, Tensor::DV, Tensor::DG, Tensor::DB, Tensor::DW, Tensor::DInitialState];
    let inputs = draw.inputs(rule);
    let upstream = draw.output_gradients(rule, &inputs);
    let mut simulated: Simulated = GRADIENTS.map(|tensor| (tensor, Vec::new())).into();
    for pattern in patterns(&inputs) {
        let found = simulate::backward(rule, &inputs, &upstream, chunk as usize, pattern);
        let found = found.map_err(|error| refused(draw, error))?;
        let [dq, dk, dv, state] = [found.dq, found.dk, found.dv, found.d_initial_state].map(Some);
        let all = [dq, dk, dv, found.dg, found.db, found.dw, state];
        for ((_, patterns), numbers) in simulated.iter_mut().zip(all) {
            patterns.extend(numbers);
        }
    }
    Ok(limits(rule, exact, simulated))
}

/// The roundings a draw's bars are taken from. Of many numbers each rounding says as much as several of few.
fn patterns(inputs: &Inputs) -> impl Iterator<Item = Pattern> {
    let tokens = inputs.dims.batch * inputs.dims.tokens * inputs.dims.value_heads;
    (0..if tokens > 4096 { PATTERNS / 3 } else { PATTERNS }).map(Pattern::Other)
}

/// The bars of the tensors that simulations gave and the case has.
fn limits(rule: &Rule, exact: &Case, simulated: Simulated) -> BTreeMap<Tensor, Bar> {
    let limit = |(tensor, patterns): (Tensor, Vec<Vec<f64>>)| {
        let reference: Vec<f64> = exact.tensors.get(&tensor)?.data.iter().copied().map(f64::from).collect();
        let patterns: Vec<Vec<f64>> = patterns.into_iter().map(|numbers| laid_out(rule, tensor, numbers)).collect();
        Some((tensor, Bar::drawn(bar(tensor.name())?, &Cost::of(&patterns, &reference)?)))
    };
    simulated.into_iter().filter_map(limit).collect()
}

/// What the metadata of every case says about its tensors.
const LAYOUT: &str = "q,k [B,T,H,K]; v,o [B,T,HV,V]; gates [B,T,HV] or [B,T,HV,channels]";
