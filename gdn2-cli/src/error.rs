//! Everything that can go wrong between the command line and the crates beneath, with what to type next.

use std::io;
use std::path::PathBuf;

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
    /// Schedule fields that make no schedule.
    #[error("--schedule: {0}")]
    Schedule(#[from] gdn2_codegen::schedule::ScheduleError),
    /// A schedule that cannot serve the rule on the architecture.
    #[error(transparent)]
    Illegal(#[from] gdn2_codegen::kernel::Illegal),
    /// A value that has no JSON form.
    #[error("cannot write JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl CliError {
    /// The message as the terminal gets it.
    pub fn rendered(&self) -> String {
        match self {
            // Drawn diagnostics carry their own `error:` lines.
            CliError::Diagnostics(text) => text.trim_end().to_owned(),
            other => format!("error: {other}"),
        }
    }
}
