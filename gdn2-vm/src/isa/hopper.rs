//! Hopper's decoded instructions: mbarriers, bulk and tensor copies, warpgroup matrix products.

use crate::isa::operand::{Addr, Factor, Slot, Space};
use crate::isa::operators::AtomOp;
use crate::num::Type;

/// The asynchronous set.
#[derive(Clone, Debug)]
pub(crate) enum Async {
    MbarInit {
        at: Addr,
        count: Slot,
    },
    MbarInval {
        at: Addr,
    },
    /// Bytes expected first (if any), then arrivals taken (0: none); state token out.
    MbarArrive {
        at: Addr,
        expect: Option<Slot>,
        count: Option<Slot>,
        arrive: bool,
        drop: bool,
        state: Option<Slot>,
    },
    /// The arrivals that were pending before the one that gave this state.
    MbarPending {
        d: Slot,
        state: Slot,
    },
    MbarComplete {
        at: Addr,
        bytes: Slot,
    },
    /// A 64-bit state or a 32-bit parity.
    MbarWait {
        at: Addr,
        p: Slot,
        state: Slot,
        parity: bool,
    },
    /// Arrives when the lane's earlier cp.async have landed; without `.noinc` the count grows first.
    CpAsyncArrive {
        at: Addr,
        increment: bool,
    },
    /// To shared memory from global, or from that of a block of the cluster, which is this one; what is there may be joined.
    BulkIn {
        dst: Addr,
        src: Addr,
        from: Space,
        bytes: Slot,
        mbar: Addr,
        reduce: Option<(AtomOp, Type)>,
        /// Blocks of the cluster that get it, a bit each; all without.
        blocks: Option<Slot>,
    },
    /// Shared to global, or a reduction there.
    BulkOut {
        dst: Addr,
        src: Addr,
        bytes: Slot,
        reduce: Option<(AtomOp, Type)>,
    },
    TileIn {
        dst: Addr,
        map: Addr,
        at: Vec<Slot>,
        mbar: Addr,
        /// As of `BulkIn`.
        blocks: Option<Slot>,
    },
    TileOut {
        map: Addr,
        at: Vec<Slot>,
        src: Addr,
        reduce: Option<AtomOp>,
    },
    BulkCommit,
    BulkWait {
        keep: u32,
        read: bool,
    },
    /// Each lane's values to shared memory, or one joined with what is there, told to an mbarrier.
    Deliver {
        dst: Addr,
        mbar: Addr,
        ty: Type,
        reduce: Option<AtomOp>,
        from: Vec<Slot>,
    },
    WgmmaFence,
    WgmmaCommit,
    WgmmaWait {
        keep: u32,
    },
    Wgmma(Box<Wgmma>),
    ClusterArrive,
    ClusterWait,
}

/// Where the rows of A come from.
#[derive(Clone, Debug)]
pub(crate) enum FactorA {
    Registers(Vec<Slot>),
    /// Descriptor and whether rows run along M in memory.
    Shared {
        descriptor: Slot,
        mn_major: bool,
    },
}

/// What a warpgroup multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Factors {
    /// 16-bit factors or tf32, both alike.
    Same(Factor),
    /// Bytes: integers or 8-bit floats, A's and B's.
    Bytes(Type, Type),
}

/// m64nNkK: one instruction of four warps.
#[derive(Clone, Debug)]
pub(crate) struct Wgmma {
    pub(crate) factors: Factors,
    pub(crate) n: u32,
    pub(crate) k: u8,
    /// f32, s32, or packed f16.
    pub(crate) sum: Type,
    /// Integer sums stop at their limits.
    pub(crate) saturate: bool,
    pub(crate) d: Vec<Slot>,
    pub(crate) a: FactorA,
    pub(crate) b: Slot,
    pub(crate) b_mn_major: bool,
    /// False: d starts from zero.
    pub(crate) scale_d: (Slot, u32),
    pub(crate) negate: bool,
}
