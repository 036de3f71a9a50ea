//! A GPU's memory and streams as callers hold them: cudarc's slices and views, or anybody's that keeps the promises.

use std::ffi::c_void;
use std::fmt;
use std::sync::Arc;

use crate::error::Error;
use crate::shape::{Axes, IntoAxes};
use crate::view::{Data, Tensor, View, ViewMut};
use cudarc::driver::{
    CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceSlice, DriverError, SyncOnDrop,
};
use gdn2_dsl::Dtype;
use gdn2_runtime::device::cuda::{context_of, driver};
use gdn2_runtime::device::launch::Context;
use gdn2_runtime::engine::RunError;
use half::{bf16, f16};

/// The stream that a call is put on. cudarc's streams convert into it.
///
/// Work is in the order of its stream. Where cudarc tracks events, as it does once a context has several streams, a call
/// waits on the stream, not on the host, for what other streams do with its slices, and they for it; that costs two
/// driver calls for each slice. After `CudaContext::disable_event_tracking` a call makes one driver call per kernel and
/// can be captured in a graph, and the order of streams is the caller's.
#[derive(Clone, Copy)]
pub struct Stream<'s>(Kind<'s>);

#[derive(Clone, Copy)]
enum Kind<'s> {
    Cuda(&'s CudaStream),
    Foreign(*mut c_void, Context),
}

impl<'s> Stream<'s> {
    /// A stream that cudarc does not know.
    ///
    /// # Safety
    /// `handle` is a `CUstream` of the context, whatever memory is used on it stays alive until its work is done, and
    /// what other streams do with that memory is ordered before or after it.
    pub unsafe fn foreign(handle: *mut c_void, context: Context) -> Stream<'s> {
        Stream(Kind::Foreign(handle, context))
    }

    pub(crate) fn handle(self) -> *mut c_void {
        match self.0 {
            Kind::Cuda(stream) => stream.cu_stream().cast(),
            Kind::Foreign(handle, _) => handle,
        }
    }

    pub(crate) fn context(self) -> Context {
        match self.0 {
            Kind::Cuda(stream) => context_of(stream),
            Kind::Foreign(_, context) => context,
        }
    }
}

impl<'s> From<&'s CudaStream> for Stream<'s> {
    fn from(stream: &'s CudaStream) -> Self {
        Stream(Kind::Cuda(stream))
    }
}

impl<'s> From<&'s Arc<CudaStream>> for Stream<'s> {
    fn from(stream: &'s Arc<CudaStream>) -> Self {
        Stream(Kind::Cuda(stream))
    }
}

/// What device memory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Numbers of a tensor.
    Float(Dtype),
    /// 32-bit offsets or slots.
    I32,
    /// 64-bit offsets.
    I64,
}

/// Held while a call is put on a stream: what it does when dropped orders later work after the call.
#[must_use]
#[derive(Debug)]
pub struct Guard<'s> {
    _event: Option<SyncOnDrop<'s>>,
}

impl Guard<'_> {
    /// Nothing to do.
    pub const NONE: Guard<'static> = Guard { _event: None };
}

/// Memory of a GPU that a call may read.
///
/// # Safety
/// `read` gives the address of `len` elements of what `stored` says, in memory of `context`. Until work that was put on
/// the stream before the guard is dropped has been done, the memory is neither freed nor written.
pub unsafe trait DeviceMemory: Send + Sync {
    /// What it holds.
    fn stored(&self) -> Stored;
    /// Elements.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The context it belongs to.
    fn context(&self) -> Context;
    /// Its address, ready to be read on a stream.
    fn read<'s>(&'s self, stream: Stream<'s>) -> (u64, Guard<'s>);
}

/// Memory of a GPU that a call may write.
///
/// # Safety
/// As [`DeviceMemory`], for writing: nothing else reads or writes the memory meanwhile.
pub unsafe trait DeviceMemoryMut: DeviceMemory {
    /// Its address, ready to be written on a stream.
    fn write<'s>(&'s mut self, stream: Stream<'s>) -> (u64, Guard<'s>);
}

/// Memory of a GPU that cudarc does not know, at an address.
#[derive(Clone, Copy, Debug)]
pub struct ForeignMemory {
    address: u64,
    len: usize,
    stored: Stored,
    context: Context,
}

impl ForeignMemory {
    /// `len` elements of what `stored` says, from `address` on.
    ///
    /// # Safety
    /// What [`DeviceMemory`] and, where a call is to write there, [`DeviceMemoryMut`] ask for.
    pub unsafe fn new(address: u64, len: usize, stored: Stored, context: Context) -> ForeignMemory {
        ForeignMemory { address, len, stored, context }
    }

    /// Where it starts.
    pub fn address(&self) -> u64 {
        self.address
    }
}

// SAFETY: whoever made it has promised.
unsafe impl DeviceMemory for ForeignMemory {
    fn stored(&self) -> Stored {
        self.stored
    }

    fn len(&self) -> usize {
        self.len
    }

    fn context(&self) -> Context {
        self.context
    }

