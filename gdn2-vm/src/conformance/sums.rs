//! Sums of products as tensor cores make them, in integers: Hawkeye (arXiv 2603.20421), MMA-Sim (arXiv 2511.10909),
//! Khattak and Mikaitis (arXiv 2512.07004). All that a group adds is aligned to its largest exponent and cut off below
//! `bits` more; the sum is cut off to `kept` bits.

use super::edges::Stream;

/// A format's smallest exponent, and the other numbers of one kind of sum.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    pub(super) group: usize,
    pub(super) bits: i32,
    pub(super) kept: i32,
    pub(super) lowest: i32,
}

/// Sign and size in units of 2^(exponent - 52).
fn parts(value: f64, lowest: i32) -> (i128, i32) {
    if value == 0.0 {
        return (0, -126);
    }
    let exponent = ((value.to_bits() >> 52 & 0x7ff) as i32 - 1023).max(lowest);
    ((value * 2f64.powi(52 - exponent)) as i128, exponent)
}

impl Sums {
    /// Bits of the f32 that products and what they are added to give.
    pub(super) fn of(self, products: &[(f64, f64)], start: f64) -> u32 {
        let sum = products.chunks(self.group).fold(start as f32, |sum, group| self.one(group, f64::from(sum)));
        if sum.is_nan() { 0x7fff_ffff } else { sum.to_bits() }
    }

    fn one(self, products: &[(f64, f64)], start: f64) -> f32 {
        let all = products.iter().fold(start, |all, (a, b)| all + a * b);
        if !all.is_finite() {
            return all as f32;
        }
        let (sum, exponent) = parts(start, -126);
        let mut terms = vec![(sum << 52, exponent)];
        for (a, b) in products {
            let ((a, of_a), (b, of_b)) = (parts(*a, self.lowest), parts(*b, self.lowest));
            terms.push((a * b, of_a + of_b));
        }
        let top = terms.iter().map(|term| term.1).max().unwrap_or_default();
        let cut = |(size, exponent): &(i128, i32)| {
            // Integers are cut off towards zero.
            1i128.checked_shl((104 - self.bits + top - exponent) as u32).map_or(0, |unit| size / unit)
        };
        let sum: i128 = terms.iter().map(cut).sum();
        let size = sum.unsigned_abs();
        let leading = 127 - (size | 1).leading_zeros() as i32 + top - self.bits;
        let unit = leading.max(-126) - self.kept;
        let below = unit - (top - self.bits);
        let steps = if below >= 0 { size >> below << below } else { size };
        let value = steps as f64 * 2f64.powi(top - self.bits);
        (if sum < 0 { -value } else { value }) as f32
    }
}

/// Element `at` of line `line` of a factor or of the addends, to be rounded to its format: of lines, a fourth each holds
/// numbers of one size, of sizes some bits apart, of any size (2^±`reach`), and small ones with zeros and pairs that cancel.
pub(super) fn element(stream: &mut Stream, line: usize, at: usize, reach: i32) -> f64 {
    let raw = stream.next();
    let value = (raw >> 11) as f64 / 2f64.powi(52) - 1.0;
    let spread = |by: i32| 2f64.powi((raw % (2 * by as u64 + 1)) as i32 - by);
    match line % 4 {
        0 => value,
        1 => value * spread(12.min(reach)),
        2 => value * spread(reach),
        _ if raw & 7 == 0 => 0.0,
        _ => [1.0, -1.0][at % 2] * (1.0 + value.abs() / 512.0) * 2f64.powi(-reach + 2),
    }
}
