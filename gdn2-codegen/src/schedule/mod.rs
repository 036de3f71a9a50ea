//! How a pass is carried out: flat structs of numbers, enumerable, storable, refusable. No rule in here.
//!
//! Written `chunk=64,warps=8,value_split=1,stages=2,matrix=wgmma,segments=8`, in any order, any part left out:
//! [`Schedule::from_overrides`] fills in what is missing so that the rule fits the architecture.

pub mod space;

use serde::{Deserialize, Serialize};
use std::fmt;

/// The numbers of one pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "pass", rename_all = "lowercase")]
pub enum Schedule {
    /// Chunked forward.
    Forward(Forward),
    /// One token or a short run.
    Decode(Decode),
    /// Chunked backward.
    Backward(Backward),
}

/// A scan over a sequence, chunk after chunk, with the state or its gradient in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scan {
    /// Tokens per chunk: 16, 32, 64 or 128.
    pub chunk: u32,
    /// Blocks that share one head's value dim.
    pub value_split: u32,
    /// Warps per block that hold the state, 16 value rows each.
    pub warps: u32,
    /// Buffers of the chunk inputs in flight: 1 or 2.
    pub stages: u32,
}

/// Chunked forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Forward {
    /// The scan.
    #[serde(flatten)]
    pub scan: Scan,
    /// Which matrix instructions the state's products are made of.
    #[serde(default, skip_serializing_if = "Matrix::is_mma")]
    pub matrix: Matrix,
    /// Parts of a sequence that run side by side, joined by composing their maps: 1 to 16. Written only where it is not 1.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub segments: u32,
}

fn one() -> u32 {
    1
}

fn is_one(number: &u32) -> bool {
    *number == 1
}

/// The matrix instructions of a scan over the state. Written only where it is not `mma`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Matrix {
    /// mma.sync: all warps make a chunk's factors, then each advances 16 value rows.
    #[default]
    Mma,
    /// wgmma, where the architecture has it: a warpgroup that loads and one that makes factors a chunk ahead stand beside
    /// `warps` warps that advance the state, 64 value rows to four of them.
    Wgmma,
}

impl Matrix {
    /// In the order of their numbers in overrides.
    const ALL: [(&'static str, Matrix); 2] = [("mma", Matrix::Mma), ("wgmma", Matrix::Wgmma)];

    const fn is_mma(&self) -> bool {
        matches!(self, Matrix::Mma)
    }
}

/// Chunked backward: a reverse scan over the sequence, then every chunk on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Backward {
    /// The scan. Where forward keeps states, its chunks must be as long.
    #[serde(flatten)]
    pub scan: Scan,
    /// Which matrix instructions the scan's products are made of.
    #[serde(default, skip_serializing_if = "Matrix::is_mma")]
    pub matrix: Matrix,
    /// Parts of a sequence that the scan runs side by side: 1 to 16. Written only where it is not 1.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub segments: u32,
    /// Tiles of 16 value rows the gradient launch serves at a time.
    pub value_tiles: u32,
    /// Warps per block of the gradient launch.
    pub gradient_warps: u32,
    /// 0: forward keeps the states at chunk boundaries. 1: nothing is kept, backward scans forward again.
    pub recompute: u32,
    /// Which matrix instructions the gradient launch is made of. Written only where it is not `mma`.
    #[serde(default, skip_serializing_if = "Matrix::is_mma")]
    pub gradients: Matrix,
}

/// Decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Decode {
    /// Blocks that share one head's value dim.
    pub value_split: u32,
    /// Warps per block.
    pub warps: u32,
}

/// Why a schedule text was not understood. Whether the numbers are legal is `bind`'s to say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// A field the pass does not have.
    #[error("schedule field `{field}` is unknown for this pass: use {known}")]
    UnknownField {
        /// What was written.
        field: String,
        /// The pass's fields.
        known: String,
    },
    /// A value that is no count.
    #[error("schedule field `{field}` takes a whole number from 1, got `{value}`")]
    BadValue {
        /// The field.
        field: String,
        /// What was written.
        value: String,
    },
    /// A word the field does not know.
    #[error("schedule field `{field}` takes {known}, got `{value}`")]
    BadWord {
        /// The field.
        field: String,
        /// What it takes.
        known: String,
        /// What was written.
        value: String,
    },
    /// A field written twice.
    #[error("schedule field `{0}` is given twice")]
    Twice(String),
}

/// Fields whose values are the names of matrix instructions.
const MATRICES: [&str; 2] = ["matrix", "gradients"];

/// A partly given schedule: field name and value, as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides(Vec<(&'static str, u32)>);

