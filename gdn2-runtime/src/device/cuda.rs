//! Kernels on a GPU, through cudarc. The driver library is probed here first: cudarc panics where it is missing, and
//! even printing its errors needs it, so nothing of cudarc is called before the probe has passed.
//!
//! Minimum driver: one that supports CUDA 12.0 (Linux 525.60.13), for sm_120 12.8 (570.26). Machine code compiled by NVRTC
//! 13 needs one that supports CUDA 13.0 (580.65.06); an older one compiles the PTX. Source: CUDA Toolkit release notes,
//! "CUDA Toolkit and Minimum Required Driver Version".

use super::DeviceError;
use super::launch::{Context, Driver, Gpu, Launcher, Put};
use crate::artifact::Artifact;
use crate::nvrtc::Version;
use crate::raw::{Arguments, Workspaces};
use cudarc::driver::sys::{
    self, CUdevice_attribute as Attribute, CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
    CUresult,
};
use cudarc::driver::{CudaContext, CudaFunction, CudaGraph, CudaStream, DriverError, result};
use cudarc::nvrtc::Ptx;
use gdn2_codegen::arch::Arch;
use gdn2_codegen::gpu::Identity;
use gdn2_codegen::kernel::Kernel;
use libloading::Library;
use std::ffi::{c_int, c_uint};
use std::sync::{Arc, OnceLock};

/// Oldest driver that runs anything, as the CUDA version it supports.
pub const OLDEST_DRIVER: Version = {
    let (major, minor) = Arch::Sm80.oldest_driver();
    Version { major, minor }
};

/// Dynamic shared memory a block may have without asking, bytes. CUDA C++ Programming Guide, "Shared Memory".
const SHARED_WITHOUT_ASKING: u32 = 48 * 1024;

/// A GPU and the stream its work goes to.
#[derive(Clone, Debug)]
pub struct Cuda {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    driver: Version,
    arch: Arch,
}

/// What is known about a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its ordinal.
    pub ordinal: usize,
    /// Its name.
    pub name: String,
    /// Compute capability.
    pub capability: (i32, i32),
    /// Memory, bytes.
    pub memory: usize,
    /// The newest CUDA the driver supports.
    pub driver: Version,
}

/// Opens the driver and starts it; the outcome is kept for the life of the process.
fn opened() -> Result<&'static (Library, Version), DeviceError> {
    static PROBE: OnceLock<Result<(Library, Version), DeviceError>> = OnceLock::new();
    PROBE.get_or_init(open_driver).as_ref().map_err(DeviceError::clone)
}

fn probe() -> Result<Version, DeviceError> {
    opened().map(|(_, version)| *version)
}

/// The driver's library, for what cudarc does not offer whatever it is built for.
#[cfg(feature = "vm")]
pub(super) fn library() -> Result<&'static Library, DeviceError> {
    opened().map(|(library, _)| library)
}

fn open_driver() -> Result<(Library, Version), DeviceError> {
    let names: &[&str] = if cfg!(windows) { &["nvcuda.dll"] } else { &["libcuda.so.1", "libcuda.so"] };
    let unavailable = |reason: String| DeviceError::Unavailable {
        tried: names.iter().map(|name| (*name).to_owned()).collect(),
        reason,
    };
    let mut reason = String::new();
    for name in names {
        // SAFETY: the CUDA driver's library; its initialisers are what every CUDA program runs. The two functions are
        // read with the types cuda.h declares.
        unsafe {
            let library = match Library::new(*name) {
                Ok(library) => library,
                Err(error) => {
                    reason = error.to_string();
                    continue;
                }
            };
            let init = library.get::<unsafe extern "C" fn(c_uint) -> c_int>("cuInit").map(|symbol| *symbol);
            let query =
                library.get::<unsafe extern "C" fn(*mut c_int) -> c_int>("cuDriverGetVersion").map(|symbol| *symbol);
            let (init, query) = match (init, query) {
                (Ok(init), Ok(query)) => (init, query),
                (Err(error), _) | (_, Err(error)) => return Err(unavailable(error.to_string())),
            };
            let mut number = 0;
            if query(&raw mut number) != 0 {
                return Err(unavailable("cuDriverGetVersion failed".to_owned()));
            }
            let number = u32::try_from(number).unwrap_or(0);
            let version = Version { major: number / 1000, minor: number % 1000 / 10 };
            if version < OLDEST_DRIVER {
                return Err(DeviceError::OldDriver { found: version, need: OLDEST_DRIVER });
            }
            return match init(0) {
                0 => Ok((library, version)),
                100 => Err(unavailable("the driver sees no GPU".to_owned())),
                code => Err(unavailable(format!("cuInit returned {code}"))),
            };
        }
    }
    Err(unavailable(reason))
}

