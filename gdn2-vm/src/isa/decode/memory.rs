//! Decoding of loads, stores, atomics, fences, ldmatrix and the Ampere asynchronous copies.

use crate::isa::decode::{Decoder, Res};
use crate::isa::entry::SINK;
use crate::isa::inst::{Alu, AtomOp, Elem, IntUnary, Mem, Op, Order, Space};
use crate::num::Type;
use crate::ptx::text::{Class, Operand};

/// Ordering and caching words that change nothing in a machine without caches.
const HINTS: &[&str] = &[
    "ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc", "weak", "volatile", "relaxed", "acquire", "release", "acq_rel",
    "mmio", "cta", "cluster", "gpu", "sys", "unified", "noftz", "sc",
];

/// Atomic operations: those of bulk reductions first, then those of every reduction, then those that only exchange.
const ATOMIC_OPS: &[(&str, AtomOp)] = &[
    ("add", AtomOp::Add),
    ("min", AtomOp::Min),
    ("max", AtomOp::Max),
    ("and", AtomOp::And),
    ("or", AtomOp::Or),
    ("xor", AtomOp::Xor),
    ("inc", AtomOp::Inc),
    ("dec", AtomOp::Dec),
    ("exch", AtomOp::Exch),
    ("cas", AtomOp::Cas),
];
pub(super) const REDUCTIONS: &[(&str, AtomOp)] = ATOMIC_OPS.split_at(8).0;
pub(super) const BULK_REDUCTIONS: &[(&str, AtomOp)] = ATOMIC_OPS.split_at(6).0;

