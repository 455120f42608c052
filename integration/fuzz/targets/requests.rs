//! libFuzzer's way into the parsers of requests.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::requests(data));
