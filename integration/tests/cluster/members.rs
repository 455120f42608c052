//! Nodes that come, go, and lose their disks, while clients go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use integration::cluster::Cluster;
use integration::history::History;
use integration::load::{Load, Numbers, Plan, Stream, judge, read_back};
use integration::skip;
use raftproto::version::COMMANDS;

use crate::episodes::SETTINGS;
use crate::formation::{wait_for, works};
use crate::rolling::{self, Seen};
use crate::{alone, beside_others, nodes, number};

/// Random operations that are judged, and clients who count every failure.
struct Clients {
    streams: Vec<Stream>,
    history: Arc<History>,
    load: Load,
    stop: Arc<AtomicBool>,
    polite: Vec<JoinHandle<Seen>>,
}

impl Clients {
    fn start(name: &str, addresses: &[String], may_break: bool) -> Clients {
        let streams = Stream::some(name, 6);
        let (history, numbers) = (Arc::new(History::new()), Arc::new(Numbers::default()));
        let plan = Plan {
            seed: number("URSULA_TEST_SEED", 1).into(),
            ..Plan::default()
        };
        let load = Load::start(addresses, &streams, &plan, &history, &numbers);
        let stop = Arc::new(AtomicBool::new(false));
        let polite = (0..4).map(|id| {
            let (addresses, stop) = (addresses.to_vec(), stop.clone());
            let name = name.to_owned();
            std::thread::spawn(move || rolling::client((&name, id), &addresses, &stop, may_break))
        });
        Clients {
            polite: polite.collect(),
            streams,
            history,
            load,
            stop,
        }
    }

    /// Ends the load; nothing was wrong, and these nodes agree.
    fn end(self, cluster: &Cluster, nodes: &[u32]) {
        self.stop.store(true, Ordering::Relaxed);
        let counts = self.load.stop();
        let seen: Vec<Option<Seen>> = self.polite.into_iter().map(|p| p.join().ok()).collect();
        let done: u64 = seen.iter().flatten().map(|s| s.done).sum();
        println!("{seen:?}");
        let addresses: Vec<String> = nodes
            .iter()
            .map(|n| cluster.address(*n).to_owned())
            .collect();
        let bytes = read_back(&addresses, &self.streams, &self.history);
        println!("{bytes} bytes, {:?}", judge(&self.streams, &self.history));
        assert!(
            seen.iter().all(Option::is_some),
            "clients whose request failed"
        );
        assert!(done > 100, "too little load to mean anything: {done}");
        let appended = counts.get("append Appended").copied().unwrap_or(0);
        assert!(
            appended > 50,
            "too little load to mean anything: {counts:?}"
        );
        cluster.expect_equal_states(nodes);
    }
}

/// An order that all groups follow in time.
fn ordered(cluster: &Cluster, at: u32, words: &[&str]) {
    let began = Instant::now();
    let said = cluster.order(at, words);
    let said = said.unwrap_or_else(|e| panic!("{words:?}: {e}"));
    println!("{words:?}: {:?}: {}", began.elapsed(), said.trim());
}

/// An order that stands, although nobody waits for it.
fn noted(cluster: &Cluster, at: u32, words: &[&str]) {
    let mut all = vec!["--wait-s", "0"];
    all.extend(words);
    match cluster.order(at, &all) {
        Ok(_) => {}
        Err(said) => assert!(said.contains("members: "), "{words:?}: {said}"),
    }
}

fn named(cluster: &Cluster, node: u32) -> String {
    format!("{node}={}", cluster.cluster_address(node))
}

#[test]
fn nodes_come_and_go_and_clients_see_no_error() {
    let _alone = alone();
    let mut cluster = Cluster::prepare(3, &SETTINGS, None);
    for node in [1, 2, 3] {
        cluster.start_node(node);
    }
    cluster.wait_ready();
    let (four, five) = (cluster.prepare_another(), cluster.prepare_another());
    let clients = Clients::start("members", &cluster.addresses(), false);

    // One waits for the order, of the other the order comes first.
    cluster.start_node(four);
    wait_for("it says what it waits for", || {
        cluster.log(four).contains("ursula cluster add 4=")
    });
    ordered(&cluster, 1, &["add", &named(&cluster, four)]);
    noted(&cluster, 2, &["add", &named(&cluster, five)]);
    cluster.start_node(five);
    cluster.wait_members(3, &[1, 2, 3, 4, 5]);
    cluster.wait_ready();
    // The same order again changes nothing.
    ordered(&cluster, 4, &["add", &named(&cluster, four)]);
    // Nobody would reach a member at an address where it does not answer, or where another one does.
    for address in ["127.0.0.1:1", cluster.cluster_address(four)] {
        let order = ["add", &format!("2={address}")];
        let said = cluster.order(1, &order).unwrap_err();
        assert!(
            said.contains("nothing was changed") && said.contains("--unseen"),
            "{said}"
        );
    }

    // A founder goes, and one that came.
    for node in [1, four] {
        ordered(&cluster, node, &["remove", &node.to_string()]);
        assert!(cluster.stop(node).success());
    }
    cluster.wait_members(five, &[2, 3, 5]);
    clients.end(&cluster, &[2, 3, 5]);

    let clients = Clients::start("replaced", &cluster.addresses()[1..], true);
    cluster.kill(2);
    cluster.wipe(2);
    noted(&cluster, 3, &["replace", "2"]);
    cluster.let_join(2);
    cluster.start_node(2);
    cluster.wait_members(3, &[2, 3, 5]);
    cluster.wait_ready();
    let status = cluster.status(5, false).expect("it answers");
    let members = status["members"].as_array().expect("a list");
    assert_eq!(members[0]["raft_id"], (1 << 16) + 2, "{status}");
    clients.end(&cluster, &[2, 3, 5]);

    // What joined comes back by itself.
    cluster.kill(2);
    cluster.kill(5);
    cluster.start_node(5);
    cluster.start_node(2);
    cluster.wait_ready();
    works(&cluster, "after");
    cluster.expect_equal_states(&[2, 3, 5]);
}

