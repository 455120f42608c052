//! Live readers: N subscribers on S streams while writers append at a fixed rate, and catch-up readers beside them if
//! wanted. Every delivery is checked for loss, order and doubles. Without a rate, the subscribers are idle.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::append::{AppendDriver, Appends};
use super::catchup::{Replay, fill};
use super::verify::verify;
use super::{Errors, Homes, LoadError, Meter, Site, create_streams};
use crate::engine::{Driver, Engine, Next};
use crate::record::{nanos_since, scan};
use crate::reply::Reply;
use crate::result::{Run, count, histogram};

/// Who listens, who writes, who reads.
#[derive(Debug, Clone)]
pub struct Live {
    pub subscribers: usize,
    pub with_long_poll: bool,
    /// The writers; their duration is the run's.
    pub appends: Appends,
    /// No event is written.
    pub is_idle: bool,
    /// Connections that replay a stream of so many bytes, again and again.
    pub readers: usize,
    pub replay_bytes: u64,
}

/// Longest wait for what is still on its way at the end.
const PATIENCE: Duration = Duration::from_secs(10);

struct Subscriber {
    stream: usize,
    offset: String,
    cursor: String,
    kept: Vec<u8>,
    scanned: usize,
    /// By writer: the number that must come next.
    next: BTreeMap<u32, u64>,
    received: u64,
    has_begun: bool,
}

struct LiveDriver<'a> {
    site: &'a Site<'a>,
    live: Live,
    appends: AppendDriver<'a>,
    subscribers: Vec<Subscriber>,
    replays: Vec<Replay>,
    waiting: usize,
    /// When all had begun, and the server was looked at.
    started: Option<(Instant, Meter)>,
    latency: Histogram<u64>,
    delivered: u64,
    errors: Errors,
    violations: Vec<String>,
}

impl LiveDriver<'_> {
    fn writers(&self) -> usize {
        self.live.appends.connections
    }

    /// When the writers stop.
    fn ends(&self) -> Option<Instant> {
        let (began, _) = self.started.as_ref()?;
        Some(*began + self.live.appends.duration)
    }

    fn has_begun(&mut self, number: usize, now: Instant) {
        let subscriber = &mut self.subscribers[number];
        if !std::mem::replace(&mut subscriber.has_begun, true) {
            self.waiting -= 1;
            if self.waiting == 0 {
                self.start(now);
            }
        }
    }

    fn start(&mut self, now: Instant) {
        let appends = self.live.appends.clone();
        self.appends = AppendDriver::new(self.site, &appends, &Homes::default(), now);
        self.started = Some((now, Meter::start(self.site)));
    }

    fn deliver(&mut self, number: usize, bytes: &[u8], now: Instant) {
        let subscriber = &mut self.subscribers[number];
        subscriber.kept.extend_from_slice(bytes);
        let now_ns = nanos_since(self.site.epoch, now);
        let (latency, violations) = (&mut self.latency, &mut self.violations);
        let (next, received) = (&mut subscriber.next, &mut subscriber.received);
        let mut delivered = 0;
        let used = scan(&subscriber.kept[subscriber.scanned..], &mut |mark| {
            let next = next.entry(mark.writer).or_default();
            if mark.number != *next {
                violations.push(format!(
                    "subscriber {number}: {mark:?} came, {next} was next"
                ));
            }
            *next = mark.number + 1;
            *received += 1;
            delivered += 1;
            count(latency, now_ns.saturating_sub(mark.sent_ns));
        });
        self.delivered += delivered;
        subscriber.scanned += used;
        if let Some(offset) = last_offset(&subscriber.kept) {
            subscriber.offset = offset;
        }
        // The newest control event may go on in the next part.
        let keep_from = subscriber
            .scanned
            .min(subscriber.kept.len().saturating_sub(512));
        subscriber.kept.drain(..keep_from);
        subscriber.scanned -= keep_from;
    }

    fn is_complete(&self) -> bool {
        self.subscribers
            .iter()
            .all(|s| s.received >= self.appends.written[s.stream].confirmed())
    }
}

/// The offset of the newest whole control event.
fn last_offset(bytes: &[u8]) -> Option<String> {
    const NAME: &[u8] = b"\"streamNextOffset\":\"";
    let at = memchr::memmem::rfind(bytes, NAME)? + NAME.len();
    let len = memchr::memchr(b'"', &bytes[at..])?;
    String::from_utf8(bytes[at..at + len].to_vec()).ok()
}

