//! Walks the machine code of a block's warps from the launch alone.
//!
//! Integers, predicates, addresses and control flow are executed for 32 lanes; floating point and matrices are unknown, of
//! shared memory but words that one thread wrote for all are. A wait for an mbarrier succeeds at once: when it would, is the simulation's business. What memory decides
//! is read from the launch, or asked for: a branch that is not known is an error, never a guess.

mod compile;
mod effect;
mod exchange;
mod integer;
mod lanes;
mod memory;
mod numbers;
mod state;
mod trace;
mod warp;
mod words;

pub use trace::{Block, Effect, Step};

use crate::cubin::Entry;
use crate::launch::Launch;
use crate::sass::Program;
use effect::Touched;
use state::{Constants, State};
use warp::{Code, Warp};
use words::Words;

/// Instructions after which a warp that still runs counts as never ending.
const MOST_STEPS: usize = 4_000_000;

/// A walk that cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalkError {
    /// A branch that only memory decides.
    #[error(
        "warp {warp}: the branch at {address:#x} (`{text}`) is decided by what memory holds; give the contents of its \
         buffers, or say with --taken or --not-taken {address:#x} which way it goes"
    )]
    UndecidedBranch {
        /// The warp.
        warp: u32,
        /// Where.
        address: u32,
        /// The instruction.
        text: String,
    },
    /// A jump whose target is not known.
    #[error("warp {warp}: where `{text}` at {address:#x} leads is not known")]
    UnknownTarget {
        /// The warp.
        warp: u32,
        /// Where.
        address: u32,
        /// The instruction.
        text: String,
    },
    /// A warp that does not end.
    #[error("warp {warp}: still running after {most} instructions, at `{text}`")]
    Endless {
        /// The warp.
        warp: u32,
        /// The limit.
        most: usize,
        /// The instruction.
        text: String,
    },
    /// Fewer arguments than parameters.
    #[error("the kernel has {parameters} parameters, the launch {arguments} arguments")]
    Arguments {
        /// Of the kernel.
        parameters: usize,
        /// Of the launch.
        arguments: usize,
    },
    /// A launch without threads or blocks, or with too many.
    #[error("a launch of grid {grid:?} and block {block:?}: every number must be at least 1, threads at most 1024")]
    Sizes {
        /// Blocks.
        grid: [u32; 3],
        /// Threads.
        block: [u32; 3],
    },
}

/// Walks every warp of one block.
///
/// # Errors
/// The launch does not fit the kernel, or a branch cannot be decided.
pub fn walk(program: &Program, entry: &Entry, launch: &Launch, block: [u32; 3]) -> Result<Block, WalkError> {
    let (grid, threads) = (launch.grid, launch.block);
    if grid.contains(&0) || threads.contains(&0) || threads.iter().map(|n| u64::from(*n)).product::<u64>() > 1024 {
        return Err(WalkError::Sizes { grid, block: threads });
    }
    if launch.arguments.len() < entry.parameters.len() {
        let (parameters, arguments) = (entry.parameters.len(), launch.arguments.len());
        return Err(WalkError::Arguments { parameters, arguments });
    }
    let constants = Constants::new(entry, launch);
    let code = Code::new(program);
    let mut touched = Touched::default();
    let mut walked = Block::default();
    let mut words = Words::default();
    for warp in 0..launch.threads().div_ceil(32) {
        let state = State::new(launch, &constants, block, warp, words);
        let (steps, state) = Warp::new(&code, state, MOST_STEPS).run(&mut touched)?;
        walked.warps.push(steps);
        words = state.words;
        for (note, times) in state.notes {
            *walked.notes.entry(note).or_default() += times;
        }
    }
    walked.distinct = touched.distinct();
    walked.bulk_bytes = touched.bulk_bytes;
    walked.sectors = touched.list;
    Ok(walked)
}
