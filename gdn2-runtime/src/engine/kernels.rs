//! A problem through a kernel: tensors into device memory in the rule's storage, one launch or, for decode, one per
//! run of tokens with the state carried along, and the results back.

use super::{Outcome, Run, RunError, array};
use crate::device::session::Session;
use crate::device::{Finding, Report};
use crate::problem::{Problem, has_channels};
use crate::raw::{Arguments, View};
use crate::storage;
use gdn2_codegen::abi::Tensor;
use gdn2_codegen::kernel::Pass;
use gdn2_dsl::prologue::NamedTensor;
use gdn2_dsl::{Dims, Dtype};
use std::collections::BTreeMap;

/// The tensors with a row per token that a forward call reads.
const INPUTS: [Tensor; 6] = [Tensor::Q, Tensor::K, Tensor::V, Tensor::G, Tensor::B, Tensor::W];

/// One launch's share of the tokens.
struct Step {
    /// First row in the uploaded tensors: a token of every batch row when dense, of the packed row otherwise.
    row: usize,
    /// Tokens per dense row, or of all packed sequences together.
    tokens: usize,
    /// Offsets of the packed sequences, counted from `row`.
    offsets: Option<Vec<i64>>,
}

/// How the tokens are cut into launches.
pub(super) struct Steps {
    steps: Vec<Step>,
    /// Uploaded row → row of the case, where they differ: packed sequences are laid out step after step.
    order: Option<Vec<usize>>,
}

pub(super) fn run(session: &mut Session, problem: &Problem<'_>, run: &Run<'_>) -> Result<Outcome, RunError> {
    session.time(run.repeats, run.cold);
    let (arch, schedule) = (session.kernel().arch, session.kernel().schedule);
    let steps = Steps::new(problem, (run.pass == Pass::Decode).then(|| run.tokens_per_launch.max(1)));
    let mut call = upload(session, problem, &steps)?;
    let o = call.o.address;
    let states = States::new(session, problem, run.final_state, steps.steps.len())?;
    let tables = offset_tables(session, problem, &steps)?;
    call.cu_seqlens_is_64 = i32::from(problem.case().cu_seqlens.as_ref().is_some_and(|packed| packed.is_64));
    let mut reports = Vec::new();
    for (index, step) in steps.steps.iter().enumerate() {
        call.cu_seqlens = tables.get(index).copied().unwrap_or(0);
        let call = states.of_step(at_row(call, problem, step), index, steps.steps.len());
        reports.extend(session.launch(&call)?);
    }
    note(&mut reports, session.unwritten([o, states.last]));
    let rows = storage::decode(&session.read(o)?, problem.dtype(Tensor::O));
    let width = problem.dims().value_heads * problem.dims().value_dim;
    let mut tensors = BTreeMap::from([(Tensor::O, array(problem, Tensor::O, steps.restored(&rows, width)))]);
    if run.final_state {
        let pool = storage::decode(&session.read(states.last)?, Dtype::F32);
        tensors.insert(Tensor::FinalState, array(problem, Tensor::FinalState, pool));
    }
    let (named, milliseconds) = (BTreeMap::new(), session.milliseconds().to_vec());
    Ok(Outcome { tensors, named, kernel: Some((arch, schedule)), reports, milliseconds })
}

/// Adds what only the whole run shows to the report of its last launch.
#[cfg(feature = "vm")]
pub(super) fn note(reports: &mut Vec<Report>, findings: Vec<Finding>) {
    match reports.last_mut() {
        Some(last) => last.findings.extend(findings),
        None if findings.is_empty() => {}
        None => reports.push(Report { findings, ..Report::default() }),
    }
}

/// Nobody reports.
#[cfg(not(feature = "vm"))]
pub(super) fn note(_: &mut Vec<Report>, _: Vec<Finding>) {}

