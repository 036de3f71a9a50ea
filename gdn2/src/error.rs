//! What can be wrong with a call or a device: each error names the field, the limit and the fix.

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
    /// Fewer scratch addresses than training needs.
    #[error("{got} scratch addresses, training takes {want}: one for each entry of training_scratch")]
    Scratch {
        /// Addresses given.
        got: usize,
        /// Addresses needed.
        want: usize,
    },
    /// Inputs that do not fit the rule or one another, a compiler that is needed and missing, a device that fails.
    #[error(transparent)]
    Run(#[from] RunError),
}
