//! Disks that fail as disks do (FAULTS.md, cases 1, 3, 6, 7 and 10), beneath real nodes: power cuts that lose what was not
//! synced, errors, misdirected writes and stalls. `URSULA_TEST_POWER_CUTS` says how many cuts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use integration::cluster::Cluster;
use integration::disk::Faults;
use integration::history::History;
use integration::load::{Load, Numbers, Plan, Stream, judge, read_back};
use integration::random::Random;
use integration::skip;

use crate::episodes::SETTINGS;
use crate::formation::wait_for;
use crate::{alone, beside_others, nodes, number};

/// What each write and sync of a slow disk takes longer.
const DELAY: Duration = Duration::from_secs(1);

/// A cluster each of whose nodes has a disk that can fail. `None`: there can be none here, and it says why.
fn on_disks(count: u32, settings: &[&str]) -> Option<Cluster> {
    let mut cluster = Cluster::prepare(count, settings, None);
    for node in cluster.ids() {
        if let Err(reason) = cluster.put_on_disk(node) {
            skip(reason);
            return None;
        }
        cluster.start_node(node);
    }
    cluster.wait_ready();
    Some(cluster)
}

/// A load on streams of its own; what it was told is judged at the end.
pub struct Run {
    addresses: Vec<String>,
    streams: Vec<Stream>,
    history: Arc<History>,
    load: Load,
}

impl Run {
    pub fn start(cluster: &Cluster, name: &str, seed: u64) -> Run {
        let addresses = cluster.addresses();
        let streams = Stream::some(name, 6);
        let history = Arc::new(History::new());
        let plan = Plan {
            seed,
            is_live_exact: addresses.len() == 1,
            ..Plan::default()
        };
        let numbers = Arc::new(Numbers::default());
        let load = Load::start(&addresses, &streams, &plan, &history, &numbers);
        Run {
            addresses,
            streams,
            history,
            load,
        }
    }

    pub fn end(self) -> (Vec<String>, Vec<Stream>, Arc<History>) {
        self.load.wait(&["append Appended", "read Content"], 8);
        self.load.stop();
        (self.addresses, self.streams, self.history)
    }
}

/// Reads all that a run has written, and judges all that it was told.
pub fn settle((addresses, streams, history): (Vec<String>, Vec<Stream>, Arc<History>)) {
    let bytes = read_back(&addresses, &streams, &history);
    let verdict = judge(&streams, &history);
    println!("{bytes} bytes, {verdict:?}");
}

