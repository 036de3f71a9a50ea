//! Input that somebody named: a file up to the limit of its kind, or `-`, which is standard input.

use std::io::stdin;
use std::path::Path;

use gdn2_runtime::files::{self, Limit};
use gdn2_runtime::tensors::{Case, CaseError};

use crate::error::CliError;

/// What stands for standard input and standard output.
pub const DASH: &str = "-";

/// All of a file, or of standard input.
pub fn bytes(path: &Path, limit: Limit) -> Result<Vec<u8>, CliError> {
    let read = if path == Path::new(DASH) { files::from(stdin().lock(), limit) } else { files::read(path, limit) };
    read.map_err(|source| CliError::Read { path: path.to_owned(), source })
}

/// A case file, or one on standard input.
pub fn case(path: &Path) -> Result<Case, CaseError> {
    if path == Path::new(DASH) { Case::read(stdin().lock(), path) } else { Case::load(path) }
}