#[test]
fn a_node_that_lost_its_disk_neither_votes_nor_counts() {
    let _beside = beside_others();
    let mut cluster = Cluster::start(3, &[]);
    works(&cluster, "before");
    cluster.kill(3);
    cluster.wipe(3);
    cluster.start_node(3);
    for node in [1, 2, 3] {
        wait_for("the logs say why", || {
            cluster.log(node).contains("another data directory")
        });
    }
    assert!(!cluster.is_ready(3));
    let path = "/v1/stream/before";
    let append = |cluster: &Cluster, body: &[u8]| {
        let appended = cluster.client(1).append(path, "text/plain", body);
        assert_eq!(appended.status, 204, "{}", appended.text());
    };
    append(&cluster, b"x");

    // With its vote there would be a majority.
    cluster.kill(2);
    let until = Instant::now() + Duration::from_secs(6);
    let mut asked = 0;
    while Instant::now() < until {
        for node in [1, 3] {
            let created = cluster
                .client(node)
                .create("/v1/stream/never", "text/plain");
            assert_eq!(created.status, 503, "{}", created.text());
            asked += 1;
        }
    }
    println!("{asked} times refused");
    cluster.start_node(2);
    wait_for("a majority is back", || {
        cluster.is_ready(1) && cluster.is_ready(2)
    });
    append(&cluster, b"y");

    cluster.kill(3);
    cluster.wipe(3);
    noted(&cluster, 1, &["replace", "3"]);
    cluster.let_join(3);
    cluster.start_node(3);
    cluster.wait_members(1, &[1, 2, 3]);
    cluster.wait_ready();
    assert_eq!(cluster.client(3).get(path).text(), "123xy");
    works(&cluster, "after");
    cluster.expect_equal_states(&[1, 2, 3]);
}

#[test]
fn a_node_joins_while_leaders_are_killed() {
    let _beside = beside_others();
    let mut cluster = Cluster::start(3, &SETTINGS);
    let four = cluster.prepare_another();
    let clients = Clients::start("join", &cluster.addresses(), true);
    let first = clients.streams[0].path.clone();
    // So that it cannot have the whole log before the first leader dies.
    works(&cluster, "before");
    cluster.start_node(four);
    noted(&cluster, 1, &["add", &named(&cluster, four)]);
    for kill in 0..number("URSULA_TEST_KILLS", 12).div_ceil(3) {
        let leader = cluster.leader(&first).filter(|n| *n != four);
        let victim = leader.unwrap_or(1 + kill % 3);
        cluster.kill(victim);
        // How long it is away, and how long the others have.
        std::thread::sleep(Duration::from_millis(300));
        cluster.start_node(victim);
        std::thread::sleep(Duration::from_millis(100 * u64::from(kill)));
    }
    cluster.wait_members(1, &[1, 2, 3, 4]);
    cluster.wait_ready();
    clients.end(&cluster, &[1, 2, 3, 4]);
}

#[test]
fn a_node_that_is_down_can_be_removed_and_come_back_new() {
    let _beside = beside_others();
    if nodes() < 3 {
        return skip("too few would be left");
    }
    let mut cluster = Cluster::start(3, &[]);
    works(&cluster, "before");
    wait_for("all nodes say what they can apply", || {
        let status = cluster.status(1, false).unwrap_or_default();
        status["level"] == COMMANDS
    });
    cluster.kill(3);
    ordered(&cluster, 1, &["remove", "3"]);
    cluster.wait_members(2, &[1, 2]);
    works(&cluster, "without");

    // It does not know yet, and disturbs nobody.
    cluster.start_node(3);
    wait_for("it is told", || cluster.log(3).contains("is not a member"));
    works_at(&cluster, &[1, 2], "undisturbed");
    assert!(!cluster.is_ready(3));
    cluster.kill(3);

    // What is on its disk is of before: it is told so, and takes no part.
    let said = cluster.order(1, &["--wait-s", "0", "add", &named(&cluster, 3)]);
    let said = said.unwrap_or_else(|said| said);
    assert!(said.contains("node 3 was a member before"), "{said}");
    cluster.start_node(3);
    wait_for("it is told what to do", || {
        cluster.log(3).contains("move its --wal-dir away")
    });
    works_at(&cluster, &[1, 2], "undisturbed-again");
    assert!(!cluster.is_ready(3));
    cluster.kill(3);

    cluster.wipe(3);
    cluster.let_join(3);
    cluster.start_node(3);
    cluster.wait_members(1, &[1, 2, 3]);
    cluster.wait_ready();
    works(&cluster, "again");
    assert_eq!(cluster.client(3).get("/v1/stream/before").text(), "123");
    cluster.expect_equal_states(&[1, 2, 3]);
}

