//! Functions of three words: what no faster instruction of the table does.

use super::video::{Lanes, Product};

/// A function of three words; those that read fewer leave the last ones aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Words {
    /// `fns`: the place of the c-th bit set in a from place b on, downward where c is negative.
    Nth,
    /// `mad.hi.sat.s32`.
    MadHiSat,
    /// `cvt.pack.sat`: a above b, each clamped to so many bits, below c; two of 16 bits leave no room for c.
    Pack { bits: u32, signed: bool },
    /// A video instruction of one to four lanes.
    Video(Lanes),
    /// `vmad`.
    VideoProduct(Product),
}

impl Words {
    pub(crate) fn of(&self, [a, b, c]: [u32; 3]) -> u32 {
        match *self {
            Words::Nth => nth(a, b, c as i32),
            Words::MadHiSat => {
                let high = (i64::from(a as i32) * i64::from(b as i32)) >> 32;
                (high + i64::from(c as i32)).clamp(i32::MIN.into(), i32::MAX.into()) as u32
            }
            Words::Pack { bits, signed } => {
                let one = |v: u32| clamped(i128::from(v as i32), bits, signed) as u32 & low(bits);
                let pair = one(a) << bits | one(b);
                pair | c.checked_shl(2 * bits).unwrap_or(0)
            }
            Words::Video(lanes) => lanes.of([a, b, c]),
            Words::VideoProduct(product) => product.of([a, b, c]),
        }
    }
}

/// Ones in the low `bits` of a word.
pub(super) fn low(bits: u32) -> u32 {
    u32::MAX >> (32 - bits)
}

/// A number as near as an integer of so many bits comes.
pub(super) fn clamped(value: i128, bits: u32, signed: bool) -> i128 {
    let (least, most) = if signed { (-1 << (bits - 1), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) };
    value.clamp(least, most)
}

/// PTX ISA, "Integer Arithmetic Instructions: fns".
fn nth(mask: u32, base: u32, offset: i32) -> u32 {
    let set = |at: i64| (0..32).contains(&at) && mask >> at & 1 != 0;
    let base = i64::from(base);
    if offset == 0 {
        return if set(base) { base as u32 } else { u32::MAX };
    }
    let step = i64::from(offset.signum());
    let places = (0..32).map(|i| base + step * i).filter(|at| set(*at));
    let wanted = offset.unsigned_abs() as usize - 1;
    places.take(32).nth(wanted).map_or(u32::MAX, |at| at as u32)
}

/// The rows of a table of `lop3`, each all ones or none: row i has a = bit 2, b = bit 1, c = bit 0 of i.
#[inline(always)]
pub(crate) fn lop3_rows(table: u8) -> [u32; 8] {
    std::array::from_fn(|i| if table >> i & 1 != 0 { u32::MAX } else { 0 })
}

/// Each bit of the result is the table's for the three bits above one another. PTX ISA, "lop3".
#[inline(always)]
pub(crate) fn lop3(on: &[u32; 8], a: u32, b: u32, c: u32) -> u32 {
    (on[0] & !a & !b & !c)
        | (on[1] & !a & !b & c)
        | (on[2] & !a & b & !c)
        | (on[3] & !a & b & c)
        | (on[4] & a & !b & !c)
        | (on[5] & a & !b & c)
        | (on[6] & a & b & !c)
        | (on[7] & a & b & c)
}
