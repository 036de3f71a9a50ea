//! What the generated modules name. Not for anybody else: no promise of stability.

pub use crate::call::{Call, Named, named, with_formulas};
pub use crate::device::{DeviceMemoryMut, Stream};
pub use crate::embedded::{EditedKernel, Embedded, Tuning};
pub use crate::error::Error;
pub use crate::loaded::{Gradients, Loaded, Output, Outputs, Saved};
pub use crate::on_stream::{DeviceOutput, GradientViews};
pub use crate::view::{Offsets, Slots, Tensor, View, ViewMut};
pub use cudarc::driver::CudaStream;
pub use gdn2_codegen::abi::Tensor as Name;
pub use gdn2_codegen::arch::Arch;
pub use gdn2_codegen::kernel::Pass;
pub use gdn2_dsl::{Bound, Dtype, Gate, Grain, Rule, StateLayout, Write};
pub use gdn2_runtime::device::Device;
pub use gdn2_runtime::device::launch::{Driver, Gpu, Put};

pub use crate::__with_candle as with_candle;
#[cfg(feature = "candle")]
pub use crate::candle::{Inputs as CandleInputs, Output as CandleOutput};
#[cfg(feature = "candle")]
pub use candle_core::{Result as CandleResult, Tensor as CandleTensor};
