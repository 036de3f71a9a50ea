//! Counts that outlive a sweep. What a block does follows from its PTX and its inputs, so architectures whose PTX is the
//! same but for the target's name share one run on the virtual machine; so do GPUs of one architecture.

use crate::job::Job;
use crate::model::Load;
use gdn2_dsl::Draw;
use gdn2_runtime::artifact::Artifact;
use gdn2_runtime::cache::Part;
use gdn2_runtime::files::{self, Limit};
use std::path::{Path, PathBuf};

/// How this build counts.
const COUNTING: &str = env!("GDN2_COUNTING");

/// Counts of correct runs on disk. Safe under any number of writers: an entry is written beside its place and renamed.
pub struct Tallies {
    folder: Option<PathBuf>,
}

/// An entry's name.
#[derive(Clone, Copy)]
pub struct Key(blake3::Hash);

impl Tallies {
    /// Tallies in `counts` of a project cache folder; without one, nothing is kept.
    pub fn new(cache: Option<&Path>) -> Tallies {
        Tallies { folder: cache.map(|cache| cache.join(Part::Counts.name())) }
    }

    /// The key of a kernel on inputs drawn for a job.
    pub fn key(job: &Job, artifact: &Artifact, draw: &Draw) -> Key {
        let mut hasher = blake3::Hasher::new();
        let launches = serde_json::to_vec(&artifact.kernel.launches).unwrap_or_default();
        let run = format!("{COUNTING}\ntotals\n{:?}\n{:?}\n{draw:?}\n", job.rule, job.pass);
        hasher.update(&launches).update(run.as_bytes());
        for line in artifact.ptx.lines().filter(|line| !line.starts_with(".target")) {
            hasher.update(line.as_bytes()).update(b"\n");
        }
        Key(hasher.finalize())
    }

    /// The counts of each launch, if this run was counted before.
    pub fn get(&self, key: Key) -> Option<Vec<Load>> {
        serde_json::from_slice(&files::read_regular(&self.path(key)?, Limit::RECORDS).ok()?).ok()
    }

    /// Keeps the counts of a run whose results were right. A folder that cannot be written only costs the next run.
    pub fn put(&self, key: Key, loads: &[Load]) {
        let write = || -> std::io::Result<()> {
            let Some(path) = self.path(key) else { return Ok(()) };
            let folder = path.parent().unwrap_or(Path::new("."));
            std::fs::create_dir_all(folder)?;
            files::replace(&path, &serde_json::to_vec(loads)?)
        };
        let _ = write();
    }

    fn path(&self, key: Key) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join(format!("{}.json", key.0.to_hex())))
    }
}
