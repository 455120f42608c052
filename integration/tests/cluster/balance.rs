//! Leadership follows the load, and then stays where it is.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use integration::Client;
use integration::cluster::Cluster;
use integration::skip;

use crate::formation::{wait_for, wait_for_leaders};
use crate::{alone, nodes};

const TEXT: &str = "text/plain";

/// Streams that are written to.
const BUSY: usize = 6;

fn leaders(cluster: &Cluster, paths: &[String]) -> Vec<Option<u32>> {
    paths
        .iter()
        .map(|path| cluster.leader_by(1, path))
        .collect()
}

/// Moves of leadership that any node has made for balance.
fn moves(cluster: &Cluster) -> usize {
    let log = |node| cluster.log(node);
    let said = |log: String| log.matches("event=leadership_balanced").count();
    cluster.ids().into_iter().map(log).map(said).sum()
}

#[test]
fn busy_groups_that_one_node_leads_spread_and_then_stay() {
    let _alone = alone();
    if nodes() == 1 {
        return skip("one node leads everything");
    }
    let mut cluster = Cluster::start(3, &["--raft-group-count", "24"]);
    // Each node leads its share by number before there is any load.
    let all: Vec<String> = (0..96).map(|s| format!("/v1/stream/b{s}")).collect();
    let mut client = cluster.client(1);
    for path in &all {
        assert_eq!(client.create(path, TEXT).status, 201);
    }
    wait_for_leaders(&cluster, "each node leads a share", || {
        let mut counts = BTreeMap::new();
        for leader in leaders(&cluster, &all) {
            *counts.entry(leader).or_insert(0) += 1;
        }
        counts.len() == 3 && counts.values().all(|n| *n >= BUSY * 2)
    });
    let led: Vec<String> = (all.iter())
        .filter(|path| cluster.leader_by(1, path) == Some(2))
        .take(BUSY)
        .cloned()
        .collect();
    let stop = AtomicBool::new(false);
    let address = cluster.address(2).to_owned();
    std::thread::scope(|scope| {
        for path in &led {
            let (address, stop) = (&address, &stop);
            scope.spawn(move || {
                let mut client = Client::connect(address);
                while !stop.load(Ordering::Relaxed) {
                    // Large enough to be seen beside any other load, on any machine.
                    let reply = client.append(path, TEXT, &[b'x'; 100_000]);
                    assert!(matches!(reply.status, 204 | 503), "{}", reply.text());
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
        }
        let ends = Ends(&stop);
        wait_for_leaders(&cluster, "others lead some of the busy ones", || {
            let others = leaders(&cluster, &led);
            let moved = others.iter().flatten().filter(|n| **n != 2).count();
            (BUSY / 3..BUSY).contains(&moved)
        });
        // It may move a few more groups; then none, for longer than a leader stays before it is moved.
        let (mut before, mut quiet) = (moves(&cluster), std::time::Instant::now());
        wait_for("leadership stays where it is", || {
            let now = moves(&cluster);
            if now != std::mem::replace(&mut before, now) {
                quiet = std::time::Instant::now();
            }
            quiet.elapsed() > Duration::from_secs(12)
        });
        drop(ends);
    });
    println!(
        "{:?} after {} moves",
        leaders(&cluster, &led),
        moves(&cluster)
    );
    cluster.expect_all_alive();
}

/// Ends the writers, also when the test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
