//! The rule language of the gdn2 kernel compiler: text or tokens to a checked [`Rule`], and what a rule means in float64.

pub mod bars;
mod canonical;
mod check;
mod check_formulas;
mod diagnostics;
mod draw;
pub mod formula;
mod inputs;
mod kernel_text;
pub mod layer;
mod lex;
pub mod limits;
mod mistake;
mod parse;
pub mod prologue;
mod recurrence;
pub mod reference;
mod rule;
pub mod simulate;
mod source;
mod spec;
mod suggest;
mod tokens;

pub use canonical::{Combination, RuleError, granularity_combinations};
pub use diagnostics::{Diagnostics, LARGEST_SOURCE, parse_file};
pub use draw::{Draw, Regime};
pub use inputs::{Dims, Gradients, InputError, Inputs, OutputGradients, Outputs, Sequence};
pub use kernel_text::KernelText;
pub use mistake::{ByteSpan, Mistake, SourceSpan, Suggestion};
pub use prologue::Prologue;
pub use recurrence::{TensorSpec, TokenCost};
pub use rule::{Bound, Dtype, Gate, Grain, Rule, StateLayout, Write};
pub use source::{InSource, Named, SourceError, rules_in_source};
pub use tokens::{SpannedError, parse_rule_body};
