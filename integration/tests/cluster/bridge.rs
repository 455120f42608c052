//! Five nodes of which the old leader reaches only one that reaches a majority (FAULTS.md, R16): the majority goes on.

use std::time::{Duration, Instant};

use integration::Client;
use integration::cluster::Cluster;
use integration::skip;

use crate::{beside_others, nodes};

const TEXT: &str = "text/plain";
const STREAMS: usize = 8;

fn path(stream: usize) -> String {
    format!("/v1/stream/bridge-{stream}")
}

/// Appends until it is taken; how long that took.
fn append(cluster: &Cluster, node: u32, stream: usize) -> Duration {
    let began = Instant::now();
    loop {
        let asked = Client::try_connect(cluster.address(node), Duration::from_secs(5));
        let headers = [("content-type", TEXT)];
        let reply =
            asked.and_then(|mut client| client.try_send("POST", &path(stream), &headers, b"x"));
        if reply.is_ok_and(|reply| reply.status == 204) {
            return began.elapsed();
        }
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "stream {stream} takes nothing through node {node}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_majority_beside_a_bridge_to_the_old_leader_goes_on() {
    let _beside = beside_others();
    if nodes() == 1 {
        return skip("one node has no network");
    }
    let mut cluster = match Cluster::start_apart(5, &[]) {
        Ok(cluster) => cluster,
        Err(reason) => return skip(format!("no network namespaces here: {reason}")),
    };
    let mut client = cluster.client(1);
    for stream in 0..STREAMS {
        assert_eq!(client.create(&path(stream), TEXT).status, 201);
    }
    for turn in 0..3 {
        let leader = cluster.leader(&path(turn)).expect("it was just written");
        let mut others = cluster.ids();
        others.retain(|node| *node != leader);
        others.rotate_left(turn);
        let (left, right, bridge, gone) = (others[0], others[1], others[2], others[3]);
        let network = cluster.network().expect("it has one");
        network.isolate(gone);
        network.partition(leader, left);
        network.partition(leader, right);
        for node in [left, right, bridge] {
            let longest = (0..STREAMS).map(|s| append(&cluster, node, s)).max();
            println!("old leader {leader}, bridge {bridge}, through {node}: {longest:?}");
        }
        cluster.network().expect("it has one").heal();
        cluster.wait_ready();
        for node in cluster.ids() {
            append(&cluster, node, turn);
        }
        cluster.expect_equal_states(&cluster.ids());
    }
}
