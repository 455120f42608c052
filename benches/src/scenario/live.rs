//! Live readers: N subscribers on S streams while writers append at a fixed rate, and catch-up readers beside them if
//! wanted. Every delivery is checked for loss, order and doubles. Without a rate, the subscribers are idle.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::append::{AppendDriver, Appends};
use super::catchup::{Replay, fill};
use super::sse::Decoder;
use super::verify::verify;
use super::{Errors, Homes, LoadError, Meter, Site, create_streams};
use crate::engine::{Driver, Engine, Next};
use crate::record::{Content, Found, Scanner, nanos_since};
use crate::reply::Reply;
use crate::result::{Run, Violations, count, histogram};

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

/// Before a subscriber asks again that was refused.
const PAUSE: Duration = Duration::from_millis(200);

/// Longest wait for what is still on its way at the end.
const PATIENCE: Duration = Duration::from_secs(10);

struct Subscriber {
    stream: usize,
    offset: String,
    cursor: String,
    kept: Vec<u8>,
    scanned: usize,
    /// Of binary streams over SSE, which come in base64.
    decoder: Option<Decoder>,
    /// By writer: the number that must come next.
    next: BTreeMap<u32, u64>,
    received: u64,
    /// How many it would have received if none was lost.
    reached: u64,
    has_begun: bool,
    /// After a refusal.
    not_before: Option<Instant>,
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
    scanner: Scanner,
    violations: Violations,
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
        match &mut subscriber.decoder {
            None => subscriber.kept.extend_from_slice(bytes),
            Some(decoder) => {
                if let Some(offset) = decoder.feed(bytes, &mut subscriber.kept) {
                    subscriber.offset = offset;
                }
            }
        }
        let now_ns = nanos_since(self.site.epoch, now);
        let (latency, violations) = (&mut self.latency, &mut self.violations);
        let (next, received) = (&mut subscriber.next, &mut subscriber.received);
        let reached = &mut subscriber.reached;
        let mut delivered = 0;
        let fresh = &subscriber.kept[subscriber.scanned..];
        let used = self.scanner.scan(fresh, &mut |found| {
            let mark = match found {
                Found::Record(mark) => mark,
                // What frames events.
                Found::Between(_) => return,
                Found::Garbled(mark) => {
                    let text = || format!("subscriber {number}: the bytes after {mark:?} differ");
                    return violations.add(text);
                }
            };
            let next = next.entry(mark.writer).or_default();
            if mark.number != *next {
                violations.add(|| format!("subscriber {number}: {mark:?} came, {next} was next"));
            }
            *reached += (mark.number + 1).saturating_sub(*next);
            *next = (*next).max(mark.number + 1);
            *received += 1;
            delivered += 1;
            count(latency, now_ns.saturating_sub(mark.sent_ns));
        });
        self.delivered += delivered;
        subscriber.scanned += used;
        if subscriber.decoder.is_none()
            && let Some(offset) = last_offset(&subscriber.kept)
        {
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
            .all(|s| s.reached >= self.appends.written[s.stream].confirmed())
    }
}

/// The offset of the newest whole control event.
pub fn last_offset(bytes: &[u8]) -> Option<String> {
    const NAME: &[u8] = b"\"streamNextOffset\":\"";
    let at = memchr::memmem::rfind(bytes, NAME)? + NAME.len();
    let len = memchr::memchr(b'"', &bytes[at..])?;
    String::from_utf8(bytes[at..at + len].to_vec()).ok()
}

