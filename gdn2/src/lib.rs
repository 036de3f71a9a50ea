//! Delta-rule linear-attention kernels as Rust functions.

#[doc(hidden)]
#[path = "private.rs"]
pub mod __private;
mod call;
mod error;
mod loaded;
mod shape;
mod view;

pub use error::Error;
pub use gdn2_codegen::kernel::Pass;
pub use gdn2_dsl::{Dtype, Rule};
pub use gdn2_macros::{delta_rule, include_rule};
pub use gdn2_runtime::device::{Device, DeviceError};
pub use gdn2_runtime::raw;
pub use half::{bf16, f16};
pub use loaded::{Explanation, Loaded, Origin, Output};
pub use shape::{Axes, IntoAxes};
pub use view::{Element, Offsets, Tensor, View};
