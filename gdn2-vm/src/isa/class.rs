//! The kind of work each operation is.

use crate::isa::hopper::Async;
use crate::isa::inst::{Alu, FloatUnary, Matrix, Mem, Op, Slow, Space, WarpOp};
use crate::report::Class;

/// The kind of work an operation is.
pub(crate) fn class(op: &Op) -> Class {
    let of = |space: &Space| match space {
        Space::Shared => Class::Shared,
        Space::Global | Space::Generic => Class::Global,
        Space::Local | Space::Const | Space::Param => Class::Local,
    };
    match op {
        Op::Alu(Alu::Add(..) | Alu::Sub(..) | Alu::Mul(..) | Alu::Fma(..) | Alu::CmpF32(..)) => Class::Float,
        Op::Alu(Alu::Ex2(..)) => Class::Special,
        Op::Alu(Alu::Bf16x2(..) | Alu::F32FromS32(..))
        | Op::Slow(Slow::Cvt { .. } | Slow::CvtPack { .. })
        | Op::Slow(Slow::ToFloat8 { .. } | Slow::FromFloat8 { .. }) => Class::Convert,
        Op::Slow(Slow::F32Un(f, ..) | Slow::F64Un(f, ..) | Slow::F64Approx(f, ..) | Slow::HalfUn(f, ..)) => match f {
            FloatUnary::Neg | FloatUnary::Abs => Class::Float,
            _ => Class::Special,
        },
        Op::Slow(
            Slow::F32(..) | Slow::FmaF32(..) | Slow::F64(..) | Slow::FmaF64(..) | Slow::Half(..) | Slow::FmaHalf(..),
        ) => Class::Float,
        Op::Slow(Slow::Directed(..)) => Class::Float,
        Op::Alu(_) | Op::Slow(_) | Op::Nop => Class::Integer,
        Op::Mem(
            Mem::Ld { space, .. } | Mem::St { space, .. } | Mem::Atom { space, .. } | Mem::AtomVector { space, .. },
        ) => of(space),
        Op::Mem(Mem::Fragment(f)) => of(&f.space),
        Op::Mem(Mem::LdMatrix { .. } | Mem::StMatrix { .. }) => Class::Shared,
        Op::Mem(Mem::CpAsync { .. })
        | Op::Async(
            Async::Deliver { .. }
            | Async::BulkIn { .. }
            | Async::BulkOut { .. }
            | Async::TileIn { .. }
            | Async::TileOut { .. },
        ) => Class::Copy,
        Op::Mem(_) | Op::Warp(WarpOp::Bar { .. } | WarpOp::BarRed { .. } | WarpOp::SyncWarp { .. }) => Class::Wait,
        Op::Matrix(Matrix::Mma { .. } | Matrix::MmaF16 { .. } | Matrix::Tiled(_)) | Op::Async(Async::Wgmma(_)) => {
            Class::Matrix
        }
        Op::Warp(_) | Op::Matrix(Matrix::Transpose { .. }) => Class::Exchange,
        Op::Async(_) => Class::Wait,
        Op::Flow(_) => Class::Branch,
    }
}
