//! Backward of a case: forward first where it keeps what backward reads, then the gradients, all in one session.

use super::kernels::{self, Steps, at, named_at, note, offset_tables, upload};
use super::{Engine, Outcome, Run, RunError, array};
use crate::artifact::Artifact;
use crate::device::session::Session;
use crate::problem::{Problem, named_shape};
use crate::storage;
use crate::tensors::{Array, Case, CaseError};
use gdn2_codegen::abi::Tensor;
use gdn2_codegen::kernel::Pass;
use gdn2_dsl::{Dtype, OutputGradients, layer};
use std::collections::BTreeMap;

/// Gradients of tensors with a row per token, in the order of their inputs.
const GRADIENTS: [Tensor; 6] = [Tensor::DQ, Tensor::DK, Tensor::DV, Tensor::DG, Tensor::DB, Tensor::DW];

/// The kernels of a training step.
#[derive(Clone, Debug)]
pub struct Training {
    /// Forward that keeps what backward reads; `None` where backward recomputes all of it.
    pub forward: Option<Artifact>,
    /// Backward.
    pub backward: Artifact,
}

impl Engine {
    /// The compiled kernels of a backward run.
    ///
    /// # Errors
    /// The schedule is refused or nothing compiles it.
    pub fn training(&self, run: &Run<'_>) -> Result<Training, RunError> {
        let backward = self.artifact(run)?;
        let forward = match backward.kernel.keeping_forward() {
            Some(schedule) => {
                Some(self.artifact(&Run { pass: Pass::ForwardForBackward, schedule: &schedule, ..run.clone() })?)
            }
            None => None,
        };
        Ok(Training { forward, backward })
    }
}

/// What a forward call keeps for backward in host memory: contents of workspaces, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept(Vec<(String, Vec<u8>)>);

/// Runs the forward pass of a training step; what backward will read of it comes back too. Where backward recomputes
/// everything, and on the CPU, that is nothing and `inference` runs, the kernel of the plain forward pass.
///
/// # Errors
/// A device that refuses a kernel or the call.
pub fn forward_for_backward(
    run: &Run<'_>,
    training: Option<&Training>,
    inference: Option<&Artifact>,
    problem: &Problem<'_>,
) -> Result<(Outcome, Kept), RunError> {
    let keeping = training.and_then(|training| training.forward.as_ref());
    let session = keeping.map(|kernel| Session::on(run.device, kernel)).transpose()?.flatten();
    let Some(mut session) = session else {
        let run = Run { pass: Pass::Forward, ..run.clone() };
        return Ok((super::execute(&run, inference, problem)?, Kept::default()));
    };
    let outcome = kernels::run(&mut session, problem, run)?;
    Ok((outcome, Kept(session.kept()?)))
}

/// Runs forward-for-backward, unless backward recomputes, and backward; the CPU needs no kernels.
///
/// # Errors
/// A problem without the gradient of o, or with slot tables; a device that refuses a kernel or the call.
pub fn gradients(run: &Run<'_>, training: Option<&Training>, problem: &Problem<'_>) -> Result<Outcome, RunError> {
    gradients_from(run, training, problem, None)
}