impl<'a> Decoder<'_, 'a> {
    /// Drops hints, and the operand a cache policy brings.
    fn hints(&mut self) -> bool {
        let policy = self.take("L2::cache_hint");
        if policy {
            self.ignore_from(self.count().saturating_sub(1));
        }
        self.mods.retain(|m| !HINTS.contains(m) && !m.starts_with("L1::") && !m.starts_with("L2::"));
        policy
    }

    /// The order that an access states.
    fn order(&self) -> Order {
        let has = |m: &str| self.mods.contains(&m);
        match () {
            () if has("acq_rel") => Order::Both,
            () if has("acquire") => Order::Acquire,
            () if has("release") => Order::Release,
            () if has("relaxed") || has("volatile") || has("mmio") => Order::Relaxed,
            () => Order::Weak,
        }
    }

    /// Memory opcodes; `None` if the opcode is of another family.
    pub(crate) fn memory(&mut self, base: &str) -> Res<Option<Op>> {
        let op = match base {
            "ld" | "ldu" | "st" if !self.mods.contains(&"async") => self.load_store(base)?,
            "atom" | "red" if !self.mods.contains(&"async") => self.atomic(base == "atom")?,
            "membar" => {
                self.mods.clear();
                Op::Mem(Mem::Fence)
            }
            "fence" => self.fence()?,
            "prefetch" | "prefetchu" | "applypriority" | "discard" => {
                self.mods.clear();
                self.types.clear();
                self.ignore_from(0);
                Op::Nop
            }
            "createpolicy" => {
                self.mods.clear();
                self.ignore_from(1);
                let none = self.wide_bits(0);
                Op::Alu(Alu::Un64(IntUnary::Mov, self.dst(0, Type::B64)?, none))
            }
            "vprintf" => {
                let result = if self.count() > 2 { Some(self.addr(2)?) } else { None };
                Op::Mem(Mem::Print { format: self.addr(0)?, args: self.addr(1)?, result })
            }
            "ldmatrix" | "stmatrix" => self.ldmatrix(base == "stmatrix")?,
            "cp" if !self.mods.contains(&"bulk") && !self.mods.contains(&"mbarrier") && self.take("async") => {
                self.cp_async()?
            }
            _ => return Ok(None),
        };
        Ok(Some(op))
    }

    /// The space of an access: the opcode's, or that of the symbol addressed.
    fn space_of(&mut self, address: &Operand<'a>) -> Res<(Space, crate::isa::inst::Addr)> {
        let named = self.space()?;
        let (addr, own) = self.address(address)?;
        Ok(match (named, own) {
            (Space::Generic, own) => (own.unwrap_or(Space::Generic), addr),
            // What is handed to a function and back lies in the caller's local memory.
            (Space::Param, Some(Space::Local)) => (Space::Local, addr),
            _ => (named, addr),
        })
    }

    fn elem(&self, values: &[Operand<'a>], t: Type) -> Res<Elem> {
        let class = values.iter().find_map(|o| match o {
            Operand::Reg(r) => Some(r.class),
            _ => None,
        });
        let wide = class.map_or(t.bytes() == 8, |c| c == Class::Wide);
        if class == Some(Class::Pred) || (t.bytes() == 8 && !wide) || !t.stored() {
            return self.unknown();
        }
        Ok(Elem { bytes: t.bytes(), signed: t.signed(), wide, half: class == Some(Class::Half) })
    }

    fn load_store(&mut self, base: &str) -> Res<Op> {
        let order = self.order();
        let release = base == "st" && order == Order::Release;
        self.hints();
        let (value, at) = if base == "st" { (1, 0) } else { (0, 1) };
        let address = self.operand(at)?.clone();
        let (space, addr) = self.space_of(&address)?;
        if self.take("b128") {
            let elem = Elem { bytes: 8, signed: false, wide: true, half: false };
            return Ok(Op::Mem(if base == "st" {
                Mem::St { space, order, elem, addr, from: self.quad(1)?.to_vec() }
            } else {
                let to = self.quad_dest(0)?.map(|d| (d != SINK).then_some(d)).to_vec();
                Mem::Ld { space, order, elem, addr, to }
            }));
        }
        let t = self.ty(0)?;
        let n = self.pick(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1);
        let values = self.elements(value)?;
        if values.len() != n {
            return self.unknown();
        }
        let elem = self.elem(&values, t)?;
        // A flag that is released to other blocks is an update like an atomic's.
        if release && n == 1 && t.bytes() >= 4 && space != Space::Shared {
            let b = self.src(1, t)?;
            return Ok(Op::Mem(Mem::Atom { space, order, op: AtomOp::Exch, ty: t, addr, d: None, b, c: SINK }));
        }
        Ok(Op::Mem(if base == "st" {
            let ty = if elem.wide { Type::B64 } else { t };
            let from = values.iter().map(|o| self.source(o, ty)).collect::<Res<_>>()?;
            Mem::St { space, order, elem, addr, from }
        } else {
            let to = values
                .iter()
                .map(|o| if *o == Operand::Sink { Ok(None) } else { self.dest(o, elem.wide).map(Some) })
                .collect::<Res<_>>()?;
            Mem::Ld { space, order, elem, addr, to }
        }))
    }

    fn atomic(&mut self, returns: bool) -> Res<Op> {
        let op = self.pick(ATOMIC_OPS);
        let op = self.need(op)?;
        let order = match self.order() {
            Order::Weak => Order::Relaxed,
            stated => stated,
        };
        self.hints();
        let at = usize::from(returns);
        let address = self.operand(at)?.clone();
        let (space, addr) = self.space_of(&address)?;
        if self.take("b128") {
            let (d, b) = (self.quad_dest(0)?, self.quad(2)?);
            let op = match op {
                AtomOp::Exch => Mem::Atom128 { space, order, addr, d, wanted: None, new: b },
                AtomOp::Cas => Mem::Atom128 { space, order, addr, d, wanted: Some(b), new: self.quad(3)? },
                _ => return self.unknown(),
            };
            return Ok(Op::Mem(op));
        }
        let ty = self.ty(0)?;
        if let Some(n) = self.pick(&[("v2", 2), ("v4", 4), ("v8", 8)]) {
            let d = if returns && *self.operand(0)? != Operand::Sink { self.dst_words(0)? } else { Vec::new() };
            let b = self.src_words(at + 1)?;
            let sizes = match ty {
                Type::F32 => n <= 4,
                Type::F16 | Type::Bf16 => true,
                Type::F16x2 | Type::Bf16x2 => n <= 4,
                _ => false,
            };
            let global = matches!(space, Space::Global | Space::Generic);
            let fits = b.len() == n && (d.is_empty() || d.len() == n);
            let known = op == AtomOp::Add || matches!(op, AtomOp::Min | AtomOp::Max) && ty != Type::F32;
            if !known || !global || !sizes || !fits {
                return self.unknown();
            }
            return Ok(Op::Mem(Mem::AtomVector { space, order, op, ty, addr, d, b }));
        }
        let b = self.src(at + 1, ty)?;
        let c = if op == AtomOp::Cas { self.src(at + 2, ty)? } else { SINK };
        let d = if returns && *self.operand(0)? != Operand::Sink { Some(self.dst(0, ty)?) } else { None };
        let known = match op {
            AtomOp::Add => ty != Type::B32 && ty != Type::B64,
            AtomOp::Inc | AtomOp::Dec => ty == Type::U32,
            AtomOp::Min | AtomOp::Max => !ty.float() || ty.packed() || ty.bytes() == 2,
            _ => !ty.float(),
        };
        if ty.bytes() < 2 || !ty.stored() || !known {
            self.unknown()
        } else {
            Ok(Op::Mem(Mem::Atom { space, order, op, ty, addr, d, b, c }))
        }
    }

    fn fence(&mut self) -> Res<Op> {
        if self.take("proxy") {
            let op = if self.take("async") || self.take("async::generic") { Mem::FenceProxyAsync } else { Mem::Fence };
            self.take("alias");
            self.space()?;
            if self.take("tensormap::generic") {
                self.ignore_from(0);
            }
            self.hints();
            return Ok(Op::Mem(op));
        }
        self.take("mbarrier_init");
        self.mods.retain(|m| !m.starts_with("sync_restrict::shared::"));
        self.hints();
        Ok(Op::Mem(Mem::Fence))
    }

    fn ldmatrix(&mut self, store: bool) -> Res<Op> {
        for m in ["sync", "aligned", "m8n8"] {
            if !self.take(m) {
                return self.unknown();
            }
        }
        let n = self.pick(&[("x1", 1), ("x2", 2), ("x4", 4)]);
        let n: usize = self.need(n)?;
        let trans = self.take("trans");
        let space = self.space()?;
        if !matches!(space, Space::Shared | Space::Generic) || self.ty(0)? != Type::B16 {
            return self.unknown();
        }
        let address = self.operand(usize::from(!store))?.clone();
        let (addr, own) = self.address(&address)?;
        let space = if space == Space::Generic { own.unwrap_or(space) } else { space };
        Ok(Op::Mem(if store {
            let from = self.src_words(1)?;
            if from.len() != n {
                return self.unknown();
            }
            Mem::StMatrix { trans, space, addr, from }
        } else {
            let to = self.dst_words(0)?;
            if to.len() != n {
                return self.unknown();
            }
            Mem::LdMatrix { trans, space, addr, to }
        }))
    }

    fn cp_async(&mut self) -> Res<Op> {
        if self.take("commit_group") {
            return Ok(Op::Mem(Mem::CpAsyncCommit));
        }
        if self.take("wait_group") {
            return Ok(Op::Mem(Mem::CpAsyncWait(self.immediate(0)? as u32)));
        }
        if self.take("wait_all") {
            return Ok(Op::Mem(Mem::CpAsyncWaitAll));
        }
        let all = self.take("ca");
        if !all && !self.take("cg") {
            return self.unknown();
        }
        let policy = usize::from(self.hints());
        if !self.take("shared") && !self.take("shared::cta") || !self.take("global") {
            return self.unknown();
        }
        let bytes = self.immediate(2)?;
        if !matches!((bytes, all), (4 | 8, true) | (16, _)) {
            return self.unknown();
        }
        let (dst, src) = (self.addr(0)?, self.addr(1)?);
        let (mut size, mut ignore) = (None, None);
        if self.count() > 3 + policy {
            match self.operand(3)? {
                Operand::Reg(r) if r.class == Class::Pred => ignore = Some(self.pred(3)?),
                Operand::Not(_) => ignore = Some(self.pred(3)?),
                _ => size = Some(self.src(3, Type::B32)?),
            }
        }
        Ok(Op::Mem(Mem::CpAsync { bytes: bytes as u8, dst, src, size, ignore }))
    }
}
