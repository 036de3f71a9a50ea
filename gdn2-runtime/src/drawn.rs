//! Cases made rather than found: a random draw with the definition's results, in the case files' format.

use crate::problem;
use crate::tensors::{Array, Case, CaseError, CuSeqlens, state_letters};
use gdn2_codegen::abi::Tensor;
use gdn2_codegen::schedule::Schedule;
use gdn2_dsl::bars::{Bar, Cost, NAMED_BAR, PATTERNS, bar};
use gdn2_dsl::prologue::{GateOf, NORM_EPSILON};
use gdn2_dsl::simulate::Pattern;
use gdn2_dsl::{Draw, Dtype, Gradients, InputError, Inputs, Rule, Write, layer, simulate};
use std::collections::BTreeMap;

impl Case {
    /// Draws inputs for a rule and computes outputs, and gradients if asked for, with the float64 reference.
    ///
    /// # Errors
    /// A draw whose sizes contradict one another.
    pub fn drawn(rule: &Rule, draw: &Draw, gradients: bool) -> Result<Case, CaseError> {
        let mut case = Case::drawn_inputs(rule, draw, gradients)?;
        let inputs = draw.inputs(rule);
        let outputs = layer::forward(rule, &inputs).map_err(|error| refused(draw, error))?;
        case.put(rule, &inputs, Tensor::O, Some(&outputs.o))?;
        case.put(rule, &inputs, Tensor::FinalState, Some(&outputs.final_state))?;
        if gradients {
            let upstream = draw.output_gradients(rule, &inputs);
            let found = layer::backward(rule, &inputs, &upstream);
            let found = found.map_err(|error| refused(draw, error))?;
            case.put(rule, &inputs, Tensor::DQ, Some(&found.dq))?;
            case.put(rule, &inputs, Tensor::DK, Some(&found.dk))?;
            case.put(rule, &inputs, Tensor::DV, Some(&found.dv))?;
            case.put(rule, &inputs, Tensor::DG, found.dg.as_ref())?;
            case.put(rule, &inputs, Tensor::DB, found.db.as_ref())?;
            case.put(rule, &inputs, Tensor::DW, found.dw.as_ref())?;
            case.put(rule, &inputs, Tensor::DInitialState, Some(&found.d_initial_state))?;
            case.put_named(rule, &inputs, "d", &found.named);
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
        case.set_named_bars(rule, draw)?;
        Ok(case)
    }

    /// Says in the case how far the gradients of what the rule names itself may be off on this draw, whatever the chunk.
    ///
    /// # Errors
    /// A draw whose sizes contradict one another.
    pub fn set_named_bars(&mut self, rule: &Rule, draw: &Draw) -> Result<(), CaseError> {
        let mut all: BTreeMap<String, Bar> = BTreeMap::new();
        let chunks =
            [16, 64].into_iter().filter(|_| self.tensors.contains_key(&Tensor::DO) && rule.prologue.named_count() > 0);
        for chunk in chunks {
            let simulated = simulated_gradients(rule, draw, chunk)?;
            for own in rule.prologue.named() {
                let name = format!("d{}", own.name);
                let Some(exact) = self.named.get(&name) else { continue };
                let reference: Vec<f64> = exact.data.iter().copied().map(f64::from).collect();
                let patterns = simulated.iter().filter_map(|found| found.named.get(own.name).cloned());
                let patterns: Vec<Vec<f64>> = patterns.collect();
                let Some(cost) = Cost::of(&patterns, &reference) else { continue };
                let bar = Bar::drawn(NAMED_BAR, &cost);
                all.entry(name).and_modify(|wider| *wider = wider.or(bar)).or_insert(bar);
            }
        }
        for (name, bar) in all {
            self.state_bar(&name, bar);
        }
        Ok(())
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
        let formulas = if rule.prologue.is_empty() { Vec::new() } else { formulas(rule) };
        let metadata = metadata.into_iter().chain(formulas);
        let mut case = Case {
            metadata: metadata.map(|(key, value)| (key.to_owned(), value)).collect(),
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
        case.put_named(rule, &inputs, "", &inputs.named);
        if gradients {
            let upstream = draw.output_gradients(rule, &inputs);
            case.put(rule, &inputs, Tensor::DO, Some(&upstream.d_out))?;
            case.put(rule, &inputs, Tensor::DFinalState, upstream.d_final_state.as_ref())?;
        }
        Ok(case)
    }

    /// What the rule names itself, each name with a prefix.
    fn put_named(&mut self, rule: &Rule, inputs: &Inputs, prefix: &str, numbers: &BTreeMap<String, Vec<f64>>) {
        for own in rule.prologue.named() {
            let Some(numbers) = numbers.get(own.name) else { continue };
            let shape = problem::named_shape(&own, &inputs.dims);
            let array = Array::new(&shape, numbers.iter().map(|x| *x as f32).collect());
            self.named.extend(array.map(|array| (format!("{prefix}{}", own.name), array)));
        }
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

/// What the metadata of a case says about a rule that computes its gates.
fn formulas(rule: &Rule) -> Vec<(&'static str, String)> {
    let prologue = &rule.prologue;
    let norm = |on: bool| if on { "l2norm" } else { "none" }.to_owned();
    let formula = |gate| prologue.gate(gate).map_or_else(String::new, |formula| formula.text(prologue));
    let params = prologue.params().iter().map(|param| format!("{}: {}", param.name, param.grain()));
    let lets = prologue.lets().iter();
    let lets = lets.map(|own| format!("{}: {} = {}", own.name, own.grain(), own.formula.text(prologue)));
    vec![
        ("rule", Rule { doc: String::new(), ..rule.clone() }.to_string()),
        ("params", params.collect::<Vec<_>>().join("; ")),
        ("lets", lets.collect::<Vec<_>>().join("; ")),
        ("formula_q", norm(prologue.normalises_q())),
        ("formula_k", norm(prologue.normalises_k())),
        ("l2norm_eps", NORM_EPSILON.to_string()),
        ("formula_decay", formula(GateOf::Decay)),
        ("formula_erase", formula(GateOf::Erase)),
        ("formula_write", formula(GateOf::Write)),
    ]
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
        Schedule::Backward(backward) => gradient_bars(rule, draw, exact, backward.scan.chunk),
        Schedule::Forward(forward) => output_bars(rule, draw, exact, forward.scan.chunk),
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
    let inputs = layer::computed(rule, &draw.inputs(rule)).map_err(|error| refused(draw, error))?;
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
    let mut simulated: Simulated = GRADIENTS.map(|tensor| (tensor, Vec::new())).into();
    for found in simulated_gradients(rule, draw, chunk)? {
        let [dq, dk, dv, state] = [found.dq, found.dk, found.dv, found.d_initial_state].map(Some);
        let all = [dq, dk, dv, found.dg, found.db, found.dw, state];
        for ((_, patterns), numbers) in simulated.iter_mut().zip(all) {
            patterns.extend(numbers);
        }
    }
    Ok(limits(rule, exact, simulated))
}

/// The gradients of a draw under each rounding.
fn simulated_gradients(rule: &Rule, draw: &Draw, chunk: u32) -> Result<Vec<Gradients>, CaseError> {
    let inputs = draw.inputs(rule);
    let upstream = draw.output_gradients(rule, &inputs);
    let made = layer::computed(rule, &inputs).map_err(|error| refused(draw, error))?;
    let simulated = patterns(&inputs).map(|pattern| {
        simulate::backward(rule, &made, &upstream, chunk as usize, pattern)
            .and_then(|found| layer::pulled_back(rule, &inputs, found))
            .map_err(|error| refused(draw, error))
    });
    simulated.collect()
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
