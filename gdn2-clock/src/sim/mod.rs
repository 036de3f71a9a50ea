//! One streaming multiprocessor: four schedulers that issue in order, one instruction a clock each.
//!
//! A warp's next instruction is ready when its stall count has passed and the scoreboards of its wait mask are clear; it
//! issues when its pipe or queue takes it. Of those that are ready first the one that issued longest ago goes. Warps of
//! all resident blocks share pipes, matrix units, shared memory and the multiprocessor's share of the level-two cache.

mod barriers;
mod cost;
mod machine;
mod warp;

pub use cost::Wait;
pub(crate) use cost::costs;
pub(crate) use machine::run;
pub use machine::{Outcome, Role, SimulationError, simulate};
