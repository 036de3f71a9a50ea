//! Where in a kernel something happened.

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

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.entry)?;
        if let Some(s) = &self.source {
            write!(f, ", {}:{}", s.file, s.line)?;
        }
        let [x, y, z] = self.block;
        write!(f, ", PTX line {} `{}`, block ({x},{y},{z}), warp {}", self.ptx_line, self.instruction, self.warp)?;
        if let Some(lane) = self.lane {
            write!(f, ", lane {lane}")?;
        }
        Ok(())
    }
}
