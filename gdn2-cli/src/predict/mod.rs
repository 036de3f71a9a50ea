//! `gdn2 predict`: what the clock says of kernels that no GPU is at hand for.

mod foreign;
mod published;
mod rules;

pub use rules::{built_in, prepared};

use std::path::PathBuf;

use gdn2_clock::kernel::RoleTime;
use gdn2_codegen::kernel::Pass;

use crate::asked::Asked;
use crate::error::CliError;
use crate::gpu::Target;
use crate::select::{Overrides, Selection, pass};
use crate::{Verdict, compiler, tuned};

/// Predict a kernel's time on a GPU that is not at hand
///
/// The clock walks the machine code of every warp and lets the four schedulers of a multiprocessor issue it, with its
/// pipes, matrix units, shared memory, barriers and copies. It does not run the kernel: `gdn2 verify` says whether its
/// results are right. A prediction is no measurement. Where kernels use wgmma it is a range: published times refute the
/// data sheet's rate for products that follow each other on one accumulator, and two explanations are left.
///
/// From and to are the two explanations, or as far as predictions of published times are off where that is more.
///
/// With --launch and --cubin it times any kernel; LAUNCH.json is what `gdn2 vm` takes. With --published it predicts what
/// others published.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  gdn2 predict rules/gdn.gdn2 rules/kda.gdn2 rules/gdn2.gdn2 --target h200 --shape B=8,T=8192,H=16 \\
    --shape B=1,T=8192,H=16
  gdn2 predict rules/gdn.gdn2 --target h200 --shape B=8,T=8192,H=16 --schedule matrix=wgmma --roles
  gdn2 predict rules/gdn.gdn2 --target h200 --shape B=8,T=8192,H=16 --schedule chunk=64,segments=1 --source my.cu
  gdn2 predict --launch launch.json --cubin kernel.cubin --target h200 --roles
  gdn2 predict --published")]
pub struct Args {
    /// Rule files; FILE#RULE for one rule of several
    #[arg(value_name = "FILE[#RULE]", required_unless_present_any = ["launch", "published"])]
    rules: Vec<Selection>,
    /// forward, forward-for-backward, backward or decode
    #[arg(long, default_value = "forward", value_parser = pass)]
    pass: Pass,
    /// Sizes of a call or the name of a shape, any number of times; HV, the value heads, is H unless given
    #[arg(long, value_name = "B=…,T=…,H=…[,HV=…]|NAME", required_unless_present_any = ["launch", "published"])]
    shape: Vec<Asked>,
    /// GPU: h200, h100, h20, a100, a40, l40s, rtx4090, rtx5090, one with constants among the records, or a file of
    /// constants
    #[arg(long, value_name = "GPU", default_value = "h200")]
    target: String,
    /// Schedule fields, such as chunk=64,warps=4, any number of times; without any, the built-in schedule, forward with
    /// each matrix instruction that the GPU has, and in segments where sequences and heads leave multiprocessors idle
    #[arg(long, value_name = "FIELD=N,…")]
    schedule: Vec<String>,
    /// Predict the times that others published, and say how far off predictions are
    #[arg(long, conflicts_with_all = ["rules", "launch", "shape", "schedule", "pass", "roles"])]
    published: bool,
    /// Name each role of each launch and what it waits for
    #[arg(long)]
    roles: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    foreign: foreign::Flags,
    /// Folder of the records, whose constants come before the program's own
    #[arg(long, default_value = tuned::FOLDER, value_name = "DIR")]
    records: PathBuf,
    #[command(flatten)]
    overrides: Overrides,
    #[command(flatten)]
    source: compiler::Source,
    #[command(flatten)]
    compiler: compiler::Flags,
}

impl Args {
    pub fn run(&self) -> Result<Verdict, CliError> {
        if self.published {
            return published::run(self);
        }
        let target = Target::named(&self.target, &self.records)?;
        match self.foreign.given() {
            true => foreign::run(self, target.constants()?),
            false => rules::run(self, &target),
        }
    }
}

/// A launch's roles, a line each.
fn role_lines(roles: &[RoleTime]) -> String {
    roles
        .iter()
        .map(|role| {
            let waits: Vec<String> = role
                .waits
                .iter()
                .take(6)
                .map(|(wait, share)| format!("{} {:.0} %", wait.name(), 100.0 * share))
                .collect();
            let (first, last) = role.warps;
            format!("    warps {first} to {last}, {} instructions: {}\n", role.issued, waits.join(", "))
        })
        .collect()
}
