//! The scrub in the background: it reads all that is at rest, finds what nobody reads, and names it.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use integration::s3::{BUCKET, S3Server};
use integration::{Server, metric, scratch_dir};

use crate::tier::{expect, settings, until_flushed, write};

fn start(store: &S3Server, dir: &Path) -> Server {
    let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let mut settings = settings(&store.address);
    for (flag, value) in [
        ("--wal-dir", at("wal")),
        ("--cache-dir", at("cache")),
        ("--cache-bytes", "16MiB".to_owned()),
        ("--scrub-interval-ms", "50ms".to_owned()),
        ("--scrub-bytes-per-second", "1GiB".to_owned()),
    ] {
        settings.extend([flag.to_owned(), value]);
    }
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    Server::start(&settings)
}

fn until(server: &Server, what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "not {what}:\n{}", server.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn flip(path: &Path, position: u64) {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, position).unwrap();
    file.write_all_at(&[byte[0] ^ 1], position).unwrap();
}

#[test]
fn what_is_sound_stays_unnamed_and_what_is_not_is_found_without_a_reader() {
    let store = S3Server::start();
    let dir = scratch_dir();
    let server = start(&store, dir.path());
    let mut client = server.client();
    let streams = write(&mut client, 1);
    until_flushed(|| server.client());
    expect(&mut client, &streams);
    let get = |name: &str| metric(&mut server.client(), name);
    let rounds = get("ursula_scrub_rounds_total");
    until(&server, "scrubbed twice", || {
        get("ursula_scrub_rounds_total") > rounds + 2
    });
    let held: u64 = streams.iter().map(|(_, body)| body.len() as u64).sum();
    assert!(
        get("ursula_scrub_bytes_total") > 2 * held,
        "cache and objects"
    );
    assert_eq!(get("ursula_scrub_damaged_total"), 0, "{}", server.log());
    assert!(get("ursula_scrub_last_round_timestamp_seconds") > 0);

    // The disk under the cache: forgotten, and fetched anew when it is wanted.
    assert!(server.stop().success());
    for at in (4096 + 500..600_000).step_by(20_000) {
        flip(&dir.path().join("cache/chunks-0"), at);
    }
    let server = start(&store, dir.path());
    let get = |name: &str| metric(&mut server.client(), name);
    until(&server, "found in the cache", || {
        get("ursula_scrub_repaired_total") > 0 && get("ursula_cache_damaged_total") > 0
    });
    // Both rise while they are read.
    until(&server, "made good from the store, all of it", || {
        get("ursula_scrub_damaged_total") == get("ursula_scrub_repaired_total")
    });
    let damaged = get("ursula_scrub_damaged_total");
    expect(&mut server.client(), &streams);

    // An object of the bucket: there is no other copy of what the disks gave up.
    let is_pack = |file: &String| file.contains("/old/ursula/packs/");
    let pack = store.files().into_iter().find(is_pack).unwrap();
    let pack = found(&store, &pack);
    flip(&pack, 40);
    until(&server, "found in the bucket", || {
        server.log().contains("event=scrub_damage") && get("ursula_scrub_damaged_total") > damaged
    });
    assert!(server.stop().success());
}

/// The file of an object.
fn found(store: &S3Server, name: &str) -> PathBuf {
    let key = name
        .split_once(&format!("{BUCKET}/"))
        .map_or(name, |(_, key)| key);
    store.file(key)
}
