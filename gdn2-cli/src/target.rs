//! Where and how a kernel runs, as the command line says it: the arguments that run, verify and bench share.

use std::path::Path;

use gdn2_codegen::abi::Extents;
use gdn2_codegen::arch::Arch;
use gdn2_codegen::gpu::standing;
use gdn2_codegen::kernel::Pass;
use gdn2_dsl::Rule;
use gdn2_runtime::device::Device;
use gdn2_runtime::device::launch::Gpu as _;
use gdn2_runtime::engine::{Engine, Run};
use gdn2_vm::Check;

use crate::error::CliError;
use crate::select::pass;
use crate::{compiler, tuned};

/// Pass, device, architecture and schedule.
#[derive(Clone, Debug, clap::Args)]
pub struct Target {
    /// forward, decode or backward
    #[arg(long, default_value = "forward", value_parser = pass)]
    pub pass: Pass,
    /// vm, cpu (f32), cpu:f64 or cuda:N
    #[arg(long, value_name = "DEVICE")]
    pub device: String,
    /// Architecture to generate for on the vm: sm_80 (default), sm_86, sm_89, sm_90a or sm_120; a GPU has its own
    #[arg(long)]
    pub arch: Option<Arch>,
    /// Schedule fields, such as chunk=64,warps=4; the rest is chosen to fit
    #[arg(long, default_value = "", value_name = "FIELD=N,…", hide_default_value = true)]
    pub schedule: String,
    /// Decode: tokens per launch
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = positive)]
    pub tokens_per_launch: usize,
    #[command(flatten)]
    pub source: compiler::Source,
    #[command(flatten)]
    pub check: VmCheck,
    #[command(flatten)]
    pub compiler: compiler::Flags,
}

/// How strictly the virtual machine runs.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct VmCheck {
    /// Checks of the virtual machine. basic: bounds, alignment, divergence, barriers, deadlock. full: races, missing
    /// fences and waits, uninitialised reads, double writers, results that depend on when copies land, as well
    /// [default: full for vm and verify, else basic]
    #[arg(long, value_name = "basic|full", value_parser = vm_check)]
    vm_check: Option<Check>,
}

impl VmCheck {
    /// The checks asked for, or else these.
    pub fn or(self, default: Check) -> Check {
        self.vm_check.unwrap_or(default)
    }
}

fn vm_check(name: &str) -> Result<Check, String> {
    match name {
        "basic" => Ok(Check::Basic),
        "full" => Ok(Check::Full),
        _ => Err("use basic or full".to_owned()),
    }
}

/// A whole number that is not 0.
pub fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or("must be a whole number, at least 1".to_owned())
}

impl Target {
    /// The device.
    pub fn device(&self) -> Result<Device, CliError> {
        self.checked_device(Check::Basic)
    }

    /// The device; the virtual machine checks so much unless told otherwise.
    pub fn checked_device(&self, default: Check) -> Result<Device, CliError> {
        let mut device = self.device.parse()?;
        if let Device::Vm(settings) = &mut device {
            settings.check = self.check.or(default);
        }
        Ok(device)
    }

    /// An engine whose compiler knows the committed PTX, and the hand-edited kernel where there is one.
    pub fn engine(&self) -> Result<Engine, CliError> {
        if self.source.given() && self.device.starts_with("cpu") {
            let why = "--source is a kernel, and the cpu device runs none: use --device vm or cuda:N";
            return Err(CliError::Usage(why.to_owned()));
        }
        Ok(Engine::new(self.source.of(self.compiler.compiler(Path::new("kernels")))?))
    }

    /// The schedule of a call: as given, else the tuned one, else empty, which stands for the built-in one. Committed
    /// PTX, which stands in where NVRTC is missing, knows the built-in schedules alone.
    pub fn tuned(&self, rule: &Rule, device: &Device, engine: &Engine, extents: Extents) -> Result<String, CliError> {
        let native = matches!(device, Device::Cpu(_));
        let (false, true, Ok(nvrtc)) = (native, self.schedule.is_empty(), engine.compiler().nvrtc()) else {
            return Ok(self.schedule.clone());
        };
        let arch = self.arch.or(device.arch()).unwrap_or(Arch::Sm80);
        let gpu = match device {
            Device::Cuda(gpu) => gpu.identity()?.records(),
            Device::Cpu(_) | Device::Vm(_) => standing(arch).gpu.to_owned(),
        };
        let compiler = format!("NVRTC {}", nvrtc.version());
        let folder = Path::new(tuned::FOLDER);
        let choice = tuned::choose(folder, &gpu, rule, self.pass, arch, Some(extents), Some(&compiler))?;
        Ok(choice.schedule.to_string())
    }

    /// One run of a rule.
    pub fn of<'a>(&'a self, rule: &'a Rule, device: &'a Device) -> Run<'a> {
        Run {
            arch: self.arch,
            schedule: &self.schedule,
            tokens_per_launch: self.tokens_per_launch,
            ..Run::new(rule, self.pass, device)
        }
    }
}
