//! A PTX virtual machine that runs kernels on the CPU and reports what a GPU would hide.

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
