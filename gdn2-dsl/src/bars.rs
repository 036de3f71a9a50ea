//! How far a result may be from the definition: the error of a tensor and the bar it must stay under.

/// Absolute difference below which a tensor passes whatever its relative error: the gradient of a decay of −30 is 1e-14.
pub const NEGLIGIBLE: f64 = 1e-6;

/// How far one tensor is from its reference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Deviation {
    /// Root mean square of the difference over that of the reference: RMSE / (RMS + 1e-8). NaN where `unfit`.
    pub relative: f64,
    /// Largest absolute difference.
    pub largest: f64,
    /// Index of the first element that is NaN or infinite, if there is one: such a tensor never passes.
    pub unfit: Option<usize>,
}

/// The bar of a tensor by its name in case files, for 16-bit inputs and float32 sums; None for a tensor that has none.
pub fn bar(tensor: &str) -> Option<f64> {
    Some(match tensor {
        "o" | "final_state" => 0.005,
        "dq" | "dk" | "dv" | "dinitial_state" => 0.008,
        "dg" | "db" | "dw" => 0.02,
        _ => return None,
    })
}

/// The bar of a random draw: the larger of 1.5 bars and 1.5 times what rounding the operands costs by simulation, and
/// never more than 6 bars.
pub fn drawn_bar(bar: f64, simulated: f64) -> f64 {
    (1.5 * bar.max(simulated)).min(6.0 * bar)
}

impl Deviation {
    /// Compares element by element; tensors of different length have no common element and are unfit from the first
    /// that is missing.
    pub fn of(got: impl ExactSizeIterator<Item = f64>, reference: &[f64]) -> Deviation {
        let lengths = (got.len() != reference.len()).then(|| got.len().min(reference.len()));
        let (mut square, mut norm, mut largest, mut unfit) = (0.0, 0.0, 0.0f64, None);
        for (index, (got, want)) in got.zip(reference).enumerate() {
            if !got.is_finite() {
                unfit = unfit.or(Some(index));
                continue;
            }
            let difference = (got - want).abs();
            largest = largest.max(difference);
            square += difference * difference;
            norm += want * want;
        }
        let unfit = unfit.or(lengths);
        let count = reference.len().max(1) as f64;
        let relative =
            if unfit.is_some() { f64::NAN } else { (square / count).sqrt() / ((norm / count).sqrt() + 1e-8) };
        Deviation { relative, largest, unfit }
    }

    /// Whether the tensor is good enough.
    pub fn passes(&self, bar: f64) -> bool {
        self.unfit.is_none() && (self.relative <= bar || self.largest <= NEGLIGIBLE)
    }
}

#[cfg(test)]
mod tests {
    use super::{Deviation, drawn_bar};

    fn of(got: &[f64], want: &[f64]) -> Deviation {
        Deviation::of(got.iter().copied(), want)
    }

    #[test]
    fn error_is_relative_to_the_whole_tensor() {
        let deviation = of(&[3.0, 4.1], &[3.0, 4.0]);
        assert!((deviation.relative - 0.02).abs() < 1e-9);
        assert!(deviation.passes(0.0201) && !deviation.passes(0.0199));
    }

    #[test]
    fn negligible_differences_pass_and_unfit_ones_never() {
        assert!(of(&[2e-14, 0.0], &[1e-14, 0.0]).passes(1e-3));
        assert!(!of(&[f64::NAN, 0.0], &[1e-14, 0.0]).passes(1e3));
        assert!(!of(&[f64::INFINITY], &[1.0]).passes(1e3));
        assert!(!of(&[1.0], &[1.0, 2.0]).passes(1e3));
        assert!(of(&[], &[]).passes(0.0));
    }

    #[test]
    fn a_draws_bar_is_capped() {
        assert_eq!(drawn_bar(0.005, 0.001), 0.0075);
        assert_eq!(drawn_bar(0.005, 0.01), 0.015);
        assert_eq!(drawn_bar(0.005, 1.0), 0.03);
    }
}