/// Time in which a load or a fault goes on; no state is waited for by it.
fn last(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

fn power_cuts(count: u32, settings: &[&str]) {
    let Some(mut cluster) = on_disks(count, settings) else {
        return;
    };
    let mut random = Random::new(number("URSULA_TEST_SEED", 1).into());
    let cuts = number("URSULA_TEST_POWER_CUTS", 8);
    let mut told = Vec::new();
    for cut in 0..cuts {
        let run = Run::start(&cluster, &format!("cut{cut}"), random.draw());
        last(150 + random.below(400));
        // All at once, or a majority one after the other.
        let ids = cluster.ids();
        let gone = match cut % 2 {
            0 => ids,
            _ => ids[..ids.len() / 2 + 1].to_vec(),
        };
        for node in &gone {
            cluster.kill(*node);
            cluster.disk(*node).lose_power();
        }
        for node in gone {
            cluster.start_node(node);
        }
        cluster.wait_ready();
        told.push(run.end());
        if count > 1 {
            cluster.expect_equal_states(&cluster.ids());
        }
    }
    // Also what was settled before later cuts.
    told.into_iter().for_each(settle);
}

#[test]
fn a_power_cut_loses_nothing_acknowledged() {
    let _beside = beside_others();
    power_cuts(nodes(), &SETTINGS);
}

#[test]
fn a_power_cut_of_a_single_node_loses_nothing_acknowledged() {
    let _beside = beside_others();
    for sync in ["fdatasync", "dsync"] {
        power_cuts(1, &[&SETTINGS[..], &["--wal-sync", sync]].concat());
    }
}

/// The node that leads a stream fails in this way; the others take over, and it comes back with a sound disk.
fn the_leaders_disk_fails(faults: Faults) {
    if nodes() == 1 {
        return skip("nobody takes over");
    }
    let Some(mut cluster) = on_disks(3, &SETTINGS) else {
        return;
    };
    let path = "/v1/stream/failing";
    assert_eq!(cluster.client(1).create(path, "text/plain").status, 201);
    let leader = cluster.leader(path).expect("it has just answered");
    let run = Run::start(&cluster, "failing-load", 5);
    cluster.disk(leader).set(faults);
    let began = Instant::now();
    wait_for("another leads", || {
        let others = cluster.ids().into_iter().filter(|n| *n != leader);
        let says = |n: u32| cluster.leader_by(n, path).is_some_and(|now| now != leader);
        others.into_iter().any(says)
    });
    println!("{faults:?}: another led after {:?}", began.elapsed());
    let status = cluster.wait_end(leader);
    assert_eq!(status.code(), Some(74), "{}", cluster.log(leader));
    assert!(
        cluster.log(leader).contains("event=wal_failed"),
        "{}",
        cluster.log(leader)
    );
    let other = *cluster.running().first().expect("two others run");
    let appended = cluster.client(other).append(path, "text/plain", b"x");
    assert_eq!(appended.status, 204, "{}", appended.text());
    // What the failed disk had not written is gone for good.
    cluster.disk(leader).lose_power();
    cluster.disk(leader).set(Faults::default());
    cluster.start_node(leader);
    cluster.wait_ready();
    settle(run.end());
    cluster.expect_equal_states(&cluster.ids());
}

#[test]
fn a_disk_that_fails_stops_its_node_and_the_others_go_on() {
    let _beside = beside_others();
    let writes = Faults {
        writes: true,
        ..Faults::default()
    };
    let syncs = Faults {
        syncs: true,
        ..Faults::default()
    };
    // A node says for a while why it is not ready before it ends.
    std::thread::scope(|scope| {
        for faults in [writes, syncs] {
            scope.spawn(move || the_leaders_disk_fails(faults));
        }
    });
}

/// Appends while the disk of one node takes a second for each write and sync; how long each took.
fn beside_a_slow_disk(of_leader: bool) -> Option<(Cluster, Vec<Duration>)> {
    if nodes() == 1 {
        skip("one node has no others");
        return None;
    }
    let cluster = on_disks(3, &SETTINGS)?;
    let path = "/v1/stream/slow";
    let mut client = cluster.client(1);
    assert_eq!(client.create(path, "text/plain").status, 201);
    let leader = cluster.leader(path).expect("it has just answered");
    let mut ids = cluster.ids().into_iter();
    let slow = ids.find(|n| (*n == leader) == of_leader)?;
    cluster.disk(slow).set(Faults {
        delay: DELAY,
        ..Faults::default()
    });
    let mut client = cluster.client(leader);
    let mut append = || {
        let began = Instant::now();
        assert_eq!(client.append(path, "text/plain", b"x").status, 204);
        began.elapsed()
    };
    if of_leader {
        // As long as it leads, writers wait for its disk. Where the others seemed slow too, that is forgotten after a minute.
        let deadline = Instant::now() + Duration::from_secs(150);
        let is_elsewhere = || cluster.leader_by(leader, path).is_some_and(|n| n != leader);
        while !is_elsewhere() {
            assert!(Instant::now() < deadline, "{}", cluster.log(slow));
            append();
        }
        let log = cluster.log(slow);
        assert!(log.contains("event=disk_slow"), "{log}");
    }
    let mut took: Vec<Duration> = (0..200).map(|_| append()).collect();
    took.sort();
    println!("median {:?}, most {:?}", took[100], took[199]);
    Some((cluster, took))
}

// In the two that follow: a majority has each append without the slow disk. Waiting for that one would have cost each append the
// delay.

#[test]
fn a_slow_disk_of_a_follower_slows_nobody() {
    let _alone = alone();
    if let Some((_cluster, took)) = beside_a_slow_disk(false) {
        assert!(took[180] < DELAY, "{took:?}");
    }
}

#[test]
fn a_node_with_a_slow_disk_gives_its_leadership_away() {
    let _alone = alone();
    if let Some((_cluster, took)) = beside_a_slow_disk(true) {
        assert!(took[180] < DELAY, "{took:?}");
    }
}

/// The heir of a stop syncs three times before it answers: that is for a node that does so fast, if another one is as far.
#[test]
fn who_was_late_takes_nothing_over_at_a_stop() {
    let _alone = alone();
    if nodes() == 1 {
        return skip("one node has no others");
    }
    // Without the late one there still is a majority of others: whoever took over leads on.
    let Some(mut cluster) = on_disks(5, &SETTINGS) else {
        return;
    };
    let path = "/v1/stream/heir";
    assert_eq!(cluster.client(1).create(path, "text/plain").status, 201);
    // From then on nothing is handed over for balance.
    wait_for("each group is led by the node that it prefers", || {
        let groups = cluster.groups(1);
        let is_preferred = |g: &serde_json::Value| {
            g["leader"].as_u64() == g["group"].as_u64().map(|id| id % 5 + 1)
        };
        !groups.is_empty() && groups.iter().all(is_preferred)
    });
    let leader = cluster.leader(path).expect("it has answered");
    // Of those that are equally far, it would be the last.
    let mut others = cluster.ids().into_iter().filter(|n| *n != leader);
    let late = others.next_back().expect("there are four");
    let fast = others.next().expect("there are four");
    cluster.disk(late).set(Faults {
        delay: Duration::from_millis(200),
        ..Faults::default()
    });
    let mut client = cluster.client(leader);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        assert_eq!(client.append(path, "text/plain", b"x").status, 204);
    }
    let is_level = || {
        let groups = cluster.groups(leader);
        let replicas = groups.iter().filter_map(|g| g["replicas"].as_array());
        !groups.is_empty() && replicas.flatten().all(|r| r["behind"] == 0)
    };
    wait_for("all have all of the log", is_level);
    let led_before = cluster.groups_led(leader, late);
    assert!(cluster.stop(leader).success());
    wait_for("somebody leads", || cluster.leader_by(fast, path).is_some());
    assert_ne!(cluster.leader_by(fast, path), Some(late));
    let led = cluster.groups_led(fast, late);
    assert!(led.iter().all(|g| led_before.contains(g)), "{led:?}");
    cluster.expect_all_alive();
}

