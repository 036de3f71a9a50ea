//! Decoding of Hopper's asynchronous instructions.

use crate::isa::decode::memory::{BULK_REDUCTIONS, REDUCTIONS};
use crate::isa::decode::{Decoder, Res};
use crate::isa::hopper::{Async, FactorA, Factors, Wgmma};
use crate::isa::inst::{Addr, Alu, AtomOp, Factor, IntUnary, Op, Slot, Space};
use crate::num::Type;
use crate::ptx::text::{Class, Operand};

/// Ordering words: stronger than asked is what the machine gives.
const SCOPES: &[&str] = &["release", "acquire", "relaxed", "cta", "cluster"];

impl<'a> Decoder<'_, 'a> {
    /// Asynchronous opcodes; `None` if the opcode is of another family.
    pub(crate) fn asynchronous(&mut self, base: &str) -> Res<Option<Op>> {
        let op = match base {
            "mbarrier" => self.mbarrier()?,
            "cp" if self.take("async") => {
                if self.take("mbarrier") {
                    if !self.take("arrive") {
                        return self.unknown();
                    }
                    let increment = !self.take("noinc");
                    self.space()?;
                    Async::CpAsyncArrive { at: self.addr(0)?, increment }
                } else if self.take("bulk") {
                    return self.bulk().map(Some);
                } else {
                    return self.unknown();
                }
            }
            "st" if self.take("async") => self.deliver(None)?,
            "red" if self.take("async") => {
                let op = self.pick(REDUCTIONS);
                let op = self.need(op)?;
                self.deliver(Some(op))?
            }
            "wgmma" => self.wgmma()?,
            "setmaxnreg" => {
                self.mods.clear();
                self.types.clear();
                self.ignore_from(0);
                return Ok(Some(Op::Nop));
            }
            "barrier" if self.take("cluster") => {
                self.mods.retain(|m| !SCOPES.contains(m));
                self.take("aligned");
                if self.take("arrive") {
                    Async::ClusterArrive
                } else if self.take("wait") {
                    Async::ClusterWait
                } else {
                    return self.unknown();
                }
            }
            // A block is alone in its cluster: every address maps to itself, every rank is 0.
            "mapa" => {
                self.space()?;
                let t = self.ty(0)?;
                let (d, a) = (self.dst(0, t)?, self.src(1, t)?);
                self.ignore_from(2);
                let un = if t.bytes() == 8 { Alu::Un64 } else { Alu::Un32 };
                return Ok(Some(Op::Alu(un(IntUnary::Mov, d, a))));
            }
            "getctarank" => {
                self.space()?;
                let t = self.ty(0)?;
                self.src(1, t)?;
                let (d, rank) = (self.dst(0, Type::U32)?, self.source(&Operand::Int(0), Type::U32)?);
                return Ok(Some(Op::Alu(Alu::Un32(IntUnary::Mov, d, rank))));
            }
            _ => return Ok(None),
        };
        Ok(Some(Op::Async(op)))
    }

    /// `st.async` and `red.async`: words to shared memory, told to an mbarrier.
    fn deliver(&mut self, reduce: Option<AtomOp>) -> Res<Async> {
        self.mods.retain(|m| !SCOPES.contains(m) && *m != "weak");
        if self.space()? != Space::Shared || !self.take("mbarrier::complete_tx::bytes") {
            return self.unknown();
        }
        let ty = self.ty(0)?;
        let n = self.pick(&[("v2", 2), ("v4", 4)]).unwrap_or(1);
        let elements = self.elements(1)?;
        let from = elements.iter().map(|o| self.source(o, ty)).collect::<Res<Vec<_>>>()?;
        let reduces = match reduce {
            None => true,
            Some(AtomOp::Inc | AtomOp::Dec) => ty == Type::U32,
            Some(AtomOp::Add) => matches!(ty, Type::U32 | Type::S32 | Type::U64),
            Some(AtomOp::Min | AtomOp::Max) => matches!(ty, Type::U32 | Type::S32),
            Some(_) => ty == Type::B32,
        };
        if from.len() != n || ty.bytes() < 4 || ty.packed() || !reduces || reduce.is_some() && n != 1 {
            return self.unknown();
        }
        Ok(Async::Deliver { dst: self.addr(0)?, mbar: self.addr(2)?, ty, reduce, from })
    }

    fn mbarrier(&mut self) -> Res<Async> {
        let what = self.pick(&[
            ("init", 0),
            ("inval", 1),
            ("arrive", 2),
            ("arrive_drop", 3),
            ("test_wait", 4),
            ("try_wait", 4),
            ("complete_tx", 5),
            ("expect_tx", 7),
            ("pending_count", 8),
        ]);
        let mut what = self.need(what)?;
        if what == 8 {
            return Ok(Async::MbarPending { d: self.dst(0, Type::B32)?, state: self.src(1, Type::B64)? });
        }
        // `arrive.expect_tx` names both; which comes first in the table decides nothing.
        let mut expects = what == 7;
        if what == 7 && self.take("arrive") {
            what = 2;
        } else if matches!(what, 2 | 3) {
            expects = self.take("expect_tx");
        }
        self.take("noComplete");
        let parity = self.take("parity");
        self.mods.retain(|m| !SCOPES.contains(m));
        if !matches!(self.space()?, Space::Shared | Space::Generic) {
            return self.unknown();
        }
        Ok(match what {
            0 => Async::MbarInit { at: self.addr(0)?, count: self.src(1, Type::B32)? },
            1 => Async::MbarInval { at: self.addr(0)? },
            2 | 3 => {
                // The destination may be left out.
                let first = usize::from(!matches!(self.operand(0)?, Operand::Address(..)));
                let state = match self.operand(0)? {
                    Operand::Reg(_) => Some(self.dst(0, Type::B64)?),
                    _ => None,
                };
                let at = self.addr(first)?;
                let extra = if self.count() > first + 1 { Some(self.src(first + 1, Type::B32)?) } else { None };
                let (expect, count) = if expects { (extra, None) } else { (None, extra) };
                Async::MbarArrive { at, expect, count, arrive: true, drop: what == 3, state }
            }
            4 => {
                let p = self.pred_dest(self.operand(0)?)?;
                // How long to wait at most is a hint.
                self.ignore_from(3);
                let state = self.src(2, if parity { Type::B32 } else { Type::B64 })?;
                Async::MbarWait { at: self.addr(1)?, p, state, parity }
            }
            5 => Async::MbarComplete { at: self.addr(0)?, bytes: self.src(1, Type::B32)? },
            _ => {
                let expect = Some(self.src(1, Type::B32)?);
                Async::MbarArrive { at: self.addr(0)?, expect, count: None, arrive: false, drop: false, state: None }
            }
        })
    }

    /// A map or tile operand: `[map, {coordinates}]`.
    fn tile(&mut self, n: usize, rank: usize) -> Res<(Addr, Vec<Slot>)> {
        let Operand::Tile(base, at) = self.operand(n)?.clone() else { return self.unknown() };
        if at.len() != rank {
            return self.unknown();
        }
        let (mut map, own) = self.address(&Operand::Address(base, 0))?;
        if own == Some(Space::Param) {
            // A parameter named directly: the generic address is its offset with the tag.
            map.offset = map.offset.wrapping_add(crate::memory::space::PARAM as i64);
        }
        let at = at.iter().map(|o| self.source(o, Type::B32)).collect::<Res<_>>()?;
        Ok((map, at))
    }

    /// `cp{.reduce}.async.bulk…`, its `cp`, `async` and `bulk` taken.
    fn bulk(&mut self) -> Res<Op> {
        if self.take("commit_group") {
            return Ok(Op::Async(Async::BulkCommit));
        }
        if self.take("wait_group") {
            let read = self.take("read");
            return Ok(Op::Async(Async::BulkWait { keep: self.immediate(0)? as u32, read }));
        }
        if self.take("prefetch") {
            self.mods.clear();
            self.ignore_from(0);
            return Ok(Op::Nop);
        }
        let reduce = if self.take("reduce") {
            let op = self.pick(BULK_REDUCTIONS);
            Some(self.need(op)?)
        } else {
            None
        };
        self.take("noftz");
        if self.mods.contains(&"L2::cache_hint") {
            self.ignore_from(self.count().saturating_sub(1));
        }
        self.mods.retain(|m| !m.starts_with("L2::"));
        let rank = if self.take("tensor") {
            self.take("tile");
            let rank = self.pick(&[("1d", 1), ("2d", 2), ("3d", 3), ("4d", 4), ("5d", 5)]);
            Some(self.need(rank)?)
        } else {
            None
        };
        // What is left names destination and source, in that order, and how completion is told.
        let (to, from) = (self.mods.first().copied(), self.mods.get(1).copied());
        let between = matches!((to, from, rank), (Some("shared::cluster"), Some("shared::cta"), None));
        let inward = between || matches!((to, from), (Some("shared::cluster" | "shared::cta"), Some("global")));
        let outward = matches!((to, from), (Some("global"), Some("shared::cta")));
        if !inward && !outward || inward && !between && reduce.is_some() {
            return self.unknown();
        }
        self.mods.drain(..2);
        let multicast = inward && !between && self.take("multicast::cluster");
        if !self.take(if inward { "mbarrier::complete_tx::bytes" } else { "bulk_group" }) {
            return self.unknown();
        }
        Ok(Op::Async(match (rank, inward) {
            (Some(rank), true) => {
                let (map, at) = self.tile(1, rank)?;
                let blocks = if multicast { Some(self.src(3, Type::B16)?) } else { None };
                Async::TileIn { dst: self.addr(0)?, map, at, mbar: self.addr(2)?, blocks }
            }
            (Some(rank), false) => {
                let (map, at) = self.tile(0, rank)?;
                Async::TileOut { map, at, src: self.addr(1)?, reduce }
            }
            (None, true) => Async::BulkIn {
                dst: self.addr(0)?,
                src: self.addr(1)?,
                from: if between { Space::Shared } else { Space::Global },
                bytes: self.src(2, Type::B32)?,
                mbar: self.addr(3)?,
                reduce: match reduce {
                    Some(op) => Some((op, self.ty(0)?)),
                    None => None,
                },
                blocks: if multicast { Some(self.src(4, Type::B16)?) } else { None },
            },
            (None, false) => {
                let reduce = match reduce {
                    Some(op) => Some((op, self.ty(0)?)),
                    None => None,
                };
                Async::BulkOut { dst: self.addr(0)?, src: self.addr(1)?, bytes: self.src(2, Type::B32)?, reduce }
            }
        }))
    }

    fn wgmma(&mut self) -> Res<Async> {
        if self.take("fence") || self.mods.contains(&"commit_group") || self.mods.contains(&"wait_group") {
            let op = if self.take("commit_group") {
                Async::WgmmaCommit
            } else if self.take("wait_group") {
                Async::WgmmaWait { keep: self.immediate(0)? as u32 }
            } else {
                Async::WgmmaFence
            };
            return if self.take("sync") && self.take("aligned") { Ok(op) } else { self.unknown() };
        }
        for m in ["mma_async", "sync", "aligned"] {
            if !self.take(m) {
                return self.unknown();
            }
        }
        let shape = self.need(self.mods.first().copied())?;
        let parts = shape.strip_prefix("m64n").and_then(|s| s.split_once('k'));
        let (n, k) = self.need(parts)?;
        let (n, k): (u32, u8) = (self.need(n.parse().ok())?, self.need(k.parse().ok())?);
        self.mods.remove(0);
        let [sum, fa, fb] = [self.ty(0)?, self.ty(1)?, self.ty(2)?];
        let float8 = |ty: Type| matches!(ty, Type::E4m3 | Type::E5m2);
        let (factors, depth) = match (fa, fb) {
            (Type::Bf16, Type::Bf16) => (Factors::Same(Factor::Bf16), 16),
            (Type::F16, Type::F16) => (Factors::Same(Factor::F16), 16),
            (Type::Tf32, Type::Tf32) => (Factors::Same(Factor::Tf32), 8),
            (Type::S8 | Type::U8, Type::S8 | Type::U8) => (Factors::Bytes(fa, fb), 32),
            _ if float8(fa) && float8(fb) => (Factors::Bytes(fa, fb), 32),
            _ => return self.unknown(),
        };
        let integers = matches!(fa, Type::S8 | Type::U8);
        let saturate = self.take("satfinite");
        let d = self.dst_words(0)?;
        let words = if sum == Type::F16 { n / 4 } else { n / 2 };
        let fits = n % 8 == 0 && (8..=256).contains(&n) && k == depth && d.len() == words as usize;
        let sums = match sum {
            Type::F32 => !integers,
            Type::F16 => fa == Type::F16 || float8(fa),
            Type::S32 => integers,
            _ => false,
        };
        // Sums of integers come in fewer widths.
        let wide = !integers || n == 24 || n % 16 == 0 || n == 8;
        if !fits || !sums || !wide || self.types.len() != 3 || (saturate && !integers) {
            return self.unknown();
        }
        let from_registers = matches!(self.operand(1)?, Operand::Vector(_));
        let b = self.src(2, Type::B64)?;
        let scale_d = match self.operand(3)? {
            Operand::Reg(r) if r.class != Class::Pred => return self.unknown(),
            _ => self.pred(3)?,
        };
        let sign = |v: u64| v as i64 == -1;
        // Integers have neither signs nor majors to choose.
        let negate = !integers && sign(self.immediate(4)?) != sign(self.immediate(5)?);
        let halves = matches!(factors, Factors::Same(Factor::Bf16 | Factor::F16));
        let (a, at) = if from_registers {
            let a = self.src_words(1)?;
            if a.len() != 4 {
                return self.unknown();
            }
            (FactorA::Registers(a), 6)
        } else {
            let mn_major = halves && self.immediate(6)? == 1;
            (FactorA::Shared { descriptor: self.src(1, Type::B64)?, mn_major }, 7)
        };
        let b_mn_major = halves && self.immediate(at)? == 1;
        Ok(Async::Wgmma(Box::new(Wgmma { factors, n, k, sum, saturate, d, a, b, b_mn_major, scale_d, negate })))
    }
}
