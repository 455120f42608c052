//! Clocks of one node that jump by an hour, both ways, and one that runs too fast (FAULTS.md, case 17). Lifetimes are decided by
//! the leader's clock, leases by the monotonic one. Needs libfaketime, which leaves the
//! monotonic clock alone here.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use integration::cluster::Cluster;
use integration::history::History;
use integration::load::{Load, Numbers, Plan, Stream, judge, read_back};
use integration::skip;

use crate::episodes::SETTINGS;
use crate::formation::wait_for;
use crate::{alone, nodes};

const LIBRARIES: [&str; 2] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
];

/// A lifetime that no test is long enough for, and a jump of the clock is.
const LIFETIME_S: &str = "1800";

#[test]
fn a_clock_that_jumps_ends_no_lifetime_and_no_lease() {
    let _alone = alone();
    let Some(library) = LIBRARIES.iter().find(|l| Path::new(l).exists()) else {
        return skip("libfaketime is not installed");
    };
    let mut cluster = Cluster::prepare(nodes(), &SETTINGS, None);
    let clocks = integration::scratch_dir();
    let clock = |node: u32| clocks.path().join(format!("clock-{node}"));
    for node in cluster.ids() {
        fs::write(clock(node), "+0").expect("writable");
        let preload = format!("LD_PRELOAD={library}");
        let file = format!("FAKETIME_TIMESTAMP_FILE={}", clock(node).display());
        let rest = ["FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1"];
        cluster.wrap(node, &["env", &preload, &file, rest[0], rest[1]]);
        if node == 2 {
            // The others hold their promises to it as they do to who trusts them for a time.
            cluster.set(node, &["--read-mode", "read-index"]);
        }
        cluster.start_node(node);
    }
    cluster.wait_ready();
    let path = "/v1/stream/lives";
    let headers = [("content-type", "text/plain"), ("stream-ttl", LIFETIME_S)];
    let created = cluster.client(1).send("PUT", path, &headers, b"kept");
    assert_eq!(created.status, 201, "{}", created.text());

    let addresses = cluster.addresses();
    let streams = Stream::some("clocks", 6);
    let history = Arc::new(History::new());
    let numbers = Arc::new(Numbers::default());
    let plan = Plan {
        is_live_exact: addresses.len() == 1,
        ..Plan::default()
    };
    let load = Load::start(&addresses, &streams, &plan, &history, &numbers);
    for jump in ["+3600", "+0", "-3600", "+0 x1.05", "+0"] {
        let leader = cluster.leader(path).expect("it is there");
        let jumps = || cluster.log(leader).matches("event=clock_step").count();
        let before = jumps();
        let next = clocks.path().join("next");
        fs::write(&next, jump).expect("writable");
        fs::rename(&next, clock(leader)).expect("writable");
        if jump.ends_with("3600") {
            wait_for("the jump is seen and said", || jumps() > before);
        }
        // The time in which the clock is wrong, and the load goes on.
        std::thread::sleep(Duration::from_millis(500));
        for node in cluster.ids() {
            let kept = cluster.client(node).get(path);
            assert_eq!((kept.status, kept.text().as_str()), (200, "kept"), "{jump}");
        }
    }
    load.wait(
        &["append Appended", "produce Appended", "read Content"],
        100,
    );
    let done = load.stop();
    cluster.expect_all_alive();
    let bytes = read_back(&addresses, &streams, &history);
    let verdict = judge(&streams, &history);
    println!("{bytes} bytes, {verdict:?}, {done:?}");
    cluster.expect_equal_states(&cluster.ids());
    if nodes() < 3 {
        return skip("a node alone has no other clock to compare its own with");
    }

    // One that is wrong from a start on, by a year: the others' is followed, before anything is stamped.
    let lives = |stream: usize| format!("/v1/stream/lives-{stream}");
    for stream in 0..12 {
        let created = cluster
            .client(1)
            .send("PUT", &lives(stream), &headers, b"kept");
        assert_eq!(created.status, 201, "{}", created.text());
    }
    cluster.stop(2);
    fs::write(clock(2), "+31536000").expect("writable");
    cluster.start_node(2);
    wait_for("it is seen and said", || {
        cluster.log(2).contains("event=clock_ahead")
    });
    cluster.wait_ready();
    wait_for("it leads", || {
        (0..12).any(|stream| cluster.leader(&lives(stream)) == Some(2))
    });
    for stream in 0..12 {
        let appended = cluster
            .client(1)
            .append(&lives(stream), "text/plain", b", still");
        assert_eq!(appended.status, 204, "{}", appended.text());
        for node in cluster.ids() {
            let kept = cluster.client(node).get(&lives(stream));
            assert_eq!((kept.status, kept.text().as_str()), (200, "kept, still"));
        }
    }
}
