//! Decoding of the video instructions: bytes and halves that operands pick, masks, and what joins the results.

use crate::isa::decode::{Decoder, Res};
use crate::isa::inst::{Op, Slot, Slow};
use crate::num::Type;
use crate::num::video::{Lanes, Parts, Product, Second, VideoOp};
use crate::num::words::Words;
use crate::ptx::text::Operand;

/// Comparisons by what they hold for: less, equal, greater.
const SETS: &[(&str, [bool; 3])] = &[
    ("eq", [false, true, false]),
    ("ne", [true, false, true]),
    ("lt", [true, false, false]),
    ("le", [true, true, false]),
    ("gt", [false, false, true]),
    ("ge", [false, true, true]),
];

impl<'a> Decoder<'_, 'a> {
    /// Video opcodes; `None` if the opcode is of another family.
    pub(crate) fn video(&mut self, base: &str) -> Res<Option<Op>> {
        let (name, lanes) = match base.as_bytes().last() {
            Some(b'2') => (&base[..base.len() - 1], 2),
            Some(b'4') => (&base[..base.len() - 1], 4),
            _ => (base, 1),
        };
        let op = match (name, lanes) {
            ("vadd", _) => VideoOp::Add,
            ("vsub", _) => VideoOp::Sub,
            ("vabsdiff", _) => VideoOp::Distance,
            ("vavrg", 2 | 4) => VideoOp::Average,
            ("vmin", _) => VideoOp::Min,
            ("vmax", _) => VideoOp::Max,
            ("vshl" | "vshr", 1) => {
                let wrap = self.take("wrap");
                if !wrap && !self.take("clamp") {
                    return self.unknown();
                }
                if name == "vshl" { VideoOp::Shl { wrap } } else { VideoOp::Shr { wrap } }
            }
            ("vset", _) => {
                let held = self.pick(SETS);
                VideoOp::Set(self.need(held)?)
            }
            ("vmad", 1) => return self.video_product().map(Some),
            _ => return Ok(None),
        };
        self.video_lanes(op, lanes).map(Some)
    }

    fn video_lanes(&mut self, op: VideoOp, lanes: u8) -> Res<Op> {
        // A comparison names its sources alone; what it gives is not negative.
        let first = usize::from(!matches!(op, VideoOp::Set(_)));
        let signed = first == 1 && self.word_type(0)?.signed();
        let shifts = matches!(op, VideoOp::Shl { .. } | VideoOp::Shr { .. });
        let types = [self.word_type(first)?, self.word_type(first + 1)?];
        if self.types.len() != first + 2 || shifts && types[1] != Type::U32 {
            return self.unknown();
        }
        let saturate = first == 1 && self.take("sat");
        let joined = self.pick(&[("add", Second::Add), ("min", Second::Min), ("max", Second::Max)]);
        if lanes > 1 && !matches!(joined, None | Some(Second::Add)) {
            return self.unknown();
        }
        let (d, mask) = match self.operand(0)? {
            Operand::Part(r, part) => (self.dest(&Operand::Reg(*r), false)?, Some(*part)),
            one => (self.dest(one, false)?, None),
        };
        let (bits, places) = if lanes == 1 {
            let (bits, place) = self.need(mask.map_or(Some((32, 0)), one_part))?;
            (bits, [Some(place), None, None, None])
        } else {
            (32 / lanes, self.need(mask.map_or(Some(all_places(lanes)), |mask| masked(mask, lanes)))?)
        };
        // One result that goes into a part of a word needs the word; one that fills it, none.
        let reads = lanes > 1 || mask.is_some() || joined.is_some();
        if lanes == 1 && mask.is_some() && joined.is_some() || self.count() != if reads { 4 } else { 3 } {
            return self.unknown();
        }
        let ((a, from_a), (b, from_b)) =
            (self.video_source(1, lanes, types[0])?, self.video_source(2, lanes, types[1])?);
        let c = if reads { self.src(3, Type::B32)? } else { a };
        let second = joined.unwrap_or(Second::Merge);
        let all = Lanes { op, a: from_a, b: from_b, signed, saturate, bits, places, second };
        Ok(Op::Slow(Slow::Words(Words::Video(all), d, [a, b, c])))
    }

    fn video_product(&mut self) -> Res<Op> {
        let types = [self.word_type(1)?, self.word_type(2)?];
        let (saturate, plus_one) = (self.take("sat"), self.take("po"));
        let shift = self.pick(&[("shr7", 7), ("shr15", 15)]).unwrap_or(0);
        let mut negated = [false; 3];
        for (n, negated) in negated.iter_mut().enumerate() {
            *negated = matches!(self.operand(n + 1)?, Operand::Minus(_));
        }
        let negate = [negated[0] != negated[1], negated[2]];
        // At most one of product, third word and the one more may be asked for.
        if usize::from(negate[0]) + usize::from(negate[1]) + usize::from(plus_one) > 1 || self.types.len() != 3 {
            return self.unknown();
        }
        let d = self.dst(0, Type::B32)?;
        let ((a, from_a), (b, from_b)) = (self.video_source(1, 1, types[0])?, self.video_source(2, 1, types[1])?);
        let c = match self.operand(3)?.clone() {
            Operand::Minus(inner) => self.source(&inner, Type::B32)?,
            one => self.source(&one, Type::B32)?,
        };
        let product = Product { a: from_a, b: from_b, negate, plus_one, shift, saturate };
        Ok(Op::Slow(Slow::Words(Words::VideoProduct(product), d, [a, b, c])))
    }

    fn word_type(&self, n: usize) -> Res<Type> {
        match self.ty(n)? {
            t @ (Type::U32 | Type::S32) => Ok(t),
            _ => self.unknown(),
        }
    }

    /// A source's slot and the parts it picks.
    fn video_source(&mut self, n: usize, lanes: u8, ty: Type) -> Res<(Slot, Parts)> {
        let operand = match self.operand(n)?.clone() {
            Operand::Minus(inner) => *inner,
            one => one,
        };
        let (whole, named) = match operand {
            Operand::Part(r, part) => (Operand::Reg(r), Some(part)),
            one => (one, None),
        };
        let second = n == 2;
        let (bits, picks) = if lanes == 1 {
            let (bits, place) = self.need(named.map_or(Some((32, 0)), one_part))?;
            // The second word's parts come after the first's.
            (bits, [place + if second { 32 / bits } else { 0 }; 4])
        } else {
            let own = if second { lanes } else { 0 };
            let all = std::array::from_fn(|i| (own + i as u8).min(2 * lanes - 1));
            (32 / lanes, self.need(named.map_or(Some(all), |named| picked(named, lanes)))?)
        };
        Ok((self.source(&whole, Type::B32)?, Parts { bits, picks, signed: ty.signed() }))
    }
}

