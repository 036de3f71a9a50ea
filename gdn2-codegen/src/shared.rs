//! Dynamic shared memory as named regions.

use serde::{Deserialize, Serialize};

/// A named part of a launch's dynamic shared memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// Name in the CUDA text.
    pub name: String,
    /// First byte.
    pub offset: u32,
    /// Bytes.
    pub bytes: u32,
}

/// What a map starts on a multiple of, bytes, where nothing asks for more.
pub(crate) const ALIGNMENT: u32 = 128;

/// Bytes up to the end of the last region of a map.
pub(crate) fn shared_bytes(map: &[Region]) -> u32 {
    map.last().map_or(0, |region| region.offset + region.bytes)
}
