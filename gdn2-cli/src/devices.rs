//! `gdn2 devices`: what kernels can run on here.

use gdn2_codegen::arch::Arch;
use gdn2_runtime::device::cuda;

use crate::error::CliError;
use crate::{Verdict, compiler, write};

/// List what kernels can run on here, and the compiler they are made with
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    compiler: compiler::Flags,
}

impl Args {
    pub fn run(&self) -> Result<Verdict, CliError> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let arches = Arch::ALL.map(Arch::target).join(", ");
        let mut text = format!("cpu     native, f32 (cpu:f64 in float64), {threads} threads\n");
        text += &format!("vm      virtual machine for PTX of {arches}\n");
        match cuda::list() {
            Ok(gpus) if gpus.is_empty() => text += "cuda    a driver, but no GPU\n",
            Ok(gpus) => {
                for gpu in gpus {
                    let (major, minor) = gpu.capability;
                    let gib = gpu.memory as f64 / f64::from(1u32 << 30);
                    text += &format!(
                        "cuda:{}  {}, compute capability {major}.{minor}, {gib:.0} GiB, driver for CUDA {}\n",
                        gpu.ordinal, gpu.name, gpu.driver
                    );
                }
            }
            Err(error) => text += &format!("cuda    none: {error}\n"),
        }
        text += &match self.compiler.bare().nvrtc() {
            Ok(nvrtc) => format!("NVRTC   {} in {}\n", nvrtc.version(), nvrtc.path().display()),
            Err(error) => format!("NVRTC   none: {error}\n"),
        };
        write::stdout(text.as_bytes())?;
        Ok(Verdict::Good)
    }
}
