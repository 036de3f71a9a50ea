//! What the full checks report: the kernel ran to its end, and still something in it is wrong.

use crate::report::place::Place;
use serde::Serialize;
use std::fmt;

/// Findings told of one launch; the rest are only counted.
pub(crate) const MOST: usize = 64;
/// Pairs of lines kept before they are grouped to findings: unrolled code makes thousands of one fault.
pub(crate) const MOST_PAIRS: usize = 1 << 14;

/// Which rule was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Rule {
    /// Two warps, or a warp and an asynchronous copy, touch the same shared bytes, one of them writes, and no barrier
    /// or wait is between.
    #[error("shared-memory race")]
    SharedRace,
    /// The same in device memory, within one block.
    #[error("global-memory race")]
    GlobalRace,
    /// Two lanes of one warp do, with no `__syncwarp` between.
    #[error("missing __syncwarp")]
    MissingSyncwarp,
    /// A write through the generic proxy reaches the asynchronous proxy with no fence between.
    #[error("missing proxy fence")]
    MissingProxyFence,
    /// A `wgmma` uses a register touched since the last `wgmma.fence`.
    #[error("missing wgmma.fence")]
    MissingWgmmaFence,
    /// More warps than a barrier awaits may arrive at it at one time, so that which of them it releases is the hardware's
    /// choice.
    #[error("ambiguous barrier")]
    BarrierGroups,
    /// A block ends with an mbarrier in the middle of a phase.
    #[error("unfinished mbarrier phase")]
    UnfinishedPhase,
    /// The bytes, or registers, belong to asynchronous work that this warp has not waited for.
    #[error("asynchronous work not waited for")]
    Unwaited,
    /// A read of shared memory that nothing has written.
    #[error("uninitialised shared memory")]
    UninitialisedShared,
    /// A read of device memory that nothing has written.
    #[error("uninitialised global memory")]
    UninitialisedGlobal,
    /// A register that was never set decides an address, a branch, a matrix product or what is stored.
    #[error("undefined register")]
    UndefinedRegister,
    /// Two blocks write the same bytes of device memory.
    #[error("two blocks write one word")]
    TwoBlocks,
    /// Bytes of an output that no block wrote.
    #[error("output not written")]
    OutputUnwritten,
    /// Results change with the moment asynchronous copies land.
    #[error("result depends on when copies land")]
    LandingDependent,
    /// Results change with the order in which blocks run.
    #[error("result depends on the order of blocks")]
    OrderDependent,
}

/// The other side of a conflict, which came first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Party {
    /// What made the access: a warp, or asynchronous work of one.
    pub who: String,
    /// It wrote (else it read).
    pub wrote: bool,
    /// Where.
    pub place: Place,
}

/// One more place of a finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pair {
    /// Where.
    pub place: Place,
    /// The earlier side of a conflict.
    pub other: Option<Party>,
    /// Times it was met.
    pub times: u64,
}

/// One broken rule, and all the places that one remedy would put right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The rule.
    pub rule: Rule,
    /// What happened, with bytes and buffer.
    pub what: String,
    /// Where; none for what only the whole launch shows.
    pub place: Option<Place>,
    /// The earlier side of a conflict.
    pub other: Option<Party>,
    /// What would put it right.
    pub fix: String,
    /// Further pairs of lines that the same remedy would most likely put right.
    pub also: Vec<Pair>,
    /// Times it was met, at all these places.
    pub times: u64,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)?;
        if let Some(place) = &self.place {
            write!(f, "\n  at {place}")?;
        }
        if let Some(other) = &self.other {
            let did = if other.wrote { "written" } else { "read" };
            write!(f, "\n  {did} before by {}: {}", other.who, other.place)?;
        }
        for pair in &self.also {
            write!(f, "\n  also at {}", pair.place.line())?;
            if let Some(other) = &pair.other {
                let did = if other.wrote { "written" } else { "read" };
                write!(f, ", {did} before at {}", other.place.line())?;
            }
        }
        write!(f, "\n  fix: {}", self.fix)?;
        if self.times > 1 {
            write!(f, " ({} times)", self.times)?;
        }
        Ok(())
    }
}
