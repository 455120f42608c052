//! libFuzzer's way into the readers of what other nodes send, of checkpoints and of the configuration.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::messages(data));
