//! What one core counts, and how it is shown to Prometheus. Plain cells: a core counts alone.

mod cold;
mod histogram;
pub mod node;
mod render;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use storage::cold::ColdRequest;

pub use self::cold::ColdPrices;
use self::cold::ColdRequests;
pub use self::histogram::Histogram;
pub use self::render::render;
use crate::http::backend::Operation;

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
    /// Open connections from other nodes.
    peer_connections: "gauge", "Open connections from other nodes and from operators' commands.";
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
    /// Groups.
    groups: "gauge", "Groups that have a replica on this core.";
    /// Groups without a leader.
    groups_leaderless: "gauge", "Groups of this core of which it knows no leader.";
    /// Led groups with a voter that is away.
    groups_under_replicated: "gauge", "Groups led here with a voter that is silent, gets a checkpoint, or is more than five seconds behind.";
    /// Led groups that lose their majority next.
    groups_at_risk: "gauge", "Groups led here that have no majority any more once one more voter goes.";
    /// The WAL failed.
    core_failed: "gauge", "Whether a write or sync of the core's log failed: its groups have stopped for good.";
    /// The disk is slow.
    core_disk_slow: "gauge", "Whether a sync of the core took over a second within the last minute: it leads no group that another node could.";
    /// The disk is full.
    core_disk_full: "gauge", "Whether the core refuses writes until its disk has room.";
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
    /// Bytes since the last checkpoint.
    wal_uncheckpointed_bytes: "gauge", "Bytes written to the WAL since the last round of checkpoints began.";
    /// Checkpoints that failed.
    checkpoint_failures_total: "counter", "Checkpoints that found no room or failed.";
    /// When the last checkpoint was written.
    last_checkpoint_timestamp_seconds: "gauge", "When the core wrote its last checkpoint, in seconds since 1970; 0: not since the start.";
    /// Stalls of the reactor.
    reactor_stalls_total: "counter", "Times that the core's clock came 25 ms or more too late, because a task kept the executor or the machine the CPU.";
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
    /// Certificates.
    cold_certificate_expires_timestamp_seconds: "gauge", "When the first of the certificates ends that the cold store's server showed last, in seconds since 1970; 0: it has shown none.";
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
    /// Chunks of the disk cache.
    cache_hits_total: "counter", "Chunks that the cache on the local disk had.";
    /// Chunks that it lacked.
    cache_misses_total: "counter", "Chunks that neither memory nor the cache on the local disk had.";
    /// Its bytes.
    cache_bytes: "gauge", "Bytes of chunks in the cache on the local disk.";
    /// Its chunks.
    cache_chunks: "gauge", "Chunks in the cache on the local disk.";
    /// Its writes.
    cache_written_bytes_total: "counter", "Bytes written to the cache on the local disk.";
    /// Its evictions.
    cache_evictions_total: "counter", "Chunks that left the cache on the local disk for others.";
    /// Not taken.
    cache_dropped_total: "counter", "Chunks that the cache did not take, since its disk was behind.";
    /// Damage.
    cache_damaged_total: "counter", "Chunks of the cache that were not what had been written; they were fetched anew.";
    /// Failures.
    cache_failures_total: "counter", "Reads and writes of the cache that failed; after a write, it takes nothing more.";
    /// Scrubbed bytes.
    scrub_bytes_total: "counter", "Bytes at rest that the scrub found sound.";
    /// Scrub rounds.
    scrub_rounds_total: "counter", "Rounds of the scrub through all that the core has at rest.";
    /// What it found.
    scrub_damaged_total: "counter", "Files, cached chunks and objects that the scrub newly found damaged or missing; the log names them.";
    /// Files that are so now.
    scrub_damaged_files: "gauge", "Files of this node that are known to be damaged now.";
    /// Objects that are so now.
    scrub_damaged_objects: "gauge", "Objects of the cold store that are known to be damaged or missing now, by the scrub or by a read.";
    /// What became of it.
    scrub_repaired_total: "counter", "Those of them that were made good: fetched anew, read again, written again, or the node's replicas built anew by the others.";
    /// Packs put right.
    packs_mended_total: "counter", "Local packs that were damaged and got the same bytes from other nodes.";
    /// Objects put right.
    cold_packs_rescued_total: "counter", "Objects of the cold store that were damaged or gone, of which all that is needed was found elsewhere and written again.";
    /// What is lost.
    cold_lost_bytes: "gauge", "Bytes of streams whose object in the cold store is damaged or gone and of which no copy was found, in the groups led here; the log names streams and ranges (event=bytes_lost).";
    /// When it ended.
    scrub_last_round_timestamp_seconds: "gauge", "When the scrub last ended a round, in seconds since 1970; 0: not since the start.";
    /// Failed reads.
    cold_read_failures_total: "counter", "Reads of the cold store that failed.";
    /// What would be lost.
    dr_lag_seconds: "gauge", "With --dr: what was acknowledged longer ago is in the backup, for the groups led here; what is newer would be lost with all nodes. Where a leadership began and the store does not say what was shipped before, rather too much: up to a year.";
    /// Groups without a state in the backup.
    dr_groups_without_base: "gauge", "With --dr: groups led here whose state this leadership has not shipped yet.";
    /// Objects.
    dr_objects_total: "counter", "Objects shipped to the backup, one request each.";
    /// Their bytes.
    dr_bytes_total: "counter", "Bytes of those objects.";
    /// Failed rounds.
    dr_failures_total: "counter", "Times that something could not be shipped to the backup; it is tried again.";
    /// Collected objects.
    dr_objects_deleted_total: "counter", "Objects of the backup that no time needs any more which it can be restored to.";
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct CoreMetrics {
    /// Counters and gauges.
    pub plain: Plain,
    requests: RefCell<[Requests; OPERATIONS.len()]>,
    append_stages: RefCell<[Histogram; STAGES.len()]>,
    wal_sync: RefCell<Histogram>,
    delivery: RefCell<Histogram>,
    reactor_delay: RefCell<Histogram>,
    longest_task: LongestTask,
    refusals: RefCell<BTreeMap<&'static str, u64>>,
    cold: RefCell<ColdRequests>,
}

