//! An operator's order is taken although nobody may be there for a moment who takes it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use integration::cluster::Cluster;

use crate::{alone, beside_others, number};

/// Longer than a request waits for a leader in the cluster.
const WITHOUT_LEADER: Duration = Duration::from_secs(8);

/// Longer than a caller waits for a sign of life.
const STANDSTILL: Duration = Duration::from_secs(4);

/// Drains a node and undoes it, while `trouble` is made.
fn drained_during(cluster: &Cluster, at: u32, trouble: impl FnOnce()) {
    thread::scope(|scope| {
        let order = scope.spawn(|| {
            let began = Instant::now();
            let said = cluster.order(at, &["drain", "2"]);
            let took = began.elapsed();
            said.map(|said| format!("{took:?}: {said}"))
        });
        trouble();
        let said = order.join().expect("it runs");
        println!("{}", said.unwrap_or_else(|e| panic!("{e}")));
    });
    let groups = cluster.groups(1);
    assert!(
        !groups.is_empty() && groups.iter().all(|g| g["leader"] != 2),
        "{groups:?}"
    );
    let said = cluster.order(at, &["drain", "2", "--undo"]);
    assert!(said.is_ok(), "{said:?}");
}

#[test]
fn an_order_waits_for_a_leader_and_for_the_node_that_is_asked() {
    let _alone = alone();
    let cluster = Cluster::start(3, &[]);
    cluster.pause(2);
    cluster.pause(3);
    drained_during(&cluster, 1, || {
        thread::sleep(WITHOUT_LEADER);
        cluster.resume(2);
        cluster.resume(3);
    });
    cluster.pause(1);
    drained_during(&cluster, 1, || {
        thread::sleep(STANDSTILL);
        cluster.resume(1);
    });
}

#[test]
fn an_order_whose_progress_nobody_reads_is_carried_out() {
    let _beside = beside_others();
    let cluster = Cluster::start(3, &[]);
    assert!(cluster.order_unread(1, &["drain", "2"]));
    let groups = cluster.groups(1);
    assert!(
        !groups.is_empty() && groups.iter().all(|g| g["leader"] != 2),
        "{groups:?}"
    );
}

#[test]
fn where_nothing_listens_an_order_says_so_at_once() {
    let _beside = beside_others();
    let mut cluster = Cluster::start(3, &[]);
    cluster.kill(3);
    for words in [&["drain", "2"][..], &["remove", "2"], &["replace", "2"]] {
        let began = Instant::now();
        let said = cluster.order(3, words).expect_err("nobody is there");
        assert!(said.contains("is the server running there?"), "{said}");
        assert!(began.elapsed() < Duration::from_secs(20), "{said}");
    }
}

/// The meta group's leadership never rests.
#[test]
fn orders_are_taken_while_the_meta_group_is_handed_over_all_the_time() {
    let _alone = alone();
    let cluster = Cluster::start(3, &[]);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let handed = scope.spawn(|| {
            let mut handed = 0;
            while !is_over.load(Ordering::SeqCst) {
                let words = ["transfer-leader", "--group", "0"];
                handed += u32::from(cluster.order(1, &words).is_ok());
            }
            handed
        });
        let rounds = number("URSULA_TEST_ORDERS", 6);
        let failed: Vec<String> = (0..rounds)
            .flat_map(|round| {
                let node = (1 + round % 3).to_string();
                let at = 1 + (round + 1) % 3;
                let said = [&["drain", &node][..], &["drain", &node, "--undo"]];
                said.map(|words| cluster.order(at, words))
            })
            .filter_map(Result::err)
            .collect();
        is_over.store(true, Ordering::SeqCst);
        let handed = handed.join().expect("it runs");
        assert!(failed.is_empty(), "{failed:?}");
        assert!(handed >= rounds, "{handed} times in {rounds} rounds");
    });
}
