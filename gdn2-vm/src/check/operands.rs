//! Which registers an instruction reads and writes.

use crate::isa::hopper::{Async, FactorA};
use crate::isa::inst::{Addr, Alu, Flow, IntOp, Matrix, Mem, Op, Slot, Slow, WarpOp};
use crate::num::Type;

/// A register file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum File {
    Pred,
    Word,
    Wide,
}

/// What an instruction does with a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Use,
    Def,
}

use File::{Pred, Wide, Word};
use Role::{Def, Use};

/// Takes note of one register.
type See<'a> = dyn FnMut(Role, File, Slot) + 'a;

fn of(wide: bool) -> File {
    if wide { Wide } else { Word }
}

fn typed(ty: Type) -> File {
    of(ty.bytes() == 8)
}

/// Tells `see` every register of an operation; its guard is not among them.
pub(crate) fn visit(op: &Op, see: &mut See<'_>) {
    match op {
        Op::Alu(op) => alu(op, see),
        Op::Slow(op) => slow(op, see),
        Op::Mem(op) => mem(op, see),
        Op::Warp(op) => warp(op, see),
        Op::Matrix(op) => matrix(op, see),
        Op::Async(op) => asynchronous(op, see),
        Op::Flow(Flow::Bra { .. } | Flow::Exit | Flow::Trap | Flow::Yield) | Op::Nop => {}
    }
}

fn all(see: &mut See<'_>, role: Role, file: File, slots: &[Slot]) {
    for s in slots {
        see(role, file, *s);
    }
}

/// One destination and its sources, all of one file.
fn same(see: &mut See<'_>, file: File, d: Slot, sources: &[Slot]) {
    see(Def, file, d);
    all(see, Use, file, sources);
}

fn alu(op: &Alu, see: &mut See<'_>) {
    match *op {
        Alu::Int32(_, d, a, b)
        | Alu::Add(d, a, b)
        | Alu::Sub(d, a, b)
        | Alu::Mul(d, a, b)
        | Alu::AddFtz(d, a, b)
        | Alu::MulFtz(d, a, b)
        | Alu::Min(d, a, b)
        | Alu::Max(d, a, b)
        | Alu::Pack32(d, a, b)
        | Alu::F16x2(d, a, b)
        | Alu::Bf16x2(d, a, b) => same(see, Word, d, &[a, b]),
        Alu::Int64(IntOp::Shl | IntOp::ShrU | IntOp::ShrS, d, a, n) => {
            same(see, Wide, d, &[a]);
            see(Use, Word, n);
        }
        Alu::Int64(_, d, a, b) => same(see, Wide, d, &[a, b]),
        Alu::Un32(_, d, a)
        | Alu::Ex2(_, d, a)
        | Alu::Neg(d, a)
        | Alu::Abs(d, a)
        | Alu::Bf16FromF32(d, a)
        | Alu::F16FromF32(d, a)
        | Alu::F32FromBf16(d, a)
        | Alu::F32FromF16(d, a)
        | Alu::Tf32(d, a)
        | Alu::F32FromU32(d, a)
        | Alu::F32FromS32(d, a) => same(see, Word, d, &[a]),
        Alu::Un64(_, d, a) => same(see, Wide, d, &[a]),
        Alu::Mad32(d, a, b, c) | Alu::Fma(d, a, b, c) | Alu::FmaFtz(d, a, b, c) | Alu::Lop3(_, d, a, b, c) => {
            same(see, Word, d, &[a, b, c])
        }
        Alu::Mad64(d, a, b, c) => same(see, Wide, d, &[a, b, c]),
        Alu::MulWideU(d, a, b) | Alu::MulWideS(d, a, b) | Alu::Pack64(d, a, b) => {
            see(Def, Wide, d);
            all(see, Use, Word, &[a, b]);
        }
        Alu::MadWideU(d, a, b, c) | Alu::MadWideS(d, a, b, c) => {
            same(see, Wide, d, &[c]);
            all(see, Use, Word, &[a, b]);
        }
        Alu::Funnel(_, _, d, a, b, c) => same(see, Word, d, &[a, b, c]),
        Alu::Bfi32([d, a, b, pos, len]) => same(see, Word, d, &[a, b, pos, len]),
        Alu::Bfe32(_, [d, a, b, c]) | Alu::Prmt([d, a, b, c]) => same(see, Word, d, &[a, b, c]),
        Alu::Cmp32S(_, p, a, b) | Alu::Cmp32U(_, p, a, b) | Alu::CmpF32(_, p, a, b) => {
            see(Def, Pred, p);
            all(see, Use, Word, &[a, b]);
        }
        Alu::Sel32(d, a, b, p) => {
            same(see, Word, d, &[a, b]);
            see(Use, Pred, p);
        }
        Alu::Sel64(d, a, b, p) => {
            same(see, Wide, d, &[a, b]);
            see(Use, Pred, p);
        }
        Alu::Pred(_, d, a, b, _) => same(see, Pred, d, &[a, b]),
        Alu::WidenU(d, a) | Alu::WidenS(d, a) => {
            see(Def, Wide, d);
            see(Use, Word, a);
        }
        Alu::Narrow(d, a) => {
            see(Def, Word, d);
            see(Use, Wide, a);
        }
        Alu::Unpack32(lo, hi, a) => {
            all(see, Def, Word, &[lo, hi]);
            see(Use, Word, a);
        }
        Alu::Unpack64(lo, hi, a) => {
            all(see, Def, Word, &[lo, hi]);
            see(Use, Wide, a);
        }
    }
}

