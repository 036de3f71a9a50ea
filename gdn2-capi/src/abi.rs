//! The structs of `include/gdn2.h`, and how they become the façade's views.

use std::ffi::c_void;

use gdn2::__private::{Call as Inputs, Name};
use gdn2::{Axes, Dtype, Offsets, Shape, View, bf16, f16};

/// `gdn2_tensor`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Tensor {
    /// First element; null = absent.
    pub data: *mut c_void,
    /// 0 f32, 1 bf16, 2 f16.
    pub dtype: i32,
    /// Axes.
    pub rank: i32,
    /// Sizes.
    pub shape: [i64; 4],
    /// Strides in elements.
    pub strides: [i64; 4],
}

/// `gdn2_call`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Queries.
    pub q: Tensor,
    /// Keys.
    pub k: Tensor,
    /// Values.
    pub v: Tensor,
    /// Natural-log decay.
    pub g: Tensor,
    /// Erase gate.
    pub b: Tensor,
    /// Write gate.
    pub w: Tensor,
    /// States before the first token.
    pub initial_state: Tensor,
    /// Offsets of packed sequences.
    pub cu_seqlens: *const i64,
    /// How many offsets.
    pub cu_seqlens_len: i64,
    /// States of the pool.
    pub slots: *const i32,
    /// How many slots.
    pub slots_len: i64,
    /// Factor on q; 0 = 1/√K.
    pub scale: f32,
}

/// `gdn2_gradients`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Gradients {
    /// Of q.
    pub dq: Tensor,
    /// Of k.
    pub dk: Tensor,
    /// Of v.
    pub dv: Tensor,
    /// Of g.
    pub dg: Tensor,
    /// Of b.
    pub db: Tensor,
    /// Of w.
    pub dw: Tensor,
    /// Of the initial state.
    pub dinitial_state: Tensor,
}

impl Gradients {
    /// Each with what it is the gradient of.
    pub(crate) fn named(&self) -> [(&Tensor, Name); 7] {
        [
            (&self.dq, Name::DQ),
            (&self.dk, Name::DK),
            (&self.dv, Name::DV),
            (&self.dg, Name::DG),
            (&self.db, Name::DB),
            (&self.dw, Name::DW),
            (&self.dinitial_state, Name::DInitialState),
        ]
    }
}

/// What is wrong with a struct.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AbiError {
    /// A pointer that must not be null.
    #[error("{0} is null")]
    Null(&'static str),
    /// A text that is not UTF-8.
    #[error("{0} is not UTF-8")]
    Utf8(&'static str),
    /// A number of axes, or a size or stride that cannot be.
    #[error("{tensor}: rank {rank}, shape {shape:?}, strides {strides:?}: rank is 1 to 4, nothing is negative")]
    Shape {
        /// The field.
        tensor: &'static str,
        /// Its rank.
        rank: i32,
        /// Its sizes.
        shape: [i64; 4],
        /// Its strides.
        strides: [i64; 4],
    },
    /// A number that names no dtype.
    #[error("{tensor}: dtype {got}, must be 0 (f32), 1 (bf16) or 2 (f16)")]
    Dtype {
        /// The field.
        tensor: &'static str,
        /// The number.
        got: i32,
    },
    /// A state that is not f32.
    #[error("state: dtype {0}, must be 0 (f32)")]
    State(i32),
    /// A gradient of a tensor that the call does not have.
    #[error("{0}: there is no such gradient, since the rule or the call has no such tensor; leave it absent")]
    NoGradient(&'static str),
    /// An output of another shape or layout than is written.
    #[error("{tensor}: shape {got:?}, must be row-major {want:?}")]
    Output {
        /// The field.
        tensor: &'static str,
        /// The shape given.
        got: Vec<usize>,
        /// The shape written.
        want: Vec<usize>,
    },
    /// A length below 0.
    #[error("{field} is {got}, must not be negative")]
    Negative {
        /// The field.
        field: &'static str,
        /// Its value.
        got: i64,
    },
}

impl Tensor {
    /// Sizes and strides.
    pub(crate) fn axes(&self, tensor: &'static str) -> Result<(Axes, Axes), AbiError> {
        let Tensor { rank, shape, strides, .. } = *self;
        let wrong = || AbiError::Shape { tensor, rank, shape, strides };
        let count = usize::try_from(rank).ok().filter(|rank| (1..=4).contains(rank)).ok_or_else(wrong)?;
        let axes = |values: [i64; 4]| {
            let sizes = values.iter().take(count).map(|size| usize::try_from(*size).ok()).collect::<Option<Vec<_>>>();
            sizes.and_then(|sizes| Axes::from_slice(&sizes)).ok_or_else(wrong)
        };
        Ok((axes(shape)?, axes(strides)?))
    }

    /// The tensor as an input; `None` where absent.
    ///
    /// # Safety
    /// `data` is null or points to memory that holds the tensor for as long as the view lives.
    pub(crate) unsafe fn view<'a>(&self, name: &'static str) -> Result<Option<View<'a>>, CallError> {
        if self.data.is_null() {
            return Ok(None);
        }
        let ((shape, strides), len) = (self.axes(name)?, self.reach(name)?);
        // SAFETY: the caller promises memory for the tensor, which reaches over `len` elements; for none, any pointer
        // that is not null will do.
        unsafe {
            Ok(Some(match self.dtype(name)? {
                Dtype::F32 => View::strided(std::slice::from_raw_parts(self.data.cast::<f32>(), len), shape, strides)?,
                Dtype::Bf16 => {
                    View::strided(std::slice::from_raw_parts(self.data.cast::<bf16>(), len), shape, strides)?
                }
                Dtype::F16 => View::strided(std::slice::from_raw_parts(self.data.cast::<f16>(), len), shape, strides)?,
            }))
        }
    }

    /// Elements from the first to the last.
    pub(crate) fn reach(&self, name: &'static str) -> Result<usize, AbiError> {
        let (shape, strides) = self.axes(name)?;
        let steps = shape.as_slice().iter().zip(strides.as_slice());
        let reach = steps
            .fold(1usize, |end, (size, stride)| end.saturating_add(size.saturating_sub(1).saturating_mul(*stride)));
        Ok(if shape.as_slice().contains(&0) { 0 } else { reach.min(isize::MAX as usize / 4) })
    }

    /// What it is made of.
    pub(crate) fn dtype(&self, name: &'static str) -> Result<Dtype, AbiError> {
        match self.dtype {
            0 => Ok(Dtype::F32),
            1 => Ok(Dtype::Bf16),
            2 => Ok(Dtype::F16),
            got => Err(AbiError::Dtype { tensor: name, got }),
        }
    }
}

