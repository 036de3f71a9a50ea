//! What a real run leaves for the repository, in one archive that unpacks in its root.

use std::path::{Path, PathBuf};

use crate::error::CliError;
use crate::write;

/// A folder laid out like the repository, until it is packed.
pub struct Kept(tempfile::TempDir);

impl Kept {
    /// An empty one.
    pub fn new() -> Result<Kept, CliError> {
        Ok(Kept(scratch()?))
    }

    /// A folder in it, made if it is not there.
    pub fn folder(&self, name: &str) -> Result<PathBuf, CliError> {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(&path).map_err(|source| CliError::Write { path: path.clone(), source })?;
        Ok(path)
    }

    /// Writes the archive.
    pub fn pack(&self, archive: &Path) -> Result<(), CliError> {
        let mut builder = tar::Builder::new(Vec::new());
        let bytes = builder.append_dir_all(".", self.0.path()).and_then(|()| builder.into_inner());
        write::file(archive, &bytes.map_err(|source| CliError::Write { path: archive.to_owned(), source })?)
    }
}

/// A folder of the system's for a while.
pub fn scratch() -> Result<tempfile::TempDir, CliError> {
    tempfile::tempdir().map_err(|source| CliError::Write { path: std::env::temp_dir(), source })
}
