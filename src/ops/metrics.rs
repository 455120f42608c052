//! What one core counts, and how it is shown to Prometheus. Plain cells: a core counts alone.

mod cold;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Write;

use storage::cold::ColdRequest;

use self::cold::ColdRequests;
use crate::http::backend::Operation;

/// Upper bounds of the latency buckets in microseconds.
const BUCKETS_US: [u64; 16] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 10_000_000,
];

/// A histogram of durations.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    buckets: [u64; BUCKETS_US.len()],
    count: u64,
    sum_us: u64,
}

impl Histogram {
    /// Counts a duration in microseconds.
    pub fn record(&mut self, micros: u64) {
        if let Some(index) = BUCKETS_US.iter().position(|bound| micros <= *bound) {
            self.buckets[index] += 1;
        }
        self.count += 1;
        self.sum_us += micros;
    }

    fn render(&self, out: &mut String, name: &str, labels: &str) {
        let mut cumulated = 0;
        for (bound, count) in BUCKETS_US.iter().zip(&self.buckets) {
            cumulated += count;
            let le = *bound as f64 / 1e6;
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{le}\"}} {cumulated}");
        }
        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", self.count);
        let _ = writeln!(out, "{name}_sum{{{labels}}} {}", self.sum_us as f64 / 1e6);
        let _ = writeln!(out, "{name}_count{{{labels}}} {}", self.count);
    }
}