impl Overrides {
    /// Parses `field=number,…`; the empty text gives no override.
    pub fn parse(text: &str, fields: &[&'static str]) -> Result<Overrides, ScheduleError> {
        let mut given = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let (name, value) = (name.trim().replace('-', "_"), value.trim());
            let Some(field) = fields.iter().copied().find(|field| *field == name) else {
                return Err(ScheduleError::UnknownField { field: name, known: fields.join(", ") });
            };
            if given.iter().any(|(earlier, _)| *earlier == field) {
                return Err(ScheduleError::Twice(name));
            }
            if MATRICES.contains(&field) {
                let Some(number) = Matrix::ALL.iter().position(|(word, _)| *word == value) else {
                    let known = Matrix::ALL.map(|(word, _)| word).join(" or ");
                    return Err(ScheduleError::BadWord { field: name, known, value: value.to_owned() });
                };
                given.push((field, number as u32));
                continue;
            }
            match value.parse::<u32>() {
                Ok(number) if number > 0 || field == "recompute" => given.push((field, number)),
                _ => return Err(ScheduleError::BadValue { field: name, value: value.to_owned() }),
            }
        }
        Ok(Overrides(given))
    }

    /// Only what was given for one field.
    pub(crate) fn only(&self, field: &str) -> Overrides {
        Overrides(self.0.iter().copied().filter(|(name, _)| *name == field).collect())
    }

    /// Gives a field a value unless it has one.
    pub(crate) fn fill(&mut self, field: &'static str, value: u32) {
        if self.get(field).is_none() {
            self.0.push((field, value));
        }
    }

    /// The matrix instructions asked for.
    pub(crate) fn matrix(&self) -> Option<Matrix> {
        self.instructions("matrix")
    }

    /// The same of backward's gradient launch.
    pub(crate) fn gradients(&self) -> Option<Matrix> {
        self.instructions("gradients")
    }

    fn instructions(&self, field: &str) -> Option<Matrix> {
        self.get(field).map(|number| Matrix::ALL[number as usize % Matrix::ALL.len()].1)
    }

    /// The value given for a field.
    pub fn get(&self, field: &str) -> Option<u32> {
        self.0.iter().find(|(name, _)| *name == field).map(|(_, value)| *value)
    }
}

impl Schedule {
    /// Tokens per chunk, where there are chunks.
    pub fn chunk(&self) -> Option<u32> {
        match self {
            Schedule::Forward(numbers) => Some(numbers.scan.chunk),
            Schedule::Backward(numbers) => Some(numbers.scan.chunk),
            Schedule::Decode(_) => None,
        }
    }

    /// The same kernel with every sequence in one piece: what is left when a call's own grid is taken away.
    pub fn whole(self) -> Schedule {
        match self {
            Schedule::Forward(numbers) => Schedule::Forward(Forward { segments: 1, ..numbers }),
            Schedule::Backward(numbers) => Schedule::Backward(Backward { segments: 1, ..numbers }),
            Schedule::Decode(_) => self,
        }
    }

    /// Parts of a sequence that run side by side.
    pub fn segments(&self) -> u32 {
        match self {
            Schedule::Forward(numbers) => numbers.segments,
            Schedule::Backward(numbers) => numbers.segments,
            Schedule::Decode(_) => 1,
        }
    }
}

impl Forward {
    /// Field names, in the order they are printed.
    pub const FIELDS: [&'static str; 6] = ["chunk", "value_split", "warps", "stages", "matrix", "segments"];
}

impl Backward {
    /// Field names, in the order they are printed.
    pub const FIELDS: [&'static str; 10] = [
        "chunk",
        "value_split",
        "warps",
        "stages",
        "matrix",
        "segments",
        "value_tiles",
        "gradient_warps",
        "recompute",
        "gradients",
    ];

    /// The scan as forward's is stated.
    pub(crate) const fn scan(&self) -> Forward {
        Forward { scan: self.scan, matrix: self.matrix, segments: self.segments }
    }
}

impl Decode {
    /// Field names, in the order they are printed.
    pub const FIELDS: [&'static str; 2] = ["value_split", "warps"];
}

impl fmt::Display for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Scan { chunk, value_split, warps, stages } = self;
        write!(f, "chunk={chunk},value_split={value_split},warps={warps},stages={stages}")
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.scan)?;
        if !self.matrix.is_mma() {
            f.write_str(",matrix=wgmma")?;
        }
        if self.segments == 1 { Ok(()) } else { write!(f, ",segments={}", self.segments) }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Schedule::Forward(s) => s.fmt(f),
            Schedule::Backward(s) => {
                let Backward { value_tiles, gradient_warps, recompute, .. } = s;
                let scan = s.scan();
                write!(f, "{scan},value_tiles={value_tiles},gradient_warps={gradient_warps},recompute={recompute}")?;
                if s.gradients.is_mma() { Ok(()) } else { f.write_str(",gradients=wgmma") }
            }
            Schedule::Decode(s) => write!(f, "value_split={},warps={}", s.value_split, s.warps),
        }
    }
}