/// A driver error as our own. Only reached after the probe passed.
pub fn driver(call: &'static str) -> impl Fn(DriverError) -> DeviceError {
    move |error| DeviceError::Driver {
        call,
        code: error.0 as u32,
        name: error.error_name().map_or_else(|_| "unnamed".to_owned(), |name| name.to_string_lossy().into_owned()),
    }
}

/// Every GPU the driver sees.
///
/// # Errors
/// No driver, or one that is too old.
pub fn list() -> Result<Vec<Info>, DeviceError> {
    let version = probe()?;
    let count = CudaContext::device_count().map_err(driver("counting GPUs"))?;
    (0..usize::try_from(count).unwrap_or(0))
        .map(|ordinal| {
            let context = CudaContext::new(ordinal).map_err(driver("opening a GPU"))?;
            Ok(Info {
                ordinal,
                name: context.name().map_err(driver("asking for a GPU's name"))?,
                capability: context.compute_capability().map_err(driver("asking for a GPU's capability"))?,
                memory: context.total_mem().map_err(driver("asking for a GPU's memory"))?,
                driver: version,
            })
        })
        .collect()
}

/// The newest architecture of the table that a GPU of this capability runs.
fn arch_of((major, minor): (i32, i32)) -> Option<Arch> {
    match (major, minor) {
        (8, 0 | 7) => Some(Arch::Sm80),
        (8, 6) => Some(Arch::Sm86),
        (8, 9) => Some(Arch::Sm89),
        (9, 0) => Some(Arch::Sm90a),
        (12, _) => Some(Arch::Sm120),
        _ => None,
    }
}

fn architecture(context: &CudaContext) -> Result<Arch, DeviceError> {
    let (major, minor) = context.compute_capability().map_err(driver("asking for a GPU's capability"))?;
    match arch_of((major, minor)) {
        Some(arch) => Ok(arch),
        None => {
            let name = context.name().map_err(driver("asking for a GPU's name"))?;
            Err(DeviceError::UnsupportedGpu { name, major, minor })
        }
    }
}

impl Cuda {
    /// Opens a GPU with a stream of its own.
    ///
    /// # Errors
    /// No driver, an old one, no such GPU, or one without kernels.
    pub fn open(ordinal: usize) -> Result<Cuda, DeviceError> {
        let version = probe()?;
        let count = CudaContext::device_count().map_err(driver("counting GPUs"))?;
        let count = usize::try_from(count).unwrap_or(0);
        if ordinal >= count {
            return Err(DeviceError::NoSuchGpu { asked: ordinal, count });
        }
        let context = CudaContext::new(ordinal).map_err(driver("opening a GPU"))?;
        let arch = architecture(&context)?;
        let stream = context.new_stream().map_err(driver("making a stream"))?;
        Ok(Cuda { context, stream, driver: version, arch })
    }

    /// The GPU of a stream that another library made: its context is shared, and work goes to that stream.
    ///
    /// # Errors
    /// An old driver, or a GPU without kernels.
    pub fn from_stream(stream: Arc<CudaStream>) -> Result<Cuda, DeviceError> {
        let version = probe()?;
        let context = stream.context().clone();
        let arch = architecture(&context)?;
        Ok(Cuda { context, stream, driver: version, arch })
    }

    /// The architecture its kernels are generated for.
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// The newest CUDA its driver supports.
    pub fn driver(&self) -> Version {
        self.driver
    }

    /// Its name, as the driver has it.
    ///
    /// # Errors
    /// A failing driver call.
    pub fn name(&self) -> Result<String, DeviceError> {
        self.context.name().map_err(driver("asking for a GPU's name"))
    }

    /// The highest clock of its multiprocessors, MHz.
    ///
    /// # Errors
    /// A failing driver call.
    pub fn clock_mhz(&self) -> Result<u32, DeviceError> {
        let kilohertz = self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?;
        Ok(u32::try_from(kilohertz).unwrap_or(0) / 1000)
    }

    /// Bytes of its level-two cache.
    fn cache_bytes(&self) -> Result<usize, DeviceError> {
        let bytes = self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?;
        Ok(usize::try_from(bytes).unwrap_or(0))
    }

    fn attribute(&self, attribute: Attribute) -> Result<i32, DeviceError> {
        self.context.attribute(attribute).map_err(driver("asking for an attribute of a GPU"))
    }

    /// cudarc's context.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// The stream that allocations, copies and launches of this handle go to.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// The same GPU with another stream of the same context.
    pub fn with_stream(&self, stream: Arc<CudaStream>) -> Cuda {
        Cuda { stream, ..self.clone() }
    }
}

