//! Density: many streams, what each costs to make and to keep, and how long a server takes to come back with them.

use std::process::Command;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::{Errors, LoadError, Meter, Site};
use crate::engine::{Driver, Engine, Next};
use crate::proc;
use crate::reply::Reply;
use crate::result::{Run, Violations, count, histogram};

/// How many streams.
#[derive(Debug, Clone)]
pub struct Density {
    pub streams: usize,
    pub connections: usize,
    /// A command that ends the server and starts it again.
    pub restart: Option<String>,
}

struct Creates<'a> {
    site: &'a Site<'a>,
    count: usize,
    next: usize,
    done: usize,
    sent: Vec<Instant>,
    /// By stream.
    is_there: Vec<bool>,
    in_flight: Vec<usize>,
    latency: Histogram<u64>,
    errors: Errors,
}

impl Driver for Creates<'_> {
    fn next(&mut self, connection: usize, now: Instant, request: &mut Vec<u8>) -> Next {
        if self.next == self.count {
            return Next::Idle;
        }
        let headers = "content-type: text/plain\r\ncontent-length: 0\r\n";
        let path = self.site.stream(self.next);
        self.site.target.put(request, "PUT", &path, headers);
        self.in_flight[connection] = self.next;
        self.next += 1;
        self.sent[connection] = now;
        Next::Send
    }

    fn reply(&mut self, connection: usize, reply: Reply<'_>, now: Instant) {
        self.done += 1;
        if reply.status == 201 {
            let since = self.sent[connection];
            let nanos = now.saturating_duration_since(since).as_nanos();
            count(&mut self.latency, nanos as u64);
            self.is_there[self.in_flight[connection]] = true;
        } else {
            self.errors
                .add(|| format!("create: status {}", reply.status));
        }
    }

    fn lost(&mut self, _: usize, reason: &str) {
        self.done += 1;
        self.errors.add(|| format!("create: {reason}"));
    }

    fn is_done(&self, _: Instant) -> bool {
        self.done >= self.count
    }

    fn progress(&self) -> Option<String> {
        Some(format!("{} of {} streams created", self.done, self.count))
    }
}

/// Asks for each stream that was created whether it is there.
struct Heads<'a> {
    site: &'a Site<'a>,
    is_there: &'a [bool],
    next: usize,
    done: usize,
    in_flight: Vec<usize>,
    violations: Violations,
}

impl Driver for Heads<'_> {
    fn next(&mut self, connection: usize, _: Instant, request: &mut Vec<u8>) -> Next {
        while self.next < self.is_there.len() && !self.is_there[self.next] {
            self.next += 1;
            self.done += 1;
        }
        if self.next == self.is_there.len() {
            return Next::Idle;
        }
        let path = self.site.stream(self.next);
        self.site.target.put(request, "HEAD", &path, "");
        self.in_flight[connection] = self.next;
        self.next += 1;
        Next::SendHead
    }

    fn reply(&mut self, connection: usize, reply: Reply<'_>, _: Instant) {
        self.done += 1;
        let (stream, status) = (self.in_flight[connection], reply.status);
        if status != 200 {
            self.violations
                .add(|| format!("stream {stream} was created, HEAD: status {status}"));
        }
    }

    fn lost(&mut self, connection: usize, reason: &str) {
        self.done += 1;
        let stream = self.in_flight[connection];
        self.violations
            .add(|| format!("stream {stream}: HEAD: {reason}"));
    }

    fn is_done(&self, _: Instant) -> bool {
        self.done >= self.is_there.len()
    }

    fn progress(&self) -> Option<String> {
        let count = self.is_there.len();
        Some(format!("{} of {count} streams looked for", self.done))
    }
}

fn look_for(
    site: &Site<'_>,
    connections: usize,
    is_there: &[bool],
) -> Result<Violations, LoadError> {
    let mut engine = Engine::connect(&site.target.addresses, connections)?;
    let mut heads = Heads {
        site,
        is_there,
        next: 0,
        done: 0,
        in_flight: vec![0; connections],
        violations: Violations::default(),
    };
    engine.run(&mut heads)?;
    Ok(heads.violations)
}

