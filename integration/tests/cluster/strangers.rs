//! Who may not speak to a node: other clusters, other settings, other nodes under a known number, and those that speak
//! nonsense or nothing. Each is refused in words that name both values, and the node serves on. What a stock gRPC client can
//! say wrongly is in `grpc.rs`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use integration::cluster::Cluster;
use integration::skip;

use crate::formation::{wait_for, works};
use crate::{beside_others, nodes};

/// A line of a node's log has all of these words.
fn says(cluster: &Cluster, node: u32, words: &[&str]) -> bool {
    let log = cluster.log(node);
    log.lines()
        .any(|line| words.iter().all(|w| line.contains(w)))
}

#[test]
fn a_node_with_other_settings_is_refused_with_both_values() {
    let _beside = beside_others();
    if nodes() == 1 {
        return skip("one node meets nobody");
    }
    let mut cluster = Cluster::prepare(3, &[], None);
    cluster.start_node(1);
    cluster.start_node(2);
    cluster.wait_ready();
    let table = [
        (
            ["--cluster-id", "another-one"],
            "\\\"another-one\\\"",
            "\\\"test\\\"",
        ),
        (["--raft-group-count", "7"], "group_count is", "7"),
        (
            ["--election-timeout-ms", "900ms"],
            "election_timeout_ms is",
            "900",
        ),
    ];
    for (settings, one, other) in table {
        cluster.set(3, &settings);
        cluster.start_node(3);
        // Both sides say what differs, and where the other is.
        let (here, there) = (cluster.cluster_address(1), cluster.cluster_address(3));
        for (node, place) in [(1, there), (3, here)] {
            wait_for("both values are named", || {
                says(&cluster, node, &[one, other, " here and ", place])
            });
        }
        assert!(!cluster.is_ready(3), "{settings:?}: ready among strangers");
        cluster.kill(3);
        cluster.wipe(3);
    }
    works(&cluster, "undisturbed");
    cluster.set(3, &[]);
    cluster.start_node(3);
    cluster.wait_ready();
    cluster.expect_equal_states(&[1, 2, 3]);
}

#[test]
fn a_second_node_of_a_number_and_one_that_nobody_added_are_refused() {
    let _beside = beside_others();
    if nodes() == 1 {
        return skip("one node meets nobody");
    }
    let mut cluster = Cluster::start(3, &[]);
    works(&cluster, "before");
    // It knows the cluster's name and settings, and has node 2's number, but not its data.
    let stranger = cluster.prepare_another();
    cluster.set(stranger, &["--node-id", "2"]);
    cluster.found(stranger);
    cluster.start_node(stranger);
    for node in [1, 3] {
        wait_for("its data directory is not the known one", || {
            says(&cluster, node, &["node 2 has another data directory"])
        });
    }
    assert!(!cluster.is_ready(stranger), "ready as somebody else");
    cluster.kill(stranger);
    cluster.wipe(stranger);
    // A number that nobody has.
    let named = cluster.ids().into_iter();
    let named = named.map(|n| format!("{n}={}", cluster.cluster_address(n)));
    let named = named.collect::<Vec<_>>().join(",");
    cluster.set(stranger, &["--peers", &named]);
    cluster.start_node(stranger);
    for node in [1, 2, 3] {
        wait_for("it is no member", || {
            says(&cluster, node, &["node 4 is not a member"])
        });
    }
    assert!(!cluster.is_ready(stranger), "ready among strangers");
    cluster.kill(stranger);
    works(&cluster, "after");
    cluster.expect_equal_states(&[1, 2, 3]);
}

/// Sends this and waits until the node closes the connection.
fn until_closed(address: &str, bytes: &[u8], patience: Duration) {
    let mut stream = TcpStream::connect(address).expect("the node listens");
    stream
        .set_read_timeout(Some(patience))
        .expect("a valid time");
    // It may close in the middle.
    let _ = stream.write_all(bytes);
    let mut answer = [0; 4096];
    loop {
        match stream.read(&mut answer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return,
            Err(e) => panic!("{:?}: not closed: {e}", &bytes[..bytes.len().min(30)]),
        }
    }
}

#[test]
fn who_speaks_nonsense_or_nothing_at_the_cluster_port_is_let_go() {
    let _beside = beside_others();
    if nodes() == 1 {
        return skip("one node has no such port");
    }
    let mut cluster = Cluster::start(3, &[]);
    works(&cluster, "before");
    let before = cluster.resident_bytes(1);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let noise: Vec<u8> = (0..1_000_000u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let address = cluster.cluster_address(1).to_owned();
    let patience = Duration::from_secs(20);
    std::thread::scope(|scope| {
        for _ in 0..100 {
            // Nothing, half a greeting, HTTP/1, TLS, noise before and after the greeting, a frame that is too long.
            scope.spawn(|| until_closed(&address, b"", patience));
            scope.spawn(|| until_closed(&address, &preface[..10], patience));
        }
        for _ in 0..5 {
            scope.spawn(|| until_closed(&address, b"GET / HTTP/1.1\r\n\r\n", patience));
            scope.spawn(|| until_closed(&address, b"\x16\x03\x01\x02\x00\x01\x00", patience));
            scope.spawn(|| until_closed(&address, &noise, patience));
            scope.spawn(|| until_closed(&address, &[&preface[..], &noise].concat(), patience));
            scope.spawn(|| {
                let long = [&preface[..], &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat();
                until_closed(&address, &long, patience);
            });
        }
        // A byte now and then does not keep a connection for ever.
        scope.spawn(|| {
            let mut stream = TcpStream::connect(&address).expect("the node listens");
            let began = Instant::now();
            for byte in preface.iter().cycle() {
                if stream.write_all(&[*byte]).is_err() {
                    return;
                }
                assert!(began.elapsed() < patience, "it may drip for ever");
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        works(&cluster, "meanwhile");
    });
    works(&cluster, "after");
    let after = cluster.resident_bytes(1);
    println!(
        "resident {} KiB before, {} after",
        before >> 10,
        after >> 10
    );
    assert!(after < before + (64 << 20), "{before} grew to {after}");
    cluster.expect_all_alive();
    cluster.expect_equal_states(&[1, 2, 3]);
}
