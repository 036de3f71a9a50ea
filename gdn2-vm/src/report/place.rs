//! Where in a kernel something happened.

use crate::ptx::calls::Loc;
use serde::Serialize;
use std::fmt;

/// Where in the kernel something happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Kernel entry.
    pub entry: String,
    /// Line of the PTX text, from 1.
    pub ptx_line: u32,
    /// The instruction as written.
    pub instruction: String,
    /// CUDA source line, where the PTX has `.loc` lines.
    pub source: Option<SourceLine>,
    /// Of a function that the compiler wrote out in its caller: the line of the call.
    pub called_from: Option<SourceLine>,
    /// Block index.
    pub block: [u32; 3],
    /// Warp of the block.
    pub warp: u32,
    /// Lane of the warp, where one lane is to blame.
    pub lane: Option<u32>,
}

/// A line of the CUDA source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct SourceLine {
    /// File name as given to the compiler.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
}

/// Calls in one another that are followed: deeper ones are a text's that no compiler wrote.
const DEEPEST: usize = 64;

/// A module's source files, by `.file` number, and the calls that were written out in it.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    pub(crate) files: Vec<String>,
    pub(crate) calls: Vec<Loc>,
}

impl Sources {
    pub(crate) fn line(&self, loc: Loc) -> SourceLine {
        SourceLine { file: self.files.get(loc.file as usize).cloned().unwrap_or_default(), line: loc.line }
    }

    /// Where the function of a line was called from, then its caller, and so on.
    pub(crate) fn calls(&self, loc: Loc) -> impl Iterator<Item = SourceLine> {
        let of = |loc: Loc| loc.call.and_then(|call| self.calls.get(call as usize)).copied();
        std::iter::successors(of(loc), move |loc| of(*loc)).take(DEEPEST).map(|loc| self.line(loc))
    }
}

impl Place {
    /// The line of the source, or of the PTX text where it has no lines of the source.
    pub(crate) fn line(&self) -> String {
        match &self.source {
            Some(source) => format!("{}:{}", source.file, source.line),
            None => format!("PTX line {} `{}`", self.ptx_line, self.instruction),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.entry)?;
        if let Some(s) = &self.source {
            write!(f, ", {}:{}", s.file, s.line)?;
        }
        if let Some(call) = &self.called_from {
            write!(f, ", called from {}:{}", call.file, call.line)?;
        }
        let [x, y, z] = self.block;
        write!(f, ", PTX line {} `{}`, block ({x},{y},{z}), warp {}", self.ptx_line, self.instruction, self.warp)?;
        if let Some(lane) = self.lane {
            write!(f, ", lane {lane}")?;
        }
        Ok(())
    }
}
