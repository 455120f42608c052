//! Faults under load, one after the other, and after each: nothing acknowledged is lost or doubled, every answer was one
//! that a single server could have given, and all nodes say the same bytes.
//! `URSULA_TEST_EPISODES` says how many of each kind, `URSULA_TEST_SEED` which, `URSULA_TEST_LANES` on how many clusters at
//! once: an episode waits most of its time. The last lane's cluster has five nodes, and in every other lane reads are made
//! sure of by rounds of messages instead of leases.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use integration::cluster::{Cluster, Trouble};
use integration::history::History;
use integration::load::{Load, Numbers, Plan, Stream, add, judge, read_back};
use integration::random::Random;
use integration::skip;

use crate::{alone, nodes, number};

/// What is done to the cluster in one episode.
#[derive(Debug, Clone, Copy)]
enum Fault {
    KillOne,
    /// The one that leads the first stream.
    KillLeader,
    PauseLeader,
    /// Until a majority is gone, then all come back.
    KillMajority,
    KillAll,
    /// Killed again as soon as it listens.
    KillTwice,
    Pause,
    Stop,
    /// One node sees no other.
    Isolate,
    IsolateLeader,
    /// Two nodes do not see each other; others see both.
    Bridge,
    /// One node's messages to the others are lost.
    Mute,
    /// The others' messages to one node are lost.
    Deafen,
    /// Cut off and joined again, and again.
    Flap,
    /// Something is wrong with the ways around one node.
    Wires(Trouble),
    /// With all ways.
    AllWires(Trouble),
    /// With the ways from the node that leads the first stream; it hears the others.
    LeaderWires(Trouble),
}

const PROCESS: [Fault; 8] = [
    Fault::KillLeader,
    Fault::KillMajority,
    Fault::PauseLeader,
    Fault::KillOne,
    Fault::KillTwice,
    Fault::Pause,
    Fault::KillAll,
    Fault::Stop,
];

const NETWORK: [Fault; 7] = [
    Fault::Isolate,
    Fault::Bridge,
    Fault::Mute,
    Fault::IsolateLeader,
    Fault::KillLeader,
    Fault::Deafen,
    Fault::Flap,
];

const WIRES: [Fault; 10] = [
    Fault::AllWires(Trouble::Cut(4 << 10)),
    Fault::Wires(Trouble::Silent),
    Fault::AllWires(Trouble::Late(60)),
    Fault::LeaderWires(Trouble::Cut(1 << 10)),
    Fault::Wires(Trouble::Dripping),
    Fault::AllWires(Trouble::Jerky(400)),
    Fault::LeaderWires(Trouble::Silent),
    Fault::Wires(Trouble::Cut(64 << 10)),
    Fault::LeaderWires(Trouble::Late(300)),
    Fault::Wires(Trouble::Jerky(1000)),
];

/// How often each thing is answered in an episode, on the average of those so far.
const LEAST: [(&str, u64); 6] = [
    ("append Appended", 25),
    ("produce Appended", 20),
    ("read Content", 10),
    ("live Content", 10),
    ("head Tail", 8),
    ("produce Duplicate", 1),
];

