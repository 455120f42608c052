//! Replays of what an earlier run wrote, whose name was given: N readers take streams at random and read each to its end.
//! Whatever is read is checked: each writer's records come in order, without a gap.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::catchup::{Catchup, fill};
use super::{Errors, LoadError, Meter, Site, create_streams};
use crate::engine::{Driver, Engine, Next};
use crate::record::{Content, nanos_since, scan_marks};
use crate::reply::Reply;
use crate::result::{Run, Violations, count, histogram};

/// Who reads what.
#[derive(Debug, Clone)]
pub struct Replays {
    pub streams: usize,
    pub readers: usize,
    pub duration: Duration,
}

struct Reader {
    chance: u64,
    stream: usize,
    offset: String,
    kept: Vec<u8>,
    /// By writer: the number that must come next.
    next: BTreeMap<u32, u64>,
    sent: Instant,
}

struct ReplayDriver<'a> {
    site: &'a Site<'a>,
    replays: &'a Replays,
    readers: Vec<Reader>,
    /// From the request to the first byte of the body, of each stream's first request.
    first: Histogram<u64>,
    /// The same of those that read on.
    later: Histogram<u64>,
    bytes: u64,
    whole: u64,
    errors: Errors,
    violations: Violations,
    ends: Instant,
}

impl Reader {
    fn take_another(&mut self, streams: usize) {
        // Xorshift.
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.stream = (self.chance % streams as u64) as usize;
        self.offset.replace_range(.., "-1");
        self.kept.clear();
        self.next.clear();
    }
}

impl Driver for ReplayDriver<'_> {
    fn next(&mut self, connection: usize, now: Instant, request: &mut Vec<u8>) -> Next {
        if now >= self.ends {
            return Next::Idle;
        }
        let reader = &mut self.readers[connection];
        let target = format!(
            "{}?offset={}",
            self.site.stream(reader.stream),
            reader.offset
        );
        self.site.target.put(request, "GET", &target, "");
        reader.sent = now;
        Next::Send
    }

    fn begun(&mut self, connection: usize, now: Instant) {
        let reader = &self.readers[connection];
        let nanos = nanos_since(reader.sent, now);
        match reader.offset.as_str() {
            "-1" => count(&mut self.first, nanos),
            _ => count(&mut self.later, nanos),
        }
    }

    fn reply(&mut self, connection: usize, reply: Reply<'_>, _: Instant) {
        let reader = &mut self.readers[connection];
        let stream = reader.stream;
        if reply.status != 200 {
            let text = String::from_utf8_lossy(reply.body).into_owned();
            self.errors
                .add(|| format!("stream {stream}: status {}: {text}", reply.status));
            reader.take_another(self.replays.streams);
            return;
        }
        self.bytes += reply.body.len() as u64;
        reader.kept.extend_from_slice(reply.body);
        let (next, violations) = (&mut reader.next, &mut self.violations);
        let used = scan_marks(&reader.kept, &mut |mark| {
            let next = next.entry(mark.writer).or_default();
            if mark.number != *next {
                violations.add(|| format!("stream {stream}: {mark:?} came, {next} was next"));
            }
            *next = mark.number + 1;
        });
        reader.kept.drain(..used);
        let next = reply.header("stream-next-offset").unwrap_or_default();
        let is_last = reply
            .header("stream-up-to-date")
            .is_some_and(|v| v == "true");
        if is_last || next == reader.offset {
            if reader.next.is_empty() {
                self.violations
                    .add(|| format!("stream {stream}: nothing is in it"));
            }
            self.whole += 1;
            reader.take_another(self.replays.streams);
        } else {
            reader.offset.replace_range(.., next);
        }
    }

    fn lost(&mut self, connection: usize, reason: &str) {
        self.errors.add(|| format!("read: {reason}"));
        self.readers[connection].take_another(self.replays.streams);
    }

    fn is_done(&self, now: Instant) -> bool {
        now >= self.ends
    }

    fn progress(&self) -> Option<String> {
        let megabytes = self.bytes as f64 / 1e6;
        Some(format!("{megabytes:.0} MB of {} whole streams", self.whole))
    }
}

/// Runs the scenario. Operations are megabytes; the latency is that of first bytes.
///
/// # Errors
/// The system's.
pub fn run(site: &Site<'_>, replays: &Replays) -> Result<Run, LoadError> {
    let mut engine = Engine::connect(&site.target.addresses, replays.readers)?;
    let now = Instant::now();
    // Other streams in each run.
    let seed = u64::from(std::process::id()) << 32;
    let readers = (0..replays.readers).map(|number| {
        let mut reader = Reader {
            chance: (seed | (number as u64 + 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            stream: 0,
            offset: String::new(),
            kept: Vec::new(),
            next: BTreeMap::new(),
            sent: now,
        };
        reader.take_another(replays.streams);
        reader
    });
    let mut driver = ReplayDriver {
        site,
        replays,
        readers: readers.collect(),
        first: histogram(),
        later: histogram(),
        bytes: 0,
        whole: 0,
        errors: Errors::default(),
        violations: Violations::default(),
        ends: now + replays.duration,
    };
    let meter = Meter::start(site);
    engine.run(&mut driver)?;
    let (duration, cost, own_cpu_us) = meter.stop(site);
    let megabytes = driver.bytes as f64 / 1e6;
    let per_second = megabytes / duration.as_secs_f64();
    let mut extra = vec![
        ("MB/s per connection", per_second / replays.readers as f64),
        ("streams", driver.whole as f64),
    ];
    if !driver.later.is_empty() {
        let ms = |q| driver.later.value_at_quantile(q) as f64 / 1000.0;
        extra.extend([("later p50 ms", ms(0.5)), ("later p99 ms", ms(0.99))]);
    }
    if let Some(cost) = cost {
        let seconds = cost.cpu_us as f64 / 1e6;
        extra.push(("MB per CPU second", megabytes / seconds.max(1e-6)));
    }
    Ok(Run {
        server: site.target.name.clone(),
        scenario: format!("replay {}x {}s", replays.readers, replays.streams),
        unit: "megabytes",
        operations: megabytes as u64,
        late: 0,
        duration,
        latency: driver.first,
        further: vec![("later", driver.later)],
        errors: driver.errors.count,
        violations: driver.violations,
        cost,
        own_cpu_us,
        extra,
    })
}

/// Makes what is replayed later: some streams of a size. Operations are megabytes.
///
/// # Errors
/// The system's, or the server's refusal of a stream or an append.
pub fn prepare(site: &Site<'_>, streams: usize, bytes: u64) -> Result<Run, LoadError> {
    let mut engine = Engine::connect(&site.target.addresses, 1)?;
    let meter = Meter::start(site);
    create_streams(site, &mut engine, streams, Content::Text)?;
    let all: Vec<usize> = (0..streams).collect();
    fill(site, &mut engine, &all, bytes, Content::Text)?;
    let (duration, cost, own_cpu_us) = meter.stop(site);
    let whole = Catchup::whole(bytes);
    Ok(Run {
        server: site.target.name.clone(),
        scenario: format!("fill {streams}x{:.0}MB", bytes as f64 / 1e6),
        unit: "megabytes",
        operations: whole * streams as u64 / 1_000_000,
        late: 0,
        duration,
        latency: histogram(),
        further: Vec::new(),
        errors: 0,
        violations: Violations::default(),
        cost,
        own_cpu_us,
        extra: vec![("bytes", (whole * streams as u64) as f64)],
    })
}
