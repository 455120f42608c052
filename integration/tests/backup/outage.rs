//! An object store that is away raises the lag and loses nothing; what no time needs any more is collected, what one needs
//! is not.

use std::time::Instant;

use integration::cluster::Cluster;
use integration::s3::{Fault, FaultProxy, S3Server};

use super::load::Written;
use super::{PATIENCE, Place, metric, until_all_shipped, verify, with, words};

#[test]
fn an_outage_raises_the_lag_and_loses_nothing() {
    let store = S3Server::start();
    let proxy = FaultProxy::start(&store.address, None);
    let place = Place::s3(&proxy.address);
    let flags = with(
        place.node(),
        &[("--raft-group-count", "3"), ("--dr-log-bytes-max", "1MiB")],
    );
    let mut cluster = Cluster::start(1, &words(&flags));
    let mut written = Written::default();
    written.more(&mut cluster.client(1));
    until_all_shipped(&cluster);
    for fault in [
        Fault::Status(503, "SlowDown"),
        Fault::Reset,
        Fault::LoseAnswer,
    ] {
        proxy.set(Some(fault), 1);
        // More than what may wait in memory.
        for _ in 0..3 {
            written.more(&mut cluster.client(1));
        }
        let deadline = Instant::now() + PATIENCE;
        while metric(&mut cluster.client(1), "ursula_dr_lag_seconds") < 2 {
            assert!(Instant::now() < deadline, "no lag is shown");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        proxy.set(None, 1);
        until_all_shipped(&cluster);
    }
    written.expect(&mut cluster.client(1));
    cluster.kill(1);
    drop(cluster);
    verify(&Place::s3(&store.address));
}
