//! What a run can be watched for: every step, access and synchronisation passes an [`Observer`].
//!
//! The executor is compiled once for each observer; [`Silent`] costs nothing.

use crate::exec::async_state::Mbar;
use crate::exec::lanes::Regs;
use crate::isa::inst::{Inst, Order, Space};

/// Who makes an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Agent {
    /// The warp itself, at this instruction.
    Warp,
    /// `cp.async` of the warp.
    CpAsync,
    /// A bulk or tensor copy: the asynchronous proxy.
    Bulk,
    /// `wgmma` reading A; each warp reads its own rows.
    WgmmaA,
    /// `wgmma` reading B: reported by all four warps, read once by the hardware.
    WgmmaB,
}

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    Atomic,
}

/// Which instruction of which warp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) pc: u32,
    pub(crate) warp: u32,
}

/// What a check may look at besides: the warp's registers, and the touched bytes as they are before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Data<'a> {
    pub(crate) regs: &'a Regs,
    /// Address 0 of the region that the access lies in.
    origin: *const u8,
}

impl<'a> Data<'a> {
    /// # Safety
    /// Every byte of the access that this goes with lies at `origin` plus its address.
    pub(crate) unsafe fn new(regs: &'a Regs, origin: *const u8) -> Self {
        Self { regs, origin }
    }
}

/// One warp-wide access: a start address for each lane of `mask`, `bytes` from each.
#[derive(Debug)]
pub(crate) struct Access<'a> {
    pub(crate) agent: Agent,
    pub(crate) kind: Kind,
    pub(crate) order: Order,
    /// Never generic.
    pub(crate) space: Space,
    /// Device addresses, or offsets within shared (from 0, its first 1024 bytes unused) or local memory.
    pub(crate) address: &'a [u64; 32],
    pub(crate) bytes: u32,
    pub(crate) mask: u32,
    pub(crate) data: Option<Data<'a>>,
}

impl Access<'_> {
    /// A byte of this lane's range as it is now; `None` where that cannot be known.
    pub(crate) fn byte(&self, lane: usize, offset: u32) -> Option<u8> {
        let data = self.data.filter(|_| offset < self.bytes && self.mask >> lane & 1 != 0)?;
        // SAFETY: the byte is one of the access, which `Data::new` was told lie at `origin`.
        Some(unsafe { data.origin.wrapping_add((self.address[lane] + u64::from(offset)) as usize).read() })
    }
}

/// What orders accesses.
#[allow(clippy::enum_variant_names, reason = "__syncwarp is what the variant is called everywhere")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sync {
    /// Arrived at a block barrier (and waits, or not); `generation` numbers the barrier's phases.
    BarArrive {
        id: u8,
        generation: u64,
        wait: bool,
        /// The arrival says how many threads end the phase.
        counted: bool,
    },
    /// Went on after the barrier.
    BarPass {
        id: u8,
        generation: u64,
    },
    /// All of `members` met.
    WarpSync {
        members: u32,
    },
    Fence,
    FenceProxyAsync,
    CopyCommit,
    /// All but this many groups have landed.
    CopyWait {
        keep: u32,
    },
    /// All copies have landed.
    CopyWaitAll,
    /// An mbarrier's life begins or ends.
    MbarInit {
        address: u32,
    },
    MbarInval {
        address: u32,
    },
    /// Lanes arrived in this phase (or only announced bytes).
    MbarArrive {
        address: u32,
        phase: u64,
        arrives: bool,
    },
    /// Arrives once the lane's earlier `cp.async` have landed.
    CopyArrive {
        address: u32,
        phase: u64,
    },
    /// Saw this phase complete.
    MbarPass {
        address: u32,
        phase: u64,
    },
    /// The bulk accesses just reported complete through this mbarrier's phase.
    BulkToMbar {
        address: u32,
        phase: u64,
    },
    /// The bulk accesses just reported belong to the lane's open bulk group.
    BulkToGroup,
    BulkCommit,
    /// All but `keep` groups have been read (`read`) or are complete.
    BulkWait {
        keep: u32,
        read: bool,
    },
    WgmmaFence,
    /// The `wgmma` accesses just reported are of this instruction.
    WgmmaIssue,
    WgmmaCommit,
    WgmmaWait {
        keep: u32,
    },
}

/// Watches one block.
pub(crate) trait Observer: Send + Sized {
    /// Whether anything is watched: lets the executor skip what only an observer needs.
    const ON: bool;
    /// What all blocks of the launch share.
    type Launch: Send + std::marker::Sync;
    /// A block begins.
    fn start(launch: &Self::Launch, block: [u32; 3], warps: u32) -> Self;
    /// An instruction is about to run with these lanes; those of `active` outside `mask` are predicated off.
    fn step(&mut self, _at: At, _mask: u32, _active: u32, _inst: &Inst, _regs: &Regs) {}
    /// Memory is touched.
    fn access(&mut self, _at: At, _access: &Access<'_>) {}
    /// Something orders accesses.
    fn sync(&mut self, _at: At, _mask: u32, _sync: Sync) {}
    /// The block's threads have left, and these mbarriers as they are.
    fn end(&mut self, _mbars: &[Mbar]) {}
    /// The block is over: what only its run needs is let go.
    fn leave(&mut self) {}
    /// A block's findings join those of the blocks before it.
    fn merge(&mut self, other: Self);
}

/// Watches nothing.
#[derive(Debug)]
pub(crate) struct Silent;

impl Observer for Silent {
    const ON: bool = false;
    type Launch = ();
    fn start(&(): &(), _: [u32; 3], _: u32) -> Self {
        Self
    }
    fn merge(&mut self, _: Self) {}
}
