//! What a kernel, or its native stand-in, runs on.

#[cfg(feature = "vm")]
pub mod conformance;
pub mod cuda;
pub mod launch;
pub mod session;
#[cfg(feature = "vm")]
pub mod vm;

use crate::nvrtc::Version;
use crate::raw::RawError;
use gdn2_codegen::arch::Arch;
use std::str::FromStr;

#[cfg(feature = "vm")]
pub use gdn2_vm::{Finding, Report};

/// What the virtual machine finds: nothing, in a build without the feature `vm`.
#[cfg(not(feature = "vm"))]
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {}

/// What the virtual machine reports on a launch: nothing, in a build without the feature `vm`.
#[cfg(not(feature = "vm"))]
#[derive(Clone, Debug, PartialEq)]
pub enum Report {}

/// A device.
#[derive(Clone, Debug)]
pub enum Device {
    /// No kernel: the recurrence, natively on all cores.
    #[cfg(feature = "cpu")]
    Cpu(Precision),
    /// The PTX virtual machine.
    #[cfg(feature = "vm")]
    Vm(vm::Settings),
    /// A GPU.
    Cuda(cuda::Cuda),
}

/// What the native implementation computes in.
#[cfg(feature = "cpu")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Precision {
    /// f32, the fast one.
    #[default]
    Single,
    /// f64, the definition itself.
    Double,
}

/// What went wrong on a device.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// No such device name.
    #[error("unknown device `{0}`: use vm, cpu, cpu:f64 or cuda:N")]
    Unknown(String),
    /// A device that this build leaves out.
    #[error(
        "this program was built without the device `{name}`: build it with the feature `{feature}` of gdn2, or use cuda:N"
    )]
    LeftOut {
        /// The device asked for.
        name: String,
        /// The feature that has it.
        feature: &'static str,
    },
    /// The CUDA driver is not installed or does not start.
    #[error("no CUDA driver: {reason} (tried {}); use the device vm or cpu, or install the NVIDIA driver", tried.join(", "))]
    Unavailable {
        /// Library names tried.
        tried: Vec<String>,
        /// What the loader or the driver said.
        reason: String,
    },
    /// A driver older than the code it is to run.
    #[error("the CUDA driver supports CUDA {found}, {need} or newer is needed; update the NVIDIA driver")]
    OldDriver {
        /// The newest CUDA the driver supports.
        found: Version,
        /// The oldest that will do.
        need: Version,
    },
    /// An ordinal beyond the GPUs there are.
    #[error("there is no cuda:{asked}: the driver sees {count} GPU(s)")]
    NoSuchGpu {
        /// The ordinal asked for.
        asked: usize,
        /// GPUs present.
        count: usize,
    },
    /// A GPU that no architecture of the table serves.
    #[error("{name} has compute capability {major}.{minor}; kernels are generated for 8.0, 8.6, 8.9, 9.0 and 12.0 up")]
    UnsupportedGpu {
        /// The GPU.
        name: String,
        /// Its capability's major.
        major: i32,
        /// Its capability's minor.
        minor: i32,
    },
    /// A kernel made for another architecture.
    #[error("the kernel is for {kernel}, the device is {device}; leave --arch out or pass {device}")]
    Arch {
        /// What the kernel was bound for.
        kernel: Arch,
        /// What the device runs.
        device: Arch,
    },
    /// A driver call failed.
    #[error("{call}: {name} ({code})")]
    Driver {
        /// What was being done.
        call: &'static str,
        /// The driver's number.
        code: u32,
        /// The driver's name for it.
        name: String,
    },
    /// The virtual machine cannot run the PTX.
    #[cfg(feature = "vm")]
    #[error(transparent)]
    Load(#[from] gdn2_vm::LoadError),
    /// The kernel did something wrong on the virtual machine.
    #[cfg(feature = "vm")]
    #[error(transparent)]
    Trap(#[from] Box<gdn2_vm::Trap>),
    /// The call does not make launches.
    #[error(transparent)]
    Raw(#[from] RawError),
}

impl Device {
    /// The native implementation in f32.
    #[cfg(feature = "cpu")]
    pub fn cpu() -> Device {
        Device::Cpu(Precision::Single)
    }

    /// The virtual machine with its default checks.
    #[cfg(feature = "vm")]
    pub fn vm() -> Device {
        Device::Vm(vm::Settings::default())
    }

    /// A GPU.
    ///
    /// # Errors
    /// No driver, an old one, or no such GPU.
    pub fn cuda(ordinal: usize) -> Result<Device, DeviceError> {
        cuda::Cuda::open(ordinal).map(Device::Cuda)
    }

    /// The GPU of a stream that another library made, such as candle: its context is shared.
    ///
    /// # Errors
    /// An old driver, or a GPU without kernels.
    pub fn on_stream(stream: std::sync::Arc<cudarc::driver::CudaStream>) -> Result<Device, DeviceError> {
        cuda::Cuda::from_stream(stream).map(Device::Cuda)
    }

    /// The stream that work on host memory goes to; none where there is no GPU.
    pub fn stream(&self) -> Option<&std::sync::Arc<cudarc::driver::CudaStream>> {
        match self {
            Device::Cuda(gpu) => Some(gpu.stream()),
            #[cfg(feature = "cpu")]
            Device::Cpu(_) => None,
            #[cfg(feature = "vm")]
            Device::Vm(_) => None,
        }
    }

    /// Whether it runs kernels; the CPU computes without any.
    pub fn takes_kernels(&self) -> bool {
        match self {
            Device::Cuda(_) => true,
            #[cfg(feature = "cpu")]
            Device::Cpu(_) => false,
            #[cfg(feature = "vm")]
            Device::Vm(_) => true,
        }
    }

    /// The architecture a kernel for this device must be made for; the virtual machine takes any, the CPU none.
    pub fn arch(&self) -> Option<Arch> {
        match self {
            Device::Cuda(gpu) => Some(gpu.arch()),
            #[cfg(feature = "cpu")]
            Device::Cpu(_) => None,
            #[cfg(feature = "vm")]
            Device::Vm(_) => None,
        }
    }
}

impl FromStr for Device {
    type Err = DeviceError;

    fn from_str(name: &str) -> Result<Device, DeviceError> {
        match name {
            #[cfg(feature = "cpu")]
            "cpu" => Ok(Device::cpu()),
            #[cfg(feature = "cpu")]
            "cpu:f64" => Ok(Device::Cpu(Precision::Double)),
            #[cfg(not(feature = "cpu"))]
            "cpu" | "cpu:f64" => Err(DeviceError::LeftOut { name: name.to_owned(), feature: "cpu" }),
            #[cfg(feature = "vm")]
            "vm" => Ok(Device::vm()),
            #[cfg(not(feature = "vm"))]
            "vm" => Err(DeviceError::LeftOut { name: name.to_owned(), feature: "vm" }),
            "cuda" => Device::cuda(0),
            _ => match name.strip_prefix("cuda:").map(str::parse) {
                Some(Ok(ordinal)) => Device::cuda(ordinal),
                _ => Err(DeviceError::Unknown(name.to_owned())),
            },
        }
    }
}
