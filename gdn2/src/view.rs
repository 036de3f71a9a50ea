//! Tensors as callers hold them: borrowed views of typed slices and of device memory, owned tensors, offsets of packed
//! sequences, slots of a pool.

use crate::device::{DeviceMemory, DeviceMemoryMut, DeviceOffsets, DeviceSlots, Stored};
use crate::error::Error;
use crate::shape::{Axes, IntoAxes};
use gdn2_dsl::Dtype;
use half::{bf16, f16};
use std::fmt;

/// A borrowed tensor: a slice of f32, bf16 or f16 with a shape and strides, in host memory or on a GPU. The last axis is
/// contiguous.
///
/// Kernels read q, k, v and the gates in the dtype that the rule stores them in; a view of another dtype in host memory
/// is converted on its way in, one on a GPU is refused.
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

#[derive(Clone, Copy)]
pub enum Data<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
    Device(&'a dyn DeviceMemory, Dtype),
}

/// The dtype and the place, not the numbers.
impl fmt::Debug for Data<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Data::F32(slice) => write!(f, "{} f32", slice.len()),
            Data::Bf16(slice) => write!(f, "{} bf16", slice.len()),
            Data::F16(slice) => write!(f, "{} f16", slice.len()),
            Data::Device(memory, dtype) => write!(f, "{} {dtype} on a GPU", memory.len()),
        }
    }
}

/// A borrowed tensor to write to, in host memory or on a GPU. The last axis is contiguous and rows do not overlap.
pub struct ViewMut<'a> {
    pub(crate) data: DataMut<'a>,
    pub(crate) shape: Axes,
    pub(crate) strides: Axes,
}

