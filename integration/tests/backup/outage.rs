//! An object store that is away raises the lag and loses nothing; what no time needs any more is collected, what one needs
//! is not.

use std::path::Path;
use std::time::Instant;

use integration::cluster::Cluster;
use integration::random::noise;
use integration::s3::{Fault, FaultProxy, S3Server};
use integration::{Server, metric, scratch_dir};

use super::load::Written;
use super::{PATIENCE, Place, restore, until_all_shipped, verify, with, words};

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

#[test]
fn a_restart_does_not_make_the_lag_smaller_than_it_is() {
    let store = S3Server::start();
    let proxy = FaultProxy::start(&store.address, None);
    let place = Place::s3(&proxy.address);
    // One log range per group, and no checkpoint: what is not shipped is told from what is by the log alone.
    let flags = with(place.node(), &[("--raft-group-count", "2")]);
    let mut cluster = Cluster::start(1, &words(&flags));
    let mut written = Written::default();
    written.more(&mut cluster.client(1));
    until_all_shipped(&cluster);
    let lag = |cluster: &Cluster| metric(&mut cluster.client(1), "ursula_dr_lag_seconds");
    let until_led = |cluster: &Cluster| {
        let deadline = Instant::now() + PATIENCE;
        while metric(&mut cluster.client(1), "ursula_dr_groups_without_base") == 0 {
            assert!(Instant::now() < deadline, "nothing is led");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };
    proxy.set(Some(Fault::Status(503, "SlowDown")), 1);
    let acknowledged = Instant::now();
    written.more(&mut cluster.client(1));
    let deadline = Instant::now() + PATIENCE;
    while lag(&cluster) < 5 {
        assert!(Instant::now() < deadline, "no lag is shown");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    cluster.kill(1);
    cluster.start_node(1);
    cluster.wait_ready();
    until_led(&cluster);
    let at_risk = acknowledged.elapsed().as_secs();
    let shown = lag(&cluster);
    assert!(
        shown >= at_risk,
        "{shown} s, but {at_risk} s would be lost: {}",
        cluster.log(1)
    );
    proxy.set(None, 1);
    until_all_shipped(&cluster);
    written.expect(&mut cluster.client(1));
}

#[test]
fn what_no_time_needs_any_more_is_collected_and_what_is_left_is_whole() {
    let store = S3Server::start();
    let place = Place::s3(&store.address);
    let flags = [("--raft-group-count", "2"), ("--dr-keep-ms", "1s")];
    let flags = with(place.node(), &flags);
    let mut cluster = Cluster::start(1, &words(&flags));
    let mut written = Written::default();
    let shipped = || -> Vec<String> {
        let files = store.files().into_iter();
        let own = files.filter(|f| f.contains("/test/dr/") || f.contains("/ursula/dr/"));
        own.filter(|f| !f.ends_with(".json")).collect()
    };
    written.more(&mut cluster.client(1));
    until_all_shipped(&cluster);
    let first = shipped();
    // Enough for packs of its own, which nothing needs soon.
    let mut client = cluster.client(1);
    let (path, kind) = ("/v1/stream/short-lived", "application/octet-stream");
    assert_eq!(client.create(path, kind).status, 201);
    for n in 0..4 {
        assert_eq!(client.append(path, kind, &noise(n, 100_000)).status, 204);
    }
    until_flushed(&cluster);
    assert_eq!(client.send("DELETE", path, &[], b"").status, 204);
    let deadline = Instant::now() + PATIENCE;
    let packs_deleted = || metric(&mut cluster.client(1), "ursula_cold_packs_deleted_total");
    while first.iter().any(|file| Path::new(file).exists()) || packs_deleted() == 0 {
        assert!(
            Instant::now() < deadline,
            "{first:?} or packs stay for ever"
        );
        written.more(&mut cluster.client(1));
    }
    until_all_shipped(&cluster);
    assert!(metric(&mut cluster.client(1), "ursula_dr_objects_deleted_total") > 0);
    cluster.kill(1);
    drop(cluster);
    verify(&place);
    let dir = scratch_dir();
    let data = dir.path().join("data");
    let flags = with(
        flags,
        &[
            ("--cluster-id", "new"),
            ("--wal-dir", data.to_str().unwrap()),
        ],
    );
    restore(&place, flags.clone());
    let server = Server::start(&words(&flags));
    written.expect(&mut server.client());
}

fn until_flushed(cluster: &Cluster) {
    let deadline = Instant::now() + PATIENCE;
    while metric(&mut cluster.client(1), "ursula_cold_behind_bytes") > 0 {
        assert!(Instant::now() < deadline, "data stays behind");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
