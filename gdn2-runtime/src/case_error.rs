//! What may be wrong with a case: its file, or the case beside its rule.

use std::path::PathBuf;

/// What is wrong with a case.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaseError {
    /// The file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The bytes are no safetensors file: truncated, or its header contradicts its contents.
    #[error("not a whole safetensors file: {0}")]
    Format(String),
    /// A tensor that cases do not have.
    #[error("{name}: no case has such a tensor; known are {known} and what metadata `params` and `lets` declare")]
    UnknownTensor {
        /// Its name.
        name: String,
        /// The known names.
        known: String,
    },
    /// A tensor stored in a type it cannot have.
    #[error("{tensor}: stored as {got}, must be {want}")]
    Dtype {
        /// Its name.
        tensor: &'static str,
        /// The type found.
        got: String,
        /// The types allowed.
        want: String,
    },
    /// Metadata that is missing or not understood.
    #[error("metadata `{field}` is {got}, must be {want}")]
    Metadata {
        /// The key.
        field: &'static str,
        /// What was found.
        got: String,
        /// What is understood.
        want: &'static str,
    },
    /// A tensor that a rule names itself: missing, of the wrong shape or type, or unknown to the rule.
    #[error("{tensor}: {problem}")]
    Named {
        /// Its name.
        tensor: String,
        /// What is wrong, and what it must be.
        problem: String,
    },
    /// Metadata with a rule that is none.
    #[error("metadata `rule`: {0}")]
    Rule(String),
    /// A tensor the rule needs and the case lacks.
    #[error("{tensor}: missing, the rule needs it as {shape}")]
    Missing {
        /// Its name.
        tensor: &'static str,
        /// Its shape in letters.
        shape: &'static str,
    },
    /// A tensor that the rule does not have.
    #[error("{tensor}: the rule has no such gate ({reason}); leave it out or use another rule")]
    Extra {
        /// Its name.
        tensor: &'static str,
        /// What the rule says.
        reason: String,
    },
    /// A tensor of the wrong shape.
    #[error("{tensor}: shape {got:?}, must be {letters} = {want:?}")]
    Shape {
        /// Its name.
        tensor: &'static str,
        /// The shape found.
        got: Vec<usize>,
        /// The shape in letters.
        letters: &'static str,
        /// The shape it must have.
        want: Vec<usize>,
    },
    /// Sizes that contradict one another or a limit.
    #[error("{field}: {got}, {limit}")]
    Size {
        /// The size.
        field: &'static str,
        /// Its value.
        got: String,
        /// The limit, and what to do.
        limit: String,
    },
    /// A number that no kernel may be given.
    #[error("{tensor}{index:?} is {got}, must be {want}")]
    Value {
        /// The tensor.
        tensor: &'static str,
        /// Index of the first offender.
        index: Vec<usize>,
        /// The number.
        got: f32,
        /// What it must be.
        want: String,
    },
    /// A number of an expected tensor that nothing can be compared with.
    #[error("{tensor}{index:?} is {got} where it is the reference: it proves nothing; make the file anew")]
    Reference {
        /// The tensor.
        tensor: &'static str,
        /// Index of the first offender.
        index: Vec<usize>,
        /// The number.
        got: f32,
    },
    /// An expected tensor of another shape than the result.
    #[error("{tensor}: the reference has the shape {reference:?}, the call gives {got:?}")]
    ReferenceShape {
        /// The tensor.
        tensor: &'static str,
        /// The shape in the file.
        reference: Vec<usize>,
        /// The shape of the result.
        got: Vec<usize>,
    },
    /// An expected tensor that the pass did not give.
    #[error("{tensor}: the file expects it, and the call gave none")]
    NoResult {
        /// The tensor.
        tensor: &'static str,
    },
    /// Packed offsets that cut the tokens into no sequences.
    #[error("cu_seqlens: {0}")]
    Offsets(String),
    /// A slot table that names no slot, or one slot twice.
    #[error("{table}[{index}] is {got}, {limit}")]
    Slot {
        /// `initial_slots` or `final_slots`.
        table: &'static str,
        /// The sequence.
        index: usize,
        /// The slot.
        got: i32,
        /// What is wrong with it.
        limit: String,
    },
}
