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
//! # Inputs
//! [`View`]s: borrowed slices of f32, bf16 or f16 with a shape and strides, or device memory. Whatever does not fit is a
//! typed [`Error`] that names the field, the limit and the fix. Calls on host memory return when the result is there, in
//! tensors of their own or, with `forward_into`, where they are told to write.
//!
//! # Kernels
//! The macro embeds, for each pass, the best of: machine code in the schedules that tuning records ask for, PTX, CUDA
//! source, which NVRTC compiles into a cache when it is first loaded. The first two lie in `kernels/` beside your
//! Cargo.toml, where `gdn2 prepare` puts them, or in this project's own; what belongs to another text than is generated
//! now is left alone. Records are `tuning/GPU.json`, yours before this project's. On load they are indexed; each call gets
//! the kernel of its [`Shape`]: its bucket's record, the nearest bucket's, the schedule that wins most records on this GPU,
//! the built-in one. [`Loaded::warmup`] makes ready what a shape needs, [`Loaded::explain`] says what that is and why.
//! [`Loaded::watch_shapes`] has calls counted, and [`Loaded::seen_shapes`] says to `gdn2 tune --seen` which to tune for.
//!
//! # On a GPU
//! `forward_on`, `forward_for_backward_on`, `backward_on` and `decode_on` take [`View::device`] and [`ViewMut::device`]
//! over [`cudarc`]'s slices, and a [`Stream`]. They check shapes, dtypes, strides, alignment, context and sizes, put the
//! kernels on the stream and return. After a warm-up they allocate nothing, take no lock, make one driver call per kernel
//! and can be captured in a graph; [`Stream`] says what cudarc adds to that and how work is ordered. Offsets and slots
//! are checked once, when [`DeviceOffsets`] and [`DeviceSlots`] are made, since nobody can look at device memory later.
//! Below lie [`Loaded::forward_raw`] and its like, unsafe, on bare addresses.
//!
//! ```no_run
//! use gdn2::{Device, DeviceTensor, Dtype, Outputs, Shape};
//!
//! gdn2::delta_rule! {
//!     pub mod linear { decay: none; erase: none; write: none; key_dim: 64; value_dim: 64; dtype: bf16; }
//! }
//!
//! # fn main() -> Result<(), gdn2::Error> {
//! let device = Device::cuda(0)?;
//! let kernels = linear::load(&device)?;
//! kernels.warmup(Shape::dense(2, 1000, 8, 8))?;
//! # let Some(stream) = device.stream() else { return Ok(()) };
//! let x = DeviceTensor::zeros(stream, [2, 1000, 8, 64], Dtype::Bf16)?; // or View::device over a CudaSlice
//! let mut o = DeviceTensor::zeros(stream, [2, 1000, 8, 64], Dtype::Bf16)?;
//! let inputs = linear::Forward {
//!     q: x.view()?, k: x.view()?, v: x.view()?, initial_state: None, cu_seqlens: None, scale: None,
//! };
//! kernels.forward_on(stream, inputs, Outputs { o: o.view_mut()?, final_state: None })?;
//! # Ok(())
//! # }
//! ```
//!
//! # Training
//! `forward_for_backward` gives what `backward` needs, its inputs and what the kernel kept beside them. With the feature
//! `candle`, `forward_candle` takes candle's tensors and gradients flow through its autograd.

//!
//! # Features
//! `vm` and `cpu`, both on by default, are the devices that need no GPU: the PTX virtual machine, and the recurrence on the
//! host's cores. A program that runs on GPUs alone leaves them out with `default-features = false` and names `cuda-13000`,
//! or whatever version of the driver's interface its own cudarc has. [`Device`] then has no such variant, and its name is a
//! typed error.

#[doc(hidden)]
#[path = "private.rs"]
pub mod __private;
mod bank;
mod call;
#[cfg(feature = "candle")]
pub mod candle;
mod device;
mod embedded;
mod error;
mod loaded;
mod on_stream;
mod place;
mod shape;
mod view;

pub use cudarc;
pub use device::{
    DeviceMemory, DeviceMemoryMut, DeviceOffsets, DeviceSlots, DeviceTensor, ForeignMemory, Guard, Stored, Stream,
};
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
///
/// # Kernels edited by hand
/// `#[kernel(PASS, "FILE", from = "HASH")]` before a rule names a text that stands for the kernel of a pass: what
/// `gdn2 emit --emit cuda` printed, edited, in a path relative to the crate's Cargo.toml. Passes are forward, backward and
/// decode. The text says itself, in the comment above its kernel, which architecture and schedule it was generated for:
/// there every call of the pass gets it, whatever tuning records say, of several texts the one in the schedule that the
/// call would get otherwise, else the first. Calls without scratch memory get the built-in kernel where the text's needs
/// some. `HASH`, at least 16 digits, is of the generated text that it was made from. Where another one is generated
/// now, the crate does not compile, and the error says what to type; so it does where the hash is left out. `gdn2 prepare`
/// compiles the text ahead; without that NVRTC does where it is first loaded. [`Loaded::explain`] names the file.
///
/// ```text
/// gdn2::delta_rule! {
///     #[kernel(forward, "edited/gdn.cu", from = "9f4c1b77d0e2a358")]
///     pub mod gdn { decay: scalar; erase: scalar; write: erase; key_dim: 64; value_dim: 128; dtype: bf16; }
/// }
/// ```
pub use gdn2_macros::delta_rule;
/// Typed kernels from a rule file, one module for each of its rules; `"file#rule"` takes one of them.
///
/// The path is relative to the crate's Cargo.toml. The crate is rebuilt when the file changes. A visibility before the
/// path replaces `pub`; `crate = path` after it names the place that this crate is re-exported from. Before all that,
/// `#[kernel(…)]` names a hand-edited kernel as for [`delta_rule!`], for a file with one rule or with `#rule`.
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
pub use gdn2_runtime::seen::{Seen, SeenShapes};
pub use half::{bf16, f16};
pub use loaded::{Loaded, Output, Outputs, Saved};
pub use on_stream::DeviceOutput;
pub use shape::{Axes, IntoAxes, Shape};
pub use view::{Element, Offsets, Slots, Tensor, View, ViewMut};

/// What the macros generate for candle, where the feature `candle` of this crate is on.
#[cfg(feature = "candle")]
#[doc(hidden)]
#[macro_export]
macro_rules! __with_candle {
    ($($items:tt)*) => { $($items)* };
}

/// Nothing: the feature `candle` of this crate is off.
#[cfg(not(feature = "candle"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __with_candle {
    ($($items:tt)*) => {};
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../../docs/in-an-engine.md")]
struct InAnEngine;
