//! Appends: S streams over C connections, as fast as answers come (closed loop) or at a fixed rate whatever the
//! answers do (open loop, latency counted from the moment that a request was due).

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::verify::{Written, verify};
use super::{Errors, Homes, LoadError, Meter, Site, create_streams};
use crate::engine::{Driver, Engine, Next};
use crate::record::{Mark, nanos_since, put};
use crate::reply::Reply;
use crate::result::{Run, count, histogram};
use crate::target::content_type;

/// What is appended, and how.
#[derive(Debug, Clone)]
pub struct Appends {
    pub streams: usize,
    pub connections: usize,
    pub bytes: usize,
    pub is_json: bool,
    pub with_producers: bool,
    /// Appends per second over all connections; `None`: closed loop.
    pub rate: Option<f64>,
    pub duration: Duration,
    /// Not measured, at the start.
    pub warmup: Duration,
    /// Nothing is read back at the end.
    pub is_unread: bool,
}

struct Writer {
    streams: Vec<usize>,
    at: usize,
    in_flight: Option<(usize, u64, Instant)>,
    due: Instant,
}

/// The driver; also a part of the mixed scenario.
pub struct AppendDriver<'a> {
    site: &'a Site<'a>,
    appends: Appends,
    heads: Vec<String>,
    writers: Vec<Writer>,
    /// By stream: what each of its writers was told.
    pub written: Vec<Written>,
    began: Instant,
    ends: Instant,
    pub latency: Histogram<u64>,
    pub done: u64,
    pub errors: Errors,
    body: Vec<u8>,
    in_flight: usize,
}

impl<'a> AppendDriver<'a> {
    pub fn new(
        site: &'a Site<'a>,
        appends: &Appends,
        homes: &Homes,
        began: Instant,
    ) -> AppendDriver<'a> {
        let interval = appends
            .rate
            .map_or(Duration::ZERO, |rate| Duration::from_secs_f64(1.0 / rate));
        let nodes = site.target.addresses.len();
        let plan = homes.plan(nodes, appends.streams, appends.connections);
        let writers = plan
            .into_iter()
            .enumerate()
            .map(|(number, (_, streams))| Writer {
                streams,
                at: 0,
                in_flight: None,
                due: began + interval * number as u32,
            });
        let kind = content_type(appends.is_json);
        let heads = (0..appends.streams).map(|number| {
            format!(
                "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n",
                site.stream(number),
                site.target.host,
                appends.bytes
            )
        });
        AppendDriver {
            site,
            heads: heads.collect(),
            writers: writers.collect(),
            written: vec![Written::default(); appends.streams],
            began: began + appends.warmup,
            ends: began + appends.warmup + appends.duration,
            latency: histogram(),
            done: 0,
            errors: Errors::default(),
            body: Vec::new(),
            in_flight: 0,
            appends: appends.clone(),
        }
    }

    /// The stream whose append is on its way.
    pub fn stream_of(&self, connection: usize) -> Option<usize> {
        let (stream, ..) = self.writers[connection].in_flight.as_ref()?;
        Some(*stream)
    }

    fn settle(&mut self, connection: usize, now: Instant, is_done: bool) {
        let Some((stream, number, since)) = self.writers[connection].in_flight.take() else {
            return;
        };
        self.in_flight -= 1;
        self.written[stream].told(connection as u32, number, is_done);
        if is_done && since >= self.began && now <= self.ends {
            self.done += 1;
            count(&mut self.latency, nanos_since(since, now));
        }
    }
}

