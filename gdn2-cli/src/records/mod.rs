//! `gdn2 records`: what a hardware check left on somebody's GPU, checked and merged.

pub(crate) mod archive;
mod checks;

use std::path::{Path, PathBuf};

use gdn2_runtime::files::{self, Limit};

use crate::error::CliError;
use crate::{Verdict, prepare, read, tuned, write};
use checks::{Kept, Report, checked};

/// Take what `gdn2 hardware-check` left on a GPU into the repository
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    Import(Import),
}

/// Check a file that `gdn2 hardware-check` left, and merge it
///
/// FILE is its kept.tar. Nothing is merged unless all of it holds: no file changed since it was packed; every tensor within
/// its bar; clocks and driver those of one GPU; each tuning record measured, and of a kernel that is generated here just
/// so. Then records go into tuning/GPU.json, conformance fixtures and constants into their folders. A rehearsal is checked
/// alike and never merged: it measured nothing. The hashes tell a file that was changed, not one whose author lies: review
/// what is merged.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gdn2 records import results/kept.tar")]
struct Import {
    /// The archive
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Root of the repository it is merged into
    #[arg(long, default_value = ".", value_name = "FOLDER")]
    into: PathBuf,
    /// Folder of the rule files
    #[arg(long, default_value = "rules", value_name = "FOLDER")]
    rules: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// An archive, or more than one would be.
const ARCHIVE: Limit = Limit { kind: "a hardware check's archive", bytes: 1 << 30 };

impl Args {
    pub fn run(&self) -> Result<Verdict, CliError> {
        let Action::Import(import) = &self.action;
        import.run()
    }
}

impl Import {
    fn run(&self) -> Result<Verdict, CliError> {
        let bytes = read::bytes(&self.file, ARCHIVE)?;
        let rules = prepare::rules_below(&self.rules)?;
        let (files, mut wrong) = archive::read(bytes.as_slice());
        let (report, kept, complaints) = checked(&files, &rules);
        wrong.extend(complaints);
        let merged = match &report {
            Some(report) if wrong.is_empty() && !report.rehearsal => self.merge(&kept)?,
            _ => Vec::new(),
        };
        let text = if self.json {
            let gpu = report.as_ref().and_then(|report| report.gpu.as_ref()).map(|gpu| &gpu.name);
            let rehearsal = report.as_ref().map(|report| report.rehearsal);
            let said = serde_json::json!({ "gpu": gpu, "rehearsal": rehearsal, "wrong": wrong, "merged": merged });
            format!("{said:#}\n")
        } else {
            said(report.as_ref(), &kept, &wrong, &merged)
        };
        write::stdout(text.as_bytes())?;
        Ok(if wrong.is_empty() { Verdict::Good } else { Verdict::Bad })
    }

    /// Records beside those that are there, the rest in the place of what is there; the files written.
    fn merge(&self, kept: &Kept) -> Result<Vec<String>, CliError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            |source| CliError::Write { path, source }
        };
        let folder = self.into.join(tuned::FOLDER);
        std::fs::create_dir_all(&folder).map_err(failed(&folder))?;
        let _held = files::hold(&folder).map_err(failed(&folder))?;
        let mut merged = Vec::new();
        for (gpu, records) in &kept.records {
            let mut all = tuned::of(&folder, gpu)?;
            records.iter().for_each(|record| all.insert(record.clone()));
            let name = format!("{}/{gpu}.json", tuned::FOLDER);
            write::file(&self.into.join(&name), all.to_text()?.as_bytes())?;
            merged.push(name);
        }
        for (name, bytes) in &kept.files {
            let path = self.into.join(name);
            let parent = path.parent().unwrap_or(Path::new("."));
            std::fs::create_dir_all(parent).map_err(failed(parent))?;
            write::file(&path, bytes)?;
            merged.push(name.clone());
        }
        Ok(merged)
    }
}

fn said(report: Option<&Report>, kept: &Kept, wrong: &[String], merged: &[String]) -> String {
    let mut text = String::new();
    if let Some(report) = report {
        let gpu = match &report.gpu {
            Some(gpu) => format!("{}, driver for CUDA {}, {} MHz", gpu.name, gpu.driver, gpu.clock_mhz),
            None => "a rehearsal".to_owned(),
        };
        let records: usize = kept.records.values().map(|records| records.iter().count()).sum();
        let files = kept.files.len();
        text += &format!("{gpu}, {}, gdn2 {}: {records} tuning records, {files} files\n", report.date, report.version);
    }
    text += &wrong.iter().map(|line| format!("refused: {line}\n")).collect::<String>();
    text += &merged.iter().map(|name| format!("merged into {name}\n")).collect::<String>();
    if !wrong.is_empty() {
        text += "nothing was merged\n";
    } else if merged.is_empty() {
        text += "it holds; a rehearsal measured nothing, so nothing was merged\n";
    }
    text
}
