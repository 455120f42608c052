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

pub(super) fn flip(path: &Path, position: u64) {
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

    // Objects of the bucket: what is needed of them is in the cache, and is written again from there.
    let packs = packs(&store);
    for pack in &packs[..3] {
        flip(pack, 40);
    }
    std::fs::remove_file(&packs[3]).unwrap();
    until(&server, "found in the bucket", || {
        server.log().contains("event=scrub_damage") && get("ursula_scrub_damaged_total") > damaged
    });
    until(&server, "written again", || {
        get("ursula_cold_packs_rescued_total") == 4
    });
    assert_eq!(get("ursula_cold_lost_bytes"), 0);
    until(&server, "given up", || {
        packs[..3].iter().all(|pack| !pack.exists())
    });
    assert!(server.stop().success());
    // By the bucket alone.
    std::fs::remove_dir_all(dir.path().join("cache")).unwrap();
    let server = start(&store, dir.path());
    expect(&mut server.client(), &streams);
    let mut client = server.client();
    assert_eq!(metric(&mut client, "ursula_cold_read_failures_total"), 0);
    assert!(server.stop().success());
}

/// Without any copy, the log and the answers say what is lost, and nothing else suffers.
#[test]
fn what_has_no_copy_is_named_by_stream_and_range_and_the_rest_of_its_object_is_served() {
    let store = S3Server::start();
    let dir = scratch_dir();
    let at = dir.path().to_str().unwrap().to_owned();
    let mut settings = settings(&store.address);
    settings.extend(["--wal-dir".to_owned(), at]);
    settings.extend(["--scrub-interval-ms".to_owned(), "50ms".to_owned()]);
    settings.extend(["--scrub-bytes-per-second".to_owned(), "1GiB".to_owned()]);
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let server = Server::start(&settings);
    let mut client = server.client();
    let streams = write(&mut client, 2);
    until_flushed(|| server.client());
    let get = |name: &str| metric(&mut server.client(), name);
    // The first bytes of a part that is not the first of its stream.
    let (path, body) = &streams[2];
    let (pack, lost_from) = packs(&store)
        .into_iter()
        .find_map(|pack| {
            let object = std::fs::read(&pack).unwrap();
            let at = (16..80).map(|part| part * 1000).find_map(|from| {
                let piece = &body[from..from + 100];
                let found = object.windows(100).position(|w| w == piece)?;
                Some((found, from))
            })?;
            flip(&pack, at.0 as u64);
            Some((pack, at.1))
        })
        .expect("noise is stored as it is");
    until(&server, "named", || {
        server.log().contains("event=bytes_lost")
    });
    let log = server.log();
    let line = log
        .lines()
        .find(|l| l.contains("event=bytes_lost"))
        .unwrap();
    let key = path.strip_prefix("/v1/stream/").unwrap();
    assert!(line.contains(key), "{line}");
    let offsets: Vec<usize> = line
        .split(|c: char| !(c.is_ascii_digit() || c == '_'))
        .filter_map(|word| word.split_once('_'))
        .filter_map(|(_, offset)| offset.parse().ok())
        .collect();
    let [from, to] = offsets[..] else {
        panic!("{line}");
    };
    assert!((from..to).contains(&lost_from), "{line}");
    assert_eq!(get("ursula_cold_lost_bytes"), (to - from) as u64);
    // The same damage is no news in the rounds that follow.
    let rounds = get("ursula_scrub_rounds_total");
    until(&server, "scrubbed again", || {
        get("ursula_scrub_rounds_total") > rounds + 3
    });
    assert_eq!(get("ursula_scrub_damaged_total"), 1);
    assert_eq!(get("ursula_scrub_damaged_objects"), 1);
    // Up to the lost bytes, and behind them.
    let read = |from: usize| {
        let path = format!("{path}?offset={:016}_{from:016}", 0);
        server.client().get(&path)
    };
    let mut before = Vec::new();
    while before.len() < from {
        let reply = read(before.len());
        assert_eq!(reply.status, 200, "at {}: {}", before.len(), reply.text());
        before.extend_from_slice(&reply.body);
    }
    assert!(before == body[..from], "before");
    let reply = read(from);
    assert_eq!(reply.status, 500);
    let text = reply.text();
    assert!(text.contains(&format!("{to:016}")), "{text}");
    assert!(read(to).body == body[to..], "behind");
    // The rest of the object is in another one by now, and what comes goes to the bucket as ever.
    for (other, body) in streams.iter().filter(|(other, _)| other != path) {
        assert!(server.client().read_all(other) == *body, "{other}");
    }
    let more = write(&mut client, 3);
    until_flushed(|| server.client());
    expect(&mut client, &more);
    assert!(pack.exists(), "the lost bytes may be mended by hand");
    // Who has the object elsewhere puts it back.
    let object = std::fs::read(&pack).unwrap();
    let at = (0..object.len() - 99)
        .find(|at| object[*at + 1..*at + 100] == body[lost_from + 1..lost_from + 100]);
    flip(&pack, at.unwrap() as u64);
    until(&server, "found sound", || {
        get("ursula_cold_lost_bytes") == 0
    });
    until(&server, "known no more", || {
        get("ursula_scrub_damaged_objects") == 0
    });
    assert!(client.read_all(path) == *body);
    assert!(server.stop().success());
}

/// The objects of packs, as files.
pub(super) fn packs(store: &S3Server) -> Vec<PathBuf> {
    let files = store.files().into_iter();
    let packs = files.filter(|file| file.contains("/packs/"));
    packs.map(|pack| found(store, &pack)).collect()
}

/// The file of an object.
fn found(store: &S3Server, name: &str) -> PathBuf {
    let key = name
        .split_once(&format!("{BUCKET}/"))
        .map_or(name, |(_, key)| key);
    store.file(key)
}
