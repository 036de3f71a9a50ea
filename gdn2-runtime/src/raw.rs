//! The one raw layer: a call as device addresses, strides and sizes, and how each kernel parameter is found in it.
//! Everything that launches a kernel, safe or not, Rust or C, goes through [`Arguments`].

use gdn2_codegen::abi::{Arg, Axis, Extents, Tensor, Workspace};
use gdn2_codegen::kernel::{Kernel, Launch};

/// A token tensor in device memory. Strides count elements; the last axis is contiguous. For tensors with channels,
/// address and strides are multiples of 16 bytes; a gate of one number per token has no such demand.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Device address; 0 = absent.
    pub address: u64,
    /// Between batch rows; unused for packed sequences.
    pub batch: i64,
    /// Between tokens.
    pub token: i64,
    /// Between heads.
    pub head: i64,
}

/// One call of any pass. Fields of tensors that the rule or the pass does not have are ignored.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Arguments {
    /// `[B,T,H,K]`.
    pub q: View,
    /// `[B,T,H,K]`.
    pub k: View,
    /// `[B,T,HV,V]`.
    pub v: View,
    /// Natural log of the decay, `[B,T,HV]` or `[B,T,HV,K]`.
    pub g: View,
    /// Erase gate, `[B,T,HV]` or `[B,T,HV,K]`; beta where tied.
    pub b: View,
    /// Write gate, `[B,T,HV]` or `[B,T,HV,V]`.
    pub w: View,
    /// `[B,T,HV,V]`, written.
    pub o: View,
    /// f32 pool `[slots,HV,K,V]` (`[…,V,K]` for `state: vk`); 0 = zeros.
    pub initial_state: u64,
    /// f32 pool, written; 0 = not asked for. May be the initial pool if no slot is written that another sequence reads.
    pub final_state: u64,
    /// int32 `[N]`, negative = none; 0 = sequence index.
    pub initial_slots: u64,
    /// int32 `[N]`, negative = none; 0 = sequence index.
    pub final_slots: u64,
    /// `[N+1]` ascending offsets from 0; 0 = dense rows.
    pub cu_seqlens: u64,
    /// 1 when `cu_seqlens` is int64, 0 when it is int32.
    pub cu_seqlens_is_64: i32,
    /// N: batch rows, or packed sequences.
    pub sequences: i32,
    /// T: tokens per dense row, or of all packed sequences together (at graph replay, their maximum).
    pub tokens: i32,
    /// H.
    pub key_heads: i32,
    /// HV, a multiple of H.
    pub value_heads: i32,
    /// Multiplies o.
    pub scale: f32,
    /// What backward reads and writes beyond that.
    pub gradients: Gradients,
    /// Parameters and logits of `let`s, in the order in which the rule names them.
    pub named: [View; MOST_NAMED],
    /// Their gradients, written.
    pub named_gradients: [View; MOST_NAMED],
}

/// Most parameters and logits that a rule with kernels may name.
pub use gdn2_codegen::kernel::MOST_NAMED;

/// Backward's tensors, shaped as what they are gradients of.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gradients {
    /// Of o, read.
    pub d_o: View,
    /// Of q, written.
    pub dq: View,
    /// Of k, written.
    pub dk: View,
    /// Of v, written.
    pub dv: View,
    /// Of g, written.
    pub dg: View,
    /// Of b, written.
    pub db: View,
    /// Of w, written.
    pub dw: View,
    /// Of the final state, read; 0 = zeros.
    pub d_final_state: u64,
    /// Of the initial state, written; 0 = not asked for.
    pub d_initial_state: u64,
}

