//! Finds the best legal schedule of a generated kernel, with or without the GPU at hand.
//!
//! A [`job`] is searched by a strategy of [`search`], which asks for candidates; [`sweep`](sweep::sweep) runs them in
//! [`worker`] processes, keeps every [`outcome`] in an append-only [`log`], lets the two best meet, and a [`ruling`] says
//! whether there is a record for `gdn2_codegen` to look up afterwards. Without a GPU, [`timing`] predicts
//! times from machine code, as far off as [`published`] ones are; candidates whose [`floor`] is more than the best so far
//! are not looked at, and of the others the best alone are run.

pub mod evaluate;
pub mod floor;
pub mod job;
pub mod log;
pub mod model;
pub mod outcome;
pub mod published;
pub mod replay;
pub mod report;
pub mod ruling;
pub mod search;
pub mod shapes;
pub mod sweep;
pub mod t4;
mod tallies;
pub mod timing;
pub mod verdict;
pub mod worker;
