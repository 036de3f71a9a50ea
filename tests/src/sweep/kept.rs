//! What a sweep found, a line each, so that a later run goes on where this one ended.

use gdn2_codegen::arch::Arch;
use gdn2_runtime::nvrtc::Version;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct KeptError {
    path: PathBuf,
    source: std::io::Error,
}

/// The verdicts so far.
#[derive(Debug, Default)]
pub struct Kept {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Hash of the PTX that came of a CUDA text.
    ptx: HashMap<String, String>,
    good: HashSet<String>,
    file: Option<(PathBuf, File)>,
}

impl Kept {
    /// Verdicts that nothing keeps.
    pub fn nowhere() -> Kept {
        Kept::default()
    }

    /// Reads a file of verdicts, if there is one, and appends to it. A line that was cut off is left out.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: &Path) -> Result<Kept, KeptError> {
        let failed = |source| KeptError { path: path.to_owned(), source };
        let mut inner = Inner::default();
        let before = if path.exists() { std::fs::read_to_string(path).map_err(failed)? } else { String::new() };
        for line in before.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            let text = |field: &str| line[field].as_str().map(str::to_owned);
            match (text("source"), text("ptx"), line["good"].as_bool()) {
                (Some(source), Some(ptx), _) => drop(inner.ptx.insert(source, ptx)),
                (None, Some(ptx), Some(true)) => drop(inner.good.insert(ptx)),
                _ => {}
            }
        }
        let mut file = File::options().create(true).append(true).open(path).map_err(failed)?;
        if !before.is_empty() && !before.ends_with('\n') {
            file.write_all(b"\n").map_err(failed)?;
        }
        inner.file = Some((path.to_owned(), file));
        Ok(Kept { inner: Mutex::new(inner) })
    }

    /// Whether kernels of this PTX were found good.
    pub fn knows(&self, ptx: &str) -> bool {
        self.inner().good.contains(ptx)
    }

    /// The hash of the PTX that this CUDA text gave.
    pub fn ptx_of(&self, source: &str) -> Option<String> {
        self.inner().ptx.get(source).cloned()
    }

    /// Notes what a CUDA text compiled to.
    pub(super) fn note_ptx(&self, source: &str, ptx: &str) -> Result<(), KeptError> {
        let mut inner = self.inner();
        inner.ptx.insert(source.to_owned(), ptx.to_owned());
        inner.write(&json!({ "source": source, "ptx": ptx }))
    }

    /// Notes a verdict; failures are run again next time.
    pub(super) fn note(&self, ptx: &str, point: &str, seed: u64, failure: Option<&str>) -> Result<(), KeptError> {
        let mut inner = self.inner();
        if failure.is_none() {
            inner.good.insert(ptx.to_owned());
        }
        inner.write(&json!({ "ptx": ptx, "good": failure.is_none(), "point": point, "seed": seed, "failure": failure }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere leaves whole entries.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn write(&mut self, line: &Value) -> Result<(), KeptError> {
        let Some((path, file)) = &mut self.file else { return Ok(()) };
        let failed = |source| KeptError { path: path.clone(), source };
        file.write_all(format!("{line}\n").as_bytes()).map_err(failed)
    }
}

/// Names a CUDA text by its code: comments, which name its architecture and schedule, left out.
pub(super) fn source_key(text: &str, arch: Arch, compiler: Version) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("{} {compiler}\n", arch.target()).as_bytes());
    hash_lines(&mut hasher, text, |line| !line.starts_with("//"));
    short(&hasher.finalize())
}

/// Names PTX by its instructions: comments, the target, the language's version and debug lines left out.
pub(super) fn ptx_key(ptx: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    hash_lines(&mut hasher, ptx, |line| {
        ![".target", ".version", ".loc", ".file", "//"].iter().any(|of| line.starts_with(of))
    });
    short(&hasher.finalize())
}

fn hash_lines(hasher: &mut blake3::Hasher, text: &str, wanted: impl Fn(&str) -> bool) {
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && wanted(line)) {
        hasher.update(line.as_bytes());
        hasher.update(b"\n");
    }
}

/// The first 32 hexadecimal digits.
pub(super) fn short(hash: &blake3::Hash) -> String {
    let mut text = hash.to_hex().to_string();
    text.truncate(32);
    text
}
