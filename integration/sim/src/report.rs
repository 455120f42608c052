//! What a run tells: its trace, its findings, and which paths it came through.

use std::fmt::Write;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::coverage::Coverage;
use crate::plan::Plan;

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

/// Words of a finding that tell of what kind it is.
const KIND_WORDS: usize = 10;

/// Of what kind a finding is: its first plain words, and the files it names, without numbers, names and all that is in brackets.
pub fn kind_of(finding: &str) -> String {
    let mut depth = 0usize;
    let mut kind: Vec<String> = Vec::new();
    for word in finding.split_whitespace() {
        let opened = word.matches(['(', '[', '{']).count();
        let closed = word.matches([')', ']', '}']).count();
        let is_inside = depth > 0 || opened > 0;
        depth = (depth + opened).saturating_sub(closed);
        let word = word.trim_end_matches([':', ',', ';']);
        let (file, _) = word.split_once(".rs").unwrap_or((word, ""));
        let is_plain = word.bytes().all(|b| b.is_ascii_lowercase());
        if !is_inside && (is_plain || file != word) {
            kind.push(file.to_owned());
        }
    }
    kind.truncate(KIND_WORDS);
    kind.join(" ")
}

/// What replays a plan, with a deliberate bug unless its name is empty.
pub fn command(plan: &Plan, mutation: &str) -> String {
    let mut command = format!("cargo sim --seed {}", plan.seed);
    let changes = plan.changes();
    if !changes.is_empty() {
        command += &format!(" --set {changes}");
    }
    if !mutation.is_empty() {
        command += &format!(" --mutation {mutation}");
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_of_one_kind_whatever_they_name() {
        let of_two = [
            [
                "group 1 has no leader 8 s after the end of faults: [\"node 1: term 3\"]",
                "group 0 has no leader 30 s after the end of faults: []",
            ],
            [
                "panic: panicked at src/group/stream/bytes.rs:93:9: assertion failed: a <= b",
                "panic: panicked at src/group/stream/bytes.rs:120:5: assertion failed: a <= b",
            ],
            [
                "Read(0) of k1-2 of group 1 is refused for 16 s after faults have ended, by node 2 with None",
                "Append of k2-0 of group 3 is refused for 17 s after faults have ended, by node 1 with None",
            ],
        ];
        let kinds = of_two.map(|two| two.map(kind_of));
        for [one, other] in &kinds {
            assert_eq!(one, other);
        }
        assert_eq!(kinds[0][0], "group has no leader s after the end of faults");
        assert_ne!(kinds[0][0], kinds[1][0]);
        assert_ne!(
            kind_of("panic: panicked at src/a.rs:9: no"),
            kind_of("panic: panicked at src/b.rs:9: no")
        );
    }
}
