//! Retention in a cluster: the leader cuts, every node shows the same, and a new leader goes on where the old one ended.

use std::time::Instant;

use integration::cluster::{Cluster, PATIENCE};

use crate::formation::wait_for;
use crate::nodes;

const TEXT: &str = "text/plain";

/// Bytes that a reader from the start gets at this node, once they are no more than `bytes`.
fn until_at_most(cluster: &Cluster, node: u32, path: &str, bytes: usize) -> Vec<u8> {
    let read = || cluster.client(node).read_all(path);
    wait_for("few bytes", || read().len() <= bytes);
    read()
}

#[test]
fn what_a_stream_keeps_is_the_same_on_every_node_and_after_a_fail_over() {
    let mut cluster = Cluster::start(nodes(), &["--checkpoint-bytes", "64KiB"]);
    let path = "/v1/stream/kept";
    let headers = [("content-type", TEXT), ("stream-max-bytes", "10000")];
    let mut client = cluster.client(1);
    assert_eq!(client.send("PUT", path, &headers, b"").status, 201);
    let first = client.append(path, TEXT, &[b'a'; 100]).next();
    for _ in 0..300 {
        assert_eq!(client.append(path, TEXT, &[b'a'; 100]).status, 204);
    }
    for node in cluster.ids() {
        let found = until_at_most(&cluster, node, path, 10_600);
        assert!(found.len() >= 10_000, "node {node}: {}", found.len());
        let early = cluster.client(node).get(&format!("{path}?offset={first}"));
        assert_eq!(early.status, 410, "node {node}");
        assert!(!early.header("stream-earliest-offset").is_empty());
    }
    if nodes() == 1 {
        return;
    }
    let leader = cluster.leader(path).expect("somebody leads");
    let follower = cluster.ids().into_iter().find(|n| *n != leader).unwrap();
    let floor = client.append(path, TEXT, &[b'a'; 100]).next();
    let url = format!("{path}/retention/{floor}");
    let put = |headers| cluster.client(follower).send("PUT", &url, headers, b"");
    let redirected = put(&[("prefer", "redirect")]);
    assert_eq!(redirected.status, 307);
    let leads = cluster.address(leader);
    assert_eq!(
        redirected.header("location"),
        format!("http://{leads}{url}")
    );
    let cut = put(&[]);
    assert_eq!(cut.status, 204, "{}", cut.text());
    assert_eq!(cut.header("stream-leader-hint"), leads);
    cluster.kill(leader);
    let other = cluster.running()[0];
    let until = Instant::now() + PATIENCE;
    let mut appended = 0;
    while appended < 300 {
        assert!(Instant::now() < until, "nobody leads");
        let reply = cluster.client(other).append(path, TEXT, &[b'b'; 100]);
        appended += usize::from(reply.status == 204);
    }
    for node in cluster.running() {
        let found = until_at_most(&cluster, node, path, 10_600);
        assert!(found.len() >= 10_000, "node {node}: {}", found.len());
        assert!(found.iter().all(|b| *b == b'b'), "node {node}");
    }
    cluster.start_node(leader);
    cluster.wait_ready();
    let found = until_at_most(&cluster, leader, path, 10_600);
    assert!(found.len() >= 10_000 && found.iter().all(|b| *b == b'b'));
}
