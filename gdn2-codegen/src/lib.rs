//! Lowers delta-rule Rules to CUDA: plans, schedules, the architecture table, kernels as text.

pub mod abi;
pub mod arch;
pub mod kernel;
pub mod schedule;