    fn read<'s>(&'s self, _: Stream<'s>) -> (u64, Guard<'s>) {
        (self.address, Guard::NONE)
    }
}

// SAFETY: as above.
unsafe impl DeviceMemoryMut for ForeignMemory {
    fn write<'s>(&'s mut self, _: Stream<'s>) -> (u64, Guard<'s>) {
        (self.address, Guard::NONE)
    }
}

fn reading<'s, T>(memory: &'s impl DevicePtr<T>, stream: Stream<'s>) -> (u64, Guard<'s>) {
    match stream.0 {
        Kind::Cuda(stream) => {
            let (address, event) = memory.device_ptr(stream);
            (address, Guard { _event: Some(event) })
        }
        // Whoever made the stream has promised the order.
        Kind::Foreign(..) => (memory.device_ptr(memory.stream()).0, Guard::NONE),
    }
}

fn writing<'s, T>(memory: &'s mut impl DevicePtrMut<T>, stream: Stream<'s>) -> (u64, Guard<'s>) {
    match stream.0 {
        Kind::Cuda(stream) => {
            let (address, event) = memory.device_ptr_mut(stream);
            (address, Guard { _event: Some(event) })
        }
        Kind::Foreign(..) => {
            let own = memory.stream().clone();
            (memory.device_ptr_mut(&own).0, Guard::NONE)
        }
    }
}

macro_rules! memory {
    ($($element:ty: $stored:expr;)*) => {$(
        memory!(@read CudaSlice<$element>, $stored);
        memory!(@read CudaView<'_, $element>, $stored);
        memory!(@read CudaViewMut<'_, $element>, $stored);
        memory!(@write CudaSlice<$element>);
        memory!(@write CudaViewMut<'_, $element>);
    )*};
    (@read $memory:ty, $stored:expr) => {
        // SAFETY: cudarc's pointer is valid for as long as the slice lives, and its guard orders later frees and writes
        // after the work.
        unsafe impl DeviceMemory for $memory {
            fn stored(&self) -> Stored {
                $stored
            }

            fn len(&self) -> usize {
                DeviceSlice::len(self)
            }

            fn context(&self) -> Context {
                context_of(DeviceSlice::stream(self))
            }

            fn read<'s>(&'s self, stream: Stream<'s>) -> (u64, Guard<'s>) {
                reading(self, stream)
            }
        }
    };
    (@write $memory:ty) => {
        // SAFETY: as above, and the slice is borrowed mutably.
        unsafe impl DeviceMemoryMut for $memory {
            fn write<'s>(&'s mut self, stream: Stream<'s>) -> (u64, Guard<'s>) {
                writing(self, stream)
            }
        }
    };
}

memory! {
    f32: Stored::Float(Dtype::F32);
    bf16: Stored::Float(Dtype::Bf16);
    f16: Stored::Float(Dtype::F16);
    i32: Stored::I32;
    i64: Stored::I64;
}

/// Offsets of packed sequences in device memory, checked before they went there.
pub struct DeviceOffsets {
    pub(crate) memory: Box<dyn DeviceMemory>,
    pub(crate) tokens: usize,
}

impl DeviceOffsets {
    /// Copies N + 1 offsets to the GPU, from 0 on, none below the one before it.
    ///
    /// # Errors
    /// Offsets that cut no tokens into sequences, or a failing driver call.
    pub fn new(stream: &Arc<CudaStream>, offsets: &[i32]) -> Result<DeviceOffsets, Error> {
        let limit = "cu_seqlens must start at 0 and never descend";
        if offsets.first() != Some(&0) || !offsets.is_sorted() {
            let at = offsets.windows(2).position(|pair| pair[1] < pair[0]).map_or(0, |at| at + 1);
            return Err(Error::Size { field: "the index of the first offset that is wrong", got: at, limit });
        }
        let tokens = offsets.last().and_then(|last| usize::try_from(*last).ok()).unwrap_or(0);
        let memory = stream.clone_htod(offsets).map_err(failed("copying offsets to the GPU"))?;
        Ok(DeviceOffsets { memory: Box::new(memory), tokens })
    }

    /// Offsets that are on the GPU already, as i32 or i64.
    ///
    /// # Safety
    /// They start at 0, never descend and end at `tokens`.
    pub unsafe fn from_memory(memory: Box<dyn DeviceMemory>, tokens: usize) -> DeviceOffsets {
        DeviceOffsets { memory, tokens }
    }

    /// N.
    pub fn sequences(&self) -> usize {
        self.memory.len().saturating_sub(1)
    }
}

/// Slots of a pool of states in device memory, one for each sequence, checked before they went there.
pub struct DeviceSlots {
    pub(crate) memory: Box<dyn DeviceMemory>,
    pub(crate) reach: usize,
}

impl DeviceSlots {
    /// Copies slots to the GPU; negative skips the sequence.
    ///
    /// # Errors
    /// A slot that two sequences have, or a failing driver call.
    pub fn new(stream: &Arc<CudaStream>, slots: &[i32]) -> Result<DeviceSlots, Error> {
        let mut sorted: Vec<i32> = slots.iter().copied().filter(|slot| *slot >= 0).collect();
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            let limit = "two sequences cannot update one state: slots must differ";
            return Err(Error::Size { field: "a slot", got: pair[0].unsigned_abs() as usize, limit });
        }
        let reach = sorted.last().map_or(0, |last| last.unsigned_abs() as usize + 1);
        let memory = stream.clone_htod(slots).map_err(failed("copying slots to the GPU"))?;
        Ok(DeviceSlots { memory: Box::new(memory), reach })
    }

    /// Slots that are on the GPU already, as i32.
    ///
    /// # Safety
    /// Those that are not negative differ and are below `reach`.
    pub unsafe fn from_memory(memory: Box<dyn DeviceMemory>, reach: usize) -> DeviceSlots {
        DeviceSlots { memory, reach }
    }
}

