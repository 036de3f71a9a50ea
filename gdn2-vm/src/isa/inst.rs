//! The decoded instruction table: typed operations over dense register slots.
//!
//! A slot is an index into one of a warp's three register files: predicates (one bit a lane), words
//! (32 bits a lane; 16-bit registers live here zero-extended) and wides (64 bits a lane). Immediates and
//! special registers are slots too, filled when the warp starts.

pub(crate) use crate::isa::operand::{Addr, Elem, Factor, Slot, Space};
pub(crate) use crate::isa::operators::{
    AtomOp, BarRed, Bool, Cmp, Count, Directed, FloatOp, FloatUnary, IntOp, IntUnary, Mode, Order, PackedOp, PrmtMode,
    ReduxOp, Round, ShflMode, Testp, VoteOp,
};
use crate::num::Type;
use crate::num::words::Words;
use crate::ptx::calls::Loc;

/// One decoded instruction.
#[derive(Clone, Debug)]
pub(crate) struct Inst {
    pub(crate) op: Op,
    /// Predicate slot; slot 0 is constant true.
    pub(crate) guard: Slot,
    /// XORed into the guard: all ones for `@!p`.
    pub(crate) flip: u32,
}

/// Where an instruction was written.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) ptx_line: u32,
    /// Line of the source; its file is an index into the module's.
    pub(crate) loc: Option<Loc>,
    pub(crate) text: String,
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Alu(Alu),
    Slow(Slow),
    Mem(Mem),
    Flow(Flow),
    Warp(WarpOp),
    Matrix(Matrix),
    Async(crate::isa::hopper::Async),
    /// Pragmas, prefetches, hints.
    Nop,
}

/// Register to register, the hot set: no faults, no cross-lane traffic.
#[derive(Clone, Debug)]
pub(crate) enum Alu {
    Int32(IntOp, Slot, Slot, Slot),
    Int64(IntOp, Slot, Slot, Slot),
    Un32(IntUnary, Slot, Slot),
    Un64(IntUnary, Slot, Slot),
    /// d = a * b + c, low 32 bits.
    Mad32(Slot, Slot, Slot, Slot),
    Mad64(Slot, Slot, Slot, Slot),
    MulWideU(Slot, Slot, Slot),
    MulWideS(Slot, Slot, Slot),
    MadWideU(Slot, Slot, Slot, Slot),
    MadWideS(Slot, Slot, Slot, Slot),
    Lop3(u8, Slot, Slot, Slot, Slot),
    /// Funnel shift: left?, clamp?, d, low, high, amount.
    Funnel(bool, bool, Slot, Slot, Slot, Slot),
    Bfi32([Slot; 5]),
    /// signed?, d, a, position, length.
    Bfe32(bool, [Slot; 4]),
    Prmt([Slot; 4]),
    Add(Slot, Slot, Slot),
    Sub(Slot, Slot, Slot),
    Mul(Slot, Slot, Slot),
    Fma(Slot, Slot, Slot, Slot),
    Ex2(bool, Slot, Slot),
    Cmp32S(Cmp, Slot, Slot, Slot),
    Cmp32U(Cmp, Slot, Slot, Slot),
    CmpF32(Cmp, Slot, Slot, Slot),
    Sel32(Slot, Slot, Slot, Slot),
    Sel64(Slot, Slot, Slot, Slot),
    /// d = a op (b ^ flip)
    Pred(Bool, Slot, Slot, Slot, u32),
    /// Two f32 to a packed pair, nearest even: the first source in the high half.
    Bf16x2(Slot, Slot, Slot),
    F16x2(Slot, Slot, Slot),
    Bf16FromF32(Slot, Slot),
    F16FromF32(Slot, Slot),
    F32FromBf16(Slot, Slot),
    F32FromF16(Slot, Slot),
    /// f32 to tf32, ties away.
    Tf32(Slot, Slot),
    /// Two halves to a word, the first in the low half, and back.
    Pack32(Slot, Slot, Slot),
    Unpack32(Slot, Slot, Slot),
    F32FromU32(Slot, Slot),
    /// Nearest-even arithmetic that flushes subnormals of sources and result.
    AddFtz(Slot, Slot, Slot),
    MulFtz(Slot, Slot, Slot),
    FmaFtz(Slot, Slot, Slot, Slot),
    Min(Slot, Slot, Slot),
    Max(Slot, Slot, Slot),
    Neg(Slot, Slot),
    Abs(Slot, Slot),
    F32FromS32(Slot, Slot),
    WidenU(Slot, Slot),
    WidenS(Slot, Slot),
    Narrow(Slot, Slot),
    /// One 64-bit register from two words, and back.
    Pack64(Slot, Slot, Slot),
    Unpack64(Slot, Slot, Slot),
}