/// Why a call cannot become launches.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RawError {
    /// A count that is negative.
    #[error("{field} is {got}, must not be negative")]
    Negative {
        /// The field of [`Arguments`].
        field: &'static str,
        /// Its value.
        got: i32,
    },
    /// Heads that do not group.
    #[error("value_heads is {value_heads}, must be a multiple of key_heads {key_heads}, and both at least 1")]
    Heads {
        /// H.
        key_heads: i32,
        /// HV.
        value_heads: i32,
    },
    /// A tensor the kernel reads or writes, given as null.
    #[error("{0} is null, the kernel needs it")]
    Null(&'static str),
    /// A tensor that the rule names itself and that is missing, or from which loads cannot be made.
    #[error("{tensor} {problem}")]
    Named {
        /// Its name.
        tensor: String,
        /// What is wrong.
        problem: String,
    },
    /// An address or stride that loads cannot be made from.
    #[error("{tensor}: {what} is {bytes} bytes, must be a multiple of {granule}")]
    Misaligned {
        /// The tensor.
        tensor: &'static str,
        /// `address`, `batch stride`, `token stride` or `head stride`.
        what: &'static str,
        /// Its value in bytes.
        bytes: i128,
        /// What it must be a multiple of: 16, or an element where there is one number per token.
        granule: i128,
    },
    /// More blocks than a launch may have.
    #[error("{entry}: {} blocks, a launch takes at most 2147483647; use fewer sequences per call", blocks.map_or("over 2^64".to_owned(), |n| n.to_string()))]
    Grid {
        /// The kernel entry.
        entry: String,
        /// Blocks; `None` beyond 64 bits.
        blocks: Option<u64>,
    },
    /// Scratch memory beyond what can be addressed.
    #[error("workspace {0} is larger than memory can be; use fewer tokens per call")]
    WorkspaceSize(String),
    /// A workspace of the kernel that the call lacks.
    #[error("workspace {0} was not given")]
    Workspace(String),
}

/// Addresses of a kernel's workspaces, in the kernel's order.
pub type Workspaces<'a> = &'a [u64];

impl Arguments {
    /// The sizes that grids and workspaces depend on.
    ///
    /// # Errors
    /// A negative size, or heads that do not group.
    pub fn extents(&self) -> Result<Extents, RawError> {
        let count = |field, got: i32| u64::try_from(got).map_err(|_| RawError::Negative { field, got });
        let (sequences, tokens) = (count("sequences", self.sequences)?, count("tokens", self.tokens)?);
        let (key_heads, value_heads) = (count("key_heads", self.key_heads)?, count("value_heads", self.value_heads)?);
        if key_heads == 0 || value_heads == 0 || value_heads % key_heads != 0 {
            return Err(RawError::Heads { key_heads: self.key_heads, value_heads: self.value_heads });
        }
        let total_tokens = if self.cu_seqlens == 0 { sequences * tokens } else { tokens };
        Ok(Extents { sequences, total_tokens, key_heads, value_heads })
    }

    /// The place of a tensor that the rule names itself, or of its gradient.
    fn own(&self, kernel: &Kernel, arg: &Arg) -> View {
        let (name, views) = match arg {
            Arg::Named(name) | Arg::NamedStride(name, _) => (name, &self.named),
            Arg::NamedGradient(name) | Arg::NamedGradientStride(name, _) => (name, &self.named_gradients),
            _ => return View::default(),
        };
        let place = kernel.rule.prologue.place(name);
        place.and_then(|place| views.get(place)).copied().unwrap_or_default()
    }

    /// Presence and alignment of a tensor that the rule names itself.
    fn check_named(&self, kernel: &Kernel, arg: &Arg, name: &str, extents: Extents) -> Result<(), RawError> {
        let view = self.own(kernel, arg);
        let named = |problem: String| RawError::Named { tensor: name.to_owned(), problem };
        if view.address == 0 {
            // A gradient may be left out.
            let needed = matches!(arg, Arg::Named(_)) && extents.total_tokens > 0;
            return if needed { Err(named("is null, the kernel needs it".to_owned())) } else { Ok(()) };
        }
        let Some(own) = kernel.rule.prologue.named().into_iter().find(|own| own.name == name) else { return Ok(()) };
        let bytes = i128::from(own.storage.bytes());
        let strided = own.per_token && own.axis.is_some();
        let strides = [("batch stride", view.batch), ("token stride", view.token), ("head stride", view.head)];
        let parts = strides.map(|(what, stride)| (what, i128::from(stride) * bytes)).into_iter().filter(|_| strided);
        let granule = if strided { 16 } else { bytes };
        for (what, bytes) in parts.chain([("address", i128::from(view.address))]) {
            if bytes % granule != 0 {
                return Err(named(format!("{what} is {bytes} bytes, must be a multiple of {granule}")));
            }
        }
        Ok(())
    }

