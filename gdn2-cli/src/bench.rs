//! `gdn2 bench`: how long a kernel takes on a GPU.

use gdn2_codegen::kernel::Pass;
use gdn2_dsl::{Draw, Regime};
use gdn2_runtime::device::Device;
use gdn2_runtime::engine::Run;
use gdn2_runtime::tensors::Case;

use crate::error::CliError;
use crate::select::{Overrides, Selection};
use crate::shape::Shape;
use crate::target::Target;
use crate::{Verdict, write};

/// Time a kernel on a GPU
///
/// Random inputs with mild gates; each repetition is timed by itself between two CUDA events, caches warm. Time is not
/// correctness: `gdn2 verify` on the same device first. The virtual machine counts and does not time.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  gdn2 bench rules/gdn2.gdn2 --pass forward --shape B=1,T=8192,H=16 --device cuda:0
  gdn2 bench rules/gdn2.gdn2 --shape B=1,T=8192,H=16 --device cuda:0 --schedule chunk=64 --source my.cu")]
pub struct Args {
    /// Rule file; FILE#RULE where it holds several
    #[arg(value_name = "FILE[#RULE]")]
    rule: Selection,
    #[command(flatten)]
    target: Target,
    /// Sizes; HV, the value heads, is H unless given and a multiple of it
    #[arg(long, value_name = "B=…,T=…,H=…[,HV=…]")]
    shape: Shape,
    /// Repetitions
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    repeats: u16,
    #[command(flatten)]
    overrides: Overrides,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(&self) -> Result<Verdict, CliError> {
        let rule = self.overrides.apply(self.rule.rule()?)?;
        let device = match self.target.device()? {
            gpu @ Device::Cuda(_) => gpu,
            Device::Vm(_) | Device::Cpu(_) => {
                let instead = "bench times a GPU: pass --device cuda:N; what the vm can say of a kernel are counts";
                return Err(CliError::Usage(instead.to_owned()));
            }
        };
        let Shape { batch, tokens, heads, value_heads } = self.shape;
        let draw = Draw { regime: Regime::Mild, ..Draw::new(batch, tokens, heads, value_heads, 1) };
        let case = Case::drawn_inputs(&rule, &draw, self.target.pass == Pass::Backward)?;
        let run = Run {
            repeats: usize::from(self.repeats),
            // One launch for all tokens: what is timed is a kernel, not a loop over kernels.
            tokens_per_launch: if self.target.pass == Pass::Decode { tokens } else { 1 },
            ..self.target.of(&rule, &device)
        };
        let outcome = self.target.engine()?.run(&run, &case)?;
        let mut times = outcome.milliseconds;
        times.sort_by(f32::total_cmp);
        let at = |part: f64| times.get(((times.len().saturating_sub(1)) as f64 * part) as usize).copied();
        let (Some(least), Some(median), Some(most)) = (at(0.0), at(0.5), at(1.0)) else {
            return Err(CliError::Usage("the shape has no tokens: there is nothing to time".to_owned()));
        };
        if self.json {
            let json = serde_json::json!({
                "rule": rule.name, "pass": run.pass, "kernel": outcome.kernel.map(|(arch, schedule)| {
                    serde_json::json!({ "arch": arch, "schedule": schedule })
                }),
                "milliseconds": { "median": median, "least": least, "most": most }, "repetitions": times.len(),
            });
            write::stdout(format!("{json:#}\n").as_bytes())?;
            return Ok(Verdict::Good);
        }
        let how = outcome.kernel.map(|(arch, schedule)| format!("{arch} {schedule}")).unwrap_or_default();
        let text = format!(
            "{} {} {how}\nmedian {median:.4} ms, {least:.4} to {most:.4} over {} repetitions\n",
            rule.name,
            run.pass,
            times.len()
        );
        write::stdout(text.as_bytes())?;
        Ok(Verdict::Good)
    }
}
