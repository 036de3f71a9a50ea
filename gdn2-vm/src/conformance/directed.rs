//! f64 arithmetic in the four directions of rounding, against sums, products, quotients and roots of integers.

use super::edges::Stream;
use super::ptx::{Class, elementwise, wides};
use super::{Expected, Kernel};

const COUNT: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Direction {
    Nearest,
    Zero,
    Down,
    Up,
}
use Direction::{Down, Nearest, Up, Zero};

const DIRECTIONS: [(Direction, &str); 4] = [(Nearest, "rn"), (Zero, "rz"), (Down, "rm"), (Up, "rp")];

/// An exact number: an integer times a power of two, and whether a bit more is left in its direction.
#[derive(Clone, Copy)]
struct Exact {
    integer: i128,
    exponent: i32,
    more: bool,
}

fn split(bits: u64) -> Exact {
    let (field, fraction) = ((bits >> 52 & 0x7ff) as i32, i128::from(bits & ((1 << 52) - 1)));
    let (size, exponent) = if field == 0 { (fraction, -1074) } else { (fraction | 1 << 52, field - 1075) };
    Exact { integer: if bits >> 63 == 1 { -size } else { size }, exponent, more: false }
}

impl Exact {
    /// Its bits; the integer is not 0 and has more bits than a double where something is left.
    fn round(self, direction: Direction) -> u64 {
        let (size, negative) = (self.integer.unsigned_abs(), self.integer < 0);
        let top = self.exponent + 127 - size.leading_zeros() as i32;
        let unit = (top - 52).max(-1074);
        let shift = unit - self.exponent;
        let (mut kept, rest, half) = match shift {
            ..=0 => (size << -shift, 0, 1),
            1..=127 => (size >> shift, size & ((1 << shift) - 1), 1 << (shift - 1)),
            _ => (0, 1, 2),
        };
        let inexact = rest != 0 || self.more;
        let grows = match direction {
            Nearest => rest > half || rest == half && (self.more || kept & 1 == 1),
            Zero => false,
            Down => inexact && negative,
            Up => inexact && !negative,
        };
        kept += u128::from(grows);
        let sign = u64::from(negative) << 63;
        // The leading one of a normal number counts up the exponent.
        let bits = if kept < 1 << 52 { kept } else { (((unit + 1074) as u128) << 52) + kept };
        let most = f64::MAX.to_bits();
        if bits <= u128::from(most) {
            return sign | bits as u64;
        }
        let inward = match direction {
            Nearest => false,
            Zero => true,
            Down => !negative,
            Up => negative,
        };
        sign | if inward { most } else { f64::INFINITY.to_bits() }
    }
}

fn times(a: Exact, b: Exact) -> Exact {
    Exact { integer: a.integer * b.integer, exponent: a.exponent + b.exponent, more: false }
}

/// The same number as an integer of `bits` bits, which its own must fit but for zeros at their end.
fn widened(a: Exact, bits: u32) -> Exact {
    let shift = bits as i32 - (128 - a.integer.unsigned_abs().leading_zeros()) as i32;
    match shift {
        _ if a.integer == 0 => a,
        0.. => Exact { integer: a.integer << shift, exponent: a.exponent - shift, ..a },
        _ => Exact { integer: a.integer >> -shift, exponent: a.exponent - shift, ..a },
    }
}

/// The sum of two numbers of 53 bits; one too small to reach the other's last bit counts as next to nothing.
fn plus(a: Exact, b: Exact) -> Exact {
    let [a, b] = [a, b].map(|x| widened(x, 53));
    let (high, low) = match (a.integer, b.integer) {
        (0, _) => return b,
        (_, 0) => return a,
        _ if a.exponent >= b.exponent => (a, b),
        _ => (b, a),
    };
    let distance = high.exponent - low.exponent;
    if distance <= 70 {
        return Exact { integer: (high.integer << distance) + low.integer, ..low };
    }
    Exact { integer: (high.integer << 20) + low.integer.signum(), exponent: high.exponent - 20, more: false }
}

fn divided(a: Exact, b: Exact) -> Exact {
    let a = widened(a, 126);
    let (n, d) = (a.integer.unsigned_abs(), b.integer.unsigned_abs());
    let integer = (n / d) as i128;
    let negative = (a.integer < 0) != (b.integer < 0);
    let integer = if negative { -integer } else { integer };
    Exact { integer, exponent: a.exponent - b.exponent, more: n % d != 0 }
}

