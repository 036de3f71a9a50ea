//! Output that is there whole or not at all, `-` being standard output, and never binary on a terminal.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;

use gdn2_runtime::files;

use crate::error::CliError;
use crate::read::DASH;
use crate::terminal;

/// Whether a path stands for standard output.
pub fn is_stdout(path: &Path) -> bool {
    path == Path::new(DASH)
}

/// Writes a file, as [`files::write`] does, or to standard output.
pub fn file(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    if is_stdout(path) {
        return stdout(bytes);
    }
    files::write(path, bytes).map_err(|source| CliError::Write { path: path.to_owned(), source })
}

/// Writes to standard output; a reader that leaves early is an error of its own kind, not a panic.
pub fn stdout(bytes: &[u8]) -> Result<(), CliError> {
    if std::io::stdout().is_terminal() && is_binary(bytes) {
        let instead = "this output is binary and standard output is a terminal: name a file, or send it into a pipe";
        return Err(CliError::Usage(instead.to_owned()));
    }
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(())
}

/// Says where results went: on standard output, or, where the results themselves are there, on standard error.
pub fn note(line: &str, results: &Path) -> Result<(), CliError> {
    if terminal::quiet() {
        return Ok(());
    }
    if is_stdout(results) {
        eprint!("{line}");
        return Ok(());
    }
    stdout(line.as_bytes())
}

fn is_binary(bytes: &[u8]) -> bool {
    bytes.contains(&0) || std::str::from_utf8(bytes).is_err()
}
