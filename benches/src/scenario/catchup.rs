//! Replays: N readers read streams of a given size from the start, again and again.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::verify::{Written, verify};
use super::{Errors, Homes, LoadError, Meter, Requests, Site, create_streams};
use crate::engine::{Driver, Engine, Next};
use crate::record::{Content, Mark, nanos_since, put};
use crate::reply::Reply;
use crate::result::{Run, Violations, count, histogram};

/// Bytes of a record, and of an append, while a stream is filled.
pub const RECORD_BYTES: usize = 1024;
const APPEND_BYTES: usize = 256 << 10;

/// Who reads what.
#[derive(Debug, Clone)]
pub struct Catchup {
    pub streams: usize,
    pub bytes: u64,
    pub readers: usize,
    pub content: Content,
    pub duration: Duration,
}

impl Catchup {
    /// The bytes that a stream gets which is to have `bytes`.
    pub fn whole(bytes: u64) -> u64 {
        bytes.next_multiple_of(APPEND_BYTES as u64)
    }

    /// What a stream of that size holds.
    pub fn written(bytes: u64) -> Written {
        Written::of_one(Catchup::whole(bytes) / RECORD_BYTES as u64)
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
    content: Content,
) -> Result<(), LoadError> {
    let is_json = content == Content::Json;
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
                put(&mut body, mark, RECORD_BYTES, content);
            }
            if is_json {
                body.push(b']');
            }
            let headers = format!(
                "content-type: {}\r\ncontent-length: {}\r\n",
                content.media_type(),
                body.len()
            );
            site.target
                .put(out, "POST", &site.stream(*stream), &headers);
            out.extend_from_slice(&body);
        })?;
    }
    Ok(())
}

/// One reader: where it is in its stream, and what it has seen of it.
pub struct Replay {
    stream: usize,
    content: Content,
    offset: String,
    /// Bytes that the stream has.
    whole: u64,
    /// All bytes of bodies, and those of this round.
    pub bytes: u64,
    of_round: u64,
    began: Instant,
    sent: Instant,
    pub violations: Violations,
    pub errors: Errors,
    /// From the first request of a round to the first byte of its answer.
    pub first_byte: Histogram<u64>,
    /// From there to its last byte.
    pub round: Histogram<u64>,
}

impl Replay {
    pub fn new(stream: usize, bytes: u64, content: Content) -> Replay {
        let now = Instant::now();
        Replay {
            stream,
            content,
            offset: "-1".to_owned(),
            whole: Catchup::whole(bytes),
            bytes: 0,
            of_round: 0,
            began: now,
            sent: now,
            violations: Violations::default(),
            errors: Errors::default(),
            first_byte: histogram(),
            round: histogram(),
        }
    }

    pub fn next(&mut self, site: &Site<'_>, now: Instant, request: &mut Vec<u8>) -> Next {
        let target = format!("{}?offset={}", site.stream(self.stream), self.offset);
        site.target.put(request, "GET", &target, "");
        self.sent = now;
        if self.is_at_start() {
            self.began = now;
        }
        Next::Send
    }

    fn is_at_start(&self) -> bool {
        self.offset == "-1"
    }

    pub fn begun(&mut self, now: Instant) {
        if self.is_at_start() {
            count(&mut self.first_byte, nanos_since(self.sent, now));
        }
    }

    pub fn reply(&mut self, reply: Reply<'_>, now: Instant) {
        if reply.status != 200 {
            self.errors.add(|| format!("read: status {}", reply.status));
            return self.restart();
        }
        self.bytes += reply.body.len() as u64;
        self.of_round += reply.body.len() as u64;
        let next = reply.header("stream-next-offset").unwrap_or_default();
        let is_last = reply
            .header("stream-up-to-date")
            .is_some_and(|v| v == "true");
        if !is_last && next != self.offset {
            return self.offset.replace_range(.., next);
        }
        count(&mut self.round, nanos_since(self.began, now));
        // Brackets and commas of JSON come on top.
        let is_whole = match self.content {
            Content::Json => self.of_round >= self.whole,
            _ => self.of_round == self.whole,
        };
        if !is_whole {
            let (stream, whole, got) = (self.stream, self.whole, self.of_round);
            self.violations
                .add(|| format!("stream {stream} has {whole} bytes, a reader got {got}"));
        }
        self.restart();
    }

