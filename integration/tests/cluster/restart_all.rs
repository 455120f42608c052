//! All nodes die at once under load and come back (FAULTS.md, R17): that costs no more than the death of one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use integration::cluster::Cluster;
use integration::history::History;
use integration::load::{Links, Load, Numbers, Plan, Sent, Stream, judge, read_back};

use crate::episodes::SETTINGS;
use crate::{alone, nodes, number};

/// Within this, of the last start, all groups lead and take writes; one restart may be held up by what else the machine does.
const BOUND: Duration = Duration::from_secs(2);

/// No restart may take longer, on the slowest machine.
const BOUND_LOADED: Duration = Duration::from_secs(8);

const GROUPS: usize = 16;

/// So many that each group has some.
const STREAMS: usize = 96;

fn path(stream: usize) -> String {
    format!("/v1/stream/all/s{stream}")
}

/// Every group, also the one of the members, has a leader, and those of the streams have some.
fn all_lead(cluster: &Cluster, at: u32) -> bool {
    let groups = cluster.groups(at);
    // Only who leads knows of the replicas.
    let leads = |g: &serde_json::Value| {
        let replicas = g["replicas"].as_array();
        replicas.is_some_and(|r| !r.is_empty()) || nodes() == 1
    };
    groups.len() == GROUPS + 1
        && groups.iter().all(|g| g["leader"] != 0 && leads(g))
        && groups
            .iter()
            .all(|g| g["group"] == 0 || g["streams"].as_u64().is_some_and(|count| count > 0))
}

/// Appends to every stream until it is taken, each node asked for some of them.
fn append_to_all(cluster: &Cluster, deadline: Instant) {
    let addresses = cluster.addresses();
    std::thread::scope(|scope| {
        for node in 0..addresses.len() {
            let addresses = &addresses;
            scope.spawn(move || {
                let mut links = Links::new(addresses, Duration::from_secs(2));
                for stream in (node..STREAMS).step_by(addresses.len()) {
                    let headers = [("content-type", "text/plain")];
                    loop {
                        match links.send(node, "POST", &path(stream), &headers, b"x") {
                            Sent::Answered(reply) if reply.status == 204 => break,
                            Sent::Answered(reply) => panic!("{} {}", reply.status, reply.text()),
                            Sent::Refused | Sent::Unknown => {}
                        }
                        assert!(Instant::now() < deadline, "stream {stream} takes nothing");
                        // A pace for attempts, far below what is measured.
                        std::thread::sleep(Duration::from_millis(5));
                    }
                }
            });
        }
    });
}

#[test]
fn all_groups_lead_and_write_soon_after_all_nodes_were_killed() {
    let _alone = alone();
    let groups = GROUPS.to_string();
    let settings = [&SETTINGS[..], &["--raft-group-count", &groups]].concat();
    let mut cluster = Cluster::start(nodes(), &settings);
    let mut client = cluster.client(1);
    for stream in 0..STREAMS {
        let created = client.create(&path(stream), "text/plain");
        assert_eq!(created.status, 201, "{}", created.text());
    }
    let addresses = cluster.addresses();
    let (history, numbers) = (Arc::new(History::new()), Arc::new(Numbers::default()));
    let streams = Stream::some("restart-all", 6);
    let plan = Plan {
        seed: number("URSULA_TEST_SEED", 1).into(),
        is_live_exact: nodes() == 1,
        ..Plan::default()
    };
    let load = Load::start(&addresses, &streams, &plan, &history, &numbers);
    let mut took = Vec::new();
    for round in 0..3 {
        load.wait(&["append Appended", "read Content"], 8);
        let mut order = cluster.ids();
        for node in &order {
            cluster.kill(*node);
        }
        let turn = round % order.len();
        order.rotate_left(turn);
        for node in &order {
            cluster.start_node(*node);
        }
        let began = Instant::now();
        let deadline = began + BOUND_LOADED * 4;
        append_to_all(&cluster, deadline);
        let written = began.elapsed();
        while !all_lead(&cluster, order[0]) {
            assert!(Instant::now() < deadline, "not every group has a leader");
        }
        println!(
            "after the last start: all written to in {written:?}, all led in {:?}",
            began.elapsed()
        );
        took.push(began.elapsed());
    }
    load.stop();
    let bytes = read_back(&addresses, &streams, &history);
    println!("{bytes} bytes, {:?}", judge(&streams, &history));
    cluster.expect_equal_states(&cluster.ids());
    took.sort();
    assert!(took[0] < BOUND && took[2] < BOUND_LOADED, "{took:?}");
}