impl Steps {
    /// One launch for everything, or launches of `per_launch` tokens of every sequence.
    pub(super) fn new(problem: &Problem<'_>, per_launch: Option<usize>) -> Steps {
        let sequences = problem.sequences();
        let longest = sequences.iter().map(|sequence| sequence.tokens).max().unwrap_or(0);
        let per_launch = per_launch.unwrap_or(longest).max(1);
        let count = longest.div_ceil(per_launch).max(1);
        let Some(packed) = &problem.case().cu_seqlens else {
            let tokens = problem.dims().tokens;
            let step = |index| {
                let row = index * per_launch;
                Step { row, tokens: per_launch.min(tokens - row.min(tokens)), offsets: None }
            };
            return Steps { steps: (0..count).map(step).collect(), order: None };
        };
        if count == 1 {
            let step = Step { row: 0, tokens: problem.dims().tokens, offsets: Some(packed.offsets.clone()) };
            return Steps { steps: vec![step], order: None };
        }
        let mut order = Vec::with_capacity(problem.dims().tokens);
        let mut steps = Vec::with_capacity(count);
        for index in 0..count {
            let row = order.len();
            let mut offsets = vec![0];
            for sequence in sequences {
                let first = (index * per_launch).min(sequence.tokens);
                let end = (first + per_launch).min(sequence.tokens);
                order.extend(sequence.start + first..sequence.start + end);
                offsets.push((order.len() - row) as i64);
            }
            steps.push(Step { row, tokens: order.len() - row, offsets: Some(offsets) });
        }
        Steps { steps, order: Some(order) }
    }

    /// The rows of a case's tensor as they are uploaded.
    fn arranged(&self, values: Vec<f32>, width: usize) -> Vec<f32> {
        match &self.order {
            None => values,
            Some(order) => order.iter().flat_map(|row| &values[row * width..(row + 1) * width]).copied().collect(),
        }
    }

    /// The way back.
    fn restored(&self, values: &[f32], width: usize) -> Vec<f32> {
        let Some(order) = &self.order else { return values.to_vec() };
        let mut rows = vec![f32::NAN; values.len()];
        for (row, from) in order.iter().zip(values.chunks_exact(width)) {
            rows[row * width..(row + 1) * width].copy_from_slice(from);
        }
        rows
    }
}

/// Every token tensor on the device, o poisoned, sizes filled in.
pub(super) fn upload(session: &mut Session, problem: &Problem<'_>, steps: &Steps) -> Result<Arguments, RunError> {
    let Dims { batch, tokens, heads, value_heads, .. } = problem.dims();
    let mut call = Arguments {
        sequences: int(problem.sequences().len()),
        tokens: int(tokens),
        key_heads: int(heads),
        value_heads: int(value_heads),
        scale: problem.scale(),
        ..Arguments::default()
    };
    for tensor in INPUTS.into_iter().chain([Tensor::O, Tensor::DO]) {
        let (heads, channels) = layout(problem, tensor);
        let address = if tensor == Tensor::O {
            let elements = batch * tokens * heads * channels;
            session.poisoned(tensor.name(), elements * problem.dtype(tensor).bytes() as usize)?
        } else {
            let Some(array) = problem.case().tensors.get(&tensor) else { continue };
            let values = steps.arranged(array.data.clone(), heads * channels);
            session.upload(tensor.name(), &storage::encode(values.into_iter(), problem.dtype(tensor)))?
        };
        let view = at(problem, tensor, address);
        if let Some(field) = call.view_mut(tensor) {
            *field = view;
        }
    }
    for (own, place) in problem.rule().prologue.named().into_iter().zip(0..) {
        let Some(array) = problem.case().named.get(own.name) else { continue };
        let width = array.data.len() / (batch * tokens).max(1);
        let values = if own.per_token { steps.arranged(array.data.clone(), width) } else { array.data.clone() };
        let address = session.upload(own.name, &storage::encode(values.into_iter(), own.storage))?;
        call.named[place] = named_at(problem, &own, address);
    }
    let mut table = |name, slots: &Option<Vec<i32>>| match slots {
        Some(slots) => session.upload(name, &slots.iter().flat_map(|slot| slot.to_le_bytes()).collect::<Vec<u8>>()),
        None => Ok(0),
    };
    call.initial_slots = table("initial_slots", &problem.case().initial_slots)?;
    call.final_slots = table("final_slots", &problem.case().final_slots)?;
    Ok(call)
}

/// A token tensor laid out densely from an address.
pub(super) fn at(problem: &Problem<'_>, tensor: Tensor, address: u64) -> View {
    let (heads, channels) = layout(problem, tensor);
    let (token, head) = ((heads * channels) as i64, channels as i64);
    View { address, batch: token * problem.dims().tokens as i64, token, head }
}

