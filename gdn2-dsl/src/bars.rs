//! How far a result may be from the definition: the error of a tensor and the bar it must stay under.

/// Absolute difference below which a tensor passes whatever its relative error: the gradient of a decay of −30 is 1e-14.
pub const NEGLIGIBLE: f64 = 1e-6;

/// No bar is wider than so many of [`bar`]: beyond, a kernel could lose two of its digits and pass.
pub const MOST_BARS: f64 = 6.0;

/// Roundings that the bars of a draw are taken from.
pub const PATTERNS: u64 = 12;

/// How far one tensor is from its reference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Deviation {
    /// Root mean square of the difference over that of the reference: RMSE / (RMS + 1e-8). NaN where `unfit`.
    pub relative: f64,
    /// Largest absolute difference.
    pub largest: f64,
    /// Largest absolute number of the reference.
    pub reference: f64,
    /// Index of the first element that is NaN or infinite, if there is one: such a tensor never passes.
    pub unfit: Option<usize>,
    /// Index of the first such element of the reference, which proves nothing: no tensor passes it.
    pub baseless: Option<usize>,
}

/// What comes of a tensor beside its reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Within its bar.
    Passed,
    /// Every number of the reference and every difference is below [`NEGLIGIBLE`]: right, as far as this can tell, but a
    /// tensor of zeros would be, too.
    Untested,
    /// Over its bar, and no farther off than rounding the operands can bring it on this draw, where that is more than
    /// [`MOST_BARS`]: the draw is ill-conditioned, and says nothing of this tensor.
    Unjudged,
    /// Wrong.
    Failed,
}

/// How far a tensor may be from its reference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bar {
    /// The bar.
    pub bar: f64,
    /// What rounding alone may come to; above the bar only where that is capped.
    pub limit: f64,
}

/// What rounding operands costs one tensor of a draw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Root mean square of the relative error over equally likely roundings.
    expected: f64,
    /// Roundings it was taken from.
    patterns: usize,
    /// Of how many equal, independent errors its square might be the sum. Where few numbers make up a tensor, or one error
    /// moves them all, one rounding says little of the next.
    freedom: f64,
}

/// The bar of a tensor by its name in case files, for 16-bit inputs and float32 sums; None for a tensor that has none.
pub fn bar(tensor: &str) -> Option<f64> {
    Some(match tensor {
        "o" | "final_state" => 0.005,
        "dq" | "dk" | "dv" | "d_initial_state" => 0.008,
        "dg" | "db" | "dw" => 0.02,
        _ => return None,
    })
}

/// The bar of the gradient of a parameter, or of the logit of a `let`.
pub const NAMED_BAR: f64 = 0.02;

impl Bar {
    /// A bar with nothing behind it.
    pub fn fixed(bar: f64) -> Bar {
        Bar { bar, limit: bar }
    }

    /// The bar of a random draw: 1.5 bars, or what the draw needs where that is more, and never more than [`MOST_BARS`].
    ///
    /// What it needs is 1.35 times the error that one rounding in a hundred thousand exceeds, if the squared error of
    /// `cost` is a sum of as many squares as it has degrees of freedom. That sum over its own estimate from the patterns has
    /// an F distribution; its quantile is by Paulson's approximation (Biometrika 29, 1942).
    pub fn drawn(bar: f64, cost: &Cost) -> Bar {
        let limit = (1.35 * cost.expected * cost.spread()).max(1.5 * bar);
        Bar { bar: limit.min(MOST_BARS * bar), limit }
    }

    /// The wider of two.
    pub fn or(self, other: Bar) -> Bar {
        Bar { bar: self.bar.max(other.bar), limit: self.limit.max(other.limit) }
    }
}

impl Cost {
    /// From the errors of equally likely roundings, each as a tensor; `None` where there is nothing to be off from.
    pub fn of(patterns: &[Vec<f64>], reference: &[f64]) -> Option<Cost> {
        let count = reference.len().max(1) as f64;
        let norm = (reference.iter().map(|x| x * x).sum::<f64>() / count).sqrt() + 1e-8;
        let product = |a: &Vec<f64>, b: &Vec<f64>| -> f64 {
            let errors = reference.iter().zip(a).zip(b).map(|((x, a), b)| (a - x) * (b - x));
            errors.sum::<f64>() / count / (norm * norm)
        };
        let own: Vec<f64> = patterns.iter().map(|pattern| product(pattern, pattern)).collect();
        let mean = own.iter().sum::<f64>() / own.len().max(1) as f64;
        // With covariance C of the errors, two patterns' product has the variance tr C^2, and their squares the mean tr C:
        // (tr C)^2 / tr C^2 is the number of equal, independent errors.
        let pairs: Vec<f64> = (0..patterns.len())
            .flat_map(|i| (0..i).map(move |j| (i, j)))
            .map(|(i, j)| product(&patterns[i], &patterns[j]).powi(2))
            .collect();
        let between = pairs.iter().sum::<f64>() / pairs.len().max(1) as f64;
        if !mean.is_finite() || patterns.len() < 2 {
            return None;
        }
        let freedom = if mean > 0.0 { mean * mean / between.max(f64::MIN_POSITIVE) } else { f64::INFINITY };
        Some(Cost { expected: mean.sqrt(), patterns: patterns.len(), freedom: freedom.clamp(1.0, 1e6) })
    }

