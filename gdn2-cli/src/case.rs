//! `gdn2 case`: makes a case file.

use std::path::PathBuf;

use gdn2_dsl::limits::LARGEST_ERASE;
use gdn2_dsl::{Draw, Regime};
use gdn2_runtime::tensors::Case;

use crate::error::CliError;
use crate::select::{Overrides, Selection};
use crate::shape::Shape;
use crate::{Verdict, write};

/// Draw inputs for a rule and write them with exact outputs and gradients to a case file
///
/// The outputs are the token-by-token recurrence in float64. The same arguments give the same file everywhere.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  gdn2 case rules/kda.gdn2 --shape B=1,T=100,H=2 --gates mild --seed 1 -o kda.safetensors
  gdn2 case rules/gdn.gdn2 --shape B=1,T=90,H=1,HV=2 --seqlens 1,63,0,26 --gates reset --seed 2 -o packed.safetensors")]
pub struct Args {
    /// Rule file; FILE#RULE where it holds several
    #[arg(value_name = "FILE[#RULE]")]
    rule: Selection,
    /// Sizes; HV, the value heads, is H unless given and a multiple of it
    #[arg(long, value_name = "B=…,T=…,H=…[,HV=…]")]
    shape: Shape,
    /// How strongly gates act: none, mild (decay around -0.05 per token), strong (-2.5 to -30), reset (mild, -1000 at
    /// one token in sixteen). Of a rule with formulas these draw logits and parameters: lower parameters where gates are to
    /// act mildly, wider logits where strongly, logits of 50 at one token in sixteen
    #[arg(long, default_value = "mild")]
    gates: Regime,
    /// Same seed, same numbers
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Pack sequences of these lengths into one row: B must be 1 and T their sum
    #[arg(long, value_name = "N,N,…", value_delimiter = ',')]
    seqlens: Option<Vec<usize>>,
    /// Start from zeros instead of a drawn state
    #[arg(long)]
    no_initial_state: bool,
    /// All keys of a head within a hundredth of one direction
    #[arg(long)]
    near_identical_keys: bool,
    /// Draw erase gates from 0 to this, 2 at most
    #[arg(long, default_value_t = 1.0, value_name = "B", value_parser = erase)]
    largest_erase: f64,
    /// Leave gradients out
    #[arg(long)]
    no_gradients: bool,
    #[command(flatten)]
    overrides: Overrides,
    /// The file to write
    #[arg(short, long, value_name = "CASE.safetensors")]
    output: PathBuf,
}

impl Args {
    pub fn run(&self) -> Result<Verdict, CliError> {
        let rule = self.overrides.apply(self.rule.rule()?)?;
        let Shape { batch, tokens, heads, value_heads } = self.shape;
        let draw = Draw {
            cu_seqlens: self.seqlens.as_deref().map(|lengths| offsets(lengths, self.shape)).transpose()?,
            regime: self.gates,
            largest_erase: self.largest_erase,
            near_identical_keys: self.near_identical_keys,
            initial_state: !self.no_initial_state,
            ..Draw::new(batch, tokens, heads, value_heads, self.seed)
        };
        let bytes = Case::drawn_with_bars(&rule, &draw, !self.no_gradients)?.to_bytes()?;
        write::file(&self.output, &bytes)?;
        Ok(Verdict::Good)
    }
}

fn erase(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.0..=LARGEST_ERASE).contains(number));
    number.ok_or_else(|| format!("must be a number from 0 to {LARGEST_ERASE}"))
}

/// Lengths to offsets.
fn offsets(lengths: &[usize], shape: Shape) -> Result<Vec<usize>, CliError> {
    let mut offsets = vec![0];
    let mut end = 0usize;
    for length in lengths {
        end = end.saturating_add(*length);
        offsets.push(end);
    }
    if shape.batch != 1 || end != shape.tokens {
        return Err(CliError::Usage(format!(
            "--seqlens: packed sequences need B=1 and T={end}, their sum; --shape says B={} and T={}",
            shape.batch, shape.tokens
        )));
    }
    Ok(offsets)
}
