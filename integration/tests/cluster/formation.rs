//! How nodes find each other: in any order, and late. Who is none of them: `strangers.rs`.

use std::time::{Duration, Instant};

use integration::cluster::{Cluster, PATIENCE};
use integration::{metric, skip};

use crate::{beside_others, nodes, number};

const TEXT: &str = "text/plain";

/// What goes in at one node comes out at all.
pub fn works(cluster: &Cluster, name: &str) {
    let path = format!("/v1/stream/{name}");
    for node in cluster.running() {
        let mut client = cluster.client(node);
        let created = client.create(&path, TEXT);
        assert!(matches!(created.status, 200 | 201), "{}", created.text());
        let appended = client.append(&path, TEXT, node.to_string().as_bytes());
        assert_eq!(appended.status, 204, "{}", appended.text());
    }
    let written: String = cluster.running().iter().map(u32::to_string).collect();
    for node in cluster.running() {
        assert_eq!(
            cluster.client(node).get(&path).text(),
            written,
            "node {node}"
        );
    }
}

pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The same for leadership that is to come where it belongs. A node whose disk stood still for a second leads nothing for a minute
/// after, nor in the eyes of those who waited for it: the patience is longer than that, and begins anew as long as a node says so.
pub fn wait_for_leaders(cluster: &Cluster, what: &str, mut is_so: impl FnMut() -> bool) {
    let patience = PATIENCE * 2;
    let began = Instant::now();
    let mut deadline = began + patience;
    while !is_so() {
        let is_slow = |n: u32| metric(&mut cluster.client(n), "ursula_core_disk_slow") > 0;
        if began.elapsed() < patience * 5 && cluster.running().into_iter().any(is_slow) {
            deadline = Instant::now() + patience;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn nodes_may_start_in_any_order() {
    let _beside = beside_others();
    for order in [
        [1, 2, 3],
        [1, 3, 2],
        [2, 1, 3],
        [2, 3, 1],
        [3, 1, 2],
        [3, 2, 1],
    ] {
        let mut cluster = Cluster::prepare(nodes(), &[], None);
        for node in order.into_iter().filter(|n| *n <= nodes()) {
            cluster.start_node(node);
            wait_for("it listens without the others", || {
                cluster.answers(node, "/healthz")
            });
        }
        cluster.wait_ready();
        works(&cluster, "order");
    }
}

#[test]
fn a_cluster_forms_once_and_comes_back_whole() {
    let _beside = beside_others();
    let mut cluster = Cluster::start(nodes(), &[]);
    works(&cluster, "before");
    for node in cluster.ids() {
        assert!(cluster.stop(node).success());
    }
    for node in cluster.ids().into_iter().rev() {
        cluster.start_node(node);
    }
    cluster.wait_ready();
    works(&cluster, "after");
    let written: String = cluster.ids().iter().map(u32::to_string).collect();
    assert_eq!(cluster.client(1).get("/v1/stream/before").text(), written);
}

#[test]
fn two_work_without_the_third_which_comes_late() {
    let _beside = beside_others();
    if nodes() == 1 {
        return skip("one node waits for nobody");
    }
    let mut cluster = Cluster::prepare(nodes(), &[], None);
    for node in 1..nodes() {
        cluster.start_node(node);
    }
    cluster.wait_ready();
    works(&cluster, "early");
    let late_seconds = number("URSULA_TEST_LATE_SECONDS", 3);
    std::thread::sleep(Duration::from_secs(late_seconds.into()));
    works(&cluster, "meanwhile");
    cluster.start_node(nodes());
    cluster.wait_ready();
    works(&cluster, "late");
    let written: String = (1..nodes()).map(|n| n.to_string()).collect();
    let late = cluster.client(nodes()).get("/v1/stream/early");
    assert_eq!(late.text(), written);
}

#[test]
fn without_a_majority_a_node_says_so() {
    let _beside = beside_others();
    if nodes() == 1 {
        return skip("one node is its own majority");
    }
    let mut cluster = Cluster::prepare(nodes(), &[], None);
    cluster.start_node(1);
    wait_for("it listens", || cluster.answers(1, "/healthz"));
    assert!(!cluster.is_ready(1), "ready alone");
    let reply = cluster.client(1).create("/v1/stream/alone", TEXT);
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert!(
        !reply.header("retry-after").is_empty(),
        "{:?}",
        reply.headers
    );
}
