//! A removal that is taken back while it is under way (FAULTS.md, case 18): what was removed is a stranger until it comes back with
//! an empty disk, since it may have been promised away, and then it is a member like the others. Nothing is lost meanwhile.

use std::sync::Arc;

use integration::cluster::Cluster;
use integration::history::History;
use integration::load::{Load, Numbers, Plan, Stream, judge, read_back};
use integration::skip;
use raftproto::version::COMMANDS;

use crate::episodes::SETTINGS;
use crate::formation::{wait_for, works};
use crate::{beside_others, nodes, number};

/// So many that an order takes longer than the next one.
const GROUPS: usize = 384;

/// How many groups have let a replica out, and how many have it.
fn counts(cluster: &Cluster, at: u32, raft_id: u64) -> (usize, usize) {
    let groups = cluster.groups(at);
    let has = |g: &&serde_json::Value| {
        let voters = g["voters"].as_array().into_iter().flatten();
        voters.into_iter().any(|id| id.as_u64() == Some(raft_id))
    };
    let have = groups.iter().filter(has).count();
    (groups.len() - have, have)
}

/// An order that stands, although nobody waits for it.
fn noted(cluster: &Cluster, at: u32, words: &[&str]) {
    let said = cluster.order(at, &[&["--wait-s", "0"], words].concat());
    let said = said.unwrap_or_else(|said| said);
    assert!(said.contains("members: "), "{words:?}: {said}");
}

#[test]
fn a_removal_that_is_taken_back_half_way_loses_nothing_and_ends_with_all_members() {
    let _beside = beside_others();
    if nodes() < 3 {
        return skip("too few would be left");
    }
    let groups = GROUPS.to_string();
    let settings = [&SETTINGS[..], &["--raft-group-count", &groups]].concat();
    let mut cluster = Cluster::start(3, &settings);
    works(&cluster, "before");
    wait_for("all nodes say what they can apply", || {
        cluster.status(1, false).unwrap_or_default()["level"] == COMMANDS
    });
    let addresses = cluster.addresses();
    let streams = Stream::some("taken-back", 6);
    let (history, numbers) = (Arc::new(History::new()), Arc::new(Numbers::default()));
    let plan = Plan {
        seed: number("URSULA_TEST_SEED", 1).into(),
        ..Plan::default()
    };
    let load = Load::start(&addresses, &streams, &plan, &history, &numbers);
    load.wait(&["append Appended"], 8);

    let victim = 3;
    let address = format!("{victim}={}", cluster.cluster_address(victim));
    noted(&cluster, 1, &["remove", "3"]);
    noted(&cluster, 2, &["add", &address]);
    let (out, within) = counts(&cluster, 1, victim.into());
    println!("{out} groups have let it out, {within} have not");
    // What is on its disk may have been given up by some groups: it comes back under another name.
    wait_for("it is told that it was replaced", || {
        cluster.log(victim).contains("event=not_a_member")
    });
    let (out, within) = counts(&cluster, 1, victim.into());
    println!("then {out} and {within}");
    assert!(!cluster.is_ready(victim), "it takes itself for a member");
    load.wait(&["append Appended", "read Content"], 16);

    cluster.kill(victim);
    cluster.wipe(victim);
    cluster.let_join(victim);
    cluster.start_node(victim);
    cluster.wait_members(1, &[1, 2, 3]);
    cluster.wait_ready();
    let status = cluster.status(2, false).expect("it answers");
    assert_eq!(status["members"][2]["raft_id"], (1 << 16) + 3, "{status}");
    load.stop();
    let bytes = read_back(&addresses, &streams, &history);
    println!("{bytes} bytes, {:?}", judge(&streams, &history));
    assert_eq!(
        cluster.client(victim).get("/v1/stream/before").text(),
        "123"
    );
    works(&cluster, "after");
    cluster.expect_equal_states(&[1, 2, 3]);
}
