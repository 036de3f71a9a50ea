//! What instructions name: register slots, addresses, elements of memory.

/// Index into a register file.
pub(crate) type Slot = u32;

/// State spaces of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub enum Space {
    /// Device memory.
    Global,
    /// The block's shared memory.
    Shared,
    /// A thread's own memory.
    Local,
    /// Constant variables of the module.
    Const,
    /// Kernel parameters.
    Param,
    /// Decided by the address.
    Generic,
}

/// `[base + offset]`
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addr {
    pub(crate) base: Slot,
    pub(crate) wide: bool,
    pub(crate) offset: i64,
}

/// How loaded bits become a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Elem {
    /// 1, 2, 4 or 8.
    pub(crate) bytes: u8,
    pub(crate) signed: bool,
    /// The register is 64 bits wide.
    pub(crate) wide: bool,
    /// The register is 16 bits wide.
    pub(crate) half: bool,
}

/// Types of the factors of a matrix operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Factor {
    Bf16,
    F16,
    Tf32,
}
