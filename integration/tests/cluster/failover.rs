//! How long writers wait when a node dies, and when it leaves in good order. `URSULA_TEST_KILLS` says how often.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use integration::cluster::Cluster;
use integration::load::{Links, Sent, offset, position};
use integration::skip;

use crate::{alone, beside_others, nodes, number};

const STREAMS: usize = 12;

/// Each stream gets an append so often, whether or not earlier ones were answered in time.
const PERIOD: Duration = Duration::from_millis(10);

/// No gap may be longer, on the slowest machine.
const GAP_MAX: Duration = Duration::from_secs(5);

/// And of one of a hundred; alone it is below 0.5 s.
const TAIL_MAX: Duration = Duration::from_secs(2);

/// An acknowledgement: which stream, when, and who led it.
struct Acknowledged {
    stream: usize,
    at: Instant,
    leader: String,
}

/// One open-loop writer: appends are due at fixed times, and what is late is sent at once.
fn write(
    stream: usize,
    addresses: &[String],
    stop: &AtomicBool,
    acknowledged: &Sender<Acknowledged>,
) {
    let mut links = Links::new(addresses, Duration::from_secs(5));
    let path = format!("/v1/stream/failover/s{stream}");
    let (mut node, mut seq) = (stream % addresses.len(), 0_u64);
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let number = seq.to_string();
        let headers = [
            ("content-type", "text/plain"),
            ("producer-id", "w"),
            ("producer-epoch", "0"),
            ("producer-seq", &number),
        ];
        // One length, so that the position at the end tells how many there are.
        let body = format!("{seq:08}");
        match links.send(node, "POST", &path, &headers, body.as_bytes()) {
            Sent::Answered(reply) => {
                assert!(
                    matches!(reply.status, 200 | 204),
                    "{path}: {} {}",
                    reply.status,
                    reply.text()
                );
                // Who leads says nothing of itself.
                let leader = match reply.header("stream-leader-hint") {
                    "" => &addresses[node],
                    hint => hint,
                };
                let note = Acknowledged {
                    stream,
                    at: Instant::now(),
                    leader: leader.to_owned(),
                };
                if acknowledged.send(note).is_err() {
                    return;
                }
                seq += 1;
                due += PERIOD;
            }
            Sent::Refused | Sent::Unknown => {
                node = (node + 1) % addresses.len();
                // A pace for attempts while nobody leads; far below what is measured.
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
    // Each was taken once, whatever was retried.
    let deadline = Instant::now() + GAP_MAX * 6;
    loop {
        let query = format!("{path}?offset={}", offset(8 * seq.saturating_sub(1)));
        if let Sent::Answered(reply) = links.send(node, "GET", &query, &[], b"") {
            let end = position(reply.header("stream-next-offset"));
            // One more may have been taken whose answer was lost.
            assert!(
                end == 8 * seq || end == 8 * (seq + 1),
                "{path}: {seq} acknowledged, {end} bytes"
            );
            return;
        }
        assert!(Instant::now() < deadline, "{path} cannot be read");
        node = (node + 1) % addresses.len();
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What the writers were told.
struct Watch {
    notes: Receiver<Acknowledged>,
    last: Vec<Option<Instant>>,
    /// The longest gaps since the last [`Watch::settle`].
    gaps: Vec<Duration>,
    leaders: Vec<String>,
}

impl Watch {
    fn look(&mut self) {
        for note in self.notes.try_iter() {
            if let Some(before) = self.last[note.stream].replace(note.at) {
                let gap = note.at.saturating_duration_since(before);
                self.gaps[note.stream] = self.gaps[note.stream].max(gap);
            }
            self.leaders[note.stream] = note.leader;
        }
    }

    /// Waits until each of these streams was acknowledged after `since`.
    fn wait(&mut self, streams: &[usize], since: Instant) {
        let deadline = Instant::now() + GAP_MAX * 6;
        loop {
            self.look();
            let is_heard = |s: &usize| self.last[*s].is_some_and(|at| at > since);
            if streams.iter().all(is_heard) {
                return;
            }
            assert!(Instant::now() < deadline, "streams wait without an end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until all streams were acknowledged just now, and forgets the gaps before.
    fn settle(&mut self) {
        let all: Vec<_> = (0..STREAMS).collect();
        self.wait(&all, Instant::now());
        self.gaps.fill(Duration::ZERO);
    }

    /// The streams which a node leads.
    fn led_by(&self, cluster: &Cluster, node: u32) -> Vec<usize> {
        let address = cluster.address(node);
        (0..STREAMS)
            .filter(|s| self.leaders[*s] == address)
            .collect()
    }
}

/// Takes one node after the other away and brings it back; the longest gap of each stream that it led.
///
/// The median stays within `bound`, which allows for a machine that does other things too; what a quiet one has is in
/// `benches/NOTES.md`.
fn measure(name: &str, times: u32, bound: Duration, take_away: impl Fn(&mut Cluster, u32)) {
    let mut cluster = Cluster::start(nodes(), &[]);
    let addresses = cluster.addresses();
    for stream in 0..STREAMS {
        let path = format!("/v1/stream/failover/s{stream}");
        let created = cluster.client(1).create(&path, "text/plain");
        assert_eq!(created.status, 201, "{}", created.text());
    }
    let stop = Arc::new(AtomicBool::new(false));
    let (sender, notes) = channel();
    let writers: Vec<_> = (0..STREAMS)
        .map(|stream| {
            let (addresses, stop, sender) = (addresses.clone(), stop.clone(), sender.clone());
            std::thread::spawn(move || write(stream, &addresses, &stop, &sender))
        })
        .collect();
    let mut watch = Watch {
        notes,
        last: vec![None; STREAMS],
        gaps: vec![Duration::ZERO; STREAMS],
        leaders: vec![String::new(); STREAMS],
    };
    let mut found = Vec::new();
    let mut node = 0;
    for _ in 0..times {
        watch.settle();
        // The next one in turn that leads something: a node that has just come back may not yet.
        let turn = (1..=nodes()).map(|step| 1 + (node + step - 1) % nodes());
        node = turn
            .into_iter()
            .find(|n| !watch.led_by(&cluster, *n).is_empty())
            .expect("somebody leads");
        let led = watch.led_by(&cluster, node);
        take_away(&mut cluster, node);
        let gone = Instant::now();
        if nodes() == 1 {
            cluster.start_node(node);
        }
        watch.wait(&led, gone);
        found.extend(led.iter().map(|s| watch.gaps[*s]));
        if nodes() > 1 {
            cluster.start_node(node);
        }
        cluster.wait_ready();
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.join().expect("a writer's claim failed");
    }
    found.sort();
    let at = |share: usize| found[(found.len() * share / 100).min(found.len().saturating_sub(1))];
    assert!(
        found.len() >= times as usize,
        "too few streams were led: {}",
        found.len()
    );
    println!(
        "{name}: {times} times, {} streams: longest gap median {:?}, p99 {:?}, most {:?}",
        found.len(),
        at(50),
        at(99),
        at(100)
    );
    assert!(at(100) < GAP_MAX, "a stream waited for {:?}", at(100));
    assert!(at(50) < bound, "half of them waited for {:?}", at(50));
    // A disk that stands still meanwhile may cost one of them more.
    assert!(at(99) < TAIL_MAX, "some waited for {:?}", at(99));
}

/// What it was asked and cannot do, nobody will ever tell it the fate of.
#[test]
fn a_node_that_lost_the_others_ends_when_it_is_told_to() {
    let _beside = beside_others();
    if nodes() == 1 {
        return skip("there are no others");
    }
    let mut cluster = Cluster::start(nodes(), &[]);
    let path = "/v1/stream/last";
    let created = cluster.client(1).create(path, "text/plain");
    assert_eq!(created.status, 201, "{}", created.text());
    let leader = cluster.leader(path).expect("it has just answered");
    for node in cluster.ids() {
        if node != leader {
            cluster.kill(node);
        }
    }
    let lost = cluster.client(leader).append(path, "text/plain", b"x");
    assert_eq!(lost.status, 503, "{}", lost.text());
    assert_eq!(lost.header("stream-outcome"), "unknown");
    let began = Instant::now();
    let status = cluster.stop(leader);
    assert!(
        status.success(),
        "{status} after {:?}: {}",
        began.elapsed(),
        cluster.log(leader)
    );
}

#[test]
fn writers_wait_little_when_a_node_is_killed() {
    let _alone = alone();
    let kills = number("URSULA_TEST_KILLS", 50);
    measure("kill -9", kills, Duration::from_millis(500), Cluster::kill);
}

#[test]
fn writers_wait_less_when_a_node_leaves_in_good_order() {
    let _alone = alone();
    let times = number("URSULA_TEST_KILLS", 50);
    measure(
        "SIGTERM",
        times,
        Duration::from_millis(100),
        |cluster, node| {
            assert!(cluster.stop(node).success());
        },
    );
}
