//! What is known of a register and of a predicate, lane by lane.

/// Lanes of a warp.
pub(crate) const LANES: usize = 32;
/// All of them.
pub(crate) const ALL: u32 = u32::MAX;

/// One 32-bit value for each lane, where it is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lanes {
    known: u32,
    /// One value stands for all lanes; then all are known, or none.
    same: bool,
    values: [u32; LANES],
}

impl Lanes {
    /// Nothing is known.
    pub(crate) const UNKNOWN: Lanes = Lanes { known: 0, same: true, values: [0; LANES] };

    /// The same value in every lane.
    pub(crate) const fn splat(value: u32) -> Lanes {
        Lanes { known: ALL, same: true, values: [value; LANES] }
    }

    /// A value for each lane.
    pub(crate) fn each(value: impl Fn(usize) -> u32) -> Lanes {
        let values = std::array::from_fn(value);
        Lanes { known: ALL, same: values.iter().all(|one| *one == values[0]), values }
    }

    /// The value of a lane.
    pub(crate) fn lane(&self, lane: usize) -> Option<u32> {
        (self.known >> lane & 1 == 1).then(|| self.values[lane])
    }

    /// The value that all lanes share.
    pub(crate) fn uniform(&self) -> Option<u32> {
        (self.same && self.known == ALL).then_some(self.values[0])
    }

    /// The value of the lowest lane of a mask.
    pub(crate) fn first(&self, mask: u32) -> Option<u32> {
        self.lane(if mask == 0 { 0 } else { mask.trailing_zeros() as usize })
    }

    /// Whether every lane of a mask is known.
    pub(crate) fn knows(&self, mask: u32) -> bool {
        self.known & mask == mask
    }

    pub(crate) fn map(&self, f: impl Fn(u32) -> u32) -> Lanes {
        if self.same {
            return Lanes { known: self.known, same: true, values: [f(self.values[0]); LANES] };
        }
        Lanes { known: self.known, same: false, values: self.values.map(f) }
    }

    pub(crate) fn zip(&self, other: &Lanes, f: impl Fn(u32, u32) -> u32) -> Lanes {
        let known = self.known & other.known;
        if known == 0 {
            return Lanes::UNKNOWN;
        }
        if self.same && other.same {
            return Lanes { known, same: true, values: [f(self.values[0], other.values[0]); LANES] };
        }
        Lanes { known, same: false, values: std::array::from_fn(|lane| f(self.values[lane], other.values[lane])) }
    }

    pub(crate) fn zip3(&self, b: &Lanes, c: &Lanes, f: impl Fn(u32, u32, u32) -> u32) -> Lanes {
        let known = self.known & b.known & c.known;
        if known == 0 {
            return Lanes::UNKNOWN;
        }
        if self.same && b.same && c.same {
            return Lanes { known, same: true, values: [f(self.values[0], b.values[0], c.values[0]); LANES] };
        }
        let values = std::array::from_fn(|lane| f(self.values[lane], b.values[lane], c.values[lane]));
        Lanes { known, same: false, values }
    }

    /// Two results of 32 bits from three sources, the third of 64.
    pub(crate) fn wide(a: &Lanes, b: &Lanes, c: (&Lanes, &Lanes), f: impl Fn(u32, u32, u64) -> u64) -> (Lanes, Lanes) {
        let known = a.known & b.known & c.0.known & c.1.known;
        if known == 0 {
            return (Lanes::UNKNOWN, Lanes::UNKNOWN);
        }
        let of = |lane: usize| {
            f(a.values[lane], b.values[lane], u64::from(c.0.values[lane]) | u64::from(c.1.values[lane]) << 32)
        };
        if a.same && b.same && c.0.same && c.1.same {
            let value = of(0);
            let half = |value: u32| Lanes { known, same: true, values: [value; LANES] };
            return (half(value as u32), half((value >> 32) as u32));
        }
        let values: [u64; LANES] = std::array::from_fn(of);
        let half = |values: [u32; LANES]| Lanes { known, same: false, values };
        (half(values.map(|value| value as u32)), half(values.map(|value| (value >> 32) as u32)))
    }

