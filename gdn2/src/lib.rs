//! Delta-rule linear-attention kernels as Rust functions.

mod error;
mod shape;
mod view;

pub use error::Error;
pub use gdn2_macros::{delta_rule, include_rule};
pub use half::{bf16, f16};
pub use shape::{Axes, IntoAxes};
pub use view::{Element, Offsets, Tensor, View};
