//! Appends: S streams over C connections, as fast as answers come (closed loop) or at a fixed rate whatever the
//! answers do (open loop, latency counted from the moment that a request was due).

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::verify::{Written, verify};
use super::{Errors, Homes, LoadError, Meter, Site, create_streams};
use crate::engine::{Driver, Engine, Next};
use crate::record::{Content, Mark, nanos_since, put};
use crate::reply::Reply;
use crate::result::{Run, Violations, count, histogram};

/// What is appended, and how.
#[derive(Debug, Clone)]
pub struct Appends {
    pub streams: usize,
    pub connections: usize,
    pub bytes: usize,
    pub content: Content,
    pub with_producers: bool,
    /// Appends per second over all connections; `None`: closed loop.
    pub rate: Option<f64>,
    pub duration: Duration,
    /// Not measured, at the start.
    pub warmup: Duration,
    /// Nothing is read back at the end.
    pub is_unread: bool,
}

/// One append: to which stream, its number there, and the moment that its latency counts from.
#[derive(Debug, Clone, Copy)]
struct Sent {
    stream: usize,
    number: u64,
    since: Instant,
}

struct Writer {
    streams: Vec<usize>,
    at: usize,
    in_flight: Option<Sent>,
    /// A producer sends again what was not answered.
    again: Option<Sent>,
    not_before: Instant,
    due: Instant,
}

/// What was due or under way at the end is waited for so long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Before a producer sends again what was answered with "later".
const PAUSE: Duration = Duration::from_millis(50);

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
    /// Of all that were due in the measured time, whenever they were answered.
    pub latency: Histogram<u64>,
    pub done: u64,
    /// Answered after the measured time.
    pub late: u64,
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
                again: None,
                not_before: began,
                due: began + interval * number as u32,
            });
        let kind = appends.content.media_type();
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
            late: 0,
            errors: Errors::default(),
            body: Vec::new(),
            in_flight: 0,
            appends: appends.clone(),
        }
    }

    /// The stream whose append is on its way.
    pub fn stream_of(&self, connection: usize) -> Option<usize> {
        Some(self.writers[connection].in_flight?.stream)
    }

    fn settle(&mut self, connection: usize, now: Instant, is_done: bool) {
        let Some(sent) = self.writers[connection].in_flight.take() else {
            return;
        };
        self.in_flight -= 1;
        self.written[sent.stream].told(connection as u32, sent.number, is_done);
        if is_done && sent.since >= self.began {
            count(&mut self.latency, nanos_since(sent.since, now));
            match now <= self.ends {
                true => self.done += 1,
                false => self.late += 1,
            }
        }
    }

    /// No answer, or only "later": a producer sends it again, for others it is open whether it was done.
    fn unanswered(&mut self, connection: usize, now: Instant) {
        if !self.appends.with_producers {
            return self.settle(connection, now, false);
        }
        let writer = &mut self.writers[connection];
        if let Some(sent) = writer.in_flight.take() {
            self.in_flight -= 1;
            writer.again = Some(sent);
            writer.not_before = now + PAUSE;
        }
    }

    /// Whether nothing is to be sent any more.
    fn is_sent(&self, writer: &Writer) -> bool {
        writer.again.is_none() && (self.appends.rate.is_none() || writer.due >= self.ends)
    }

    /// Nothing more is waited for: what has no answer is an error, and its latency is at least the time since it was due.
    pub fn finish(&mut self) {
        let now = Instant::now();
        for connection in 0..self.writers.len() {
            let writer = &mut self.writers[connection];
            for sent in [writer.in_flight.take(), writer.again.take()] {
                let Some(sent) = sent else {
                    continue;
                };
                count(&mut self.latency, nanos_since(sent.since, now));
                self.written[sent.stream].told(connection as u32, sent.number, false);
                self.errors.add(|| "append: no answer".to_owned());
            }
            let Some(rate) = self.appends.rate else {
                continue;
            };
            let interval = Duration::from_secs_f64(self.appends.connections as f64 / rate);
            while self.writers[connection].due < self.ends {
                count(
                    &mut self.latency,
                    nanos_since(self.writers[connection].due, now),
                );
                self.writers[connection].due += interval;
                self.errors
                    .add(|| "append: due, but the connection was never free for it".to_owned());
            }
        }
        self.in_flight = 0;
    }

    fn put(&mut self, connection: usize, sent: Sent, request: &mut Vec<u8>) {
        request.extend_from_slice(self.heads[sent.stream].as_bytes());
        if self.appends.with_producers {
            let headers = format!(
                "producer-id: w{connection}\r\nproducer-epoch: 0\r\nproducer-seq: {}\r\n",
                sent.number
            );
            request.extend_from_slice(headers.as_bytes());
        }
        request.extend_from_slice(b"\r\n");
        let mark = Mark {
            writer: connection as u32,
            number: sent.number,
            sent_ns: nanos_since(self.site.epoch, sent.since),
        };
        self.body.clear();
        put(
            &mut self.body,
            mark,
            self.appends.bytes,
            self.appends.content,
        );
        request.extend_from_slice(&self.body);
    }
}

