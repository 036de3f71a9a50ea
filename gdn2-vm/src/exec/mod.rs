//! Execution: blocks, warps and lanes, and what each operation does to registers and memory.

pub(crate) mod access;
pub(crate) mod alu;
pub(crate) mod async_state;
pub(crate) mod atomic;
pub(crate) mod block;
pub(crate) mod bulk;
pub(crate) mod collective;
pub(crate) mod count;
pub(crate) mod float;
pub(crate) mod footprint;
pub(crate) mod fused;
pub(crate) mod lanes;
pub(crate) mod level;
pub(crate) mod matrix;
pub(crate) mod mbarrier;
pub(crate) mod memory;
pub(crate) mod mma;
pub(crate) mod observe;
pub(crate) mod print;
pub(crate) mod slow;
pub(crate) mod step;
pub(crate) mod tiles;
pub(crate) mod warp;
pub(crate) mod wgmma;
