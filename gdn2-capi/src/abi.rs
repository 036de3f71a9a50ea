//! The structs of `include/gdn2.h`, and how they become the façade's views.

use std::ffi::c_void;

use gdn2::__private::{Call as Inputs, Name, Named};
use gdn2::raw::MOST_NAMED;
use gdn2::{Axes, Dtype, Offsets, Shape, View, bf16, f16};
use gdn2_runtime::tensors::CaseError;

/// `gdn2_tensor`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Tensor {
    /// First element; null = absent.
    pub data: *mut c_void,
    /// 0 float32, 1 bfloat16, 2 float16, 3 float64.
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
    /// Factor on q; 0 = 1/√K where nothing says that it is given.
    pub scale: f32,
    /// Whether `scale` is meant as it stands, 0 included.
    pub scale_given: i32,
    /// Parameters and logits of `let`s, in the order in which the rule names them.
    pub named: *const Tensor,
    /// How many.
    pub named_len: i64,
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
    pub d_initial_state: Tensor,
    /// Of what the rule names itself, in its order.
    pub named: *const Tensor,
    /// How many.
    pub named_len: i64,
}

impl Gradients {
    /// Of what the rule names itself.
    ///
    /// # Safety
    /// As `gdn2_gradients` says.
    pub(crate) unsafe fn own<'a>(&self) -> Result<&'a [Tensor], AbiError> {
        // SAFETY: passed on.
        Ok(unsafe { slice(self.named, self.named_len, NAMED) }?.unwrap_or_default())
    }

    /// Each with what it is the gradient of.
    pub(crate) fn named(&self) -> [(&Tensor, Name); 7] {
        [
            (&self.dq, Name::DQ),
            (&self.dk, Name::DK),
            (&self.dv, Name::DV),
            (&self.dg, Name::DG),
            (&self.db, Name::DB),
            (&self.dw, Name::DW),
            (&self.d_initial_state, Name::DInitialState),
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
    /// An address that the processor cannot read such elements or structs from.
    #[error("{field}: the address {address:#x} is no multiple of {needs} bytes: align the memory or copy it")]
    Misaligned {
        /// The field or argument.
        field: &'static str,
        /// Its address.
        address: usize,
        /// The alignment of what lies there.
        needs: usize,
    },
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
    #[error("{tensor}: {got} names no dtype, use GDN2_F32, GDN2_BF16, GDN2_F16 or, on cpu:f64, GDN2_F64")]
    Dtype {
        /// The field.
        tensor: &'static str,
        /// The number.
        got: i32,
    },
    /// A dtype that does not serve here.
    #[error("{tensor} is {got}, must be {want}")]
    Stored {
        /// The field.
        tensor: &'static str,
        /// Its dtype in words.
        got: &'static str,
        /// What it must be.
        want: &'static str,
    },
    /// A gradient of a tensor that the call does not have.
    #[error("{0}: there is no such gradient, since the rule or the call has no such tensor; leave it absent")]
    NoGradient(&'static str),
    /// A tensor of another shape or layout than the call has.
    #[error("{tensor}: shape {got:?}, must be row-major {want:?}")]
    Output {
        /// The field.
        tensor: &'static str,
        /// The shape given.
        got: Vec<usize>,
        /// The shape it must have.
        want: Vec<usize>,
    },
    /// More tensors than any rule names.
    #[error("named_len is {got}, no rule names more than {most} tensors itself")]
    Named {
        /// How many were given.
        got: usize,
        /// How many there may be.
        most: usize,
    },
    /// A length below 0.
    #[error("{field} is {got}, must not be negative")]
    Negative {
        /// The field.
        field: &'static str,
        /// Its value.
        got: i64,
    },
    /// A slot that the pool does not have, or that another sequence has.
    #[error("slots[{index}] is {got}: {limit}")]
    Slot {
        /// The sequence.
        index: usize,
        /// Its slot.
        got: i32,
        /// What it must be.
        limit: &'static str,
    },
    /// Slots that are not one for each sequence.
    #[error("slots: {got} given for {want} sequences, one slot each")]
    Slots {
        /// Slots given.
        got: usize,
        /// Sequences.
        want: usize,
    },
    /// A pool of states that memory has no room to copy.
    #[error("{tensor}: {elements} elements are more than there is memory for")]
    Memory {
        /// The field.
        tensor: &'static str,
        /// Elements.
        elements: usize,
    },
}

/// What a tensor of a call is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// As rules store tensors.
    Stored(Dtype),
    /// float64, which the device cpu:f64 takes.
    Double,
}

/// A dtype as Python and C programmers say it.
pub(crate) fn in_words(kind: Kind) -> &'static str {
    match kind {
        Kind::Stored(Dtype::F32) => "float32",
        Kind::Stored(Dtype::Bf16) => "bfloat16",
        Kind::Stored(Dtype::F16) => "float16",
        Kind::Double => "float64",
    }
}

/// What a pointer that must not be null points to.
///
/// # Safety
/// The pointer is null, or no multiple of the type's alignment, or points to a `T` that lives for `'a`.
pub(crate) unsafe fn object<'a, T>(pointer: *const T, name: &'static str) -> Result<&'a T, AbiError> {
    // SAFETY: passed on.
    unsafe { optional(pointer, name) }?.ok_or(AbiError::Null(name))
}

