//! What a run tells: its trace, its findings, and which paths it came through.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// How often each rare path was hit.
#[derive(Debug, Default, Clone)]
pub struct Coverage(pub BTreeMap<&'static str, u64>);

impl Coverage {
    /// One more.
    pub fn hit(&mut self, path: &'static str) {
        *self.0.entry(path).or_default() += 1;
    }

    /// All that another run hit.
    pub fn add(&mut self, other: &Coverage) {
        for (path, count) in &other.0 {
            *self.0.entry(path).or_default() += count;
        }
    }
}

/// What happened, in order: always as a hash, and as text where somebody reads.
#[derive(Debug, Default)]
pub struct Trace {
    /// Of all that happened so far.
    pub hash: u64,
    /// Somebody reads.
    pub is_shown: bool,
}

impl Trace {
    /// Takes an event into the hash.
    pub fn note(&mut self, values: &[u64]) {
        for value in values {
            self.hash = xxh3_64_with_seed(&value.to_le_bytes(), self.hash);
        }
    }

    /// Shows a line, if somebody reads.
    pub fn show(&self, now_us: u64, line: impl FnOnce() -> String) {
        if self.is_shown {
            println!("{:>12.6} {}", now_us as f64 / 1e6, line());
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
    /// How long it was.
    pub virtual_us: u64,
    /// Steps of groups.
    pub steps: u64,
    /// Client operations that were answered.
    pub operations: u64,
    /// The paths.
    pub coverage: Coverage,
}