macro_rules! plain_metrics {
    ($($(#[$doc:meta])* $name:ident: $kind:literal, $help:literal;)*) => {
        /// Counters and gauges of one core.
        #[derive(Debug, Default)]
        pub struct Plain { $($(#[$doc])* pub $name: Cell<u64>,)* }

        impl Plain {
            fn values(&self) -> Vec<(&'static str, &'static str, &'static str, u64)> {
                vec![$((concat!("ursula_", stringify!($name)), $kind, $help, self.$name.get()),)*]
            }
        }
    };
}

plain_metrics! {
    /// Bytes of answered bodies.
    response_body_bytes_total: "counter", "Bytes sent in response bodies.";
    /// Bytes of received request bodies.
    request_body_bytes_total: "counter", "Bytes received in request bodies.";
    /// Open client connections.
    connections: "gauge", "Open client connections.";
    /// Panics that cost a connection.
    handler_panics_total: "counter", "Connections closed because their handler panicked.";
    /// Requests that went to another core.
    core_hops_total: "counter", "Requests sent to the core that owns their group.";
    /// Live readers.
    live_readers: "gauge", "Long-polls and SSE readers.";
    /// Request bodies in flight.
    body_bytes_in_flight: "gauge", "Bytes of request bodies being received.";
    /// Hot bytes.
    hot_bytes: "gauge", "Stream bytes in memory.";
    /// Streams.
    streams: "gauge", "Streams of the groups of this core.";
    /// Groups that take requests.
    groups_ready: "gauge", "Groups of this core that have a leader, here or elsewhere.";
    /// Groups that this core leads.
    groups_led: "gauge", "Groups that this core leads.";
    /// Groups without anything to do.
    groups_asleep: "gauge", "Groups of this core for which no time is counted, since nobody needs them.";
    /// Groups whose replica here is not sound.
    groups_in_trouble: "gauge", "Groups whose replica on this node takes no part; the log says why.";
    /// Directories of damaged files.
    damaged_directories: "gauge", "Directories damaged-N of files that were found damaged and set aside, while the node's replicas were built anew from the other nodes.";
    /// Changes of leaders.
    leader_changes_total: "counter", "Times that a group of this core had another leader, or none.";
    /// Entries that the followers of led groups lack.
    replication_lag_entries: "gauge", "Entries that the slowest follower of a group lacks, summed over the groups led here.";
    /// Links that work.
    peers_connected: "gauge", "Other nodes to which this core has a link.";
    /// Bytes that wait for other nodes.
    peer_queue_bytes: "gauge", "Bytes that wait in the links of this core to other nodes.";
    /// Bytes sent to other nodes.
    peer_sent_bytes_total: "counter", "Bytes sent to other nodes.";
    /// Batches sent to other nodes.
    peer_batches_total: "counter", "Frames sent to other nodes; each carries what a turn brought.";
    /// Requests sent to other nodes.
    forwarded_requests_total: "counter", "Questions sent to the leaders of groups on other nodes.";
    /// Commits of the WAL.
    wal_commits_total: "counter", "Writes to the WAL, each with one sync.";
    /// Records of the WAL.
    wal_records_total: "counter", "Records written to the WAL.";
    /// Bytes of the WAL.
    wal_bytes_total: "counter", "Bytes written to the WAL, padding included.";
    /// Segments that hold live records.
    wal_segments: "gauge", "WAL segments that hold records not yet in a checkpoint.";
    /// Checkpoints.
    checkpoints_total: "counter", "Checkpoints of groups.";
    /// Checkpoint bytes.
    checkpoint_bytes_total: "counter", "Bytes written by checkpoints.";
    /// Requests to the cold store under way.
    cold_requests_in_flight: "gauge", "Requests to the cold store under way.";
    /// Requests tried again.
    cold_retries_total: "counter", "Requests to the cold store that were tried again.";
    /// Bytes sent.
    cold_sent_bytes_total: "counter", "Bytes sent to the cold store.";
    /// Bytes received.
    cold_received_bytes_total: "counter", "Bytes received from the cold store.";
    /// Bytes not flushed.
    cold_behind_bytes: "gauge", "Bytes of the groups led here that the cold store lacks.";
    /// For how long.
    cold_behind_seconds: "gauge", "For how long the cold store has lacked the oldest of them.";
    /// Objects.
    cold_packs: "gauge", "Objects of the groups led here in the cold store.";
    /// Their size.
    cold_object_bytes: "gauge", "Bytes of those objects.";
    /// Bytes in them before compression.
    cold_chunk_bytes: "gauge", "Stream bytes that those objects were written with.";
    /// Still needed.
    cold_live_bytes: "gauge", "Stream bytes in those objects that are still needed.";
    /// Begun.
    cold_unpublished_packs: "gauge", "Objects that may be in the cold store and that the log does not count yet.";
    /// Flushes.
    cold_packs_written_total: "counter", "Objects put into the cold store.";
    /// Bytes of flushes.
    cold_pack_bytes_total: "counter", "Bytes of the objects put into the cold store.";
    /// Failed flushes.
    cold_flush_failures_total: "counter", "Objects that could not be put into the cold store; they are tried again.";
    /// Deleted objects.
    cold_packs_deleted_total: "counter", "Objects deleted from the cold store.";
    /// Chunks that were there.
    cold_cache_hits_total: "counter", "Chunks of the cold store that were in memory or on their way when they were asked for.";
    /// Chunks that were not.
    cold_cache_misses_total: "counter", "Chunks that had to be fetched from the cold store.";
    /// Bytes of the cache.
    cold_cache_bytes: "gauge", "Bytes of the cold store in memory.";
    /// Failed reads.
    cold_read_failures_total: "counter", "Reads of the cold store that failed.";
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct CoreMetrics {
    /// Counters and gauges.
    pub plain: Plain,
    requests: RefCell<[Requests; OPERATIONS.len()]>,
    append_stages: RefCell<[Histogram; 3]>,
    wal_sync: RefCell<Histogram>,
    refusals: RefCell<BTreeMap<&'static str, u64>>,
    cold: RefCell<ColdRequests>,
}

const STAGES: [&str; 3] = ["queue", "wal", "apply"];

/// Names of the operations, in the order of [`Operation`].
const OPERATIONS: [&str; 13] = [
    "create",
    "append",
    "read",
    "long_poll",
    "sse",
    "head",
    "delete",
    "bucket",
    "list",
    "retention",
    "preflight",
    "ops",
    "unknown",
];

/// The requests of one operation.
#[derive(Debug, Clone, Default)]
struct Requests {
    /// By status, in the order of their first appearance; a handful.
    statuses: Vec<(u16, u64)>,
    seconds: Histogram,
}

impl CoreMetrics {
    /// A request was answered.
    pub fn answered(&self, operation: Operation, status: u16, micros: u64, bytes_in: u64) {
        let requests = &mut self.requests.borrow_mut()[operation as usize];
        match requests.statuses.iter_mut().find(|(s, _)| *s == status) {
            Some((_, count)) => *count += 1,
            None => requests.statuses.push((status, 1)),
        }
        requests.seconds.record(micros);
        add(&self.plain.request_body_bytes_total, bytes_in);
    }

    /// A command took so long in each stage.
    pub fn committed(&self, queue_us: u64, wal_us: u64, apply_us: u64) {
        let mut stages = self.append_stages.borrow_mut();
        for (stage, micros) in stages.iter_mut().zip([queue_us, wal_us, apply_us]) {
            stage.record(micros);
        }
    }

    /// The WAL wrote and synced.
    pub fn wal_committed(&self, bytes: u64, records: u64, micros: u64) {
        add(&self.plain.wal_commits_total, 1);
        add(&self.plain.wal_records_total, records);
        add(&self.plain.wal_bytes_total, bytes);
        self.wal_sync.borrow_mut().record(micros);
    }

    /// A request to the cold store ended.
    pub fn cold_requested(&self, request: ColdRequest) {
        add(&self.plain.cold_sent_bytes_total, request.sent_bytes);
        add(
            &self.plain.cold_received_bytes_total,
            request.received_bytes,
        );
        self.cold.borrow_mut().ended(request);
    }

    /// Something was refused at a bound.
    pub fn refused(&self, bound: &'static str) {
        *self.refusals.borrow_mut().entry(bound).or_default() += 1;
    }

    /// All series of this core.
    pub fn snapshot(&self, core: u16) -> CoreSnapshot {
        CoreSnapshot {
            core,
            plain: self.plain.values(),
            requests: self.requests.borrow().clone(),
            append_stages: self.append_stages.borrow().clone(),
            wal_sync: self.wal_sync.borrow().clone(),
            cold: self.cold.borrow().clone(),
            refusals: self
                .refusals
                .borrow()
                .iter()
                .map(|(k, v)| (*k, *v))
                .collect(),
        }
    }
}

/// Adds to a counter.
pub fn add(counter: &Cell<u64>, n: u64) {
    counter.set(counter.get() + n);
}

/// The series of one core, on their way to the core that was scraped.
#[derive(Debug, Clone)]
pub struct CoreSnapshot {
    core: u16,
    plain: Vec<(&'static str, &'static str, &'static str, u64)>,
    requests: [Requests; OPERATIONS.len()],
    append_stages: [Histogram; 3],
    wal_sync: Histogram,
    cold: ColdRequests,
    refusals: Vec<(&'static str, u64)>,
}

/// The Prometheus text of a node; a core that did not answer in time has only `ursula_core_up 0`.
pub fn render(cores: &[Option<CoreSnapshot>]) -> String {
    let mut out = String::with_capacity(16 << 10);
    family(
        &mut out,
        "ursula_build_info",
        "gauge",
        "The version that runs.",
    );
    let _ = writeln!(
        out,
        "ursula_build_info{{version=\"{}\"}} 1",
        env!("CARGO_PKG_VERSION")
    );
    process(&mut out);
    family(
        &mut out,
        "ursula_core_up",
        "gauge",
        "Whether the core answered the scrape in time.",
    );
    for (core, snapshot) in cores.iter().enumerate() {
        let _ = writeln!(
            out,
            "ursula_core_up{{core=\"{core}\"}} {}",
            u8::from(snapshot.is_some())
        );
    }
    let up: Vec<&CoreSnapshot> = cores.iter().flatten().collect();
    for index in 0..up.first().map_or(0, |s| s.plain.len()) {
        for (position, snapshot) in up.iter().enumerate() {
            let (name, kind, help, value) = snapshot.plain[index];
            if position == 0 {
                family(&mut out, name, kind, help);
            }
            let _ = writeln!(out, "{name}{{core=\"{}\"}} {value}", snapshot.core);
        }
    }
    family(
        &mut out,
        "ursula_requests_total",
        "counter",
        "Answered requests.",
    );
    for s in &up {
        for (operation, requests) in OPERATIONS.iter().zip(&s.requests) {
            for (status, count) in &requests.statuses {
                let core = s.core;
                let _ = writeln!(
                    out,
                    "ursula_requests_total{{core=\"{core}\",operation=\"{operation}\",status=\"{status}\"}} {count}"
                );
            }
        }
    }
    family(
        &mut out,
        "ursula_refusals_total",
        "counter",
        "Requests refused at a bound.",
    );
    for s in &up {
        for (bound, count) in &s.refusals {
            let _ = writeln!(
                out,
                "ursula_refusals_total{{core=\"{}\",bound=\"{bound}\"}} {count}",
                s.core
            );
        }
    }
    let name = "ursula_request_seconds";
    family(
        &mut out,
        name,
        "histogram",
        "Time from a request's headers to its answer's headers.",
    );
    for s in &up {
        for (operation, requests) in OPERATIONS.iter().zip(&s.requests) {
            if requests.seconds.count == 0 {
                continue;
            }
            requests.seconds.render(
                &mut out,
                name,
                &format!("core=\"{}\",operation=\"{operation}\"", s.core),
            );
        }
    }
    let name = "ursula_append_seconds";
    family(
        &mut out,
        name,
        "histogram",
        "Time of a command in each stage: queue, wal, apply.",
    );
    for s in &up {
        for (stage, histogram) in STAGES.iter().zip(&s.append_stages) {
            histogram.render(
                &mut out,
                name,
                &format!("core=\"{}\",stage=\"{stage}\"", s.core),
            );
        }
    }
    let name = "ursula_wal_commit_seconds";
    family(
        &mut out,
        name,
        "histogram",
        "Time of one write and sync of the WAL.",
    );
    for s in &up {
        s.wal_sync
            .render(&mut out, name, &format!("core=\"{}\"", s.core));
    }
    cold::render(&mut out, up.iter().map(|s| (s.core, &s.cold)));
    out
}

fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn process(out: &mut String) {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm
        .split(' ')
        .nth(1)
        .and_then(|p| p.parse().ok())
        .unwrap_or(0);
    family(
        out,
        "process_resident_memory_bytes",
        "gauge",
        "Resident memory.",
    );
    let _ = writeln!(out, "process_resident_memory_bytes {}", pages * 4096);
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or("")
        .split_whitespace()
        .collect();
    let ticks = |i: usize| {
        fields
            .get(i)
            .and_then(|t| t.parse::<u64>().ok())
            .unwrap_or(0)
    };
    family(
        out,
        "process_cpu_seconds_total",
        "counter",
        "User and system time.",
    );
    let _ = writeln!(
        out,
        "process_cpu_seconds_total {}",
        (ticks(11) + ticks(12)) as f64 / 100.0
    );
    let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    family(out, "process_open_fds", "gauge", "Open descriptors.");
    let _ = writeln!(out, "process_open_fds {descriptors}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_is_described_once_and_each_series_has_its_core() {
        let metrics = CoreMetrics::default();
        metrics.answered(Operation::Append, 204, 120, 10);
        metrics.wal_committed(4096, 2, 300);
        let text = render(&[Some(metrics.snapshot(0)), None, Some(metrics.snapshot(2))]);
        assert!(
            text.contains(
                "ursula_requests_total{core=\"2\",operation=\"append\",status=\"204\"} 1"
            )
        );
        assert!(text.contains("ursula_core_up{core=\"1\"} 0"));
        let mut families: Vec<&str> = text.lines().filter(|l| l.starts_with("# TYPE")).collect();
        let all = families.len();
        families.sort_unstable();
        families.dedup();
        assert_eq!(families.len(), all);
    }
}
