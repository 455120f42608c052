//! Old data goes to a bucket, leaves memory and disk, and is read back byte for byte: by a node alone, by a cluster.

use std::time::{Duration, Instant};

use integration::cluster::Cluster;
use integration::random::noise;
use integration::s3::{BUCKET, Fault, FaultProxy, KEY_ID, S3Server, SECRET};
use integration::{Client, Server, metric, scratch_dir};

pub(super) const BYTES: &str = "application/octet-stream";

/// Longest wait for what a server does by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// Data becomes old at once, in tiny packs, and nothing is kept in memory.
pub(super) fn settings(store: &str) -> Vec<String> {
    let place = format!("s3://{BUCKET}/old");
    let endpoint = format!("http://{store}");
    [
        ("--cold", place.as_str()),
        ("--s3-endpoint", endpoint.as_str()),
        ("--s3-access-key-id", KEY_ID),
        ("--s3-secret-access-key", SECRET),
        ("--core-count", "1"),
        ("--raft-group-count", "3"),
        ("--wal-segment-bytes", "1MiB"),
        ("--checkpoint-bytes", "64KiB"),
        ("--hot-bytes-max", "1MiB"),
        ("--hot-bytes-kept", "0"),
        ("--cold-pack-bytes", "16KiB"),
        ("--cold-flush-age-ms", "20ms"),
        ("--cold-grace-ms", "3s"),
        ("--cold-cache-bytes", "0"),
    ]
    .into_iter()
    .flat_map(|(flag, value)| [flag.to_owned(), value.to_owned()])
    .collect()
}

pub(super) fn until_flushed(connect: impl Fn() -> Client) {
    let deadline = Instant::now() + PATIENCE;
    while metric(&mut connect(), "ursula_cold_behind_bytes") > 0 {
        assert!(Instant::now() < deadline, "data stays behind");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Writes some streams in parts, and answers with what they must hold.
pub(super) fn write(client: &mut Client, round: u64) -> Vec<(String, Vec<u8>)> {
    let mut written = Vec::new();
    for number in 0..6 {
        let path = format!("/v1/stream/r{round}/{number}");
        client.create(&path, BYTES);
        let body = noise(round * 100 + number, 100_000);
        for part in body.chunks(10_000) {
            let deadline = Instant::now() + PATIENCE;
            // A bucket that is slow is felt as a 503, which takes nothing.
            while client.append(&path, BYTES, part).status != 204 {
                assert!(Instant::now() < deadline, "{path} takes nothing");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        written.push((path, body));
    }
    written
}

pub(super) fn expect(client: &mut Client, streams: &[(String, Vec<u8>)]) {
    for (path, body) in streams {
        assert!(client.read_all(path) == *body, "{path} is not what it was");
    }
}

#[test]
fn a_node_alone_reads_from_its_bucket_what_it_wrote_also_through_faults_and_kills() {
    let store = S3Server::start();
    let proxy = FaultProxy::start(&store.address, None);
    let dir = scratch_dir();
    let mut settings = settings(&proxy.address);
    settings.extend([
        "--wal-dir".to_owned(),
        dir.path().to_str().unwrap().to_owned(),
    ]);
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let mut streams = Vec::new();
    for (round, fault) in [
        None,
        Some(Fault::Status(503, "SlowDown")),
        Some(Fault::LoseAnswer),
    ]
    .into_iter()
    .enumerate()
    {
        proxy.set(fault, 5);
        let server = Server::start(&settings);
        let mut client = server.client();
        expect(&mut client, &streams);
        streams.extend(write(&mut client, round as u64));
        until_flushed(|| server.client());
        let before = metric(&mut client, "ursula_cold_received_bytes_total");
        expect(&mut client, &streams);
        let received = metric(&mut client, "ursula_cold_received_bytes_total") - before;
        let held: usize = streams.iter().map(|(_, body)| body.len()).sum();
        assert!(received >= held as u64, "{received} of {held} from there");
        assert_eq!(metric(&mut client, "ursula_cold_read_failures_total"), 0);
        server.kill();
    }
    assert!(proxy.faults() > 0);
    let objects = store.files();
    let is_pack = |file: &&String| file.contains("/old/ursula/packs/");
    assert!(objects.iter().filter(is_pack).count() > 50, "{objects:?}");
}

#[test]
fn a_reader_is_told_soon_that_the_store_hangs_and_that_an_object_is_lost() {
    let store = S3Server::start();
    let proxy = FaultProxy::start(&store.address, None);
    let dir = scratch_dir();
    let mut settings = settings(&proxy.address);
    settings.extend([
        "--wal-dir".to_owned(),
        dir.path().to_str().unwrap().to_owned(),
        "--cold-read-timeout-ms".to_owned(),
        "300ms".to_owned(),
        "--s3-request-timeout-ms".to_owned(),
        "2s".to_owned(),
    ]);
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let server = Server::start(&settings);
    let streams = write(&mut server.client(), 1);
    until_flushed(|| server.client());
    let path = &streams[0].0;
    let first = format!("{path}?offset=-1");
    let deadline = Instant::now() + PATIENCE;
    proxy.set(Some(Fault::Silence), 1);
    // What is in memory yet needs no store.
    loop {
        let reply = server.client().get(&first);
        if reply.status == 503 {
            assert!(!reply.header("retry-after").is_empty());
            break;
        }
        assert!(reply.status == 200 && Instant::now() < deadline);
    }
    assert!(
        Instant::now() < deadline,
        "attempts and time-outs of the store are not the reader's"
    );
    proxy.set(None, 1);
    for file in store
        .files()
        .iter()
        .filter(|f| f.contains("/old/ursula/packs/"))
    {
        let _ = std::fs::remove_file(file);
    }
    // A request that hangs is one that others wait for, too.
    loop {
        let reply = server.client().get(&first);
        if reply.status == 500 {
            assert!(reply.text().contains("data_damaged"), "{}", reply.text());
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{} {}",
            reply.status,
            server.log()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(metric(&mut server.client(), "ursula_scrub_damaged_objects") > 0);
    assert!(server.log().contains("event=cold_pack_missing"));
}

#[test]
fn the_nodes_of_a_cluster_share_a_bucket_and_each_serves_from_it_when_the_others_die() {
    let store = S3Server::start();
    let settings = settings(&store.address);
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let mut cluster = Cluster::start(3, &settings);
    let mut streams = Vec::new();
    for (round, victim) in cluster.ids().into_iter().enumerate() {
        let running = cluster.running();
        let writer = running[round % running.len()];
        streams.extend(write(&mut cluster.client(writer), round as u64));
        for node in cluster.running() {
            until_flushed(|| cluster.client(node));
        }
        cluster.kill(victim);
        let deadline = Instant::now() + PATIENCE;
        let alive = cluster.running();
        // Until the groups that it led have other leaders.
        for (path, _) in &streams {
            while !alive.iter().all(|node| cluster.answers(*node, path)) {
                assert!(Instant::now() < deadline, "{path} has no leader");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        for node in alive {
            expect(&mut cluster.client(node), &streams);
        }
        cluster.start_node(victim);
        cluster.wait_ready();
    }
    for node in cluster.ids() {
        let mut client = cluster.client(node);
        assert_eq!(metric(&mut client, "ursula_cold_read_failures_total"), 0);
    }
}
