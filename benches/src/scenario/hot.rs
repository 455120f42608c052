//! Hot traffic at a fixed rate: appends, and reads of what was appended last. What else the server does meanwhile is
//! another process's doing; this one tells how long hot requests wait for it.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::append::{AppendDriver, Appends};
use super::verify::verify;
use super::{Errors, Homes, LoadError, Meter, Site, create_streams};
use crate::engine::{Driver, Engine, Next};
use crate::record::{nanos_since, scan_marks};
use crate::reply::Reply;
use crate::result::{Run, Violations, count, histogram};

/// Who writes, who reads.
#[derive(Debug, Clone)]
pub struct Hot {
    /// The writers, with a rate.
    pub appends: Appends,
    /// Connections that read.
    pub readers: usize,
    /// Reads per second over all of them.
    pub read_rate: f64,
}

struct HotDriver<'a> {
    site: &'a Site<'a>,
    hot: &'a Hot,
    appends: AppendDriver<'a>,
    /// By stream: where its last append began and ended.
    tails: Vec<(String, String)>,
    /// By reader: when its next read is due.
    due: Vec<Instant>,
    in_flight: Vec<Option<Instant>>,
    at: usize,
    began: Instant,
    ends: Instant,
    reads: u64,
    latency: Histogram<u64>,
    errors: Errors,
    violations: Violations,
}

impl HotDriver<'_> {
    /// A stream that has two appends, the next one in turn.
    fn readable(&mut self) -> Option<usize> {
        let count = self.tails.len();
        let found = (1..=count).map(|step| (self.at + step) % count);
        let found = found.into_iter().find(|s| !self.tails[*s].0.is_empty())?;
        self.at = found;
        Some(found)
    }
}

impl Driver for HotDriver<'_> {
    fn next(&mut self, connection: usize, now: Instant, request: &mut Vec<u8>) -> Next {
        let writers = self.hot.appends.connections;
        if connection < writers {
            return self.appends.next(connection, now, request);
        }
        let reader = connection - writers;
        if now >= self.ends {
            return Next::Idle;
        }
        let due = self.due[reader];
        if due > now {
            return Next::At(due);
        }
        let Some(stream) = self.readable() else {
            self.due[reader] = now + Duration::from_millis(5);
            return Next::At(self.due[reader]);
        };
        let interval = self.hot.readers as f64 / self.hot.read_rate;
        self.due[reader] = due + Duration::from_secs_f64(interval);
        self.in_flight[reader] = Some(due);
        let target = format!(
            "{}?offset={}",
            self.site.stream(stream),
            self.tails[stream].0
        );
        self.site.target.put(request, "GET", &target, "");
        Next::Send
    }

    fn reply(&mut self, connection: usize, reply: Reply<'_>, now: Instant) {
        let writers = self.hot.appends.connections;
        if connection < writers {
            if let Some(stream) = self.appends.stream_of(connection) {
                let next = reply.header("stream-next-offset").unwrap_or_default();
                let (before, last) = &mut self.tails[stream];
                std::mem::swap(before, last);
                last.replace_range(.., next);
            }
            self.appends.reply(connection, reply, now);
            return;
        }
        let Some(due) = self.in_flight[connection - writers].take() else {
            return;
        };
        if reply.status != 200 {
            self.errors.add(|| format!("read: status {}", reply.status));
            return;
        }
        let mut found = 0;
        scan_marks(reply.body, &mut |_| found += 1);
        if found == 0 {
            self.violations
                .add(|| "a read before the last append gave none".to_owned());
        }
        if due >= self.began && now <= self.ends {
            self.reads += 1;
            count(&mut self.latency, nanos_since(due, now));
        }
    }

    fn lost(&mut self, connection: usize, reason: &str) {
        match connection.checked_sub(self.hot.appends.connections) {
            None => self.appends.lost(connection, reason),
            Some(reader) => {
                self.in_flight[reader] = None;
                self.errors.add(|| format!("read: {reason}"));
            }
        }
    }

    fn progress(&self) -> Option<String> {
        let appends = self.appends.progress()?;
        Some(format!("{appends}; {} reads", self.reads))
    }

    fn is_done(&self, now: Instant) -> bool {
        self.appends.is_done(now) && self.in_flight.iter().all(Option::is_none)
    }
}

/// Runs the scenario, then reads everything back. Operations are appends, and so is the latency.
///
/// # Errors
/// The system's, or the server's refusal of a stream.
pub fn run(site: &Site<'_>, hot: &Hot) -> Result<Run, LoadError> {
    let appends = &hot.appends;
    let mut engine = Engine::connect(&site.target.addresses, appends.connections + hot.readers)?;
    create_streams(site, &mut engine, appends.streams, appends.content)?;
    let now = Instant::now();
    let began = now + appends.warmup;
    let step = Duration::from_secs_f64(1.0 / hot.read_rate);
    let mut driver = HotDriver {
        site,
        hot,
        appends: AppendDriver::new(site, appends, &Homes::default(), now),
        tails: vec![Default::default(); appends.streams],
        due: (0..hot.readers).map(|n| now + step * n as u32).collect(),
        in_flight: vec![None; hot.readers],
        at: 0,
        began,
        ends: began + appends.duration,
        reads: 0,
        latency: histogram(),
        errors: Errors::default(),
        violations: Violations::default(),
    };
    let meter = Meter::start(site);
    engine.run(&mut driver)?;
    let (duration, cost, own_cpu_us) = meter.stop(site);
    driver.appends.finish();
    let mut violations = driver.violations;
    let shape = (appends.bytes, appends.content);
    let written = &driver.appends.written;
    violations.extend(verify(site, &Homes::default(), written, shape));
    let read_ms = |quantile| driver.latency.value_at_quantile(quantile) as f64 / 1000.0;
    let mut extra = vec![
        (
            "reads/s",
            driver.reads as f64 / appends.duration.as_secs_f64(),
        ),
        ("read p50 ms", read_ms(0.5)),
        ("read p99 ms", read_ms(0.99)),
    ];
    if let Some(cost) = cost {
        let seconds = duration.as_secs_f64();
        extra.push(("core %", cost.cpu_us as f64 / 1e4 / seconds));
    }
    Ok(Run {
        server: site.target.name.clone(),
        scenario: format!(
            "hot {:.0} appends/s {:.0} reads/s",
            appends.rate.unwrap_or(0.0),
            hot.read_rate
        ),
        unit: "appends",
        operations: driver.appends.done,
        late: driver.appends.late,
        duration: appends.duration,
        latency: driver.appends.latency,
        further: vec![("read", driver.latency)],
        errors: driver.errors.count + driver.appends.errors.count,
        violations,
        cost,
        own_cpu_us,
        extra,
    })
}
