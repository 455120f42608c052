//! Objects of a bucket that a cluster shares are damaged or gone: what another node has a copy of is written again, what nobody has is
//! said alike by all nodes. And nodes that do not share a bucket find out.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use integration::cluster::Cluster;
use integration::s3::{BUCKET, S3Server};
use integration::{Reply, Server, metric};

use crate::scrub::{flip, packs};
use crate::tier::{BYTES, expect, settings, until_flushed, write};

/// Longest wait for what a cluster does by itself.
const PATIENCE: Duration = Duration::from_secs(60);

fn until(cluster: &Cluster, what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        let logs: Vec<String> = cluster.ids().iter().map(|n| cluster.log(*n)).collect();
        assert!(
            Instant::now() < deadline,
            "not {what}:\n{}",
            logs.join("\n")
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A read of lost bytes is answered so; until it is known that they are, one may be told to come back.
fn until_lost(cluster: &Cluster, node: u32, path: &str) -> Reply {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let reply = cluster.client(node).get(path);
        if reply.status == 500 {
            return reply;
        }
        assert_eq!(reply.status, 503, "node {node}: {}", reply.text());
        assert!(!reply.header("retry-after").is_empty(), "node {node}");
        assert!(Instant::now() < deadline, "node {node}: {}", reply.text());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Reads a stream whole, unless it is to be asked for later.
fn reads_all(cluster: &Cluster, node: u32, path: &str, body: &[u8]) -> bool {
    let mut read = Vec::new();
    loop {
        let from = format!("{path}?offset={:016}_{:016}", 0, read.len());
        let reply = cluster.client(node).get(&from);
        match reply.status {
            200 => read.extend_from_slice(&reply.body),
            503 if !reply.header("retry-after").is_empty() => return false,
            other => panic!("node {node}: {other} {}", reply.text()),
        }
        if reply.header("stream-up-to-date") == "true" {
            assert!(read == body, "{path} at node {node}");
            return true;
        }
    }
}

#[test]
fn what_a_node_has_a_copy_of_is_mended_and_what_nobody_has_is_said_alike_by_all() {
    let store = S3Server::start();
    let mut shared = settings(&store.address);
    for flag in ["--hot-bytes-max", "--hot-bytes-kept"] {
        let at = shared.iter().position(|word| word == flag).unwrap();
        shared.drain(at..at + 2);
    }
    let shared: Vec<&str> = shared.iter().map(String::as_str).collect();
    let forgetful = ["--hot-bytes-max", "1MiB", "--hot-bytes-kept", "0"];
    let retentive = ["--hot-bytes-max", "64MiB", "--hot-bytes-kept", "32MiB"];
    let mut cluster = Cluster::prepare(3, &shared, None);
    for (node, settings) in [(1, forgetful), (2, retentive), (3, retentive)] {
        cluster.set(node, &settings);
        cluster.start_node(node);
    }
    cluster.wait_ready();
    let streams = write(&mut cluster.client(1), 1);
    for node in cluster.ids() {
        until_flushed(|| cluster.client(node));
    }
    // Some of each group.
    for pack in packs(&store).iter().step_by(8) {
        flip(pack, 40);
    }
    // Who has the bytes in memory gives them, and what node 1 asks for is written again.
    let rescued = || {
        let of = |node| metric(&mut cluster.client(node), "ursula_cold_packs_rescued_total");
        cluster.ids().into_iter().map(of).sum::<u64>()
    };
    until(&cluster, "whole at each node", || {
        let nodes = cluster.ids();
        let mut each = nodes
            .iter()
            .flat_map(|node| streams.iter().map(|s| (*node, s)));
        each.all(|(node, (path, body))| reads_all(&cluster, node, path, body))
    });
    until(&cluster, "counted", || rescued() > 0);

    // What is written from now on, nobody has a copy of.
    for node in [2, 3] {
        assert!(cluster.stop(node).success());
        cluster.set(node, &forgetful);
        cluster.start_node(node);
        cluster.wait_ready();
    }
    let streams = write(&mut cluster.client(1), 2);
    for node in cluster.ids() {
        until_flushed(|| cluster.client(node));
    }
    let (path, body) = &streams[0];
    let holds = |pack: &std::path::PathBuf| {
        let object = std::fs::read(pack).unwrap_or_default();
        object.windows(100).any(|bytes| bytes == &body[..100])
    };
    let pack = packs(&store).into_iter().find(|pack| holds(pack)).unwrap();
    let first = format!("{path}?offset=-1");
    cluster.kill(3);
    until(&cluster, "led without node 3", || {
        cluster.leader(path).is_some_and(|leader| leader != 3) && cluster.answers(2, path)
    });
    std::fs::remove_file(&pack).unwrap();
    until(&cluster, "looked for", || {
        for node in [1, 2] {
            let reply = cluster.client(node).get(&first);
            assert_eq!(reply.status, 503, "node 3 may have it: {}", reply.text());
            assert!(!reply.header("retry-after").is_empty());
        }
        [1, 2]
            .iter()
            .any(|node| cluster.log(*node).contains("event=copies_not_asked"))
    });
    let sought = cluster.client(2).get(&first);
    assert_eq!(sought.json()["error"]["code"], "data_sought");
    cluster.start_node(3);
    cluster.wait_ready();
    let told: Vec<Reply> = cluster
        .ids()
        .iter()
        .map(|node| until_lost(&cluster, *node, &first))
        .collect();
    let error = told[0].json()["error"].clone();
    assert_eq!(error["code"], "data_damaged");
    assert_eq!(error["from"], format!("{:016}_{:016}", 0, 0));
    let to = error["to"].as_str().unwrap().to_owned();
    assert!(error["message"].as_str().unwrap().contains(&to));
    for (node, reply) in cluster.ids().iter().zip(&told) {
        assert_eq!(reply.text(), told[0].text(), "node {node}");
        assert_eq!(reply.header("retry-after"), "", "it does not come back");
        let behind = cluster.client(*node).get(&format!("{path}?offset={to}"));
        assert_eq!(behind.status, 200, "node {node}: {}", behind.text());
    }
}

#[test]
fn nodes_whose_old_data_is_in_different_places_say_so_and_lose_nothing() {
    let store = S3Server::start();
    let mut shared = settings(&store.address);
    let at = shared.iter().position(|word| word == "--cold").unwrap();
    let place: Vec<String> = shared.drain(at..at + 2).collect();
    let right: Vec<&str> = place.iter().map(String::as_str).collect();
    let wrong = format!("s3://{BUCKET}/elsewhere");
    let shared: Vec<&str> = shared.iter().map(String::as_str).collect();
    let mut cluster = Cluster::prepare(3, &shared, None);
    cluster.set(1, &right);
    cluster.set(2, &right);
    cluster.set(3, &["--cold", &wrong]);
    for node in cluster.ids() {
        cluster.start_node(node);
    }
    // Two buckets: nobody speaks with it.
    until(&cluster, "refused", || {
        let said = |node| cluster.log(node).contains(r#"cold is \"s3://"#);
        cluster.is_ready(1) && cluster.is_ready(2) && said(1) && said(3)
    });
    assert!(!cluster.is_ready(3));
    doctor_finds(&cluster, &store, &wrong, "fatal");
    doctor_finds(&cluster, &store, right[1], "ok");

    // None yet: it takes part, and nothing leaves the others' disks meanwhile.
    cluster.kill(3);
    cluster.wipe(3);
    cluster.set(3, &[]);
    cluster.start_node(3);
    cluster.wait_ready();
    until(&cluster, "noticed", || {
        cluster.log(1).contains("event=cold_places_differ")
            && cluster.log(2).contains("event=cold_places_differ")
    });
    let said = cluster.order(1, &["status"]).unwrap();
    assert!(said.contains("old data is in different places"), "{said}");
    let path = "/v1/stream/one";
    cluster.client(1).create(path, BYTES);
    let body = vec![7; 100_000];
    assert_eq!(cluster.client(1).append(path, BYTES, &body).status, 204);
    let leader = cluster.leader(path).unwrap();
    if leader != 3 {
        until(&cluster, "not put", || {
            cluster.log(leader).contains("event=flush_failed")
        });
    }
    assert!(packs(&store).is_empty());

    // All have the same.
    assert!(cluster.stop(3).success());
    cluster.set(3, &right);
    cluster.start_node(3);
    cluster.wait_ready();
    for node in cluster.ids() {
        until_flushed(|| cluster.client(node));
    }
    assert!(!packs(&store).is_empty());
    for node in cluster.ids() {
        expect(
            &mut cluster.client(node),
            &[(path.to_owned(), body.clone())],
        );
    }
}

/// What the doctor says of a node that is to start with this place beside those that run.
fn doctor_finds(cluster: &Cluster, store: &S3Server, place: &str, severity: &str) {
    let mut peers: BTreeMap<u32, String> = BTreeMap::new();
    for node in cluster.ids() {
        peers.insert(node, format!("{node}={}", cluster.cluster_address(node)));
    }
    let peers = peers.into_values().collect::<Vec<_>>().join(",");
    let output = Command::new(Server::binary())
        .args(["doctor", "--json", "--wal-dir", "/tmp"])
        .env("URSULA_PEERS", peers)
        .env("URSULA_NODE_ID", "3")
        .env("URSULA_CLUSTER_LISTEN", "127.0.0.1:1")
        .env("URSULA_COLD", place)
        .env("URSULA_S3_ENDPOINT", format!("http://{}", store.address))
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let found = checks.iter().find(|check| check["id"] == "cold.place");
    let found = found.unwrap_or_else(|| panic!("{report:#}"));
    assert_eq!(found["severity"], severity, "{found}");
}
