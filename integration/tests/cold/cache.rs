//! The cache on the local disk: what came from the bucket once does not come again, also after a restart, and a bit that
//! flips there reaches nobody.

use std::path::Path;

use integration::s3::S3Server;
use integration::{Client, Server, metric, scratch_dir};

use crate::tier::{expect, settings, until_flushed, write};

fn start(store: &S3Server, dir: &Path, cache_bytes: &str) -> Server {
    let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let mut settings = settings(&store.address);
    for (flag, value) in [
        ("--wal-dir", at("wal")),
        ("--cache-dir", at("cache")),
        ("--cache-bytes", cache_bytes.to_owned()),
    ] {
        settings.extend([flag.to_owned(), value]);
    }
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    Server::start(&settings)
}

/// Requests that read from the bucket.
fn gets(client: &mut Client) -> u64 {
    let text = client.get("/metrics").text();
    let lines = text.lines().filter(|line| {
        line.starts_with("ursula_cold_requests_total{") && line.contains("verb=\"get\"")
    });
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

#[test]
fn what_came_from_the_bucket_once_comes_from_the_disk_then_and_a_flipped_bit_reaches_nobody() {
    let store = S3Server::start();
    let dir = scratch_dir();
    let server = start(&store, dir.path(), "16MiB");
    let mut client = server.client();
    let streams = write(&mut client, 1);
    until_flushed(|| server.client());
    expect(&mut client, &streams);
    let first = gets(&mut client);
    assert!(first > 0);
    for _ in 0..3 {
        expect(&mut client, &streams);
    }
    assert_eq!(gets(&mut client), first, "it came from the bucket again");
    let held: usize = streams.iter().map(|(_, body)| body.len()).sum();
    assert!(metric(&mut client, "ursula_cache_bytes") >= held as u64);
    assert!(metric(&mut client, "ursula_cache_hits_total") > 0);
    assert!(server.stop().success());

    let server = start(&store, dir.path(), "16MiB");
    let mut client = server.client();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !server.log().contains("event=cache_found") {
        assert!(std::time::Instant::now() < deadline, "{}", server.log());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    expect(&mut client, &streams);
    assert_eq!(gets(&mut client), 0, "a start forgot it");
    assert!(metric(&mut client, "ursula_cache_written_bytes_total") == 0);
    server.kill();

    let file = dir.path().join("cache/chunks-0");
    let mut bytes = std::fs::read(&file).unwrap();
    for byte in bytes.iter_mut().skip(4096).step_by(20_000) {
        *byte ^= 16;
    }
    std::fs::write(&file, bytes).unwrap();
    let server = start(&store, dir.path(), "16MiB");
    let mut client = server.client();
    for _ in 0..2 {
        expect(&mut client, &streams);
    }
    assert!(metric(&mut client, "ursula_cache_damaged_total") > 0);
    assert!(gets(&mut client) > 0, "nothing was fetched anew");
    assert_eq!(metric(&mut client, "ursula_cold_read_failures_total"), 0);
    assert!(server.stop().success());
}

#[test]
fn a_cache_that_is_too_small_for_all_gives_up_the_old_and_serves_right_through_kills() {
    let store = S3Server::start();
    let dir = scratch_dir();
    let mut streams = Vec::new();
    for round in 0..4 {
        let server = start(&store, dir.path(), "1MiB");
        let mut client = server.client();
        expect(&mut client, &streams);
        streams.extend(write(&mut client, round));
        until_flushed(|| server.client());
        expect(&mut client, &streams);
        assert!(metric(&mut client, "ursula_cache_bytes") <= 2 << 20);
        if round > 1 {
            assert!(metric(&mut client, "ursula_cache_evictions_total") > 0);
        }
        assert_eq!(metric(&mut client, "ursula_cold_read_failures_total"), 0);
        assert_eq!(metric(&mut client, "ursula_cache_failures_total"), 0);
        server.kill();
    }
    let size = std::fs::metadata(dir.path().join("cache/chunks-0"))
        .unwrap()
        .len();
    assert!(size <= 1 << 20, "{size}");
}

#[test]
fn a_cache_directory_of_another_node_is_refused() {
    let store = S3Server::start();
    let (dir, other) = (scratch_dir(), scratch_dir());
    let server = start(&store, dir.path(), "1MiB");
    std::os::unix::fs::symlink(dir.path().join("cache"), other.path().join("cache")).unwrap();
    let at = other.path().join("wal");
    let cache = other.path().join("cache");
    let mut settings = settings(&store.address);
    for (flag, value) in [("--wal-dir", &at), ("--cache-dir", &cache)] {
        settings.extend([flag.to_owned(), value.to_str().unwrap().to_owned()]);
    }
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let Err(refused) = Server::try_start(&settings) else {
        panic!("two nodes use one cache");
    };
    assert!(refused.contains("cache_dir"), "{refused}");
    assert!(server.stop().success());
}
