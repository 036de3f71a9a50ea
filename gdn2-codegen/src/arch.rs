//! The only legality table: each architecture's limits, with their sources.
//!
//! Shared memory, registers and threads: CUDA C++ Programming Guide, "Compute Capabilities", table "Technical
//! Specifications per Compute Capability". Named barriers: PTX ISA, `bar`/`barrier` ("resources 0 through 15").
//! Matrix shapes and register rules of Hopper: PTX ISA, `wgmma.mma_async` and `setmaxnreg`.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// An architecture the compiler generates for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Arch {
    /// Ampere, A100.
    #[serde(rename = "sm_80")]
    Sm80,
    /// Ampere, consumer and A40.
    #[serde(rename = "sm_86")]
    Sm86,
    /// Ada.
    #[serde(rename = "sm_89")]
    Sm89,
    /// Hopper with its architecture-specific instructions.
    #[serde(rename = "sm_90a")]
    Sm90a,
    /// Consumer Blackwell.
    #[serde(rename = "sm_120")]
    Sm120,
}

/// What a kernel may use on an architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Compute capability times ten: 80, 86, 89, 90, 120.
    pub sm: u32,
    /// Dynamic plus static shared memory one block may opt in to, bytes.
    pub shared_per_block: u32,
    /// Shared memory of a streaming multiprocessor, bytes; each resident block also costs `shared_reserved`.
    pub shared_per_sm: u32,
    /// Shared memory the driver keeps for itself per block, bytes.
    pub shared_reserved: u32,
    /// 32-bit registers one thread may hold.
    pub registers_per_thread: u32,
    /// 32-bit registers of a block, and of a streaming multiprocessor.
    pub registers_per_block: u32,
    /// Registers are handed out to a warp in multiples of this many per thread.
    pub register_granule: u32,
    /// Threads of a block.
    pub threads_per_block: u32,
    /// Threads resident on a streaming multiprocessor.
    pub threads_per_sm: u32,
    /// Named barriers of a block, `bar.sync 0` included.
    pub named_barriers: u32,
    /// Warpgroup matrix instructions, where the architecture has them.
    pub wgmma: Option<WgmmaLimits>,
}

/// Hopper's warpgroup matrix instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct WgmmaLimits {
    /// Warps of a warpgroup; its first warp's index is a multiple of this.
    pub warps: u32,
    /// Rows of one instruction.
    pub m: u32,
    /// Columns of one instruction are a multiple of this,
    pub n_step: u32,
    /// up to this.
    pub n_max: u32,
    /// Depth of one instruction for 16-bit operands.
    pub k: u32,
    /// `setmaxnreg` takes multiples of this,
    pub setmaxnreg_step: u32,
    /// from this
    pub setmaxnreg_min: u32,
    /// to this.
    pub setmaxnreg_max: u32,
}

const KB: u32 = 1024;

/// Rows that all five architectures share; each architecture states only what differs.
const SHARED_ROWS: Limits = Limits {
    sm: 0,
    shared_per_block: 0,
    shared_per_sm: 0,
    shared_reserved: KB,
    registers_per_thread: 255,
    registers_per_block: 65_536,
    register_granule: 8,
    threads_per_block: 1024,
    threads_per_sm: 1536,
    named_barriers: 16,
    wgmma: None,
};

impl Arch {
    /// Every architecture, oldest first.
    pub const ALL: [Arch; 5] = [Arch::Sm80, Arch::Sm86, Arch::Sm89, Arch::Sm90a, Arch::Sm120];

    /// The PTX ISA that its kernels are written in, no newer than they need: the oldest driver reads them. 8.0 came with
    /// CUDA 12.0 and has all of Hopper's instructions that are used; 8.7, of CUDA 12.8, is the first to know sm_120. Source:
    /// PTX ISA, "Release Notes".
    pub const fn ptx_isa(self) -> &'static str {
        match self {
            Arch::Sm80 | Arch::Sm86 | Arch::Sm89 | Arch::Sm90a => "8.0",
            Arch::Sm120 => "8.7",
        }
    }

    /// The oldest driver that loads its PTX, as the CUDA version, major and minor, that the driver supports.
    pub const fn oldest_driver(self) -> (u32, u32) {
        match self {
            Arch::Sm80 | Arch::Sm86 | Arch::Sm89 | Arch::Sm90a => (12, 0),
            Arch::Sm120 => (12, 8),
        }
    }

    /// Its row of the table.
    pub const fn limits(self) -> Limits {
        match self {
            Arch::Sm80 => Limits {
                sm: 80,
                shared_per_block: 163 * KB,
                shared_per_sm: 164 * KB,
                threads_per_sm: 2048,
                ..SHARED_ROWS
            },
            Arch::Sm86 => Limits { sm: 86, shared_per_block: 99 * KB, shared_per_sm: 100 * KB, ..SHARED_ROWS },
            Arch::Sm89 => Limits { sm: 89, shared_per_block: 99 * KB, shared_per_sm: 100 * KB, ..SHARED_ROWS },
            Arch::Sm90a => Limits {
                sm: 90,
                shared_per_block: 227 * KB,
                shared_per_sm: 228 * KB,
                threads_per_sm: 2048,
                wgmma: Some(WgmmaLimits {
                    warps: 4,
                    m: 64,
                    n_step: 8,
                    n_max: 256,
                    k: 16,
                    setmaxnreg_step: 8,
                    setmaxnreg_min: 24,
                    setmaxnreg_max: 256,
                }),
                ..SHARED_ROWS
            },
            Arch::Sm120 => Limits { sm: 120, shared_per_block: 99 * KB, shared_per_sm: 100 * KB, ..SHARED_ROWS },
        }
    }

    /// What NVRTC's `--gpu-architecture` takes, also the name in files and on the command line.
    pub const fn target(self) -> &'static str {
        match self {
            Arch::Sm80 => "sm_80",
            Arch::Sm86 => "sm_86",
            Arch::Sm89 => "sm_89",
            Arch::Sm90a => "sm_90a",
            Arch::Sm120 => "sm_120",
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.target())
    }
}

/// A name that is no architecture of the table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown architecture `{0}`: use sm_80, sm_86, sm_89, sm_90a or sm_120")]
pub struct UnknownArch(pub String);

impl FromStr for Arch {
    type Err = UnknownArch;

    fn from_str(name: &str) -> Result<Self, UnknownArch> {
        Arch::ALL.into_iter().find(|arch| arch.target() == name).ok_or_else(|| UnknownArch(name.to_owned()))
    }
}
