//! What the generated modules name. Not for anybody else: no promise of stability.

pub use crate::call::Call;
pub use crate::embedded::Embedded;
pub use crate::error::Error;
pub use crate::loaded::{Gradients, Loaded, Output, Saved};
pub use crate::view::{Offsets, Tensor, View};
pub use gdn2_codegen::abi::Tensor as Name;
pub use gdn2_codegen::arch::Arch;
pub use gdn2_codegen::kernel::Pass;
pub use gdn2_dsl::{Bound, Dtype, Gate, Grain, Rule, StateLayout, Write};
pub use gdn2_runtime::device::Device;