    /// A token tensor's place.
    fn view(&self, tensor: Tensor) -> View {
        let state = |address| View { address, ..View::default() };
        match tensor {
            Tensor::Q => self.q,
            Tensor::K => self.k,
            Tensor::V => self.v,
            Tensor::G => self.g,
            Tensor::B => self.b,
            Tensor::W => self.w,
            Tensor::O => self.o,
            Tensor::InitialState => state(self.initial_state),
            Tensor::FinalState => state(self.final_state),
            Tensor::DO => self.gradients.d_o,
            Tensor::DQ => self.gradients.dq,
            Tensor::DK => self.gradients.dk,
            Tensor::DV => self.gradients.dv,
            Tensor::DG => self.gradients.dg,
            Tensor::DB => self.gradients.db,
            Tensor::DW => self.gradients.dw,
            Tensor::DFinalState => state(self.gradients.d_final_state),
            Tensor::DInitialState => state(self.gradients.d_initial_state),
        }
    }

    /// The field of a tensor of tokens, to be filled in; `None` for states.
    pub fn view_mut(&mut self, tensor: Tensor) -> Option<&mut View> {
        Some(match tensor {
            Tensor::Q => &mut self.q,
            Tensor::K => &mut self.k,
            Tensor::V => &mut self.v,
            Tensor::G => &mut self.g,
            Tensor::B => &mut self.b,
            Tensor::W => &mut self.w,
            Tensor::O => &mut self.o,
            Tensor::DO => &mut self.gradients.d_o,
            Tensor::DQ => &mut self.gradients.dq,
            Tensor::DK => &mut self.gradients.dk,
            Tensor::DV => &mut self.gradients.dv,
            Tensor::DG => &mut self.gradients.dg,
            Tensor::DB => &mut self.gradients.db,
            Tensor::DW => &mut self.gradients.dw,
            Tensor::InitialState | Tensor::FinalState | Tensor::DFinalState | Tensor::DInitialState => return None,
        })
    }

    /// Checks what can be checked without reading device memory: sizes, presence and alignment of every tensor the
    /// kernel's launches name.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self, kernel: &Kernel) -> Result<(), RawError> {
        let extents = self.extents()?;
        for param in kernel.launches.iter().flat_map(|launch| &launch.params) {
            if let Arg::Named(name) | Arg::NamedGradient(name) = &param.arg {
                self.check_named(kernel, &param.arg, name, extents)?;
                continue;
            }
            let Arg::Pointer(tensor) = param.arg else { continue };
            let view = self.view(tensor);
            if view.address == 0 {
                if !optional(tensor) && extents.total_tokens > 0 {
                    return Err(RawError::Null(tensor.name()));
                }
                continue;
            }
            let bytes = i128::from(crate::problem::dtype(&kernel.rule, tensor).bytes());
            let strided = crate::problem::has_channels(&kernel.rule, tensor);
            let strides = [("batch stride", view.batch), ("token stride", view.token), ("head stride", view.head)];
            let parts = strides.map(|(what, stride)| (what, i128::from(stride) * bytes));
            let parts = parts.into_iter().filter(|_| strided);
            let granule = if strided { 16 } else { bytes };
            for (what, bytes) in parts.chain([("address", i128::from(view.address))]) {
                if bytes % granule != 0 {
                    return Err(RawError::Misaligned { tensor: tensor.name(), what, bytes, granule });
                }
            }
        }
        Ok(())
    }
}

/// Whether a kernel can do without a tensor it names.
fn optional(tensor: Tensor) -> bool {
    matches!(tensor, Tensor::InitialState | Tensor::FinalState | Tensor::DFinalState | Tensor::DInitialState)
}

/// One parameter of a launch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A device pointer; 0 = null.
    Pointer(u64),
    /// A stride or a size.
    I64(i64),
    /// A size or a flag.
    I32(i32),
    /// The scale.
    F32(f32),
}

