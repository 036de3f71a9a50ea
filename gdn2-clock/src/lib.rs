//! Times kernels for GPUs that are not at hand: from machine code and a launch alone.
//!
//! [`sass`] reads the disassembly with its control words, [`cubin`] the facts beside it, [`walk`] executes the integers,
//! addresses and branches of every warp of a block, and [`sim`] lets a multiprocessor's four schedulers issue what was
//! walked. The crate knows neither rules nor the generator: any kernel will do.

pub mod cubin;
pub mod gpu;
pub mod kernel;
pub mod launch;
pub mod sass;
pub mod sim;
pub mod walk;
