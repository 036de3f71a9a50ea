//! `gdn2 prepare`: writes the committed kernels, or checks that nothing has drifted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gdn2_codegen::committed::{Committed, StampedPtx, WITH_PTX, committed};
use gdn2_dsl::Rule;
use gdn2_runtime::artifact::Compiler;
use gdn2_runtime::nvrtc::{NvrtcError, Version};

use crate::error::CliError;
use crate::progress::Progress;
use crate::select::Selection;
use crate::{Verdict, compiler, write};

/// Write the generated kernels of rules/ to kernels/, or check that they are up to date
///
/// CUDA for every rule, PTX for gdn, kda and gdn2, each stamped with the hash of its source. `--check` writes nothing
/// and fails on any file that is missing, stale, changed by hand or left over.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  gdn2 prepare\n  gdn2 prepare --check")]
pub struct Args {
    /// Compare instead of writing
    #[arg(long)]
    check: bool,
    /// Folder of rule files
    #[arg(long, default_value = "rules", value_name = "FOLDER")]
    rules: PathBuf,
    /// Folder of generated kernels
    #[arg(long, default_value = "kernels", value_name = "FOLDER")]
    kernels: PathBuf,
    #[command(flatten)]
    compiler: compiler::Flags,
}

/// What a file of the folder must be.
enum Want {
    /// Exactly this.
    Exact(String),
    /// PTX of the source with this hash: no compiler of the stamped release is here to say more.
    From { source: String },
}

impl Args {
    pub fn run(&self) -> Result<Verdict, CliError> {
        let compiler = self.compiler.bare();
        let wanted = self.wanted(&compiler)?;
        if self.check { self.compare(&wanted) } else { self.write(&wanted) }
    }

    fn wanted(&self, compiler: &Compiler) -> Result<BTreeMap<String, Want>, CliError> {
        let rules = rules_below(&self.rules)?;
        let mut wanted = BTreeMap::new();
        let progress = Progress::new("generating", rules.len());
        for rule in rules {
            progress.step(&rule.name);
            for kernel in committed(&rule)? {
                if WITH_PTX.contains(&rule.name.as_str()) {
                    wanted.insert(format!("{}.ptx", kernel.stem), self.ptx(&kernel, compiler)?);
                }
                wanted.insert(format!("{}.cu", kernel.stem), Want::Exact(kernel.cuda_file()));
            }
        }
        Ok(wanted)
    }

    /// The PTX file a kernel must have. A check makes do with stamps where the stamping compiler is not at hand.
    fn ptx(&self, kernel: &Committed, compiler: &Compiler) -> Result<Want, CliError> {
        if self.check {
            let path = self.kernels.join(format!("{}.ptx", kernel.stem));
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let here = match compiler.nvrtc() {
                Ok(nvrtc) => Some(nvrtc.version().to_string()),
                Err(NvrtcError::Missing { .. }) => None,
                Err(error) => return Err(error.into()),
            };
            let stamped = StampedPtx::read(&text).map(|stamped| stamped.compiler.to_owned());
            if here.is_none() || stamped.is_some_and(|stamped| Some(stamped) != here) {
                return Ok(Want::From { source: kernel.source.hash.clone() });
            }
        }
        let artifact = compiler.compile(kernel.kernel.clone())?;
        let version = artifact.compiler.map(|version: Version| version.to_string()).unwrap_or_default();
        Ok(Want::Exact(kernel.ptx_file(&artifact.ptx, &version)))
    }

    fn write(&self, wanted: &BTreeMap<String, Want>) -> Result<Verdict, CliError> {
        std::fs::create_dir_all(&self.kernels)
            .map_err(|source| CliError::Write { path: self.kernels.clone(), source })?;
        for (name, want) in wanted {
            if let Want::Exact(text) = want {
                write::file(&self.kernels.join(name), text.as_bytes())?;
            }
        }
        for name in self.left_over(wanted)? {
            let path = self.kernels.join(name);
            std::fs::remove_file(&path).map_err(|source| CliError::Write { path, source })?;
        }
        write::stdout(format!("{} files in {}\n", wanted.len(), self.kernels.display()).as_bytes())?;
        Ok(Verdict::Good)
    }

    fn compare(&self, wanted: &BTreeMap<String, Want>) -> Result<Verdict, CliError> {
        let mut drift = Vec::new();
        let mut by_stamp = 0;
        for (name, want) in wanted {
            let Ok(text) = std::fs::read_to_string(self.kernels.join(name)) else {
                drift.push(format!("{name}: missing"));
                continue;
            };
            match want {
                Want::Exact(expected) if *expected == text => {}
                Want::Exact(_) => drift.push(format!("{name}: differs from what is generated now")),
                Want::From { source } => {
                    by_stamp += 1;
                    if StampedPtx::read(&text).is_none_or(|stamped| stamped.source != source) {
                        drift.push(format!("{name}: stamped for another source, or changed after it was stamped"));
                    }
                }
            }
        }
        drift.extend(self.left_over(wanted)?.into_iter().map(|name| format!("{name}: left over, no rule makes it")));
        let mut text: String = drift.iter().map(|line| format!("{line}\n")).collect();
        if drift.is_empty() {
            text = format!("{} files in {} are up to date", wanted.len(), self.kernels.display());
            text += &match by_stamp {
                0 => "\n".to_owned(),
                count => format!(", {count} of them by their stamps alone: the compiler that made them is not here\n"),
            };
        } else {
            text += "run `gdn2 prepare` and commit the result\n";
        }
        write::stdout(text.as_bytes())?;
        Ok(if drift.is_empty() { Verdict::Good } else { Verdict::Bad })
    }

    /// Generated files of the folder that nothing generates any more.
    fn left_over(&self, wanted: &BTreeMap<String, Want>) -> Result<Vec<String>, CliError> {
        let Ok(entries) = std::fs::read_dir(&self.kernels) else { return Ok(Vec::new()) };
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| (name.ends_with(".cu") || name.ends_with(".ptx")) && !wanted.contains_key(name))
            .collect();
        names.sort();
        Ok(names)
    }
}

/// The rules of every rule file in a folder, in the order of the files' names.
pub fn rules_below(folder: &Path) -> Result<Vec<Rule>, CliError> {
    let entries = std::fs::read_dir(folder).map_err(|source| CliError::Read { path: folder.to_owned(), source })?;
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "gdn2"))
        .collect();
    files.sort();
    let mut rules = Vec::new();
    for file in files {
        rules.extend(Selection::file(file).rules()?);
    }
    Ok(rules)
}
