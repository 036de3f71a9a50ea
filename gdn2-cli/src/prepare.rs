//! `gdn2 prepare`: writes the committed kernels, or checks that nothing has drifted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gdn2_codegen::committed::{Committed, StampedCubin, StampedPtx, WITH_PTX, committed};
use gdn2_codegen::kernel::{CudaSource, Kernel};
use gdn2_codegen::named::NamedKernel;
use gdn2_codegen::record::{Record, rule_fingerprint};
use gdn2_codegen::schedule::Schedule;
use gdn2_dsl::{KernelText, Named, Rule, rules_in_source};
use gdn2_runtime::artifact::{Artifact, Compiler};
use gdn2_runtime::files::{self, Limit};
use gdn2_runtime::nvrtc::{NvrtcError, Version};

use crate::error::CliError;
use crate::progress::Progress;
use crate::select::Selection;
use crate::{Verdict, compiler, terminal, tuned, write};

/// Write the generated kernels of a project's rules to kernels/, or check that they are up to date
///
/// Rules are those of rules/*.gdn2 and those that `delta_rule!` and `include_rule!` name in src/**/*.rs. CUDA is written
/// for each, stamped with the hash of its source; PTX for gdn, kda, gdn2, their layers, the macros' rules and the
/// hand-edited kernels that macros name; machine code for the schedules that tuning records ask for. The macros embed what
/// they find here. `--check` writes nothing and fails on any file that is missing, stale, changed by hand or left over.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  gdn2 prepare\n  gdn2 prepare --check")]
pub struct Args {
    /// Compare instead of writing
    #[arg(long)]
    check: bool,
    /// Folder of rule files
    #[arg(long, default_value = "rules", value_name = "FOLDER")]
    rules: PathBuf,
    /// Folder of Rust source
    #[arg(long, default_value = "src", value_name = "FOLDER")]
    source: PathBuf,
    /// Folder of tuning records
    #[arg(long, default_value = tuned::FOLDER, value_name = "FOLDER")]
    tuning: PathBuf,
    /// Folder of generated kernels
    #[arg(long, default_value = "kernels", value_name = "FOLDER")]
    kernels: PathBuf,
    #[command(flatten)]
    compiler: compiler::Flags,
}

/// What a file of the folder must be.
enum Want {
    /// Exactly this.
    Exact(Vec<u8>),
    /// Compiled from the source with this hash: no compiler of the stamped release is here to say more.
    From { source: String },
}

/// A rule and whether it is compiled ahead.
struct Wanted {
    rule: Rule,
    compiled: bool,
}

/// How a text is compiled: a generated one, or somebody's own.
type Compile = fn(&Compiler, Kernel, CudaSource) -> Result<Artifact, NvrtcError>;

/// What a project has to prepare.
struct Found {
    rules: Vec<Wanted>,
    /// Hand-edited texts that its macros name for kernels.
    edited: Vec<Committed>,
    /// Source files whose macros name rules.
    sources: Vec<PathBuf>,
}

impl Args {
    pub fn run(&self) -> Result<Verdict, CliError> {
        let compiler = self.compiler.bare();
        let Found { rules, edited, sources } = self.rules()?;
        let wanted = self.wanted(&rules, &edited, &compiler)?;
        if self.check { self.compare(&wanted) } else { self.write(&wanted, &sources) }
    }

    /// The project's rules, and what its macros name.
    fn rules(&self) -> Result<Found, CliError> {
        let mut rules: Vec<Wanted> = Vec::new();
        let mut add = |rule: Rule, compiled: bool| -> Result<(), CliError> {
            let Some(known) = rules.iter_mut().find(|known| known.rule.name == rule.name) else {
                rules.push(Wanted { rule, compiled });
                return Ok(());
            };
            if rule_fingerprint(&known.rule) != rule_fingerprint(&rule) {
                let message = "two rules are named `{}` and their kernels would be one file: rename one of them";
                return Err(CliError::Usage(message.replace("{}", &rule.name)));
            }
            known.compiled |= compiled;
            Ok(())
        };
        let sources = sources_below(&self.source)?;
        // A crate may keep its rules in its source alone.
        if sources.is_empty() || self.rules.exists() {
            for rule in rules_below(&self.rules)? {
                let compiled = WITH_PTX.contains(&rule.name.as_str());
                // The other layers would not fit the folder's limit: macros carry their CUDA, compiled where it is loaded.
                if compiled || rule.prologue.is_empty() {
                    add(rule, compiled)?;
                }
            }
        }
        let (mut naming, mut edited) = (Vec::new(), Vec::new());
        for path in sources {
            let text = files::read_regular(&path, Limit::SOURCE)
                .and_then(|bytes| String::from_utf8(bytes).map_err(std::io::Error::other))
                .map_err(|source| CliError::Read { path: path.clone(), source })?;
            let found =
                rules_in_source(&text).map_err(|error| CliError::in_file(&path, CliError::Usage(error.to_string())))?;
            if found.is_empty() {
                continue;
            }
            let root = self.source.parent().unwrap_or(Path::new(""));
            for found in found {
                let own = match found.rule {
                    Named::Rule(rule) => vec![*rule],
                    Named::File(file) => {
                        let selection: Selection = root.join(file).into_os_string().into();
                        selection.rules()?
                    }
                };
                if let [rule] = own.as_slice() {
                    for text in &found.kernels {
                        edited.push(named(rule, root, text).map_err(|error| CliError::in_file(&path, error))?);
                    }
                }
                own.into_iter().try_for_each(|rule| add(rule, true))?;
            }
            naming.push(path);
        }
        Ok(Found { rules, edited, sources: naming })
    }

