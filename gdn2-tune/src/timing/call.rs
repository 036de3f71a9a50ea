//! Calls that nobody makes: the launches of a kernel on tensors at made-up addresses, for the clock to walk.

use crate::job::Shape;
use gdn2_clock::launch::{Argument, Launch};
use gdn2_codegen::abi::{Arg, Tensor};
use gdn2_codegen::kernel::{Kernel, Pass};
use gdn2_dsl::Rule;
use gdn2_runtime::raw::{self, Arguments, Gradients, RawError, View};
use gdn2_vm::Value;
use std::collections::BTreeMap;

/// Bytes between the made-up addresses of tensors.
const APART: u64 = 1 << 36;
/// Where the offsets of packed sequences are.
const OFFSETS: u64 = APART / 2;

/// A call on tensors at made-up addresses: dense, or packed sequences of some lengths. Decode goes on from states, the other
/// passes from zeros.
pub(super) fn call(rule: &Rule, shape: Shape, lengths: &[u32], kernel: &Kernel) -> Arguments {
    let (batch, tokens) = (i64::from(shape.batch), i64::from(shape.tokens));
    let mut next = APART;
    let mut address = || {
        next += APART;
        next
    };
    let mut call = Arguments {
        sequences: if lengths.is_empty() { batch as i32 } else { lengths.len() as i32 },
        cu_seqlens: if lengths.is_empty() { 0 } else { OFFSETS },
        tokens: tokens as i32,
        key_heads: shape.key_heads as i32,
        value_heads: shape.value_heads as i32,
        scale: 1.0,
        gradients: Gradients::default(),
        ..Arguments::default()
    };
    call.final_state = address();
    if kernel.pass == Pass::Decode {
        call.initial_state = address();
    }
    for tensor in Tensor::ALL {
        let Some((heads, width)) = sizes(rule, shape, tensor) else { continue };
        let (head, token) = (i64::from(width), i64::from(heads) * i64::from(width));
        if let Some(view) = call.view_mut(tensor) {
            *view = View { address: address(), batch: tokens * token, token, head };
        }
    }
    for (place, own) in rule.prologue.named().into_iter().enumerate() {
        let head = own.axis.map_or(1, |axis| i64::from(axis.channels(rule)));
        let token = i64::from(shape.value_heads) * head;
        for views in [&mut call.named, &mut call.named_gradients] {
            if let Some(view) = views.get_mut(place) {
                *view = View { address: address(), batch: tokens * token, token, head };
            }
        }
    }
    debug_assert!(call.check(kernel).is_ok());
    call
}

/// Heads and numbers of each head and token of a tensor that the rule has; gradients are as what they are of.
fn sizes(rule: &Rule, shape: Shape, tensor: Tensor) -> Option<(u32, u32)> {
    let name = of_gradient(tensor).name();
    let spec = rule.tensors().into_iter().find(|spec| spec.name == name && spec.per_token > 0)?;
    Some((if matches!(name, "q" | "k") { shape.key_heads } else { shape.value_heads }, spec.per_token))
}

fn of_gradient(tensor: Tensor) -> Tensor {
    match tensor {
        Tensor::DO => Tensor::O,
        Tensor::DQ => Tensor::Q,
        Tensor::DK => Tensor::K,
        Tensor::DV => Tensor::V,
        Tensor::DG => Tensor::G,
        Tensor::DB => Tensor::B,
        Tensor::DW => Tensor::W,
        other => other,
    }
}

/// Bytes of a tensor in a call.
fn tensor_bytes(rule: &Rule, shape: Shape, call: &Arguments, tensor: Tensor) -> f64 {
    let tokens = f64::from(shape.batch) * f64::from(shape.tokens);
    let state = |address: u64| match address {
        0 => 0.0,
        _ => rule.token_cost().state_bytes as f64 * f64::from(call.sequences) * f64::from(shape.value_heads),
    };
    match tensor {
        Tensor::InitialState => state(call.initial_state),
        Tensor::FinalState => state(call.final_state),
        Tensor::DFinalState => state(call.gradients.d_final_state),
        Tensor::DInitialState => state(call.gradients.d_initial_state),
        _ => {
            let name = of_gradient(tensor).name();
            let spec = rule.tensors().into_iter().find(|spec| spec.name == name);
            let width = spec.map_or(0.0, |spec| f64::from(spec.per_token) * f64::from(spec.dtype.bytes()));
            sizes(rule, shape, tensor).map_or(0.0, |(heads, _)| tokens * f64::from(heads) * width)
        }
    }
}

