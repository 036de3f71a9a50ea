//! Everything that can go wrong between the command line and the crates beneath, with what to type next.

use std::io;
use std::path::{Path, PathBuf};

/// Why a command stopped. Nothing it was to write has been written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// A file could not be read.
    #[error("cannot read {path}: {source}", path = .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {path}: {source}", path = .path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A program could not be run.
    #[error("cannot run {program}: {source}", program = .program.display())]
    Start {
        /// Which.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Standard output could not be written.
    #[error("cannot write to standard output: {0}")]
    Stdout(#[from] io::Error),
    /// A rule file with mistakes, drawn over its source.
    #[error("{0}")]
    Diagnostics(String),
    /// `FILE#RULE` names a rule that the file does not have.
    #[error("{file} has no rule `{name}`; it has: {known}")]
    NoSuchRule {
        /// The file.
        file: String,
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A file of several rules where one is wanted.
    #[error("{file} holds several rules; choose one: {choices}")]
    ManyRules {
        /// The file.
        file: String,
        /// `FILE#RULE` spellings.
        choices: String,
    },
    /// Overrides that make no rule.
    #[error(transparent)]
    Rule(#[from] gdn2_dsl::RuleError),
    /// A kernel of the committed set that cannot be generated.
    #[error(transparent)]
    Committed(#[from] gdn2_codegen::committed::CommittedError),
    /// Schedule fields that make no schedule.
    #[error("--schedule: {0}")]
    Schedule(#[from] gdn2_codegen::schedule::ScheduleError),
    /// A schedule that cannot serve the rule on the architecture.
    #[error(transparent)]
    Illegal(#[from] gdn2_codegen::kernel::Illegal),
    /// No compiler, or a text it refuses.
    #[error(transparent)]
    Nvrtc(#[from] gdn2_runtime::nvrtc::NvrtcError),
    /// A tool that could not be fetched or run.
    #[error(transparent)]
    Toolchain(#[from] gdn2_runtime::toolchain::ToolchainError),
    /// A form that only a compiler gives, asked for where committed PTX stood in for one.
    #[error("{0} needs NVRTC, and only committed PTX is here: run `gdn2 toolchain install`")]
    NeedsNvrtc(&'static str),
    /// A file whose tensors are no case of the rule, or a run of it that failed.
    #[error("{path}: {source}", path = .path.display())]
    InFile {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Box<CliError>,
    },
    /// Tensors that are no case, or no case of the rule.
    #[error(transparent)]
    Case(#[from] gdn2_runtime::tensors::CaseError),
    /// A device that is not there or failed.
    #[error(transparent)]
    Device(#[from] gdn2_runtime::device::DeviceError),
    /// A run that gave nothing.
    #[error(transparent)]
    Run(#[from] gdn2_runtime::engine::RunError),
    /// A GPU that the clock knows nothing about.
    #[error(transparent)]
    Constants(#[from] gdn2_tune::model::ConstantsError),
    /// Published times that cannot be read.
    #[error(transparent)]
    Published(#[from] gdn2_tune::published::FitError),
    /// A sweep without a result.
    #[error(transparent)]
    Sweep(#[from] gdn2_tune::sweep::SweepError),
    /// A log without anything to report.
    #[error(transparent)]
    Report(#[from] gdn2_tune::report::ReportError),
    /// Arguments that contradict one another.
    #[error("{0}")]
    Usage(String),
    /// A launch file that means nothing.
    #[error(transparent)]
    LaunchFile(#[from] gdn2_vm::launch_file::LaunchFileError),
    /// A value that has no JSON form.
    #[error("cannot write JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Text that may hold parts of files, as a terminal may be given it: without control characters but ends of lines.
pub fn shown(text: &str) -> String {
    let hidden = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    text.chars().map(|c| if hidden(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
}

impl CliError {
    /// The error with the name of the file it is about.
    pub fn in_file(path: &Path, error: impl Into<CliError>) -> CliError {
        CliError::InFile { path: path.to_owned(), source: Box::new(error.into()) }
    }

    /// 2 where another argument would have done, as the parser of arguments has it; 1 where the world is at fault.
    pub fn exit_code(&self) -> u8 {
        match self {
            CliError::Usage(_)
            | CliError::LaunchFile(_)
            | CliError::Schedule(_)
            | CliError::Illegal(_)
            | CliError::Rule(_)
            | CliError::Device(gdn2_runtime::device::DeviceError::Unknown(_))
            | CliError::NoSuchRule { .. }
            | CliError::ManyRules { .. }
            | CliError::Constants(gdn2_tune::model::ConstantsError::UnknownGpu { .. }) => 2,
            _ => 1,
        }
    }

    /// The message as the terminal gets it.
    pub fn rendered(&self) -> String {
        match self {
            // Drawn diagnostics carry their own `error:` lines.
            CliError::Diagnostics(text) => text.trim_end().to_owned(),
            other => format!("error: {}", shown(&other.to_string())),
        }
    }
}
