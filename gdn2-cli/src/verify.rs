//! `gdn2 verify`: kernels against cases, a row per tensor.

use std::path::{Path, PathBuf};

use gdn2_runtime::device::Device;
use gdn2_runtime::tensors::Case;
use gdn2_vm::Check;

use crate::error::CliError;
use crate::progress::Progress;
use crate::rows::Rows;
use crate::select::{Overrides, Selection};
use crate::target::Target;
use crate::{Verdict, drawn, write};

/// Run cases and compare every result with the expected one
///
/// On the virtual machine all its checks are on, which takes up to six times as long; --vm-check basic looks for wrong
/// numbers and what would stop a GPU alone.
///
/// A row per tensor: its error, RMSE / RMS of the expected tensor, and the bar it must stay under. A schedule that
/// cannot serve a case gives an `illegal` row, neither passed nor failed. The exit code is 1 when anything failed.
///
/// Cases come from files, or with --draws are made on the spot: three draws of random inputs, with a ragged end and
/// grouped heads; packed sequences, one empty and one a single token, under strong decay; resets, near-identical keys
/// and erase gates up to 2. A draw's bar is 1.5 bars, or what rounding to the rule's dtype can cost on it where that is
/// more, 6 bars at most. Where rounding can cost more than that, a tensor is ill-conditioned: no pass, and a failure only
/// beyond what rounding can do.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  gdn2 verify --cases tests/cases --device vm
  gdn2 verify rules/kda.gdn2 --cases kda.safetensors --device vm --arch sm_90a --schedule chunk=32
  gdn2 verify --cases tests/cases --device vm --pass decode --tokens-per-launch 4
  gdn2 verify rules/kda.gdn2 --draws --device cuda:0 --twice
  gdn2 verify rules/kda.gdn2 --draws --device vm --arch sm_90a --schedule chunk=32 --source my.cu")]
pub struct Args {
    /// Rule file; without it each case's metadata says what the rule is
    #[arg(value_name = "FILE[#RULE]")]
    rule: Option<Selection>,
    /// Case files, or folders of them
    #[arg(long, required_unless_present = "draws", num_args = 1.., value_name = "PATH")]
    cases: Vec<PathBuf>,
    /// Random inputs of the rule; same seed, same numbers, without one other numbers every time
    #[arg(long, num_args = 0..=1, value_name = "SEED", requires = "rule")]
    draws: Option<Option<u64>>,
    /// Run every case twice: the second time must give the same bits
    #[arg(long)]
    twice: bool,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    overrides: Overrides,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(&self) -> Result<Verdict, CliError> {
        let fixed = self.rule.as_ref().map(|rule| self.overrides.apply(rule.rule()?)).transpose()?;
        let device = self.target.checked_device(Check::Full)?;
        let engine = self.target.engine()?;
        let paths = cases(&self.cases)?;
        let progress = Progress::new("verifying", paths.len());
        let mut rows = Rows::new(self.twice);
        for path in &paths {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            progress.step(&name);
            let case = match Case::load(path) {
                Ok(case) => case,
                Err(error) => {
                    rows.fail(&name, &error.to_string());
                    continue;
                }
            };
            let rule = match &fixed {
                Some(rule) => Ok(rule.clone()),
                None => case.rule().map_err(CliError::from).and_then(|rule| self.overrides.apply(rule)),
            };
            match rule {
                Ok(rule) => rows.judge(&name, &case, &engine, &self.target.of(&rule, &device))?,
                Err(error) => rows.fail(&name, &error.to_string()),
            }
        }
        drop(progress);
        let mut text = String::new();
        let mut json = serde_json::Value::Null;
        if let (Some(seed), Some(rule)) = (self.draws, &fixed) {
            let seed = seed.unwrap_or_else(drawn::fresh);
            drawn::judge(&mut rows, &engine, &self.target.of(rule, &device), seed)?;
            text = format!("seed {seed}: the same numbers again with --draws {seed}\n");
            json = seed.into();
        }
        let text = if self.json {
            let mut rows = rows.json();
            rows["seed"] = json;
            format!("{rows:#}\n")
        } else {
            let checks = match &device {
                Device::Vm(settings) if settings.check == Check::Full && rows.found() == Some(0) => {
                    "no findings of the virtual machine's full checks\n"
                }
                _ => "",
            };
            text + &rows.table() + checks
        };
        write::stdout(text.as_bytes())?;
        Ok(rows.verdict())
    }
}

/// Files as given; of a folder, its safetensors files in order of their names.
pub fn cases(paths: &[PathBuf]) -> Result<Vec<PathBuf>, CliError> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let found = below(path)?;
        if found.is_empty() {
            return Err(CliError::Usage(format!("{} holds no .safetensors file", path.display())));
        }
        files.extend(found);
    }
    Ok(files)
}

fn below(folder: &Path) -> Result<Vec<PathBuf>, CliError> {
    let entries = std::fs::read_dir(folder).map_err(|source| CliError::Read { path: folder.to_owned(), source })?;
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
        .collect();
    files.sort();
    Ok(files)
}
