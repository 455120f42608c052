//! libFuzzer's way to `wire`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::wire(data));
