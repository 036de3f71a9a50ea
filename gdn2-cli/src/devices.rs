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
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(&self) -> Result<Verdict, CliError> {
        if self.json {
            return self.machine();
        }
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

    /// The same for machines.
    fn machine(&self) -> Result<Verdict, CliError> {
        let (gpus, no_gpu) = match cuda::list() {
            Ok(gpus) => (gpus, None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        let gpus = gpus.into_iter().map(|gpu| {
            serde_json::json!({
                "device": format!("cuda:{}", gpu.ordinal), "name": gpu.name, "memory": gpu.memory,
                "capability": [gpu.capability.0, gpu.capability.1], "driver": gpu.driver.to_string(),
            })
        });
        let compiler = self.compiler.bare();
        let nvrtc = match compiler.nvrtc() {
            Ok(nvrtc) => {
                serde_json::json!({ "version": nvrtc.version().to_string(), "path": nvrtc.path().display().to_string() })
            }
            Err(error) => serde_json::json!({ "missing": error.to_string() }),
        };
        let json = serde_json::json!({
            "cpu": { "threads": std::thread::available_parallelism().map_or(1, usize::from) },
            "vm": Arch::ALL.map(Arch::target), "gpus": gpus.collect::<Vec<_>>(), "no_gpu": no_gpu, "nvrtc": nvrtc,
        });
        write::stdout(format!("{json:#}\n").as_bytes())?;
        Ok(Verdict::Good)
    }
}
