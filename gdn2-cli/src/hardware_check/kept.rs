//! What a real run leaves for the repository, in one archive that `gdn2 records import` checks and merges.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::CliError;
use crate::records::archive::{self, HASHES, REPORT};
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

    /// Writes the archive, with what was found and the hashes of all files.
    pub fn pack(&self, archive: &Path, report: &[u8]) -> Result<(), CliError> {
        write::file(&self.0.path().join(REPORT), report)?;
        let mut hashes = BTreeMap::new();
        self.hash(self.0.path(), &mut hashes)?;
        hashes.remove(HASHES);
        write::file(&self.0.path().join(HASHES), format!("{:#}\n", serde_json::json!(hashes)).as_bytes())?;
        let mut builder = tar::Builder::new(Vec::new());
        let bytes = builder.append_dir_all(".", self.0.path()).and_then(|()| builder.into_inner());
        write::file(archive, &bytes.map_err(|source| CliError::Write { path: archive.to_owned(), source })?)
    }

    /// Hashes of the files below a folder, by their names in the archive.
    fn hash(&self, folder: &Path, hashes: &mut BTreeMap<String, String>) -> Result<(), CliError> {
        let failed = |source| CliError::Read { path: folder.to_owned(), source };
        for path in std::fs::read_dir(folder).map_err(failed)?.flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                self.hash(&path, hashes)?;
                continue;
            }
            let bytes = std::fs::read(&path).map_err(failed)?;
            let name = path.strip_prefix(self.0.path()).unwrap_or(&path).to_string_lossy().into_owned();
            hashes.insert(name, archive::hash(&bytes));
        }
        Ok(())
    }
}

/// A folder of the system's for a while.
pub fn scratch() -> Result<tempfile::TempDir, CliError> {
    tempfile::tempdir().map_err(|source| CliError::Write { path: std::env::temp_dir(), source })
}