/// `b0` to `b3`, `h0` or `h1`: bits and place.
fn one_part(name: &str) -> Option<(u8, u8)> {
    let place = name.get(1..)?.parse::<u8>().ok()?;
    match name.as_bytes().first()? {
        b'b' if place < 4 => Some((8, place)),
        b'h' if place < 2 => Some((16, place)),
        _ => None,
    }
}

/// The digits of a name such as `h10` or `b3210`, the lowest lane's last.
fn digits(name: &str, lanes: u8) -> Option<Vec<u8>> {
    let letter = if lanes == 2 { 'h' } else { 'b' };
    let digits = name.strip_prefix(letter)?;
    let most = if lanes == 2 { 4 } else { 8 };
    digits.bytes().rev().map(|c| c.checked_sub(b'0').filter(|place| *place < most)).collect()
}

/// A pick for each lane: of the four halves or eight bytes of both words.
fn picked(name: &str, lanes: u8) -> Option<[u8; 4]> {
    let digits = digits(name, lanes).filter(|digits| digits.len() == usize::from(lanes))?;
    Some(std::array::from_fn(|lane| digits.get(lane).copied().unwrap_or(0)))
}

fn all_places(lanes: u8) -> [Option<u8>; 4] {
    std::array::from_fn(|lane| u8::try_from(lane).ok().filter(|lane| *lane < lanes))
}

/// The lanes that a mask names, in order.
fn masked(name: &str, lanes: u8) -> Option<[Option<u8>; 4]> {
    let named = digits(name, lanes)?;
    let ordered = named.is_sorted_by(|a, b| a < b) && named.iter().all(|lane| *lane < lanes) && !named.is_empty();
    ordered.then(|| all_places(lanes).map(|place| place.filter(|lane| named.contains(lane))))
}
