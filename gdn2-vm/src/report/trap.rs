//! What stops a run: the kernel did something a GPU would not do, or would not do reliably.

use crate::report::finding::Finding;
use crate::report::place::Place;
use serde::Serialize;
use std::fmt;

/// The kernel (or its launch) is wrong. A gap of the machine itself is a [`crate::LoadError`], never a trap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trap {
    /// What happened.
    pub fault: Fault,
    /// Where; `None` for a launch that never started.
    pub place: Option<Box<Place>>,
    /// What the full checks had found before.
    pub findings: Vec<Finding>,
}

impl Trap {
    pub(crate) fn new(fault: Fault, place: Option<Place>) -> Self {
        Self { fault, place: place.map(Box::new), findings: Vec::new() }
    }
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{}: {place}", self.fault)?,
            None => write!(f, "{}", self.fault)?,
        }
        self.findings.iter().try_for_each(|finding| write!(f, "\nfound before it: {finding}"))
    }
}

impl std::error::Error for Trap {}

/// The kinds of wrong a run can be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The launch does not fit the kernel or the GPU.
    #[error("launch refused: {0}")]
    Launch(String),
    /// An access outside every buffer of its space.
    #[error("{bytes}-byte {space} access at {address:#x} is out of bounds: {detail}")]
    OutOfBounds {
        /// State space.
        space: &'static str,
        /// Address within the space.
        address: u64,
        /// Bytes of the access.
        bytes: u32,
        /// The buffer it misses, and by how much.
        detail: String,
    },
    /// An address not a multiple of what the access needs.
    #[error("{space} access at {address:#x} is misaligned: it must be a multiple of {needs}")]
    Misaligned {
        /// State space.
        space: &'static str,
        /// Address within the space.
        address: u64,
        /// Alignment needed, bytes.
        needs: u32,
    },
    /// An instruction that the whole warp must execute ran with some lanes elsewhere.
    #[error("divergent collective: it needs lanes {needs:#010x}, only {here:#010x} are here")]
    Divergent {
        /// Lanes that must be here.
        needs: u32,
        /// Lanes that are.
        here: u32,
    },
    /// A shuffle read a lane that is not taking part.
    #[error("shuffle reads lane {source_lane}, which does not take part")]
    ShuffleSource {
        /// The lane read.
        source_lane: u32,
    },
    /// A block barrier used wrongly.
    #[error("barrier {id}: {what}")]
    Barrier {
        /// Barrier number.
        id: u32,
        /// What is wrong.
        what: String,
    },
    /// No warp can go on.
    #[error("deadlock: {waiting}")]
    Deadlock {
        /// Where each warp waits.
        waiting: String,
    },
    /// `trap` or `brkpt` was executed.
    #[error("the kernel executed a trap instruction")]
    TrapInstruction,
    /// Still running after far more instructions than any kernel of this size needs.
    #[error(
        "runaway: the block still ran after {instructions} warp instructions, the launch's limit: raise it if the kernel \
         is that long (`--max-instructions`), else a loop in it never ends"
    )]
    Runaway {
        /// Warp instructions executed by the block.
        instructions: u64,
    },
    /// A copy asks for more than it may.
    #[error("asynchronous copy: {0}")]
    Copy(String),
    /// An mbarrier used wrongly.
    #[error("mbarrier at {address:#x}: {what}")]
    Mbarrier {
        /// Shared address.
        address: u32,
        /// What is wrong.
        what: String,
    },
    /// A tensor copy whose map or coordinates cannot be.
    #[error("tensor copy: {0}")]
    Tensor(String),
    /// A matrix load or store used wrongly.
    #[error("wmma: {0}")]
    Wmma(String),
    /// A warpgroup instruction used wrongly.
    #[error("wgmma: {0}")]
    Wgmma(String),
}

/// A fault with the lane to blame, before its place is known.
#[derive(Debug)]
pub(crate) struct Fail {
    pub(crate) fault: Fault,
    pub(crate) lane: Option<u32>,
}

/// Result of executing an instruction.
pub(crate) type Exec<T> = Result<T, Box<Fail>>;

/// A fault of the whole warp.
pub(crate) fn fail<T>(fault: Fault) -> Exec<T> {
    Err(Box::new(Fail { fault, lane: None }))
}

/// A fault of one lane.
pub(crate) fn fail_at<T>(lane: usize, fault: Fault) -> Exec<T> {
    Err(Box::new(Fail { fault, lane: Some(lane as u32) }))
}
