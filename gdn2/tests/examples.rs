//! The examples run to their end on the CPU; each fails by itself where its claim does not hold.
#![allow(clippy::unwrap_used)]

#[path = "../examples/associative_recall/main.rs"]
mod associative_recall;
#[path = "../examples/five_lines.rs"]
mod five_lines;
#[path = "../examples/streaming_decode.rs"]
mod streaming_decode;

use gdn2::Device;

#[test]
fn the_loss_of_the_training_example_falls_to_its_goal() {
    associative_recall::train(&Device::cpu()).unwrap();
}

#[test]
fn decoding_a_token_at_a_time_equals_the_chunked_pass() {
    streaming_decode::stream(&Device::cpu()).unwrap();
    streaming_decode::stream(&Device::vm()).unwrap();
}

#[test]
fn a_new_rule_does_what_it_says() {
    five_lines::ask(&Device::cpu()).unwrap();
    five_lines::ask(&Device::vm()).unwrap();
}