/// Nodes that came while it was down lead everything now; it knows of them neither by its settings nor by its disk.
#[test]
fn a_node_that_slept_through_a_change_is_taught_by_leaders_it_does_not_know() {
    let _beside = beside_others();
    let mut cluster = Cluster::start(5, &[]);
    // With five, a majority can still let others in while one is down.
    works(&cluster, "before");
    cluster.kill(3);
    let came = [cluster.prepare_another(), cluster.prepare_another()];
    for node in came {
        cluster.start_node(node);
        ordered(&cluster, 1, &["add", &named(&cluster, node)]);
    }
    for node in ["1", "2", "4", "5"] {
        ordered(&cluster, 1, &["drain", node]);
    }
    let led_by = |node: u32| cluster.groups_led(1, node).len();
    wait_for("those that came lead", || {
        led_by(came[0]) + led_by(came[1]) == 5
    });
    cluster.start_node(3);
    cluster.wait_ready();
    works(&cluster, "after");
    cluster.expect_equal_states(&[1, 2, 3, 4, 5, 6, 7]);
}

fn works_at(cluster: &Cluster, nodes: &[u32], name: &str) {
    let path = format!("/v1/stream/{name}");
    for node in nodes {
        let mut client = cluster.client(*node);
        let created = client.create(&path, "text/plain");
        assert!(matches!(created.status, 200 | 201), "{}", created.text());
        assert_eq!(client.append(&path, "text/plain", b"x").status, 204);
    }
}

#[test]
fn mistaken_orders_are_refused_and_a_dead_one_holds_up_no_other() {
    let _beside = beside_others();
    if nodes() < 3 {
        return skip("too few to replace one");
    }
    let mut cluster = Cluster::start(3, &[]);
    works(&cluster, "before");
    let taken = format!("5={}", cluster.cluster_address(2));
    for (words, text) in [
        (["add", "70000=127.0.0.1:1"], "1 to 65535"),
        (["add", "0=127.0.0.1:1"], "1 to 65535"),
        (["drain", "65537"], "1 to 65535"),
        (["add", &taken], "the address of node 2"),
        (["remove", "9"], "node 9 is not a member"),
        (["replace", "2"], "--force"),
    ] {
        let said = cluster.order(1, &words).expect_err("a mistake");
        assert!(said.contains(text), "{words:?}: {said}");
    }

    let dead = cluster.order(1, &["--wait-s", "2", "add", "6=127.0.0.1:1"]);
    let dead = dead.expect_err("nobody is there");
    assert!(dead.contains("members: "), "{dead}");
    let four = cluster.prepare_another();
    cluster.start_node(four);
    noted(&cluster, 1, &["add", &named(&cluster, four)]);
    wait_for("the dead one is named, and the other votes", || {
        let said = cluster.order(2, &["status"]).unwrap_or_default();
        let groups = cluster.groups(2);
        let votes = |g: &serde_json::Value| {
            let voters = g["voters"].as_array();
            voters.is_some_and(|v| v.iter().any(|id| id.as_u64() == Some(u64::from(four))))
        };
        said.contains("node 6 at 127.0.0.1:1 was never heard of") && groups.iter().all(votes)
    });
    ordered(&cluster, 2, &["remove", "6"]);
    cluster.wait_members(1, &[1, 2, 3, four]);

    ordered(&cluster, 1, &["remove", &four.to_string()]);
    ordered(&cluster, 1, &["remove", &four.to_string()]);
    wait_for("it says that it is out", || {
        !cluster.is_ready(four) && cluster.log(four).contains("event=not_a_member")
    });
    assert!(cluster.stop(four).success());

    cluster.kill(3);
    cluster.wipe(3);
    for _ in 0..3 {
        noted(&cluster, 1, &["replace", "3"]);
    }
    cluster.let_join(3);
    cluster.start_node(3);
    cluster.wait_members(1, &[1, 2, 3]);
    cluster.wait_ready();
    let status = cluster.status(1, false).expect("it answers");
    let members = status["members"].as_array().expect("a list");
    assert_eq!(
        members[2]["raft_id"].as_u64(),
        Some((1 << 16) + 3),
        "{status}"
    );
    assert_eq!(cluster.client(3).get("/v1/stream/before").text(), "123");
    cluster.expect_equal_states(&[1, 2, 3]);
}
