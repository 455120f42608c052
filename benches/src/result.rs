//! What one run of a scenario found.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::proc::Cost;

/// Latencies in microseconds, up to ten minutes, to a tenth of a percent.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are in order")
}

/// Counts a latency.
pub fn count(histogram: &mut Histogram<u64>, nanos: u64) {
    histogram.saturating_record((nanos / 1000).max(1));
}

/// What a server did wrong, and what was said of the first ones.
#[derive(Debug, Default)]
pub struct Violations {
    pub count: u64,
    pub texts: Vec<String>,
}

impl Violations {
    /// More than these are only counted.
    const TEXTS_MAX: usize = 100;

    pub fn add(&mut self, text: impl FnOnce() -> String) {
        self.count += 1;
        if self.texts.len() < Violations::TEXTS_MAX {
            self.texts.push(text());
        }
    }

    pub fn extend(&mut self, other: Violations) {
        self.count += other.count;
        self.texts.extend(other.texts);
        self.texts.truncate(Violations::TEXTS_MAX);
    }
}

/// One run against one server.
#[derive(Debug)]
pub struct Run {
    pub server: String,
    /// The scenario with what was varied.
    pub scenario: String,
    /// What is counted: appends, deliveries, creates, bytes.
    pub unit: &'static str,
    pub operations: u64,
    /// Answered after the measured time; their latency and their CPU count, the rate is without them.
    pub late: u64,
    pub duration: Duration,
    /// In microseconds.
    pub latency: Histogram<u64>,
    /// Other latencies in microseconds, by name.
    pub further: Vec<(&'static str, Histogram<u64>)>,
    /// Answers that were refusals, and connections that broke off.
    pub errors: u64,
    /// What was lost, doubled, changed, out of order or never sent.
    pub violations: Violations,
    /// The server's process; `None` if it is not of this machine.
    pub cost: Option<Cost>,
    /// CPU of the load generator itself, in microseconds.
    pub own_cpu_us: u64,
    /// Further figures, by name.
    pub extra: Vec<(&'static str, f64)>,
}

impl Run {
    pub fn per_second(&self) -> f64 {
        self.operations as f64 / self.duration.as_secs_f64().max(1e-9)
    }

    /// The server's CPU microseconds per operation.
    pub fn cpu_per_operation(&self) -> Option<f64> {
        let operations = self.operations + self.late;
        let cost = self.cost.filter(|_| operations > 0)?;
        Some(cost.cpu_us as f64 / operations as f64)
    }

    /// Bytes that the server handed to the disk per operation.
    pub fn written_per_operation(&self) -> Option<f64> {
        let operations = self.operations + self.late;
        let cost = self.cost.filter(|_| operations > 0)?;
        Some(cost.written_bytes as f64 / operations as f64)
    }

    /// Whether every answer was as it should be.
    pub fn is_right(&self) -> bool {
        self.errors == 0 && self.violations.count == 0
    }

    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1000.0
    }
}

/// CPU time of this process, in microseconds.
pub fn own_cpu_us() -> u64 {
    // SAFETY: an all-zero structure is a valid value of this plain type.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a structure of the right type.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    let micros = |t: libc::timeval| t.tv_sec as u64 * 1_000_000 + t.tv_usec as u64;
    micros(usage.ru_utime) + micros(usage.ru_stime)
}