impl Driver for AppendDriver<'_> {
    fn next(&mut self, connection: usize, now: Instant, request: &mut Vec<u8>) -> Next {
        let writer = &mut self.writers[connection];
        if writer.again.is_some() && writer.not_before > now {
            return Next::At(writer.not_before);
        }
        let sent = match (writer.again.take(), self.appends.rate) {
            (Some(sent), _) => sent,
            (None, None) if now >= self.ends => return Next::Idle,
            // With a rate, what was due is sent, however late.
            (None, Some(_)) if writer.due >= self.ends => return Next::Idle,
            (None, Some(_)) if writer.due > now => return Next::At(writer.due),
            (None, rate) => {
                let since = rate.map_or(now, |_| writer.due);
                if let Some(rate) = rate {
                    writer.due += Duration::from_secs_f64(self.appends.connections as f64 / rate);
                }
                let stream = writer.streams[writer.at];
                writer.at = (writer.at + 1) % writer.streams.len();
                let number = self.written[stream].next_of(connection as u32);
                Sent {
                    stream,
                    number,
                    since,
                }
            }
        };
        writer.in_flight = Some(sent);
        self.in_flight += 1;
        self.put(connection, sent, request);
        Next::Send
    }

    fn reply(&mut self, connection: usize, reply: Reply<'_>, now: Instant) {
        let is_done = matches!(reply.status, 200 | 204);
        if is_done {
            return self.settle(connection, now, true);
        }
        self.errors.add(|| {
            let text = String::from_utf8_lossy(reply.body).into_owned();
            format!("append: status {}: {text}", reply.status)
        });
        match reply.status {
            429 | 500.. => self.unanswered(connection, now),
            _ => self.settle(connection, now, false),
        }
    }

    fn lost(&mut self, connection: usize, reason: &str) {
        self.errors.add(|| format!("append: {reason}"));
        self.unanswered(connection, Instant::now());
    }

    fn is_done(&self, now: Instant) -> bool {
        let is_over = || self.in_flight == 0 && self.writers.iter().all(|w| self.is_sent(w));
        now >= self.ends && (now > self.ends + PATIENCE || is_over())
    }

    fn progress(&self) -> Option<String> {
        Some(format!(
            "{} appends, p99 {:.2} ms, {} errors",
            self.done + self.late,
            self.latency.value_at_quantile(0.99) as f64 / 1000.0,
            self.errors.count
        ))
    }
}

/// Runs the scenario, then reads everything back.
///
/// # Errors
/// The system's, or the server's refusal of a stream.
pub fn run(site: &Site<'_>, appends: &Appends) -> Result<Run, LoadError> {
    let nodes = &site.target.addresses;
    let mut creators = Engine::connect(nodes, appends.connections.max(nodes.len()))?;
    let homes = create_streams(site, &mut creators, appends.streams, appends.content)?;
    drop(creators);
    let plan = homes.plan(nodes.len(), appends.streams, appends.connections);
    let dialed: Vec<_> = plan.iter().map(|(node, _)| nodes[*node]).collect();
    let mut engine = Engine::connect(&dialed, appends.connections)?;
    let mut warmup = appends.clone();
    warmup.duration = appends.warmup;
    warmup.warmup = Duration::ZERO;
    let mut driver = AppendDriver::new(site, &warmup, &homes, Instant::now());
    engine.run(&mut driver)?;
    driver.finish();
    let AppendDriver {
        written,
        errors: errors_before,
        ..
    } = driver;

    let mut measured = appends.clone();
    measured.warmup = Duration::ZERO;
    let mut driver = AppendDriver::new(site, &measured, &homes, Instant::now());
    driver.written = written;
    let meter = Meter::start(site);
    engine.run(&mut driver)?;
    let (_, cost, own_cpu_us) = meter.stop(site);
    driver.finish();
    let AppendDriver {
        latency,
        done,
        late,
        errors,
        written,
        ..
    } = driver;
    let violations = match appends.is_unread {
        true => Violations::default(),
        false => verify(site, &homes, &written, (appends.bytes, appends.content)),
    };
    let kept: u64 = written.iter().map(Written::confirmed).sum();
    let count = (done + late).max(1) as f64;
    let growth = cost.map_or(0.0, |c| c.resident_growth as f64 / count);
    let switches = cost.map_or(0.0, |c| c.context_switches as f64 / count);
    Ok(Run {
        server: site.target.name.clone(),
        scenario: name(appends),
        unit: "appends",
        operations: done,
        late,
        duration: appends.duration,
        latency,
        further: Vec::new(),
        errors: errors_before.count + errors.count,
        violations,
        cost,
        own_cpu_us,
        extra: vec![
            ("resident growth B/op", growth),
            ("switches/op", switches),
            ("client us/op", own_cpu_us as f64 / count),
            // With those of the warm-up.
            ("MB in all", (kept * appends.bytes as u64) as f64 / 1e6),
        ],
    })
}

fn name(appends: &Appends) -> String {
    let kind = appends.content.label();
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
