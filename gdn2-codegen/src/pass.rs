//! The passes of a rule.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Which computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pass {
    /// Chunked forward.
    Forward,
    /// Chunked forward that also writes what backward wants kept.
    ForwardForBackward,
    /// Chunked backward.
    Backward,
    /// One token, or a short run of tokens, per sequence.
    Decode,
}

impl Pass {
    /// Every pass.
    pub const ALL: [Pass; 4] = [Pass::Forward, Pass::ForwardForBackward, Pass::Backward, Pass::Decode];

    /// Its name on the command line and in files.
    pub const fn name(self) -> &'static str {
        match self {
            Pass::Forward => "forward",
            Pass::ForwardForBackward => "forward-for-backward",
            Pass::Backward => "backward",
            Pass::Decode => "decode",
        }
    }
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
