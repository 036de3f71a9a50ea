//! A call on device memory: every tensor checked and written into the one raw call that all engines launch from. Nothing
//! here allocates unless something is wrong.

use crate::call::{Call, Named, fits, named_views};
use crate::device::{DeviceMemory, Guard, Stored, Stream};
use crate::error::Error;
use crate::shape::Axes;
use crate::view::{Data, DataMut, Offsets, Slots, View, ViewMut};
use gdn2_codegen::abi::Tensor as Name;
use gdn2_codegen::kernel::MOST_NAMED;
use gdn2_dsl::{Dims, Dtype, Rule};
use gdn2_runtime::device::launch::Context;
use gdn2_runtime::problem::{self, dims_of, expect_present};
use gdn2_runtime::raw::{self, Arguments};
use gdn2_runtime::tensors::CaseError;

/// More tensors than any call has.
const MOST_TENSORS: usize = 24 + 2 * MOST_NAMED;

/// A call on a stream as it takes shape; dropped after the launch, it orders later work after it.
pub(crate) struct Placed<'r, 's> {
    rule: &'r Rule,
    stream: Stream<'s>,
    context: Context,
    dims: Dims,
    sequences: usize,
    arguments: Arguments,
    guards: [Guard<'s>; MOST_TENSORS],
    held: usize,
}

impl<'r, 's> Placed<'r, 's> {
    /// The tensors with a row per token, the sizes they fix, and the packed sequences.
    pub fn new(rule: &'r Rule, context: Context, stream: Stream<'s>, call: &'s Call<'_>) -> Result<Self, Error> {
        if stream.context() != context {
            return Err(Error::OtherContext("stream"));
        }
        let dims = dims_of(rule, call.q.shape(), call.v.shape())?;
        let mut placed = Placed {
            rule,
            stream,
            context,
            dims,
            sequences: dims.batch,
            arguments: Arguments {
                sequences: int(dims.batch),
                tokens: int(dims.tokens),
                key_heads: int(dims.heads),
                value_heads: int(dims.value_heads),
                scale: call.scale.unwrap_or((1.0 / f64::from(rule.key_dim).sqrt()) as f32),
                ..Arguments::default()
            },
            guards: [Guard::NONE; MOST_TENSORS],
            held: 0,
        };
        placed.offsets(call.cu_seqlens)?;
        for (name, view) in call.tokens() {
            if let (true, Some(view)) = (expect_present(rule, name, view.is_some())?, view) {
                placed.read(name, view)?;
            }
        }
        placed.expect_named(&call.named)?;
        for (place, view) in call.named.iter().enumerate() {
            if let Some(view) = view {
                placed.read_named(place, *view)?;
            }
        }
        Ok(placed)
    }

    /// The finished call.
    pub fn arguments(&self) -> &Arguments {
        &self.arguments
    }

    pub fn stream(&self) -> Stream<'s> {
        self.stream
    }

    fn offsets(&mut self, given: Option<Offsets<'s>>) -> Result<(), Error> {
        let offsets = match given {
            None => return Ok(()),
            Some(Offsets::Device(offsets)) => offsets,
            Some(_) => return Err(Error::HostMemory("cu_seqlens")),
        };
        let Dims { batch, tokens, .. } = self.dims;
        if batch != 1 || offsets.tokens != tokens {
            let text = format!(
                "they end at {}, packed sequences need B = 1 and T the last: B = {batch}, T = {tokens}",
                offsets.tokens
            );
            return Err(CaseError::Offsets(text).into());
        }
        self.sequences = offsets.sequences();
        self.arguments.sequences = int(self.sequences);
        self.arguments.cu_seqlens_is_64 = i32::from(offsets.memory.stored() == Stored::I64);
        self.arguments.cu_seqlens = self.table("cu_seqlens", &*offsets.memory)?;
        Ok(())
    }

    /// An input with a row per token.
    pub fn read(&mut self, name: Name, view: View<'s>) -> Result<(), Error> {
        let Data::Device(memory, dtype) = view.data else { return Err(Error::HostMemory(name.name())) };
        self.expect(name, view.shape, dtype, 0)?;
        self.same_context(name.name(), memory.context())?;
        let (address, guard) = memory.read(self.stream);
        self.hold(guard);
        self.set(name, address, view.strides);
        Ok(())
    }

