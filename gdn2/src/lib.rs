//! Delta-rule linear-attention kernels as Rust functions, with no build step and no CUDA toolkit.
//!
//! [`delta_rule!`] turns a rule into a module, [`include_rule!`] does the same from a file. The module has
//!
//! - `load(&Device)`, which makes the embedded kernels ready on a [`Device`]: `Device::cpu()` computes natively,
//!   `Device::vm()` runs the kernels' PTX on a virtual machine, `Device::cuda(n)?` on a GPU;
//! - `Forward`, `Backward` and `Decode`, structs with exactly the tensors the rule has, each field documented with its shape,
//!   granularity and dtype;
//! - `Kernels`, a handle that is cheap to clone and shared between threads, with `forward`,
//!   `forward_for_backward`, `backward` and `decode`, and what is the
//!   same for every rule, on [`Loaded`]: [`Loaded::explain`], and raw calls on device memory such as
//!   [`Loaded::forward_raw`].
//!
//! ```
//! use gdn2::{Device, Dtype, Tensor, View};
//!
//! gdn2::delta_rule! {
//!     /// Gated linear attention with small heads: no erase gate, so none can be passed.
//!     pub mod gla { decay: channel; erase: none; write: none; key_dim: 32; value_dim: 32; dtype: bf16; }
//! }
//!
//! # fn main() -> Result<(), gdn2::Error> {
//! let kernels = gla::load(&Device::cpu())?;
//! let mut state = Tensor::zeros([1, 1, gla::KEY_DIM, gla::VALUE_DIM], Dtype::F32)?;
//! let (x, decay) = ([0.5; 32], [-0.1; 32]);
//! let x = View::new(&x, [1, 1, 1, 32])?;
//! let g = View::new(&decay, [1, 1, 1, 32])?;
//! let o = kernels.decode(&mut state, gla::Decode { q: x, k: x, v: x, g, slots: None, scale: Some(1.0) })?;
//! // From an empty state, o = (q·k) v.
//! assert_eq!(o.to_f32(), [32.0 * 0.5 * 0.5 * 0.5; 32]);
//! # Ok(())
//! # }
//! ```
//!
//! Inputs are [`View`]s: borrowed slices of f32, bf16 or f16 with a shape and strides. Whatever does not fit is a typed
//! [`Error`] that names the field, the limit and the fix. Calls on host slices return when the result is there.

#[doc(hidden)]
#[path = "private.rs"]
pub mod __private;
mod bank;
mod call;
mod device;
mod embedded;
mod error;
mod loaded;
mod on_stream;
mod place;
mod shape;
mod view;

pub use cudarc;
pub use device::{DeviceMemory, DeviceMemoryMut, DeviceOffsets, DeviceSlots, DeviceTensor, Guard, Stored, Stream};
pub use embedded::{Explanation, Origin};
pub use error::Error;
pub use gdn2_codegen::kernel::Pass;
pub use gdn2_codegen::lookup::Step;
pub use gdn2_dsl::{Dtype, Rule};
/// Typed kernels from rules written in place, one module for each.
///
/// `[VIS] mod NAME { … }` stands for `rule NAME { … }` of a rule file, with the same body. Doc comments and attributes
/// go to the module. `crate = path;` before the first rule names the place that this crate is re-exported from.
///
/// ```
/// gdn2::delta_rule! {
///     /// Gated DeltaNet: one decay and one tied gate per head.
///     pub mod gdn { decay: scalar; erase: scalar; write: erase; key_dim: 64; value_dim: 128; dtype: bf16; }
///
///     /// The same without decay.
///     pub mod deltanet { decay: none; erase: scalar; write: erase; key_dim: 64; value_dim: 128; dtype: bf16; }
/// }
/// assert_eq!((gdn::KEY_DIM, deltanet::rule().value_dim), (64, 128));
/// ```
pub use gdn2_macros::delta_rule;
/// Typed kernels from a rule file, one module for each of its rules; `"file#rule"` takes one of them.
///
/// The path is relative to the crate's Cargo.toml. The crate is rebuilt when the file changes. A visibility before the
/// path replaces `pub`; `crate = path` after it names the place that this crate is re-exported from.
///
/// ```
/// # mod inner {
/// gdn2::include_rule!(pub(crate) "../rules/gla.gdn2");
/// # }
/// # use inner::gla;
/// assert_eq!(gla::KEY_DIM, 128);
/// ```
pub use gdn2_macros::include_rule;
pub use gdn2_runtime::device::launch::Context;
pub use gdn2_runtime::device::{Device, DeviceError};
pub use gdn2_runtime::raw;
pub use half::{bf16, f16};
pub use loaded::{Loaded, Output, Outputs, Saved};
pub use on_stream::DeviceOutput;
pub use shape::{Axes, IntoAxes, Shape};
pub use view::{Element, Offsets, Slots, Tensor, View, ViewMut};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