/// A tensor that the rule names itself, laid out densely from an address.
pub(super) fn named_at(problem: &Problem<'_>, own: &NamedTensor<'_>, address: u64) -> View {
    let Dims { tokens, value_heads, .. } = problem.dims();
    let head = own.axis.map_or(1, |axis| i64::from(axis.channels(problem.rule())));
    let token = head * value_heads as i64;
    View { address, batch: token * tokens as i64, token, head }
}

/// Heads and channels of a token tensor; a scalar gate has one channel.
fn layout(problem: &Problem<'_>, tensor: Tensor) -> (usize, usize) {
    let Dims { heads, value_heads, key_dim, value_dim, .. } = problem.dims();
    match tensor {
        Tensor::Q | Tensor::K | Tensor::DQ | Tensor::DK => (heads, key_dim),
        Tensor::G | Tensor::B | Tensor::DG | Tensor::DB if has_channels(problem.rule(), tensor) => {
            (value_heads, key_dim)
        }
        Tensor::G | Tensor::B | Tensor::DG | Tensor::DB => (value_heads, 1),
        _ if has_channels(problem.rule(), tensor) => (value_heads, value_dim),
        _ => (value_heads, 1),
    }
}

/// The call for one step: every tensor from the step's first row.
fn at_row(mut call: Arguments, problem: &Problem<'_>, step: &Step) -> Arguments {
    for tensor in INPUTS.into_iter().chain([Tensor::O]) {
        let bytes = i64::from(problem.dtype(tensor).bytes());
        if let Some(view) = call.view_mut(tensor).filter(|view| view.address != 0) {
            view.address = view.address.wrapping_add_signed(view.token * step.row as i64 * bytes);
        }
    }
    for (own, view) in problem.rule().prologue.named().iter().zip(&mut call.named).filter(|(own, _)| own.per_token) {
        let bytes = i64::from(own.storage.bytes());
        view.address = view.address.wrapping_add_signed(view.token * step.row as i64 * bytes);
    }
    call.tokens = int(step.tokens);
    call
}

/// Address of each step's offsets; empty when dense.
pub(super) fn offset_tables(session: &mut Session, problem: &Problem<'_>, steps: &Steps) -> Result<Vec<u64>, RunError> {
    let Some(packed) = &problem.case().cu_seqlens else { return Ok(Vec::new()) };
    let bytes = |offset: &i64| {
        if packed.is_64 { offset.to_le_bytes().to_vec() } else { (*offset as i32).to_le_bytes().to_vec() }
    };
    steps
        .steps
        .iter()
        .map(|step| {
            let table: Vec<u8> = step.offsets.iter().flatten().flat_map(bytes).collect();
            Ok(session.upload("cu_seqlens", &table)?)
        })
        .collect()
}

/// Where states live: the pools of the call, and between decode launches one state per sequence.
struct States {
    first: u64,
    carried: u64,
    last: u64,
}

impl States {
    fn new(session: &mut Session, problem: &Problem<'_>, wanted: bool, steps: usize) -> Result<States, RunError> {
        let encoded = |pool: Vec<f32>| storage::encode(pool.into_iter(), Dtype::F32);
        let state = problem.dims().value_heads * problem.dims().state() * 4;
        let first = match problem.case().tensors.get(&Tensor::InitialState) {
            Some(array) => session.upload("initial_state", &encoded(array.data.clone()))?,
            None => 0,
        };
        let carried = match steps {
            1 => 0,
            _ => session.poisoned("carried_state", problem.sequences().len() * state)?,
        };
        let last = match problem.final_pool_before() {
            _ if !wanted => 0,
            Some(pool) => session.upload("final_state", &encoded(pool))?,
            None => session.poisoned("final_state", problem.final_pool() * state)?,
        };
        Ok(States { first, carried, last })
    }

    /// The first step reads the call's pool, the last writes it, in between the carried states are updated in place.
    fn of_step(&self, mut call: Arguments, index: usize, steps: usize) -> Arguments {
        (call.initial_state, call.final_state) = (self.first, self.last);
        if index > 0 {
            (call.initial_state, call.initial_slots) = (self.carried, 0);
        }
        if index + 1 < steps {
            (call.final_state, call.final_slots) = (self.carried, 0);
        }
        call
    }
}

/// A size that `Problem` has found to fit.
fn int(size: usize) -> i32 {
    i32::try_from(size).unwrap_or(i32::MAX)
}
