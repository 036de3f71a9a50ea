//! `gdn2 run`: a kernel on the tensors of a file.

use std::path::PathBuf;

use gdn2_runtime::engine::Run;
use gdn2_runtime::problem::Problem;
use gdn2_runtime::tensors::Case;

use crate::error::CliError;
use crate::select::{Overrides, Selection};
use crate::target::Target;
use crate::{Verdict, read, write};

/// Run a rule on the tensors of a safetensors file and write what it gives
///
/// Inputs by name: q, k [B,T,H,K]; v [B,T,HV,V]; gates g, b, w as the rule has them; optionally initial_state
/// [N,HV,K,V], or [N,HV,V,K] for `state: vk`, cu_seqlens (int32 or int64) for packed sequences with B = 1, initial_slots and final_slots (int32) into a
/// pool of states. `gdn2 check` prints the shapes. Everything is checked before anything runs. Without --schedule, the
/// tuned schedule for the GPU and the shape is used; `gdn2 tune --why` says which.
#[derive(clap::Args)]
#[command(after_help = "Example:
  gdn2 run rules/gdn.gdn2 --pass forward --device vm --inputs tests/cases/gdn_d128.safetensors --out out.safetensors
  gdn2 case rules/gdn.gdn2 --shape B=1,T=9,H=1 -o - | gdn2 run rules/gdn.gdn2 --device cpu --inputs - --out - > o")]
pub struct Args {
    /// Rule file; FILE#RULE where it holds several
    #[arg(value_name = "FILE[#RULE]")]
    rule: Selection,
    #[command(flatten)]
    target: Target,
    /// Tensors to read
    #[arg(long, value_name = "IN.safetensors")]
    inputs: PathBuf,
    /// File to write o and final_state to
    #[arg(long, value_name = "OUT.safetensors")]
    out: PathBuf,
    #[command(flatten)]
    overrides: Overrides,
}

impl Args {
    pub fn run(&self) -> Result<Verdict, CliError> {
        let rule = self.overrides.apply(self.rule.rule()?)?;
        let device = self.target.device()?;
        let case = read::case(&self.inputs).map_err(|error| CliError::in_file(&self.inputs, error))?;
        let extents = Problem::new(&rule, &case).map_err(|error| CliError::in_file(&self.inputs, error))?.extents();
        let engine = self.target.engine()?;
        let schedule = self.target.tuned(&rule, &device, &engine, extents)?;
        let outcome = engine
            .run(&Run { schedule: &schedule, ..self.target.of(&rule, &device) }, &case)
            .map_err(|error| CliError::in_file(&self.inputs, error))?;
        let how = match outcome.kernel {
            Some((arch, schedule)) => format!("{arch}, {schedule}"),
            None => "no kernel, the native implementation".to_owned(),
        };
        let shapes: Vec<String> =
            outcome.tensors.iter().map(|(tensor, array)| format!("{} {:?}", tensor.name(), array.shape)).collect();
        let (metadata, tensors, named) = (case.metadata, outcome.tensors, outcome.named);
        let results = Case { metadata, tensors, named, ..Case::default() };
        write::file(&self.out, &results.to_bytes()?)?;
        let text = format!("{}: {} ({how})\n", self.out.display(), shapes.join(", "));
        write::note(&text, &self.out)?;
        let findings: Vec<String> =
            outcome.reports.iter().flat_map(|report| &report.findings).map(ToString::to_string).collect();
        findings.iter().for_each(|finding| eprintln!("{finding}"));
        Ok(if findings.is_empty() { Verdict::Good } else { Verdict::Bad })
    }
}
