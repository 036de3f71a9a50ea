//! f64 arithmetic rounded toward zero, down or up: the nearest result, and on which side of it the exact one lies.

use crate::isa::operators::{Directed, Round};
use std::cmp::Ordering;

/// Words of the exact sum: a bit for every power of two from the product of two smallest subnormals, 2^-2148, to the
/// product of two largest numbers, 2^2048, and a sign.
const WORDS: usize = 68;
const LOWEST: i32 = -2148;

/// A term of an exact sum: an integer times a power of two.
type Term = (i128, i32);

/// A finite number as an integer of 53 bits times a power of two.
fn split(x: f64) -> Term {
    let bits = x.to_bits();
    let (field, fraction) = ((bits >> 52 & 0x7ff) as i32, (bits & ((1 << 52) - 1)) as i128);
    let (magnitude, exponent) = if field == 0 { (fraction, -1074) } else { (fraction | 1 << 52, field - 1075) };
    (if x < 0.0 { -magnitude } else { magnitude }, exponent)
}

fn product(a: f64, b: f64) -> Term {
    let ((a, ea), (b, eb)) = (split(a), split(b));
    (a * b, ea + eb)
}

fn minus((m, e): Term) -> Term {
    (-m, e)
}

/// The sign of a sum of terms, exactly.
fn sign(terms: &[Term]) -> Ordering {
    let mut sum = [0u64; WORDS];
    for &(m, e) in terms {
        let at = (e - LOWEST) as usize;
        let (word, bit) = (at / 64, at % 64);
        // The term as a two's complement number of all words, shifted into place.
        let low = (m as u128) << bit;
        let high = if bit == 0 { m >> 127 } else { m >> (128 - bit) };
        let mut carry = false;
        for (i, s) in sum.iter_mut().enumerate().skip(word) {
            let part = match i - word {
                0 => low as u64,
                1 => (low >> 64) as u64,
                2 => high as u64,
                _ => (m >> 127) as u64,
            };
            let (v, over) = s.overflowing_add(part);
            let (v, again) = v.overflowing_add(u64::from(carry));
            *s = v;
            carry = over || again;
        }
    }
    if sum[WORDS - 1] >> 63 != 0 {
        Ordering::Less
    } else if sum.iter().all(|w| *w == 0) {
        Ordering::Equal
    } else {
        Ordering::Greater
    }
}

/// One operation; unused sources are whatever.
pub(crate) fn run(op: Directed, round: Round, [a, b, c]: [f64; 3]) -> f64 {
    let nearest = match op {
        Directed::Add => a + b,
        Directed::Sub => a - b,
        Directed::Mul => a * b,
        Directed::Div => a / b,
        Directed::Fma => a.mul_add(b, c),
        Directed::Sqrt => a.sqrt(),
        Directed::Rcp => 1.0 / a,
    };
    let finite = match op {
        Directed::Add | Directed::Sub | Directed::Mul => a.is_finite() && b.is_finite(),
        Directed::Div => a.is_finite() && b.is_finite() && b != 0.0,
        Directed::Fma => a.is_finite() && b.is_finite() && c.is_finite(),
        Directed::Sqrt => a.is_finite() && a >= 0.0,
        Directed::Rcp => a.is_finite() && a != 0.0,
    };
    if !finite {
        return nearest;
    }
    if nearest.is_infinite() {
        let inward = match round {
            Round::Zero => true,
            Round::Down => nearest > 0.0,
            Round::Up => nearest < 0.0,
            Round::Nearest | Round::Away => false,
        };
        return if inward { f64::MAX.copysign(nearest) } else { nearest };
    }
    let divided = |a: f64, b: f64| {
        let rest = sign(&[split(a), minus(product(nearest, b))]);
        if b < 0.0 { rest.reverse() } else { rest }
    };
    // The sign of what the nearest result leaves out.
    let rest = match op {
        Directed::Add => sign(&[split(a), split(b), minus(split(nearest))]),
        Directed::Sub => sign(&[split(a), minus(split(b)), minus(split(nearest))]),
        Directed::Mul => sign(&[product(a, b), minus(split(nearest))]),
        Directed::Fma => sign(&[product(a, b), split(c), minus(split(nearest))]),
        Directed::Sqrt => sign(&[split(a), minus(product(nearest, nearest))]),
        Directed::Div => divided(a, b),
        Directed::Rcp => divided(1.0, a),
    };
    let opposite = match op {
        Directed::Add => a.is_sign_negative() != b.is_sign_negative(),
        Directed::Sub => a.is_sign_negative() == b.is_sign_negative(),
        Directed::Fma => (a.is_sign_negative() != b.is_sign_negative()) != c.is_sign_negative(),
        Directed::Mul | Directed::Div | Directed::Sqrt | Directed::Rcp => false,
    };
    match (rest, round) {
        // Opposite terms that cancel are -0 when rounded down.
        (Ordering::Equal, Round::Down) if nearest == 0.0 && opposite => -0.0,
        (Ordering::Less, Round::Down) => nearest.next_down(),
        (Ordering::Greater, Round::Up) => nearest.next_up(),
        (Ordering::Less, Round::Zero) if nearest > 0.0 => nearest.next_down(),
        (Ordering::Greater, Round::Zero) if nearest < 0.0 => nearest.next_up(),
        _ => nearest,
    }
}
