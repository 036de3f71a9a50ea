//! Closed intervals of real numbers, an infinite end standing for none. Ends are rounded outward where rounding could
//! have moved them inward, so that a float64 evaluation cannot leave the interval either.

use std::fmt;

use super::LARGEST;

/// `lower <= x <= upper`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    lower: f64,
    upper: f64,
}

impl Interval {
    /// Every real number: what a logit or a parameter may be.
    pub(crate) const ALL: Interval = Interval { lower: f64::NEG_INFINITY, upper: f64::INFINITY };

    /// An end that is no number bounds nothing.
    pub(crate) fn new(lower: f64, upper: f64) -> Interval {
        Interval {
            // A lower end above every float64 is still below nothing that float64 can hold.
            lower: if lower.is_nan() { f64::NEG_INFINITY } else { lower.min(f64::MAX) + 0.0 },
            upper: if upper.is_nan() { f64::INFINITY } else { upper.max(f64::MIN) + 0.0 },
        }
    }

    /// The smallest value, −∞ where there is none.
    pub fn lower(self) -> f64 {
        self.lower
    }

    /// The largest value, ∞ where there is none.
    pub fn upper(self) -> f64 {
        self.upper
    }

    /// Whether a number lies in it.
    pub fn contains(self, x: f64) -> bool {
        (self.lower..=self.upper).contains(&x)
    }

    /// Both ends two steps of float64 outward: what a library function may be wrong by.
    pub(crate) fn widened(self) -> Interval {
        Interval { lower: self.lower.next_down().next_down(), upper: self.upper.next_up().next_up() }
    }

    /// Through a rising function; its value is known exactly at infinite ends and at `exact`.
    pub(crate) fn rising(self, function: impl Fn(f64) -> f64, exact: f64) -> Interval {
        let known = |end: f64| end.is_infinite() || end == exact;
        let (lower, upper) = (function(self.lower), function(self.upper));
        let wide = Interval { lower, upper }.widened();
        Interval::new(
            if known(self.lower) { lower } else { wide.lower },
            if known(self.upper) { upper } else { wide.upper },
        )
    }

    /// What an operand that saturates at ±2⁶³ may be: the numbers themselves, and where all are larger, that one.
    fn saturated(self) -> Interval {
        Interval { lower: self.lower.min(LARGEST), upper: self.upper.max(-LARGEST) }
    }

    /// Of e^u, which is constant from 2⁶³ on.
    pub(crate) fn exponential(self) -> Interval {
        self.rising(f64::exp, 0.0).saturated()
    }

    pub(crate) fn negated(self) -> Interval {
        Interval::new(-self.upper, -self.lower)
    }

    pub(crate) fn plus(self, other: Interval) -> Interval {
        Interval::new(self.lower + other.lower, self.upper + other.upper)
    }

    pub(crate) fn times(self, other: Interval) -> Interval {
        // 0 times an end that is none is 0: the factor is finite, however large.
        let product = |a: f64, b: f64| if a == 0.0 || b == 0.0 { 0.0 } else { a * b };
        self.corners(other, product)
    }

    /// A number times itself.
    pub(crate) fn squared(self) -> Interval {
        let square = self.times(self);
        let largest = self.lower.abs().max(self.upper.abs());
        let smallest = if self.contains(0.0) { 0.0 } else { self.lower.abs().min(self.upper.abs()).min(LARGEST) };
        Interval::new(smallest * smallest, if largest.is_infinite() { largest } else { square.upper })
    }

    /// Divided by an interval without 0.
    pub(crate) fn over(self, other: Interval) -> Interval {
        let quotient = |a: f64, b: f64| if a == 0.0 || b.is_infinite() { 0.0 } else { a / b };
        self.corners(other, quotient)
    }

    fn corners(self, other: Interval, f: impl Fn(f64, f64) -> f64) -> Interval {
        let (a, b) = (self.saturated(), other.saturated());
        let ends = [f(a.lower, b.lower), f(a.lower, b.upper), f(a.upper, b.lower), f(a.upper, b.upper)];
        Interval::new(
            ends.into_iter().fold(f64::INFINITY, f64::min),
            ends.into_iter().fold(f64::NEG_INFINITY, f64::max),
        )
    }
}

/// `[-5, 0]`, `(-∞, 0]`; ends as float32 has them.
impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.lower {
            f64::NEG_INFINITY => f.write_str("(-∞, ")?,
            lower => write!(f, "[{}, ", short(lower))?,
        }
        match self.upper {
            f64::INFINITY => f.write_str("∞)"),
            upper => write!(f, "{}]", short(upper)),
        }
    }
}

fn short(x: f64) -> String {
    let x = x as f32;
    if x != 0.0 && !(1e-4..1e7).contains(&x.abs()) { format!("{x:e}") } else { x.to_string() }
}

#[cfg(test)]
mod tests {
    use super::Interval;

    #[test]
    fn products_and_quotients_know_that_an_infinite_end_is_never_reached() {
        let (all, up, down) = (Interval::ALL, Interval::new(0.0, f64::INFINITY), Interval::new(f64::NEG_INFINITY, 0.0));
        assert_eq!(up.times(up), up);
        assert_eq!(up.times(down), down);
        assert_eq!(all.times(Interval::new(0.0, 0.0)), Interval::new(0.0, 0.0));
        assert_eq!(Interval::new(1.0, 1.0).over(Interval::new(1.0, f64::INFINITY)), Interval::new(0.0, 1.0));
        assert_eq!(all.squared(), up);
        assert_eq!(Interval::new(-3.0, 2.0).squared(), Interval::new(0.0, 9.0));
        assert_eq!(all.plus(all), all);
        assert_eq!(up.plus(down), all);
    }

    #[test]
    fn written_as_mathematics_writes_them() {
        assert_eq!(Interval::ALL.to_string(), "(-∞, ∞)");
        assert_eq!(Interval::new(-0.606531, 0.0).to_string(), "[-0.606531, 0]");
        assert_eq!(Interval::new(1e-9, 1e9).to_string(), "[1e-9, 1e9]");
    }
}