    /// An output with a row per token.
    pub fn write(&mut self, name: Name, view: &'s mut ViewMut<'_>) -> Result<(), Error> {
        self.expect(name, view.shape, view.dtype(), 0)?;
        let strides = view.strides;
        let address = self.written(name.name(), view)?;
        self.set(name, address, strides);
        Ok(())
    }

    /// As many tensors as the rule names itself.
    fn expect_named(&self, given: &Named<'_>) -> Result<(), Error> {
        let wanted = self.rule.prologue.named_count();
        if given.iter().enumerate().all(|(place, view)| view.is_some() == (place < wanted)) {
            return Ok(());
        }
        // Allocates, for something is wrong.
        named_views(self.rule, &self.dims, given).map(|_| ())
    }

    /// A parameter or logit, by its place among the rule's names.
    fn read_named(&mut self, place: usize, view: View<'s>) -> Result<(), Error> {
        let Data::Device(memory, dtype) = view.data else { return Err(Error::HostMemory("a parameter or logit")) };
        self.fits_named(place, view.shape, view.strides, dtype)?;
        self.same_context("a parameter or logit", memory.context())?;
        let (address, guard) = memory.read(self.stream);
        self.hold(guard);
        if let Some(field) = self.arguments.named.get_mut(place) {
            *field = raw_view(address, view.strides);
        }
        Ok(())
    }

    /// Where the gradient of one is written.
    pub fn write_named(&mut self, place: usize, view: &'s mut ViewMut<'_>) -> Result<(), Error> {
        self.fits_named(place, view.shape, view.strides, view.dtype())?;
        let strides = view.strides;
        let address = self.written("the gradient of a parameter or logit", view)?;
        if let Some(field) = self.arguments.named_gradients.get_mut(place) {
            *field = raw_view(address, strides);
        }
        Ok(())
    }

    fn fits_named(&self, place: usize, shape: Axes, strides: Axes, dtype: Dtype) -> Result<(), Error> {
        let Some(own) = self.rule.prologue.named_at(place) else {
            let problem = format!("rule `{}` has no such parameter or logit", self.rule.name);
            return Err(CaseError::Named { tensor: "the last of them".to_owned(), problem }.into());
        };
        let wrong = |problem: String| Err(CaseError::Named { tensor: own.name.to_owned(), problem }.into());
        let Dims { batch, tokens, value_heads, .. } = self.dims;
        let channels = own.axis.map(|axis| axis.channels(self.rule) as usize);
        let rows = [batch, tokens].into_iter().filter(|_| own.per_token).chain([value_heads]);
        if !rows.chain(channels).eq(shape.as_slice().iter().copied()) {
            return wrong(format!("shape {:?}, must be {}", shape.as_slice(), own.shape(self.rule)));
        }
        if dtype != own.storage {
            return wrong(format!("stored as {dtype}, must be {}: no call on a stream converts", own.storage));
        }
        if !own.per_token && shape.row_major().as_slice() != strides.as_slice() {
            return wrong("must be row-major: copy the tensor".to_owned());
        }
        Ok(())
    }

    /// States that are read: one for each sequence.
    pub fn read_states(&mut self, name: Name, view: View<'s>) -> Result<u64, Error> {
        let Data::Device(memory, dtype) = view.data else { return Err(Error::HostMemory(name.name())) };
        self.states(name, view.shape, view.strides, dtype, self.sequences)?;
        self.same_context(name.name(), memory.context())?;
        let (address, guard) = memory.read(self.stream);
        self.hold(guard);
        Ok(address)
    }

    /// States that are written: one for each sequence.
    pub fn write_states(&mut self, name: Name, view: &'s mut ViewMut<'_>) -> Result<u64, Error> {
        self.states(name, view.shape, view.strides, view.dtype(), self.sequences)?;
        self.written(name.name(), view)
    }

