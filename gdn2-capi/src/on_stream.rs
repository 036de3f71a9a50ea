//! The exported calls on device memory: the structs of the calls on host memory, their addresses on a GPU. They pass
//! through the façade's checks and nothing is waited for.

use std::ffi::{c_int, c_void};

use crate::abi::{AbiError, CU_SEQLENS, Call, CallError, Gradients, OWN, SLOTS, Tensor, aligned, object, optional};
use crate::calls::{Kernels, guarded};
use gdn2::__private::{Call as Inputs, GradientViews, Loaded, Name, Named};
use gdn2::raw::MOST_NAMED;
use gdn2::{
    Axes, Context, DeviceOffsets, DeviceSlots, Dtype, ForeignMemory, Outputs, Slots, Stored, Stream, View, ViewMut,
};

/// Memory that a caller from C holds.
fn held<T>(data: *const T, len: usize, stored: Stored, context: Context) -> ForeignMemory {
    // SAFETY: the header asks callers to promise it.
    unsafe { ForeignMemory::new(data.addr() as u64, len, stored, context) }
}

/// A tensor in memory of its own, for views to borrow.
struct Placed {
    name: &'static str,
    memory: ForeignMemory,
    shape: Axes,
    strides: Axes,
}

impl Placed {
    /// `None` where absent.
    fn new(tensor: &Tensor, name: &'static str, context: Context) -> Result<Option<Placed>, CallError> {
        if tensor.data.is_null() {
            return Ok(None);
        }
        let (shape, strides) = tensor.axes(name)?;
        let stored = Stored::Float(tensor.dtype(name)?);
        let memory = held(tensor.data.cast_const(), tensor.reach(name)?, stored, context);
        Ok(Some(Placed { name, memory, shape, strides }))
    }

    /// The same for what a call cannot lack.
    fn required(tensor: &Tensor, name: &'static str, context: Context) -> Result<Placed, CallError> {
        Ok(Placed::new(tensor, name, context)?.ok_or(AbiError::Null(name))?)
    }

    fn view(&self) -> Result<View<'_>, CallError> {
        let name = self.name;
        View::device_strided(&self.memory, self.shape, self.strides)
            .map_err(|source| CallError::Tensor { name, source })
    }

    fn view_mut(&mut self) -> Result<ViewMut<'_>, CallError> {
        let name = self.name;
        let view = ViewMut::device_strided(&mut self.memory, self.shape, self.strides);
        view.map_err(|source| CallError::Tensor { name, source })
    }
}

fn view(placed: &Option<Placed>) -> Result<Option<View<'_>>, CallError> {
    placed.as_ref().map(Placed::view).transpose()
}

fn view_mut(placed: &mut Option<Placed>) -> Result<Option<ViewMut<'_>>, CallError> {
    placed.as_mut().map(Placed::view_mut).transpose()
}

/// What a call reads.
struct Read {
    needed: [Placed; 3],
    gates: [Option<Placed>; 3],
    named: Vec<Option<Placed>>,
    initial_state: Option<Placed>,
    offsets: Option<DeviceOffsets>,
    scale: Option<f32>,
}

impl Read {
    /// # Safety
    /// As the header says of calls on a stream.
    unsafe fn new(call: &Call, context: Context) -> Result<Read, CallError> {
        let place = |tensor, name| Placed::new(tensor, name, context);
        let needed = |tensor, name| Placed::required(tensor, name, context);
        let offsets = table(call.cu_seqlens, call.cu_seqlens_len, CU_SEQLENS, Stored::I64, context)?;
        let tokens = usize::try_from(call.q.shape[1]).unwrap_or(0);
        Ok(Read {
            needed: [needed(&call.q, "q")?, needed(&call.k, "k")?, needed(&call.v, "v")?],
            gates: [place(&call.g, "g")?, place(&call.b, "b")?, place(&call.w, "w")?],
            // SAFETY: passed on.
            named: unsafe { call.own() }?.iter().map(|own| place(own, OWN)).collect::<Result<_, _>>()?,
            initial_state: place(&call.initial_state, "initial_state")?,
            // SAFETY: the caller promises offsets that ascend from 0 to the number of tokens.
            offsets: offsets.map(|memory| unsafe { DeviceOffsets::from_memory(Box::new(memory), tokens) }),
            scale: call.scale(),
        })
    }

