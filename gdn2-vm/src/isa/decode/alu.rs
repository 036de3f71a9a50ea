//! Decoding of integer, logic, comparison, selection and data-movement instructions.

use crate::isa::decode::{Decoder, Res};
use crate::isa::entry::SINK_PRED;
use crate::isa::inst::{Alu, Bool, Cmp, Count, IntOp, IntUnary, Op, PackedOp, PrmtMode, Slot, Slow, Space};
use crate::num::Type;
use crate::num::words::Words;
use crate::ptx::text::Operand;

const CMPS: &[(&str, Cmp)] = &[
    ("eq", Cmp::Eq),
    ("ne", Cmp::Ne),
    ("lt", Cmp::Lt),
    ("le", Cmp::Le),
    ("gt", Cmp::Gt),
    ("ge", Cmp::Ge),
    ("lo", Cmp::Lt),
    ("ls", Cmp::Le),
    ("hi", Cmp::Gt),
    ("hs", Cmp::Ge),
    ("equ", Cmp::Equ),
    ("neu", Cmp::Neu),
    ("ltu", Cmp::Ltu),
    ("leu", Cmp::Leu),
    ("gtu", Cmp::Gtu),
    ("geu", Cmp::Geu),
    ("num", Cmp::Num),
    ("nan", Cmp::Nan),
];

