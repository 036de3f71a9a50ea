//! Runs one launch.

use crate::api::Launch;
use crate::memory::Memory;
use crate::module::Module;
use crate::report::Report;
use crate::trap::{Fault, Trap};

/// Runs a launch to its end.
///
/// # Errors
/// A [`Trap`] says what the kernel or the launch did wrong, and where.
pub fn run(module: &Module, launch: &Launch<'_>, memory: &mut Memory) -> Result<Report, Trap> {
    let _ = memory;
    let known = module.entries().any(|e| e == launch.entry);
    let why = if known { "the executor has not landed" } else { "no such entry" };
    Err(Trap { fault: Fault::Launch(format!("{}: {why}", launch.entry)), place: None })
}
