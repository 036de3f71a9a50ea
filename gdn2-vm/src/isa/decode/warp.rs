//! Decoding of control flow, warp collectives, barriers and warp-level matrix operations.

use crate::isa::cfg::NO_JOIN;
use crate::isa::decode::{Decoder, Res};
use crate::isa::entry::SINK;
use crate::isa::inst::{BarRed, Flow, Matrix, Op, ReduxOp, ShflMode, Slot, VoteOp, WarpOp};
use crate::num::Type;
use crate::ptx::text::Operand;

impl Decoder<'_, '_> {
    /// Control, collective and matrix opcodes; `None` if the opcode is of another family.
    pub(crate) fn warp(&mut self, base: &str) -> Res<Option<Op>> {
        let op = match base {
            "bra" => {
                let uniform = self.take("uni");
                Op::Flow(Flow::Bra { target: self.label(0)?, join: NO_JOIN, uniform })
            }
            "ret" | "exit" => {
                self.take("uni");
                Op::Flow(Flow::Exit)
            }
            "trap" | "brkpt" => Op::Flow(Flow::Trap),
            "nanosleep" => {
                self.ignore_from(0);
                Op::Flow(Flow::Yield)
            }
            "pmevent" => {
                self.mods.clear();
                self.ignore_from(0);
                Op::Nop
            }
            "griddepcontrol" => {
                if !self.take("wait") && !self.take("launch_dependents") {
                    return self.unknown();
                }
                Op::Nop
            }
            "activemask" => Op::Slow(crate::isa::inst::Slow::ActiveMask(self.dst(0, Type::B32)?)),
            "shfl" | "vote" | "match" | "redux" | "elect" if self.take("sync") => self.collective(base)?,
            "bar" | "barrier" if self.mods.first() == Some(&"warp") => {
                self.mods.clear();
                Op::Warp(WarpOp::SyncWarp { members: self.src(0, Type::B32)? })
            }
            "bar" | "barrier" if !self.mods.contains(&"cluster") => self.barrier()?,
            "mma" if self.take("sync") && self.take("aligned") => self.mma()?,
            "wmma" => self.wmma()?,
            "movmatrix" => {
                for m in ["sync", "aligned", "m8n8", "trans"] {
                    if !self.take(m) {
                        return self.unknown();
                    }
                }
                Op::Matrix(Matrix::Transpose { d: self.dst(0, Type::B32)?, a: self.src(1, Type::B32)? })
            }
            _ => return Ok(None),
        };
        Ok(Some(op))
    }

    fn collective(&mut self, base: &str) -> Res<Op> {
        let op = match base {
            "shfl" => {
                let mode = self.pick(&[
                    ("up", ShflMode::Up),
                    ("down", ShflMode::Down),
                    ("bfly", ShflMode::Bfly),
                    ("idx", ShflMode::Idx),
                ]);
                let mode = self.need(mode)?;
                let (d, p) = match self.operand(0)? {
                    Operand::Pair(d, p) => (self.dest(d, false)?, Some(self.pred_dest(p)?)),
                    one => (self.dest(one, false)?, None),
                };
                let t = Type::B32;
                let (a, b, c, members) = (self.src(1, t)?, self.src(2, t)?, self.src(3, t)?, self.src(4, t)?);
                WarpOp::Shfl { mode, d, p, a, b, c, members }
            }
            "vote" => {
                let op = self.pick(&[
                    ("all", VoteOp::All),
                    ("any", VoteOp::Any),
                    ("uni", VoteOp::Uni),
                    ("ballot", VoteOp::Ballot),
                ]);
                let op = self.need(op)?;
                let to = if op == VoteOp::Ballot { self.dst(0, Type::B32)? } else { self.pred_dest(self.operand(0)?)? };
                let (src, flip) = self.pred(1)?;
                WarpOp::Vote { op, to, src, flip, members: self.src(2, Type::B32)? }
            }
            "match" => {
                let all = self.take("all");
                if !all && !self.take("any") {
                    return self.unknown();
                }
                let (d, p) = match self.operand(0)? {
                    Operand::Pair(d, p) => (self.dest(d, false)?, Some(self.pred_dest(p)?)),
                    one => (self.dest(one, false)?, None),
                };
                let t = self.ty(0)?;
                WarpOp::Match { all, wide: t.bytes() == 8, d, p, a: self.src(1, t)?, members: self.src(2, Type::B32)? }
            }
            "redux" => {
                let s = self.ty(0)?.signed();
                if self.ty(0)?.float() {
                    return self.unknown();
                }
                let op = self.pick(&[
                    ("add", ReduxOp::Add),
                    ("min", if s { ReduxOp::MinS } else { ReduxOp::MinU }),
                    ("max", if s { ReduxOp::MaxS } else { ReduxOp::MaxU }),
                    ("and", ReduxOp::And),
                    ("or", ReduxOp::Or),
                    ("xor", ReduxOp::Xor),
                ]);
                let op = self.need(op)?;
                let t = Type::B32;
                WarpOp::Redux { op, d: self.dst(0, t)?, a: self.src(1, t)?, members: self.src(2, t)? }
            }
            _ => {
                let (d, p) = match self.operand(0)? {
                    Operand::Pair(d, p) => (self.dest(d, false)?, self.pred_dest(p)?),
                    _ => return self.unknown(),
                };
                let d = (d != SINK).then_some(d);
                WarpOp::Elect { d, p, members: self.src(1, Type::B32)? }
            }
        };
        Ok(Op::Warp(op))
    }

    fn barrier(&mut self) -> Res<Op> {
        self.take("cta");
        // Without `.aligned` lanes may come one by one; here too the whole warp must come at once.
        self.take("aligned");
        if self.take("red") {
            let op = self.pick(&[("popc", BarRed::Popc), ("and", BarRed::And), ("or", BarRed::Or)]);
            let op = self.need(op)?;
            let d = if op == BarRed::Popc { self.dst(0, Type::B32)? } else { self.pred_dest(self.operand(0)?)? };
            let last = self.count().saturating_sub(1);
            let (src, flip) = self.pred(last)?;
            let threads = if last == 3 { Some(self.src(2, Type::B32)?) } else { None };
            return Ok(Op::Warp(WarpOp::BarRed { op, id: self.src(1, Type::B32)?, threads, src, flip, d }));
        }
        let wait = self.take("sync");
        if !wait && !self.take("arrive") {
            return self.unknown();
        }
        let threads: Option<Slot> = if self.count() > 1 { Some(self.src(1, Type::B32)?) } else { None };
        Ok(Op::Warp(WarpOp::Bar { id: self.src(0, Type::B32)?, threads, wait }))
    }
}