    /// The pool that decoding updates in place, and which of its states are whose.
    pub fn pool(&mut self, view: &'s mut ViewMut<'_>, slots: Option<Slots<'s>>) -> Result<(), Error> {
        let size = view.shape.as_slice().first().copied().unwrap_or(0);
        let wanted = match slots {
            None => self.sequences,
            Some(_) => size,
        };
        self.states(Name::InitialState, view.shape, view.strides, view.dtype(), wanted)?;
        match slots {
            None => {}
            Some(Slots::Host(_)) => return Err(Error::HostMemory("slots")),
            Some(Slots::Device(slots)) => {
                if slots.memory.len() != self.sequences {
                    let (got, want) = (vec![slots.memory.len()], vec![self.sequences]);
                    return Err(CaseError::Shape { tensor: "slots", got, letters: "[N]", want }.into());
                }
                if slots.reach > size {
                    let limit = "the pool of states is no larger than that";
                    return Err(Error::Size { field: "the largest slot", got: slots.reach - 1, limit });
                }
                let table = self.table("slots", &*slots.memory)?;
                (self.arguments.initial_slots, self.arguments.final_slots) = (table, table);
            }
        }
        let pool = self.written("state", view)?;
        (self.arguments.initial_state, self.arguments.final_state) = (pool, pool);
        Ok(())
    }

    /// Scratch memory: where it starts and how many bytes it has.
    pub fn scratch(&mut self, memory: &'s mut dyn crate::device::DeviceMemoryMut) -> Result<(u64, usize), Error> {
        self.same_context("scratch", memory.context())?;
        let bytes = match memory.stored() {
            Stored::Float(dtype) => dtype.bytes() as usize,
            Stored::I32 => 4,
            Stored::I64 => 8,
        };
        let bytes = memory.len().saturating_mul(bytes);
        let (address, guard) = memory.write(self.stream);
        self.hold(guard);
        Ok((address, bytes))
    }

    pub fn arguments_mut(&mut self) -> &mut Arguments {
        &mut self.arguments
    }

    fn written(&mut self, name: &'static str, view: &'s mut ViewMut<'_>) -> Result<u64, Error> {
        let DataMut::Device(memory, _) = &mut view.data else { return Err(Error::HostMemory(name)) };
        self.same_context(name, memory.context())?;
        let (address, guard) = memory.write(self.stream);
        self.hold(guard);
        Ok(address)
    }

    fn table(&mut self, name: &'static str, memory: &'s dyn DeviceMemory) -> Result<u64, Error> {
        self.same_context(name, memory.context())?;
        let (address, guard) = memory.read(self.stream);
        self.hold(guard);
        Ok(address)
    }

    fn set(&mut self, name: Name, address: u64, strides: Axes) {
        if let Some(field) = self.arguments.view_mut(name) {
            *field = raw_view(address, strides);
        }
    }

    /// Every tensor of a call has room: there are fewer than [`MOST_TENSORS`].
    fn hold(&mut self, guard: Guard<'s>) {
        if let Some(place) = self.guards.get_mut(self.held) {
            *place = guard;
            self.held += 1;
        }
    }

    fn same_context(&self, name: &'static str, context: Context) -> Result<(), Error> {
        if context == self.context { Ok(()) } else { Err(Error::OtherContext(name)) }
    }

    fn expect(&self, name: Name, got: Axes, dtype: Dtype, slots: usize) -> Result<(), Error> {
        fits(self.rule, &self.dims, name, got.as_slice(), slots)?;
        let want = problem::dtype(self.rule, name);
        if dtype != want {
            let (got, want) =
                (dtype.to_string(), format!("{want}, as the rule stores it: no call on a stream converts"));
            return Err(CaseError::Dtype { tensor: name.name(), got, want }.into());
        }
        Ok(())
    }

    fn states(&self, name: Name, shape: Axes, strides: Axes, dtype: Dtype, slots: usize) -> Result<(), Error> {
        self.expect(name, shape, dtype, slots)?;
        let packed = shape.row_major();
        let in_order = |((size, stride), packed): ((&usize, &usize), &usize)| *size < 2 || stride == packed;
        if shape.as_slice().iter().zip(strides.as_slice()).zip(packed.as_slice()).all(in_order) {
            return Ok(());
        }
        Err(Error::RowMajor { field: name.name(), shape, strides })
    }
}

/// A tensor of tokens as raw calls take it.
fn raw_view(address: u64, strides: Axes) -> raw::View {
    let stride = |axis: usize| strides.as_slice().get(axis).map_or(0, |stride| *stride as i64);
    raw::View { address, batch: stride(0), token: stride(1), head: stride(2) }
}

/// A size that was found to fit.
fn int(size: usize) -> i32 {
    i32::try_from(size).unwrap_or(i32::MAX)
}
