//! Calls whose tensors are float64, on the device cpu:f64: the definition itself, nothing rounded to what a rule stores.

use crate::abi::{AbiError, CU_SEQLENS, Call, CallError, Gradients, Kind, OWN, Tensor, in_words, slice};
use crate::pool::{Pool, state_shape};
use gdn2::__private::{Loaded, Name};
use gdn2::Device;
use gdn2_dsl::layer;
use gdn2_dsl::{Dims, Inputs, OutputGradients, Rule, StateLayout};
use gdn2_runtime::device::Precision;
use gdn2_runtime::problem::{dims_of, expect_present, named_shape, shape};
use gdn2_runtime::tensors::CaseError;
use std::collections::BTreeMap;

/// Whether a call is one of these.
pub(crate) fn serves(kernels: &Loaded, call: &Call) -> Result<bool, AbiError> {
    let double = !call.v.data.is_null() && call.v.kind("v")? == Kind::Double;
    Ok(double && matches!(kernels.device(), Device::Cpu(Precision::Double)))
}

/// # Safety
/// As `gdn2_forward`.
pub(crate) unsafe fn forward(
    rule: &Rule,
    call: &Call,
    o: Option<&Tensor>,
    final_state: Option<&Tensor>,
) -> Result<(), CallError> {
    // SAFETY: the caller's promise.
    unsafe {
        let inputs = inputs(rule, call, true)?;
        let out = layer::forward(rule, &inputs)?;
        let (o_shape, state) = shapes(rule, &inputs);
        write(o, "o", &o_shape, &out.o)?;
        write(final_state, "final_state", &state, &turned(rule, out.final_state, false))
    }
}

/// # Safety
/// As `gdn2_decode`.
pub(crate) unsafe fn decode(rule: &Rule, call: &Call, state: &Tensor, o: Option<&Tensor>) -> Result<(), CallError> {
    // SAFETY: the caller's promise.
    unsafe {
        let mut inputs = inputs(rule, call, false)?;
        let pool = Pool::<f64>::new(rule, call, state)?;
        let mut states = vec![0.0; pool.shape().iter().product()];
        pool.read(&mut states);
        inputs.initial_state = Some(turned(rule, states, true));
        let out = layer::forward(rule, &inputs)?;
        write(o, "o", &shapes(rule, &inputs).0, &out.o)?;
        pool.write(&turned(rule, out.final_state, false));
        Ok(())
    }
}

/// # Safety
/// As `gdn2_backward`.
pub(crate) unsafe fn backward(
    rule: &Rule,
    call: &Call,
    d_o: &Tensor,
    d_final_state: Option<&Tensor>,
    places: &Gradients,
) -> Result<(), CallError> {
    // SAFETY: the caller's promise.
    unsafe {
        let inputs = inputs(rule, call, true)?;
        let (o_shape, state) = shapes(rule, &inputs);
        let upstream = OutputGradients {
            d_out: read(d_o, "d_o", "[B,T,HV,V]", &o_shape)?,
            d_final_state: match d_final_state.filter(|grad| !grad.data.is_null()) {
                Some(grad) => Some(turned(rule, read(grad, "d_final_state", "[N,HV,K,V]", &state)?, true)),
                None => None,
            },
        };
        let mut grads = layer::backward(rule, &inputs, &upstream)?;
        let named = std::mem::take(&mut grads.named);
        let d_initial_state = inputs.initial_state.is_some().then(|| turned(rule, grads.d_initial_state, false));
        let results = [Some(grads.dq), Some(grads.dk), Some(grads.dv), grads.dg, grads.db, grads.dw, d_initial_state];
        for ((place, name), result) in places.named().into_iter().zip(results) {
            if place.data.is_null() {
                continue;
            }
            let result = result.ok_or(AbiError::NoGradient(name.name()))?;
            let like = match name {
                Name::DInitialState => state.to_vec(),
                _ => shape(rule, &inputs.dims, name, 0).1.to_vec(),
            };
            write(Some(place), name.name(), &like, &result)?;
        }
        let own = rule.prologue.named();
        for (at, place) in places.own()?.iter().enumerate().filter(|(_, place)| !place.data.is_null()) {
            let own = own.get(at).ok_or(AbiError::NoGradient(OWN))?;
            let result = named.get(own.name).ok_or(AbiError::NoGradient(OWN))?;
            write(Some(place), OWN, &named_shape(own, &inputs.dims), result)?;
        }
        Ok(())
    }
}

