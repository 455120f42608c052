//! libFuzzer's way to `raft`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::raft(data));