pub enum DataMut<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [bf16]),
    F16(&'a mut [f16]),
    Device(&'a mut dyn DeviceMemoryMut, Dtype),
}

/// A type that tensors are made of: f32, [`bf16`] or [`f16`](struct@f16).
pub trait Element: sealed::Element {}

impl Element for f32 {}
impl Element for bf16 {}
impl Element for f16 {}

pub(crate) mod sealed {
    use super::{Data, DataMut, Values};
    use half::{bf16, f16};

    pub trait Element: Copy + Sized + 'static {
        fn data(slice: &[Self]) -> Data<'_>;
        fn data_mut(slice: &mut [Self]) -> DataMut<'_>;
        fn owned(values: Vec<Self>) -> Values;
        fn values(values: &Values) -> Option<&[Self]>;
        fn values_mut(values: &mut Values) -> Option<&mut [Self]>;
    }

    macro_rules! element {
        ($($ty:ty, $variant:ident;)*) => {$(
            impl Element for $ty {
                fn data(slice: &[Self]) -> Data<'_> {
                    Data::$variant(slice)
                }

                fn data_mut(slice: &mut [Self]) -> DataMut<'_> {
                    DataMut::$variant(slice)
                }

                fn owned(values: Vec<Self>) -> Values {
                    Values::$variant(values)
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
        let (shape, strides) = row_major(shape, slice.len())?;
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
        let (shape, strides) = reaching(shape, strides, slice.len())?;
        Ok(View { data: T::data(slice), shape, strides })
    }

    /// A row-major tensor in device memory, such as a `CudaSlice` or a `CudaView`.
    ///
    /// # Errors
    /// Memory that has more or fewer elements than the shape, or holds no numbers.
    pub fn device(memory: &'a dyn DeviceMemory, shape: impl IntoAxes) -> Result<View<'a>, Error> {
        let (shape, strides) = row_major(shape, memory.len())?;
        View::device_strided(memory, shape, strides)
    }

    /// [`View::strided`] in device memory.
    ///
    /// # Errors
    /// As there.
    pub fn device_strided(
        memory: &'a dyn DeviceMemory,
        shape: impl IntoAxes,
        strides: impl IntoAxes,
    ) -> Result<View<'a>, Error> {
        let dtype = float(memory)?;
        let (shape, strides) = reaching(shape, strides, memory.len())?;
        Ok(View { data: Data::Device(memory, dtype), shape, strides })
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
            Data::Device(_, dtype) => dtype,
        }
    }
}

impl<'a> ViewMut<'a> {
    /// A row-major tensor.
    ///
    /// # Errors
    /// A slice that has more or fewer elements than the shape.
    pub fn new<T: Element>(slice: &'a mut [T], shape: impl IntoAxes) -> Result<ViewMut<'a>, Error> {
        let (shape, strides) = row_major(shape, slice.len())?;
        Ok(ViewMut { data: T::data_mut(slice), shape, strides })
    }

    /// A tensor whose rows lie `strides` elements apart, one stride per axis, the last of them 1.
    ///
    /// # Errors
    /// Strides that reach beyond the slice, a last axis that is not contiguous, or rows that overlap.
    pub fn strided<T: Element>(
        slice: &'a mut [T],
        shape: impl IntoAxes,
        strides: impl IntoAxes,
    ) -> Result<ViewMut<'a>, Error> {
        let (shape, strides) = apart(reaching(shape, strides, slice.len())?)?;
        Ok(ViewMut { data: T::data_mut(slice), shape, strides })
    }

    /// A row-major tensor in device memory, such as a `CudaSlice` or a `CudaViewMut`.
    ///
    /// # Errors
    /// Memory that has more or fewer elements than the shape, or holds no numbers.
    pub fn device(memory: &'a mut dyn DeviceMemoryMut, shape: impl IntoAxes) -> Result<ViewMut<'a>, Error> {
        let (shape, strides) = row_major(shape, memory.len())?;
        ViewMut::device_strided(memory, shape, strides)
    }

    /// [`ViewMut::strided`] in device memory.
    ///
    /// # Errors
    /// As there.
    pub fn device_strided(
        memory: &'a mut dyn DeviceMemoryMut,
        shape: impl IntoAxes,
        strides: impl IntoAxes,
    ) -> Result<ViewMut<'a>, Error> {
        let dtype = float(memory)?;
        let (shape, strides) = apart(reaching(shape, strides, memory.len())?)?;
        Ok(ViewMut { data: DataMut::Device(memory, dtype), shape, strides })
    }

    /// What it is stored as.
    pub fn dtype(&self) -> Dtype {
        match self.data {
            DataMut::F32(_) => Dtype::F32,
            DataMut::Bf16(_) => Dtype::Bf16,
            DataMut::F16(_) => Dtype::F16,
            DataMut::Device(_, dtype) => dtype,
        }
    }

    /// Writes rows of the last axis, rounded to the view's dtype.
    pub(crate) fn store(self, name: &'static str, shape: &[usize], numbers: &[f32]) -> Result<(), Error> {
        if self.shape.as_slice() != shape {
            let want = Axes::from_slice(shape).unwrap_or_default();
            return Err(Error::Output { field: name, got: self.shape, want });
        }
        match self.data {
            DataMut::F32(slice) => scatter(slice, self.shape, self.strides, numbers, |x| x),
            DataMut::Bf16(slice) => scatter(slice, self.shape, self.strides, numbers, bf16::from_f32),
            DataMut::F16(slice) => scatter(slice, self.shape, self.strides, numbers, f16::from_f32),
            DataMut::Device(..) => return Err(Error::DeviceMemory(name)),
        }
        Ok(())
    }
}

/// First elements of the rows of the last axis, in order, and the rows' width.
pub(crate) fn rows(shape: Axes, strides: Axes) -> (usize, impl Iterator<Item = usize>) {
    let width = shape.as_slice().last().copied().unwrap_or(1);
    let outer = shape.as_slice().len().saturating_sub(1);
    let count: usize = shape.as_slice()[..outer].iter().product();
    let start = move |row: usize| {
        let (mut rest, mut start) = (row, 0);
        for (size, stride) in shape.as_slice()[..outer].iter().zip(strides.as_slice()).rev() {
            start += rest % size * stride;
            rest /= size;
        }
        start
    };
    (width, (0..count).map(start))
}

fn scatter<T>(slice: &mut [T], shape: Axes, strides: Axes, numbers: &[f32], narrow: impl Fn(f32) -> T) {
    let (width, starts) = rows(shape, strides);
    for (start, row) in starts.zip(numbers.chunks_exact(width.max(1))) {
        slice.iter_mut().skip(start).zip(row).for_each(|(place, number)| *place = narrow(*number));
    }
}

/// A shape and how many elements it has.
pub(crate) fn sized(shape: impl IntoAxes) -> Result<(Axes, usize), Error> {
    let shape = shape.into_axes().ok_or(Error::Rank { axes: 5, strides: 5 })?;
    let limit = "the sizes of a tensor must multiply to what memory can address";
    let elements = shape.elements().filter(|n| *n <= isize::MAX as usize / 4);
    Ok((shape, elements.ok_or(Error::Size { field: "elements", got: usize::MAX, limit })?))
}

/// A shape with as many elements as there are, and its strides.
fn row_major(shape: impl IntoAxes, len: usize) -> Result<(Axes, Axes), Error> {
    let shape = shape.into_axes().ok_or(Error::Rank { axes: 5, strides: 5 })?;
    let strides = shape.row_major();
    if shape.elements() != Some(len) {
        let needs = shape.as_slice().iter().map(|size| *size as u128).product();
        return Err(Error::Length { shape, strides, needs, got: len });
    }
    Ok((shape, strides))
}

/// A shape and strides that stay within `len` elements.
fn reaching(shape: impl IntoAxes, strides: impl IntoAxes, len: usize) -> Result<(Axes, Axes), Error> {
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
    if needs > len as u128 {
        return Err(Error::Length { shape, strides, needs, got: len });
    }
    Ok((shape, strides))
}

/// Strides of an output: each steps over all that the axes inside it reach.
fn apart((shape, strides): (Axes, Axes)) -> Result<(Axes, Axes), Error> {
    let mut inner = 1;
    for (size, stride) in shape.as_slice().iter().zip(strides.as_slice()).rev() {
        if *size > 1 && *stride < inner {
            return Err(Error::Overlap { shape, strides });
        }
        inner = inner.max(stride.saturating_mul(*size));
    }
    Ok((shape, strides))
}

fn float(memory: &(impl DeviceMemory + ?Sized)) -> Result<Dtype, Error> {
    match memory.stored() {
        Stored::Float(dtype) => Ok(dtype),
        other @ (Stored::I32 | Stored::I64) => Err(Error::Stored(other)),
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
    /// Offsets on a GPU.
    Device(&'a DeviceOffsets),
}

/// Which state of a pool each sequence uses; negative skips the sequence.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Slots<'a> {
    /// In host memory.
    Host(&'a [i32]),
    /// On a GPU.
    Device(&'a DeviceSlots),
}

impl<'a> From<&'a [i32]> for Slots<'a> {
    fn from(slots: &'a [i32]) -> Self {
        Slots::Host(slots)
    }
}

impl<'a, const N: usize> From<&'a [i32; N]> for Slots<'a> {
    fn from(slots: &'a [i32; N]) -> Self {
        Slots::Host(slots)
    }
}

impl<'a> From<&'a DeviceSlots> for Slots<'a> {
    fn from(slots: &'a DeviceSlots) -> Self {
        Slots::Device(slots)
    }
}

impl<'a> From<&'a DeviceOffsets> for Offsets<'a> {
    fn from(offsets: &'a DeviceOffsets) -> Self {
        Offsets::Device(offsets)
    }
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
        let (shape, elements) = sized(shape)?;
        let values = match dtype {
            Dtype::F32 => Values::F32(vec![0.0; elements]),
            Dtype::Bf16 => Values::Bf16(vec![bf16::ZERO; elements]),
            Dtype::F16 => Values::F16(vec![f16::ZERO; elements]),
        };
        Ok(Tensor { values, shape })
    }

    /// Numbers that were a tensor of this shape; what stands behind them is dropped.
    pub(crate) fn from_values<T: Element>(mut values: Vec<T>, shape: Axes) -> Tensor {
        values.truncate(shape.elements().unwrap_or(0));
        Tensor { values: T::owned(values), shape }
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

    /// The tensor as an output.
    pub fn view_mut(&mut self) -> ViewMut<'_> {
        let strides = self.shape.row_major();
        let data = match &mut self.values {
            Values::F32(values) => DataMut::F32(values),
            Values::Bf16(values) => DataMut::Bf16(values),
            Values::F16(values) => DataMut::F16(values),
        };
        ViewMut { data, shape: self.shape, strides }
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
