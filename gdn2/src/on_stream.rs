//! Safe calls on device memory: everything is checked, nothing is waited for, allocated or locked.
//!
//! Each call returns when its kernels are on the stream. Work is in the order of the stream; inputs must hold their
//! values when the stream reaches the call, and outputs hold theirs once it has passed it.

use std::sync::Arc;

use crate::call::Call;
use crate::device::{DeviceMemoryMut, DeviceTensor, Stream};
use crate::error::Error;
use crate::loaded::{Loaded, Outputs};
use crate::place::Placed;
use crate::view::{Slots, View, ViewMut};
use cudarc::driver::CudaStream;
use gdn2_codegen::abi::Tensor as Name;
use gdn2_codegen::kernel::MOST_NAMED;
use gdn2_dsl::Dtype;

/// What a forward call on a stream gives where it was not told where to write.
#[derive(Debug)]
#[non_exhaustive]
pub struct DeviceOutput {
    /// `[B,T,HV,V]`, in the rule's dtype.
    pub o: DeviceTensor,
    /// `[N,HV,K,V]` in the rule's layout, f32.
    pub final_state: DeviceTensor,
}

/// Where a backward call on a stream writes; generated modules fill it in from their own struct.
#[doc(hidden)]
pub struct GradientViews<'a> {
    /// Gradients of the tensors with a row per token that the rule has.
    pub tokens: [(Name, Option<ViewMut<'a>>); 6],
    /// Gradients of what the rule names itself, in its order; none is not asked for.
    pub named: [Option<ViewMut<'a>>; MOST_NAMED],
    /// Gradient of the initial state.
    pub d_initial_state: Option<ViewMut<'a>>,
}

impl Loaded {
    #[doc(hidden)]
    pub fn forward_on(&self, stream: Stream<'_>, call: Call<'_>, mut outputs: Outputs<'_>) -> Result<(), Error> {
        let placed = Placed::with_ends(self, stream, &call, &mut outputs)?;
        let arguments = placed.arguments();
        // SAFETY: the stream and every address were checked to be of the kernels' context, and have the extents that
        // the fields state; guards keep the memory until the stream has passed the launch.
        unsafe { self.forward_raw(placed.stream().handle(), arguments) }
    }

    #[doc(hidden)]
    pub fn forward_with_scratch_on(
        &self,
        stream: Stream<'_>,
        call: Call<'_>,
        mut outputs: Outputs<'_>,
        scratch: &mut dyn DeviceMemoryMut,
    ) -> Result<(), Error> {
        let mut placed = Placed::with_ends(self, stream, &call, &mut outputs)?;
        let extents = placed.arguments().extents()?;
        let needs = self.forward_kernel(extents)?.scratch_bytes(extents)?;
        let scratch = enough(&mut placed, scratch, needs, "forward_scratch")?;
        // SAFETY: as in `forward_on`; the scratch memory was checked to be large enough.
        unsafe { self.forward_with_scratch_raw(placed.stream().handle(), placed.arguments(), scratch) }
    }

    #[doc(hidden)]
    pub fn forward_new_on(&self, stream: &Arc<CudaStream>, call: Call<'_>) -> Result<DeviceOutput, Error> {
        let rule = self.rule();
        let sequences = match call.cu_seqlens {
            Some(crate::Offsets::Device(offsets)) => offsets.sequences(),
            _ => call.q.shape().first().copied().unwrap_or(0),
        };
        let state = self.state_shape(sequences, call.v.shape().get(2).copied().unwrap_or(0));
        let mut o = DeviceTensor::zeros(stream, call.v.shape, rule.dtype)?;
        let mut final_state = DeviceTensor::zeros(stream, state, Dtype::F32)?;
        let outputs = Outputs { o: o.view_mut()?, final_state: Some(final_state.view_mut()?) };
        self.forward_on(stream.into(), call, outputs)?;
        Ok(DeviceOutput { o, final_state })
    }

    #[doc(hidden)]
    pub fn decode_on(
        &self,
        stream: Stream<'_>,
        mut state: ViewMut<'_>,
        slots: Option<Slots<'_>>,
        call: Call<'_>,
        mut o: ViewMut<'_>,
    ) -> Result<(), Error> {
        let mut placed = Placed::new(self.rule(), self.context()?, stream, &call)?;
        placed.pool(&mut state, slots)?;
        placed.write(Name::O, &mut o)?;
        // SAFETY: as in `forward_on`; slots were checked against the pool when they were made.
        unsafe { self.decode_raw(placed.stream().handle(), placed.arguments()) }
    }

    #[doc(hidden)]
    pub fn forward_for_backward_on(
        &self,
        stream: Stream<'_>,
        call: Call<'_>,
        mut outputs: Outputs<'_>,
        scratch: &mut dyn DeviceMemoryMut,
    ) -> Result<(), Error> {
        let mut placed = Placed::with_ends(self, stream, &call, &mut outputs)?;
        let scratch = self.for_training(&mut placed, scratch)?;
        // SAFETY: as in `forward_on`; the scratch memory was checked to be large enough.
        unsafe { self.forward_for_backward_raw(placed.stream().handle(), placed.arguments(), scratch) }
    }

    #[doc(hidden)]
    pub fn backward_on(
        &self,
        stream: Stream<'_>,
        call: Call<'_>,
        d_out: View<'_>,
        d_final_state: Option<View<'_>>,
        mut gradients: GradientViews<'_>,
        scratch: &mut dyn DeviceMemoryMut,
    ) -> Result<(), Error> {
        let mut placed = Placed::new(self.rule(), self.context()?, stream, &call)?;
        if let Some(states) = call.initial_state {
            placed.arguments_mut().initial_state = placed.read_states(Name::InitialState, states)?;
        }
        placed.read(Name::DO, d_out)?;
        if let Some(states) = d_final_state {
            placed.arguments_mut().gradients.d_final_state = placed.read_states(Name::DFinalState, states)?;
        }
        for (name, view) in &mut gradients.tokens {
            if let Some(view) = view {
                placed.write(*name, view)?;
            }
        }
        for (place, view) in gradients.named.iter_mut().enumerate() {
            if let Some(view) = view {
                placed.write_named(place, view)?;
            }
        }
        if let Some(view) = &mut gradients.d_initial_state {
            placed.arguments_mut().gradients.d_initial_state = placed.write_states(Name::DInitialState, view)?;
        }
        let scratch = self.for_training(&mut placed, scratch)?;
        // SAFETY: as in `forward_for_backward_on`.
        unsafe { self.backward_raw(placed.stream().handle(), placed.arguments(), scratch) }
    }

    /// The address of scratch memory that is large enough for the call's training.
    fn for_training<'s>(&self, placed: &mut Placed<'_, 's>, memory: &'s mut dyn DeviceMemoryMut) -> Result<u64, Error> {
        let extents = placed.arguments().extents()?;
        let needs = self.training(extents)?.scratch_bytes(extents)?;
        enough(placed, memory, needs, "training_scratch")
    }
}

/// The address of scratch memory that has as many bytes as the call needs.
fn enough<'s>(
    placed: &mut Placed<'_, 's>,
    memory: &'s mut dyn DeviceMemoryMut,
    needs: usize,
    says: &'static str,
) -> Result<u64, Error> {
    let (address, got) = placed.scratch(memory)?;
    if got < needs { Err(Error::Scratch { got, needs, says }) } else { Ok(address) }
}

impl<'r, 's> Placed<'r, 's> {
    /// A forward call: its tokens, states before and after, and o.
    fn with_ends(
        loaded: &'r Loaded,
        stream: Stream<'s>,
        call: &'s Call<'_>,
        outputs: &'s mut Outputs<'_>,
    ) -> Result<Self, Error> {
        let mut placed = Placed::new(loaded.rule(), loaded.context()?, stream, call)?;
        if let Some(states) = call.initial_state {
            placed.arguments_mut().initial_state = placed.read_states(Name::InitialState, states)?;
        }
        placed.write(Name::O, &mut outputs.o)?;
        if let Some(states) = &mut outputs.final_state {
            placed.arguments_mut().final_state = placed.write_states(Name::FinalState, states)?;
        }
        Ok(placed)
    }
}