    fn wanted(
        &self,
        rules: &[Wanted],
        edited: &[Committed],
        compiler: &Compiler,
    ) -> Result<BTreeMap<String, Want>, CliError> {
        let mut wanted = BTreeMap::new();
        for text in edited {
            wanted.insert(format!("{}.ptx", text.stem), self.ptx(text, compiler, Compiler::compile_text)?);
        }
        let records = self.records()?;
        let without_lines = self.compiler.bare().without_lines();
        let progress = Progress::new("generating", rules.len());
        for Wanted { rule, compiled } in rules {
            progress.step(&rule.name);
            for kernel in committed(rule)? {
                if *compiled {
                    wanted
                        .insert(format!("{}.ptx", kernel.stem), self.ptx(&kernel, compiler, Compiler::compile_source)?);
                }
                wanted.insert(format!("{}.cu", kernel.stem), Want::Exact(kernel.cuda_file().into_bytes()));
            }
            let fingerprint = rule_fingerprint(rule);
            for record in records.iter().filter(|record| record.provenance.rule == fingerprint) {
                let (pass, arch, schedule) = (record.pass, record.provenance.arch, record.winner.schedule);
                // A record that has gone stale is the lookup's to refuse.
                let Ok(kernel) = Committed::tuned(rule, pass, arch, schedule) else { continue };
                let built_in = Schedule::default_for(rule, pass, arch)? == schedule;
                if *compiled && !built_in {
                    wanted.insert(format!("{}.cubin", kernel.stem), self.cubin(&kernel, &without_lines)?);
                }
            }
        }
        Ok(wanted)
    }

    /// The records of the project, and those that come with the program for GPUs that the project has none for.
    fn records(&self) -> Result<Vec<Record>, CliError> {
        let mut all = Vec::new();
        for gpu in tuned::gpus(&self.tuning) {
            all.extend(tuned::of(&self.tuning, &gpu)?.iter().cloned());
        }
        Ok(all)
    }

    /// A file of the folder of generated kernels, if it is there.
    fn kept(&self, name: &str) -> Option<Vec<u8>> {
        files::read_regular(&self.kernels.join(name), Limit::KERNEL).ok()
    }

    /// The machine code that a tuned kernel must have.
    fn cubin(&self, kernel: &Committed, compiler: &Compiler) -> Result<Want, CliError> {
        let file = self.kept(&format!("{}.cubin", kernel.stem)).unwrap_or_default();
        let stamped = StampedCubin::read(&file).map(|stamped| stamped.compiler.to_owned());
        if self.by_stamp(stamped, compiler)? {
            return Ok(Want::From { source: kernel.source.hash.clone() });
        }
        let artifact = compiler.compile(kernel.kernel.clone())?;
        let version = artifact.compiler.map(|version: Version| version.to_string()).unwrap_or_default();
        let cubin = artifact.cubin.ok_or(CliError::NeedsNvrtc("machine code"))?;
        Ok(Want::Exact(kernel.cubin_file(&cubin, &version)))
    }

