//! Durations in buckets.

use std::fmt::Write;

/// Upper bounds of the latency buckets in microseconds.
const BUCKETS_US: [u64; 16] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 10_000_000,
];

/// A histogram of durations.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    buckets: [u64; BUCKETS_US.len()],
    count: u64,
    sum_us: u64,
}

impl Histogram {
    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Counts a duration in microseconds.
    pub fn record(&mut self, micros: u64) {
        if let Some(index) = BUCKETS_US.iter().position(|bound| micros <= *bound) {
            self.buckets[index] += 1;
        }
        self.count += 1;
        self.sum_us += micros;
    }

    pub(super) fn render(&self, out: &mut String, name: &str, labels: &str) {
        let mut cumulated = 0;
        for (bound, count) in BUCKETS_US.iter().zip(&self.buckets) {
            cumulated += count;
            let le = *bound as f64 / 1e6;
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{le}\"}} {cumulated}");
        }
        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", self.count);
        let _ = writeln!(out, "{name}_sum{{{labels}}} {}", self.sum_us as f64 / 1e6);
        let _ = writeln!(out, "{name}_count{{{labels}}} {}", self.count);
    }
}
