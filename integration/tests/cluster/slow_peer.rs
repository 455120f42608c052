//! A node that takes one byte a second of what the others say to it (FAULTS.md, case 23): their memory stays bounded, and they
//! go on.

use std::time::{Duration, Instant};

use integration::cluster::{Cluster, Trouble};
use integration::skip;

use crate::writers::{BOUNDED, Writers};
use crate::{alone, nodes, number};

const TEXT: &str = "text/plain";
const STREAMS: usize = 8;

/// Of a sender, beyond what it had before: the bounds of its log, its hot bytes and its queue.
const GROWTH_MAX: u64 = 128 << 20;

/// What the others acknowledge meanwhile is more than they may grow by.
const WRITTEN_MIN: u64 = GROWTH_MAX + (32 << 20);

/// No append may wait longer, on the slowest machine.
const WAIT_MAX: Duration = Duration::from_secs(5);

fn path(stream: usize) -> String {
    format!("/v1/stream/slow-peer/s{stream}")
}

#[test]
fn a_peer_that_takes_a_byte_a_second_costs_bounded_memory_and_holds_up_nobody() {
    let _alone = alone();
    if nodes() < 3 {
        return skip("there are no others");
    }
    let cluster = Cluster::start_wired(3, &BOUNDED).expect("free ports");
    let mut client = cluster.client(1);
    for stream in 0..STREAMS {
        assert_eq!(client.create(&path(stream), TEXT).status, 201);
    }
    let addresses = cluster.addresses()[..2].to_vec();
    let patience = Duration::from_secs(10);
    let mut writers = Writers::start((0..STREAMS).map(path), &addresses, |s| s % 2, patience);
    let began = Instant::now();
    // Its memory fills as it does without a fault.
    while writers.bytes() < 64 << 20 && began.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let before = [1, 2].map(|node| cluster.resident_bytes(node));
    let wires = cluster.wires().expect("it has some");
    for node in [1, 2] {
        wires.set(node, 3, Trouble::Trickling);
    }
    let (since, began) = (writers.bytes(), Instant::now());
    writers.take_longest_wait();
    let mut most = before;
    let least = WRITTEN_MIN * u64::from(number("URSULA_TEST_ROUNDS", 1));
    while writers.bytes() - since < least && began.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(50));
        for (most, node) in most.iter_mut().zip([1, 2]) {
            *most = (*most).max(cluster.resident_bytes(node));
        }
    }
    let meanwhile = writers.bytes() - since;
    wires.heal();
    let all = writers.stop();
    let waited = writers.take_longest_wait();
    let mib = |bytes: [u64; 2]| bytes.map(|b| b >> 20);
    println!(
        "{} MiB written in {:?}; nodes 1 and 2 had {:?} MiB, at most {:?}; the longest wait {waited:?}",
        meanwhile >> 20,
        began.elapsed(),
        mib(before),
        mib(most),
    );
    assert!(meanwhile >= least, "too little load: {meanwhile} bytes");
    for (most, before) in most.iter().zip(before) {
        assert!(*most < before + GROWTH_MAX, "from {before} to {most} bytes");
    }
    assert!(waited < WAIT_MAX, "an append waited for {waited:?}");
    all.expect_all(&cluster);
}