    pub fn lost(&mut self, reason: &str) {
        self.errors.add(|| format!("read: {reason}"));
        self.restart();
    }

    fn restart(&mut self) {
        self.offset.replace_range(.., "-1");
        self.of_round = 0;
    }
}

struct CatchupDriver<'a> {
    site: &'a Site<'a>,
    replays: Vec<Replay>,
    ends: Instant,
}

impl Driver for CatchupDriver<'_> {
    fn next(&mut self, connection: usize, now: Instant, request: &mut Vec<u8>) -> Next {
        if now >= self.ends {
            return Next::Idle;
        }
        self.replays[connection].next(self.site, now, request)
    }

    fn begun(&mut self, connection: usize, now: Instant) {
        self.replays[connection].begun(now);
    }

    fn reply(&mut self, connection: usize, reply: Reply<'_>, now: Instant) {
        self.replays[connection].reply(reply, now);
    }

    fn lost(&mut self, connection: usize, reason: &str) {
        self.replays[connection].lost(reason);
    }

    fn is_done(&self, now: Instant) -> bool {
        now >= self.ends
    }

    fn progress(&self) -> Option<String> {
        let bytes: u64 = self.replays.iter().map(|r| r.bytes).sum();
        Some(format!("{:.0} MB read", bytes as f64 / 1e6))
    }
}

/// Runs the scenario, then compares each stream byte by byte. Operations are megabytes; the latency is that of a
/// replay's first byte.
///
/// # Errors
/// The system's, or the server's refusal of a stream.
pub fn run(site: &Site<'_>, catchup: &Catchup) -> Result<Run, LoadError> {
    let mut writers = Engine::connect(&site.target.addresses, 1)?;
    create_streams(site, &mut writers, catchup.streams, catchup.content)?;
    let streams: Vec<usize> = (0..catchup.streams).collect();
    fill(site, &mut writers, &streams, catchup.bytes, catchup.content)?;
    drop(writers);
    let mut engine = Engine::connect(&site.target.addresses, catchup.readers)?;
    let mut driver = CatchupDriver {
        site,
        replays: (0..catchup.readers)
            .map(|n| Replay::new(n % catchup.streams, catchup.bytes, catchup.content))
            .collect(),
        ends: Instant::now() + catchup.duration,
    };
    let meter = Meter::start(site);
    engine.run(&mut driver)?;
    let (duration, cost, own_cpu_us) = meter.stop(site);
    drop(engine);
    let written = vec![Catchup::written(catchup.bytes); catchup.streams];
    let shape = (RECORD_BYTES, catchup.content);
    let mut violations = verify(site, &Homes::default(), &written, shape);
    let (mut first_byte, mut round) = (histogram(), histogram());
    let (mut bytes, mut errors) = (0, 0);
    for replay in driver.replays {
        bytes += replay.bytes;
        errors += replay.errors.count;
        first_byte += &replay.first_byte;
        round += &replay.round;
        violations.extend(replay.violations);
    }
    let megabytes = bytes as f64 / 1e6;
    let mut extra = Vec::new();
    if let Some(cost) = cost {
        let seconds = cost.cpu_us as f64 / 1e6;
        extra.push(("MB per CPU second", megabytes / seconds.max(1e-6)));
    }
    let ms = |quantile| round.value_at_quantile(quantile) as f64 / 1000.0;
    extra.extend([("whole p50 ms", ms(0.5)), ("whole p99 ms", ms(0.99))]);
    Ok(Run {
        server: site.target.name.clone(),
        scenario: format!(
            "catchup {}x{:.0}MB {}s{}",
            catchup.readers,
            catchup.bytes as f64 / 1e6,
            catchup.streams,
            catchup.content.label()
        ),
        unit: "megabytes",
        operations: megabytes as u64,
        late: 0,
        duration,
        latency: first_byte,
        further: vec![("whole", round)],
        errors,
        violations,
        cost,
        own_cpu_us,
        extra,
    })
}
