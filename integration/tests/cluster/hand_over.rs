//! What a stop in good order leaves behind: somebody who leads, and nobody in doubt.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use integration::cluster::Cluster;
use integration::load::{Links, Sent};

use crate::{alone, beside_others, number};

/// The groups that a node leads.
fn led(cluster: &Cluster, node: u32) -> Vec<u64> {
    cluster.groups_led(node, node)
}

/// With one node standing still, the heir needs the vote and the disk of the one that goes.
#[test]
fn who_hands_over_stays_until_the_heir_leads() {
    let _alone = alone();
    // For so long a leader that hears from nobody stays what it is, and can be asked.
    let mut cluster = Cluster::start(3, &["--election-timeout-ms", "3000"]);
    let path = "/v1/stream/heir";
    let created = cluster.client(1).create(path, "text/plain");
    assert_eq!(created.status, 201, "{}", created.text());
    let old = cluster.leader(path).expect("it has just answered");
    let others: Vec<u32> = cluster.ids().into_iter().filter(|n| *n != old).collect();
    let (heir, still) = (others[0], others[1]);
    cluster.pause(still);
    let deadline = Instant::now() + Duration::from_secs(30);
    let missed = format!("event=peer_lost core=0 node={still}");
    while !cluster.log(old).contains(&missed) {
        assert!(Instant::now() < deadline, "node {still} is not missed");
        std::thread::sleep(Duration::from_millis(10));
    }
    let given = led(&cluster, old);
    assert!(!given.is_empty());
    assert!(cluster.stop(old).success());
    let led_now = led(&cluster, heir);
    for group in given {
        assert!(led_now.contains(&group), "{group} of {led_now:?}");
    }
    cluster.resume(still);
    // It goes on without the one that went.
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut links = Links::new(&cluster.addresses(), Duration::from_secs(5));
    let headers = [("content-type", "text/plain")];
    let place = heir as usize - 1;
    while !matches!(links.send(place, "POST", path, &headers, b"y"), Sent::Answered(r) if r.status == 204)
    {
        assert!(Instant::now() < deadline, "nobody leads");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Appends that nothing makes safe to repeat come through the nodes that stay, while another one goes and comes back.
#[test]
fn a_stop_leaves_no_append_in_doubt() {
    const CLIENTS: usize = 8;
    let _alone = alone();
    let mut cluster = Cluster::start(3, &["--core-count", "2"]);
    for stream in 0..CLIENTS {
        let path = format!("/v1/stream/doubt/s{stream}");
        let created = cluster.client(1).create(&path, "text/plain");
        assert_eq!(created.status, 201, "{}", created.text());
    }
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    // A node that is about to go is asked by nobody: whom it serves itself, it waits for.
    let goes = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let addresses = cluster.addresses();
            let (stop, done, goes) = (stop.clone(), done.clone(), goes.clone());
            std::thread::spawn(move || {
                let path = format!("/v1/stream/doubt/s{client}");
                let mut links = Links::new(&addresses, Duration::from_secs(20));
                let mut node = client % addresses.len();
                while !stop.load(Ordering::SeqCst) {
                    if goes.load(Ordering::SeqCst) == node as u64 + 1 {
                        node = (node + 1) % addresses.len();
                    }
                    let headers = [("content-type", "text/plain")];
                    match links.send(node, "POST", &path, &headers, b"x") {
                        Sent::Answered(reply) => {
                            assert_eq!(reply.status, 204, "{}", reply.text());
                            done.fetch_add(1, Ordering::SeqCst);
                        }
                        Sent::Refused => std::thread::sleep(Duration::from_millis(2)),
                        Sent::Unknown => panic!("{path} through node {}: in doubt", node + 1),
                    }
                }
            })
        })
        .collect();
    let mut went = 0;
    for round in 0..number("URSULA_TEST_STOPS", 9) {
        let node = 1 + round % 3;
        goes.store(node.into(), Ordering::SeqCst);
        let before = done.load(Ordering::SeqCst);
        let deadline = Instant::now() + Duration::from_secs(30);
        while done.load(Ordering::SeqCst) < before + 10 * CLIENTS as u64 {
            assert!(Instant::now() < deadline, "too little was answered");
            std::thread::sleep(Duration::from_millis(1));
        }
        went += led(&cluster, node).len();
        assert!(cluster.stop(node).success());
        cluster.start_node(node);
        cluster.wait_ready();
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.join().expect("an append was in doubt");
    }
    assert!(went > 0, "nobody that went led anything");
}