/// A parameter as the clock takes it.
pub fn argument(value: &Value) -> Argument {
    match value {
        Value::Pointer(address) => Argument::word64(*address),
        Value::I64(number) => Argument::word64(*number as u64),
        Value::I32(number) => Argument::word32(*number as u32),
        Value::F32(number) => Argument::word32(number.to_bits()),
        Value::Bytes(bytes) => Argument::Bytes(bytes.clone()),
    }
}

/// The launches of a call of some length, with their places among the kernel's.
pub(super) fn launches(kernel: &Kernel, call: &Arguments, lengths: &[u32]) -> Result<Vec<(usize, Launch)>, RawError> {
    let mut offsets = vec![0u8; 4];
    let mut end = 0u32;
    for length in lengths {
        end += length;
        offsets.extend(end.to_le_bytes());
    }
    let memory = if lengths.is_empty() { BTreeMap::new() } else { BTreeMap::from([(OFFSETS, offsets)]) };
    let workspaces: Vec<u64> = (0..kernel.workspaces.len() as u64).map(|index| APART * (64 + index)).collect();
    let mut launches = Vec::new();
    raw::launches(kernel, call, &workspaces, |index, launch, blocks, values| {
        launches.push((
            index,
            Launch {
                grid: [blocks, 1, 1],
                block: [launch.block, 1, 1],
                dynamic_shared: launch.shared_bytes,
                arguments: values.iter().map(|value| argument(&(*value).into())).collect(),
                memory: memory.clone(),
                ..Launch::default()
            },
        ));
        Ok::<_, RawError>(())
    })?;
    Ok(launches)
}

/// The launches of a call of a shape on dense tensors, with their places among the kernel's.
///
/// # Errors
/// A call that makes no launches.
pub fn launches_of(kernel: &Kernel, shape: Shape) -> Result<Vec<(usize, Launch)>, RawError> {
    launches(kernel, &call(&kernel.rule, shape, &[], kernel), &[])
}

/// Bytes of everything that a launch is given, each once.
pub(super) fn named_bytes(call: &Arguments, shape: Shape, kernel: &Kernel, index: usize) -> Result<f64, RawError> {
    let rule = &kernel.rule;
    let workspaces = raw::workspace_bytes(kernel, call.extents()?)?;
    let params = kernel.launches.get(index).map(|launch| launch.params.as_slice()).unwrap_or_default();
    Ok(params
        .iter()
        .map(|param| match &param.arg {
            Arg::Pointer(tensor) => tensor_bytes(rule, shape, call, *tensor),
            Arg::Named(name) | Arg::NamedGradient(name) => own_bytes(rule, shape, name),
            Arg::Workspace(name) => {
                let place = kernel.workspaces.iter().position(|workspace| workspace.name == *name);
                place.and_then(|place| workspaces.get(place)).map_or(0.0, |bytes| *bytes as f64)
            }
            _ => 0.0,
        })
        .sum())
}

/// Bytes of a tensor that the rule names itself.
fn own_bytes(rule: &Rule, shape: Shape, name: &str) -> f64 {
    let named = rule.prologue.named();
    let Some(own) = named.iter().find(|own| own.name == name) else { return 0.0 };
    let tokens = if own.per_token { f64::from(shape.batch) * f64::from(shape.tokens) } else { 1.0 };
    let head = own.axis.map_or(1.0, |axis| f64::from(axis.channels(rule)));
    tokens * f64::from(shape.value_heads) * head * f64::from(own.storage.bytes())
}