/// A fault's length, or a pause in the load: no state is waited for by it.
fn last(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

fn restart(cluster: &mut Cluster) {
    for node in cluster.ids() {
        if !cluster.running().contains(&node) {
            cluster.start_node(node);
        }
    }
}

/// Makes a fault and mends it.
fn inflict(cluster: &mut Cluster, fault: Fault, first: &Stream, random: &mut Random) {
    let mut ids = cluster.ids();
    let count = ids.len();
    // All orders are possible.
    for at in (1..count).rev() {
        ids.swap(at, random.below(at as u64 + 1) as usize);
    }
    let wants_leader = matches!(
        fault,
        Fault::KillLeader | Fault::PauseLeader | Fault::IsolateLeader | Fault::LeaderWires(_)
    );
    if wants_leader && let Some(leader) = cluster.leader(&first.path) {
        ids.retain(|node| *node != leader);
        ids.insert(0, leader);
    }
    let one = ids[0];
    let others = &ids[1..];
    let down = 50 + random.below(600);
    match fault {
        Fault::KillOne | Fault::KillLeader => {
            cluster.kill(one);
            last(down);
        }
        Fault::KillMajority => {
            for node in &ids[..count / 2 + 1] {
                cluster.kill(*node);
                last(random.below(200));
            }
            last(down);
            restart(cluster);
        }
        Fault::KillAll => {
            ids.iter().for_each(|node| cluster.kill(*node));
            last(random.below(100));
        }
        Fault::KillTwice => {
            cluster.kill(one);
            cluster.start_node(one);
            last(random.below(200));
            cluster.kill(one);
            last(down);
        }
        Fault::Pause | Fault::PauseLeader => {
            cluster.pause(one);
            last(1500);
            cluster.resume(one);
        }
        Fault::Stop => {
            let status = cluster.stop(one);
            assert!(status.success(), "node {one} ended with {status}");
            last(random.below(100));
        }
        Fault::Isolate
        | Fault::IsolateLeader
        | Fault::Bridge
        | Fault::Mute
        | Fault::Deafen
        | Fault::Flap => {
            let network = cluster.network().expect("these need a network");
            let cut = || match fault {
                Fault::Bridge => network.partition(one, others[0]),
                Fault::Mute => others.iter().for_each(|to| network.drop_one_way(one, *to)),
                Fault::Deafen => others
                    .iter()
                    .for_each(|from| network.drop_one_way(*from, one)),
                _ => network.isolate(one),
            };
            cut();
            if matches!(fault, Fault::Flap) {
                for _ in 0..3 {
                    last(200 + down / 4);
                    network.heal();
                    last(100 + random.below(200));
                    cut();
                }
            }
            last(1000 + 2 * down);
            network.heal();
        }
        Fault::Wires(trouble) | Fault::AllWires(trouble) | Fault::LeaderWires(trouble) => {
            let wires = cluster.wires().expect("these need relays");
            match fault {
                Fault::LeaderWires(_) => others.iter().for_each(|to| wires.set(one, *to, trouble)),
                Fault::Wires(_) => wires.set_around(one, trouble),
                _ => ids.iter().for_each(|node| wires.set_around(*node, trouble)),
            }
            last(1000 + 2 * down);
            wires.heal();
        }
    }
    restart(cluster);
    cluster.wait_ready();
}

/// Episodes `from`, `from + step`, … below `episodes` on one cluster.
fn run(mut cluster: Cluster, faults: &[Fault], (from, step, episodes): (u32, u32, u32), seed: u64) {
    let addresses = cluster.addresses();
    let history = Arc::new(History::new());
    let numbers = Arc::new(Numbers::default());
    let mut random = Random::new(seed);
    let mut all = Vec::new();
    let mut counts = BTreeMap::<String, u64>::new();
    for episode in (from..episodes).step_by(step as usize) {
        // Each lane comes to each fault, from another one on.
        let fault = faults[(episode / step + 3 * from) as usize % faults.len()];
        let streams = Stream::some(&format!("e{episode}"), 6);
        let plan = Plan {
            seed: random.draw(),
            is_live_exact: addresses.len() == 1,
            ..Plan::default()
        };
        let load = Load::start(&addresses, &streams, &plan, &history, &numbers);
        last(200 + random.below(300));
        inflict(&mut cluster, fault, &streams[0], &mut random);
        last(200);
        // Even without a leader for a while, and on a busy machine: it goes on until there is enough to judge.
        let so_far = u64::from((episode - from) / step + 1);
        for (what, each) in LEAST {
            let before = counts.get(what).copied().unwrap_or(0);
            load.wait(&[what], (each * so_far).saturating_sub(before));
        }
        let done = load.stop();
        cluster.expect_all_alive();
        let bytes = read_back(&addresses, &streams, &history);
        let verdict = judge(&streams, &history);
        if addresses.len() > 1 {
            cluster.expect_equal_states(&cluster.ids());
        }
        let size = addresses.len();
        println!("episode {episode}, {size} nodes, {fault:?}: {bytes} bytes, {verdict:?}");
        add(&mut counts, &done);
        all.extend(streams);
    }
    // What was unknown may have come later: all is read and judged once more.
    let bytes = read_back(&addresses, &all, &history);
    let verdict = judge(&all, &history);
    let done = (from..episodes).step_by(step as usize).len();
    println!("{done} episodes of seed {seed}: {bytes} bytes, {verdict:?}, {counts:#?}");
    for node in cluster.ids() {
        let status = cluster.stop(node);
        assert!(status.success(), "node {node} ended with {status}");
    }
}

/// Runs a share of the episodes on several clusters at once; a lane that fails is reported when all have ended.
fn run_lanes(
    faults: &[Fault],
    percent: u32,
    start: impl Fn(u32, &[&str]) -> Result<Cluster, String> + Sync,
) {
    let episodes = number("URSULA_TEST_EPISODES", 100) * percent / 100;
    let seed = number("URSULA_TEST_SEED", 1);
    let lanes = number("URSULA_TEST_LANES", 4).clamp(1, episodes.max(1));
    std::thread::scope(|scope| {
        for lane in 0..lanes {
            let start = &start;
            scope.spawn(move || {
                let is_large = nodes() == 3 && lanes > 1 && lane == lanes - 1;
                let count = if is_large { 5 } else { nodes() };
                let read_mode = ["lease", "read-index"][lane as usize % 2];
                let settings = [&SETTINGS[..], &["--read-mode", read_mode]].concat();
                match start(count, &settings) {
                    Ok(cluster) => run(
                        cluster,
                        faults,
                        (lane, lanes, episodes),
                        u64::from(seed + lane),
                    ),
                    Err(reason) => skip(format!("there is no such network here: {reason}")),
                }
            });
        }
    });
}

/// Low enough that long-polls end by themselves, and checkpoints happen all the time.
pub const SETTINGS: [&str; 8] = [
    "--long-poll-ms",
    "300",
    "--checkpoint-bytes",
    "256KiB",
    "--wal-segment-bytes",
    "1MiB",
    "--hot-bytes-max",
    "64MiB",
];

#[test]
fn what_was_answered_stays_true_when_nodes_are_killed_and_paused() {
    let _alone = alone();
    run_lanes(&PROCESS, 70, |count, settings| {
        Ok(Cluster::start(count, settings))
    });
}

#[test]
fn what_was_answered_stays_true_when_connections_are_slow_and_break() {
    let _alone = alone();
    if nodes() == 1 {
        return skip("one node has no connections to others");
    }
    run_lanes(&WIRES, 30, |count, settings| {
        Cluster::start_wired(count, settings).map_err(|e| e.to_string())
    });
}

#[test]
fn what_was_answered_stays_true_when_the_network_is_cut() {
    let _alone = alone();
    if nodes() == 1 {
        return skip("one node has no network");
    }
    run_lanes(&NETWORK, 100, |count, settings| {
        Cluster::start_apart(count, settings)
    });
}