/// The value of one parameter for a call: the only place that says what an [`Arg`] means.
///
/// # Errors
/// A workspace that was not given.
pub fn resolve(kernel: &Kernel, arg: &Arg, call: &Arguments, workspaces: Workspaces<'_>) -> Result<Value, RawError> {
    Ok(match arg {
        Arg::Pointer(tensor) => Value::Pointer(call.view(*tensor).address),
        Arg::Stride(tensor, Axis::Batch) => Value::I64(call.view(*tensor).batch),
        Arg::Stride(tensor, Axis::Token) => Value::I64(call.view(*tensor).token),
        Arg::Stride(tensor, Axis::Head) => Value::I64(call.view(*tensor).head),
        Arg::Named(_) | Arg::NamedGradient(_) => Value::Pointer(call.own(kernel, arg).address),
        Arg::NamedStride(_, axis) | Arg::NamedGradientStride(_, axis) => {
            let view = call.own(kernel, arg);
            Value::I64(match axis {
                Axis::Batch => view.batch,
                Axis::Token => view.token,
                Axis::Head => view.head,
            })
        }
        Arg::InitialSlots => Value::Pointer(call.initial_slots),
        Arg::FinalSlots => Value::Pointer(call.final_slots),
        Arg::CuSeqlens => Value::Pointer(call.cu_seqlens),
        Arg::CuSeqlensIs64 => Value::I32(call.cu_seqlens_is_64),
        Arg::Sequences => Value::I32(call.sequences),
        Arg::Tokens => Value::I32(call.tokens),
        Arg::KeyHeads => Value::I32(call.key_heads),
        Arg::ValueHeads => Value::I32(call.value_heads),
        Arg::Scale => Value::F32(call.scale),
        Arg::Workspace(name) => {
            let place = kernel.workspaces.iter().position(|workspace| workspace.name == *name);
            let address = place.and_then(|index| workspaces.get(index));
            Value::Pointer(*address.ok_or_else(|| RawError::Workspace(name.clone()))?)
        }
    })
}

/// Blocks of one launch; 0 = there is nothing to launch.
///
/// # Errors
/// More than a launch may have.
pub fn grid(launch: &Launch, extents: Extents) -> Result<u32, RawError> {
    if !launch.when.holds(extents) {
        return Ok(0);
    }
    let blocks = launch.grid.eval(extents);
    let legal = blocks.and_then(|blocks| i32::try_from(blocks).ok());
    legal.map(i32::unsigned_abs).ok_or_else(|| RawError::Grid { entry: launch.entry.clone(), blocks })
}

/// Most parameters that a launch may have: twice what any kernel has.
pub const MOST_PARAMS: usize = 128;

/// Hands on each launch of a call that has blocks: its place among the kernel's launches, the launch, its blocks and
/// its arguments in signature order. Every engine that launches gets them here. Allocates nothing.
///
/// # Errors
/// A call that makes no launches, or what `put` gives.
pub fn launches<E: From<RawError>>(
    kernel: &Kernel,
    call: &Arguments,
    workspaces: Workspaces<'_>,
    mut put: impl FnMut(usize, &Launch, u32, &[Value]) -> Result<(), E>,
) -> Result<(), E> {
    call.check(kernel)?;
    let extents = call.extents()?;
    for (index, launch) in kernel.launches.iter().enumerate() {
        let blocks = grid(launch, extents)?;
        if blocks == 0 {
            continue;
        }
        let mut values = [Value::I32(0); MOST_PARAMS];
        let params = launch.params.iter().take(MOST_PARAMS);
        let values = &mut values[..params.len()];
        for (value, param) in values.iter_mut().zip(params) {
            *value = resolve(kernel, &param.arg, call, workspaces)?;
        }
        put(index, launch, blocks, values)?;
    }
    Ok(())
}

/// Bytes of each of the kernel's workspaces, in its order.
///
/// # Errors
/// More than can be addressed.
pub fn workspace_bytes(kernel: &Kernel, extents: Extents) -> Result<Vec<usize>, RawError> {
    kernel.workspaces.iter().map(|workspace| bytes_of(workspace, extents)).collect()
}

/// Bytes of one workspace; 0 where a call does not use it.
///
/// # Errors
/// More than can be addressed.
pub fn bytes_of(workspace: &Workspace, extents: Extents) -> Result<usize, RawError> {
    if !workspace.when.holds(extents) {
        return Ok(0);
    }
    let bytes = workspace.bytes.eval(extents).and_then(|bytes| isize::try_from(bytes).ok());
    bytes.map(isize::unsigned_abs).ok_or_else(|| RawError::WorkspaceSize(workspace.name.clone()))
}