/// What a pointer points to; `None` for null.
///
/// # Safety
/// As [`object`].
pub(crate) unsafe fn optional<'a, T>(pointer: *const T, name: &'static str) -> Result<Option<&'a T>, AbiError> {
    aligned(pointer, name)?;
    // SAFETY: aligned; the rest is the caller's promise.
    Ok(unsafe { pointer.as_ref() })
}

/// Refuses an address that no `T` can lie at.
pub(crate) fn aligned<T>(pointer: *const T, field: &'static str) -> Result<(), AbiError> {
    if pointer.is_aligned() {
        return Ok(());
    }
    Err(AbiError::Misaligned { field, address: pointer.addr(), needs: align_of::<T>() })
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
        let (shape, strides) = self.axes(name)?;
        let named = |source| CallError::Tensor { name, source };
        // SAFETY: the caller's promise.
        unsafe {
            Ok(Some(match self.dtype(name)? {
                Dtype::F32 => View::strided(self.elements::<f32>(name)?, shape, strides).map_err(named)?,
                Dtype::Bf16 => View::strided(self.elements::<bf16>(name)?, shape, strides).map_err(named)?,
                Dtype::F16 => View::strided(self.elements::<f16>(name)?, shape, strides).map_err(named)?,
            }))
        }
    }

    /// Every element from the first to the last.
    ///
    /// # Safety
    /// `data` points to memory that holds the tensor, of elements `T`, for as long as the slice lives.
    pub(crate) unsafe fn elements<'a, T>(&self, name: &'static str) -> Result<&'a [T], AbiError> {
        let len = self.reach(name)?;
        if len == 0 {
            return Ok(&[]);
        }
        aligned(self.data.cast_const().cast::<T>(), name)?;
        // SAFETY: aligned, and the caller promises memory for the tensor, which reaches over `len` elements.
        Ok(unsafe { std::slice::from_raw_parts(self.data.cast::<T>(), len) })
    }

    /// Elements from the first to the last.
    pub(crate) fn reach(&self, name: &'static str) -> Result<usize, AbiError> {
        let (shape, strides) = self.axes(name)?;
        let steps = shape.as_slice().iter().zip(strides.as_slice());
        let reach = steps
            .fold(1usize, |end, (size, stride)| end.saturating_add(size.saturating_sub(1).saturating_mul(*stride)));
        Ok(if shape.as_slice().contains(&0) { 0 } else { reach.min(isize::MAX as usize / 8) })
    }

    /// What it is made of, where that is what rules store tensors in.
    pub(crate) fn dtype(&self, tensor: &'static str) -> Result<Dtype, AbiError> {
        match self.kind(tensor)? {
            Kind::Stored(dtype) => Ok(dtype),
            Kind::Double => {
                let want = "float32, bfloat16 or float16; on cpu:f64 every tensor of a call may be float64";
                Err(AbiError::Stored { tensor, got: in_words(Kind::Double), want })
            }
        }
    }

    /// What it is made of.
    pub(crate) fn kind(&self, tensor: &'static str) -> Result<Kind, AbiError> {
        match self.dtype {
            0 => Ok(Kind::Stored(Dtype::F32)),
            1 => Ok(Kind::Stored(Dtype::Bf16)),
            2 => Ok(Kind::Stored(Dtype::F16)),
            3 => Ok(Kind::Double),
            got => Err(AbiError::Dtype { tensor, got }),
        }
    }

    /// Refuses what is not row-major of a shape, or has no address that its elements can lie at.
    pub(crate) fn expect_row_major(&self, tensor: &'static str, want: &[usize]) -> Result<(), AbiError> {
        let (shape, strides) = self.axes(tensor)?;
        let (got, packed) = (shape.as_slice(), shape.row_major());
        let steps = got.iter().zip(strides.as_slice()).zip(packed.as_slice());
        if got != want || !steps.into_iter().all(|((size, stride), packed)| *size < 2 || stride == packed) {
            return Err(AbiError::Output { tensor, got: got.to_vec(), want: want.to_vec() });
        }
        if got.contains(&0) {
            return Ok(());
        }
        match self.kind(tensor)? {
            Kind::Stored(Dtype::F32) => aligned(self.data.cast::<f32>(), tensor),
            Kind::Stored(Dtype::Bf16 | Dtype::F16) => aligned(self.data.cast::<u16>(), tensor),
            Kind::Double => aligned(self.data.cast::<f64>(), tensor),
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
    /// One tensor of it.
    #[error("{name}: {source}")]
    Tensor {
        /// The field.
        name: &'static str,
        /// What is wrong with it.
        source: gdn2::Error,
    },
    /// Tensors that do not fit the rule or one another.
    #[error(transparent)]
    Case(#[from] CaseError),
    /// The same, found by the float64 definition.
    #[error(transparent)]
    Definition(#[from] gdn2_dsl::InputError),
    /// No such architecture of the virtual machine.
    #[error("device vm:{0}")]
    Arch(#[from] gdn2_codegen::arch::UnknownArch),
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
            let offsets = slice(self.cu_seqlens, self.cu_seqlens_len, CU_SEQLENS)?;
            Ok(Inputs {
                q: required(&self.q, "q")?,
                k: required(&self.k, "k")?,
                v: required(&self.v, "v")?,
                g: self.g.view("g")?,
                b: self.b.view("b")?,
                w: self.w.view("w")?,
                named: views(self.own()?)?,
                initial_state: self.initial_state.view("initial_state")?,
                cu_seqlens: offsets.map(Offsets::from),
                scale: self.scale(),
            })
        }
    }

    /// What the rule names itself.
    ///
    /// # Safety
    /// As `gdn2_call` says.
    pub(crate) unsafe fn own<'a>(&self) -> Result<&'a [Tensor], AbiError> {
        // SAFETY: passed on.
        Ok(unsafe { slice(self.named, self.named_len, NAMED) }?.unwrap_or_default())
    }

    /// The factor on q; `None` where none is given.
    pub(crate) fn scale(&self) -> Option<f32> {
        (self.scale_given != 0 || self.scale != 0.0).then_some(self.scale)
    }
}

/// The fields of packed sequences: offsets and how many.
pub(crate) const CU_SEQLENS: [&str; 2] = ["cu_seqlens", "cu_seqlens_len"];
/// The fields of what a rule names itself.
pub(crate) const NAMED: [&str; 2] = ["named", "named_len"];
/// What such a tensor is called where its name is not known.
pub(crate) const OWN: &str = "a parameter or logit";

/// The views of what a rule names itself.
///
/// # Safety
/// The tensors describe live memory.
unsafe fn views<'a>(tensors: &[Tensor]) -> Result<Named<'a>, CallError> {
    if tensors.len() > MOST_NAMED {
        return Err(AbiError::Named { got: tensors.len(), most: MOST_NAMED }.into());
    }
    let mut all = Named::default();
    for (place, tensor) in all.iter_mut().zip(tensors) {
        // SAFETY: the caller's promise.
        *place = unsafe { tensor.view(OWN)? };
    }
    Ok(all)
}

/// The fields of a pool's slots.
pub(crate) const SLOTS: [&str; 2] = ["slots", "slots_len"];

/// A C array; `None` for a null pointer.
///
/// # Safety
/// `data` is null or points to `len` elements, alive for `'a`.
pub(crate) unsafe fn slice<'a, T>(
    data: *const T,
    len: i64,
    [field, size]: [&'static str; 2],
) -> Result<Option<&'a [T]>, AbiError> {
    if data.is_null() {
        return Ok(None);
    }
    let len = usize::try_from(len).map_err(|_| AbiError::Negative { field: size, got: len })?;
    aligned(data, field)?;
    // SAFETY: the caller's promise.
    Ok(Some(unsafe { std::slice::from_raw_parts(data, len) }))
}
