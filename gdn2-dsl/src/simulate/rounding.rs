//! How a number changes when it becomes a matrix operand.

use crate::rule::Dtype;

/// Which of many equally likely roundings a simulation takes. How far a kernel ends from the definition is a sum of
/// rounding errors, and where few of them count, or where they cancel, one rounding says little about the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// To the nearest number of the type, as a GPU rounds.
    Nearest,
    /// As far off as rounding is, half a step at most, by errors that follow from this number: every number of a pattern has
    /// one error of its own, wherever it occurs. What is a number of the type already stays so.
    Other(u64),
}

/// The rounding of operands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rounding {
    dtype: Dtype,
    pattern: Pattern,
}

impl Rounding {
    pub fn new(dtype: Dtype, pattern: Pattern) -> Rounding {
        Rounding { dtype, pattern }
    }

    #[cfg(test)]
    pub fn nearest(dtype: Dtype) -> Rounding {
        Rounding::new(dtype, Pattern::Nearest)
    }

    pub fn round(self, x: f32) -> f32 {
        let (nearest, digits) = match self.dtype {
            Dtype::Bf16 => (half::bf16::from_f32(x).to_f32(), 7),
            Dtype::F16 => (half::f16::from_f32(x).to_f32(), 10),
            Dtype::F32 => return x,
        };
        match self.pattern {
            Pattern::Other(pattern) if nearest != x && nearest.is_finite() => {
                // A step of f16 is never below 2^-24.
                let exponent = x.abs().log2().floor().max(if self.dtype == Dtype::F16 { -14.0 } else { -126.0 });
                x + (exponent - digits as f32).exp2() * error(pattern, x)
            }
            Pattern::Nearest | Pattern::Other(_) => nearest,
        }
    }
}

/// The error of a number in a pattern, in steps: from -1/2 to 1/2.
fn error(pattern: u64, x: f32) -> f32 {
    let mut z = pattern ^ u64::from(x.to_bits()).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (z >> 40) as f32 / (1u64 << 24) as f32 - 0.5
}

#[cfg(test)]
mod tests {
    use super::{Pattern, Rounding};
    use crate::rule::Dtype;

    #[test]
    fn a_pattern_errs_as_much_as_rounding_and_on_either_side() {
        for (dtype, step) in [(Dtype::Bf16, 2f32.powi(-7)), (Dtype::F16, 2f32.powi(-10))] {
            let numbers = (1..1000).map(|i| 1.0 + i as f32 / 1000.3);
            let errors: Vec<f32> =
                numbers.map(|x| (Rounding::new(dtype, Pattern::Other(7)).round(x) - x) / step).collect();
            let count = errors.len() as f32;
            let (mean, square) =
                (errors.iter().sum::<f32>() / count, errors.iter().map(|e| e * e).sum::<f32>() / count);
            assert!(mean.abs() < 0.05 && (square - 1.0 / 12.0).abs() < 0.01, "{dtype}: {mean} {square}");
            assert!(errors.iter().all(|error| error.abs() <= 0.51));
        }
    }

    #[test]
    fn what_the_type_holds_stays() {
        for pattern in [Pattern::Nearest, Pattern::Other(1), Pattern::Other(2)] {
            let bf16 = Rounding::new(Dtype::Bf16, pattern);
            assert!(
                [0.0, 1.0, -0.375, 3.0e38]
                    .map(|x| half::bf16::from_f32(x).to_f32())
                    .iter()
                    .all(|x| bf16.round(*x) == *x)
            );
        }
    }
}
