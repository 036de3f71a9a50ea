//! A tuned schedule with its provenance, and the file that keeps one per rule, pass and shape bucket.
//!
//! `tuning/<gpu>.json` is JSON with one record per line, sorted, so that a change reads as a diff of the lines it is
//! about, and a damaged line costs itself alone.

use crate::abi::Extents;
use crate::arch::Arch;
use crate::pass::Pass;
use crate::schedule::Schedule;
use crate::schedule::space::short;
use gdn2_dsl::Rule;
use serde::{Deserialize, Serialize};
use std::fmt::{self, Write as _};
use std::str::FromStr;

/// Records that come with the program.
const SHIPPED: [(&str, &str); 3] = [
    ("a100", include_str!("../../tuning/a100.json")),
    ("h100", include_str!("../../tuning/h100.json")),
    ("h200", include_str!("../../tuning/h200.json")),
];

/// The records that come with the program for a GPU; none for a GPU that has none.
pub fn shipped(gpu: &str) -> Records {
    SHIPPED.iter().find(|(name, _)| *name == gpu).map(|(_, text)| Records::parse(text).0).unwrap_or_default()
}

/// Calls that share a record: blocks of work side by side and steps one after another, each rounded up to a power
/// of two. Head dims and dtypes belong to the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bucket {
    /// Sequences times value heads.
    pub heads: u64,
    /// Tokens per sequence, the mean where lengths differ.
    pub tokens: u64,
}

impl Bucket {
    /// The bucket a call falls in.
    pub fn of(extents: Extents) -> Bucket {
        let up = |count: u64| count.max(1).checked_next_power_of_two().unwrap_or(1 << 63);
        Bucket {
            heads: up(extents.sequences.saturating_mul(extents.value_heads)),
            tokens: up(extents.total_tokens / extents.sequences.max(1)),
        }
    }

    /// Doublings between two buckets.
    pub fn distance(self, other: Bucket) -> u32 {
        self.heads.max(1).ilog2().abs_diff(other.heads.max(1).ilog2())
            + self.tokens.max(1).ilog2().abs_diff(other.tokens.max(1).ilog2())
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "heads={},tokens={}", self.heads, self.tokens)
    }
}

/// A text that is no bucket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bucket `{0}` is not of the form heads=N,tokens=N")]
pub struct BadBucket(pub String);

impl FromStr for Bucket {
    type Err = BadBucket;

    fn from_str(text: &str) -> Result<Self, BadBucket> {
        let parts = text.split_once(',').and_then(|(heads, tokens)| {
            Some((heads.strip_prefix("heads=")?.parse().ok()?, tokens.strip_prefix("tokens=")?.parse().ok()?))
        });
        parts.map(|(heads, tokens)| Bucket { heads, tokens }).ok_or_else(|| BadBucket(text.to_owned()))
    }
}

impl Serialize for Bucket {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bucket {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// How a time came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Basis {
    /// CUDA events on the GPU.
    Measured,
    /// The clock, from machine code.
    Predicted,
    /// Cycles counted by the virtual machine at the GPU's unit rates: a test of the tuner, not of the kernel.
    Counted,
}

impl Basis {
    /// How much a time of this kind is worth: what rests on less replaces nothing that rests on more.
    pub const fn worth(self) -> u8 {
        match self {
            Basis::Counted => 0,
            Basis::Predicted => 1,
            Basis::Measured => 2,
        }
    }
}

/// A median with its spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Time {
    /// Median, microseconds.
    pub micros: f64,
    /// Half the interquartile range over the median; for predictions the model's relative error band.
    pub spread: f64,
}

/// A schedule and the time it took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timed {
    /// The schedule.
    pub schedule: Schedule,
    /// Its time.
    #[serde(flatten)]
    pub time: Time,
}

/// What a record depends on. Lookup refuses a record where any of the first five is known to differ; the others are for
/// the reader, for they change a kernel's time and not which kernel it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Fingerprint of the rule without its name and documentation.
    pub rule: String,
    /// Fingerprint of the candidates it was chosen from.
    pub space: String,
    /// Fingerprint of the winner's CUDA text: templates, device code and generator in one.
    pub source: String,
    /// Compiler and version, such as `NVRTC 13.0`.
    pub compiler: String,
    /// The architecture compiled for.
    pub arch: Arch,
    /// Driver version, where one was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Streaming multiprocessor clock, MHz: as measured, or as the model assumes.
    pub clock_mhz: u32,
    /// Measured, predicted or counted.
    pub basis: Basis,
}