fn slow(op: &Slow, see: &mut See<'_>) {
    match op {
        Slow::Int16(_, d, a, b) | Slow::F32(_, _, d, a, b) | Slow::Half(_, _, _, d, a, b) => {
            same(see, Word, *d, &[*a, *b]);
        }
        Slow::CvtPack { d, a, b, .. } => same(see, Word, *d, &[*a, *b]),
        Slow::Un16(_, d, a) | Slow::F32Un(_, _, d, a) | Slow::HalfUn(_, _, _, d, a) => same(see, Word, *d, &[*a]),
        Slow::Mad16(d, a, b, c) | Slow::FmaF32(_, d, a, b, c) | Slow::FmaHalf(_, _, d, a, b, c) => {
            same(see, Word, *d, &[*a, *b, *c]);
        }
        Slow::Wide16(_, d, a, b, c) => {
            same(see, Word, *d, &[*a, *b]);
            c.iter().for_each(|c| see(Use, Word, *c));
        }
        Slow::MadHi(_, bits, d, a, b, c) => same(see, of(*bits == 64), *d, &[*a, *b, *c]),
        Slow::Count(_, wide, d, a) => {
            see(Def, Word, *d);
            see(Use, of(*wide), *a);
        }
        Slow::Bfi64([d, a, b, pos, len]) => {
            same(see, Wide, *d, &[*a, *b]);
            all(see, Use, Word, &[*pos, *len]);
        }
        Slow::Bfe64(_, [d, a, pos, len]) => {
            same(see, Wide, *d, &[*a]);
            all(see, Use, Word, &[*pos, *len]);
        }
        Slow::PrmtMode(_, [d, a, b, c]) | Slow::Dp4a(_, [d, a, b, c]) | Slow::Dp2a(_, _, [d, a, b, c]) => {
            same(see, Word, *d, &[*a, *b, *c])
        }
        Slow::Sad(ty, [d, a, b, c]) => same(see, typed(*ty), *d, &[*a, *b, *c]),
        Slow::Mul24 { d, a, b, c, .. } => {
            same(see, Word, *d, &[*a, *b]);
            c.iter().for_each(|c| see(Use, Word, *c));
        }
        Slow::Bmsk(_, [d, a, b]) | Slow::Szext(_, _, [d, a, b]) => same(see, Word, *d, &[*a, *b]),
        Slow::Packed(_, d, a, b) | Slow::ToFloat8 { d, a, b, .. } => same(see, Word, *d, &[*a, *b]),
        Slow::Words(_, d, sources) => same(see, Word, *d, sources),
        Slow::Lop3Pred { d, sources, p, with, .. } => {
            same(see, Word, *d, sources);
            see(Def, Pred, *p);
            see(Use, Pred, with.1);
        }
        Slow::F32x2(_, _, d, sources) => same(see, Wide, *d, sources),
        Slow::FmaF32x2(_, d, sources) => same(see, Wide, *d, sources),
        Slow::Mov128(d, a) => {
            all(see, Def, Wide, d);
            all(see, Use, Wide, a);
        }
        Slow::FromFloat8 { d, a, .. } => same(see, Word, *d, &[*a]),
        Slow::Directed(_, _, d, sources) => same(see, Wide, *d, sources),
        Slow::F64(_, d, a, b) => same(see, Wide, *d, &[*a, *b]),
        Slow::F64Un(_, d, a) | Slow::F64Approx(_, d, a) => same(see, Wide, *d, &[*a]),
        Slow::FmaF64(d, a, b, c) => same(see, Wide, *d, &[*a, *b, *c]),
        Slow::Setp { ty, p, q, a, b, with, .. } => {
            see(Def, Pred, *p);
            q.iter().for_each(|q| see(Def, Pred, *q));
            all(see, Use, typed(*ty), &[*a, *b]);
            with.iter().for_each(|(_, w, _)| see(Use, Pred, *w));
        }
        Slow::SetpPacked { p, q, a, b, with, .. } => {
            all(see, Def, Pred, &[*p, *q]);
            all(see, Use, Word, &[*a, *b]);
            with.iter().for_each(|(_, w, _)| see(Use, Pred, *w));
        }
        Slow::Set { ty, dest, d, a, b, with, .. } => {
            see(Def, typed(*dest), *d);
            all(see, Use, typed(*ty), &[*a, *b]);
            with.iter().for_each(|(_, w, _)| see(Use, Pred, *w));
        }
        Slow::Slct { wide, d, a, b, c, .. } => {
            same(see, of(*wide), *d, &[*a, *b]);
            see(Use, Word, *c);
        }
        Slow::Cvt { bits: [register, source], d, a, .. } => {
            see(Def, of(*register == 64), *d);
            see(Use, of(*source == 64), *a);
        }
        Slow::PredMov(d, a, _) => same(see, Pred, *d, &[*a]),
        Slow::Pack { wide, d, parts, .. } => {
            see(Def, of(*wide), *d);
            all(see, Use, Word, parts);
        }
        Slow::Unpack { wide, parts, a, .. } => {
            parts.iter().flatten().for_each(|p| see(Def, Word, *p));
            see(Use, of(*wide), *a);
        }
        Slow::Testp(_, wide, p, a) => {
            see(Def, Pred, *p);
            see(Use, of(*wide), *a);
        }
        Slow::Carry { wide, d, a, b, .. } => same(see, of(*wide), *d, &[*a, *b]),
        Slow::MadCarry { wide, d, a, b, c, .. } => same(see, of(*wide), *d, &[*a, *b, *c]),
        Slow::SetPacked { d, a, b, with, .. } => {
            same(see, Word, *d, &[*a, *b]);
            with.iter().for_each(|(_, w, _)| see(Use, Pred, *w));
        }
        Slow::IsSpace(_, p, a) => {
            see(Def, Pred, *p);
            see(Use, Wide, *a);
        }
        Slow::Clock(wide, d) => see(Def, of(*wide), *d),
        Slow::ActiveMask(d) => see(Def, Word, *d),
    }
}

