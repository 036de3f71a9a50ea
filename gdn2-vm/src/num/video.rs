//! The video instructions: arithmetic on bytes and halves that are picked out of two words, one result or several, which
//! are clamped, then put into a third word or summed with it. PTX ISA, "Scalar Video Instructions" and "SIMD Video
//! Instructions".

use super::words::{clamped, low};
use std::cmp::Ordering;

/// What each lane computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VideoOp {
    Add,
    Sub,
    Distance,
    Average,
    Min,
    Max,
    /// By at most 32, or by the low five bits.
    Shl {
        wrap: bool,
    },
    Shr {
        wrap: bool,
    },
    /// One where the comparison holds: less, equal, greater.
    Set([bool; 3]),
}

/// What becomes of the results and of the third word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Second {
    /// Results take their places in it.
    Merge,
    Add,
    Min,
    Max,
}

/// Parts of a source: so many bits each, counted through both words, the first word's at the bottom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) bits: u8,
    pub(crate) picks: [u8; 4],
    pub(crate) signed: bool,
}

impl Parts {
    fn of(&self, both: u64, lane: usize) -> i128 {
        let bits = u32::from(self.bits);
        let part = (both >> (bits * u32::from(self.picks[lane]))) as u32 & low(bits);
        // Shifted to the top of a word, it takes its sign along.
        let top = part << (32 - bits);
        if self.signed { i128::from(top as i32 >> (32 - bits)) } else { i128::from(part) }
    }
}

/// One to four lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lanes {
    pub(crate) op: VideoOp,
    pub(crate) a: Parts,
    pub(crate) b: Parts,
    /// Whether results, and the third word beside them, are signed.
    pub(crate) signed: bool,
    pub(crate) saturate: bool,
    /// Bits of a result, and the place of each lane's in units of them; none where it is masked out.
    pub(crate) bits: u8,
    pub(crate) places: [Option<u8>; 4],
    pub(crate) second: Second,
}

impl Lanes {
    pub(crate) fn of(&self, [a, b, c]: [u32; 3]) -> u32 {
        let both = u64::from(b) << 32 | u64::from(a);
        let bits = u32::from(self.bits);
        let results = self.places.iter().enumerate().filter_map(|(lane, place)| {
            let value = self.value(self.a.of(both, lane), self.b.of(both, lane));
            let value = if self.saturate { clamped(value, bits, self.signed) } else { value };
            Some((u32::from((*place)?), value))
        });
        let third = if self.signed { i128::from(c as i32) } else { i128::from(c) };
        match self.second {
            Second::Merge => results.fold(c, |c, (place, value)| {
                let (mask, up) = (low(bits), bits * place);
                c & !(mask << up) | (value as u32 & mask) << up
            }),
            Second::Add => results.fold(c, |sum, (_, value)| sum.wrapping_add(value as u32)),
            Second::Min => results.fold(third, |least, (_, value)| least.min(value)) as u32,
            Second::Max => results.fold(third, |most, (_, value)| most.max(value)) as u32,
        }
    }

    fn value(&self, a: i128, b: i128) -> i128 {
        let amount = |wrap: bool| if wrap { b & 31 } else { b.clamp(0, 32) };
        match self.op {
            VideoOp::Add => a + b,
            VideoOp::Sub => a - b,
            VideoOp::Distance => (a - b).abs(),
            // Rounded away from zero where it is not negative, and down where it is.
            VideoOp::Average => (a + b + i128::from(a + b >= 0)) >> 1,
            VideoOp::Min => a.min(b),
            VideoOp::Max => a.max(b),
            VideoOp::Shl { wrap } => a << amount(wrap),
            VideoOp::Shr { wrap } => a >> amount(wrap),
            VideoOp::Set([less, equal, greater]) => i128::from(match a.cmp(&b) {
                Ordering::Less => less,
                Ordering::Equal => equal,
                Ordering::Greater => greater,
            }),
        }
    }
}

/// `vmad`: a product, negated or not, plus the third word, negated or not, scaled down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Product {
    pub(crate) a: Parts,
    pub(crate) b: Parts,
    /// Of the product and of the third word.
    pub(crate) negate: [bool; 2],
    /// `.po`: one more.
    pub(crate) plus_one: bool,
    pub(crate) shift: u8,
    pub(crate) saturate: bool,
}

impl Product {
    pub(crate) fn of(&self, [a, b, c]: [u32; 3]) -> u32 {
        let both = u64::from(b) << 32 | u64::from(a);
        let product = self.a.of(both, 0) * self.b.of(both, 0);
        let signed = self.a.signed || self.b.signed || self.negate != [false; 2];
        let third = match self.negate[1] {
            // The one's complement, to which one is added, and only then is it widened.
            true => i128::from(!c as i32) + 1,
            false if signed => i128::from(c as i32),
            false => i128::from(c),
        };
        let sum = if self.negate[0] { -product } else { product } + third + i128::from(self.plus_one);
        // Of 128 bits scaled down, 64 are kept.
        let scaled = (sum >> self.shift) as u64;
        match (self.saturate, signed) {
            (false, _) => scaled as u32,
            (true, true) => clamped(i128::from(scaled as i64), 32, true) as u32,
            (true, false) => clamped(scaled.into(), 32, false) as u32,
        }
    }
}
