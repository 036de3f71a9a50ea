//! The append-only log: one JSON object per line, written whole and flushed before the sweep goes on, so that a sweep
//! killed at any moment loses only what it had not finished.

use crate::job::Job;
use crate::outcome::Outcome;
use gdn2_codegen::kernel::Illegal;
use gdn2_codegen::record::Damage;
use gdn2_codegen::schedule::Schedule;
use gdn2_runtime::files::{self, Limit};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "lowercase")]
#[expect(clippy::large_enum_variant, reason = "one at a time is read or written")]
pub enum Line {
    /// A search, written once before its first evaluation.
    Search(Search),
    /// What calls got when a search began or was resumed: what is to be beaten.
    Held(Held),
    /// A candidate that is not legal, written once with its search.
    Illegal(Refusal),
    /// One evaluation.
    Evaluation(Evaluation),
}

/// What is searched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Search {
    /// [`Job::identity`], which its evaluations refer to.
    pub search: String,
    /// The job.
    pub job: Job,
    /// The compiler and its version.
    pub compiler: String,
    /// Fingerprint of the candidates.
    pub space: String,
    /// The floor no kernel can beat, microseconds: inputs and outputs once through memory, matrix work at full rate.
    pub floor_micros: f64,
}

/// What calls of a search got before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// Which search.
    pub search: String,
    /// The schedule.
    pub schedule: Schedule,
    /// Where it came from, as lookup says it.
    pub from: String,
    /// The command that began the search, or went on with it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub command: String,
    /// When, seconds since 1970.
    pub at: u64,
}

/// A candidate that `bind` refuses: nothing of it is compiled or run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    /// Which search.
    pub search: String,
    /// The candidate.
    pub schedule: Schedule,
    /// Field, limit and value.
    pub illegal: Illegal,
    /// When it was refused, seconds since 1970.
    pub at: u64,
}

/// How hard a candidate was looked at. Outcomes of one effort and round are comparable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Effort {
    /// Repetitions, relative to the shortest look.
    pub repeats: u32,
    /// Which look at this effort: its inputs are drawn afresh from this number.
    pub round: u32,
}

impl Effort {
    /// The shortest look.
    pub const FIRST: Effort = Effort { repeats: 1, round: 0 };
}

/// One evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Which search.
    pub search: String,
    /// The candidate.
    pub schedule: Schedule,
    /// How hard it was looked at.
    pub effort: Effort,
    /// What became of it.
    pub outcome: Outcome,
    /// Seconds it took, compilation included.
    pub seconds: f64,
    /// When it ended, seconds since 1970.
    pub at: u64,
}

/// A log that is written to.
#[derive(Debug)]
pub struct Log {
    file: File,
}

/// What a log holds: its lines, and those that could not be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    /// Searches, in order.
    pub searches: Vec<Search>,
    /// What calls got before, in order.
    pub held: Vec<Held>,
    /// Candidates that are not legal, each once, in order.
    pub refusals: Vec<Refusal>,
    /// Evaluations, in order.
    pub evaluations: Vec<Evaluation>,
    /// Lines that are none of these.
    pub damage: Vec<Damage>,
}

impl Log {
    /// Opens a log for appending, with what it already holds. A last line cut short by a crash stays where it is, as
    /// damage, and the next line starts on a line of its own.
    pub fn open(path: &Path) -> io::Result<(Log, Contents)> {
        // A FIFO would be waited for without end.
        match std::fs::metadata(path) {
            Ok(there) => files::expect_regular(&there)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
        let bytes = files::from(&file, Limit::LOG)?;
        file.seek(SeekFrom::End(0))?;
        if bytes.last().is_some_and(|last| *last != b'\n') {
            file.write_all(b"\n")?;
        }
        Ok((Log { file }, Contents::parse(&bytes)))
    }

    /// Appends a line; it is in the operating system's hands when this returns.
    pub fn append(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.file.write_all(&text)?;
        self.file.sync_data()
    }
}

impl Contents {
    /// Reads a log that is not written to.
    pub fn read(path: &Path) -> io::Result<Contents> {
        Ok(Contents::parse(&files::read(path, Limit::LOG)?))
    }

    /// Reads the bytes of a log. Lines that are none of its kinds are dropped and reported, the others stand.
    pub fn parse(bytes: &[u8]) -> Contents {
        let (mut contents, mut refused) = (Contents::default(), HashSet::new());
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            match serde_json::from_slice(line) {
                Ok(Line::Search(search)) => contents.searches.push(search),
                Ok(Line::Held(held)) => contents.held.push(held),
                // Logs of several machines that were joined say the same of a candidate more than once.
                Ok(Line::Illegal(refusal)) => {
                    if refused.insert((refusal.search.clone(), refusal.schedule)) {
                        contents.refusals.push(refusal);
                    }
                }
                Ok(Line::Evaluation(evaluation)) => contents.evaluations.push(evaluation),
                Err(error) => contents.damage.push(Damage { line: index + 1, why: error.to_string() }),
            }
        }
        contents
    }

    /// What calls got before a search, when it was last begun.
    pub fn before(&self, search: &str) -> Option<&Held> {
        self.held.iter().rfind(|held| held.search == search)
    }

    /// The refusals of one search.
    pub fn refused<'a>(&'a self, search: &'a str) -> impl Iterator<Item = &'a Refusal> {
        self.refusals.iter().filter(move |refusal| refusal.search == search)
    }

    /// The evaluations of one search.
    pub fn of<'a>(&'a self, search: &'a str) -> impl Iterator<Item = &'a Evaluation> {
        self.evaluations.iter().filter(move |evaluation| evaluation.search == search)
    }
}
