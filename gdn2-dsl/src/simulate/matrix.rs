//! Small dense matrices in float32, with operands that can be rounded to 16 bits: what a matrix unit sees.

use std::ops::Range;

use super::rounding::Rounding;

/// Row-major.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Matrix {
    pub rows: usize,
    pub columns: usize,
    pub data: Vec<f32>,
}

impl Matrix {
    pub fn zeros(rows: usize, columns: usize) -> Matrix {
        Matrix { rows, columns, data: vec![0.0; rows * columns] }
    }

    pub fn from_fn(rows: usize, columns: usize, value: impl Fn(usize, usize) -> f32) -> Matrix {
        let data = (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j))).map(|(i, j)| value(i, j)).collect();
        Matrix { rows, columns, data }
    }

    pub fn at(&self, row: usize, column: usize) -> f32 {
        self.data[row * self.columns + column]
    }

    pub fn at_mut(&mut self, row: usize, column: usize) -> &mut f32 {
        &mut self.data[row * self.columns + column]
    }

    pub fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.columns..(row + 1) * self.columns]
    }

    /// A copy of some rows and columns.
    pub fn block(&self, rows: Range<usize>, columns: Range<usize>) -> Matrix {
        Matrix::from_fn(rows.len(), columns.len(), |i, j| self.at(rows.start + i, columns.start + j))
    }

    /// Adds `factor · block` at `(row, column)`.
    pub fn add_block(&mut self, row: usize, column: usize, factor: f32, block: &Matrix) {
        for i in 0..block.rows {
            for j in 0..block.columns {
                *self.at_mut(row + i, column + j) += factor * block.at(i, j);
            }
        }
    }

    /// Every element rounded: an operand.
    pub fn rounded(&self, rounding: Rounding) -> Matrix {
        Matrix { data: self.data.iter().map(|x| rounding.round(*x)).collect(), ..*self }
    }

    pub fn transposed(&self) -> Matrix {
        Matrix::from_fn(self.columns, self.rows, |i, j| self.at(j, i))
    }

    /// Element by element.
    pub fn zip(&self, other: &Matrix, value: impl Fn(f32, f32) -> f32) -> Matrix {
        let data = self.data.iter().zip(&other.data).map(|(a, b)| value(*a, *b)).collect();
        Matrix { data, ..*self }
    }

    /// `self · other`, summed in float32.
    pub fn times(&self, other: &Matrix) -> Matrix {
        let mut product = Matrix::zeros(self.rows, other.columns);
        for i in 0..self.rows {
            let sums = &mut product.data[i * other.columns..(i + 1) * other.columns];
            for (a, row) in self.row(i).iter().zip(other.data.chunks_exact(other.columns)) {
                if *a != 0.0 {
                    sums.iter_mut().zip(row).for_each(|(sum, b)| *sum += a * b);
                }
            }
        }
        product
    }

    /// `selfᵀ · other`.
    pub fn transpose_times(&self, other: &Matrix) -> Matrix {
        self.transposed().times(other)
    }

    /// `self · otherᵀ`.
    pub fn times_transpose(&self, other: &Matrix) -> Matrix {
        self.times(&other.transposed())
    }
}

impl std::ops::AddAssign<&Matrix> for Matrix {
    fn add_assign(&mut self, other: &Matrix) {
        self.data.iter_mut().zip(&other.data).for_each(|(sum, x)| *sum += x);
    }
}
