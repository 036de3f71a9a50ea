//! Copies under way and the transaction barriers that tell of their end.

use crate::exec::atomic;
use crate::isa::inst::AtomOp;
use crate::num::Type;
use crate::report::trap::{Exec, Fault, fail_at};

/// One contiguous piece of a copy, both ends checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) dst: *mut u8,
    /// Null: fill.
    pub(crate) src: *const u8,
    pub(crate) bytes: u32,
}

/// How a copy changes its destination.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    Replace,
    Reduce(AtomOp, Type),
}

/// Who is told of a copy's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Mbar { address: u32, bytes: u32 },
    Group { warp: u32, lane: u8, group: u32 },
}

/// The group of a copy not yet committed.
pub(crate) const OPEN: u32 = u32::MAX;

/// A copy under way.
#[derive(Clone, Debug)]
pub(crate) struct Flight {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) change: Change,
    pub(crate) fill: u8,
    pub(crate) end: End,
    pub(crate) lane: usize,
}

impl Flight {
    pub(crate) fn land(&self) {
        for p in &self.pieces {
            let n = p.bytes as usize;
            // SAFETY: both ends were checked at issue for `bytes`, and no buffer moves while the block runs.
            unsafe {
                match self.change {
                    _ if p.src.is_null() => p.dst.write_bytes(self.fill, n),
                    Change::Replace => std::ptr::copy(p.src, p.dst, n),
                    Change::Reduce(op, ty) => {
                        for at in (0..n).step_by(usize::from(ty.bytes())) {
                            let v = atomic::read(p.src.add(at), ty);
                            atomic::update(p.dst.add(at), op, ty, v, 0);
                        }
                    }
                }
            }
        }
    }
}

/// One mbarrier.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mbar {
    pub(crate) address: u32,
    /// Arrivals each phase needs, and those still missing in this one.
    pub(crate) count: u32,
    pub(crate) pending: u32,
    /// Bytes announced and not yet landed.
    pub(crate) bytes: i64,
    pub(crate) phase: u64,
}

impl Mbar {
    pub(crate) fn settle(&mut self) {
        if self.pending == 0 && self.bytes == 0 {
            self.phase += 1;
            self.pending = self.count;
        }
    }
}

pub(crate) fn wrong<T>(lane: usize, address: u32, what: impl Into<String>) -> Exec<T> {
    fail_at(lane, Fault::Mbarrier { address, what: what.into() })
}
