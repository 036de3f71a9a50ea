//! A launch as the walk needs it: sizes, parameters, and what memory holds where that decides anything.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One parameter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Argument {
    /// Its bytes.
    Bytes(Vec<u8>),
    /// A tensor map, of which only the bytes of a tile matter.
    TensorMap {
        /// Bytes that one copy moves.
        tile_bytes: u32,
    },
}

impl Argument {
    /// A pointer or another number of 64 bits.
    pub fn word64(value: u64) -> Argument {
        Argument::Bytes(value.to_le_bytes().to_vec())
    }

    /// A number of 32 bits, a float's bits included.
    pub fn word32(value: u32) -> Argument {
        Argument::Bytes(value.to_le_bytes().to_vec())
    }
}

/// A launch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Launch {
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads along x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, bytes.
    pub dynamic_shared: u32,
    /// Parameters in order.
    pub arguments: Vec<Argument>,
    /// Memory whose contents are known, by address: offsets of packed sequences, tables of blocks.
    pub memory: BTreeMap<u64, Vec<u8>>,
    /// Branches that memory decides, by address in the machine code: whether they are taken.
    pub decided: BTreeMap<u32, bool>,
}

impl Launch {
    /// Threads of a block.
    pub fn threads(&self) -> u32 {
        self.block.iter().product()
    }

    /// Blocks of the grid.
    pub fn blocks(&self) -> u64 {
        self.grid.iter().map(|n| u64::from(*n)).product()
    }

    /// The coordinates of a block by its number, x fastest.
    pub fn coordinates(&self, block: u64) -> [u32; 3] {
        let [x, y, _] = self.grid.map(|n| u64::from(n.max(1)));
        [(block % x) as u32, (block / x % y) as u32, (block / (x * y)) as u32]
    }

    /// A little-endian number of up to eight bytes at an address.
    pub(crate) fn read(&self, address: u64, size: usize) -> Option<u64> {
        let (base, bytes) = self.memory.range(..=address).next_back()?;
        let from = usize::try_from(address - base).ok()?;
        let found = bytes.get(from..from.checked_add(size)?)?;
        Some(found.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }
}
