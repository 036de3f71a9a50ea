//! Decoding of conversions: between numbers, to and from pairs of small floats, to packed integers.

use crate::isa::decode::{Decoder, Res};
use crate::isa::inst::{Alu, Mode, Op, Round, Slow};
use crate::num::Type;
use crate::num::words::Words;
use crate::ptx::text::{Class, Operand};

impl<'a> Decoder<'_, 'a> {
    pub(crate) fn cvt(&mut self) -> Res<Op> {
        if self.take("pack") {
            return self.pack_integers();
        }
        let (to, from) = (self.ty(0)?, self.ty(1)?);
        let mut mode =
            Mode { ftz: self.take("ftz"), sat: self.take("sat"), relu: self.take("relu"), ..Mode::default() };
        mode.finite = self.take("satfinite");
        let integral =
            self.pick(&[("rni", Round::Nearest), ("rzi", Round::Zero), ("rmi", Round::Down), ("rpi", Round::Up)]);
        mode.integral = integral.is_some();
        let round = self.round();
        mode.round = integral.or(round).unwrap_or_default();
        if to.small_float() || from.small_float() {
            return self.cvt_float8(to, from, mode);
        }
        if to.packed() {
            let (d, a, b) = (self.dst(0, to)?, self.src(1, from)?, self.src(2, from)?);
            if from == Type::F32 && mode == Mode::default() {
                let half = to == Type::F16x2;
                return Ok(Op::Alu(if half { Alu::F16x2(d, a, b) } else { Alu::Bf16x2(d, a, b) }));
            }
            return if from == Type::F32 { Ok(Op::Slow(Slow::CvtPack { to, mode, d, a, b })) } else { self.unknown() };
        }
        if from.packed() || self.types.len() != 2 {
            return self.unknown();
        }
        // A source or destination register may be wider than the type it holds, but not of a float.
        let bits = |o: &Operand<'a>, t: Type| {
            let own = t.bytes() * 8;
            let register = match o {
                Operand::Reg(r) => match r.class {
                    Class::Half => 16,
                    Class::Word => 32,
                    Class::Wide => 64,
                    Class::Pred | Class::Quad => 0,
                },
                _ => own.max(16),
            };
            let fits = register == own || register > own && !t.float();
            fits.then_some(register)
        };
        let bits = [bits(self.operand(0)?, to), bits(self.operand(1)?, from)];
        let bits = [self.need(bits[0])?, self.need(bits[1])?];
        let file = |bits: u8| if bits == 64 { Type::B64 } else { Type::B32 };
        let source = if bits[1] == from.bytes() * 8 { from } else { file(bits[1]) };
        let (d, a) = (self.dst(0, file(bits[0]))?, self.src(1, source)?);
        use Type::{B32, B64, Bf16, F16, F32, S32, S64, Tf32, U32, U64};
        let plain = mode == Mode::default();
        if bits != [to, from].map(|t| t.bytes() * 8) {
            return Ok(Op::Slow(Slow::Cvt { to, from, mode, bits, d, a }));
        }
        Ok(match (to, from) {
            (F32, S32) if plain => Op::Alu(Alu::F32FromS32(d, a)),
            (F32, U32) if plain => Op::Alu(Alu::F32FromU32(d, a)),
            (F32, Bf16) if plain => Op::Alu(Alu::F32FromBf16(d, a)),
            (F32, F16) if plain => Op::Alu(Alu::F32FromF16(d, a)),
            (Bf16, F32) if plain => Op::Alu(Alu::Bf16FromF32(d, a)),
            (F16, F32) if plain => Op::Alu(Alu::F16FromF32(d, a)),
            (Tf32, F32) if mode == (Mode { round: Round::Away, ..Mode::default() }) => Op::Alu(Alu::Tf32(d, a)),
            (U64 | S64 | B64, U32 | B32) => Op::Alu(Alu::WidenU(d, a)),
            (U64 | S64 | B64, S32) if !mode.sat => Op::Alu(Alu::WidenS(d, a)),
            (U32 | S32 | B32, U64 | S64 | B64) if !mode.sat => Op::Alu(Alu::Narrow(d, a)),
            _ => Op::Slow(Slow::Cvt { to, from, mode, bits, d, a }),
        })
    }

    /// To and from pairs of small floats.
    fn cvt_float8(&mut self, to: Type, from: Type, mode: Mode) -> Res<Op> {
        let pair = |ty: Type| match ty {
            Type::E4m3x2 => Some(Type::E4m3),
            Type::E5m2x2 => Some(Type::E5m2),
            Type::E2m1x2 => Some(Type::E2m1),
            Type::E2m3x2 => Some(Type::E2m3),
            Type::E3m2x2 => Some(Type::E3m2),
            _ => None,
        };
        let plain = Mode { relu: mode.relu, ..Mode::default() };
        if from.packed() || from == Type::F32 {
            let ty = self.need(pair(to))?;
            let (d, a) = (self.dst(0, to)?, self.src(1, from)?);
            let b = if from == Type::F32 { self.src(2, from)? } else { a };
            let wide = matches!(ty, Type::E4m3 | Type::E5m2);
            let known = (from == Type::F32 || wide && from == Type::F16x2) && mode == Mode { finite: true, ..plain };
            return if known { Ok(Op::Slow(Slow::ToFloat8 { to: ty, from, mode, d, a, b })) } else { self.unknown() };
        }
        let ty = self.need(pair(from))?;
        let (d, a) = (self.dst(0, to)?, self.src(1, from)?);
        let known = to == Type::F16x2 && mode == plain;
        if known { Ok(Op::Slow(Slow::FromFloat8 { from: ty, mode, d, a })) } else { self.unknown() }
    }

    /// `cvt.pack.sat`: two words to neighbouring integers at the bottom, the third word above them.
    fn pack_integers(&mut self) -> Res<Op> {
        let two = self.pick(&[("s2", true), ("u2", false)]);
        let (bits, signed) = match (two, self.types.first().copied()) {
            (Some(signed), _) => (2, signed),
            (None, Some(t @ (Type::S4 | Type::U4))) => (4, t == Type::S4),
            (None, Some(t @ (Type::S8 | Type::U8))) => (8, t == Type::S8),
            (None, Some(t @ (Type::S16 | Type::U16))) => (16, t == Type::S16),
            _ => return self.unknown(),
        };
        let sources = &self.types[usize::from(two.is_none())..];
        let whole = if bits == 16 { &[Type::S32][..] } else { &[Type::S32, Type::B32] };
        if sources != whole || !self.take("sat") || self.count() != if bits == 16 { 3 } else { 4 } {
            return self.unknown();
        }
        self.words(Words::Pack { bits, signed })
    }
}
