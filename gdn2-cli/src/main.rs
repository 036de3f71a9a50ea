//! The `gdn2` command.
fn main() {}
