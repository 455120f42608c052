//! Ways between the nodes that lose packets (FAULTS.md, case 21). `URSULA_TEST_LOSS_SECONDS` says for how long.

use std::time::Duration;

use integration::cluster::Cluster;
use integration::skip;

use crate::disks::{Run, settle};
use crate::episodes::SETTINGS;
use crate::{alone, nodes, number};

/// Of a hundred packets.
const LOST: u32 = 30;

#[test]
fn what_was_answered_stays_true_while_packets_are_lost() {
    let _alone = alone();
    if nodes() == 1 {
        return skip("one node has no network");
    }
    let mut cluster = match Cluster::start_apart(3, &SETTINGS) {
        Ok(cluster) => cluster,
        Err(reason) => return skip(format!("no network namespaces here: {reason}")),
    };
    let network = cluster.network().expect("it has one");
    if let Err(reason) = network.lose(LOST) {
        return skip(reason);
    }
    let run = Run::start(&cluster, "lossy", 5);
    // The time of the fault.
    std::thread::sleep(Duration::from_secs(
        number("URSULA_TEST_LOSS_SECONDS", 10).into(),
    ));
    let lost = cluster.ids().into_iter().map(|n| network.lost(n));
    let lost: Vec<u64> = lost.collect::<Result<_, _>>().expect("they are counted");
    network.lose(0).expect("it could be done before");
    println!("{lost:?} packets were lost");
    assert!(lost.iter().all(|n| *n > 20), "{lost:?}");
    // Which waits until each kind of request was answered.
    settle(run.end());
    cluster.expect_equal_states(&cluster.ids());
    cluster.expect_all_alive();
}
