//! The kind of work each operation is. Every operation is named here: a new one must be given its kind.

use crate::isa::hopper::Async;
use crate::isa::inst::{Alu, FloatUnary, Matrix, Mem, Op, Slow, Space, WarpOp};
use crate::report::Class;

/// The kind of work an operation is.
pub(crate) fn class(op: &Op) -> Class {
    match op {
        Op::Alu(op) => alu(op),
        Op::Slow(op) => slow(op),
        Op::Mem(op) => memory(op),
        Op::Warp(WarpOp::Bar { .. } | WarpOp::BarRed { .. } | WarpOp::SyncWarp { .. }) => Class::Wait,
        Op::Warp(
            WarpOp::Shfl { .. }
            | WarpOp::Vote { .. }
            | WarpOp::Match { .. }
            | WarpOp::Redux { .. }
            | WarpOp::Elect { .. },
        ) => Class::Exchange,
        Op::Matrix(Matrix::Mma { .. } | Matrix::MmaF16 { .. } | Matrix::Tiled(_)) => Class::Matrix,
        Op::Matrix(Matrix::Transpose { .. }) => Class::Exchange,
        Op::Async(op) => asynchronous(op),
        Op::Flow(_) => Class::Branch,
        Op::Nop => Class::Integer,
    }
}

fn alu(op: &Alu) -> Class {
    match op {
        Alu::Int32(..)
        | Alu::Int64(..)
        | Alu::Un32(..)
        | Alu::Un64(..)
        | Alu::Mad32(..)
        | Alu::Mad64(..)
        | Alu::MulWideU(..)
        | Alu::MulWideS(..)
        | Alu::MadWideU(..)
        | Alu::MadWideS(..)
        | Alu::Lop3(..)
        | Alu::Funnel(..)
        | Alu::Bfi32(..)
        | Alu::Bfe32(..)
        | Alu::Prmt(..)
        | Alu::Cmp32S(..)
        | Alu::Cmp32U(..)
        | Alu::Sel32(..)
        | Alu::Sel64(..)
        | Alu::Pred(..)
        | Alu::Pack32(..)
        | Alu::Unpack32(..)
        | Alu::WidenU(..)
        | Alu::WidenS(..)
        | Alu::Narrow(..)
        | Alu::Pack64(..)
        | Alu::Unpack64(..) => Class::Integer,
        // The upper half of a float: machine code shifts.
        Alu::F32FromBf16(..) => Class::Integer,
        Alu::Add(..)
        | Alu::Sub(..)
        | Alu::Mul(..)
        | Alu::Fma(..)
        | Alu::AddFtz(..)
        | Alu::MulFtz(..)
        | Alu::FmaFtz(..)
        | Alu::CmpF32(..)
        | Alu::Min(..)
        | Alu::Max(..)
        | Alu::Neg(..)
        | Alu::Abs(..) => Class::Float,
        Alu::Ex2(..) => Class::Special,
        Alu::Bf16x2(..)
        | Alu::F16x2(..)
        | Alu::Bf16FromF32(..)
        | Alu::F16FromF32(..)
        | Alu::F32FromF16(..)
        | Alu::Tf32(..)
        | Alu::F32FromU32(..)
        | Alu::F32FromS32(..) => Class::Convert,
    }
}

fn slow(op: &Slow) -> Class {
    match op {
        Slow::Int16(..)
        | Slow::Un16(..)
        | Slow::Mad16(..)
        | Slow::Wide16(..)
        | Slow::MadHi(..)
        | Slow::Count(..)
        | Slow::Bfi64(..)
        | Slow::Bfe64(..)
        | Slow::PrmtMode(..)
        | Slow::Dp4a(..)
        | Slow::Dp2a(..)
        | Slow::Sad(..)
        | Slow::Mul24 { .. }
        | Slow::Bmsk(..)
        | Slow::Szext(..)
        | Slow::Packed(..)
        | Slow::Words(..)
        | Slow::Lop3Pred { .. }
        | Slow::Mov128(..)
        | Slow::Slct { .. }
        | Slow::PredMov(..)
        | Slow::Pack { .. }
        | Slow::Unpack { .. }
        | Slow::Carry { .. }
        | Slow::MadCarry { .. }
        | Slow::IsSpace(..)
        | Slow::Clock(..)
        | Slow::ActiveMask(..) => Class::Integer,
        Slow::F32(..)
        | Slow::FmaF32(..)
        | Slow::F32x2(..)
        | Slow::FmaF32x2(..)
        | Slow::F64(..)
        | Slow::FmaF64(..)
        | Slow::Directed(..)
        | Slow::Half(..)
        | Slow::FmaHalf(..)
        | Slow::SetpPacked { .. }
        | Slow::SetPacked { .. }
        | Slow::Testp(..) => Class::Float,
        Slow::Setp { ty, .. } | Slow::Set { ty, .. } => {
            if ty.float() {
                Class::Float
            } else {
                Class::Integer
            }
        }
        Slow::F32Un(f, ..) | Slow::F64Un(f, ..) | Slow::F64Approx(f, ..) | Slow::HalfUn(f, ..) => match f {
            FloatUnary::Neg | FloatUnary::Abs => Class::Float,
            FloatUnary::Rcp
            | FloatUnary::Sqrt
            | FloatUnary::Rsqrt
            | FloatUnary::Ex2
            | FloatUnary::Lg2
            | FloatUnary::Sin
            | FloatUnary::Cos
            | FloatUnary::Tanh => Class::Special,
        },
        Slow::Cvt { .. } | Slow::CvtPack { .. } | Slow::ToFloat8 { .. } | Slow::FromFloat8 { .. } => Class::Convert,
    }
}

fn memory(op: &Mem) -> Class {
    let of = |space: &Space| match space {
        Space::Shared => Class::Shared,
        Space::Global | Space::Generic => Class::Global,
        Space::Local | Space::Const | Space::Param => Class::Local,
    };
    match op {
        Mem::Ld { space, .. }
        | Mem::St { space, .. }
        | Mem::Atom { space, .. }
        | Mem::Atom128 { space, .. }
        | Mem::AtomVector { space, .. } => of(space),
        Mem::Fragment(f) => of(&f.space),
        Mem::LdMatrix { .. } | Mem::StMatrix { .. } => Class::Shared,
        Mem::CpAsync { .. } => Class::Copy,
        Mem::Print { .. } => Class::Local,
        Mem::Fence | Mem::FenceProxyAsync | Mem::CpAsyncCommit | Mem::CpAsyncWait(_) | Mem::CpAsyncWaitAll => {
            Class::Wait
        }
    }
}

fn asynchronous(op: &Async) -> Class {
    match op {
        Async::Deliver { .. }
        | Async::BulkIn { .. }
        | Async::BulkOut { .. }
        | Async::TileIn { .. }
        | Async::TileOut { .. } => Class::Copy,
        Async::Wgmma(_) => Class::Matrix,
        Async::MbarInit { .. }
        | Async::MbarInval { .. }
        | Async::MbarArrive { .. }
        | Async::MbarPending { .. }
        | Async::MbarComplete { .. }
        | Async::MbarWait { .. }
        | Async::CpAsyncArrive { .. }
        | Async::BulkCommit
        | Async::BulkWait { .. }
        | Async::WgmmaFence
        | Async::WgmmaCommit
        | Async::WgmmaWait { .. }
        | Async::ClusterArrive
        | Async::ClusterWait => Class::Wait,
    }
}
