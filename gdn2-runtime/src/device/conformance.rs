//! Conformance kernels of the virtual machine, on it and on a GPU.

use super::cuda::{Buffer, Cuda, driver, library, synchronize};
use super::{Device, DeviceError};
use cudarc::driver::result;
use cudarc::nvrtc::Ptx;
use gdn2_vm::conformance::{Kernel, Map, RunError};
use gdn2_vm::{MapType, Swizzle};
use std::ffi::{c_uint, c_void};

/// Why a kernel gave no output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConformanceError {
    /// The virtual machine refused or stopped it.
    #[error(transparent)]
    Vm(#[from] RunError),
    /// The GPU did.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The CPU runs no PTX.
    #[error("a conformance kernel is PTX: use --device vm or cuda:N")]
    Cpu,
}

/// What the kernel's output buffer holds after a run.
///
/// # Errors
/// The device cannot load it, or stops it. A kernel that faults on a GPU leaves the process's context unusable.
pub fn output(device: &Device, kernel: &Kernel) -> Result<Vec<u8>, ConformanceError> {
    match device {
        #[cfg(feature = "cpu")]
        Device::Cpu(_) => Err(ConformanceError::Cpu),
        Device::Vm(_) => Ok(kernel.on_vm()?),
        Device::Cuda(gpu) => Ok(on_gpu(gpu, kernel)?),
    }
}

/// A tensor map as the hardware reads it.
#[repr(C, align(64))]
struct Encoded([u8; 128]);

fn on_gpu(gpu: &Cuda, kernel: &Kernel) -> Result<Vec<u8>, DeviceError> {
    let module = gpu.context().load_module(Ptx::from_src(kernel.ptx.clone())).map_err(driver("loading a kernel"))?;
    let function = module.load_function("k").map_err(driver("finding a kernel's entry"))?;
    let mut buffers = Vec::with_capacity(kernel.inputs.len() + 1);
    for bytes in &kernel.inputs {
        let buffer = Buffer::poisoned(gpu, bytes.len())?;
        buffer.write(bytes)?;
        buffers.push(buffer);
    }
    let out = Buffer::poisoned(gpu, kernel.expected.bytes())?;
    let mut addresses: Vec<u64> = buffers.iter().chain([&out]).map(Buffer::address).collect();
    let mut maps = Vec::with_capacity(kernel.maps.len());
    for map in &kernel.maps {
        maps.push(encoded(map, addresses.get(map.buffer).copied().unwrap_or(out.address()))?);
    }
    let scalars = addresses.iter_mut().map(|address| std::ptr::from_mut(address).cast::<c_void>());
    let mut pointers: Vec<*mut c_void> =
        scalars.chain(maps.iter_mut().map(|map| std::ptr::from_mut(map).cast())).collect();
    // SAFETY: the module keeps the function loaded; there is a pointer to a live value of its size for each parameter,
    // in their order; the kernel touches the buffers alone, which live until the stream has been waited for.
    unsafe {
        let (one, block) = ((1, 1, 1), (kernel.threads, 1, 1));
        result::launch_kernel(function.cu_function(), one, block, 0, gpu.stream().cu_stream(), &mut pointers)
    }
    .map_err(driver("launching a kernel"))?;
    synchronize(gpu)?;
    out.read()
}

/// The driver's encoding of a map.
fn encoded(map: &Map, address: u64) -> Result<Encoded, DeviceError> {
    // cuTensorMapEncodeTiled of cuda.h, its enumerations as the C integers they are.
    type Encode = unsafe extern "C" fn(
        *mut Encoded,
        c_uint,
        c_uint,
        *mut c_void,
        *const u64,
        *const u64,
        *const u32,
        *const u32,
        c_uint,
        c_uint,
        c_uint,
        c_uint,
    ) -> c_uint;
    let failed = |code, name: String| DeviceError::Driver { call: "encoding a tensor map", code, name };
    // CUtensorMapDataType and CUtensorMapSwizzle.
    let element = match map.element {
        MapType::U8 => 0,
        MapType::U16 => 1,
        MapType::U32 => 2,
        MapType::I32 => 3,
        MapType::U64 => 4,
        MapType::F16 => 6,
        MapType::F32 => 7,
        MapType::F64 => 8,
        MapType::Bf16 => 9,
    };
    let swizzle = match map.swizzle {
        Swizzle::None => 0,
        Swizzle::B32 => 1,
        Swizzle::B64 => 2,
        Swizzle::B128 => 3,
    };
    let steps = vec![1u32; map.dims.len()];
    let mut out = Encoded([0; 128]);
    // SAFETY: the symbol has the type cuda.h declares; every array has the length that the rank says.
    let code = unsafe {
        let encode =
            library()?.get::<Encode>("cuTensorMapEncodeTiled").map_err(|error| failed(0, error.to_string()))?;
        encode(
            &raw mut out,
            element,
            map.dims.len() as c_uint,
            address as *mut c_void,
            map.dims.as_ptr(),
            map.strides.as_ptr(),
            map.tile.as_ptr(),
            steps.as_ptr(),
            0,
            swizzle,
            0,
            c_uint::from(map.fill_nan),
        )
    };
    if code == 0 { Ok(out) } else { Err(failed(code, "cuTensorMapEncodeTiled refused it".to_owned())) }
}
