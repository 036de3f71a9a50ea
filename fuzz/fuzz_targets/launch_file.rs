//! Any bytes through `gdn2_tests::fuzz::launch_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gdn2_tests::fuzz::launch_file(bytes));
