//! Kernels on the PTX virtual machine.

use super::DeviceError;
use crate::artifact::Artifact;
use crate::raw::{self, Arguments, Value, Workspaces};
use gdn2_codegen::kernel::Kernel;
use gdn2_vm::{Check, Landing, Launch, Limits, Memory, Module, Report};

/// How strictly the machine runs, and what it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Settings {
    /// Checks.
    pub check: Check,
    /// When asynchronous copies land.
    pub landing: Landing,
    /// Block order: `None` = ascending.
    pub order: Option<u64>,
    /// Whether instructions, bytes and conflicts are counted.
    pub count: bool,
}

/// A kernel decoded for the machine.
#[derive(Debug)]
pub struct Loaded {
    module: Module,
    kernel: Kernel,
}

impl Loaded {
    /// Decodes a compiled kernel.
    ///
    /// # Errors
    /// PTX the machine does not know, with its line.
    pub fn new(artifact: &Artifact) -> Result<Loaded, DeviceError> {
        Ok(Loaded { module: Module::parse(&artifact.ptx)?, kernel: artifact.kernel.clone() })
    }

    /// The kernel.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// Runs the kernel's launches in order; one report each.
    ///
    /// # Errors
    /// A call that makes no launches, or a trap.
    pub fn launch(
        &self,
        memory: &mut Memory,
        settings: Settings,
        call: &Arguments,
        workspaces: Workspaces<'_>,
    ) -> Result<Vec<Report>, DeviceError> {
        let row = self.kernel.arch.limits();
        let limits =
            Limits { shared_per_block: row.shared_per_block, threads_per_block: row.threads_per_block, sm: row.sm };
        let mut reports = Vec::with_capacity(self.kernel.launches.len());
        raw::launches(&self.kernel, call, workspaces, |_, launch, blocks, values| {
            let args: Vec<gdn2_vm::Value> = values.iter().map(|value| (*value).into()).collect();
            let launch = Launch {
                entry: &launch.entry,
                grid: [blocks, 1, 1],
                block: [launch.block, 1, 1],
                shared_bytes: launch.shared_bytes,
                args: &args,
                limits,
                check: settings.check,
                landing: settings.landing,
                order: settings.order,
                outputs: &[],
                count: settings.count,
                instructions: gdn2_vm::INSTRUCTIONS,
            };
            reports.push(gdn2_vm::run(&self.module, &launch, memory).map_err(Box::new)?);
            Ok::<_, DeviceError>(())
        })?;
        Ok(reports)
    }
}

impl From<Value> for gdn2_vm::Value {
    fn from(value: Value) -> gdn2_vm::Value {
        match value {
            Value::Pointer(address) => gdn2_vm::Value::Pointer(address),
            Value::I64(number) => gdn2_vm::Value::I64(number),
            Value::I32(number) => gdn2_vm::Value::I32(number),
            Value::F32(number) => gdn2_vm::Value::F32(number),
        }
    }
}