    fn inputs(&self) -> Result<Inputs<'_>, CallError> {
        let ([q, k, v], [g, b, w]) = (&self.needed, &self.gates);
        if self.named.len() > MOST_NAMED {
            return Err(AbiError::Named { got: self.named.len(), most: MOST_NAMED }.into());
        }
        let mut named = Named::default();
        for (place, own) in named.iter_mut().zip(&self.named) {
            *place = view(own)?;
        }
        Ok(Inputs {
            q: q.view()?,
            k: k.view()?,
            v: v.view()?,
            g: view(g)?,
            b: view(b)?,
            w: view(w)?,
            named,
            initial_state: view(&self.initial_state)?,
            cu_seqlens: self.offsets.as_ref().map(Into::into),
            scale: self.scale,
        })
    }
}

/// Offsets or slots; `None` where absent.
fn table<T>(
    data: *const T,
    len: i64,
    [field, size]: [&'static str; 2],
    stored: Stored,
    context: Context,
) -> Result<Option<ForeignMemory>, AbiError> {
    if data.is_null() {
        return Ok(None);
    }
    aligned(data, field)?;
    let len = usize::try_from(len).map_err(|_| AbiError::Negative { field: size, got: len })?;
    Ok(Some(held(data, len, stored, context)))
}

/// What the calls below have in common: live structs, and a stream of the kernels' context.
///
/// # Safety
/// Every pointer is null or points to what the header says, and the call keeps what it says of calls on a stream.
unsafe fn call_on(
    kernels: *const Kernels,
    stream: *mut c_void,
    call: *const Call,
    run: impl FnOnce(&Kernels, Stream<'static>, Inputs<'_>, Context) -> Result<(), CallError>,
) -> c_int {
    guarded(|| {
        // SAFETY: the caller's promise.
        unsafe {
            let kernels = object(kernels, "kernels")?;
            let context = kernels.0.context()?;
            let read = Read::new(object(call, "call")?, context)?;
            run(kernels, Stream::foreign(stream, context), read.inputs()?, context)
        }
    })
}

/// A tensor argument that may be a null pointer.
unsafe fn argument(tensor: *const Tensor, name: &'static str, context: Context) -> Result<Option<Placed>, CallError> {
    // SAFETY: the caller's promise.
    unsafe { optional(tensor, name) }?.map_or(Ok(None), |tensor| Placed::new(tensor, name, context))
}

/// The same for what a call cannot lack.
unsafe fn needed(tensor: *const Tensor, name: &'static str, context: Context) -> Result<Placed, CallError> {
    // SAFETY: the caller's promise.
    unsafe { argument(tensor, name, context) }?.ok_or(CallError::Abi(AbiError::Null(name)))
}

/// Scratch memory.
fn scratch(address: u64, bytes: i64, context: Context) -> Result<ForeignMemory, AbiError> {
    let negative = |_| AbiError::Negative { field: "scratch_bytes", got: bytes };
    let len = usize::try_from(bytes).map_err(negative)? / 4;
    Ok(held(std::ptr::without_provenance::<f32>(address as usize), len, Stored::Float(Dtype::F32), context))
}

/// What forward calls have in common beside that: places for o and the final states.
///
/// # Safety
/// As [`call_on`].
unsafe fn forward_on(
    kernels: *const Kernels,
    stream: *mut c_void,
    call: *const Call,
    o: *const Tensor,
    final_state: *const Tensor,
    run: impl FnOnce(&Loaded, Stream<'static>, Inputs<'_>, Outputs<'_>, Context) -> Result<(), CallError>,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        call_on(kernels, stream, call, |kernels, stream, inputs, context| {
            let (mut o, mut last) = (needed(o, "o", context)?, argument(final_state, "final_state", context)?);
            let outputs = Outputs { o: o.view_mut()?, final_state: view_mut(&mut last)? };
            run(&kernels.0, stream, inputs, outputs, context)
        })
    }
}

