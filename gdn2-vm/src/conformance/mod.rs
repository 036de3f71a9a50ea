//! One small kernel for every opcode and edge, with what it must give from a scalar definition of its own: the same
//! kernels run on the virtual machine in the tests and on a GPU in the hardware check, which writes what the hardware
//! gave as fixtures.
//!
//! Every kernel has the entry `k`, takes the addresses of its inputs and then of its output, and runs in one block.

mod arith;
mod convert;
mod edges;
mod matrix;
mod ptx;
mod warp;

/// One conformance kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Opcode and what is exercised, unique.
    pub name: String,
    /// The whole PTX module; its entry is `k`.
    pub ptx: String,
    /// The smallest architecture that has the instruction, as compute capability times ten.
    pub sm: u32,
    /// Threads of the one block.
    pub threads: u32,
    /// Input buffers, in parameter order.
    pub inputs: Vec<Vec<u8>>,
    /// What the output buffer must hold.
    pub expected: Expected,
}

/// What an output buffer must hold.
#[derive(Clone, Debug, PartialEq)]
pub enum Expected {
    /// These 32-bit words, exactly.
    Words(Vec<u32>),
    /// These 64-bit words, exactly.
    Wides(Vec<u64>),
    /// f32 sums of products whose order is the hardware's: each within its bound of the exact value.
    Sums {
        /// Exact values.
        exact: Vec<f64>,
        /// K · 2⁻²³ · Σ|ab| for each.
        bound: Vec<f64>,
    },
    /// An f32 approximation: each within `ulps` units in the last place of the exact value, or within `absolute` of it.
    Approximate {
        /// Exact values; NaN and infinities must be met exactly.
        exact: Vec<f64>,
        /// Largest error in units in the last place of the result.
        ulps: f64,
        /// Largest absolute error that passes whatever its ulps.
        absolute: f64,
    },
}

/// The first element of an output that is not what it must be.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{kernel}: element {index} is {got}, expected {expected}")]
pub struct Difference {
    /// The kernel's name.
    pub kernel: String,
    /// Element of the output.
    pub index: usize,
    /// What was there.
    pub got: String,
    /// What must be there.
    pub expected: String,
}

impl Expected {
    /// Bytes of the output buffer.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Expected::Words(words) => words.len() * 4,
            Expected::Wides(words) => words.len() * 8,
            Expected::Sums { exact, .. } | Expected::Approximate { exact, .. } => exact.len() * 4,
        }
    }

    /// Compares an output with what it must be.
    ///
    /// # Errors
    /// The first [`Difference`].
    pub fn compare(&self, kernel: &str, output: &[u8]) -> Result<(), Difference> {
        let differ = |index: usize, got: String, expected: String| {
            Err(Difference { kernel: kernel.to_owned(), index, got, expected })
        };
        if output.len() != self.bytes() {
            return differ(0, format!("{} bytes", output.len()), format!("{} bytes", self.bytes()));
        }
        let words = output.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b));
        match self {
            Expected::Words(expected) => {
                for (index, (got, want)) in words.zip(expected).enumerate() {
                    if got != *want {
                        return differ(index, format!("{got:#010x}"), format!("{want:#010x}"));
                    }
                }
            }
            Expected::Wides(expected) => {
                let wides = output.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b));
                for (index, (got, want)) in wides.zip(expected).enumerate() {
                    if got != *want {
                        return differ(index, format!("{got:#018x}"), format!("{want:#018x}"));
                    }
                }
            }
            Expected::Sums { exact, bound } => {
                for (index, ((got, want), bound)) in words.map(f32::from_bits).zip(exact).zip(bound).enumerate() {
                    let within = (f64::from(got) - want).abs() <= *bound;
                    if !within {
                        return differ(index, format!("{got:e}"), format!("{want:e} ± {bound:e}"));
                    }
                }
            }
            Expected::Approximate { exact, ulps, absolute } => {
                for (index, (got, want)) in words.map(f32::from_bits).zip(exact).enumerate() {
                    if !approximates(got, *want, *ulps, *absolute) {
                        return differ(index, format!("{got:e}"), format!("{want:e} ± {ulps} ulp"));
                    }
                }
            }
        }
        Ok(())
    }
}

fn approximates(got: f32, want: f64, ulps: f64, absolute: f64) -> bool {
    if want.is_nan() {
        return got.is_nan();
    }
    let rounded = want as f32;
    if rounded.is_infinite() || got.is_infinite() {
        return got == rounded;
    }
    let error = (f64::from(got) - want).abs();
    let exponent = ((rounded.to_bits() >> 23 & 0xff) as i32).max(1) - 127;
    error <= absolute || error <= ulps * 2f64.powi(exponent - 23)
}

/// All conformance kernels, in a fixed order.
#[must_use]
pub fn kernels() -> Vec<Kernel> {
    let mut all = arith::kernels();
    all.extend(convert::kernels());
    all.extend(warp::kernels());
    all.extend(matrix::kernels());
    all
}
