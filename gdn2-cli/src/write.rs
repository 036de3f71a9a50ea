//! Output that is there whole or not at all.

use std::io::Write as _;
use std::path::Path;

use gdn2_runtime::files;

use crate::error::CliError;

/// Writes a file, as [`files::write`] does.
pub fn file(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    files::write(path, bytes).map_err(|source| CliError::Write { path: path.to_owned(), source })
}

/// Writes to standard output; a reader that leaves early is an error of its own kind, not a panic.
pub fn stdout(bytes: &[u8]) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(())
}