/// The functions of a kernel on a GPU.
struct Functions {
    context: Arc<CudaContext>,
    functions: Vec<CudaFunction>,
}

impl Gpu for Cuda {
    fn arch(&self) -> Arch {
        self.arch
    }

    fn identity(&self) -> Result<Identity, DeviceError> {
        let number = |attribute| Ok::<u64, DeviceError>(u64::try_from(self.attribute(attribute)?).unwrap_or(0));
        let kilohertz = number(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?;
        let bits = number(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?;
        let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Ok(Identity {
            name: Cuda::name(self)?,
            arch: self.arch,
            multiprocessors: small(number(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?),
            clock_mhz: self.clock_mhz()?,
            // Both edges of the clock, bits to bytes.
            gigabytes: small(2 * kilohertz * bits / 8 / 1_000_000),
            shared_per_sm: small(number(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)?),
        })
    }

    fn context(&self) -> Context {
        context_of(&self.stream)
    }

    /// Loads the cubin, or where there is none that the driver runs has it compile the PTX, and grants the shared memory.
    fn load(&self, artifact: &Artifact) -> Result<Box<dyn Driver>, DeviceError> {
        let kernel = &artifact.kernel;
        if kernel.arch != self.arch {
            return Err(DeviceError::Arch { kernel: kernel.arch, device: self.arch });
        }
        let (major, minor) = kernel.arch.oldest_driver();
        let need = Version { major, minor };
        if self.driver < need {
            return Err(DeviceError::OldDriver { found: self.driver, need });
        }
        // A driver runs the cubins of its own major and of older ones; within one, it takes newer minors' cubins.
        let runs = artifact.compiler.is_some_and(|compiler| compiler.major <= self.driver.major);
        let image = match &artifact.cubin {
            Some(cubin) if runs && !cubin.is_empty() => Ptx::from_binary(cubin.clone()),
            _ => Ptx::from_src(artifact.ptx.clone()),
        };
        let module = self.context.load_module(image).map_err(driver("loading a kernel"))?;
        let mut functions = Vec::with_capacity(kernel.launches.len());
        for launch in &kernel.launches {
            let function = module.load_function(&launch.entry).map_err(driver("finding a kernel's entry"))?;
            if launch.shared_bytes > SHARED_WITHOUT_ASKING {
                let bytes = c_int::try_from(launch.shared_bytes).unwrap_or(c_int::MAX);
                function
                    .set_attribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes)
                    .map_err(driver("granting shared memory"))?;
            }
            functions.push(function);
        }
        Ok(Box::new(Functions { context: self.context.clone(), functions }))
    }
}

/// The context of a stream.
pub fn context_of(stream: &CudaStream) -> Context {
    Context(stream.context().cu_ctx() as usize)
}

impl Driver for Functions {
    unsafe fn launch(&self, put: Put<'_>) -> Result<(), DeviceError> {
        let Put { index, launch, blocks, stream, params } = put;
        let Some(function) = self.functions.get(index) else { return Ok(()) };
        let (grid, block) = ((blocks, 1, 1), (launch.block, 1, 1));
        let mut put = || {
            // SAFETY: the function belongs to a module that `function` keeps loaded; the rest is the caller's promise.
            unsafe {
                let function = function.cu_function();
                result::launch_kernel(function, grid, block, launch.shared_bytes, stream.cast(), params)
            }
        };
        // A thread that launches has the context current as a rule; one that has not is told so by the driver.
        match put() {
            Err(DriverError(CUresult::CUDA_ERROR_INVALID_CONTEXT | CUresult::CUDA_ERROR_INVALID_HANDLE)) => {
                self.context.bind_to_thread().map_err(driver("binding the context"))?;
                put()
            }
            outcome => outcome,
        }
        .map_err(driver("launching a kernel"))
    }
}

/// A compiled kernel on a GPU.
#[derive(Debug)]
pub struct Loaded(Launcher);

impl Loaded {
    /// Loads a kernel.
    ///
    /// # Errors
    /// Another architecture, an old driver, or a failing driver call.
    pub fn new(gpu: &Cuda, artifact: &Artifact) -> Result<Loaded, DeviceError> {
        Launcher::new(gpu, artifact).map(Loaded)
    }

    /// The kernel.
    pub fn kernel(&self) -> &Kernel {
        self.0.kernel()
    }

    /// Puts the kernel's launches on a stream, as [`Launcher::launch`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Safety
    /// As there.
    pub(super) unsafe fn launch(
        &self,
        stream: sys::CUstream,
        call: &Arguments,
        workspaces: Workspaces<'_>,
    ) -> Result<(), DeviceError> {
        // SAFETY: the caller's promise.
        unsafe { self.0.launch(stream.cast(), call, workspaces) }
    }

    /// Replays a graph of the launches `repeats` times on the GPU's stream and waits; the milliseconds of each replay,
    /// between two events. With `cold`, the level-two cache is overwritten before each.
    ///
    /// # Errors
    /// As [`Loaded::launch`].
    ///
    /// # Safety
    /// As [`Loaded::launch`].
    pub(super) unsafe fn timed(
        &self,
        gpu: &Cuda,
        (repeats, cold): (usize, bool),
        call: &Arguments,
        workspaces: Workspaces<'_>,
    ) -> Result<Vec<f32>, DeviceError> {
        let mark = || {
            gpu.stream.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).map_err(driver("recording an event"))
        };
        if repeats == 0 {
            return Ok(Vec::new());
        }
        // SAFETY: the caller's promise.
        let Some(graph) = (unsafe { self.captured(gpu, call, workspaces)? }) else { return Ok(Vec::new()) };
        let scrub = if cold { Some(Buffer::poisoned(gpu, 2 * gpu.cache_bytes()?)?) } else { None };
        let mut marks = Vec::with_capacity(repeats);
        for _ in 0..repeats {
            if let Some(scrub) = &scrub {
                // SAFETY: the buffer is as long as it says and outlives the work, which `elapsed_ms` waits for.
                unsafe { result::memset_d8_async(scrub.address, 0, scrub.len, gpu.stream.cu_stream()) }
                    .map_err(driver("overwriting the cache"))?;
            }
            let start = mark()?;
            graph.launch().map_err(driver("replaying a graph"))?;
            marks.push((start, mark()?));
        }
        marks.iter().map(|(start, end)| start.elapsed_ms(end).map_err(driver("timing a kernel"))).collect()
    }
}

impl Loaded {
    /// The launches of a call as a graph; `None` where there are none.
    ///
    /// # Safety
    /// As [`Loaded::launch`], for as long as the graph is replayed.
    unsafe fn captured(
        &self,
        gpu: &Cuda,
        call: &Arguments,
        workspaces: Workspaces<'_>,
    ) -> Result<Option<CudaGraph>, DeviceError> {
        gpu.stream
            .begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .map_err(driver("beginning a capture"))?;
        // SAFETY: the caller's promise.
        let launched = unsafe { self.launch(gpu.stream.cu_stream(), call, workspaces) };
        // The capture ends whatever happened in it: a stream left capturing is of no use to anybody.
        let graph = gpu
            .stream
            .end_capture(sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH)
            .map_err(driver("ending a capture"));
        launched?;
        graph
    }
}

/// Device memory that is freed with its owner.
#[derive(Debug)]
pub(super) struct Buffer {
    address: sys::CUdeviceptr,
    len: usize,
    context: Arc<CudaContext>,
}

impl Buffer {
    /// `len` bytes of 0xff: NaN in every float type.
    pub(super) fn poisoned(gpu: &Cuda, len: usize) -> Result<Buffer, DeviceError> {
        gpu.context.bind_to_thread().map_err(driver("binding the context"))?;
        // SAFETY: the context is bound; a fresh allocation of at least `len` bytes is filled. Zero bytes cannot be
        // allocated, and an empty tensor still wants an address.
        unsafe {
            let address = result::malloc_sync(len.max(16)).map_err(driver("allocating"))?;
            let buffer = Buffer { address, len, context: gpu.context.clone() };
            result::memset_d8_sync(address, 0xff, len.max(16)).map_err(driver("filling memory"))?;
            Ok(buffer)
        }
    }

    pub(super) fn address(&self) -> u64 {
        self.address
    }

    pub(super) fn write(&self, bytes: &[u8]) -> Result<(), DeviceError> {
        self.context.bind_to_thread().map_err(driver("binding the context"))?;
        let part = &bytes[..bytes.len().min(self.len)];
        // SAFETY: the buffer holds at least as many bytes.
        unsafe { result::memcpy_htod_sync(self.address, part) }.map_err(driver("copying to the GPU"))
    }

    pub(super) fn read(&self) -> Result<Vec<u8>, DeviceError> {
        self.context.bind_to_thread().map_err(driver("binding the context"))?;
        let mut bytes = vec![0u8; self.len];
        if self.len > 0 {
            // SAFETY: the buffer holds exactly as many bytes.
            unsafe { result::memcpy_dtoh_sync(&mut bytes, self.address) }.map_err(driver("copying from the GPU"))?;
        }
        Ok(bytes)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: allocated by `poisoned`, freed once; the driver waits for work that uses it.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

/// Waits for everything on the handle's stream.
pub(super) fn synchronize(gpu: &Cuda) -> Result<(), DeviceError> {
    gpu.stream.synchronize().map_err(driver("waiting for the GPU"))
}
