//! `gdn2 referee`: kernels of ours and of others side by side: right, free of races, priced.

mod ours;
mod page;
mod peers;
mod row;
mod times;

use std::path::PathBuf;

use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::Pass;
use gdn2_runtime::engine::Engine;

use crate::error::CliError;
use crate::progress::Progress;
use crate::select::{Selection, pass};
use crate::{Verdict, compiler, drawn, tuned, write};
use page::Page;
use row::Row;

/// Judge kernels side by side: ours and other projects', right, free of races, priced
///
/// Each runs on the virtual machine with every check on: its error against the recurrence in float64, what the checks
/// found, warp instructions and bytes of device memory per token and head, beside the least that must cross memory. With
/// --times also what others published, what the clock says of their kernels and of ours at the same sizes.
///
/// Others' kernels come as bundles, which benchmarks/referee.py builds from PyPI's wheels without a GPU: folders with a
/// peer.json, a launch file of several launches over one memory, their PTX, and a case of `gdn2 case` with inputs and
/// exact results. What the checks find in them is argued in a file, finding by finding; one that nobody argued is said to
/// be.
///
/// The exit code is 1 where a number is wrong, where anything is found in a kernel of ours, or in one of others that
/// nobody argued.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  gdn2 referee rules/gdn.gdn2 rules/kda.gdn2 rules/gdn2.gdn2
  python3 benchmarks/referee.py --gdn2 target/release/gdn2 --out peers
  gdn2 referee rules/gdn.gdn2 rules/kda.gdn2 rules/gdn2.gdn2 --peers peers --times --out referee.md --out referee.html")]
pub struct Args {
    /// Rule files; FILE#RULE for one rule of several
    #[arg(value_name = "FILE[#RULE]", required = true)]
    rules: Vec<Selection>,
    /// Passes of ours, any number of times
    #[arg(long = "pass", value_parser = pass, default_values = ["forward", "backward", "decode"])]
    passes: Vec<Pass>,
    /// Architecture that ours are generated for
    #[arg(long, default_value = "sm_90a")]
    arch: Arch,
    /// Tokens that ours run over, decode one
    #[arg(long, default_value_t = 150, value_name = "T", value_parser = crate::target::positive)]
    tokens: usize,
    /// Folder of bundles of other projects' kernels
    #[arg(long, value_name = "DIR")]
    peers: Option<PathBuf>,
    /// What is to be said of findings in others' kernels
    #[arg(long, value_name = "FILE", default_value = "benchmarks/argued.json")]
    argued: PathBuf,
    /// Predict ours at the sizes that others published times of
    #[arg(long)]
    times: bool,
    /// File to write the tables to as well, Markdown or by its name HTML; any number of times
    #[arg(long, value_name = "FILE.md|FILE.html")]
    out: Vec<PathBuf>,
    /// Same seed, same inputs of ours; without it other ones every time
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Folder of the records, whose constants come before the program's own
    #[arg(long, default_value = tuned::FOLDER, value_name = "DIR")]
    records: PathBuf,
    #[command(flatten)]
    compiler: compiler::Flags,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(&self) -> Result<Verdict, CliError> {
        let mut rules = Vec::new();
        for selection in &self.rules {
            rules.extend(selection.rules()?);
        }
        let bundles = self.peers.as_deref().map_or(Ok(Vec::new()), peers::bundles)?;
        let argued = peers::argued(&self.argued, !bundles.is_empty())?;
        let seed = self.seed.unwrap_or_else(drawn::fresh);
        let engine = Engine::new(self.compiler.compiler(std::path::Path::new("kernels")));
        let progress = Progress::new("judging", rules.len() * self.passes.len() + bundles.len());
        let mut rows: Vec<Row> = Vec::new();
        for rule in &rules {
            for pass in &self.passes {
                progress.step(&format!("{} {pass}", rule.name));
                let tokens = if *pass == Pass::Decode { 1 } else { self.tokens };
                rows.push(ours::row(&engine, rule, *pass, self.arch, tokens, seed)?);
            }
        }
        for bundle in &bundles {
            progress.step(bundle.call());
            rows.push(peers::row(bundle, &argued)?);
        }
        drop(progress);
        let times = match self.times {
            true => times::times(&rules, &self.compiler, &self.records)?,
            false => Vec::new(),
        };
        let page = Page { rows: &rows, times: &times, seed };
        for path in &self.out {
            let html = path.extension().is_some_and(|extension| extension == "html");
            write::file(path, if html { page.html() } else { page.markdown() }.as_bytes())?;
        }
        let text = match self.json {
            true => format!("{:#}\n", serde_json::json!({ "rows": rows, "times": times, "seed": seed })),
            false => page.text(),
        };
        write::stdout(text.as_bytes())?;
        Ok(if rows.iter().all(Row::good) { Verdict::Good } else { Verdict::Bad })
    }
}
