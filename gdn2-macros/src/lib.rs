//! The delta_rule! macro: a rule in Rust source becomes typed functions with the kernels embedded.
