//! What a finished run tells.

use serde::Serialize;

/// A finished run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Warp instructions executed.
    pub instructions: u64,
    /// Present when the launch asked to `count`.
    pub counters: Option<Counters>,
}

/// Totals over the grid, and the same per PTX instruction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// 32-byte sectors of global memory touched by reads, per warp request, no cache assumed.
    pub global_read_sectors: u64,
    /// The same for writes.
    pub global_write_sectors: u64,
    /// Bytes of global memory asked for by reads.
    pub global_read_bytes: u64,
    /// Bytes of global memory written.
    pub global_write_bytes: u64,
    /// Passes over the 32 shared-memory banks.
    pub shared_wavefronts: u64,
}
