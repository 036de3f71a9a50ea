//! `gdn2 emit`: every form a rule takes on its way to machine code.

use std::path::{Path, PathBuf};

use gdn2_codegen::arch::Arch;
use gdn2_codegen::gpu::standing;
use gdn2_codegen::kernel::{Kernel, Pass};
use gdn2_codegen::schedule::Schedule;
use gdn2_dsl::Rule;
use gdn2_runtime::artifact::Artifact;
use gdn2_runtime::nvrtc::NvrtcError;
use gdn2_runtime::toolchain::Nvdisasm;

use crate::error::CliError;
use crate::select::{Overrides, Selection, pass};
use crate::{Verdict, compiler, tuned, write};

/// Print a rule's plan, CUDA, PTX, machine code, resources, ABI or PyTorch reference
///
/// `abi` is JSON: parameters in order, grid formula, block, shared bytes and workspaces, enough to launch the cubin
/// from any language. `resources` says what the kernel takes of the GPU. `torch-ref` is the recurrence as PyTorch code
/// to read.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  gdn2 emit rules/gdn2.gdn2 --pass forward --arch sm_90a --emit cuda
  gdn2 emit rules/kda.gdn2 --pass forward --arch sm_80 --emit ptx --schedule chunk=32,warps=4 -o kda.ptx
  gdn2 emit rules/gdn.gdn2 --emit torch-ref")]
pub struct Args {
    /// Rule file; FILE#RULE where it holds several
    #[arg(value_name = "FILE[#RULE]")]
    rule: Selection,
    /// What to print
    #[arg(long, value_enum)]
    emit: Form,
    /// forward, decode, forward-for-backward or backward
    #[arg(long, default_value = "forward", value_parser = pass)]
    pass: Pass,
    /// sm_80, sm_86, sm_89, sm_90a or sm_120
    #[arg(long, default_value = "sm_80")]
    arch: Arch,
    /// Schedule fields, such as chunk=64,warps=4; the rest is chosen to fit. Without any, the tuned schedule
    #[arg(long, default_value = "", value_name = "FIELD=N,…", hide_default_value = true)]
    schedule: String,
    #[command(flatten)]
    overrides: Overrides,
    #[command(flatten)]
    compiler: compiler::Flags,
    /// Write here instead of to standard output
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Form {
    /// Stages in order and where each gate is folded in, as JSON
    Plan,
    /// The generated CUDA
    Cuda,
    /// What NVRTC makes of it
    Ptx,
    /// Machine code, an ELF file
    Cubin,
    /// The machine code disassembled
    Sass,
    /// Launch description, as JSON
    Abi,
    /// What it takes of the GPU, as JSON; with NVRTC at hand registers and spilled bytes too
    Resources,
    /// Token-by-token PyTorch
    TorchRef,
}

impl Args {
    pub fn run(&self) -> Result<Verdict, CliError> {
        let rule = self.overrides.apply(self.rule.rule()?)?;
        let bytes = match self.emit {
            Form::Plan => json(&serde_json::to_value(gdn2_codegen::plan(&rule, self.pass))?),
            Form::TorchRef => gdn2_codegen::torch_ref(&rule).into_bytes(),
            Form::Cuda => gdn2_codegen::render(&self.kernel(&rule)?).text.into_bytes(),
            Form::Abi => json(&self.kernel(&rule)?.abi_json()),
            Form::Resources => json(&self.resources(&rule)?),
            Form::Ptx => self.artifact(&rule)?.ptx.into_bytes(),
            Form::Cubin => self.cubin(&rule, "cubin")?,
            Form::Sass => Nvdisasm::find(&self.compiler.search())?.sass(&self.cubin(&rule, "sass")?)?.into_bytes(),
        };
        match &self.output {
            Some(path) => write::file(path, &bytes)?,
            None => write::stdout(&bytes)?,
        }
        Ok(Verdict::Good)
    }

    fn artifact(&self, rule: &Rule) -> Result<Artifact, CliError> {
        let compiler = self.compiler.compiler(Path::new("kernels"));
        match compiler.compile(self.kernel(rule)?) {
            // The committed PTX knows the built-in schedules alone.
            Err(NvrtcError::Missing { .. }) if self.schedule.is_empty() => {
                let built_in = Schedule::default_for(rule, self.pass, self.arch)?;
                Ok(compiler.compile(gdn2_codegen::bind(rule, self.pass, built_in, self.arch)?)?)
            }
            compiled => Ok(compiled?),
        }
    }

    fn cubin(&self, rule: &Rule, form: &'static str) -> Result<Vec<u8>, CliError> {
        self.artifact(rule)?.cubin.ok_or(CliError::NeedsNvrtc(form))
    }

    /// What follows from the kernel alone, and what the assembler reports where there is one.
    fn resources(&self, rule: &Rule) -> Result<serde_json::Value, CliError> {
        let kernel = self.kernel(rule)?;
        let mut resources = kernel.resources_json();
        match self.compiler.compiler(Path::new("kernels")).compile(kernel) {
            Ok(artifact) if artifact.compiler.is_some() => {
                resources["compiled"] = serde_json::to_value(&artifact.resources)?;
            }
            Ok(_) | Err(NvrtcError::Missing { .. }) => resources["compiled"] = serde_json::Value::Null,
            Err(error) => return Err(error.into()),
        }
        Ok(resources)
    }

    fn kernel(&self, rule: &Rule) -> Result<Kernel, CliError> {
        let schedule = if self.schedule.is_empty() {
            tuned::choose(Path::new(tuned::FOLDER), standing(self.arch).gpu, rule, self.pass, self.arch, None, None)?
                .schedule
        } else {
            Schedule::from_overrides(rule, self.pass, self.arch, &self.schedule)?
        };
        Ok(gdn2_codegen::bind(rule, self.pass, schedule, self.arch)?)
    }
}

fn json(value: &serde_json::Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}
