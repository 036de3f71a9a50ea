//! The rule language of the gdn2 kernel compiler: text or tokens to a checked [`Rule`], and what a rule means in float64.

mod rule;

pub use rule::{Bound, Dtype, Gate, Grain, Rule, StateLayout, Write};