#[test]
fn a_write_that_lands_elsewhere_is_found_and_the_node_is_rebuilt() {
    let _beside = beside_others();
    if nodes() == 1 {
        return skip("nobody has another copy");
    }
    let Some(mut cluster) = on_disks(3, &SETTINGS) else {
        return;
    };
    let run = Run::start(&cluster, "misdirected", 9);
    let victim = 2;
    last(200);
    cluster.disk(victim).misdirect(".wal", 8192);
    wait_for("the write went astray", || !cluster.disk(victim).is_armed());
    last(200);
    cluster.kill(victim);
    cluster.start_node(victim);
    cluster.wait_ready();
    settle(run.end());
    cluster.expect_equal_states(&cluster.ids());
}

#[test]
fn a_disk_that_cannot_be_read_stops_the_start_in_words() {
    let _beside = beside_others();
    let Some(mut cluster) = on_disks(1, &SETTINGS) else {
        return;
    };
    let path = "/v1/stream/unread";
    let mut client = cluster.client(1);
    assert_eq!(client.create(path, "text/plain").status, 201);
    assert_eq!(client.append(path, "text/plain", b"kept").status, 204);
    cluster.kill(1);
    cluster.disk(1).set(Faults {
        reads: true,
        ..Faults::default()
    });
    cluster.start_node(1);
    let status = cluster.wait_end(1);
    assert!(!status.success());
    let log = cluster.log(1);
    assert!(log.contains("Input/output error"), "{status}: {log}");
    cluster.disk(1).set(Faults::default());
    cluster.start_node(1);
    cluster.wait_ready();
    assert_eq!(cluster.client(1).read_all(path), b"kept");
}