impl Driver for AppendDriver<'_> {
    fn next(&mut self, connection: usize, now: Instant, request: &mut Vec<u8>) -> Next {
        if now >= self.ends {
            return Next::Idle;
        }
        let writer = &mut self.writers[connection];
        let since = match self.appends.rate {
            None => now,
            Some(_) if writer.due > now => return Next::At(writer.due),
            Some(rate) => {
                let due = writer.due;
                writer.due += Duration::from_secs_f64(self.appends.connections as f64 / rate);
                due
            }
        };
        let stream = writer.streams[writer.at];
        writer.at = (writer.at + 1) % writer.streams.len();
        let number = self.written[stream].next_of(connection as u32);
        writer.in_flight = Some((stream, number, since));
        self.in_flight += 1;
        request.extend_from_slice(self.heads[stream].as_bytes());
        if self.appends.with_producers {
            let headers = format!(
                "producer-id: w{connection}\r\nproducer-epoch: 0\r\nproducer-seq: {number}\r\n"
            );
            request.extend_from_slice(headers.as_bytes());
        }
        request.extend_from_slice(b"\r\n");
        let mark = Mark {
            writer: connection as u32,
            number,
            sent_ns: nanos_since(self.site.epoch, since),
        };
        self.body.clear();
        put(
            &mut self.body,
            mark,
            self.appends.bytes,
            self.appends.is_json,
        );
        request.extend_from_slice(&self.body);
        Next::Send
    }

    fn reply(&mut self, connection: usize, reply: Reply<'_>, now: Instant) {
        let is_done = matches!(reply.status, 200 | 204);
        if !is_done {
            self.errors.add(|| {
                let text = String::from_utf8_lossy(reply.body).into_owned();
                format!("append: status {}: {text}", reply.status)
            });
        }
        self.settle(connection, now, is_done);
    }

    fn lost(&mut self, connection: usize, reason: &str) {
        self.errors.add(|| format!("append: {reason}"));
        self.settle(connection, Instant::now(), false);
    }

    fn is_done(&self, now: Instant) -> bool {
        now >= self.ends && (self.in_flight == 0 || now > self.ends + Duration::from_secs(10))
    }
}

/// Runs the scenario, then reads everything back.
///
/// # Errors
/// The system's, or the server's refusal of a stream.
pub fn run(site: &Site<'_>, appends: &Appends) -> Result<Run, LoadError> {
    let nodes = &site.target.addresses;
    let mut creators = Engine::connect(nodes, appends.connections.max(nodes.len()))?;
    let homes = create_streams(site, &mut creators, appends.streams, appends.is_json)?;
    drop(creators);
    let plan = homes.plan(nodes.len(), appends.streams, appends.connections);
    let dialed: Vec<_> = plan.iter().map(|(node, _)| nodes[*node]).collect();
    let mut engine = Engine::connect(&dialed, appends.connections)?;
    let mut warmup = appends.clone();
    warmup.duration = appends.warmup;
    warmup.warmup = Duration::ZERO;
    let mut driver = AppendDriver::new(site, &warmup, &homes, Instant::now());
    engine.run(&mut driver)?;
    let written = driver.written;

    let mut measured = appends.clone();
    measured.warmup = Duration::ZERO;
    let mut driver = AppendDriver::new(site, &measured, &homes, Instant::now());
    driver.written = written;
    let meter = Meter::start(site);
    engine.run(&mut driver)?;
    let (_, cost, own_cpu_us) = meter.stop(site);
    let AppendDriver {
        latency,
        done,
        errors,
        written,
        ..
    } = driver;
    let violations = match appends.is_unread {
        true => Vec::new(),
        false => verify(site, &homes, &written)?,
    };
    let kept: u64 = written.iter().map(Written::confirmed).sum();
    let growth = cost.map_or(0.0, |c| c.resident_growth as f64 / done.max(1) as f64);
    let switches = cost.map_or(0.0, |c| c.context_switches as f64 / done.max(1) as f64);
    Ok(Run {
        server: site.target.name.clone(),
        scenario: name(appends),
        unit: "appends",
        operations: done,
        duration: appends.duration,
        latency,
        errors: errors.count,
        violations,
        cost,
        own_cpu_us,
        extra: vec![
            ("resident growth B/op", growth),
            ("switches/op", switches),
            ("client us/op", own_cpu_us as f64 / done.max(1) as f64),
            // With those of the warm-up.
            ("MB in all", (kept * appends.bytes as u64) as f64 / 1e6),
        ],
    })
}

fn name(appends: &Appends) -> String {
    let kind = if appends.is_json { " json" } else { "" };
    let producers = if appends.with_producers {
        " producers"
    } else {
        ""
    };
    let rate = appends
        .rate
        .map_or_else(String::new, |r| format!(" {r:.0}/s"));
    format!(
        "append {}Bx{}s {}c{kind}{producers}{rate}",
        appends.bytes, appends.streams, appends.connections
    )
}
