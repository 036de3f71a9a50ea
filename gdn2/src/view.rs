//! Tensors as callers hold them: borrowed views of typed slices, owned tensors, offsets of packed sequences.

use crate::error::Error;
use crate::shape::{Axes, IntoAxes};
use gdn2_dsl::Dtype;
use half::{bf16, f16};

/// A borrowed tensor: a slice of f32, bf16 or f16 with a shape and strides. The last axis is contiguous.
///
/// Kernels read q, k, v and the gates in the dtype that the rule stores them in; a view of another dtype is converted
/// on its way in.
///
/// ```
/// # fn main() -> Result<(), gdn2::Error> {
/// let numbers = vec![0.5f32; 2 * 3 * 4 * 16];
/// let q = gdn2::View::new(&numbers, [2, 3, 4, 16])?;
/// assert_eq!(q.shape(), [2, 3, 4, 16]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub(crate) data: Data<'a>,
    pub(crate) shape: Axes,
    pub(crate) strides: Axes,
}

#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
}

/// A type that tensors are made of: f32, [`bf16`] or [`f16`].
pub trait Element: sealed::Element {}

impl Element for f32 {}
impl Element for bf16 {}
impl Element for f16 {}

pub(crate) mod sealed {
    use super::{Data, Values};
    use half::{bf16, f16};

    pub trait Element: Copy + 'static {
        fn data(slice: &[Self]) -> Data<'_>;
        fn values(values: &Values) -> Option<&[Self]>;
        fn values_mut(values: &mut Values) -> Option<&mut [Self]>;
    }

    macro_rules! element {
        ($($ty:ty, $variant:ident;)*) => {$(
            impl Element for $ty {
                fn data(slice: &[Self]) -> Data<'_> {
                    Data::$variant(slice)
                }

                fn values(values: &Values) -> Option<&[Self]> {
                    if let Values::$variant(values) = values { Some(values) } else { None }
                }

                fn values_mut(values: &mut Values) -> Option<&mut [Self]> {
                    if let Values::$variant(values) = values { Some(values) } else { None }
                }
            }
        )*};
    }

    element! { f32, F32; bf16, Bf16; f16, F16; }
}

impl<'a> View<'a> {
    /// A row-major tensor.
    ///
    /// # Errors
    /// A slice that has more or fewer elements than the shape.
    pub fn new<T: Element>(slice: &'a [T], shape: impl IntoAxes) -> Result<View<'a>, Error> {
        let shape = shape.into_axes().ok_or(Error::Rank { axes: 5, strides: 5 })?;
        let strides = shape.row_major();
        if shape.elements() != Some(slice.len()) {
            let needs = shape.as_slice().iter().map(|size| *size as u128).product();
            return Err(Error::Length { shape, strides, needs, got: slice.len() });
        }
        Ok(View { data: T::data(slice), shape, strides })
    }

    /// A tensor whose rows lie `strides` elements apart, one stride per axis, the last of them 1.
    ///
    /// # Errors
    /// Strides that reach beyond the slice, or a last axis that is not contiguous.
    pub fn strided<T: Element>(
        slice: &'a [T],
        shape: impl IntoAxes,
        strides: impl IntoAxes,
    ) -> Result<View<'a>, Error> {
        let rank = |axes: Option<Axes>| axes.map_or(5, |axes| axes.as_slice().len());
        let (shape, strides) = (shape.into_axes(), strides.into_axes());
        let (Some(shape), Some(strides), true) = (shape, strides, rank(shape) == rank(strides)) else {
            return Err(Error::Rank { axes: rank(shape), strides: rank(strides) });
        };
        if let Some(last) = strides.as_slice().last().filter(|last| **last != 1) {
            return Err(Error::LastAxis(*last));
        }
        let empty = shape.as_slice().contains(&0);
        let reach = shape
            .as_slice()
            .iter()
            .zip(strides.as_slice())
            .map(|(size, stride)| (*size as u128).saturating_sub(1).saturating_mul(*stride as u128));
        let needs = if empty { 0 } else { reach.fold(1, u128::saturating_add) };
        if needs > slice.len() as u128 {
            return Err(Error::Length { shape, strides, needs, got: slice.len() });
        }
        Ok(View { data: T::data(slice), shape, strides })
    }

