//! Which bytes of a result are set, where not all of what it is made from is: moves, packing, shifts and masks keep the
//! bytes apart, as compilers do that pack a value beside one they never set and take only the first out again.

use super::defined::{Defined, Table};
use crate::exec::lanes::{Regs, lanes};
use crate::isa::inst::{Alu, IntOp, IntUnary, Mem, Op, Slot, Slow};
use crate::num::Type;

/// Of each byte of a register, the lanes in which it is not set.
pub(super) type Bytes = [u32; 8];

/// The register files, as [`Table`] numbers them.
const WORD: usize = 1;
const WIDE: usize = 2;

fn any(b: &Bytes) -> u32 {
    b.iter().fold(0, |all, m| all | m)
}

/// The low bytes, the rest set.
fn low(b: Bytes, n: usize) -> Bytes {
    std::array::from_fn(|i| if i < n { b[i] } else { 0 })
}

/// `n` low bytes, the top one repeated above them.
fn extended(b: Bytes, n: usize, signed: bool) -> Bytes {
    std::array::from_fn(|i| match i < n {
        true => b[i],
        false if signed => b[n - 1],
        false => 0,
    })
}

/// Bytes of a word whose halves stand apart.
fn halves(lo: u32, hi: u32) -> Bytes {
    [lo, lo, hi, hi, 0, 0, 0, 0]
}

fn of_half(b: &Bytes, half: usize) -> u32 {
    b[2 * half] | b[2 * half + 1]
}

/// Each half of the result is made of that half of the sources.
fn by_halves(sources: &[Bytes]) -> Bytes {
    let half = |h| sources.iter().fold(0, |all, b| all | of_half(b, h));
    halves(half(0), half(1))
}

/// A source of a bitwise operation: its bytes that are not set, and its value in a lane.
struct Bits<'r> {
    unset: Bytes,
    value: Box<dyn Fn(usize) -> u64 + 'r>,
}

impl Defined {
    fn word(&self, table: &Table, slot: Slot) -> Bytes {
        self.bytes(table.index(WORD, slot))
    }

    fn wide(&self, table: &Table, slot: Slot) -> Bytes {
        self.bytes(table.index(WIDE, slot))
    }

