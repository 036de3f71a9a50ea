//! Sizes and strides of at most four axes, held without allocation, and the sizes of a call.

use std::fmt;

use gdn2_codegen::abi::Extents;

/// Most axes that any tensor of a rule has.
pub const MAX_RANK: usize = 4;

/// Sizes or strides, outermost first.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Axes {
    values: [usize; MAX_RANK],
    rank: usize,
}

/// Sizes that a tensor of a rule can have: an array of one to four, or a slice that turned out to be that long.
pub trait IntoAxes {
    /// The sizes; `None` when there are more than four.
    fn into_axes(self) -> Option<Axes>;
}

impl<const N: usize> IntoAxes for [usize; N] {
    fn into_axes(self) -> Option<Axes> {
        Axes::from_slice(&self)
    }
}

impl IntoAxes for &[usize] {
    fn into_axes(self) -> Option<Axes> {
        Axes::from_slice(self)
    }
}

impl IntoAxes for Axes {
    fn into_axes(self) -> Option<Axes> {
        Some(self)
    }
}

impl Axes {
    /// From a slice of at most four.
    pub fn from_slice(slice: &[usize]) -> Option<Axes> {
        let mut values = [0; MAX_RANK];
        values.get_mut(..slice.len())?.copy_from_slice(slice);
        Some(Axes { values, rank: slice.len() })
    }

    /// The values.
    pub fn as_slice(&self) -> &[usize] {
        self.values.get(..self.rank).unwrap_or_default()
    }

    /// How many elements sizes multiply to; `None` when it overflows.
    pub fn elements(&self) -> Option<usize> {
        self.as_slice().iter().try_fold(1usize, |product, size| product.checked_mul(*size))
    }

    /// Row-major strides of sizes, in elements.
    pub fn row_major(&self) -> Axes {
        let mut strides = *self;
        let mut step = 1usize;
        for (stride, size) in strides.values.iter_mut().zip(self.values).take(self.rank).rev() {
            *stride = step;
            step = step.saturating_mul(size.max(1));
        }
        strides
    }
}

impl fmt::Debug for Axes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().fmt(f)
    }
}

/// The sizes of a call, by which its kernels are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub(crate) extents: Extents,
}

impl Shape {
    /// B sequences of T tokens, with H query and key heads and HV value heads.
    pub fn dense(batch: usize, tokens: usize, heads: usize, value_heads: usize) -> Shape {
        Shape::packed(batch, batch.saturating_mul(tokens), heads, value_heads)
    }

    /// N packed sequences of `tokens` tokens together.
    pub fn packed(sequences: usize, tokens: usize, heads: usize, value_heads: usize) -> Shape {
        let extents = Extents {
            sequences: sequences as u64,
            total_tokens: tokens as u64,
            key_heads: heads as u64,
            value_heads: value_heads as u64,
        };
        Shape { extents }
    }
}