/// The longest task of the last one to two windows, in microseconds.
#[derive(Debug, Default)]
struct LongestTask {
    this: Cell<u64>,
    last: Cell<u64>,
    began_us: Cell<u64>,
}

/// Longer than the usual time between two scrapes, so that none misses one.
const TASK_WINDOW_US: u64 = 60_000_000;

/// From here on a delay of the reactor is a stall.
const STALL_US: u64 = 25_000;

const STAGES: [&str; 4] = ["queue", "sync", "replicate", "apply"];

/// The bounds at which a core refuses something with `503`; `tidy.rs` looks for those that are missing.
const BOUNDS: [&str; 12] = [
    "abandoned_forks_max",
    "body_bytes_in_flight_max",
    "cold_behind_bytes_max",
    "connections_max",
    "core_queue",
    "disk_space",
    "hot_bytes_max",
    "live_readers_max",
    "requests_in_flight_max",
    "requests_without_leader",
    "unconfirmed_holds_max",
    "uncommitted_bytes_max",
];

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
    pub fn committed(&self, micros: [u64; STAGES.len()]) {
        let mut stages = self.append_stages.borrow_mut();
        for (stage, micros) in stages.iter_mut().zip(micros) {
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

    /// Something was refused at a bound. What only a newer node knows is not counted: it is that node's.
    pub fn refused(&self, bound: &'static str) {
        if !BOUNDS.contains(&bound) {
            return;
        }
        *self.refusals.borrow_mut().entry(bound).or_default() += 1;
    }

    /// An append was handed to a live reader so long after this core had heard of it.
    pub fn delivered(&self, micros: u64) {
        self.delivery.borrow_mut().record(micros);
    }

    /// The core's clock came so much too late.
    pub fn ticked(&self, late_us: u64) {
        self.reactor_delay.borrow_mut().record(late_us);
        if late_us >= STALL_US {
            add(&self.plain.reactor_stalls_total, 1);
        }
    }

    /// A task kept the executor from `began_us` to `ended_us`.
    pub fn task(&self, began_us: u64, ended_us: u64) {
        let longest = &self.longest_task;
        if ended_us - longest.began_us.get() >= TASK_WINDOW_US {
            longest.began_us.set(ended_us);
            longest.last.set(longest.this.replace(0));
        }
        let micros = ended_us - began_us;
        if micros > longest.this.get() {
            longest.this.set(micros);
        }
    }

    /// All series of this core.
    pub fn snapshot(&self, core: u16, gauges: Gauges) -> CoreSnapshot {
        let longest = &self.longest_task;
        CoreSnapshot {
            core,
            gauges,
            delivery: self.delivery.borrow().clone(),
            reactor_delay: self.reactor_delay.borrow().clone(),
            longest_task_us: longest.this.get().max(longest.last.get()),
            plain: self.plain.values(),
            requests: self.requests.borrow().clone(),
            append_stages: self.append_stages.borrow().clone(),
            wal_sync: self.wal_sync.borrow().clone(),
            cold: self.cold.borrow().clone(),
            refusals: BOUNDS
                .iter()
                .map(|bound| {
                    (
                        *bound,
                        self.refusals.borrow().get(bound).copied().unwrap_or(0),
                    )
                })
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
    append_stages: [Histogram; STAGES.len()],
    wal_sync: Histogram,
    delivery: Histogram,
    reactor_delay: Histogram,
    longest_task_us: u64,
    cold: ColdRequests,
    refusals: Vec<(&'static str, u64)>,
    gauges: Gauges,
}

impl CoreSnapshot {
    /// Requests that were answered.
    pub fn requests_total(&self) -> u64 {
        let statuses = self.requests.iter().flat_map(|r| &r.statuses);
        statuses.map(|(_, count)| count).sum()
    }
}

/// What has labels of its own and is looked at only when it is asked for.
#[derive(Debug, Clone, Default)]
pub struct Gauges {
    /// How full each bounded queue is, from 0 to 1.
    pub saturation: Vec<(&'static str, f64)>,
    /// What requests to the cold store are billed with.
    pub prices: ColdPrices,
    /// The other nodes.
    pub peers: Vec<PeerGauges>,
}

/// How this core and its groups are with another node.
#[derive(Debug, Clone, Default)]
pub struct PeerGauges {
    /// The node.
    pub node: u64,
    /// The link works.
    pub is_up: bool,
    /// Summed over the groups led here.
    pub lag_entries: u64,
    /// Summed over the groups led here.
    pub lag_bytes: u64,
    /// Of the group that is furthest behind.
    pub lag_us: u64,
    /// The other's wall clock minus the own one, where it was measured.
    pub clock_offset_ms: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_is_described_once_and_each_series_has_its_core() {
        let metrics = CoreMetrics::default();
        metrics.answered(Operation::Append, 204, 120, 10);
        metrics.wal_committed(4096, 2, 300);
        let text = render(
            &node::NodeGauges::default(),
            &[
                Some(metrics.snapshot(0, Gauges::default())),
                None,
                Some(metrics.snapshot(2, Gauges::default())),
            ],
        );
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
