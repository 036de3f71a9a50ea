//! What callers of the virtual machine see: a module, memory, a launch, a report.
//!
//! ```text
//! let module = Module::parse(&ptx)?;                       // unknown instructions are errors here
//! let mut memory = Memory::new();
//! let q = memory.upload("q", &bytes);                      // exact-size buffers, each in its own window
//! let o = memory.poisoned("o", n_bytes);                   // NaN pattern, tracked as unwritten
//! let report = gdn2_vm::run(&module, &Launch { .. }, &mut memory)?;
//! let out = memory.read(o);
//! ```

use serde::Serialize;

/// A 64-bit device address inside a `Memory` buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Address(pub u64);

/// One kernel argument, as the driver would receive it.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A device pointer (0 = null).
    Pointer(u64),
    /// 32-bit integer.
    I32(i32),
    /// 64-bit integer.
    I64(i64),
    /// 32-bit float.
    F32(f32),
    /// Raw bytes: a by-value struct, or a 128-byte tensor map.
    Bytes(Vec<u8>),
}

/// Limits of the GPU being stood in for; a launch beyond them is an error, as on the GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Shared memory per block, bytes, dynamic plus static.
    pub shared_per_block: u32,
    /// Threads per block.
    pub threads_per_block: u32,
    /// Compute capability times ten: 80, 86, 89, 90, 120. Instructions above it are errors at load.
    pub sm: u32,
}

/// How much the machine checks and counts beyond what is always on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Check {
    /// Bounds, alignment, divergence, barriers, deadlock, launch limits.
    #[default]
    Basic,
    /// Everything: races, uninitialised reads, missing fences, unwaited groups, double writers.
    Full,
}

/// When asynchronous copies land.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Landing {
    /// At issue.
    #[default]
    Early,
    /// At the wait, the destination poisoned meanwhile.
    Late,
}

/// A limit on a block's warp instructions that no kernel worth simulating meets.
pub const INSTRUCTIONS: u64 = 1 << 32;

/// One launch.
#[derive(Clone, Debug)]
pub struct Launch<'a> {
    /// Entry name.
    pub entry: &'a str,
    /// Grid.
    pub grid: [u32; 3],
    /// Block.
    pub block: [u32; 3],
    /// Dynamic shared memory, bytes.
    pub shared_bytes: u32,
    /// Arguments in order.
    pub args: &'a [Value],
    /// The GPU's limits.
    pub limits: Limits,
    /// Checks.
    pub check: Check,
    /// Asynchronous landing.
    pub landing: Landing,
    /// Block order: `None` = ascending, `Some(seed)` = shuffled.
    pub order: Option<u64>,
    /// Buffers that the launch must write from end to end; the full checks say where it does not.
    pub outputs: &'a [Address],
    /// Count instructions, bytes, conflicts (see `Counters`).
    pub count: bool,
    /// Warp instructions after which a block that still runs is a [`crate::Fault::Runaway`]; [`INSTRUCTIONS`] is more
    /// than kernels of seconds on a GPU take.
    pub instructions: u64,
}