impl fmt::Debug for DeviceOffsets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceOffsets({} sequences, {} tokens)", self.sequences(), self.tokens)
    }
}

impl fmt::Debug for DeviceSlots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceSlots({}, below {})", self.memory.len(), self.reach)
    }
}

fn failed(call: &'static str) -> impl Fn(DriverError) -> Error {
    move |error| Error::Run(RunError::Device(driver(call)(error)))
}

/// An owned, row-major tensor in device memory: what calls on a stream return when they are not told where to write.
#[derive(Debug)]
pub struct DeviceTensor {
    values: DeviceValues,
    shape: Axes,
}

#[derive(Debug)]
enum DeviceValues {
    F32(CudaSlice<f32>),
    Bf16(CudaSlice<bf16>),
    F16(CudaSlice<f16>),
}

impl DeviceTensor {
    /// Zeros.
    ///
    /// # Errors
    /// More elements than memory can address, or a failing driver call.
    pub fn zeros(stream: &Arc<CudaStream>, shape: impl IntoAxes, dtype: Dtype) -> Result<DeviceTensor, Error> {
        let (shape, len) = crate::view::sized(shape)?;
        // Nothing can be allocated for no elements.
        let len = len.max(1);
        let values = match dtype {
            Dtype::F32 => stream.alloc_zeros(len).map(DeviceValues::F32),
            Dtype::Bf16 => stream.alloc_zeros(len).map(DeviceValues::Bf16),
            Dtype::F16 => stream.alloc_zeros(len).map(DeviceValues::F16),
        };
        Ok(DeviceTensor { values: values.map_err(failed("allocating a tensor"))?, shape })
    }

    /// A copy of a tensor in host memory.
    ///
    /// # Errors
    /// A failing driver call.
    pub fn from_host(stream: &Arc<CudaStream>, tensor: &Tensor) -> Result<DeviceTensor, Error> {
        let shape = tensor.view().shape;
        let values = match tensor.view().data {
            Data::F32(slice) => stream.clone_htod(slice).map(DeviceValues::F32),
            Data::Bf16(slice) => stream.clone_htod(slice).map(DeviceValues::Bf16),
            Data::F16(slice) => stream.clone_htod(slice).map(DeviceValues::F16),
            Data::Device(..) => return Err(Error::DeviceMemory("tensor")),
        };
        Ok(DeviceTensor { values: values.map_err(failed("copying a tensor to the GPU"))?, shape })
    }

    /// A copy in host memory; waits for the stream.
    ///
    /// # Errors
    /// A failing driver call.
    pub fn to_host(&self, stream: &Arc<CudaStream>) -> Result<Tensor, Error> {
        let failed = failed("copying a tensor from the GPU");
        let tensor = match &self.values {
            DeviceValues::F32(slice) => Tensor::from_values(stream.clone_dtoh(slice).map_err(failed)?, self.shape),
            DeviceValues::Bf16(slice) => Tensor::from_values(stream.clone_dtoh(slice).map_err(failed)?, self.shape),
            DeviceValues::F16(slice) => Tensor::from_values(stream.clone_dtoh(slice).map_err(failed)?, self.shape),
        };
        Ok(tensor)
    }

    /// Sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        self.shape.as_slice()
    }

    /// The tensor as an input.
    ///
    /// # Errors
    /// None: the memory holds the shape.
    pub fn view(&self) -> Result<View<'_>, Error> {
        let memory: &dyn DeviceMemory = match &self.values {
            DeviceValues::F32(slice) => slice,
            DeviceValues::Bf16(slice) => slice,
            DeviceValues::F16(slice) => slice,
        };
        View::device_strided(memory, self.shape, self.shape.row_major())
    }

    /// The tensor as an output.
    ///
    /// # Errors
    /// None: the memory holds the shape.
    pub fn view_mut(&mut self) -> Result<ViewMut<'_>, Error> {
        let memory: &mut dyn DeviceMemoryMut = match &mut self.values {
            DeviceValues::F32(slice) => slice,
            DeviceValues::Bf16(slice) => slice,
            DeviceValues::F16(slice) => slice,
        };
        ViewMut::device_strided(memory, self.shape, self.shape.row_major())
    }
}