fn replay_of<'a>(driver: &'a mut LiveDriver<'_>, connection: usize) -> Option<&'a mut Replay> {
    let before = driver.live.appends.connections + driver.subscribers.len();
    driver.replays.get_mut(connection.checked_sub(before)?)
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
                Some(_) => {
                    self.replays[number - self.subscribers.len()].next(self.site, now, request)
                }
            };
        };
        if let Some(at) = subscriber.not_before.filter(|at| *at > now) {
            return Next::At(at);
        }
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
            self.subscribers[number].not_before = Some(now + PAUSE);
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
        } else if let Some(replay) = replay_of(self, connection) {
            replay.lost(reason);
        } else {
            self.errors.add(|| format!("live read: {reason}"));
            let subscriber = &mut self.subscribers[connection - writers];
            subscriber.kept.clear();
            subscriber.scanned = 0;
            if let Some(decoder) = &mut subscriber.decoder {
                *decoder = Decoder::default();
            }
        }
    }

    fn begun(&mut self, connection: usize, now: Instant) {
        if let Some(replay) = replay_of(self, connection) {
            replay.begun(now);
        }
    }

    fn is_patient(&self) -> bool {
        self.started.is_some()
    }

    fn progress(&self) -> Option<String> {
        Some(match (&self.started, self.live.is_idle) {
            (None, _) => format!("{} subscribers are not there yet", self.waiting),
            (Some(_), true) => format!("{} subscribers are idle", self.subscribers.len()),
            (Some(_), false) => format!(
                "{} deliveries, p99 {:.2} ms, {} wrong",
                self.delivered,
                self.latency.value_at_quantile(0.99) as f64 / 1000.0,
                self.violations.count
            ),
        })
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
    let addresses = &site.target.addresses;
    let mut engine = Engine::connect(addresses, writers.max(addresses.len()))?;
    let streams = live.appends.streams;
    create_streams(
        site,
        &mut engine,
        streams + usize::from(live.readers > 0),
        live.appends.content,
    )?;
    if live.readers > 0 {
        fill(
            site,
            &mut engine,
            &[streams],
            live.replay_bytes,
            live.appends.content,
        )?;
    }
    engine = Engine::lazy(addresses, writers + live.subscribers + live.readers)?;
    let is_encoded = live.appends.content == Content::Binary && !live.with_long_poll;
    let subscribers = (0..live.subscribers).map(|number| Subscriber {
        stream: number % streams,
        offset: "-1".to_owned(),
        cursor: String::new(),
        kept: Vec::new(),
        scanned: 0,
        decoder: is_encoded.then(Decoder::default),
        next: BTreeMap::new(),
        received: 0,
        reached: 0,
        has_begun: false,
        not_before: None,
    });
    let mut driver = LiveDriver {
        site,
        live: live.clone(),
        appends: AppendDriver::new(site, &live.appends, &Homes::default(), Instant::now()),
        subscribers: subscribers.collect(),
        replays: (0..live.readers)
            .map(|_| Replay::new(streams, live.replay_bytes, live.appends.content))
            .collect(),
        waiting: live.subscribers,
        started: None,
        latency: histogram(),
        delivered: 0,
        errors: Errors::default(),
        scanner: Scanner::new(live.appends.bytes, live.appends.content),
        violations: Violations::default(),
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
    drop(engine);
    driver.appends.finish();
    let mut violations = driver.violations;
    let written = &driver.appends.written;
    let behind = |s: &&Subscriber| s.received < written[s.stream].confirmed();
    match driver.subscribers.iter().filter(behind).count() {
        0 => {}
        behind => {
            violations.add(|| format!("{behind} subscribers lack events"));
        }
    }
    let shape = (live.appends.bytes, live.appends.content);
    violations.extend(verify(site, &Homes::default(), written, shape));
    let mut errors = driver.errors.count + driver.appends.errors.count;
    let (mut replayed, mut first_byte) = (0, histogram());
    for replay in driver.replays {
        replayed += replay.bytes;
        errors += replay.errors.count;
        first_byte += &replay.first_byte;
        violations.extend(replay.violations);
    }
    let ms =
        |latency: &Histogram<u64>, quantile| latency.value_at_quantile(quantile) as f64 / 1000.0;
    let (mut extra, mut further) = (Vec::new(), Vec::new());
    if !live.is_idle {
        extra.push(("append p99 ms", ms(&driver.appends.latency, 0.99)));
        further.push(("append", driver.appends.latency));
    }
    if live.readers > 0 {
        let seconds = duration.as_secs_f64();
        extra.push(("replay MB/s", replayed as f64 / 1e6 / seconds));
        extra.push(("replay first byte p99 ms", ms(&first_byte, 0.99)));
        further.push(("replay first byte", first_byte));
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
        late: 0,
        duration,
        latency: driver.latency,
        further,
        errors,
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
    let kind = live.appends.content.label();
    format!(
        "live {}x{mode} {streams}s {rate:.0}ev/s{kind}{readers}",
        live.subscribers
    )
}
