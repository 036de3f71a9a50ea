//! Memory and launches on one device for as long as a run takes, the same calls for the virtual machine and a GPU.

#[cfg(feature = "vm")]
use super::vm;
use super::{Device, DeviceError, Finding, Report, cuda};
use crate::artifact::Artifact;
use crate::raw::{self, Arguments};
use gdn2_codegen::kernel::Kernel;
#[cfg(feature = "vm")]
use gdn2_vm::{Address, Memory};
use std::collections::BTreeMap;

/// A kernel loaded on a device, and memory there.
#[derive(Debug)]
pub struct Session {
    place: Place,
    /// Scratch of the launches so far: bytes and addresses, kept while calls ask for the same.
    workspaces: (Vec<usize>, Vec<u64>),
    /// Scratch an earlier kernel of the session leaves for a later one, by name: bytes and address.
    saved: BTreeMap<String, (usize, u64)>,
    /// How often a GPU repeats each call to time it, whether with a cold cache, and the times of the last one.
    timing: ((usize, bool), Vec<f32>),
}

#[derive(Debug)]
enum Place {
    #[cfg(feature = "vm")]
    Vm {
        memory: Memory,
        settings: vm::Settings,
        loaded: vm::Loaded,
    },
    Cuda {
        gpu: cuda::Cuda,
        buffers: Vec<cuda::Buffer>,
        loaded: cuda::Loaded,
    },
}

impl Session {
    /// A session on a device; `None` on the CPU, which takes no kernels.
    ///
    /// # Errors
    /// The kernel cannot be loaded there, or is PTX that the virtual machine does not know.
    pub fn on(device: &Device, artifact: &Artifact) -> Result<Option<Session>, DeviceError> {
        let place = match device {
            #[cfg(feature = "cpu")]
            Device::Cpu(_) => return Ok(None),
            #[cfg(feature = "vm")]
            Device::Vm(settings) => {
                Place::Vm { memory: Memory::new(), settings: *settings, loaded: vm::Loaded::new(artifact)? }
            }
            Device::Cuda(gpu) => {
                Place::Cuda { gpu: gpu.clone(), buffers: Vec::new(), loaded: cuda::Loaded::new(gpu, artifact)? }
            }
        };
        let (workspaces, timing) = (Default::default(), Default::default());
        Ok(Some(Session { place, workspaces, saved: BTreeMap::new(), timing }))
    }

    /// From now on a GPU repeats each call this often and times it; with `cold`, its level-two cache is overwritten
    /// before each repetition.
    pub fn time(&mut self, repeats: usize, cold: bool) {
        self.timing.0 = (repeats, cold);
    }

    /// Milliseconds of each repetition of the last call; none where nothing is timed.
    pub fn milliseconds(&self) -> &[f32] {
        &self.timing.1
    }

    /// The kernel.
    pub fn kernel(&self) -> &Kernel {
        match &self.place {
            #[cfg(feature = "vm")]
            Place::Vm { loaded, .. } => loaded.kernel(),
            Place::Cuda { loaded, .. } => loaded.kernel(),
        }
    }

    /// A buffer of `len` bytes of 0xff, NaN in every float type. `name` is for reports.
    ///
    /// # Errors
    /// The device is out of memory.
    #[cfg_attr(not(feature = "vm"), expect(unused_variables, reason = "what the virtual machine alone asks for"))]
    pub fn poisoned(&mut self, name: &str, len: usize) -> Result<u64, DeviceError> {
        match &mut self.place {
            #[cfg(feature = "vm")]
            Place::Vm { memory, .. } => Ok(memory.poisoned(name, len).0),
            Place::Cuda { gpu, buffers, .. } => {
                let buffer = cuda::Buffer::poisoned(gpu, len)?;
                let address = buffer.address();
                buffers.push(buffer);
                Ok(address)
            }
        }
    }

    /// A buffer with these bytes.
    ///
    /// # Errors
    /// The device is out of memory.
    #[cfg_attr(not(feature = "vm"), expect(unused_variables, reason = "what the virtual machine alone asks for"))]
    pub fn upload(&mut self, name: &str, bytes: &[u8]) -> Result<u64, DeviceError> {
        match &mut self.place {
            #[cfg(feature = "vm")]
            Place::Vm { memory, .. } => Ok(memory.upload(name, bytes).0),
            Place::Cuda { gpu, buffers, .. } => {
                let buffer = cuda::Buffer::poisoned(gpu, bytes.len())?;
                buffer.write(bytes)?;
                let address = buffer.address();
                buffers.push(buffer);
                Ok(address)
            }
        }
    }