    /// How many times the expected error one rounding in a hundred thousand exceeds.
    fn spread(&self) -> f64 {
        const Z: f64 = 4.265;
        let [a, b] = [self.freedom, self.freedom * self.patterns as f64].map(|freedom| 2.0 / (9.0 * freedom));
        let under = (1.0 - b) * (1.0 - b) - Z * Z * b;
        let root = ((1.0 - a) * (1.0 - a) * b + (1.0 - b) * (1.0 - b) * a - Z * Z * a * b).max(0.0).sqrt();
        (((1.0 - a) * (1.0 - b) + Z * root) / under).powf(1.5)
    }
}

impl Deviation {
    /// Compares element by element; tensors of different length have no common element and are unfit from the first
    /// that is missing.
    pub fn of(got: impl ExactSizeIterator<Item = f64>, reference: &[f64]) -> Deviation {
        let lengths = (got.len() != reference.len()).then(|| got.len().min(reference.len()));
        let (mut square, mut norm, mut largest, mut unfit) = (0.0, 0.0, 0.0f64, None);
        let baseless = reference.iter().position(|want| !want.is_finite());
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
        let relative = match unfit.or(baseless) {
            Some(_) => f64::NAN,
            None => (square / count).sqrt() / ((norm / count).sqrt() + 1e-8),
        };
        let reference = reference.iter().fold(0.0f64, |most, want| most.max(want.abs()));
        Deviation { relative, largest, reference, unfit, baseless }
    }

    /// Whether the tensor is good enough.
    pub fn passes(&self, bar: f64) -> bool {
        let fit = self.unfit.is_none() && self.baseless.is_none();
        fit && (self.relative <= bar || self.largest <= NEGLIGIBLE)
    }

    /// What the bar says of it; an empty tensor passes.
    pub fn verdict(&self, bar: Bar, elements: usize) -> Verdict {
        if !self.passes(bar.bar) {
            return if self.passes(bar.limit) { Verdict::Unjudged } else { Verdict::Failed };
        }
        if elements > 0 && self.reference <= NEGLIGIBLE { Verdict::Untested } else { Verdict::Passed }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::{Bar, Cost, Deviation, Verdict};

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
    fn a_reference_that_is_no_number_is_passed_by_nothing() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let deviation = of(&[1.0, 2.0], &[1.0, bad]);
            assert_eq!((deviation.baseless, deviation.verdict(Bar::fixed(1e9), 2)), (Some(1), Verdict::Failed));
            assert!(!of(&[bad, 1.0], &[bad, 1.0]).passes(1e9));
        }
    }

    #[test]
    fn tensors_of_nearly_nothing_are_untested() {
        let bar = Bar::fixed(0.005);
        assert_eq!(of(&[0.0, 0.0], &[1e-7, 0.0]).verdict(bar, 2), Verdict::Untested);
        assert_eq!(of(&[0.0, 0.0], &[0.0, 0.0]).verdict(bar, 2), Verdict::Untested);
        assert_eq!(of(&[1e-3, 0.0], &[1e-7, 0.0]).verdict(bar, 2), Verdict::Failed);
        assert_eq!(of(&[1.0, 0.0], &[1.0, 1e-9]).verdict(bar, 2), Verdict::Passed);
        assert_eq!(of(&[], &[]).verdict(bar, 0), Verdict::Passed);
    }

    /// Errors of `freedom` equal, independent numbers, `patterns` times; a number made of twelve uniform ones.
    fn cost(freedom: usize, error: f64) -> Cost {
        let mut state = 0x1234_5678_9abc_def1_u64;
        let mut uniform = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let mut bell = || (0..12).map(|_| uniform()).sum::<f64>() - 6.0;
        let patterns: Vec<Vec<f64>> = (0..12).map(|_| (0..freedom).map(|_| 1.0 + error * bell()).collect()).collect();
        Cost::of(&patterns, &vec![1.0; freedom]).unwrap()
    }

    #[test]
    fn a_draws_bar_follows_from_what_rounding_costs_and_is_capped() {
        let bar = |cost: Cost| Bar::drawn(0.005, &cost);
        assert_eq!(bar(cost(1000, 0.001)), Bar::fixed(0.0075));
        let wide = bar(cost(1000, 0.01));
        assert!(wide.bar > 0.0135 && wide.bar < 0.016 && wide.limit == wide.bar, "{wide:?}");
        let capped = bar(cost(1000, 1.0));
        assert!(capped.bar == 0.03 && capped.limit > 1.3, "{capped:?}");
        assert_eq!(of(&[1.5], &[1.0]).verdict(capped, 1), Verdict::Unjudged);
        assert_eq!(of(&[9.0], &[1.0]).verdict(capped, 1), Verdict::Failed);
    }

    #[test]
    fn few_errors_make_a_wider_bar_than_many() {
        let [one, few, many] = [1, 8, 1000].map(|freedom| cost(freedom, 0.004));
        assert!(
            one.freedom < 2.0 && (3.0..20.0).contains(&few.freedom) && many.freedom > 300.0,
            "{one:?} {few:?} {many:?}"
        );
        assert!(one.spread() > 4.0 && few.spread() < 4.0 && many.spread() < 1.2);
    }
}
