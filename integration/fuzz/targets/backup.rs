//! libFuzzer's way to `backup`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::backup(data));