/// The winner of one search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The rule's name.
    pub rule: String,
    /// The pass.
    pub pass: Pass,
    /// The calls it is for.
    pub bucket: Bucket,
    /// The winner.
    pub winner: Timed,
    /// The built-in schedule in the same search; absent where it did not come out right.
    pub built_in: Option<Timed>,
    /// What happened to the built-in schedule where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub built_in_failed: Option<String>,
    /// What its calls got before, in the same search; absent where that did not come out right, and in records older than
    /// this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Timed>,
    /// The best of the others.
    pub runner_up: Option<Timed>,
    /// The five best of a prediction: what a machine with the GPU looks at first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shortlist: Vec<Schedule>,
    /// Candidates that ran correctly, of all that were tried.
    pub correct: u32,
    /// Candidates tried.
    pub tried: u32,
    /// What it depends on.
    pub provenance: Provenance,
}

/// Fingerprint of what a rule computes: a rule by another name is the same rule.
pub fn rule_fingerprint(rule: &Rule) -> String {
    let anonymous = Rule { name: String::new(), doc: String::new(), ..rule.clone() };
    let text = serde_json::to_vec(&anonymous).unwrap_or_default();
    short(&blake3::hash(&text))
}

/// Fingerprint of the CUDA text of a schedule; `None` where it is not legal.
pub fn source_fingerprint(rule: &Rule, pass: Pass, schedule: Schedule, arch: Arch) -> Option<String> {
    let anonymous = Rule { name: "rule".to_owned(), doc: String::new(), ..rule.clone() };
    let kernel = crate::bind(&anonymous, pass, schedule, arch).ok()?;
    Some(short(&blake3::hash(crate::render(&kernel).text.as_bytes())))
}

/// One line of a file that could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct Damage {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: String,
}

/// The records of one GPU.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Records {
    records: Vec<Record>,
}

impl Records {
    /// Reads a record file. Lines that are no record, or no text at all, are dropped and reported, the others stand; so is
    /// an end without `]`, as a file that was cut short has.
    pub fn parse(file: impl AsRef<[u8]>) -> (Records, Vec<Damage>) {
        let (mut records, mut damage) = (Records::default(), Vec::new());
        let (mut lines, mut ended) = (0, false);
        for (index, line) in file.as_ref().split(|byte| *byte == b'\n').enumerate() {
            let line_number = index + 1;
            let body = line.trim_ascii();
            let body = body.strip_suffix(b",").unwrap_or(body);
            if body.is_empty() || body == b"[" || body == b"]" {
                ended |= body == b"]";
                lines += usize::from(!body.is_empty());
                continue;
            }
            lines += 1;
            match serde_json::from_slice::<Record>(body) {
                Ok(record) if records.records.iter().any(|other| other.key() == record.key()) => damage.push(Damage {
                    line: line_number,
                    why: format!("a second record for {} {:?} {}", record.rule, record.pass, record.bucket),
                }),
                Ok(record) => records.records.push(record),
                Err(error) => damage.push(Damage { line: line_number, why: error.to_string() }),
            }
        }
        if !ended {
            let why = if lines == 0 { "the file is empty" } else { "the file ends without `]`: it was cut short" };
            damage.push(Damage { line: lines + 1, why: why.to_owned() });
        }
        records.sort();
        (records, damage)
    }

    /// The records, sorted by rule, pass and bucket.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.records.iter()
    }

    /// Puts a record in the place of the one with the same rule, pass and bucket, if there is one.
    pub fn insert(&mut self, record: Record) {
        self.records.retain(|other| other.key() != record.key());
        self.records.push(record);
        self.sort();
    }

    /// The file's text.
    pub fn to_text(&self) -> Result<String, serde_json::Error> {
        let mut text = String::from("[\n");
        for (index, record) in self.records.iter().enumerate() {
            let comma = if index + 1 == self.records.len() { "" } else { "," };
            let _ = writeln!(text, "{}{comma}", serde_json::to_string(record)?);
        }
        text.push_str("]\n");
        Ok(text)
    }

    fn sort(&mut self) {
        self.records.sort_by(|a, b| a.key().cmp(&b.key()));
    }
}

impl Record {
    /// A rule's fingerprint is part of the key: two rules of one name, say with other head dims, each have a record.
    fn key(&self) -> (&str, Pass, Bucket, &str) {
        (&self.rule, self.pass, self.bucket, &self.provenance.rule)
    }
}