/// [`gradients`], which does not run forward where what it kept is given.
///
/// # Errors
/// As there.
pub fn gradients_from(
    run: &Run<'_>,
    training: Option<&Training>,
    problem: &Problem<'_>,
    kept: Option<&Kept>,
) -> Result<Outcome, RunError> {
    if !problem.case().tensors.contains_key(&Tensor::DO) {
        return Err(
            CaseError::Missing { tensor: "do", shape: "[B,T,HV,V]: backward starts from the gradient of o" }.into()
        );
    }
    if problem.case().initial_slots.is_some() || problem.case().final_slots.is_some() {
        return Err(RunError::Slots);
    }
    let Some(Training { forward, backward }) = training else { return defined(problem) };
    let forward = forward.as_ref().filter(|_| kept.is_none());
    let first = forward.unwrap_or(backward);
    let Some(mut session) = Session::on(run.device, first)? else { return defined(problem) };
    let steps = Steps::new(problem, None);
    let mut call = upload(&mut session, problem, &steps)?;
    let encoded = |pool: Vec<f32>| storage::encode(pool.into_iter(), Dtype::F32);
    let case = problem.case();
    if let Some(initial) = case.tensors.get(&Tensor::InitialState) {
        call.initial_state = session.upload("initial_state", &encoded(initial.data.clone()))?;
    }
    call.cu_seqlens = offset_tables(&mut session, problem, &steps)?.first().copied().unwrap_or(0);
    call.cu_seqlens_is_64 = i32::from(case.cu_seqlens.as_ref().is_some_and(|packed| packed.is_64));
    for (name, bytes) in kept.iter().flat_map(|kept| &kept.0) {
        session.restore(name, bytes)?;
    }
    let mut reports = Vec::new();
    if forward.is_some() {
        reports.extend(session.launch(&call)?);
        session.switch(backward)?;
    }
    if let Some(grad) = case.tensors.get(&Tensor::DFinalState) {
        call.gradients.d_final_state = session.upload("d_final_state", &encoded(grad.data.clone()))?;
    }
    let state = problem.dims().value_heads * problem.dims().state() * 4;
    if wants_state_gradient(case) {
        call.gradients.d_initial_state = session.poisoned("d_initial_state", problem.initial_pool() * state)?;
    }
    for tensor in GRADIENTS {
        let elements: usize = problem.shape(tensor).iter().product();
        if !backward.kernel.launches.iter().any(|launch| launch.takes(tensor)) {
            continue;
        }
        let address = session.poisoned(tensor.name(), elements * problem.dtype(tensor).bytes() as usize)?;
        let view = at(problem, tensor, address);
        if let Some(field) = call.view_mut(tensor) {
            *field = view;
        }
    }
    let named = problem.rule().prologue.named();
    for (own, view) in named.iter().zip(&mut call.named_gradients) {
        let elements: usize = named_shape(own, &problem.dims()).iter().product();
        let address = session.poisoned(own.name, elements * own.storage.bytes() as usize)?;
        *view = named_at(problem, own, address);
    }
    session.time(run.repeats, run.cold);
    reports.extend(session.launch(&call)?);
    let written = GRADIENTS.map(|tensor| call.view_mut(tensor).map_or(0, |view| view.address));
    let own = call.named_gradients.iter().map(|view| view.address);
    let given = [call.gradients.d_initial_state].into_iter().chain(own);
    note(&mut reports, session.unwritten(written.into_iter().chain(given)));
    let mut tensors = BTreeMap::new();
    for tensor in GRADIENTS {
        if let Some(view) = call.view_mut(tensor).copied().filter(|view| view.address != 0) {
            let values = storage::decode(&session.read(view.address)?, problem.dtype(tensor));
            tensors.insert(tensor, array(problem, tensor, values));
        }
    }
    if call.gradients.d_initial_state != 0 {
        let pool = storage::decode(&session.read(call.gradients.d_initial_state)?, Dtype::F32);
        tensors.insert(Tensor::DInitialState, array(problem, Tensor::DInitialState, pool));
    }
    let mut gradients = BTreeMap::new();
    for (own, view) in named.iter().zip(&call.named_gradients) {
        let data = storage::decode(&session.read(view.address)?, own.storage);
        let shape = named_shape(own, &problem.dims());
        gradients.insert(format!("d{}", own.name), Array { shape, data, stored: Dtype::F32 });
    }
    let kernel = Some((backward.kernel.arch, backward.kernel.schedule));
    Ok(Outcome { tensors, named: gradients, kernel, reports, milliseconds: session.milliseconds().to_vec() })
}

/// Whether the gradient of the initial state is asked for: where a state is given, or, for a sequence that starts from
/// none, where the case says what that gradient should be.
fn wants_state_gradient(case: &Case) -> bool {
    [Tensor::InitialState, Tensor::DInitialState].iter().any(|tensor| case.tensors.contains_key(tensor))
}

/// The definition's gradients, on the CPU.
fn defined(problem: &Problem<'_>) -> Result<Outcome, RunError> {
    let wide = |tensor| {
        let array = problem.case().tensors.get(&tensor);
        array.map(|array| array.data.iter().map(|value| f64::from(*value)).collect::<Vec<f64>>())
    };
    let rule = problem.rule();
    let given = OutputGradients {
        d_out: wide(Tensor::DO).unwrap_or_default(),
        d_final_state: wide(Tensor::DFinalState).map(|states| rule.as_kv(states)),
    };
    let mut gradients = layer::backward(rule, &problem.inputs64(), &given)?;
    let narrow = |values: Vec<f64>| values.into_iter().map(|value| value as f32).collect::<Vec<f32>>();
    let named = rule.prologue.named().into_iter().filter_map(|own| {
        let values = gradients.named.remove(own.name)?;
        let shape = named_shape(&own, &problem.dims());
        Some((format!("d{}", own.name), Array { shape, data: narrow(values), stored: Dtype::F32 }))
    });
    let named: BTreeMap<String, Array> = named.collect();
    let found = [
        (Tensor::DQ, Some(gradients.dq)),
        (Tensor::DK, Some(gradients.dk)),
        (Tensor::DV, Some(gradients.dv)),
        (Tensor::DG, gradients.dg),
        (Tensor::DB, gradients.db),
        (Tensor::DW, gradients.dw),
        (Tensor::DInitialState, wants_state_gradient(problem.case()).then(|| rule.laid_out(gradients.d_initial_state))),
    ];
    let tensors = found
        .into_iter()
        .filter_map(|(tensor, values)| Some((tensor, array(problem, tensor, narrow(values?)))))
        .collect();
    Ok(Outcome { tensors, named, kernel: None, reports: Vec::new(), milliseconds: Vec::new() })
}
