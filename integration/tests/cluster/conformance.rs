//! The official suite through every node, and through one while another is killed again and again.

use std::time::Duration;

use integration::cluster::Cluster;
use integration::skip;
use integration::suite;

use crate::{beside_others, nodes};

#[test]
fn the_official_suite_passes_through_each_node() {
    let _beside = beside_others();
    let mut cluster = Cluster::start(nodes(), &[]);
    for node in cluster.ids() {
        suite::run(&format!("node-{node}"), &cluster.url(node));
    }
    for node in cluster.ids() {
        assert!(cluster.stop(node).success());
    }
}

#[test]
fn the_official_suite_passes_through_one_node_while_another_is_killed_in_a_loop() {
    let _beside = beside_others();
    if nodes() == 1 {
        return skip("there is no other node");
    }
    let mut cluster = Cluster::start(nodes(), &[]);
    let url = cluster.url(1);
    let suite = std::thread::spawn(move || suite::run_with_retries("kills", &url));
    let mut kills = 0;
    while !suite.is_finished() {
        let victim = 2 + kills % (nodes() - 1);
        cluster.kill(victim);
        std::thread::sleep(Duration::from_millis(300));
        cluster.start_node(victim);
        cluster.wait_ready();
        // The gap between two kills.
        std::thread::sleep(Duration::from_millis(700));
        kills += 1;
    }
    println!("{kills} kills meanwhile");
    suite.join().expect("the suite fails");
    assert!(kills >= 3, "only {kills} kills");
}
