//! libFuzzer's way into the readers of files.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::files(data));