/// See `include/gdn2.h`.
///
/// # Safety
/// Every pointer is null or points to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gdn2_forward_on(
    kernels: *const Kernels,
    stream: *mut c_void,
    call: *const Call,
    o: *const Tensor,
    final_state: *const Tensor,
    address: u64,
    bytes: i64,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        forward_on(kernels, stream, call, o, final_state, |kernels, stream, inputs, outputs, context| {
            if address == 0 {
                return Ok(kernels.forward_on(stream, inputs, outputs)?);
            }
            let mut memory = scratch(address, bytes, context)?;
            Ok(kernels.forward_with_scratch_on(stream, inputs, outputs, &mut memory)?)
        })
    }
}

/// See `include/gdn2.h`.
///
/// # Safety
/// Every pointer is null or points to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gdn2_decode_on(
    kernels: *const Kernels,
    stream: *mut c_void,
    call: *const Call,
    state: *const Tensor,
    o: *const Tensor,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        call_on(kernels, stream, call, |kernels, stream, inputs, context| {
            let (mut pool, mut o) = (needed(state, "state", context)?, needed(o, "o", context)?);
            let states = pool.shape.as_slice().first().copied().unwrap_or(0);
            let call = object(call, "call")?;
            let slots = table(call.slots, call.slots_len, SLOTS, Stored::I32, context)?;
            let slots = slots.map(|memory| DeviceSlots::from_memory(Box::new(memory), states));
            let slots = slots.as_ref().map(Slots::from);
            Ok(kernels.0.decode_on(stream, pool.view_mut()?, slots, inputs, o.view_mut()?)?)
        })
    }
}

/// See `include/gdn2.h`.
///
/// # Safety
/// Every pointer is null or points to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gdn2_forward_for_backward_on(
    kernels: *const Kernels,
    stream: *mut c_void,
    call: *const Call,
    o: *const Tensor,
    final_state: *const Tensor,
    address: u64,
    bytes: i64,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        forward_on(kernels, stream, call, o, final_state, |kernels, stream, inputs, outputs, context| {
            let mut memory = scratch(address, bytes, context)?;
            Ok(kernels.forward_for_backward_on(stream, inputs, outputs, &mut memory)?)
        })
    }
}

/// See `include/gdn2.h`.
///
/// # Safety
/// Every pointer is null or points to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gdn2_backward_on(
    kernels: *const Kernels,
    stream: *mut c_void,
    call: *const Call,
    d_o: *const Tensor,
    d_final_state: *const Tensor,
    gradients: *const Gradients,
    address: u64,
    bytes: i64,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        call_on(kernels, stream, call, |kernels, stream, inputs, context| {
            let places = object(gradients, "gradients")?;
            let (d_o, d_last) = (needed(d_o, "d_o", context)?, argument(d_final_state, "d_final_state", context)?);
            let mut held = [const { None }; 7];
            for (place, (tensor, name)) in held.iter_mut().zip(places.named()) {
                *place = Placed::new(tensor, name.name(), context)?;
            }
            // SAFETY: the caller's promise.
            let own = places.own()?.iter().map(|own| Placed::new(own, OWN, context));
            let mut own = own.collect::<Result<Vec<_>, _>>()?;
            let mut named = [const { None }; MOST_NAMED];
            for (place, own) in named.iter_mut().zip(&mut own) {
                *place = view_mut(own)?;
            }
            let [dq, dk, dv, dg, db, dw, d_initial] = &mut held;
            let views = GradientViews {
                tokens: [
                    (Name::DQ, view_mut(dq)?),
                    (Name::DK, view_mut(dk)?),
                    (Name::DV, view_mut(dv)?),
                    (Name::DG, view_mut(dg)?),
                    (Name::DB, view_mut(db)?),
                    (Name::DW, view_mut(dw)?),
                ],
                named,
                d_initial_state: view_mut(d_initial)?,
            };
            let mut memory = scratch(address, bytes, context)?;
            Ok(kernels.0.backward_on(stream, inputs, d_o.view()?, view(&d_last)?, views, &mut memory)?)
        })
    }
}