    /// A predicate from two values.
    pub(crate) fn test(&self, other: &Lanes, f: impl Fn(u32, u32) -> bool) -> Bits {
        let known = self.known & other.known;
        if known == 0 {
            return Bits::UNKNOWN;
        }
        if self.same && other.same {
            return Bits { known, bits: if f(self.values[0], other.values[0]) { known } else { 0 } };
        }
        let bit = |lane: usize| u32::from(f(self.values[lane], other.values[lane])) << lane;
        Bits { known, bits: (0..LANES).map(bit).fold(0, |all, bit| all | bit) & known }
    }

    /// Values by a function of the lane that may not know.
    pub(crate) fn maybe(value: impl Fn(usize) -> Option<u32>) -> Lanes {
        let (mut known, mut values) = (0, [0; LANES]);
        for (lane, slot) in values.iter_mut().enumerate() {
            if let Some(value) = value(lane) {
                (known, *slot) = (known | 1 << lane, value);
            }
        }
        let same = known == 0 || known == ALL && values.iter().all(|one| *one == values[0]);
        Lanes { known, same, values }
    }

    /// Takes `new` in the lanes of `mask`; those of `unsure` may have kept what they had.
    pub(crate) fn blend(&mut self, new: &Lanes, mask: u32, unsure: u32) {
        let old = *self;
        *self = Lanes::maybe(|lane| match (mask >> lane & 1 == 1, unsure >> lane & 1 == 1) {
            (false, _) => old.lane(lane),
            (true, false) => new.lane(lane),
            (true, true) => new.lane(lane).filter(|value| old.lane(lane) == Some(*value)),
        });
    }
}

/// One truth value for each lane, where it is known; what is not known reads as false.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bits {
    pub(crate) known: u32,
    pub(crate) bits: u32,
}

impl Bits {
    pub(crate) const UNKNOWN: Bits = Bits { known: 0, bits: 0 };

    pub(crate) const fn splat(value: bool) -> Bits {
        Bits { known: ALL, bits: if value { ALL } else { 0 } }
    }

    pub(crate) fn not(self) -> Bits {
        Bits { known: self.known, bits: !self.bits & self.known }
    }

    pub(crate) fn and(self, other: Bits) -> Bits {
        let (no, also_no) = (self.known & !self.bits, other.known & !other.bits);
        let known = self.known & other.known | no | also_no;
        Bits { known, bits: self.bits & other.bits & known }
    }

    pub(crate) fn or(self, other: Bits) -> Bits {
        self.not().and(other.not()).not()
    }

    pub(crate) fn xor(self, other: Bits) -> Bits {
        let known = self.known & other.known;
        Bits { known, bits: (self.bits ^ other.bits) & known }
    }

    /// Which lanes hold the same in both, as far as both are known.
    pub(crate) fn blend(&mut self, new: Bits, mask: u32, unsure: u32) {
        let agree = self.known & new.known & !(self.bits ^ new.bits);
        let known = self.known & !mask | new.known & mask & !unsure | agree & unsure;
        self.bits = (self.bits & !mask | new.bits & mask) & known;
        self.known = known;
    }

    /// A lane's values chosen by this: the first where it holds.
    pub(crate) fn select(self, yes: &Lanes, no: &Lanes) -> Lanes {
        match (self.known, self.bits) {
            (ALL, ALL) => *yes,
            (ALL, 0) => *no,
            _ => Lanes::maybe(|lane| match (self.known >> lane & 1 == 1, self.bits >> lane & 1 == 1) {
                (true, true) => yes.lane(lane),
                (true, false) => no.lane(lane),
                (false, _) => yes.lane(lane).filter(|value| no.lane(lane) == Some(*value)),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_stays_unknown_unless_it_does_not_matter() {
        let (yes, no, unknown) = (Bits::splat(true), Bits::splat(false), Bits::UNKNOWN);
        assert_eq!((no.and(unknown), yes.or(unknown)), (no, yes));
        assert_eq!((yes.and(unknown).known, no.or(unknown).known, yes.xor(unknown).known), (0, 0, 0));
        let (a, b) = (Lanes::splat(3), Lanes::each(|lane| if lane < 16 { 3 } else { lane as u32 }));
        let chosen = unknown.select(&a, &b);
        assert_eq!((chosen.lane(4), chosen.lane(20)), (Some(3), None));
        let mut kept = b;
        kept.blend(&a, 0xffff_0000, 0x8000_0000);
        assert_eq!((kept.lane(17), kept.lane(31), kept.lane(2)), (Some(3), None, Some(3)));
    }
}
