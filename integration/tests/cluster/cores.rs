//! Nodes with different numbers of cores: what is for a group finds that group's core, and each core leads.

use std::time::{Duration, Instant};

use integration::cluster::{Cluster, PATIENCE};
use integration::load::{Links, Sent};
use integration::skip;

use crate::formation::wait_for_leaders;
use crate::{alone, nodes};

const STREAMS: usize = 24;

const TEXT: &str = "text/plain";

fn path(stream: usize) -> String {
    format!("/v1/stream/cores/s{stream}")
}

/// Appends one letter to each stream, through each node in turn.
fn append_through_all(cluster: &Cluster, letter: &str, written: &mut String) {
    let mut links = Links::new(&cluster.addresses(), Duration::from_secs(10));
    for node in 0..links.count() {
        for stream in 0..STREAMS {
            let deadline = Instant::now() + PATIENCE;
            let headers = [("content-type", TEXT)];
            loop {
                match links.send(node, "POST", &path(stream), &headers, letter.as_bytes()) {
                    Sent::Answered(reply) => {
                        assert_eq!(reply.status, 204, "{}", reply.text());
                        break;
                    }
                    Sent::Refused => std::thread::sleep(Duration::from_millis(20)),
                    Sent::Unknown => panic!("node {} leaves it in doubt", node + 1),
                }
                assert!(Instant::now() < deadline, "nobody leads");
            }
        }
        written.push_str(letter);
    }
}

/// Of each node's cores, how many groups each leads.
fn led(cluster: &Cluster) -> Vec<Vec<u64>> {
    let status = cluster.status(1, false).unwrap_or_default();
    let nodes = status["nodes"].as_array().into_iter().flatten();
    let of_core = |core: &serde_json::Value| core["groups_led"].as_u64().unwrap_or(0);
    let of_node = |node: &serde_json::Value| {
        let cores = node["cores"].as_array().into_iter().flatten();
        cores.map(of_core).collect()
    };
    nodes.map(of_node).collect()
}

#[test]
fn nodes_with_different_numbers_of_cores_work_together() {
    let _alone = alone();
    if nodes() == 1 {
        return skip("one node is like itself");
    }
    let mut cluster = Cluster::prepare(3, &["--raft-group-count", "24"], None);
    let mut cores = [1, 2, 3];
    for (node, count) in (1..).zip(cores) {
        cluster.set(node, &["--core-count", &count.to_string()]);
        cluster.start_node(node);
    }
    cluster.wait_ready();
    let mut client = cluster.client(1);
    for stream in 0..STREAMS {
        assert_eq!(client.create(&path(stream), TEXT).status, 201);
    }
    let mut written = String::new();
    append_through_all(&cluster, "a", &mut written);
    for letter in ["b", "c"] {
        // Each node comes back with what another one had.
        cores.rotate_left(1);
        for (node, count) in (1..).zip(cores) {
            assert!(cluster.stop(node).success());
            cluster.set(node, &["--core-count", &count.to_string()]);
            cluster.start_node(node);
            cluster.wait_ready();
        }
        append_through_all(&cluster, letter, &mut written);
    }
    for node in cluster.ids() {
        for stream in 0..STREAMS {
            let found = cluster.client(node).get(&path(stream)).text();
            assert_eq!(found, written, "node {node}, {}", path(stream));
        }
    }
    cluster.expect_equal_states(&cluster.ids());
    // Each third group is led by one node: by their numbers alone, that would be one core's of three.
    let mut last = Vec::new();
    wait_for_leaders(
        &cluster,
        "each node leads its share, on all its cores",
        || {
            last = led(&cluster);
            let is_even = |of_cores: &Vec<u64>| {
                let sum: u64 = of_cores.iter().sum();
                let least = of_cores.iter().min().copied().unwrap_or(0);
                (8..=9).contains(&sum) && least + 1 >= sum / of_cores.len() as u64
            };
            last.len() == 3 && last.iter().all(is_even)
        },
    );
    println!("each core leads {last:?}");
    cluster.expect_all_alive();
}
