//! A PTX virtual machine that runs kernels on the CPU and reports what a GPU would hide.

mod api;
mod memory;
mod module;
mod report;
mod run;
mod trap;

pub use api::{Address, Check, Landing, Launch, Limits, Value};
pub use memory::Memory;
pub use module::{LoadError, Module};
pub use report::{Counters, Report};
pub use run::run;
pub use trap::{Fault, Place, SourceLine, Trap};
