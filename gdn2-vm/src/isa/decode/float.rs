//! Decoding of floating-point arithmetic: f32, f64, halves and packed halves.

use crate::isa::decode::{Decoder, Res};
use crate::isa::inst::{Alu, Directed, FloatOp, FloatUnary, Mode, Op, Round, Slot, Slow, Testp};
use crate::num::Type;

impl Decoder<'_, '_> {
    /// Floating-point opcodes; `None` if the opcode is of another family.
    pub(crate) fn float(&mut self, base: &str) -> Res<Option<Op>> {
        let op = match base {
            "add" | "sub" | "mul" | "min" | "max" | "div" | "copysign" => self.float_binary(base)?,
            "fma" | "mad" => self.fma()?,
            "neg" | "abs" | "rcp" | "sqrt" | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" => {
                self.float_unary(base)?
            }
            "testp" => {
                let what = self.pick(&[
                    ("finite", Testp::Finite),
                    ("infinite", Testp::Infinite),
                    ("number", Testp::Number),
                    ("notanumber", Testp::NotANumber),
                    ("normal", Testp::Normal),
                    ("subnormal", Testp::Subnormal),
                ]);
                let (what, t) = (self.need(what)?, self.ty(0)?);
                let p = self.pred_dest(self.operand(0)?)?;
                Op::Slow(Slow::Testp(what, t == Type::F64, p, self.src(1, t)?))
            }
            _ => return Ok(None),
        };
        Ok(Some(op))
    }

    fn mode(&mut self) -> Mode {
        let round = self.round().unwrap_or_default();
        Mode { round, ftz: self.take("ftz"), sat: self.take("sat"), relu: self.take("relu"), ..Mode::default() }
    }

    fn float_binary(&mut self, base: &str) -> Res<Op> {
        let t = self.ty(0)?;
        let mut mode = self.mode();
        let nan = self.take("NaN");
        mode.xorsign = matches!(base, "min" | "max") && self.take("xorsign");
        if mode.xorsign && (!self.take("abs") || t == Type::F64) {
            return self.unknown();
        }
        let op = match base {
            "add" => FloatOp::Add,
            "sub" => FloatOp::Sub,
            "mul" => FloatOp::Mul,
            "min" if nan => FloatOp::MinNan,
            "max" if nan => FloatOp::MaxNan,
            "min" => FloatOp::Min,
            "max" => FloatOp::Max,
            "copysign" => FloatOp::CopySign,
            _ => {
                // The approximate forms are within two ulp of the rounded quotient: the quotient serves, but that one of
                // them gives zero beyond 2^126.
                match self.take("full") {
                    false if self.take("approx") && t == Type::F32 => FloatOp::DivApprox,
                    _ => FloatOp::Div,
                }
            }
        };
        let (d, a, b) = (self.dst(0, t)?, self.src(1, t)?, self.src(2, t)?);
        let ftz = mode == Mode { ftz: true, ..Mode::default() };
        Ok(match t {
            Type::F32x2 if matches!(op, FloatOp::Add | FloatOp::Sub | FloatOp::Mul) => {
                Op::Slow(Slow::F32x2(op, mode, d, [a, b]))
            }
            Type::F32 if ftz && op == FloatOp::Add => Op::Alu(Alu::AddFtz(d, a, b)),
            Type::F32 if ftz && op == FloatOp::Mul => Op::Alu(Alu::MulFtz(d, a, b)),
            Type::F32 if mode == Mode::default() => match op {
                FloatOp::Min => Op::Alu(Alu::Min(d, a, b)),
                FloatOp::Max => Op::Alu(Alu::Max(d, a, b)),
                FloatOp::Add => Op::Alu(Alu::Add(d, a, b)),
                FloatOp::Sub => Op::Alu(Alu::Sub(d, a, b)),
                FloatOp::Mul => Op::Alu(Alu::Mul(d, a, b)),
                _ => Op::Slow(Slow::F32(op, mode, d, a, b)),
            },
            Type::F32 => Op::Slow(Slow::F32(op, mode, d, a, b)),
            Type::F64 if mode == Mode::default() => Op::Slow(Slow::F64(op, d, a, b)),
            Type::F64 => {
                let op = match op {
                    FloatOp::Add => Directed::Add,
                    FloatOp::Sub => Directed::Sub,
                    FloatOp::Mul => Directed::Mul,
                    FloatOp::Div => Directed::Div,
                    _ => return self.unknown(),
                };
                self.directed(op, mode, d, [a, b, b])?
            }
            Type::F16 | Type::Bf16 | Type::F16x2 | Type::Bf16x2 if op != FloatOp::CopySign && op != FloatOp::Div => {
                Op::Slow(Slow::Half(op, t, mode, d, a, b))
            }
            _ => return self.unknown(),
        })
    }

    /// f64 that rounds toward zero, down or up.
    fn directed(&self, op: Directed, mode: Mode, d: Slot, sources: [Slot; 3]) -> Res<Op> {
        let known = mode == Mode { round: mode.round, ..Mode::default() } && mode.round != Round::Away;
        if known { Ok(Op::Slow(Slow::Directed(op, mode.round, d, sources))) } else { self.unknown() }
    }

    fn fma(&mut self) -> Res<Op> {
        let t = self.ty(0)?;
        let mode = self.mode();
        let (d, a, b, c) = (self.dst(0, t)?, self.src(1, t)?, self.src(2, t)?, self.src(3, t)?);
        Ok(match t {
            Type::F32 if mode == Mode::default() => Op::Alu(Alu::Fma(d, a, b, c)),
            Type::F32 if mode == (Mode { ftz: true, ..Mode::default() }) => Op::Alu(Alu::FmaFtz(d, a, b, c)),
            Type::F32 => Op::Slow(Slow::FmaF32(mode, d, a, b, c)),
            Type::F32x2 => Op::Slow(Slow::FmaF32x2(mode, d, [a, b, c])),
            Type::F64 if mode == Mode::default() => Op::Slow(Slow::FmaF64(d, a, b, c)),
            Type::F64 => self.directed(Directed::Fma, mode, d, [a, b, c])?,
            Type::F16 | Type::Bf16 | Type::F16x2 | Type::Bf16x2 => Op::Slow(Slow::FmaHalf(t, mode, d, a, b, c)),
            _ => return self.unknown(),
        })
    }

    fn float_unary(&mut self, base: &str) -> Res<Op> {
        let t = self.ty(0)?;
        self.take("approx");
        let mode = self.mode();
        let op = match base {
            "neg" => FloatUnary::Neg,
            "abs" => FloatUnary::Abs,
            "rcp" => FloatUnary::Rcp,
            "sqrt" => FloatUnary::Sqrt,
            "rsqrt" => FloatUnary::Rsqrt,
            "ex2" => FloatUnary::Ex2,
            "lg2" => FloatUnary::Lg2,
            "sin" => FloatUnary::Sin,
            "cos" => FloatUnary::Cos,
            _ => FloatUnary::Tanh,
        };
        let (d, a) = (self.dst(0, t)?, self.src(1, t)?);
        Ok(match t {
            Type::F32 if op == FloatUnary::Neg && mode == Mode::default() => Op::Alu(Alu::Neg(d, a)),
            Type::F32 if op == FloatUnary::Abs && mode == Mode::default() => Op::Alu(Alu::Abs(d, a)),
            Type::F32 if op == FloatUnary::Ex2 && !mode.sat => Op::Alu(Alu::Ex2(mode.ftz, d, a)),
            Type::F32 => Op::Slow(Slow::F32Un(op, mode, d, a)),
            Type::F64 if mode == Mode::default() => Op::Slow(Slow::F64Un(op, d, a)),
            Type::F64 if matches!(op, FloatUnary::Rcp | FloatUnary::Rsqrt) && mode.ftz => {
                Op::Slow(Slow::F64Approx(op, d, a))
            }
            Type::F64 if op == FloatUnary::Rcp => self.directed(Directed::Rcp, mode, d, [a; 3])?,
            Type::F64 if op == FloatUnary::Sqrt => self.directed(Directed::Sqrt, mode, d, [a; 3])?,
            Type::F16 | Type::Bf16 | Type::F16x2 | Type::Bf16x2 => match op {
                FloatUnary::Neg | FloatUnary::Abs | FloatUnary::Ex2 | FloatUnary::Tanh => {
                    Op::Slow(Slow::HalfUn(op, t, mode, d, a))
                }
                _ => return self.unknown(),
            },
            _ => return self.unknown(),
        })
    }

    /// A fixed 64-bit source.
    pub(crate) fn wide_bits(&mut self, bits: u64) -> Slot {
        let o = crate::ptx::text::Operand::Int(bits);
        // An integer always has a slot.
        self.source(&o, Type::B64).unwrap_or(crate::isa::entry::SINK)
    }
}