fn address(a: Addr, see: &mut See<'_>) {
    see(Use, of(a.wide), a.base);
}

fn mem(op: &Mem, see: &mut See<'_>) {
    match op {
        Mem::Ld { elem, addr, to, .. } => {
            address(*addr, see);
            to.iter().flatten().for_each(|d| see(Def, of(elem.wide), *d));
        }
        Mem::St { elem, addr, from, .. } => {
            address(*addr, see);
            all(see, Use, of(elem.wide), from);
        }
        Mem::Atom { ty, addr, d, b, c, .. } => {
            address(*addr, see);
            d.iter().for_each(|d| see(Def, typed(*ty), *d));
            all(see, Use, typed(*ty), &[*b, *c]);
        }
        Mem::Atom128 { addr, d, wanted, new, .. } => {
            address(*addr, see);
            all(see, Def, Wide, d);
            all(see, Use, Wide, new);
            wanted.iter().for_each(|wanted| all(see, Use, Wide, wanted));
        }
        Mem::AtomVector { addr, d, b, .. } => {
            address(*addr, see);
            all(see, Def, Word, d);
            all(see, Use, Word, b);
        }
        Mem::LdMatrix { addr, to, .. } => {
            address(*addr, see);
            all(see, Def, Word, to);
        }
        Mem::StMatrix { addr, from, .. } => {
            address(*addr, see);
            all(see, Use, Word, from);
        }
        Mem::Fragment(f) => {
            address(f.at, see);
            f.stride.iter().for_each(|s| see(Use, Word, *s));
            all(see, if f.store { Use } else { Def }, typed(f.ty), &f.regs);
        }
        Mem::CpAsync { dst, src, size, ignore, .. } => {
            address(*dst, see);
            address(*src, see);
            size.iter().for_each(|s| see(Use, Word, *s));
            ignore.iter().for_each(|(p, _)| see(Use, Pred, *p));
        }
        Mem::Print { format, args, result } => {
            [Some(*format), Some(*args), *result].into_iter().flatten().for_each(|a| address(a, see));
        }
        Mem::Fence | Mem::FenceProxyAsync | Mem::CpAsyncCommit | Mem::CpAsyncWait(_) | Mem::CpAsyncWaitAll => {}
    }
}