/// The inputs of a call, held against the rule before anything is read.
///
/// # Safety
/// As `gdn2_call` says.
unsafe fn inputs(rule: &Rule, call: &Call, initial: bool) -> Result<Inputs, CallError> {
    let of = |tensor: &Tensor, name: &'static str| {
        if tensor.data.is_null() { Err(AbiError::Null(name)) } else { Ok(tensor.axes(name)?.0) }
    };
    let dims = dims_of(rule, of(&call.q, "q")?.as_slice(), of(&call.v, "v")?.as_slice())?;
    // SAFETY: the caller's promise.
    unsafe {
        let tokens = |tensor: &Tensor, name: Name| -> Result<Option<Vec<f64>>, CallError> {
            if !expect_present(rule, name, !tensor.data.is_null())? {
                return Ok(None);
            }
            let (letters, sizes) = shape(rule, &dims, name, 0);
            Ok(Some(read(tensor, name.name(), letters, &sizes)?))
        };
        let offsets = slice(call.cu_seqlens, call.cu_seqlens_len, CU_SEQLENS)?;
        let offset = |at: &i64| {
            usize::try_from(*at).map_err(|_| CaseError::Offsets(format!("must ascend from 0 to T, but one is {at}")))
        };
        let cu_seqlens = offsets.map(|all| all.iter().map(offset).collect::<Result<Vec<usize>, _>>()).transpose()?;
        let states = cu_seqlens.as_ref().map_or(dims.batch, |offsets| offsets.len().saturating_sub(1));
        let initial_state = if initial && !call.initial_state.data.is_null() {
            let want = state_shape(rule, states, dims.value_heads);
            Some(turned(rule, read(&call.initial_state, "initial_state", "[N,HV,K,V]", &want)?, true))
        } else {
            None
        };
        let mut named = BTreeMap::new();
        for (own, tensor) in rule.prologue.named().iter().zip(call.own()?) {
            let numbers = read(tensor, OWN, own.letters(), &named_shape(own, &dims))?;
            named.insert(own.name.to_owned(), numbers);
        }
        Ok(Inputs {
            dims,
            q: tokens(&call.q, Name::Q)?.unwrap_or_default(),
            k: tokens(&call.k, Name::K)?.unwrap_or_default(),
            v: tokens(&call.v, Name::V)?.unwrap_or_default(),
            g: tokens(&call.g, Name::G)?,
            b: tokens(&call.b, Name::B)?,
            w: tokens(&call.w, Name::W)?,
            named,
            initial_state,
            cu_seqlens,
            scale: call.scale().map_or_else(|| Inputs::default_scale(dims.key_dim), f64::from),
        })
    }
}

/// Of o, and of the states in the rule's layout.
fn shapes(rule: &Rule, inputs: &Inputs) -> ([usize; 4], [usize; 4]) {
    let Dims { batch, tokens, value_heads, value_dim, .. } = inputs.dims;
    ([batch, tokens, value_heads, value_dim], state_shape(rule, inputs.states(), value_heads))
}

/// States from the rule's layout to `[K, V]`, or back.
fn turned(rule: &Rule, states: Vec<f64>, inwards: bool) -> Vec<f64> {
    let (rows, columns) = match (rule.state, inwards) {
        (StateLayout::Kv, _) => return states,
        (StateLayout::Vk, true) => (rule.value_dim as usize, rule.key_dim as usize),
        (StateLayout::Vk, false) => (rule.key_dim as usize, rule.value_dim as usize),
    };
    let matrices = states.chunks_exact(rows * columns);
    let turned = |matrix| (0..columns).flat_map(move |column| column_of(matrix, column, columns));
    matrices.flat_map(turned).collect()
}

fn column_of(matrix: &[f64], column: usize, columns: usize) -> impl Iterator<Item = f64> {
    matrix.iter().skip(column).step_by(columns).copied()
}

/// The numbers of a tensor, row-major, whatever its strides.
///
/// # Safety
/// The tensor describes live memory.
unsafe fn read(
    tensor: &Tensor,
    name: &'static str,
    letters: &'static str,
    want: &[usize],
) -> Result<Vec<f64>, CallError> {
    if tensor.data.is_null() {
        return Err(AbiError::Null(name).into());
    }
    let kind = tensor.kind(name)?;
    if kind != Kind::Double {
        return Err(AbiError::Stored { tensor: name, got: in_words(kind), want: "float64, as v is" }.into());
    }
    let (got, strides) = tensor.axes(name)?;
    if got.as_slice() != want {
        let got = got.as_slice().to_vec();
        return Err(CaseError::Shape { tensor: name, got, letters, want: want.to_vec() }.into());
    }
    // SAFETY: the caller's promise.
    let elements = unsafe { tensor.elements::<f64>(name)? };
    let count = got.elements().unwrap_or(usize::MAX);
    let mut numbers = Vec::new();
    numbers.try_reserve_exact(count).map_err(|_| AbiError::Memory { tensor: name, elements: count })?;
    numbers.extend((0..count).map(|index| {
        let steps = want.iter().zip(strides.as_slice()).rev();
        let (_, at) = steps.fold((index, 0), |(rest, at), (size, stride)| (rest / size, at + rest % size * stride));
        elements.get(at).copied().unwrap_or(f64::NAN)
    }));
    Ok(numbers)
}

/// # Safety
/// `place` is absent or describes memory that may be written.
unsafe fn write(place: Option<&Tensor>, name: &'static str, shape: &[usize], numbers: &[f64]) -> Result<(), CallError> {
    let Some(place) = place.filter(|place| !place.data.is_null()) else { return Ok(()) };
    let kind = place.kind(name)?;
    if kind != Kind::Double {
        return Err(AbiError::Stored { tensor: name, got: in_words(kind), want: "float64, as v is" }.into());
    }
    place.expect_row_major(name, shape)?;
    // SAFETY: aligned and row-major of as many numbers; regions of one call do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(numbers.as_ptr(), place.data.cast::<f64>(), numbers.len()) };
    Ok(())
}