/// `gdn2_shape`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// N.
    pub sequences: i64,
    /// Tokens of all sequences.
    pub total_tokens: i64,
    /// H.
    pub key_heads: i64,
    /// HV.
    pub value_heads: i64,
}

impl Sizes {
    /// The façade's shape.
    pub(crate) fn shape(self) -> Result<Shape, AbiError> {
        let size = |field, got| usize::try_from(got).map_err(|_| AbiError::Negative { field, got });
        Ok(Shape::packed(
            size("sequences", self.sequences)?,
            size("total_tokens", self.total_tokens)?,
            size("key_heads", self.key_heads)?,
            size("value_heads", self.value_heads)?,
        ))
    }
}

/// What is wrong with a call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// A struct.
    #[error(transparent)]
    Abi(#[from] AbiError),
    /// The call itself.
    #[error(transparent)]
    Call(#[from] gdn2::Error),
    /// The rule file, drawn.
    #[error("{0}")]
    Rules(String),
    /// No device of that name, or none that works.
    #[error(transparent)]
    Device(#[from] gdn2::DeviceError),
}

impl Call {
    /// The inputs.
    ///
    /// # Safety
    /// As `gdn2_call` says: every pointer that is not null points to what its field describes, alive for `'a`.
    pub(crate) unsafe fn inputs<'a>(&self) -> Result<Inputs<'a>, CallError> {
        // SAFETY: passed on.
        unsafe {
            let required = |tensor: &Tensor, name| tensor.view(name)?.ok_or(CallError::Abi(AbiError::Null(name)));
            let offsets = slice(self.cu_seqlens, self.cu_seqlens_len, "cu_seqlens_len")?;
            Ok(Inputs {
                q: required(&self.q, "q")?,
                k: required(&self.k, "k")?,
                v: required(&self.v, "v")?,
                g: self.g.view("g")?,
                b: self.b.view("b")?,
                w: self.w.view("w")?,
                initial_state: self.initial_state.view("initial_state")?,
                cu_seqlens: offsets.map(Offsets::from),
                scale: (self.scale != 0.0).then_some(self.scale),
            })
        }
    }
}

/// A C array; `None` for a null pointer.
///
/// # Safety
/// `data` is null or points to `len` elements, alive for `'a`.
pub(crate) unsafe fn slice<'a, T>(data: *const T, len: i64, field: &'static str) -> Result<Option<&'a [T]>, AbiError> {
    if data.is_null() {
        return Ok(None);
    }
    let len = usize::try_from(len).map_err(|_| AbiError::Negative { field, got: len })?;
    // SAFETY: the caller's promise.
    Ok(Some(unsafe { std::slice::from_raw_parts(data, len) }))
}