    /// Whether a check must make do with stamps: the compiler that stamped is not at hand.
    fn by_stamp(&self, stamped: Option<String>, compiler: &Compiler) -> Result<bool, CliError> {
        if !self.check {
            return Ok(false);
        }
        let here = match compiler.nvrtc() {
            Ok(nvrtc) => Some(nvrtc.version().to_string()),
            Err(NvrtcError::Missing { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(here.is_none() || stamped.is_some_and(|stamped| Some(stamped) != here))
    }

    /// The PTX file a kernel must have.
    fn ptx(&self, kernel: &Committed, compiler: &Compiler, compile: Compile) -> Result<Want, CliError> {
        let file = self.kept(&format!("{}.ptx", kernel.stem)).unwrap_or_default();
        let stamped =
            std::str::from_utf8(&file).ok().and_then(StampedPtx::read).map(|stamped| stamped.compiler.to_owned());
        if self.by_stamp(stamped, compiler)? {
            return Ok(Want::From { source: kernel.source.hash.clone() });
        }
        let artifact = compile(compiler, kernel.kernel.clone(), kernel.source.clone())?;
        let version = artifact.compiler.map(|version: Version| version.to_string()).unwrap_or_default();
        Ok(Want::Exact(kernel.ptx_file(&artifact.ptx, &version).into_bytes()))
    }

    fn write(&self, wanted: &BTreeMap<String, Want>, sources: &[PathBuf]) -> Result<Verdict, CliError> {
        std::fs::create_dir_all(&self.kernels)
            .map_err(|source| CliError::Write { path: self.kernels.clone(), source })?;
        let (mut changed, mut said) = (false, String::new());
        for (name, want) in wanted {
            let path = self.kernels.join(name);
            if let Want::Exact(bytes) = want
                && self.kept(name).as_ref() != Some(bytes)
            {
                write::file(&path, bytes)?;
                said += &format!("wrote {}\n", path.display());
                changed = true;
            }
        }
        for name in self.left_over(wanted)? {
            let path = self.kernels.join(name);
            said += &format!("removed {}\n", path.display());
            std::fs::remove_file(&path).map_err(|source| CliError::Write { path, source })?;
            changed = true;
        }
        if changed {
            // A kernel that was not there before is no file that cargo watches: the source that embeds it is.
            sources.iter().try_for_each(|path| touch(path))?;
        }
        if !terminal::quiet() {
            said += &format!("{} files in {}\n", wanted.len(), self.kernels.display());
            write::stdout(said.as_bytes())?;
        }
        Ok(Verdict::Good)
    }

    fn compare(&self, wanted: &BTreeMap<String, Want>) -> Result<Verdict, CliError> {
        let mut drift = Vec::new();
        let mut by_stamp = 0;
        for (name, want) in wanted {
            let Some(file) = self.kept(name) else {
                drift.push(format!("{name}: missing"));
                continue;
            };
            match want {
                Want::Exact(expected) if *expected == file => {}
                Want::Exact(_) => drift.push(format!("{name}: differs from what is generated now")),
                Want::From { source } => {
                    by_stamp += 1;
                    let cubin = StampedCubin::read(&file).map(|stamped| stamped.source);
                    let ptx = std::str::from_utf8(&file).ok().and_then(StampedPtx::read).map(|stamped| stamped.source);
                    if cubin.or(ptx).is_none_or(|stamped| stamped != source) {
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
            .filter(|name| {
                [".cu", ".ptx", ".cubin"].iter().any(|end| name.ends_with(end)) && !wanted.contains_key(name)
            })
            .collect();
        names.sort();
        Ok(names)
    }
}

/// A hand-edited text that a macro names, where it fits what is generated now.
fn named(rule: &Rule, root: &Path, text: &KernelText) -> Result<Committed, CliError> {
    let path = root.join(&text.file);
    let cuda = files::read_regular(&path, Limit::TEXT)
        .and_then(|bytes| String::from_utf8(bytes).map_err(std::io::Error::other))
        .map_err(|source| CliError::Read { path, source })?;
    let from = text.from.as_ref().map(|(hash, _)| hash.as_str());
    let named = NamedKernel::new(rule, &text.pass, (&text.file, cuda), from);
    let NamedKernel { kernel, source, stem } = named.map_err(|error| CliError::Usage(error.to_string()))?;
    Ok(Committed { kernel, source, stem })
}

/// Every Rust file below a folder, in order; none where there is no such folder.
pub fn sources_below(folder: &Path) -> Result<Vec<PathBuf>, CliError> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(folder).map_err(|source| CliError::Read { path: folder.to_owned(), source })?;
    let mut files = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            files.extend(sources_below(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Makes a file look changed.
fn touch(path: &Path) -> Result<(), CliError> {
    let touched = std::fs::File::options()
        .append(true)
        .open(path)
        .and_then(|file| file.set_modified(std::time::SystemTime::now()));
    touched.map_err(|source| CliError::Write { path: path.to_owned(), source })
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
