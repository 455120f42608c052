//! What was older than the lag is there after all nodes and disks were lost, whatever the new cluster's shape.

use std::time::{Duration, Instant};

use integration::cluster::Cluster;
use integration::s3::S3Server;
use integration::{Server, scratch_dir};

use super::load::Written;
use super::{
    Flags, PATIENCE, Place, restore, said, until_all_shipped, until_shipped, ursula, verify, with,
    words,
};

/// What a node of a new cluster is restored with.
fn given(cluster: &Cluster, node: u32, flags: &Flags, more: &[(&str, &str)]) -> Flags {
    let nodes = cluster.ids();
    let peers: Vec<String> = nodes
        .iter()
        .map(|n| format!("{n}={}", cluster.cluster_address(*n)))
        .collect();
    let peers = peers.join(",");
    let (id, dir) = (node.to_string(), cluster.data(node));
    let mut own = vec![
        ("--node-id", id.as_str()),
        ("--wal-dir", dir.to_str().unwrap()),
    ];
    let listen = cluster.cluster_address(node).to_owned();
    if nodes.len() > 1 {
        own.extend([("--peers", peers.as_str()), ("--cluster-listen", &listen)]);
    }
    own.extend(more);
    with(flags.clone(), &own)
}

/// Restores a node, and answers with its state.
fn restore_node(place: &Place, flags: Flags) -> String {
    let text = restore(place, flags);
    let mut lines = text.lines();
    lines.find(|l| l.starts_with("state ")).unwrap().to_owned()
}

/// Restores all nodes of a new cluster and starts it.
fn rebuild(place: &Place, nodes: u32, shape: &[(&str, &str)], more: &[(&str, &str)]) -> Cluster {
    let flags = with(place.node(), shape);
    let mut cluster = Cluster::prepare(nodes, &words(&flags), None);
    let restored = |node| restore_node(place, given(&cluster, node, &flags, more));
    let states: Vec<String> = cluster.ids().into_iter().map(restored).collect();
    assert!(states.iter().all(|s| *s == states[0]), "{states:?}");
    for node in cluster.ids() {
        cluster.start_node(node);
    }
    cluster.wait_ready();
    cluster
}

