//! Candle's tensors as inputs: inference, and training through candle's autograd.
//!
//! Generated modules have `forward_candle` and `decode_candle` where the feature `candle` is on. Tensors are on candle's
//! CPU device, of any float dtype, and are computed on the device that the kernels were loaded on: `cpu()` or `vm()`.
//!
//! Candle's own operations have at most three inputs and one output, the delta rule has up to seven and two. So that
//! gradients flow, the inputs are packed into one tensor, and the outputs come in one and are taken apart; what that
//! copies is told in [`Output::packed_bytes`]. Where no input needs a gradient, nothing is packed.
//!
//! On a GPU, `Device::on_stream(candle_device.cuda_stream())` loads kernels in candle's own context and on its stream,
//! and the `CudaSlice`s of candle's storages are inputs of `forward_on` as they are. Candle's feature `cuda` needs nvcc to
//! build, which is why nothing here turns it on.

use std::sync::{Mutex, PoisonError};

use crate::call::Call;
use crate::loaded::{Loaded, Saved};
use crate::shape::Axes;
use crate::view::{Offsets, Tensor as Owned, View};
use candle_core::{CpuStorage, CustomOp1, DType, Device, Error, Layout, Result, Shape, Tensor};
use gdn2_codegen::abi::Tensor as Name;
use gdn2_dsl::Dtype;

/// What a forward call on candle's tensors gives.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Output {
    /// `[B,T,HV,V]`, in v's dtype.
    pub o: Tensor,
    /// `[N,HV,K,V]` in the rule's layout, f32.
    pub final_state: Tensor,
    /// Bytes copied to pack the inputs for candle's autograd; 0 where no input needs a gradient.
    pub packed_bytes: usize,
}

/// Inputs of a call; gates that the rule lacks are empty. Generated modules fill it in from their own struct.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    pub q: &'a Tensor,
    pub k: &'a Tensor,
    pub v: &'a Tensor,
    pub g: Option<&'a Tensor>,
    pub b: Option<&'a Tensor>,
    pub w: Option<&'a Tensor>,
    pub initial_state: Option<&'a Tensor>,
    pub cu_seqlens: Option<&'a [i64]>,
    pub scale: Option<f32>,
}

impl<'a> Inputs<'a> {
    fn named(&self) -> impl Iterator<Item = (Name, &'a Tensor)> + use<'a> {
        let all = [
            (Name::Q, Some(self.q)),
            (Name::K, Some(self.k)),
            (Name::V, Some(self.v)),
            (Name::G, self.g),
            (Name::B, self.b),
            (Name::W, self.w),
            (Name::InitialState, self.initial_state),
        ];
        all.into_iter().filter_map(|(name, tensor)| Some((name, tensor?)))
    }
}

/// Where each input lies among the packed numbers.
#[derive(Clone, Debug)]
struct Packing {
    parts: Vec<(Name, Axes)>,
    cu_seqlens: Option<Vec<i64>>,
    scale: Option<f32>,
}

impl Packing {
    fn new(inputs: &Inputs<'_>) -> Result<Packing> {
        let part = |(name, tensor): (Name, &Tensor)| {
            let axes = Axes::from_slice(tensor.dims());
            axes.map(|axes| (name, axes)).ok_or_else(|| Error::msg(format!("{}: more than four axes", name.name())))
        };
        let parts = inputs.named().map(part).collect::<Result<_>>()?;
        Ok(Packing { parts, cu_seqlens: inputs.cu_seqlens.map(<[i64]>::to_vec), scale: inputs.scale })
    }

    /// The packed numbers as a call.
    fn call<'p>(&'p self, mut numbers: &'p [f32]) -> Result<Call<'p>> {
        let mut views = [const { None }; 7];
        for (name, axes) in &self.parts {
            let len = axes.elements().unwrap_or(usize::MAX);
            let (own, rest) = numbers.split_at_checked(len).ok_or_else(|| Error::msg("the pack is too short"))?;
            numbers = rest;
            let view = View::new(own, *axes).map_err(Error::wrap)?;
            if let Some(place) = place(*name).and_then(|place| views.get_mut(place)) {
                *place = Some(view);
            }
        }
        let [Some(q), Some(k), Some(v), g, b, w, initial_state] = views else {
            return Err(Error::msg("q, k and v are always there"));
        };
        let cu_seqlens = self.cu_seqlens.as_deref().map(Offsets::from);
        Ok(Call { q, k, v, g, b, w, initial_state, named: Default::default(), cu_seqlens, scale: self.scale })
    }
}

fn place(name: Name) -> Option<usize> {
    [Name::Q, Name::K, Name::V, Name::G, Name::B, Name::W, Name::InitialState].into_iter().position(|at| at == name)
}

/// A tensor's numbers as f32, row-major.
fn numbers(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1()
}

/// The forward pass as candle sees it: packed inputs to o and the final state, one after the other.
struct Delta {
    kernels: Loaded,
    packing: Packing,
    saved: Mutex<Option<Saved>>,
}

impl CustomOp1 for Delta {
    fn name(&self) -> &'static str {
        "gdn2"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let range = layout.contiguous_offsets().ok_or_else(|| Error::msg("gdn2: packed inputs are contiguous"))?;
        let numbers = storage.as_slice::<f32>()?.get(range.0..range.1).unwrap_or_default();
        let (out, saved) = self.kernels.forward_for_backward(self.packing.call(numbers)?).map_err(Error::wrap)?;
        *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = Some(saved);
        let mut both = out.o.to_f32();
        both.extend(out.final_state.to_f32());
        let shape = Shape::from(both.len());
        Ok((CpuStorage::F32(both), shape))
    }

