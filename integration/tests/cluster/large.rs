//! The largest bodies that a cluster takes (FAULTS.md, R21), through nodes that do not lead.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use integration::Client;
use integration::cluster::{Cluster, PATIENCE};
use integration::skip;

use crate::{alone, nodes};

const BYTES: &str = "application/octet-stream";

/// The default of `body_bytes_max`, and what a cluster may set at most.
const BODIES: [usize; 2] = [32 << 20, 60 << 20];

/// Its place in the body tells each piece of it.
fn body(length: usize) -> Vec<u8> {
    let words = (0..length as u64 / 8).flat_map(|at| (at * 0x9e37_79b9).to_le_bytes());
    words.collect()
}

/// All of a stream is these bodies, one after the other.
fn expect(client: &mut Client, path: &str, bodies: &[Vec<u8>]) {
    let found = client.read_all(path);
    let length: usize = bodies.iter().map(Vec::len).sum();
    assert_eq!(found.len(), length, "{path}");
    let mut from = 0;
    for body in bodies {
        assert!(
            found[from..from + body.len()] == body[..],
            "{path} from {from}"
        );
        from += body.len();
    }
}

/// As a producer: on a loaded machine the answer may come too late for the node that was asked.
fn append(cluster: &Cluster, node: u32, (path, number): (&str, usize), body: &[u8]) {
    let (began, seq) = (Instant::now(), number.to_string());
    let headers = [
        ("content-type", BYTES),
        ("producer-id", "writer"),
        ("producer-epoch", "0"),
        ("producer-seq", seq.as_str()),
    ];
    for attempt in 1.. {
        let reply = cluster.client(node).send("POST", path, &headers, body);
        if matches!(reply.status, 200 | 204) {
            let took = began.elapsed();
            println!(
                "{} bytes through node {node}: attempt {attempt}, {took:?}",
                body.len()
            );
            return;
        }
        assert_eq!(reply.status, 503, "{}", reply.text());
        assert!(began.elapsed() < PATIENCE, "{}", reply.text());
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn the_largest_body_goes_through_a_follower_to_all() {
    let _alone = alone();
    if nodes() < 3 {
        return skip("there is no follower");
    }
    let mut cluster = Cluster::start(3, &["--body-bytes-max", "60MiB"]);
    let path = "/v1/stream/large";
    assert_eq!(cluster.client(1).create(path, BYTES).status, 201);
    let leader = cluster.leader(path).expect("it has just answered");
    let followers = cluster.ids().into_iter().filter(|node| *node != leader);
    let bodies: Vec<Vec<u8>> = BODIES.into_iter().map(body).collect();
    for (at, (follower, body)) in followers.clone().zip(&bodies).enumerate() {
        append(&cluster, follower, (path, at), body);
    }
    let follower = followers.max().expect("two follow");
    let mut longer = body(BODIES[1]);
    longer.push(0);
    let length = longer.len().to_string();
    let mut client = cluster.client(follower);
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: {BYTES}\r\ncontent-length: {length}\r\n\r\n"
    );
    client.write(head.as_bytes()).expect("it is open");
    assert_eq!(client.read_head().expect("an answer").0, 413);
    for node in cluster.ids() {
        expect(&mut cluster.client(node), path, &bodies);
    }
    // Also from what is on the disks, and by the next leader.
    for node in cluster.ids() {
        cluster.kill(node);
    }
    for node in cluster.ids() {
        cluster.start_node(node);
    }
    cluster.wait_ready();
    append(&cluster, follower, (path, 2), b"the end;");
    let bodies = [bodies, vec![b"the end;".to_vec()]].concat();
    for node in cluster.ids() {
        expect(&mut cluster.client(node), path, &bodies);
    }
    cluster.expect_equal_states(&[1, 2, 3]);
}

/// For how long a group's step has kept the node's core, in seconds, in the time that is looked back on.
fn longest_step(cluster: &Cluster, node: u32) -> f64 {
    let text = cluster
        .client(node)
        .send("GET", "/metrics", &[], b"")
        .text();
    let name = "ursula_longest_task_seconds{";
    let line = text.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.rsplit(' ').next());
    value.expect("each node says it").parse().expect("a number")
}

/// No step of it keeps a core for long.
#[test]
fn while_the_largest_body_is_carried_its_core_answers_others() {
    let _alone = alone();
    if nodes() < 3 {
        return skip("there is no follower");
    }
    let cluster = Cluster::start(3, &["--body-bytes-max", "60MiB", "--core-count", "1"]);
    let path = "/v1/stream/large";
    assert_eq!(cluster.client(1).create(path, BYTES).status, 201);
    let leader = cluster.leader(path).expect("it has just answered");
    let led_there = (0..)
        .map(|n| format!("/v1/stream/small-{n}"))
        .find(|small| {
            assert_eq!(cluster.client(1).create(small, BYTES).status, 201);
            cluster.leader(small) == Some(leader)
        });
    let small = led_there.expect("each node leads some");
    let body = body(BODIES[1]);
    let mut client = cluster.client(leader);
    for (number, node) in cluster.ids().into_iter().enumerate() {
        let is_done = AtomicBool::new(false);
        let answered = std::thread::scope(|scope| {
            scope.spawn(|| {
                append(&cluster, node, (path, number), &body);
                is_done.store(true, Ordering::Relaxed);
            });
            let mut answered = 0;
            while !is_done.load(Ordering::Relaxed) {
                // On a loaded machine the leader may change: then it says so at once.
                let reply = client.append(&small, BYTES, b"x");
                assert!(matches!(reply.status, 200 | 204 | 503), "{}", reply.text());
                answered += u32::from(reply.status != 503);
            }
            answered
        });
        println!("{answered} small appends were answered meanwhile");
        assert!(answered > 2, "only {answered} were answered meanwhile");
    }
    for node in cluster.ids() {
        let longest = longest_step(&cluster, node);
        println!("node {node}: a step took {longest} s at most");
        // 20 ms on a quiet machine, and some 300 when a body was copied, summed up and compressed in one piece.
        assert!(longest < 0.3, "node {node}: a step of {longest} s");
    }
    cluster.expect_equal_states(&[1, 2, 3]);
}
