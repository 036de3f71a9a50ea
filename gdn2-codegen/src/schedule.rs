//! How a pass is carried out: flat structs of numbers, enumerable, storable, refusable. No rule in here.

use serde::{Deserialize, Serialize};

/// The numbers of one pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "pass", rename_all = "lowercase")]
pub enum Schedule {
    /// Chunked forward.
    Forward(Forward),
    /// One token or a short run.
    Decode(Decode),
}

/// Chunked forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Forward {
    /// Tokens per chunk: 16, 32, 64 or 128.
    pub chunk: u32,
    /// Blocks that share one head's value dim.
    pub value_split: u32,
    /// Warps per block.
    pub warps: u32,
    /// Buffers of the chunk inputs in flight.
    pub stages: u32,
}

/// Decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Decode {
    /// Blocks that share one head's value dim.
    pub value_split: u32,
    /// Warps per block.
    pub warps: u32,
}
