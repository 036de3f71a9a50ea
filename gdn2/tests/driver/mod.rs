//! Stand-ins for a GPU: one whose driver counts and does nothing, one whose driver runs the virtual machine from the very
//! parameter block that a GPU's driver would be handed; and memory of theirs.
#![allow(dead_code, clippy::unwrap_used, reason = "each test uses its part")]

use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use gdn2::__private::{Driver, Gpu, Put};
use gdn2::{Context, DeviceError, DeviceMemory, Dtype, ForeignMemory, Stored, Stream};
use gdn2_codegen::abi::ArgType;
use gdn2_codegen::arch::Arch;
use gdn2_codegen::gpu::{Identity, KNOWN, Known};
use gdn2_codegen::kernel::Kernel;
use gdn2_runtime::artifact::Artifact;
use gdn2_vm::{Check, Landing, Launch, Limits, Memory, Module, Value};

/// The context that everything here belongs to.
pub const CONTEXT: Context = Context(7);

/// A stream of it.
pub fn stream() -> Stream<'static> {
    // SAFETY: no driver here reads the handle, and all work is done when a call returns.
    unsafe { Stream::foreign(std::ptr::without_provenance_mut::<c_void>(9), CONTEXT) }
}

/// Memory of it: the addresses are the virtual machine's, which checks each access, or are never read.
pub fn at(address: u64, len: usize, dtype: Dtype) -> ForeignMemory {
    of(CONTEXT, address, len, Stored::Float(dtype))
}

/// Memory of any context.
pub fn of(context: Context, address: u64, len: usize, stored: Stored) -> ForeignMemory {
    // SAFETY: as `at` says.
    unsafe { ForeignMemory::new(address, len, stored, context) }
}

/// Numbers in [low, high) as bf16 has them, a different sequence for each seed.
pub fn draw(seed: u64, elements: usize, low: f32, high: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..elements).map(|_| gdn2::bf16::from_f32(low + (high - low) * next()).to_f32()).collect()
}

/// What a driver says of a GPU by that name: all the list's numbers where that is one of the list.
pub fn named(name: &str, arch: Arch) -> Identity {
    let known = KNOWN.iter().find(|known| known.names.contains(&name)).map(Known::identity);
    let (name, shared_per_sm) = (name.to_owned(), arch.limits().shared_per_sm);
    known.unwrap_or(Identity { name, arch, multiprocessors: 1, clock_mhz: 1000, gigabytes: 100, shared_per_sm })
}

/// A GPU whose driver counts its calls.
#[derive(Clone)]
pub struct Counting {
    pub name: &'static str,
    pub arch: Arch,
    pub calls: Arc<AtomicUsize>,
    pub loaded: Arc<AtomicUsize>,
}

impl Counting {
    pub fn new() -> Counting {
        Counting { name: "a stub", arch: Arch::Sm80, calls: Arc::default(), loaded: Arc::default() }
    }
}

impl Gpu for Counting {
    fn arch(&self) -> Arch {
        self.arch
    }

    fn identity(&self) -> Result<Identity, DeviceError> {
        Ok(named(self.name, self.arch))
    }

    fn context(&self) -> Context {
        CONTEXT
    }

    fn load(&self, _: &Artifact) -> Result<Box<dyn Driver>, DeviceError> {
        self.loaded.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(Count(self.calls.clone())))
    }
}

struct Count(Arc<AtomicUsize>);

impl Driver for Count {
    unsafe fn launch(&self, put: Put<'_>) -> Result<(), DeviceError> {
        assert_eq!(put.params.len(), put.launch.params.len());
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// A GPU whose driver runs the virtual machine.
#[derive(Clone, Default)]
pub struct Machine(pub Arc<Mutex<Memory>>);

impl Machine {
    /// Numbers in its memory, stored as a dtype.
    pub fn upload(&self, numbers: &[f32], dtype: Dtype) -> ForeignMemory {
        let bytes = gdn2_runtime::storage::encode(numbers.iter().copied(), dtype);
        at(self.0.lock().unwrap().upload("input", &bytes).0, numbers.len(), dtype)
    }

    /// 32-bit integers in its memory.
    pub fn upload_i32(&self, numbers: &[i32]) -> ForeignMemory {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let address = self.0.lock().unwrap().upload("table", &bytes).0;
        of(CONTEXT, address, numbers.len(), Stored::I32)
    }

    /// Room for an output.
    pub fn room(&self, len: usize, dtype: Dtype) -> ForeignMemory {
        let address = self.0.lock().unwrap().poisoned("output", len * dtype.bytes() as usize).0;
        at(address, len, dtype)
    }

    pub fn read(&self, at: &ForeignMemory) -> Vec<f32> {
        let Stored::Float(dtype) = at.stored() else { return Vec::new() };
        gdn2_runtime::storage::decode(self.0.lock().unwrap().read(gdn2_vm::Address(at.address())), dtype)
    }
}

impl Gpu for Machine {
    fn arch(&self) -> Arch {
        Arch::Sm80
    }

    fn identity(&self) -> Result<Identity, DeviceError> {
        Ok(named("the virtual machine", Arch::Sm80))
    }

    fn context(&self) -> Context {
        CONTEXT
    }

    fn load(&self, artifact: &Artifact) -> Result<Box<dyn Driver>, DeviceError> {
        let (module, kernel) = (Module::parse(&artifact.ptx)?, artifact.kernel.clone());
        Ok(Box::new(Run { module, kernel, memory: self.0.clone() }))
    }
}

struct Run {
    module: Module,
    kernel: Kernel,
    memory: Arc<Mutex<Memory>>,
}

impl Driver for Run {
    unsafe fn launch(&self, put: Put<'_>) -> Result<(), DeviceError> {
        let value = |(pointer, param): (&*mut c_void, &gdn2_codegen::abi::Param)| {
            // SAFETY: each pointer is to a live argument of its parameter's type.
            unsafe {
                match param.arg.ty() {
                    ArgType::Pointer => Value::Pointer(pointer.cast::<u64>().read()),
                    ArgType::I64 => Value::I64(pointer.cast::<i64>().read()),
                    ArgType::I32 => Value::I32(pointer.cast::<i32>().read()),
                    ArgType::F32 => Value::F32(pointer.cast::<f32>().read()),
                }
            }
        };
        let args: Vec<Value> = put.params.iter().zip(&put.launch.params).map(value).collect();
        let row = self.kernel.arch.limits();
        let launch = Launch {
            entry: &put.launch.entry,
            grid: [put.blocks, 1, 1],
            block: [put.launch.block, 1, 1],
            shared_bytes: put.launch.shared_bytes,
            args: &args,
            limits: Limits {
                shared_per_block: row.shared_per_block,
                threads_per_block: row.threads_per_block,
                sm: row.sm,
            },
            check: Check::default(),
            landing: Landing::default(),
            order: None,
            outputs: &[],
            count: false,
            instructions: gdn2_vm::INSTRUCTIONS,
        };
        gdn2_vm::run(&self.module, &launch, &mut self.memory.lock().unwrap()).map_err(Box::new)?;
        Ok(())
    }
}