impl Driver for LiveDriver<'_> {
    fn next(&mut self, connection: usize, now: Instant, request: &mut Vec<u8>) -> Next {
        let writers = self.writers();
        if connection < writers {
            return match self.started {
                None => Next::At(now + Duration::from_millis(5)),
                Some(_) if self.live.is_idle => Next::Idle,
                Some(_) => self.appends.next(connection, now, request),
            };
        }
        let number = connection - writers;
        let Some(subscriber) = self.subscribers.get(number) else {
            return match self.ends() {
                None => Next::At(now + Duration::from_millis(5)),
                Some(ends) if now >= ends => Next::Idle,
                Some(_) => self.replays[number - self.subscribers.len()].next(self.site, request),
            };
        };
        let mode = if self.live.with_long_poll {
            "long-poll"
        } else {
            "sse"
        };
        let path = self.site.stream(subscriber.stream);
        let cursor = &subscriber.cursor;
        let target = format!("{path}?offset={}&live={mode}{cursor}", subscriber.offset);
        self.site.target.put(request, "GET", &target, "");
        if self.live.with_long_poll {
            // A long-poll answers nothing until there is something: it counts as begun once it is sent.
            self.has_begun(number, now);
        }
        Next::Send
    }

    fn reply(&mut self, connection: usize, reply: Reply<'_>, now: Instant) {
        let writers = self.writers();
        if connection < writers {
            self.appends.reply(connection, reply, now);
            return;
        }
        let number = connection - writers;
        if number >= self.subscribers.len() {
            self.replays[number - self.subscribers.len()].reply(reply, now);
            return;
        }
        if !matches!(reply.status, 200 | 204) {
            self.errors
                .add(|| format!("live read: status {}", reply.status));
            return;
        }
        if !self.live.with_long_poll {
            // A rotated event stream ends; the next request goes on from its last control event.
            return;
        }
        if reply.status == 200 {
            self.deliver(number, reply.body, now);
        }
        let header = |name| reply.header(name).unwrap_or_default().to_owned();
        let (offset, cursor) = (header("stream-next-offset"), header("stream-cursor"));
        let subscriber = &mut self.subscribers[number];
        subscriber.kept.clear();
        subscriber.scanned = 0;
        subscriber.offset = offset;
        subscriber.cursor = if cursor.is_empty() {
            cursor
        } else {
            format!("&cursor={cursor}")
        };
    }

    fn part(&mut self, connection: usize, part: &[u8], now: Instant) {
        let number = connection - self.writers();
        if part.is_empty() {
            self.has_begun(number, now);
        } else {
            self.deliver(number, part, now);
        }
    }

    fn lost(&mut self, connection: usize, reason: &str) {
        let writers = self.writers();
        if connection < writers {
            self.appends.lost(connection, reason);
        } else {
            self.errors.add(|| format!("live read: {reason}"));
        }
    }

    fn is_done(&self, now: Instant) -> bool {
        let Some(ends) = self.ends() else {
            return false;
        };
        if self.live.is_idle {
            return now >= ends;
        }
        self.appends.is_done(now) && (self.is_complete() || now > ends + PATIENCE)
    }
}

/// Runs the scenario, then reads everything back.
///
/// # Errors
/// The system's, or the server's refusal of a stream.
pub fn run(site: &Site<'_>, live: &Live) -> Result<Run, LoadError> {
    let writers = live.appends.connections;
    let mut engine = Engine::connect(
        &site.target.addresses,
        writers + live.subscribers + live.readers,
    )?;
    let streams = live.appends.streams;
    create_streams(
        site,
        &mut engine,
        streams + usize::from(live.readers > 0),
        live.appends.is_json,
    )?;
    if live.readers > 0 {
        fill(
            site,
            &mut engine,
            &[streams],
            live.replay_bytes,
            live.appends.is_json,
        )?;
    }
    let subscribers = (0..live.subscribers).map(|number| Subscriber {
        stream: number % streams,
        offset: "-1".to_owned(),
        cursor: String::new(),
        kept: Vec::new(),
        scanned: 0,
        next: BTreeMap::new(),
        received: 0,
        has_begun: false,
    });
    let mut driver = LiveDriver {
        site,
        live: live.clone(),
        appends: AppendDriver::new(site, &live.appends, &Homes::default(), Instant::now()),
        subscribers: subscribers.collect(),
        replays: (0..live.readers).map(|_| Replay::new(streams)).collect(),
        waiting: live.subscribers,
        started: None,
        latency: histogram(),
        delivered: 0,
        errors: Errors::default(),
        violations: Vec::new(),
    };
    if live.subscribers == 0 {
        driver.start(Instant::now());
    }
    engine.run(&mut driver)?;
    let Some((_, meter)) = &driver.started else {
        return Err(LoadError::Refused(
            "not all subscribers were taken".to_owned(),
        ));
    };
    let (duration, cost, own_cpu_us) = meter.stop(site);
    if !live.is_idle && !driver.is_complete() {
        let behind = driver
            .subscribers
            .iter()
            .filter(|s| s.received < driver.appends.written[s.stream].confirmed())
            .count();
        driver.violations.push(format!(
            "{behind} subscribers lack events after {PATIENCE:?}"
        ));
    }
    let mut violations = driver.violations;
    violations.extend(verify(site, &Homes::default(), &driver.appends.written)?);
    let replayed: u64 = driver.replays.iter().map(|r| r.bytes).sum();
    let mut extra = Vec::new();
    if !live.is_idle {
        extra.push((
            "append p99 ms",
            driver.appends.latency.value_at_quantile(0.99) as f64 / 1000.0,
        ));
    }
    if live.readers > 0 {
        extra.push((
            "replay MB/s",
            replayed as f64 / 1e6 / duration.as_secs_f64(),
        ));
    }
    if let Some(cost) = cost {
        let seconds = duration.as_secs_f64();
        extra.push(("core %", cost.cpu_us as f64 / 1e4 / seconds));
        extra.push(("switches/s", cost.context_switches as f64 / seconds));
    }
    Ok(Run {
        server: site.target.name.clone(),
        scenario: name(live),
        unit: "deliveries",
        operations: driver.delivered,
        duration,
        latency: driver.latency,
        errors: driver.errors.count + driver.appends.errors.count,
        violations,
        cost,
        own_cpu_us,
        extra,
    })
}

fn name(live: &Live) -> String {
    let mode = if live.with_long_poll {
        "long-poll"
    } else {
        "sse"
    };
    let streams = live.appends.streams;
    if live.is_idle {
        return format!("idle {}x{mode} {streams}s", live.subscribers);
    }
    let rate = live.appends.rate.unwrap_or(0.0);
    let readers = if live.readers > 0 {
        format!(" {}replays", live.readers)
    } else {
        String::new()
    };
    format!(
        "live {}x{mode} {streams}s {rate:.0}ev/s{readers}",
        live.subscribers
    )
}
