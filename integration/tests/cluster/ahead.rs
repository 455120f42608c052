//! A live reader may be told by any replica, and a follower can know of an append before its leader has applied it. What
//! any client has seen, no later answer of any node may lack.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use integration::cluster::Cluster;
use integration::load::{Links, Sent, offset, position};

use crate::{beside_others, nodes, number};

const STREAMS: usize = 4;

/// Appends as fast as it is answered.
fn write(path: &str, addresses: &[String], stop: &AtomicBool) {
    let mut links = Links::new(addresses, Duration::from_secs(5));
    let mut turn = 0;
    while !stop.load(Ordering::Relaxed) {
        turn += 1;
        let headers = [("content-type", "text/plain")];
        if let Sent::Answered(reply) =
            links.send(turn % addresses.len(), "POST", path, &headers, b"12345678")
        {
            assert_eq!(reply.status, 204, "{}", reply.text());
        }
    }
}

/// Follows at one node; whatever it is told, it asks all nodes for at once.
fn follow(path: &str, node: usize, addresses: &[String], stop: &AtomicBool, seen: &AtomicU64) {
    let mut links = Links::new(addresses, Duration::from_secs(5));
    let mut from = 0;
    while !stop.load(Ordering::Relaxed) {
        let query = format!("{path}?offset={}&live=long-poll", offset(from));
        let Sent::Answered(reply) = links.send(node, "GET", &query, &[], b"") else {
            continue;
        };
        assert!(matches!(reply.status, 200 | 204), "{}", reply.text());
        let next = position(reply.header("stream-next-offset"));
        assert!(next >= from, "{path}: back from {from} to {next}");
        if next == from {
            continue;
        }
        from = next;
        for other in 0..addresses.len() {
            if let Sent::Answered(reply) = links.send(other, "HEAD", path, &[], b"") {
                let tail = position(reply.header("stream-next-offset"));
                assert!(
                    tail >= next,
                    "{path}: node {} told of {next}, after that node {} says {tail}",
                    node + 1,
                    other + 1
                );
                seen.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[test]
fn what_a_live_reader_was_told_no_later_answer_lacks() {
    let _beside = beside_others();
    let cluster = Cluster::start(nodes(), &["--long-poll-ms", "300"]);
    let addresses = cluster.addresses();
    let stop = Arc::new(AtomicBool::new(false));
    let seen = Arc::new(AtomicU64::new(0));
    let mut threads = Vec::new();
    for stream in 0..STREAMS {
        let path = format!("/v1/stream/ahead/s{stream}");
        let created = cluster.client(1).create(&path, "text/plain");
        assert_eq!(created.status, 201, "{}", created.text());
        for node in 0..addresses.len() {
            let (path, addresses) = (path.clone(), addresses.clone());
            let (stop, seen) = (stop.clone(), seen.clone());
            threads.push(std::thread::spawn(move || {
                follow(&path, node, &addresses, &stop, &seen);
            }));
        }
        let (addresses, stop) = (addresses.clone(), stop.clone());
        threads.push(std::thread::spawn(move || write(&path, &addresses, &stop)));
    }
    // The length of the load.
    let seconds = number("URSULA_TEST_SECONDS", 5);
    std::thread::sleep(Duration::from_secs(seconds.into()));
    stop.store(true, Ordering::Relaxed);
    let failed = threads.into_iter().filter_map(|t| t.join().err()).count();
    let seen = seen.load(Ordering::Relaxed);
    println!("{seen} answers compared");
    assert_eq!(failed, 0, "clients who saw the past; see above");
    assert!(seen > 300, "too few to mean anything: {seen}");
}
