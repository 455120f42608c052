//! Density: many streams, what each costs to make and to keep, and how long a server takes to come back with them.

use std::time::Instant;

use hdrhistogram::Histogram;

use super::{Errors, LoadError, Meter, Site};
use crate::engine::{Driver, Engine, Next};
use crate::reply::Reply;
use crate::result::{Run, count, histogram};

/// How many streams.
#[derive(Debug, Clone)]
pub struct Density {
    pub streams: usize,
    pub connections: usize,
}

struct Creates<'a> {
    site: &'a Site<'a>,
    count: usize,
    next: usize,
    done: usize,
    sent: Vec<Instant>,
    latency: Histogram<u64>,
    errors: Errors,
    shown: Instant,
}

impl Driver for Creates<'_> {
    fn next(&mut self, connection: usize, now: Instant, request: &mut Vec<u8>) -> Next {
        if self.next == self.count {
            return Next::Idle;
        }
        let headers = "content-type: text/plain\r\ncontent-length: 0\r\n";
        let path = self.site.stream(self.next);
        self.site.target.put(request, "PUT", &path, headers);
        self.next += 1;
        self.sent[connection] = now;
        Next::Send
    }

    fn reply(&mut self, connection: usize, reply: Reply<'_>, now: Instant) {
        self.done += 1;
        if reply.status == 201 {
            let nanos = now
                .saturating_duration_since(self.sent[connection])
                .as_nanos();
            count(&mut self.latency, nanos as u64);
        } else {
            self.errors
                .add(|| format!("create: status {}", reply.status));
        }
        if now.saturating_duration_since(self.shown).as_secs() >= 5 {
            self.shown = now;
            eprintln!("  {} of {} streams", self.done, self.count);
        }
    }

    fn lost(&mut self, _: usize, reason: &str) {
        self.done += 1;
        self.errors.add(|| format!("create: {reason}"));
    }

    fn is_done(&self, _: Instant) -> bool {
        self.done >= self.count
    }
}

/// Runs the scenario.
///
/// # Errors
/// The system's.
pub fn run(site: &Site<'_>, density: &Density) -> Result<Run, LoadError> {
    let mut engine = Engine::connect(&site.target.addresses, density.connections)?;
    let now = Instant::now();
    let mut driver = Creates {
        site,
        count: density.streams,
        next: 0,
        done: 0,
        sent: vec![now; density.connections],
        latency: histogram(),
        errors: Errors::default(),
        shown: now,
    };
    let meter = Meter::start(site);
    engine.run(&mut driver)?;
    let (duration, cost, own_cpu_us) = meter.stop(site);
    let created = driver.latency.len();
    let per_stream = cost.map_or(0.0, |c| c.resident_growth as f64 / created.max(1) as f64);
    Ok(Run {
        server: site.target.name.clone(),
        scenario: format!("density {} {}c", density.streams, density.connections),
        unit: "creates",
        operations: created,
        duration,
        latency: driver.latency,
        errors: driver.errors.count,
        violations: Vec::new(),
        cost,
        own_cpu_us,
        extra: vec![("resident B/stream", per_stream)],
    })
}
