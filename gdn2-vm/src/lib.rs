//! A PTX virtual machine that runs kernels on the CPU and reports what a GPU would hide.
//!
//! # Memory
//!
//! Beside the launch's buffers, of N bytes, full checks hold: two copies of them, for the run with all varied; 2 bytes for
//! each byte of a buffer that the launch writes (the last writer of each word) and up to 1.3 for each of one that came
//! unwritten. So at most 6 N, however large the grid. For each block that runs, one to a thread of the processor, they
//! hold what is known of each 16 bytes of its shared memory and of each KiB of device memory that it touches: 2.3 bytes a
//! byte where accesses are of whole 16 bytes, 10.3 where they are smaller, and 12 bytes for each further warp that has read
//! a word since it was written. A launch file's buffers are limited to 4 GiB ([`launch_file::MOST_BYTES`]).

mod api;
mod check;
pub mod conformance;
mod error;
mod exec;
mod isa;
pub mod launch_file;
mod memory;
mod module;
mod num;
mod ptx;
mod race;
mod report;
mod run;

pub use api::{Address, Check, INSTRUCTIONS, Landing, Launch, Limits, Value};
pub use error::LoadError;
pub use memory::Memory;
pub use memory::tensor_map::{MapType, Swizzle, TensorMap, TensorMapError};
pub use module::{Module, Parameter, SharedAlignment};
pub use report::finding::{Finding, Pair, Party, Rule};
pub use report::place::{Place, SourceLine};
pub use report::trap::{Fault, Trap};
pub use report::{Class, Counters, InstructionCount, Report};
pub use run::run;