    /// Launches the kernel and waits. The virtual machine reports on each launch, a GPU has nothing to tell.
    ///
    /// # Errors
    /// A call that makes no launches, a trap, a failing driver call.
    pub fn launch(&mut self, call: &Arguments) -> Result<Vec<Report>, DeviceError> {
        self.scratch(call)?;
        let workspaces = &self.workspaces.1;
        match &mut self.place {
            #[cfg(feature = "vm")]
            Place::Vm { memory, settings, loaded } => loaded.launch(memory, *settings, call, workspaces),
            Place::Cuda { gpu, loaded, .. } => {
                // SAFETY: the stream is the GPU's own. Buffers of the session outlive the launch, which is waited for
                // here; the engine sizes them from a checked `Problem`.
                unsafe {
                    loaded.launch(gpu.stream().cu_stream(), call, workspaces)?;
                    self.timing.1 = loaded.timed(gpu, self.timing.0, call, workspaces)?;
                }
                cuda::synchronize(gpu)?;
                Ok(Vec::new())
            }
        }
    }

    /// What of these outputs no launch wrote, where the virtual machine ran with the full checks.
    #[cfg_attr(not(feature = "vm"), expect(unused_variables, reason = "what the virtual machine alone asks for"))]
    pub fn unwritten(&self, outputs: impl IntoIterator<Item = u64>) -> Vec<Finding> {
        match &self.place {
            #[cfg(feature = "vm")]
            Place::Vm { memory, .. } => outputs.into_iter().filter_map(|at| memory.unwritten(Address(at))).collect(),
            Place::Cuda { .. } => Vec::new(),
        }
    }

    /// Goes on with another kernel in the same memory; what this one saves, that one finds.
    ///
    /// # Errors
    /// The kernel cannot be loaded there.
    pub fn switch(&mut self, artifact: &Artifact) -> Result<(), DeviceError> {
        let names: Vec<(String, bool)> =
            self.kernel().workspaces.iter().map(|workspace| (workspace.name.clone(), workspace.saved)).collect();
        let (sizes, addresses) = std::mem::take(&mut self.workspaces);
        for ((name, saved), place) in names.into_iter().zip(sizes.into_iter().zip(addresses)) {
            if saved {
                self.saved.insert(name, place);
            }
        }
        match &mut self.place {
            #[cfg(feature = "vm")]
            Place::Vm { loaded, .. } => *loaded = vm::Loaded::new(artifact)?,
            Place::Cuda { gpu, loaded, .. } => *loaded = cuda::Loaded::new(gpu, artifact)?,
        }
        Ok(())
    }

    /// What the kernel's launches left for a later one, by name.
    ///
    /// # Errors
    /// A failing driver call.
    pub fn kept(&self) -> Result<Vec<(String, Vec<u8>)>, DeviceError> {
        let saved = self.kernel().workspaces.iter().zip(&self.workspaces.1).filter(|(workspace, _)| workspace.saved);
        saved.map(|(workspace, address)| Ok((workspace.name.clone(), self.read(*address)?))).collect()
    }

    /// Puts back what a kernel of an earlier session left.
    ///
    /// # Errors
    /// The device is out of memory.
    pub fn restore(&mut self, name: &str, bytes: &[u8]) -> Result<(), DeviceError> {
        let address = self.upload(name, bytes)?;
        self.saved.insert(name.to_owned(), (bytes.len(), address));
        Ok(())
    }

    fn scratch(&mut self, call: &Arguments) -> Result<(), DeviceError> {
        let sizes = raw::workspace_bytes(self.kernel(), call.extents()?)?;
        if sizes != self.workspaces.0 {
            let names: Vec<String> = self.kernel().workspaces.iter().map(|workspace| workspace.name.clone()).collect();
            let place = |(name, bytes): (&String, &usize)| match self.saved.get(name) {
                Some((kept, address)) if kept == bytes => Ok(*address),
                _ => self.poisoned(name, *bytes),
            };
            let addresses = names.iter().zip(&sizes).map(place).collect::<Result<Vec<u64>, _>>()?;
            self.workspaces = (sizes, addresses);
        }
        Ok(())
    }

    /// The contents of a buffer; empty for an address that starts none.
    ///
    /// # Errors
    /// A failing driver call.
    pub fn read(&self, address: u64) -> Result<Vec<u8>, DeviceError> {
        match &self.place {
            #[cfg(feature = "vm")]
            Place::Vm { memory, .. } => Ok(memory.read(Address(address)).to_vec()),
            Place::Cuda { buffers, .. } => match buffers.iter().find(|buffer| buffer.address() == address) {
                Some(buffer) => buffer.read(),
                None => Ok(Vec::new()),
            },
        }
    }
}
