//! `gdn2 gradcheck`: a rule's backward kernels against the float64 definition, on numbers nobody has seen.

use std::path::Path;

use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::Pass;
use gdn2_runtime::device::Device;
use gdn2_runtime::engine::{Engine, Run};

use crate::error::CliError;
use crate::rows::Rows;
use crate::select::{Overrides, Selection};
use crate::{Verdict, compiler, drawn, write};

/// Check a rule's gradients: its backward kernels against exact gradients on fresh random inputs
///
/// Three draws of inputs: a ragged end and grouped heads; packed sequences, one of them empty and one a single token,
/// under strong decay; resets, near-identical keys and erase gates up to 2. A row per draw and gradient: its error, RMSE
/// / RMS of the exact gradient, and the bar it must stay under: 1.5 bars of the tensor, or what rounding to the rule's
/// dtype can cost on that very draw where that is more, 6 bars at most. Where rounding can cost more than that, a gradient
/// is ill-conditioned: no pass, and a failure only beyond what rounding can do. The exit code is 1 when anything failed.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  gdn2 gradcheck rules/kda.gdn2
  gdn2 gradcheck my.gdn2#mine --key-dim 64 --value-dim 64 --seed 7
  gdn2 gradcheck my.gdn2 --device cuda:0 --schedule chunk=32")]
pub struct Args {
    /// Rule file; FILE#RULE where it holds several
    #[arg(value_name = "FILE[#RULE]")]
    rule: Selection,
    /// vm or cuda:N
    #[arg(long, default_value = "vm", value_name = "DEVICE")]
    device: String,
    /// Architecture to generate for on the vm: sm_80 (default), sm_86, sm_89, sm_90a or sm_120; a GPU has its own
    #[arg(long)]
    arch: Option<Arch>,
    /// Schedule fields, such as chunk=32,recompute=1; the rest is chosen to fit
    #[arg(long, default_value = "", value_name = "FIELD=N,…", hide_default_value = true)]
    schedule: String,
    /// Same seed, same numbers; without it other numbers every time
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    #[command(flatten)]
    overrides: Overrides,
    #[command(flatten)]
    compiler: compiler::Flags,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(&self) -> Result<Verdict, CliError> {
        let rule = self.overrides.apply(self.rule.rule()?)?;
        let device: Device = self.device.parse()?;
        if matches!(device, Device::Cpu(_)) {
            return Err(CliError::Usage("--device: the CPU runs no kernels to check; use vm or cuda:N".to_owned()));
        }
        let seed = self.seed.unwrap_or_else(drawn::fresh);
        let engine = Engine::new(self.compiler.compiler(Path::new("kernels")));
        let run = Run { arch: self.arch, schedule: &self.schedule, ..Run::new(&rule, Pass::Backward, &device) };
        let mut rows = Rows::default();
        drawn::judge(&mut rows, &engine, &run, seed)?;
        let text = if self.json {
            let mut json = rows.json();
            json["seed"] = seed.into();
            format!("{json:#}\n")
        } else {
            format!("{}seed {seed}: the same numbers again with --seed {seed}\n", rows.table())
        };
        write::stdout(text.as_bytes())?;
        Ok(rows.verdict())
    }
}
