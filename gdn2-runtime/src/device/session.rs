//! Memory and launches on one device for as long as a run takes, the same calls for the virtual machine and a GPU.

use super::{DeviceError, cuda, vm};
use crate::artifact::Artifact;
use crate::raw::{self, Arguments};
use gdn2_codegen::kernel::Kernel;
use gdn2_vm::{Address, Finding, Memory, Report};
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
    Vm { memory: Memory, settings: vm::Settings, loaded: vm::Loaded },
    Cuda { gpu: cuda::Cuda, buffers: Vec<cuda::Buffer>, loaded: cuda::Loaded },
}

impl Session {
    /// A session on the virtual machine.
    ///
    /// # Errors
    /// PTX the machine does not know.
    pub fn vm(settings: vm::Settings, artifact: &Artifact) -> Result<Session, DeviceError> {
        let loaded = vm::Loaded::new(artifact)?;
        Ok(Session {
            place: Place::Vm { memory: Memory::new(), settings, loaded },
            workspaces: Default::default(),
            saved: BTreeMap::new(),
            timing: Default::default(),
        })
    }

    /// A session on a GPU.
    ///
    /// # Errors
    /// The kernel cannot be loaded there.
    pub fn cuda(gpu: &cuda::Cuda, artifact: &Artifact) -> Result<Session, DeviceError> {
        let loaded = cuda::Loaded::new(gpu, artifact)?;
        let place = Place::Cuda { gpu: gpu.clone(), buffers: Vec::new(), loaded };
        Ok(Session { place, workspaces: Default::default(), saved: BTreeMap::new(), timing: Default::default() })
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
            Place::Vm { loaded, .. } => loaded.kernel(),
            Place::Cuda { loaded, .. } => loaded.kernel(),
        }
    }

    /// A buffer of `len` bytes of 0xff, NaN in every float type. `name` is for reports.
    ///
    /// # Errors
    /// The device is out of memory.
    pub fn poisoned(&mut self, name: &str, len: usize) -> Result<u64, DeviceError> {
        match &mut self.place {
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
    pub fn upload(&mut self, name: &str, bytes: &[u8]) -> Result<u64, DeviceError> {
        match &mut self.place {
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
    pub fn unwritten(&self, outputs: impl IntoIterator<Item = u64>) -> Vec<Finding> {
        match &self.place {
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
            Place::Vm { memory, .. } => Ok(memory.read(Address(address)).to_vec()),
            Place::Cuda { buffers, .. } => match buffers.iter().find(|buffer| buffer.address() == address) {
                Some(buffer) => buffer.read(),
                None => Ok(Vec::new()),
            },
        }
    }
}