fn root(a: Exact) -> Exact {
    let mut a = widened(a, 124);
    if a.exponent % 2 != 0 {
        (a.integer, a.exponent) = (a.integer << 1, a.exponent - 1);
    }
    let (square, integer) = (a.integer.unsigned_abs(), a.integer.unsigned_abs().isqrt());
    Exact { integer: integer as i128, exponent: a.exponent / 2, more: integer * integer != square }
}

fn negated(a: Exact) -> Exact {
    Exact { integer: -a.integer, ..a }
}

/// What rounds to `exact`, or a zero whose sign the operands tell: that of both addends, or of a product.
fn result(exact: Exact, direction: Direction, signs: [bool; 2], sum: bool) -> u64 {
    if exact.integer != 0 {
        return exact.round(direction);
    }
    let negative = match signs {
        [a, b] if !sum => a != b,
        [a, b] if a == b => a,
        _ => direction == Down,
    };
    u64::from(negative) << 63
}

type Operation = fn([u64; 3], Direction) -> u64;

fn sign(bits: u64) -> bool {
    bits >> 63 == 1
}

const OPERATIONS: [(&str, &str, Operation); 7] = [
    ("add", "%wa, %wb", |[a, b, _], d| result(plus(split(a), split(b)), d, [sign(a), sign(b)], true)),
    ("sub", "%wa, %wb", |[a, b, _], d| result(plus(split(a), negated(split(b))), d, [sign(a), !sign(b)], true)),
    ("mul", "%wa, %wb", |[a, b, _], d| result(times(split(a), split(b)), d, [sign(a), sign(b)], false)),
    ("div", "%wa, %wb", |[a, b, _], d| result(divided(split(a), split(b)), d, [sign(a), sign(b)], false)),
    ("fma", "%wa, %wb, %wc", |[a, b, c], d| {
        result(plus(times(split(a), split(b)), split(c)), d, [sign(a) != sign(b), sign(c)], true)
    }),
    ("sqrt", "%wa", |[a, ..], d| result(root(split(a)), d, [false; 2], false)),
    ("rcp", "%wb", |[_, b, _], d| divided(split(1f64.to_bits()), split(b)).round(d)),
];

/// Finite numbers: edges, numbers of near exponents, numbers of any.
fn draw(stream: &mut Stream, index: usize) -> u64 {
    const EDGES: [f64; 12] = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        1.0 + f64::EPSILON,
        f64::MAX,
        -f64::MAX,
        f64::MIN_POSITIVE,
        -f64::MIN_POSITIVE,
        5e-324,
        -5e-324,
        0.1,
    ];
    let raw = stream.next();
    match index % 3 {
        0 => EDGES[raw as usize % EDGES.len()].to_bits(),
        1 => (raw & !(0x7ff << 52)) | (1000 + (raw >> 52 & 63)) << 52,
        _ if raw >> 52 & 0x7ff == 0x7ff => raw & !(1 << 62),
        _ => raw,
    }
}

pub(super) fn kernels() -> Vec<Kernel> {
    let mut stream = Stream(63);
    let mut all = Vec::new();
    for (name, operands, definition) in OPERATIONS {
        let lists: [Vec<u64>; 3] = std::array::from_fn(|which| {
            // Coprime rounds, so that every kind meets every other.
            let index = |i: usize| [i, i / 3, i / 9][which];
            (0..COUNT).map(|i| draw(&mut stream, index(i))).collect()
        });
        let [mut a, mut b, c] = lists;
        match name {
            // Products of 26 bits by 26 fit the sum of two doubles.
            "fma" => a.iter_mut().chain(&mut b).for_each(|v| *v &= !((1 << 27) - 1)),
            "sqrt" => a.iter_mut().for_each(|v| *v &= !(1 << 63)),
            _ => b.iter_mut().filter(|v| **v << 1 == 0).for_each(|v| *v = 3f64.to_bits()),
        }
        for (direction, suffix) in DIRECTIONS {
            let expected = (0..COUNT).map(|i| definition([a[i], b[i], c[i]], direction)).collect();
            let inputs = vec![wides(&a), wides(&b), wides(&c)];
            let (title, body) = (format!("{name}.{suffix}.f64"), format!("{name}.{suffix}.f64 %wd, {operands};"));
            let expected = Expected::Wides(expected);
            all.push(elementwise(&title, 80, &[Class::Wide; 3], Class::Wide, &body, inputs, expected));
        }
    }
    all
}