/// Until all groups have leaders among these nodes.
fn until_led(cluster: &Cluster, nodes: &[u32], written: &Written) {
    let deadline = Instant::now() + PATIENCE;
    for path in written.paths() {
        while !nodes.iter().all(|node| cluster.answers(*node, path)) {
            assert!(Instant::now() < deadline, "{path} has no leader");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_node_alone_is_rebuilt_from_a_directory_with_other_groups_and_cores() {
    let (dir, store, other) = (scratch_dir(), scratch_dir(), scratch_dir());
    let place = Place::dir(store.path());
    let data = dir.path().join("data");
    let flags = with(
        place.node(),
        &[
            ("--wal-dir", data.to_str().unwrap()),
            ("--raft-group-count", "3"),
            ("--core-count", "2"),
        ],
    );
    let mut written = Written::default();
    let server = Server::start(&words(&flags));
    let mut client = server.client();
    written.more(&mut client);
    until_shipped(server.client());
    written.more(&mut client);
    until_shipped(server.client());
    server.kill();
    // What the leadership before shipped ends with it; the next one begins a chain of its own.
    let server = Server::start(&words(&flags));
    let mut client = server.client();
    written.more(&mut client);
    until_shipped(server.client());
    server.kill();
    std::fs::remove_dir_all(&data).unwrap();
    verify(&place);

    for (groups, cores) in [("3", "1"), ("7", "2"), ("1", "1")] {
        let data = other.path().join(format!("data-{groups}"));
        let cluster = format!("new-{groups}");
        let flags = with(
            flags.clone(),
            &[
                ("--wal-dir", data.to_str().unwrap()),
                ("--raft-group-count", groups),
                ("--core-count", cores),
                ("--cluster-id", &cluster),
            ],
        );
        let from = ("--from-cluster".to_owned(), "ursula".to_owned());
        let given: Vec<_> = flags.iter().cloned().chain([from]).collect();
        restore(&place, given.clone());
        let again = ursula(&["restore", "--from", &place.from], &given);
        let text = said(&again);
        assert!(
            !again.status.success() && text.contains("is not empty"),
            "{text}"
        );
        let server = Server::start(&words(&flags));
        let mut written = written.clone();
        written.expect(&mut server.client());
        written.go_on(&mut server.client());
        written.more(&mut server.client());
        written.expect(&mut server.client());
        server.kill();
        let server = Server::start(&words(&flags));
        written.expect(&mut server.client());
        assert!(server.stop().success());
    }
}

#[test]
fn three_nodes_become_one_and_one_becomes_three() {
    let store = S3Server::start();
    let place = Place::s3(&store.address);
    let flags = with(place.node(), &[("--raft-group-count", "4")]);
    let mut cluster = Cluster::start(3, &words(&flags));
    let mut written = Written::default();
    written.more(&mut cluster.client(1));
    until_all_shipped(&cluster);
    // A leader stands still, others take over and ship; it goes on, and may ship what it had.
    written.more(&mut cluster.client(1));
    cluster.pause(1);
    until_led(&cluster, &[2, 3], &written);
    written.more(&mut cluster.client(2));
    cluster.resume(1);
    until_led(&cluster, &[1, 2, 3], &written);
    until_all_shipped(&cluster);
    // Leaders of a part of the groups go for good.
    cluster.kill(2);
    until_led(&cluster, &[1, 3], &written);
    written.more(&mut cluster.client(3));
    until_all_shipped(&cluster);
    for node in cluster.running() {
        cluster.kill(node);
    }
    drop(cluster);
    verify(&place);

    let shape = [
        ("--cluster-id", "new"),
        ("--raft-group-count", "5"),
        ("--core-count", "2"),
    ];
    let mut alone = rebuild(&place, 1, &shape, &[]);
    written.expect(&mut alone.client(1));
    written.go_on(&mut alone.client(1));
    written.more(&mut alone.client(1));
    written.expect(&mut alone.client(1));
    until_all_shipped(&alone);
    alone.kill(1);
    drop(alone);

    // Two clusters have been here; the younger one is restored.
    let shape = [("--cluster-id", "third"), ("--raft-group-count", "4")];
    let cluster = rebuild(&place, 3, &shape, &[("--from-cluster", "new")]);
    for node in cluster.ids() {
        written.expect(&mut cluster.client(node));
    }
    written.go_on(&mut cluster.client(2));
    for node in cluster.ids() {
        written.expect(&mut cluster.client(node));
    }
}

#[test]
fn another_node_of_a_restore_can_follow_when_the_first_ones_run() {
    let store = S3Server::start();
    let place = Place::s3(&store.address);
    let flags = with(place.node(), &[("--raft-group-count", "2")]);
    let mut old = Cluster::start(1, &words(&flags));
    let mut written = Written::default();
    written.more(&mut old.client(1));
    until_all_shipped(&old);
    old.kill(1);
    drop(old);

    let flags = with(flags, &[("--cluster-id", "new")]);
    let mut cluster = Cluster::prepare(3, &words(&flags), None);
    // Two clusters ship to here by the time of the third node.
    let more = [("--from-cluster", "ursula")];
    let mut states = Vec::new();
    for node in [1, 2] {
        states.push(restore_node(&place, given(&cluster, node, &flags, &more)));
    }
    cluster.start_node(1);
    cluster.start_node(2);
    cluster.wait_ready();
    until_led(&cluster, &[1, 2], &written);
    until_all_shipped(&cluster);
    // One that has run may have voted, which no backup knows.
    let other = scratch_dir();
    let again = given(&cluster, 2, &flags, &more);
    let again = with(again, &[("--wal-dir", other.path().to_str().unwrap())]);
    let refused = said(&ursula(&["restore", "--from", &place.from], &again));
    assert!(refused.contains("restored before"), "{refused}");
    states.push(restore_node(&place, given(&cluster, 3, &flags, &more)));
    assert!(states.iter().all(|s| *s == states[0]), "{states:?}");
    cluster.start_node(3);
    cluster.wait_ready();
    until_led(&cluster, &[1, 2, 3], &written);
    written.expect(&mut cluster.client(3));
    written.go_on(&mut cluster.client(1));
    written.expect(&mut cluster.client(3));
}

#[test]
fn an_earlier_time_gives_the_state_of_then() {
    let store = S3Server::start();
    let place = Place::s3(&store.address);
    let flags = with(place.node(), &[("--raft-group-count", "3")]);
    let mut cluster = Cluster::start(1, &words(&flags));
    let mut written = Written::default();
    written.more(&mut cluster.client(1));
    until_all_shipped(&cluster);
    let then = written.clone();
    std::thread::sleep(Duration::from_millis(50));
    let at = now();
    std::thread::sleep(Duration::from_millis(50));
    written.more(&mut cluster.client(1));
    until_all_shipped(&cluster);
    cluster.kill(1);
    drop(cluster);
    let rebuilt = rebuild(
        &place,
        1,
        &[("--cluster-id", "new"), ("--raft-group-count", "2")],
        &[("--at", &at)],
    );
    then.expect(&mut rebuilt.client(1));
    let later = rebuilt
        .client(1)
        .send("HEAD", "/v1/stream/plain/r1-1", &[], b"");
    assert_eq!(later.status, 404, "it was made later");
}

/// Now, as `--at` wants it.
fn now() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    ursula::protocol::rfc3339_from_ms(since.unwrap().as_millis() as u64)
}
