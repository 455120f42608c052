//! What a run tells: its trace, its findings, and which paths it came through.

use std::fmt::Write;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::coverage::Coverage;

/// Where the lines of a trace go.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub enum Lines {
    /// Nobody reads.
    #[default]
    Dropped,
    /// To the standard output.
    Printed,
    /// Into memory.
    Kept(String),
}

/// What happened, in order: always as a hash, and as text where somebody reads.
#[derive(Debug, Default)]
pub struct Trace {
    /// Of all that happened so far.
    pub hash: u64,
    /// As text.
    pub lines: Lines,
}

impl Trace {
    /// Takes an event into the hash.
    pub fn note(&mut self, values: [u64; 8]) {
        let mut bytes = [0; 64];
        for (place, value) in bytes.chunks_exact_mut(8).zip(values) {
            place.copy_from_slice(&value.to_le_bytes());
        }
        self.hash = xxh3_64_with_seed(&bytes, self.hash);
    }

    /// Somebody reads.
    pub fn is_shown(&self) -> bool {
        self.lines != Lines::Dropped
    }

    /// Shows a line, if somebody reads.
    pub fn show(&mut self, now_us: u64, line: impl FnOnce() -> String) {
        let at = now_us as f64 / 1e6;
        match &mut self.lines {
            Lines::Dropped => {}
            Lines::Printed => println!("{at:>12.6} {}", line()),
            Lines::Kept(text) => writeln!(text, "{at:>12.6} {}", line()).unwrap(),
        }
    }
}

/// How a run ended.
#[derive(Debug, Default, Clone)]
pub struct Report {
    /// What is wrong; empty: nothing.
    pub findings: Vec<String>,
    /// Of the trace.
    pub hash: u64,
    /// The trace, if it was to be kept.
    pub lines: Lines,
    /// How long it was.
    pub virtual_us: u64,
    /// Steps of groups.
    pub steps: u64,
    /// Client operations that were answered.
    pub operations: u64,
    /// The paths.
    pub coverage: Coverage,
    /// How near to their bounds figures came, in thousandths.
    pub peaks: [u64; 5],
}
