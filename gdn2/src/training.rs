//! The kernels of a training step, and the scratch memory that they hand from one to the other.

use std::ffi::c_void;

use crate::error::Error;
use gdn2_runtime::device::{Device, cuda};
use gdn2_runtime::engine::{RunError, Training};
use gdn2_runtime::raw::{self, Arguments};

/// Most workspaces that the passes of training have between them.
const MOST_SCRATCH: usize = 16;

/// Kernels of training, and their functions where the device is a GPU.
pub(crate) struct Trained {
    pub kernels: Training,
    pub gpu: Option<OnGpu>,
}

/// Functions of the passes.
pub(crate) struct OnGpu {
    pub forward: Option<cuda::Loaded>,
    pub backward: cuda::Loaded,
}

/// Scratch memory of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Scratch {
    /// Its name in the kernels.
    pub name: String,
    /// Its size; 0 where this call does not use it.
    pub bytes: usize,
    /// Whether forward leaves something there for backward.
    pub saved: bool,
}

impl Trained {
    pub fn new(kernels: Training, device: &Device) -> Result<Trained, RunError> {
        let gpu = match device {
            Device::Cuda(gpu) => Some(OnGpu {
                forward: kernels.forward.as_ref().map(|forward| cuda::Loaded::new(gpu, forward)).transpose()?,
                backward: cuda::Loaded::new(gpu, &kernels.backward)?,
            }),
            Device::Cpu(_) | Device::Vm(_) => None,
        };
        Ok(Trained { kernels, gpu })
    }

    /// Names of all workspaces, forward's first, each once.
    fn names(&self) -> impl Iterator<Item = &str> {
        let forward = self.kernels.forward.iter().flat_map(|forward| &forward.kernel.workspaces);
        let backward = &self.kernels.backward.kernel.workspaces;
        let new = backward.iter().filter(|workspace| {
            let kept = self.kernels.forward.iter().flat_map(|forward| &forward.kernel.workspaces);
            kept.into_iter().all(|earlier| earlier.name != workspace.name)
        });
        forward.chain(new).map(|workspace| workspace.name.as_str())
    }

    pub fn scratch(&self, call: &Arguments) -> Result<Vec<Scratch>, Error> {
        let extents = call.extents().map_err(|error| RunError::Device(error.into()))?;
        let passes = self.kernels.forward.iter().chain([&self.kernels.backward]);
        let mut all: Vec<Scratch> = Vec::new();
        for kernel in passes.map(|artifact| &artifact.kernel) {
            let sizes = raw::workspace_bytes(kernel, extents).map_err(|error| RunError::Device(error.into()))?;
            for (workspace, bytes) in kernel.workspaces.iter().zip(sizes) {
                if all.iter().all(|known| known.name != workspace.name) {
                    all.push(Scratch { name: workspace.name.clone(), bytes, saved: workspace.saved });
                }
            }
        }
        Ok(all)
    }

    /// Puts one pass on a stream, with its workspaces picked from those of all passes.
    ///
    /// # Safety
    /// As [`cuda::Loaded::launch`], for every scratch address too.
    pub unsafe fn launch(
        &self,
        pass: &cuda::Loaded,
        stream: *mut c_void,
        call: &Arguments,
        scratch: &[u64],
    ) -> Result<(), Error> {
        let mut own = [0; MOST_SCRATCH];
        let wanted = &pass.kernel().workspaces;
        for (place, workspace) in own.iter_mut().zip(wanted) {
            let given = self.names().position(|name| name == workspace.name).and_then(|at| scratch.get(at));
            *place = *given.ok_or(Error::Scratch { got: scratch.len(), want: self.names().count() })?;
        }
        let own = own.get(..wanted.len()).unwrap_or(&own);
        // SAFETY: the caller's promise.
        Ok(unsafe { pass.launch(stream.cast(), call, own) }.map_err(RunError::from)?)
    }
}
