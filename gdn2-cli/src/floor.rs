//! The least that a call must move: each input read once and each output written once.

use gdn2_codegen::kernel::Pass;
use gdn2_dsl::Rule;

/// Bytes of a call over so many pairs of a token and a value head that reads or writes so many states; in backward inputs and
/// the gradient of o come in, and their gradients go out.
pub fn bytes(rule: &Rule, pass: Pass, pairs: u64, states: u64) -> u64 {
    let cost = rule.token_cost();
    let times = if pass == Pass::Backward { 2 } else { 1 };
    times * cost.bytes * pairs + states * cost.state_bytes
}