    fn bwd(&self, arg: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let inputs = numbers(arg)?;
        let call = self.packing.call(&inputs)?;
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        let saved = match saved.take() {
            Some(saved) => saved,
            None => self.kernels.save(call).map_err(Error::wrap)?,
        };
        let grad = numbers(grad)?;
        let o = call.v.shape;
        let (d_out, d_state) = grad
            .split_at_checked(o.elements().unwrap_or(usize::MAX))
            .ok_or_else(|| Error::msg("gdn2: the gradient is too short"))?;
        let state = state_shape(&self.kernels, &call);
        let d_out = View::new(d_out, o).map_err(Error::wrap)?;
        let d_state = View::new(d_state, state).map_err(Error::wrap)?;
        let mut grads = self.kernels.backward(&saved, d_out, Some(d_state)).map_err(Error::wrap)?;
        let mut packed = Vec::with_capacity(inputs.len());
        for (name, _) in &self.packing.parts {
            let grad = match name {
                Name::Q => grads.take(Name::DQ),
                Name::K => grads.take(Name::DK),
                Name::V => grads.take(Name::DV),
                Name::G => grads.take(Name::DG),
                Name::B => grads.take(Name::DB),
                Name::W => grads.take(Name::DW),
                _ => grads.take_initial_state().unwrap_or_default(),
            };
            packed.extend(grad.to_f32());
        }
        Ok(Some(Tensor::from_vec(packed, arg.shape(), arg.device())?))
    }
}

/// The shape of a call's final states in the rule's layout.
fn state_shape(kernels: &Loaded, call: &Call<'_>) -> [usize; 4] {
    let sequences = match call.cu_seqlens {
        Some(Offsets::I64(offsets)) => offsets.len().saturating_sub(1),
        _ => call.q.shape().first().copied().unwrap_or(0),
    };
    kernels.state_shape(sequences, call.v.shape().get(2).copied().unwrap_or(0))
}

impl Loaded {
    #[doc(hidden)]
    pub fn forward_candle(&self, inputs: Inputs<'_>) -> Result<Output> {
        let packing = Packing::new(&inputs)?;
        let trains = inputs.named().any(|(_, tensor)| tensor.track_op());
        let flat = inputs.named().map(|(_, tensor)| tensor.flatten_all()?.to_dtype(DType::F32));
        let (o_shape, dtype) = (inputs.v.dims(), inputs.v.dtype());
        if !trains {
            let mut packed = Vec::new();
            for part in flat {
                packed.extend(part?.to_vec1::<f32>()?);
            }
            let out = self.forward(packing.call(&packed)?).map_err(Error::wrap)?;
            let o = host(&out.o)?.to_dtype(dtype)?;
            return Ok(Output { o, final_state: host(&out.final_state)?, packed_bytes: 0 });
        }
        let packed = Tensor::cat(&flat.collect::<Result<Vec<_>>>()?, 0)?;
        let packed_bytes = packed.elem_count() * 4;
        let sequences = inputs.cu_seqlens.map_or(inputs.q.dim(0)?, |offsets| offsets.len().saturating_sub(1));
        let state = self.state_shape(sequences, inputs.v.dim(2)?);
        let both = packed.apply_op1(Delta { kernels: self.clone(), packing, saved: Mutex::default() })?;
        let split = inputs.v.elem_count();
        let o = both.narrow(0, 0, split)?.reshape(o_shape)?.to_dtype(dtype)?;
        let final_state = both.narrow(0, split, both.elem_count() - split)?.reshape(state.as_slice())?;
        Ok(Output { o, final_state, packed_bytes })
    }

    /// One token or a short run of them; gives o and the new states.
    #[doc(hidden)]
    pub fn decode_candle(&self, state: &Tensor, inputs: Inputs<'_>) -> Result<(Tensor, Tensor)> {
        let packing = Packing::new(&inputs)?;
        let mut packed = Vec::new();
        for (_, tensor) in inputs.named() {
            packed.extend(numbers(tensor)?);
        }
        let mut pool = Owned::zeros(state.dims(), Dtype::F32).map_err(Error::wrap)?;
        if let Some(place) = pool.as_mut_slice::<f32>() {
            place.copy_from_slice(&numbers(state)?);
        }
        let o = self.decode(&mut pool, None, packing.call(&packed)?).map_err(Error::wrap)?;
        Ok((host(&o)?.to_dtype(inputs.v.dtype())?, host(&pool)?))
    }
}

/// A tensor of candle's.
fn host(tensor: &Owned) -> Result<Tensor> {
    Tensor::from_vec(tensor.to_f32(), tensor.shape(), &Device::Cpu)
}
