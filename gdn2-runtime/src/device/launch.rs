//! What a launch needs of a driver, and nothing else: everything above this trait is the same with a GPU's driver, with
//! a recording one and with one that runs the virtual machine.

use std::ffi::c_void;
use std::fmt;

use super::DeviceError;
use crate::artifact::Artifact;
use crate::raw::{self, Arguments, MOST_PARAMS, Value, Workspaces};
use gdn2_codegen::arch::Arch;
use gdn2_codegen::gpu::Identity;
use gdn2_codegen::kernel::{Kernel, Launch};

/// A GPU, or what stands in for one.
pub trait Gpu: Send + Sync {
    /// What its kernels are generated for.
    fn arch(&self) -> Arch;

    /// What its driver says of it; tuning records are found by it.
    ///
    /// # Errors
    /// A failing driver call.
    fn identity(&self) -> Result<Identity, DeviceError>;

    /// Its context: memory, streams and kernels must all be of one.
    fn context(&self) -> Context;

    /// Loads a kernel.
    ///
    /// # Errors
    /// A kernel that it cannot run.
    fn load(&self, artifact: &Artifact) -> Result<Box<dyn Driver>, DeviceError>;
}

/// A context's identity: the address of what the driver calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Context(pub usize);

/// One launch as a driver gets it.
#[derive(Debug)]
pub struct Put<'a> {
    /// Which of the kernel's launches.
    pub index: usize,
    /// Its entry, block and shared memory.
    pub launch: &'a Launch,
    /// Blocks along x.
    pub blocks: u32,
    /// The stream.
    pub stream: *mut c_void,
    /// Where each argument lies, in signature order; its type is that of the launch's parameter.
    pub params: &'a mut [*mut c_void],
}

/// The functions of one loaded kernel.
pub trait Driver: Send + Sync {
    /// Puts a launch on its stream and returns without waiting: one call of the driver, no lock, no allocation.
    ///
    /// # Errors
    /// What the driver says.
    ///
    /// # Safety
    /// The stream is of the context that the kernel was loaded in; every address among the parameters is memory of it,
    /// of the extent that the kernel reads or writes, alive until the stream has passed the launch.
    unsafe fn launch(&self, put: Put<'_>) -> Result<(), DeviceError>;
}

/// A kernel that is ready to be launched.
pub struct Launcher {
    kernel: Kernel,
    driver: Box<dyn Driver>,
}

impl Launcher {
    /// Loads a kernel on a GPU.
    ///
    /// # Errors
    /// A kernel that it cannot run.
    pub fn new(gpu: &dyn Gpu, artifact: &Artifact) -> Result<Launcher, DeviceError> {
        Ok(Launcher { kernel: artifact.kernel.clone(), driver: gpu.load(artifact)? })
    }

    /// The kernel.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// Puts the kernel's launches on a stream, in order, and returns without waiting. Allocates nothing, takes no lock,
    /// makes one driver call per launch.
    ///
    /// # Errors
    /// A call that makes no launches, or a failing driver call.
    ///
    /// # Safety
    /// The stream belongs to the kernel's context. Every address of the call and of the workspaces is device memory of
    /// the extent its field states, alive and not otherwise written until the stream has passed the launches; the
    /// contents of `cu_seqlens` and of the slot tables are as their fields state.
    pub unsafe fn launch(
        &self,
        stream: *mut c_void,
        call: &Arguments,
        workspaces: Workspaces<'_>,
    ) -> Result<(), DeviceError> {
        raw::launches(&self.kernel, call, workspaces, |index, launch, blocks, values| {
            let mut words = [0u64; MOST_PARAMS];
            let mut pointers = [std::ptr::null_mut::<c_void>(); MOST_PARAMS];
            for ((value, word), pointer) in values.iter().zip(&mut words).zip(&mut pointers) {
                *word = bits(*value);
                *pointer = std::ptr::from_mut(word).cast();
            }
            let params = &mut pointers[..values.len()];
            // SAFETY: each pointer is to a live word whose first bytes are the parameter (CUDA's hosts are
            // little-endian); the rest is the caller's promise.
            unsafe { self.driver.launch(Put { index, launch, blocks, stream, params }) }
        })
    }
}

impl fmt::Debug for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launcher").field("pass", &self.kernel.pass).field("schedule", &self.kernel.schedule).finish()
    }
}

/// A parameter as the first bytes of a 64-bit word.
fn bits(value: Value) -> u64 {
    match value {
        Value::Pointer(address) => address,
        Value::I64(number) => number as u64,
        Value::I32(number) => u64::from(number as u32),
        Value::F32(number) => u64::from(number.to_bits()),
    }
}
