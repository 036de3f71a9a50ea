//! A decoded kernel, and what its fixed register slots and address ranges are.

use crate::isa::inst::{Inst, Site, Slot};

/// Shared memory starts here or above: the driver keeps the first KiB, and a null pointer must not be valid.
pub(crate) const SHARED_LOWEST: u32 = 1024;
/// First byte of local memory, so that a null pointer is not valid.
pub(crate) const LOCAL_BASE: u64 = 64;
/// Index of the window of the first module variable.
pub(crate) const VARIABLE_WINDOW: u64 = 1 << 20;

/// A special register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NWarpId,
    LaneMaskEq,
    LaneMaskLe,
    LaneMaskLt,
    LaneMaskGe,
    LaneMaskGt,
    /// Identifiers that are zero here: one SM, one grid, blocks alone in their cluster.
    Zero,
    One,
    DynamicShared,
    TotalShared,
}

/// A slot whose content is fixed when the warp starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fixed {
    Bits(u64),
    Special(Special),
}

/// A decoded kernel.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) insts: Vec<Inst>,
    pub(crate) sites: Vec<Site>,
    /// Slots of the predicate, word and wide files.
    pub(crate) slots: [u32; 3],
    /// Fixed words and fixed wides.
    pub(crate) fixed: [Vec<(Fixed, Slot)>; 2],
    /// Name, offset and bytes of each parameter.
    pub(crate) params: Vec<(String, u32, u32)>,
    /// Type of each as written, and whether it is said to be a pointer.
    pub(crate) kinds: Vec<(String, bool)>,
    /// First byte of shared memory.
    pub(crate) shared_base: u32,
    /// Static shared bytes before the dynamic ones.
    pub(crate) shared_static: u32,
    pub(crate) local_bytes: u32,
    pub(crate) threads: Option<([u32; 3], bool)>,
}

/// Slots of register 0 of each file: predicate 0 is true, predicate 1 and word 0 and wide 0 take what nobody reads.
pub(crate) const FIRST: [u32; 3] = [2, 1, 1];
pub(crate) const TRUE: Slot = 0;
pub(crate) const SINK_PRED: Slot = 1;
pub(crate) const SINK: Slot = 0;