    /// Sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        self.shape.as_slice()
    }

    /// Distances between neighbours along each axis, in elements.
    pub fn strides(&self) -> &[usize] {
        self.strides.as_slice()
    }

    /// What it is stored as.
    pub fn dtype(&self) -> Dtype {
        match self.data {
            Data::F32(_) => Dtype::F32,
            Data::Bf16(_) => Dtype::Bf16,
            Data::F16(_) => Dtype::F16,
        }
    }
}

/// Where each packed sequence starts, and the end of the last: N + 1 offsets from 0 to the number of tokens.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Offsets<'a> {
    /// 32-bit offsets.
    I32(&'a [i32]),
    /// 64-bit offsets.
    I64(&'a [i64]),
}

impl<'a> From<&'a [i32]> for Offsets<'a> {
    fn from(offsets: &'a [i32]) -> Self {
        Offsets::I32(offsets)
    }
}

impl<'a> From<&'a [i64]> for Offsets<'a> {
    fn from(offsets: &'a [i64]) -> Self {
        Offsets::I64(offsets)
    }
}

/// An owned, row-major tensor: what calls return, and the states that decoding carries along.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    values: Values,
    shape: Axes,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    F16(Vec<f16>),
}

/// No axes and no elements, f32.
impl Default for Tensor {
    fn default() -> Self {
        Tensor { values: Values::F32(Vec::new()), shape: Axes::default() }
    }
}

impl Tensor {
    /// Zeros.
    ///
    /// # Errors
    /// More than four axes, or more elements than memory can address.
    pub fn zeros(shape: impl IntoAxes, dtype: Dtype) -> Result<Tensor, Error> {
        let shape = shape.into_axes().ok_or(Error::Rank { axes: 5, strides: 5 })?;
        let limit = "the sizes of a tensor must multiply to what memory can address";
        let elements = shape.elements().filter(|n| *n <= isize::MAX as usize / 4);
        let elements = elements.ok_or(Error::Size { field: "elements", got: usize::MAX, limit })?;
        let values = match dtype {
            Dtype::F32 => Values::F32(vec![0.0; elements]),
            Dtype::Bf16 => Values::Bf16(vec![bf16::ZERO; elements]),
            Dtype::F16 => Values::F16(vec![f16::ZERO; elements]),
        };
        Ok(Tensor { values, shape })
    }

    /// Numbers of a shape that has as many elements, rounded to a dtype.
    pub(crate) fn from_f32(shape: &[usize], data: Vec<f32>, dtype: Dtype) -> Result<Tensor, Error> {
        let shape = shape.into_axes().ok_or(Error::Rank { axes: shape.len(), strides: shape.len() })?;
        let values = match dtype {
            Dtype::F32 => Values::F32(data),
            Dtype::Bf16 => Values::Bf16(data.into_iter().map(bf16::from_f32).collect()),
            Dtype::F16 => Values::F16(data.into_iter().map(f16::from_f32).collect()),
        };
        Ok(Tensor { values, shape })
    }

    /// Sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        self.shape.as_slice()
    }

    /// What it is stored as.
    pub fn dtype(&self) -> Dtype {
        self.view().dtype()
    }

    /// The numbers, where they are stored as `T`.
    pub fn as_slice<T: Element>(&self) -> Option<&[T]> {
        T::values(&self.values)
    }

    /// The numbers, to write to, where they are stored as `T`.
    pub fn as_mut_slice<T: Element>(&mut self) -> Option<&mut [T]> {
        T::values_mut(&mut self.values)
    }

    /// The numbers as f32.
    pub fn to_f32(&self) -> Vec<f32> {
        match &self.values {
            Values::F32(values) => values.clone(),
            Values::Bf16(values) => values.iter().map(|x| x.to_f32()).collect(),
            Values::F16(values) => values.iter().map(|x| x.to_f32()).collect(),
        }
    }

    /// The tensor as an input.
    pub fn view(&self) -> View<'_> {
        let data = match &self.values {
            Values::F32(values) => Data::F32(values),
            Values::Bf16(values) => Data::Bf16(values),
            Values::F16(values) => Data::F16(values),
        };
        View { data, shape: self.shape, strides: self.shape.row_major() }
    }
}
