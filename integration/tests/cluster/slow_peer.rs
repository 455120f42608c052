//! A node that takes one byte a second of what the others say to it (FAULTS.md, case 23): their memory stays bounded, and they
//! go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use integration::cluster::{Cluster, Trouble};
use integration::load::{Links, Sent, position};

use crate::{alone, nodes, number};

const TEXT: &str = "text/plain";
const STREAMS: usize = 8;

const BODY_BYTES: u64 = 16 << 10;

/// Of a sender, beyond what it had before: the bounds of its log, its hot bytes and its queue.
const GROWTH_MAX: u64 = 128 << 20;

/// What the others acknowledge meanwhile is more than they may grow by.
const WRITTEN_MIN: u64 = GROWTH_MAX + (32 << 20);

/// No append may wait longer, on the slowest machine.
const WAIT_MAX: Duration = Duration::from_secs(5);

fn path(stream: usize) -> String {
    format!("/v1/stream/slow-peer/s{stream}")
}

/// Appends through the two sound nodes; how many were acknowledged, how many may have been, and the longest wait for one.
fn write(
    stream: usize,
    addresses: &[String],
    stop: &AtomicBool,
    acknowledged: &AtomicU64,
    waited_ms: &AtomicU64,
) -> (u64, u64) {
    let mut links = Links::new(addresses, Duration::from_secs(10));
    let body = [b'x'; BODY_BYTES as usize];
    let (mut sure, mut unsure) = (0, 0);
    let mut began = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let headers = [("content-type", TEXT)];
        match links.send(stream % 2, "POST", &path(stream), &headers, &body) {
            Sent::Answered(reply) => {
                assert_eq!(reply.status, 204, "{}", reply.text());
                waited_ms.fetch_max(began.elapsed().as_millis() as u64, Ordering::Relaxed);
                acknowledged.fetch_add(1, Ordering::Relaxed);
                sure += 1;
                began = Instant::now();
            }
            Sent::Refused => std::thread::sleep(Duration::from_millis(5)),
            Sent::Unknown => unsure += 1,
        }
    }
    (sure, unsure)
}

#[test]
fn a_peer_that_takes_a_byte_a_second_costs_bounded_memory_and_holds_up_nobody() {
    let _alone = alone();
    if nodes() < 3 {
        return println!("skipped: there are no others");
    }
    let settings = [
        "--hot-bytes-max",
        "64MiB",
        "--checkpoint-bytes",
        "8MiB",
        "--wal-segment-bytes",
        "8MiB",
    ];
    let cluster = Cluster::start_wired(3, &settings).expect("free ports");
    let mut client = cluster.client(1);
    for stream in 0..STREAMS {
        assert_eq!(client.create(&path(stream), TEXT).status, 201);
    }
    let stop = AtomicBool::new(false);
    let (acknowledged, waited_ms) = (AtomicU64::new(0), AtomicU64::new(0));
    let addresses = Arc::new(cluster.addresses()[..2].to_vec());
    let counts: Vec<(u64, u64)> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..STREAMS)
            .map(|stream| {
                let addresses = addresses.clone();
                let (stop, acknowledged, waited_ms) = (&stop, &acknowledged, &waited_ms);
                scope.spawn(move || write(stream, &addresses, stop, acknowledged, waited_ms))
            })
            .collect();
        let written = || acknowledged.load(Ordering::Relaxed) * BODY_BYTES;
        let began = Instant::now();
        // Its memory fills as it does without a fault.
        while written() < 64 << 20 && began.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let before = [1, 2].map(|node| cluster.resident_bytes(node));
        let wires = cluster.wires().expect("it has some");
        for node in [1, 2] {
            wires.set(node, 3, Trouble::Trickling);
        }
        let (since, began) = (written(), Instant::now());
        waited_ms.store(0, Ordering::Relaxed);
        let mut most = before;
        let least = WRITTEN_MIN * u64::from(number("URSULA_TEST_ROUNDS", 1));
        while written() - since < least && began.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(50));
            for (most, node) in most.iter_mut().zip([1, 2]) {
                *most = (*most).max(cluster.resident_bytes(node));
            }
        }
        let meanwhile = written() - since;
        let mib = |bytes: [u64; 2]| bytes.map(|b| b >> 20);
        println!(
            "{} MiB written in {:?}; nodes 1 and 2 had {:?} MiB, at most {:?}; the longest wait {} ms",
            meanwhile >> 20,
            began.elapsed(),
            mib(before),
            mib(most),
            waited_ms.load(Ordering::Relaxed)
        );
        wires.heal();
        stop.store(true, Ordering::Relaxed);
        assert!(meanwhile >= least, "too little load: {meanwhile} bytes");
        for (most, before) in most.iter().zip(before) {
            assert!(*most < before + GROWTH_MAX, "from {before} to {most} bytes");
        }
        writers
            .into_iter()
            .map(|w| w.join().expect("a writer's claim failed"))
            .collect()
    });
    let waited = Duration::from_millis(waited_ms.load(Ordering::Relaxed));
    assert!(waited < WAIT_MAX, "an append waited for {waited:?}");
    cluster.expect_equal_states(&[1, 2, 3]);
    for (stream, (sure, unsure)) in counts.into_iter().enumerate() {
        for node in [1, 2, 3] {
            let head = cluster.client(node).send("HEAD", &path(stream), &[], b"");
            let tail = position(head.header("stream-next-offset")) / BODY_BYTES;
            assert!(
                (sure..=sure + unsure).contains(&tail),
                "stream {stream}: {sure} acknowledged, {tail} there"
            );
        }
    }
}
