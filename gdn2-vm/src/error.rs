//! Why a PTX text is refused.

/// Why a PTX text cannot be run: it is malformed, or uses what the machine does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// Not PTX.
    #[error("PTX line {line}: {message}")]
    Malformed {
        /// Line of the PTX text, from 1.
        line: u32,
        /// What was expected.
        message: String,
    },
    /// PTX the machine does not model.
    #[error("PTX line {line}: the virtual machine does not know `{instruction}`")]
    Unknown {
        /// Line of the PTX text, from 1.
        line: u32,
        /// The instruction as written.
        instruction: String,
    },
    /// A function that calls itself: calls are written out, one copy of the function for each.
    #[error("PTX line {line}: `{function}` calls itself, and the virtual machine writes calls out: make it a loop")]
    Recursive {
        /// Line of the PTX text, from 1.
        line: u32,
        /// The function.
        function: String,
    },
}