    /// A bitwise operation by its table: a byte is set if what is not set in its sources makes no difference to it.
    fn bitwise(lut: u8, sources: [Option<Bits<'_>>; 3], mask: u32, width: usize) -> Bytes {
        let mut out = [0; 8];
        for lane in lanes(mask) {
            for (byte, out) in out.iter_mut().enumerate().take(width) {
                let (mut value, mut unset) = ([0u8; 3], [false; 3]);
                for (i, s) in sources.iter().enumerate() {
                    let Some(s) = s else { continue };
                    value[i] = ((s.value)(lane) >> (8 * byte)) as u8;
                    unset[i] = s.unset[byte] >> lane & 1 != 0;
                }
                if unset == [false; 3] {
                    continue;
                }
                // All ways the bytes that are not set may be, of which all zeros and all ones tell.
                let of = |choice: u32| {
                    let [a, b, c] =
                        [0, 1, 2].map(|i| if unset[i] { ((choice >> i & 1) as u8).wrapping_neg() } else { value[i] });
                    (0..8).fold(0u8, |all, bits: u8| {
                        let pick = |v: u8, bit: u8| if bits >> bit & 1 != 0 { v } else { !v };
                        let term = pick(a, 2) & pick(b, 1) & pick(c, 0);
                        if lut >> bits & 1 != 0 { all | term } else { all }
                    })
                };
                if (1..8).any(|choice| of(choice) != of(0)) {
                    *out |= 1 << lane;
                }
            }
        }
        out
    }

    fn shifted(source: Bytes, amounts: [u32; 32], how: IntOp, mask: u32, width: usize) -> Bytes {
        let bits = 8 * width as i64;
        let mut out = [0; 8];
        for lane in lanes(mask) {
            let by = i64::from(amounts[lane]).min(bits);
            for (byte, out) in out.iter_mut().enumerate().take(width) {
                let first = 8 * byte as i64 + if how == IntOp::Shl { -by } else { by };
                let unset = [first, first + 7].iter().any(|bit| {
                    let from = match how {
                        IntOp::ShrS => (*bit).min(bits - 1),
                        _ => *bit,
                    };
                    (0..bits).contains(&from) && source[(from / 8) as usize] >> lane & 1 != 0
                });
                *out |= u32::from(unset) << lane;
            }
        }
        out
    }

    /// Bytes that are not set of what an instruction makes, one entry for each register it writes; `None`: none of the
    /// rules here fits, and every byte of the lanes in which anything is not set counts as not set.
    pub(super) fn made(&self, table: &Table, op: &Op, mask: u32, regs: &Regs) -> Option<Vec<Bytes>> {
        match op {
            Op::Alu(op) => self.made_by_alu(table, op, mask, regs),
            Op::Slow(op) => self.made_by_slow(table, op),
            _ => None,
        }
    }

    fn made_by_alu(&self, table: &Table, op: &Alu, mask: u32, regs: &Regs) -> Option<Vec<Bytes>> {
        let (word, wide) = (|s: Slot| self.word(table, s), |s: Slot| self.wide(table, s));
        let bits =
            |s: Slot| Some(Bits { unset: word(s), value: Box::new(move |i: usize| u64::from(regs.r[s as usize][i])) });
        let wide_bits = |s: Slot| Some(Bits { unset: wide(s), value: Box::new(move |i: usize| regs.x[s as usize][i]) });
        let lut = |op: IntOp| match op {
            IntOp::And => Some(0xc0),
            IntOp::Or => Some(0xfc),
            IntOp::Xor => Some(0x3c),
            _ => None,
        };
        Some(vec![match *op {
            Alu::Un32(IntUnary::Mov | IntUnary::Not, _, a) => word(a),
            Alu::Un64(IntUnary::Mov | IntUnary::Not, _, a) => wide(a),
            Alu::Int32(how @ (IntOp::And | IntOp::Or | IntOp::Xor), _, a, b) => {
                Self::bitwise(lut(how)?, [bits(a), bits(b), None], mask, 4)
            }
            Alu::Int64(how @ (IntOp::And | IntOp::Or | IntOp::Xor), _, a, b) => {
                Self::bitwise(lut(how)?, [wide_bits(a), wide_bits(b), None], mask, 8)
            }
            Alu::Lop3(lut, _, a, b, c) => Self::bitwise(lut, [bits(a), bits(b), bits(c)], mask, 4),
            Alu::Int32(how @ (IntOp::Shl | IntOp::ShrU | IntOp::ShrS), _, a, n) if any(&word(n)) & mask == 0 => {
                Self::shifted(word(a), regs.r[n as usize], how, mask, 4)
            }
            Alu::Int64(how @ (IntOp::Shl | IntOp::ShrU | IntOp::ShrS), _, a, n) if any(&word(n)) & mask == 0 => {
                Self::shifted(wide(a), regs.r[n as usize], how, mask, 8)
            }
            Alu::Bfe32(false, [_, a, pos, len]) if (any(&word(pos)) | any(&word(len))) & mask == 0 => {
                let (source, mut out) = (word(a), [0; 8]);
                for lane in lanes(mask) {
                    let (pos, len) = (regs.r[pos as usize][lane] & 0xff, regs.r[len as usize][lane] & 0xff);
                    for bit in (0..len.min(32)).filter(|bit| pos + bit < 32) {
                        out[bit as usize / 8] |= source[(pos + bit) as usize / 8] & 1 << lane;
                    }
                }
                out
            }
            Alu::Prmt([_, a, b, c]) if any(&word(c)) & mask == 0 => {
                let (a, b, mut out) = (word(a), word(b), [0; 8]);
                for lane in lanes(mask) {
                    for (byte, out) in out.iter_mut().enumerate().take(4) {
                        let from = regs.r[c as usize][lane] as usize >> (4 * byte) & 7;
                        *out |= (if from < 4 { a[from] } else { b[from - 4] }) & 1 << lane;
                    }
                }
                out
            }
            Alu::Sel32(_, a, b, p) | Alu::Sel64(_, a, b, p) => {
                let of = |s| if matches!(op, Alu::Sel32(..)) { word(s) } else { wide(s) };
                let (a, b, chosen) = (of(a), of(b), regs.p[p as usize]);
                let unknown = any(&self.bytes(table.index(0, p)));
                std::array::from_fn(|i| unknown | (chosen & a[i]) | (!chosen & b[i]))
            }
            Alu::Pack32(_, a, b) => {
                let (a, b) = (word(a), word(b));
                [a[0], a[1], b[0], b[1], 0, 0, 0, 0]
            }
            Alu::Unpack32(_, _, a) => {
                let a = word(a);
                return Some(vec![low(a, 2), [a[2], a[3], 0, 0, 0, 0, 0, 0]]);
            }
            Alu::Pack64(_, a, b) => {
                let (a, b) = (word(a), word(b));
                std::array::from_fn(|i| if i < 4 { a[i] } else { b[i - 4] })
            }
            Alu::Unpack64(_, _, a) => {
                let a = wide(a);
                return Some(vec![low(a, 4), [a[4], a[5], a[6], a[7], 0, 0, 0, 0]]);
            }
            Alu::WidenU(_, a) => low(word(a), 4),
            Alu::WidenS(_, a) => extended(word(a), 4, true),
            Alu::Narrow(_, a) => low(wide(a), 4),
            Alu::F16x2(_, a, b) | Alu::Bf16x2(_, a, b) => halves(any(&low(word(b), 4)), any(&low(word(a), 4))),
            _ => return None,
        }])
    }

    fn made_by_slow(&self, table: &Table, op: &Slow) -> Option<Vec<Bytes>> {
        let (word, wide) = (|s: Slot| self.word(table, s), |s: Slot| self.wide(table, s));
        let of = |wide_file: bool, s: Slot| if wide_file { wide(s) } else { word(s) };
        Some(vec![match op {
            Slow::Un16(IntUnary::Mov | IntUnary::Not, _, a) => low(word(*a), 2),
            Slow::Mov128(_, a) => return Some(a.iter().map(|a| wide(*a)).collect()),
            Slow::Pack { bits, parts, .. } => {
                let part = *bits as usize / 8;
                let mut out = [0; 8];
                for (i, p) in parts.iter().enumerate().filter(|_| part > 0) {
                    let p = word(*p);
                    (0..part).filter(|k| i * part + k < 8).for_each(|k| out[i * part + k] = p[k]);
                }
                out
            }
            Slow::Unpack { bits, wide, parts, a } => {
                let (part, a) = (*bits as usize / 8, of(*wide, *a));
                let taken = |i: usize| -> Bytes {
                    std::array::from_fn(|k| if k < part && i * part + k < 8 { a[i * part + k] } else { 0 })
                };
                return Some(parts.iter().enumerate().filter(|(_, p)| p.is_some()).map(|(i, _)| taken(i)).collect());
            }
            Slow::Cvt { to, from, mode, bits, a, .. } if !to.float() && !from.float() && !mode.sat => {
                let n = usize::from(to.bytes().min(from.bytes()));
                extended(of(bits[1] == 64, *a), n, if to.bytes() > from.bytes() { from.signed() } else { to.signed() })
            }
            Slow::CvtPack { a, b, .. } => halves(any(&low(word(*b), 4)), any(&low(word(*a), 4))),
            Slow::Half(_, ty, _, _, a, b) if ty.packed() => by_halves(&[word(*a), word(*b)]),
            Slow::HalfUn(_, ty, _, _, a) if ty.packed() => by_halves(&[word(*a)]),
            Slow::FmaHalf(ty, _, _, a, b, c) if ty.packed() => by_halves(&[word(*a), word(*b), word(*c)]),
            _ => return None,
        }])
    }

    /// Lanes in which a store writes a byte that is not set, or writes where nobody said.
    pub(super) fn stored(&self, table: &Table, op: &Mem) -> Option<u32> {
        let Mem::St { elem, addr, from, .. } = op else { return None };
        let base = any(&self.bytes(table.index(if addr.wide { WIDE } else { WORD }, addr.base)));
        let value = |s: &Slot| {
            let bytes = if elem.wide { self.wide(table, *s) } else { self.word(table, *s) };
            any(&low(bytes, usize::from(elem.bytes)))
        };
        Some(from.iter().fold(base, |all, s| all | value(s)))
    }

    /// Lanes in which a comparison of this type has a source that is not set.
    pub(super) fn compared(&self, table: &Table, ty: Type, sources: [Slot; 2]) -> u32 {
        let n = usize::from(ty.bytes());
        let of = |s: Slot| if n == 8 { self.wide(table, s) } else { self.word(table, s) };
        sources.iter().fold(0, |all, s| all | any(&low(of(*s), n)))
    }
}
