//! What can be wrong with a call or a device: each error names the field, the limit and the fix.

use crate::device::Stored;
use crate::shape::Axes;
use gdn2_dsl::Dtype;
use gdn2_runtime::engine::RunError;

/// An error of the façade.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A slice that does not hold a tensor of the given shape.
    #[error("a tensor of shape {shape:?} with strides {strides:?} reaches over {needs} elements, the slice has {got}")]
    Length {
        /// The shape.
        shape: Axes,
        /// The strides, in elements.
        strides: Axes,
        /// Elements the slice must have.
        needs: u128,
        /// Elements it has.
        got: usize,
    },
    /// A shape of more than four axes, or strides that are not one per axis.
    #[error("{axes} sizes and {strides} strides: tensors have one to 4 axes and one stride for each")]
    Rank {
        /// Sizes given.
        axes: usize,
        /// Strides given.
        strides: usize,
    },
    /// A tensor whose last axis is not contiguous.
    #[error("the last axis has stride {0}, must be contiguous (stride 1): copy the tensor")]
    LastAxis(usize),
    /// A size that contradicts a limit.
    #[error("{field} is {got}: {limit}")]
    Size {
        /// The size.
        field: &'static str,
        /// Its value.
        got: usize,
        /// The limit, and what to do.
        limit: &'static str,
    },
    /// A state that is not stored as f32.
    #[error("state: stored as {0}, must be f32: make it with Tensor::zeros(shape, Dtype::F32)")]
    StateDtype(Dtype),
    /// A raw call on a device that has no streams.
    #[error("raw calls take device pointers and a stream: load the kernels on Device::cuda(n)")]
    NoStream,
    /// Less scratch memory than a call needs.
    #[error("scratch: {got} bytes, this shape takes {needs}, as {says} says")]
    Scratch {
        /// Bytes given.
        got: usize,
        /// Bytes needed.
        needs: usize,
        /// The function that says how many.
        says: &'static str,
    },
    /// A tensor on a GPU in a call that reads host memory.
    #[error("{0} is on a GPU: use the call that takes a stream, such as forward_on")]
    DeviceMemory(&'static str),
    /// A tensor in host memory in a call on a stream.
    #[error("{0} is in host memory: a call on a stream takes device memory, copy it there or leave the stream out")]
    HostMemory(&'static str),
    /// Memory or a stream of another GPU, or of another context of it.
    #[error("{0} belongs to another GPU or context than the kernels: load them on the one that holds it")]
    OtherContext(&'static str),
    /// A tensor that a kernel walks through without strides.
    #[error("{field}: strides {strides:?} of shape {shape:?} must be row-major: copy the tensor")]
    RowMajor {
        /// The tensor.
        field: &'static str,
        /// Its shape.
        shape: Axes,
        /// Its strides.
        strides: Axes,
    },
    /// An output of another shape than is written.
    #[error("{field}: shape {got:?}, {want:?} is written")]
    Output {
        /// The output.
        field: &'static str,
        /// Its shape.
        got: Axes,
        /// The shape it must have.
        want: Axes,
    },
    /// An output whose rows share memory.
    #[error(
        "strides {strides:?} of shape {shape:?} make rows overlap: an output needs each stride to step over the axes inside it"
    )]
    Overlap {
        /// The shape.
        shape: Axes,
        /// The strides.
        strides: Axes,
    },
    /// Device memory that holds no tensor.
    #[error("the memory holds {0:?}, a tensor is f32, bf16 or f16")]
    Stored(Stored),
    /// Training a rule for which no backward kernel fits any GPU.
    #[error("rule `{0}` has no backward kernel: its head dims fit none")]
    NoBackward(String),
    /// Inputs that do not fit the rule or one another, a compiler that is needed and missing, a device that fails.
    #[error(transparent)]
    Run(#[from] RunError),
}

impl From<gdn2_runtime::tensors::CaseError> for Error {
    fn from(error: gdn2_runtime::tensors::CaseError) -> Error {
        Error::Run(error.into())
    }
}

impl From<gdn2_runtime::device::DeviceError> for Error {
    fn from(error: gdn2_runtime::device::DeviceError) -> Error {
        Error::Run(error.into())
    }
}

impl From<gdn2_runtime::raw::RawError> for Error {
    fn from(error: gdn2_runtime::raw::RawError) -> Error {
        gdn2_runtime::device::DeviceError::from(error).into()
    }
}