/// A stream is asked for until the server says that it is there.
struct FirstRead<'a> {
    site: &'a Site<'a>,
    stream: usize,
    is_there: bool,
    gives_up: Instant,
}

/// Between two requests to a server that is not ready yet.
const PAUSE: Duration = Duration::from_millis(2);

/// Longest wait for a server that starts.
const START_MAX: Duration = Duration::from_secs(120);

impl Driver for FirstRead<'_> {
    fn next(&mut self, _: usize, _: Instant, request: &mut Vec<u8>) -> Next {
        let target = format!("{}?offset=-1", self.site.stream(self.stream));
        self.site.target.put(request, "GET", &target, "");
        Next::Send
    }

    fn reply(&mut self, _: usize, reply: Reply<'_>, _: Instant) {
        self.is_there = reply.status == 200;
        if !self.is_there {
            std::thread::sleep(PAUSE);
        }
    }

    fn lost(&mut self, _: usize, _: &str) {}

    fn is_done(&self, now: Instant) -> bool {
        self.is_there || now > self.gives_up
    }
}

/// Restarts the server; seconds until one of the streams can be read.
fn restart(site: &Site<'_>, command: &str, stream: usize) -> Result<f64, LoadError> {
    let began = Instant::now();
    let status = Command::new("sh").args(["-c", command]).status()?;
    if !status.success() {
        let text = format!("the command {command:?} that restarts it ended with {status}");
        return Err(LoadError::Restart(text));
    }
    let gives_up = began + START_MAX;
    let mut first = FirstRead {
        site,
        stream,
        is_there: false,
        gives_up,
    };
    while !first.is_done(Instant::now()) {
        // Refused until it listens.
        match Engine::connect(&site.target.addresses, 1) {
            Ok(mut engine) => engine.run(&mut first)?,
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
    match first.is_there {
        true => Ok(began.elapsed().as_secs_f64()),
        false => Err(LoadError::Restart(format!(
            "no stream could be read {START_MAX:?} after the restart"
        ))),
    }
}

/// Runs the scenario.
///
/// # Errors
/// The system's, and that of a restart.
pub fn run(site: &Site<'_>, density: &Density) -> Result<Run, LoadError> {
    let mut engine = Engine::connect(&site.target.addresses, density.connections)?;
    let now = Instant::now();
    let mut driver = Creates {
        site,
        count: density.streams,
        next: 0,
        done: 0,
        sent: vec![now; density.connections],
        is_there: vec![false; density.streams],
        in_flight: vec![0; density.connections],
        latency: histogram(),
        errors: Errors::default(),
    };
    let meter = Meter::start(site);
    engine.run(&mut driver)?;
    let (duration, cost, own_cpu_us) = meter.stop(site);
    drop(engine);
    let created = driver.latency.len();
    let mut violations = look_for(site, density.connections, &driver.is_there)?;
    let mut extra = Vec::new();
    if let Some(cost) = cost {
        let growth = cost.resident_growth as f64;
        extra.push(("resident B/stream", growth / created.max(1) as f64));
        extra.push(("resident MiB", cost.resident_bytes as f64 / 1_048_576.0));
    }
    let one = driver.is_there.iter().rposition(|is_there| *is_there);
    if let (Some(command), Some(one)) = (&density.restart, one) {
        extra.push(("restart to first read s", restart(site, command, one)?));
        violations.extend(look_for(site, density.connections, &driver.is_there)?);
        let pids = site.target.addresses.iter();
        let samples: Option<Vec<_>> = pids.map(|a| proc::sample(proc::listener(*a)?)).collect();
        let resident: u64 = samples.iter().flatten().map(|s| s.resident_bytes).sum();
        extra.push(("resident MiB after it", resident as f64 / 1_048_576.0));
    }
    Ok(Run {
        server: site.target.name.clone(),
        scenario: format!("density {} {}c", density.streams, density.connections),
        unit: "creates",
        operations: created,
        late: 0,
        duration,
        latency: driver.latency,
        further: Vec::new(),
        errors: driver.errors.count,
        violations,
        cost,
        own_cpu_us,
        extra,
    })
}
