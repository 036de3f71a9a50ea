//! Any bytes through `gdn2_tests::fuzz::rule_text`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gdn2_tests::fuzz::rule_text(bytes));