/// The rest: every lane through a general scalar function.
#[derive(Clone, Debug)]
pub(crate) enum Slow {
    Int16(IntOp, Slot, Slot, Slot),
    Un16(IntUnary, Slot, Slot),
    Mad16(Slot, Slot, Slot, Slot),
    /// signed?, d(32), a(16), b(16), c(32) or none
    Wide16(bool, Slot, Slot, Slot, Option<Slot>),
    /// signed?, bits, d, a, b, c: high half plus c.
    MadHi(bool, u8, Slot, Slot, Slot, Slot),
    /// Population count and its kin: operation, source is wide?, d(32), a.
    Count(Count, bool, Slot, Slot),
    Bfi64([Slot; 5]),
    Bfe64(bool, [Slot; 4]),
    PrmtMode(PrmtMode, [Slot; 4]),
    /// Dot product of four bytes: a signed?, b signed?, d, a, b, c.
    Dp4a([bool; 2], [Slot; 4]),
    /// Dot product of two halves and two bytes: the high two bytes?, a signed?, b signed?, d, a, b, c.
    Dp2a(bool, [bool; 2], [Slot; 4]),
    /// Type, d, a, b, c.
    Sad(Type, [Slot; 4]),
    /// Product of 24-bit integers plus c: the high 32 of its 48 bits?, signed?, stops at the limits?
    Mul24 {
        high: bool,
        signed: bool,
        sat: bool,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Option<Slot>,
    },
    /// A mask from a position on of a width: clamp (else wrap)?, d, position, width.
    Bmsk(bool, [Slot; 3]),
    /// Sign- or zero-extension from a width: clamp (else wrap)?, signed?, d, a, width.
    Szext(bool, bool, [Slot; 3]),
    Packed(PackedOp, Slot, Slot, Slot),
    /// A function of three words; d and the sources, the unused ones repeated.
    Words(Words, Slot, [Slot; 3]),
    /// `lop3` whose result, where it is not zero, is one side of a predicate: table, d, a, b, c; p, what joins it.
    Lop3Pred {
        table: u8,
        d: Slot,
        sources: [Slot; 3],
        p: Slot,
        with: (Bool, Slot, u32),
    },
    /// Pairs of f32 in 64 bits: fma where there is a third source.
    F32x2(FloatOp, Mode, Slot, [Slot; 2]),
    FmaF32x2(Mode, Slot, [Slot; 3]),
    /// 128 bits are two wides: d and a, the low one first.
    Mov128([Slot; 2], [Slot; 2]),
    /// Two floats (b unused where a holds both) to a pair of 8-bit floats, the first in the high byte, and back.
    ToFloat8 {
        to: Type,
        from: Type,
        mode: Mode,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    FromFloat8 {
        from: Type,
        mode: Mode,
        d: Slot,
        a: Slot,
    },
    F32(FloatOp, Mode, Slot, Slot, Slot),
    F32Un(FloatUnary, Mode, Slot, Slot),
    FmaF32(Mode, Slot, Slot, Slot, Slot),
    F64(FloatOp, Slot, Slot, Slot),
    F64Un(FloatUnary, Slot, Slot),
    /// `rcp` and `rsqrt` of the high word alone, subnormals flushed.
    F64Approx(FloatUnary, Slot, Slot),
    FmaF64(Slot, Slot, Slot, Slot),
    /// f64 that does not round to nearest: d and three sources, the unused ones repeated.
    Directed(Directed, Round, Slot, [Slot; 3]),
    /// Half-precision: type, lanes packed two?, d, a, b.
    Half(FloatOp, Type, Mode, Slot, Slot, Slot),
    HalfUn(FloatUnary, Type, Mode, Slot, Slot),
    FmaHalf(Type, Mode, Slot, Slot, Slot, Slot),
    /// Type, comparison, p, q (the complement), a, b, combined with.
    Setp {
        ty: Type,
        cmp: Cmp,
        ftz: bool,
        p: Slot,
        q: Option<Slot>,
        a: Slot,
        b: Slot,
        with: Option<(Bool, Slot, u32)>,
    },
    /// Packed compare: one predicate for each half.
    SetpPacked {
        ty: Type,
        cmp: Cmp,
        ftz: bool,
        p: Slot,
        q: Slot,
        a: Slot,
        b: Slot,
        with: Option<(Bool, Slot, u32)>,
    },
    /// `set`: all ones or 1.0 into d.
    Set {
        ty: Type,
        dest: Type,
        cmp: Cmp,
        ftz: bool,
        d: Slot,
        a: Slot,
        b: Slot,
        with: Option<(Bool, Slot, u32)>,
    },
    /// c decides: a if c >= 0 else b. wide?, float c?, its subnormals are zero?
    Slct {
        wide: bool,
        float: bool,
        ftz: bool,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
    },
    Cvt {
        to: Type,
        from: Type,
        mode: Mode,
        /// Bits of the destination register and of the source's, which may be wider than what they hold.
        bits: [u8; 2],
        d: Slot,
        a: Slot,
    },
    /// Two floats to a packed pair: the first source goes to the high half.
    CvtPack {
        to: Type,
        mode: Mode,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    PredMov(Slot, Slot, u32),
    /// Words of four halves or bytes: width of a part in bits, destination is wide?, parts.
    Pack {
        bits: u32,
        wide: bool,
        d: Slot,
        parts: Vec<Slot>,
    },
    Unpack {
        bits: u32,
        wide: bool,
        parts: Vec<Option<Slot>>,
        a: Slot,
    },
    Testp(Testp, bool, Slot, Slot),
    /// Add and subtract with the carry flag: subtract?, carry in?, carry out?, wide?, d, a, b.
    Carry {
        sub: bool,
        input: bool,
        output: bool,
        wide: bool,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    /// Multiply-add with the carry flag: high half?, signed?, carry in?, carry out?, wide?, d, a, b, c.
    MadCarry {
        high: bool,
        signed: bool,
        input: bool,
        output: bool,
        wide: bool,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
    },
    /// Packed comparison: what a half becomes where it holds.
    SetPacked {
        ty: Type,
        cmp: Cmp,
        ftz: bool,
        one: u32,
        d: Slot,
        a: Slot,
        b: Slot,
        with: Option<(Bool, Slot, u32)>,
    },
    IsSpace(Space, Slot, Slot),
    /// 64-bit clock?
    Clock(bool, Slot),
    ActiveMask(Slot),
}

#[derive(Clone, Debug)]
pub(crate) enum Mem {
    Ld {
        space: Space,
        order: Order,
        elem: Elem,
        addr: Addr,
        to: Vec<Option<Slot>>,
    },
    St {
        space: Space,
        order: Order,
        elem: Elem,
        addr: Addr,
        from: Vec<Slot>,
    },
    Atom {
        space: Space,
        order: Order,
        op: AtomOp,
        ty: Type,
        addr: Addr,
        d: Option<Slot>,
        b: Slot,
        c: Slot,
    },
    /// 128 bits exchanged, where they are the wanted ones if any are.
    Atom128 {
        space: Space,
        order: Order,
        addr: Addr,
        d: [Slot; 2],
        wanted: Option<[Slot; 2]>,
        new: [Slot; 2],
    },
    /// Additions to several neighbours, or extremes: the old values, if wanted, and the other operands.
    AtomVector {
        space: Space,
        order: Order,
        op: AtomOp,
        ty: Type,
        addr: Addr,
        d: Vec<Slot>,
        b: Vec<Slot>,
    },
    /// Matrices, transposed?, destination words.
    LdMatrix {
        trans: bool,
        /// Shared, or generic and of shared memory.
        space: Space,
        addr: Addr,
        to: Vec<Slot>,
    },
    StMatrix {
        trans: bool,
        space: Space,
        addr: Addr,
        from: Vec<Slot>,
    },
    /// A matrix of `wmma`.
    Fragment(Box<Fragment>),
    /// `vprintf`: where the pointers to format and arguments lie, and where the result goes.
    Print {
        format: Addr,
        args: Addr,
        result: Option<Addr>,
    },
    Fence,
    FenceProxyAsync,
    /// Bytes to copy; source bytes in a slot if fewer may be read; an ignore-source predicate.
    CpAsync {
        bytes: u8,
        dst: Addr,
        src: Addr,
        size: Option<Slot>,
        ignore: Option<(Slot, u32)>,
    },
    CpAsyncCommit,
    /// At most this many groups may remain.
    CpAsyncWait(u32),
    CpAsyncWaitAll,
}

#[derive(Clone, Debug)]
pub(crate) enum Flow {
    /// Target, reconvergence point (`u32::MAX`: none), declared uniform.
    Bra {
        target: u32,
        join: u32,
        uniform: bool,
    },
    Exit,
    Trap,
    /// A hint that the warp may be set aside.
    Yield,
}

#[derive(Clone, Debug)]
pub(crate) enum WarpOp {
    Shfl {
        mode: ShflMode,
        d: Slot,
        p: Option<Slot>,
        a: Slot,
        b: Slot,
        c: Slot,
        members: Slot,
    },
    /// Predicate source with its flip; `to` is a predicate, or a word for a ballot.
    Vote {
        op: VoteOp,
        to: Slot,
        src: Slot,
        flip: u32,
        members: Slot,
    },
    /// all?, wide?, d, p, a
    Match {
        all: bool,
        wide: bool,
        d: Slot,
        p: Option<Slot>,
        a: Slot,
        members: Slot,
    },
    Redux {
        op: ReduxOp,
        d: Slot,
        a: Slot,
        members: Slot,
    },
    Elect {
        d: Option<Slot>,
        p: Slot,
        members: Slot,
    },
    SyncWarp {
        members: Slot,
    },
    /// id, threads (a slot, if given), blocks the warp?
    Bar {
        id: Slot,
        threads: Option<Slot>,
        wait: bool,
    },
    BarRed {
        op: BarRed,
        id: Slot,
        threads: Option<Slot>,
        src: Slot,
        flip: u32,
        d: Slot,
    },
}

#[derive(Clone, Debug)]
pub(crate) enum Matrix {
    /// m16n8kK with f32 sums.
    Mma {
        factor: Factor,
        k: u16,
        d: [Slot; 4],
        a: Vec<Slot>,
        b: Vec<Slot>,
        c: [Slot; 4],
    },
    /// m16n8kK, f16 in and f16 sums.
    MmaF16 {
        k: u16,
        d: [Slot; 2],
        a: Vec<Slot>,
        b: Vec<Slot>,
        c: [Slot; 2],
    },
    Tiled(Box<Tiled>),
    Transpose {
        d: Slot,
        a: Slot,
    },
}

/// A product of general shape and types.
#[derive(Clone, Debug)]
pub(crate) struct Tiled {
    pub(crate) m: u16,
    pub(crate) n: u16,
    pub(crate) k: u16,
    /// Types of A and B.
    pub(crate) factors: [Type; 2],
    /// Types of the result and of the addend.
    pub(crate) sum: Type,
    pub(crate) start: Type,
    /// Integer sums stop at their limits.
    pub(crate) saturate: bool,
    /// Bits count where they differ, not where both are set.
    pub(crate) differing: bool,
    pub(crate) d: Vec<Slot>,
    pub(crate) a: Vec<Slot>,
    pub(crate) b: Vec<Slot>,
    pub(crate) c: Vec<Slot>,
}

/// Which part of a product a fragment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// A, or B by columns.
    Factor,
    Sum,
}

/// A matrix between memory and a warp's registers.
#[derive(Clone, Debug)]
pub(crate) struct Fragment {
    pub(crate) store: bool,
    pub(crate) part: Part,
    /// Rows of A or of the sums, columns of B.
    pub(crate) lines: u16,
    /// Elements of a line.
    pub(crate) depth: u16,
    pub(crate) ty: Type,
    /// Lines, not their elements, run along memory.
    pub(crate) across: bool,
    pub(crate) space: Space,
    pub(crate) at: Addr,
    /// Elements from one row (or column) to the next, if not packed.
    pub(crate) stride: Option<Slot>,
    pub(crate) regs: Vec<Slot>,
}