fn warp(op: &WarpOp, see: &mut See<'_>) {
    match *op {
        WarpOp::Shfl { d, p, a, b, c, members, .. } => {
            same(see, Word, d, &[a, b, c, members]);
            p.iter().for_each(|p| see(Def, Pred, *p));
        }
        WarpOp::Vote { op, to, src, members, .. } => {
            let ballot = op == crate::isa::inst::VoteOp::Ballot;
            see(Def, if ballot { Word } else { Pred }, to);
            see(Use, Pred, src);
            see(Use, Word, members);
        }
        WarpOp::Match { wide, d, p, a, members, .. } => {
            see(Def, Word, d);
            p.iter().for_each(|p| see(Def, Pred, *p));
            see(Use, of(wide), a);
            see(Use, Word, members);
        }
        WarpOp::Redux { d, a, members, .. } => same(see, Word, d, &[a, members]),
        WarpOp::Elect { d, p, members } => {
            d.iter().for_each(|d| see(Def, Word, *d));
            see(Def, Pred, p);
            see(Use, Word, members);
        }
        WarpOp::SyncWarp { members } => see(Use, Word, members),
        WarpOp::Bar { id, threads, .. } => {
            see(Use, Word, id);
            threads.iter().for_each(|t| see(Use, Word, *t));
        }
        WarpOp::BarRed { op, id, threads, src, d, .. } => {
            see(Use, Word, id);
            threads.iter().for_each(|t| see(Use, Word, *t));
            see(Use, Pred, src);
            see(Def, if op == crate::isa::inst::BarRed::Popc { Word } else { Pred }, d);
        }
    }
}

fn matrix(op: &Matrix, see: &mut See<'_>) {
    match op {
        Matrix::Mma { d, a, b, c, .. } => {
            all(see, Def, Word, d);
            for s in [a.as_slice(), b, c] {
                all(see, Use, Word, s);
            }
        }
        Matrix::Tiled(t) => {
            all(see, Def, typed(t.sum), &t.d);
            all(see, Use, typed(t.factors[0]), &t.a);
            all(see, Use, typed(t.factors[1]), &t.b);
            all(see, Use, typed(t.start), &t.c);
        }
        Matrix::Transpose { d, a } => same(see, Word, *d, &[*a]),
        Matrix::MmaF16 { d, a, b, c, .. } => {
            all(see, Def, Word, d);
            for s in [a.as_slice(), b, c] {
                all(see, Use, Word, s);
            }
        }
    }
}

fn asynchronous(op: &Async, see: &mut See<'_>) {
    match op {
        Async::MbarInit { at, count } => {
            address(*at, see);
            see(Use, Word, *count);
        }
        Async::MbarInval { at } | Async::CpAsyncArrive { at, .. } => address(*at, see),
        Async::MbarArrive { at, expect, count, state, .. } => {
            address(*at, see);
            expect.iter().chain(count).for_each(|s| see(Use, Word, *s));
            state.iter().for_each(|s| see(Def, Wide, *s));
        }
        Async::MbarPending { d, state } => {
            see(Def, Word, *d);
            see(Use, Wide, *state);
        }
        Async::MbarComplete { at, bytes } => {
            address(*at, see);
            see(Use, Word, *bytes);
        }
        Async::MbarWait { at, p, state, parity } => {
            address(*at, see);
            see(Def, Pred, *p);
            see(Use, of(!parity), *state);
        }
        Async::BulkIn { dst, src, bytes, mbar, blocks, .. } => {
            [dst, src, mbar].iter().for_each(|a| address(**a, see));
            see(Use, Word, *bytes);
            blocks.iter().for_each(|b| see(Use, Word, *b));
        }
        Async::BulkOut { dst, src, bytes, .. } => {
            [dst, src].iter().for_each(|a| address(**a, see));
            see(Use, Word, *bytes);
        }
        Async::TileIn { dst, map, at, mbar, blocks } => {
            [dst, map, mbar].iter().for_each(|a| address(**a, see));
            all(see, Use, Word, at);
            blocks.iter().for_each(|b| see(Use, Word, *b));
        }
        Async::TileOut { map, at, src, .. } => {
            [map, src].iter().for_each(|a| address(**a, see));
            all(see, Use, Word, at);
        }
        Async::Deliver { dst, mbar, ty, from, .. } => {
            [dst, mbar].iter().for_each(|a| address(**a, see));
            all(see, Use, typed(*ty), from);
        }
        Async::Wgmma(m) => {
            // Where the sums start from zero, what the accumulator holds does not matter.
            all(see, Def, Word, &m.d);
            match &m.a {
                FactorA::Registers(a) => all(see, Use, Word, a),
                FactorA::Shared { descriptor, .. } => see(Use, Wide, *descriptor),
            }
            see(Use, Wide, m.b);
            see(Use, Pred, m.scale_d.0);
        }
        Async::BulkCommit
        | Async::BulkWait { .. }
        | Async::WgmmaFence
        | Async::WgmmaCommit
        | Async::WgmmaWait { .. }
        | Async::ClusterArrive
        | Async::ClusterWait => {}
    }
}