/// Who says `Prefer: redirect` is sent to the leader, and not served through it.
#[test]
fn who_prefers_it_is_sent_to_the_leader() {
    let _beside = beside_others();
    let cluster = Cluster::start(3, &[]);
    let path = "/v1/stream/redirected?offset=-1";
    let stream = "/v1/stream/redirected";
    let created = cluster.client(1).create(stream, "text/plain");
    assert_eq!(created.status, 201, "{}", created.text());
    let leader = cluster.leader(stream).expect("it has just answered");
    let leads = cluster.address(leader);
    let text = ("content-type", "text/plain");
    for node in cluster.ids() {
        for (method, path, body, done) in [
            ("POST", stream, &b"x"[..], 204),
            ("GET", path, b"", 200),
            ("HEAD", stream, b"", 200),
            ("PUT", stream, b"", 200),
        ] {
            let ask = |prefer: &str| {
                let headers = [text, ("prefer", prefer)];
                cluster.client(node).send(method, path, &headers, body)
            };
            let served = ask("respond-async");
            assert_eq!(served.status, done, "{method}: {}", served.text());
            let told = ask("respond-async, redirect");
            if node == leader {
                assert_eq!(told.status, done, "{method} at the leader");
                continue;
            }
            assert_eq!(told.status, 307, "{method} at node {node}");
            assert_eq!(told.header("location"), format!("http://{leads}{path}"));
            assert_eq!(told.header("stream-leader-hint"), leads);
            assert_eq!(told.header("cache-control"), "no-store");
        }
    }
    // Each node was asked without it, the leader with it as well: nothing was done twice.
    let head = cluster.client(1).send("HEAD", stream, &[], b"");
    let tail = integration::load::position(head.header("stream-next-offset"));
    assert_eq!(tail, 4);
}

#[test]
fn an_operator_is_told_when_a_drain_is_done_and_hands_over_through_any_node() {
    let _beside = beside_others();
    let cluster = Cluster::start(3, &[]);
    let path = "/v1/stream/drained";
    let created = cluster.client(1).create(path, "text/plain");
    assert_eq!(created.status, 201, "{}", created.text());
    for node in [1, 2, 3] {
        let said = cluster.order(1, &["drain", &node.to_string()]);
        assert!(said.is_ok(), "{said:?}");
        assert_eq!(led(&cluster, node), [0; 0], "node {node} leads: {said:?}");
        let said = cluster.order(1, &["drain", &node.to_string(), "--undo"]);
        assert!(said.is_ok(), "{said:?}");
    }
    let leads = |node: u32| led(&cluster, node).contains(&1);
    let old = (1..=3).find(|n| leads(*n)).expect("somebody leads");
    let (heir, third) = (1 + old % 3, 1 + (old + 1) % 3);
    let to = heir.to_string();
    let order = ["transfer-leader", "--group", "1", "--to", &to];
    let deadline = Instant::now() + Duration::from_secs(30);
    while !leads(heir) {
        let said = cluster.order(third, &order);
        assert!(said.is_ok(), "{said:?}");
        // Balance may bring it back.
        assert!(Instant::now() < deadline, "node {heir} never led: {said:?}");
    }
    let drained = old.to_string();
    let said = cluster.order(1, &["drain", &drained]);
    assert!(said.is_ok(), "{said:?}");
    let to_drained = ["transfer-leader", "--group", "1", "--to", &drained];
    let from_drained = ["transfer-leader", "--from", cluster.cluster_address(old)];
    for (words, reason) in [
        (&to_drained[..], "is drained"),
        (
            &from_drained,
            "does not lead any group: nothing was ordered",
        ),
        (&["transfer-leader", "--group", "99"], "no group 99"),
        (&["transfer-leader", "--to", "9"], "node 9 is not a member"),
        (&["add", "4=nonsense"], "N=HOST:PORT"),
        (&["add", "4=10.0.0.1:0"], "N=HOST:PORT"),
    ] {
        let said = cluster.order(1, words).expect_err("it makes no sense");
        assert!(said.contains(reason), "{words:?}: {said}");
    }
}
