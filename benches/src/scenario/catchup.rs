//! Replays: N readers read streams of a given size from the start, again and again.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::{Errors, LoadError, Meter, Requests, Site, create_streams};
use crate::engine::{Driver, Engine, Next};
use crate::record::{Mark, put};
use crate::reply::Reply;
use crate::result::{Run, count, histogram};
use crate::target::content_type;

/// Bytes of a record, and of an append, while a stream is filled.
const RECORD_BYTES: usize = 1024;
const APPEND_BYTES: usize = 256 << 10;

/// Who reads what.
#[derive(Debug, Clone)]
pub struct Catchup {
    pub streams: usize,
    pub bytes: u64,
    pub readers: usize,
    pub is_json: bool,
    pub duration: Duration,
}

impl Catchup {
    /// The bytes that a stream gets which is to have `bytes`.
    pub fn whole(bytes: u64) -> u64 {
        bytes.next_multiple_of(APPEND_BYTES as u64)
    }
}

/// Appends `bytes` to each of these streams.
///
/// # Errors
/// The first refusal.
pub fn fill(
    site: &Site<'_>,
    engine: &mut Engine,
    streams: &[usize],
    bytes: u64,
    is_json: bool,
) -> Result<(), LoadError> {
    let per_append = APPEND_BYTES / RECORD_BYTES;
    let appends = bytes.div_ceil(APPEND_BYTES as u64) as usize;
    for stream in streams {
        Requests::run(engine, appends, &|number, out| {
            let mut body = Vec::with_capacity(APPEND_BYTES + per_append);
            for at in 0..per_append {
                if is_json {
                    body.push(if at == 0 { b'[' } else { b',' });
                }
                let mark = Mark {
                    writer: 0,
                    number: (number * per_append + at) as u64,
                    sent_ns: 0,
                };
                put(&mut body, mark, RECORD_BYTES, is_json);
            }
            if is_json {
                body.push(b']');
            }
            let headers = format!(
                "content-type: {}\r\ncontent-length: {}\r\n",
                content_type(is_json),
                body.len()
            );
            site.target
                .put(out, "POST", &site.stream(*stream), &headers);
            out.extend_from_slice(&body);
        })?;
    }
    Ok(())
}

/// One reader: where it is in its stream.
pub struct Replay {
    stream: usize,
    offset: String,
    /// All bytes of bodies.
    pub bytes: u64,
    pub rounds: u64,
    sent: Option<Instant>,
    pub failure: Option<String>,
    pub latency: Histogram<u64>,
}

impl Replay {
    pub fn new(stream: usize) -> Replay {
        Replay {
            stream,
            offset: "-1".to_owned(),
            bytes: 0,
            rounds: 0,
            sent: None,
            failure: None,
            latency: histogram(),
        }
    }

    pub fn next(&mut self, site: &Site<'_>, request: &mut Vec<u8>) -> Next {
        let target = format!("{}?offset={}", site.stream(self.stream), self.offset);
        site.target.put(request, "GET", &target, "");
        self.sent = Some(Instant::now());
        Next::Send
    }

    pub fn reply(&mut self, reply: Reply<'_>, now: Instant) {
        if reply.status != 200 {
            self.failure
                .get_or_insert(format!("read: status {}", reply.status));
        }
        self.bytes += reply.body.len() as u64;
        if let Some(sent) = self.sent.take() {
            count(
                &mut self.latency,
                now.saturating_duration_since(sent).as_nanos() as u64,
            );
        }
        let next = reply.header("stream-next-offset").unwrap_or_default();
        let is_last = reply
            .header("stream-up-to-date")
            .is_some_and(|v| v == "true");
        if is_last || next == self.offset {
            self.offset.replace_range(.., "-1");
            self.rounds += 1;
        } else {
            self.offset.replace_range(.., next);
        }
    }
}

struct CatchupDriver<'a> {
    site: &'a Site<'a>,
    replays: Vec<Replay>,
    errors: Errors,
    ends: Instant,
}

impl Driver for CatchupDriver<'_> {
    fn next(&mut self, connection: usize, now: Instant, request: &mut Vec<u8>) -> Next {
        if now >= self.ends {
            return Next::Idle;
        }
        self.replays[connection].next(self.site, request)
    }

    fn reply(&mut self, connection: usize, reply: Reply<'_>, now: Instant) {
        self.replays[connection].reply(reply, now);
    }

    fn lost(&mut self, _: usize, reason: &str) {
        self.errors.add(|| format!("read: {reason}"));
    }

    fn is_done(&self, now: Instant) -> bool {
        now >= self.ends
    }
}

/// Runs the scenario. Operations are megabytes.
///
/// # Errors
/// The system's, or the server's refusal of a stream.
pub fn run(site: &Site<'_>, catchup: &Catchup) -> Result<Run, LoadError> {
    let mut writers = Engine::connect(&site.target.addresses, 1)?;
    create_streams(site, &mut writers, catchup.streams, catchup.is_json)?;
    let streams: Vec<usize> = (0..catchup.streams).collect();
    fill(site, &mut writers, &streams, catchup.bytes, catchup.is_json)?;
    drop(writers);
    let mut engine = Engine::connect(&site.target.addresses, catchup.readers)?;
    let mut driver = CatchupDriver {
        site,
        replays: (0..catchup.readers)
            .map(|n| Replay::new(n % catchup.streams))
            .collect(),
        errors: Errors::default(),
        ends: Instant::now() + catchup.duration,
    };
    let meter = Meter::start(site);
    engine.run(&mut driver)?;
    let (duration, cost, own_cpu_us) = meter.stop(site);
    let mut latency = histogram();
    let (mut bytes, mut violations) = (0, Vec::new());
    for replay in &mut driver.replays {
        bytes += replay.bytes;
        latency += &replay.latency;
        violations.extend(replay.failure.take());
        let whole = Catchup::whole(catchup.bytes);
        if replay.rounds > 0 && replay.bytes < replay.rounds * whole {
            violations.push(format!(
                "{} rounds of {whole} bytes gave {} bytes",
                replay.rounds, replay.bytes
            ));
        }
    }
    let megabytes = bytes as f64 / 1e6;
    let per_cpu = cost.map_or(0.0, |c| megabytes / (c.cpu_us as f64 / 1e6).max(1e-6));
    let kind = if catchup.is_json { " json" } else { "" };
    Ok(Run {
        server: site.target.name.clone(),
        scenario: format!(
            "catchup {}x{:.0}MB {}s{kind}",
            catchup.readers,
            catchup.bytes as f64 / 1e6,
            catchup.streams
        ),
        unit: "megabytes",
        operations: megabytes as u64,
        duration,
        latency,
        errors: driver.errors.count,
        violations,
        cost,
        own_cpu_us,
        extra: vec![("MB per CPU second", per_cpu)],
    })
}