impl<'a> Decoder<'_, 'a> {
    /// Integer and data-movement opcodes; `None` if the opcode is of another family.
    pub(crate) fn alu(&mut self, base: &str) -> Res<Option<Op>> {
        let float = self.types.first().is_some_and(|t| t.float());
        let op = match base {
            "add" | "sub" | "min" | "max" | "div" | "rem" | "and" | "or" | "xor" | "shl" | "shr" | "mul" if !float => {
                self.binary(base)?
            }
            "addc" | "subc" => self.carry(base == "subc", true)?,
            "mad" | "madc" if !float && (base == "madc" || self.mods.contains(&"cc")) => {
                self.mad_carry(base == "madc")?
            }
            "mad" if !float => self.mad()?,
            "neg" | "abs" | "not" | "cnot" | "brev" if !float => self.unary(base)?,
            "mov" => self.mov()?,
            "popc" | "clz" | "bfind" => self.bit_count(base)?,
            "lop3" => self.lop3()?,
            "shf" => {
                let left = self.need(self.mods.first().copied())? == "l";
                if !self.take("l") && !self.take("r") {
                    return self.unknown();
                }
                let clamp = self.take("clamp");
                if !clamp && !self.take("wrap") {
                    return self.unknown();
                }
                let (d, a, b, c) = self.dabc(Type::B32)?;
                Op::Alu(Alu::Funnel(left, clamp, d, a, b, c))
            }
            "bfi" => {
                let t = self.ty(0)?;
                let regs = [
                    self.dst(0, t)?,
                    self.src(1, t)?,
                    self.src(2, t)?,
                    self.src(3, Type::B32)?,
                    self.src(4, Type::B32)?,
                ];
                if t.bytes() == 8 { Op::Slow(Slow::Bfi64(regs)) } else { Op::Alu(Alu::Bfi32(regs)) }
            }
            "bfe" => {
                let t = self.ty(0)?;
                let regs = [self.dst(0, t)?, self.src(1, t)?, self.src(2, Type::B32)?, self.src(3, Type::B32)?];
                let s = t.signed();
                if t.bytes() == 8 { Op::Slow(Slow::Bfe64(s, regs)) } else { Op::Alu(Alu::Bfe32(s, regs)) }
            }
            "prmt" => {
                let mode = self.pick(&[
                    ("f4e", PrmtMode::F4e),
                    ("b4e", PrmtMode::B4e),
                    ("rc8", PrmtMode::Rc8),
                    ("ecl", PrmtMode::Ecl),
                    ("ecr", PrmtMode::Ecr),
                    ("rc16", PrmtMode::Rc16),
                ]);
                let (d, a, b, c) = self.dabc(Type::B32)?;
                match mode {
                    Some(m) => Op::Slow(Slow::PrmtMode(m, [d, a, b, c])),
                    None => Op::Alu(Alu::Prmt([d, a, b, c])),
                }
            }
            "dp4a" => {
                let signed = (self.ty(0)?.signed(), self.ty(1)?.signed());
                let (d, a, b, c) = self.dabc(Type::B32)?;
                Op::Slow(Slow::Dp4a([signed.0, signed.1], [d, a, b, c]))
            }
            "dp2a" => {
                let signed = [self.ty(0)?.signed(), self.ty(1)?.signed()];
                let high = self.take("hi");
                if !high && !self.take("lo") {
                    return self.unknown();
                }
                let (d, a, b, c) = self.dabc(Type::B32)?;
                Op::Slow(Slow::Dp2a(high, signed, [d, a, b, c]))
            }
            "fns" => self.words(Words::Nth)?,
            "sad" if self.ty(0)?.bytes() > 1 && !float => {
                let t = self.ty(0)?;
                let (d, a, b, c) = self.dabc(t)?;
                Op::Slow(Slow::Sad(t, [d, a, b, c]))
            }
            "mul24" | "mad24" => self.mul24(base == "mad24")?,
            "bmsk" | "szext" => {
                let clamp = self.take("clamp");
                if !clamp && !self.take("wrap") {
                    return self.unknown();
                }
                let (t, signed) = (Type::B32, self.ty(0)?.signed());
                let regs = [self.dst(0, t)?, self.src(1, t)?, self.src(2, t)?];
                Op::Slow(if base == "bmsk" { Slow::Bmsk(clamp, regs) } else { Slow::Szext(clamp, signed, regs) })
            }
            "setp" => self.setp()?,
            "set" => self.set()?,
            "selp" => {
                let t = self.ty(0)?;
                let (d, a, b) = (self.dst(0, t)?, self.src(1, t)?, self.src(2, t)?);
                let (p, flip) = self.pred(3)?;
                let (a, b) = if flip == 0 { (a, b) } else { (b, a) };
                if t.bytes() == 8 { Op::Alu(Alu::Sel64(d, a, b, p)) } else { Op::Alu(Alu::Sel32(d, a, b, p)) }
            }
            "slct" => {
                let (t, ct) = (self.ty(0)?, self.ty(1)?);
                let ftz = self.take("ftz");
                let (d, a, b, c) = (self.dst(0, t)?, self.src(1, t)?, self.src(2, t)?, self.src(3, ct)?);
                Op::Slow(Slow::Slct { wide: t.bytes() == 8, float: ct == Type::F32, ftz, d, a, b, c })
            }
            "cvt" => self.cvt()?,
            "cvta" => self.cvta()?,
            "isspacep" => {
                let space = self.space()?;
                let p = self.pred_dest(self.operand(0)?)?;
                Op::Slow(Slow::IsSpace(space, p, self.src(1, Type::B64)?))
            }
            _ => return Ok(None),
        };
        Ok(Some(op))
    }

    pub(crate) fn space(&mut self) -> Res<Space> {
        let s = self.pick(&[
            ("global", Space::Global),
            ("shared", Space::Shared),
            ("shared::cta", Space::Shared),
            ("shared::cluster", Space::Shared),
            ("local", Space::Local),
            ("const", Space::Const),
            ("param", Space::Param),
            ("param::entry", Space::Param),
            ("param::func", Space::Param),
        ]);
        Ok(s.unwrap_or(Space::Generic))
    }

    fn dabc(&mut self, t: Type) -> Res<(Slot, Slot, Slot, Slot)> {
        Ok((self.dst(0, t)?, self.src(1, t)?, self.src(2, t)?, self.src(3, t)?))
    }

    fn binary(&mut self, base: &str) -> Res<Op> {
        let t = self.ty(0)?;
        let s = t.signed();
        if t == Type::Pred {
            return self.pred_logic(base);
        }
        if let Some(op) = self.packed(base, t)? {
            return Ok(op);
        }
        if (base == "add" || base == "sub") && self.take("cc") {
            return self.carry_out(base == "sub");
        }
        let op = match base {
            "add" if self.take("sat") => IntOp::AddSat,
            "add" => IntOp::Add,
            "sub" if self.take("sat") => IntOp::SubSat,
            "sub" => IntOp::Sub,
            "min" if s => IntOp::MinS,
            "min" => IntOp::MinU,
            "max" if s => IntOp::MaxS,
            "max" => IntOp::MaxU,
            "div" if s => IntOp::DivS,
            "div" => IntOp::DivU,
            "rem" if s => IntOp::RemS,
            "rem" => IntOp::RemU,
            "and" => IntOp::And,
            "or" => IntOp::Or,
            "xor" => IntOp::Xor,
            "shl" => IntOp::Shl,
            "shr" if s => IntOp::ShrS,
            "shr" => IntOp::ShrU,
            _ if self.take("lo") => IntOp::Mul,
            _ if self.take("hi") => {
                if s {
                    IntOp::MulHiS
                } else {
                    IntOp::MulHiU
                }
            }
            _ if self.take("wide") => return self.mul_wide(t),
            _ => return self.unknown(),
        };
        if t.packed() || t.bytes() == 1 {
            return self.unknown();
        }
        let shift = matches!(op, IntOp::Shl | IntOp::ShrU | IntOp::ShrS);
        let (d, a) = (self.dst(0, t)?, self.src(1, t)?);
        let b = self.src(2, if shift { Type::B32 } else { t })?;
        Ok(match t.bytes() {
            2 => Op::Slow(Slow::Int16(op, d, a, b)),
            4 => Op::Alu(Alu::Int32(op, d, a, b)),
            _ => Op::Alu(Alu::Int64(op, d, a, b)),
        })
    }

    /// Pairs of 16-bit integers, and what clamps at zero.
    fn packed(&mut self, base: &str, t: Type) -> Res<Option<Op>> {
        use PackedOp::{Add16, MaxS16, MaxS16Relu, MaxS32Relu, MaxU16, MinS16, MinS16Relu, MinS32Relu, MinU16};
        let relu = self.take("relu");
        let op = match (base, t, relu) {
            ("add", Type::S16x2 | Type::U16x2, false) => Add16,
            ("min", Type::U16x2, false) => MinU16,
            ("max", Type::U16x2, false) => MaxU16,
            ("min", Type::S16x2, false) => MinS16,
            ("max", Type::S16x2, false) => MaxS16,
            ("min", Type::S16x2, true) => MinS16Relu,
            ("max", Type::S16x2, true) => MaxS16Relu,
            ("min", Type::S32, true) => MinS32Relu,
            ("max", Type::S32, true) => MaxS32Relu,
            _ if relu || matches!(t, Type::S16x2 | Type::U16x2) => return self.unknown(),
            _ => return Ok(None),
        };
        Ok(Some(Op::Slow(Slow::Packed(op, self.dst(0, t)?, self.src(1, t)?, self.src(2, t)?))))
    }

    fn lop3(&mut self) -> Res<Op> {
        let joined = self.pick(&[("and", Bool::And), ("or", Bool::Or)]);
        let (d, p) = match self.operand(0)? {
            Operand::Pair(d, p) => (self.dest(d, false)?, Some(self.pred_dest(p)?)),
            one => (self.dest(one, false)?, None),
        };
        let (a, b, c) = (self.src(1, Type::B32)?, self.src(2, Type::B32)?, self.src(3, Type::B32)?);
        let table = self.immediate(4)? as u8;
        match (joined, p) {
            (None, None) => Ok(Op::Alu(Alu::Lop3(table, d, a, b, c))),
            (Some(join), Some(p)) => {
                let (q, flip) = self.pred(5)?;
                Ok(Op::Slow(Slow::Lop3Pred { table, d, sources: [a, b, c], p, with: (join, q, flip) }))
            }
            _ => self.unknown(),
        }
    }

    /// A function of the three words that are operands 1 to 3; of two, the first stands for the third.
    pub(crate) fn words(&mut self, what: Words) -> Res<Op> {
        let (d, a, b) = (self.dst(0, Type::B32)?, self.src(1, Type::B32)?, self.src(2, Type::B32)?);
        let c = if self.count() > 3 { self.src(3, Type::B32)? } else { a };
        Ok(Op::Slow(Slow::Words(what, d, [a, b, c])))
    }

    fn mul24(&mut self, adds: bool) -> Res<Op> {
        let t = self.ty(0)?;
        let (high, low, sat) = (self.take("hi"), self.take("lo"), self.take("sat"));
        if high == low || !matches!(t, Type::U32 | Type::S32) || sat && !(adds && high && t.signed()) {
            return self.unknown();
        }
        let (d, a, b) = (self.dst(0, t)?, self.src(1, t)?, self.src(2, t)?);
        let c = if adds { Some(self.src(3, t)?) } else { None };
        Ok(Op::Slow(Slow::Mul24 { high, signed: t.signed(), sat, d, a, b, c }))
    }

    fn carry_out(&mut self, sub: bool) -> Res<Op> {
        let t = self.ty(0)?;
        let (d, a, b) = (self.dst(0, t)?, self.src(1, t)?, self.src(2, t)?);
        Ok(Op::Slow(Slow::Carry { sub, input: false, output: true, wide: t.bytes() == 8, d, a, b }))
    }

    fn carry(&mut self, sub: bool, input: bool) -> Res<Op> {
        let t = self.ty(0)?;
        let output = self.take("cc");
        let (d, a, b) = (self.dst(0, t)?, self.src(1, t)?, self.src(2, t)?);
        Ok(Op::Slow(Slow::Carry { sub, input, output, wide: t.bytes() == 8, d, a, b }))
    }

    fn mul_wide(&mut self, t: Type) -> Res<Op> {
        if t.bytes() == 2 {
            let d = self.dst(0, Type::B32)?;
            return Ok(Op::Slow(Slow::Wide16(t.signed(), d, self.src(1, t)?, self.src(2, t)?, None)));
        }
        let (d, a, b) = (self.dst(0, Type::B64)?, self.src(1, t)?, self.src(2, t)?);
        Ok(Op::Alu(if t.signed() { Alu::MulWideS(d, a, b) } else { Alu::MulWideU(d, a, b) }))
    }

    fn mad(&mut self) -> Res<Op> {
        let t = self.ty(0)?;
        if self.take("wide") {
            if t.bytes() == 2 {
                let d = self.dst(0, Type::B32)?;
                let (a, b, c) = (self.src(1, t)?, self.src(2, t)?, self.src(3, Type::B32)?);
                return Ok(Op::Slow(Slow::Wide16(t.signed(), d, a, b, Some(c))));
            }
            let (d, a, b, c) = (self.dst(0, Type::B64)?, self.src(1, t)?, self.src(2, t)?, self.src(3, Type::B64)?);
            return Ok(Op::Alu(if t.signed() { Alu::MadWideS(d, a, b, c) } else { Alu::MadWideU(d, a, b, c) }));
        }
        let hi = self.take("hi");
        if !hi && !self.take("lo") {
            return self.unknown();
        }
        if hi && t == Type::S32 && self.take("sat") {
            return self.words(Words::MadHiSat);
        }
        let (d, a, b, c) = self.dabc(t)?;
        Ok(match (hi, t.bytes()) {
            (true, n) => Op::Slow(Slow::MadHi(t.signed(), n * 8, d, a, b, c)),
            (false, 2) => Op::Slow(Slow::Mad16(d, a, b, c)),
            (false, 4) => Op::Alu(Alu::Mad32(d, a, b, c)),
            (false, _) => Op::Alu(Alu::Mad64(d, a, b, c)),
        })
    }

    fn mad_carry(&mut self, input: bool) -> Res<Op> {
        let t = self.ty(0)?;
        let (high, low, output) = (self.take("hi"), self.take("lo"), self.take("cc"));
        if high == low || t.bytes() < 4 {
            return self.unknown();
        }
        let (d, a, b, c) = self.dabc(t)?;
        let (signed, wide) = (t.signed(), t.bytes() == 8);
        Ok(Op::Slow(Slow::MadCarry { high, signed, input, output, wide, d, a, b, c }))
    }

    fn unary(&mut self, base: &str) -> Res<Op> {
        let t = self.ty(0)?;
        if t == Type::Pred {
            let d = self.pred_dest(self.operand(0)?)?;
            let (a, flip) = self.pred(1)?;
            return if base == "not" { Ok(Op::Slow(Slow::PredMov(d, a, !flip))) } else { self.unknown() };
        }
        let op = match base {
            "neg" => IntUnary::Neg,
            "abs" => IntUnary::Abs,
            "not" => IntUnary::Not,
            "cnot" => IntUnary::Cnot,
            _ => IntUnary::Brev,
        };
        self.un(op, t)
    }

    fn un(&mut self, op: IntUnary, t: Type) -> Res<Op> {
        let (d, a) = (self.dst(0, t)?, self.src(1, t)?);
        Ok(match t.bytes() {
            8 => Op::Alu(Alu::Un64(op, d, a)),
            4 => Op::Alu(Alu::Un32(op, d, a)),
            _ => Op::Slow(Slow::Un16(op, d, a)),
        })
    }

    fn mov(&mut self) -> Res<Op> {
        if self.take("b128") {
            return Ok(Op::Slow(Slow::Mov128(self.quad_dest(0)?, self.quad(1)?)));
        }
        let t = self.ty(0)?;
        if t == Type::Pred {
            let d = self.pred_dest(self.operand(0)?)?;
            let (a, flip) = self.pred(1)?;
            return Ok(Op::Slow(Slow::PredMov(d, a, flip)));
        }
        if let Operand::Name(n) = self.operand(1)? {
            let clock = match *n {
                "%clock" | "%clock_hi" => Some(false),
                "%clock64" | "%globaltimer" | "%globaltimer_lo" | "%globaltimer_hi" => Some(t.bytes() == 8),
                _ => None,
            };
            if let Some(wide) = clock {
                return Ok(Op::Slow(Slow::Clock(wide, self.dst(0, t)?)));
            }
        }
        let wide = t.bytes() == 8;
        let (to, from) = (self.operand(0)?.clone(), self.operand(1)?.clone());
        match (to, from) {
            (Operand::Vector(parts), _) => {
                let bits = u32::from(t.bytes()) * 8 / parts.len().max(1) as u32;
                let a = self.src(1, t)?;
                if wide && bits == 32 {
                    return Ok(Op::Alu(Alu::Unpack64(self.dest(&parts[0], false)?, self.dest(&parts[1], false)?, a)));
                }
                if !wide && bits == 16 {
                    return Ok(Op::Alu(Alu::Unpack32(self.dest(&parts[0], false)?, self.dest(&parts[1], false)?, a)));
                }
                let parts = parts
                    .iter()
                    .map(|o| if *o == Operand::Sink { Ok(None) } else { self.dest(o, false).map(Some) })
                    .collect::<Res<_>>()?;
                Ok(Op::Slow(Slow::Unpack { bits, wide, parts, a }))
            }
            (_, Operand::Vector(parts)) => {
                let bits = u32::from(t.bytes()) * 8 / parts.len().max(1) as u32;
                let d = self.dst(0, t)?;
                let part = match bits {
                    32 => Type::B32,
                    16 => Type::B16,
                    8 => Type::B8,
                    _ => return self.unknown(),
                };
                let parts: Vec<Slot> = parts.iter().map(|o| self.source(o, part)).collect::<Res<_>>()?;
                if wide && bits == 32 {
                    return Ok(Op::Alu(Alu::Pack64(d, parts[0], parts[1])));
                }
                if !wide && bits == 16 {
                    return Ok(Op::Alu(Alu::Pack32(d, parts[0], parts[1])));
                }
                Ok(Op::Slow(Slow::Pack { bits, wide, d, parts }))
            }
            _ => self.un(IntUnary::Mov, t),
        }
    }

    fn bit_count(&mut self, base: &str) -> Res<Op> {
        let t = self.ty(0)?;
        let shift = self.take("shiftamt");
        let op = match (base, t.signed(), shift) {
            ("popc", ..) => Count::Popc,
            ("clz", ..) => Count::Clz,
            (_, false, false) => Count::BfindU,
            (_, true, false) => Count::BfindS,
            (_, false, true) => Count::BfindShiftU,
            (_, true, true) => Count::BfindShiftS,
        };
        Ok(Op::Slow(Slow::Count(op, t.bytes() == 8, self.dst(0, Type::B32)?, self.src(1, t)?)))
    }

    fn pred_logic(&mut self, base: &str) -> Res<Op> {
        let op = match base {
            "and" => Bool::And,
            "or" => Bool::Or,
            "xor" => Bool::Xor,
            _ => return self.unknown(),
        };
        let d = self.pred_dest(self.operand(0)?)?;
        let ((a, fa), (b, fb)) = (self.pred(1)?, self.pred(2)?);
        if fa != 0 {
            return self.unknown();
        }
        Ok(Op::Alu(Alu::Pred(op, d, a, b, fb)))
    }

    /// The `.and`/`.or`/`.xor` of a comparison with the predicate operand after the two sources.
    fn combined(&mut self, first: usize) -> Res<Option<(Bool, Slot, u32)>> {
        match self.pick(&[("and", Bool::And), ("or", Bool::Or), ("xor", Bool::Xor)]) {
            Some(b) => {
                let (c, flip) = self.pred(first)?;
                Ok(Some((b, c, flip)))
            }
            None => Ok(None),
        }
    }

    fn setp(&mut self) -> Res<Op> {
        let ftz = self.take("ftz");
        let t = self.ty(0)?;
        let cmp = self.pick(CMPS);
        let cmp = self.need(cmp)?;
        let with = self.combined(3)?;
        let (p, q) = match self.operand(0)? {
            Operand::Pair(p, q) => (self.pred_dest(p)?, Some(self.pred_dest(q)?)),
            one => (self.pred_dest(one)?, None),
        };
        let (a, b) = (self.src(1, t)?, self.src(2, t)?);
        if t.packed() {
            return Ok(Op::Slow(Slow::SetpPacked { ty: t, cmp, ftz, p, q: q.unwrap_or(SINK_PRED), a, b, with }));
        }
        Ok(match t {
            Type::S32 if q.is_none() && with.is_none() => Op::Alu(Alu::Cmp32S(cmp, p, a, b)),
            Type::U32 | Type::B32 if q.is_none() && with.is_none() => Op::Alu(Alu::Cmp32U(cmp, p, a, b)),
            Type::F32 if q.is_none() && with.is_none() && !ftz => Op::Alu(Alu::CmpF32(cmp, p, a, b)),
            _ => Op::Slow(Slow::Setp { ty: t, cmp, ftz, p, q, a, b, with }),
        })
    }

    fn set(&mut self) -> Res<Op> {
        let ftz = self.take("ftz");
        let (dest, ty) = (self.ty(0)?, self.ty(1)?);
        let cmp = self.pick(CMPS);
        let cmp = self.need(cmp)?;
        let with = self.combined(3)?;
        let (d, a, b) = (self.dst(0, dest)?, self.src(1, ty)?, self.src(2, ty)?);
        if ty.packed() {
            let one = match dest {
                Type::F16x2 => 0x3c00,
                Type::Bf16x2 => 0x3f80,
                _ => 0xffff,
            };
            let known = dest.bytes() == 4 && dest != Type::F32;
            let op = Slow::SetPacked { ty, cmp, ftz, one, d, a, b, with };
            return if known { Ok(Op::Slow(op)) } else { self.unknown() };
        }
        Ok(Op::Slow(Slow::Set { ty, dest, cmp, ftz, d, a, b, with }))
    }

    fn cvta(&mut self) -> Res<Op> {
        let t = self.ty(0)?;
        let to = self.take("to");
        let space = self.space()?;
        let (d, a) = (self.dst(0, t)?, self.src(1, t)?);
        if t.bytes() != 8 {
            return self.unknown();
        }
        let tag = crate::memory::space::tag(space);
        let tag = self.wide_bits(tag);
        Ok(match (space, to) {
            (Space::Global | Space::Const, _) => Op::Alu(Alu::Un64(IntUnary::Mov, d, a)),
            // The windows' tags are single bits: to and from a space is one XOR.
            (Space::Shared | Space::Local | Space::Param, _) => Op::Alu(Alu::Int64(IntOp::Xor, d, a, tag)),
            (Space::Generic, _) => return self.unknown(),
        })
    }
}
