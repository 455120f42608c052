//! A disk of one node that does not hold what was written: the node finds it, says where, and has its replicas built anew by
//! the others, who serve meanwhile (FAULTS.md, cases 4, 5, 7 and 8). A newer version is no damage.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use integration::Client;
use integration::cluster::{Cluster, PATIENCE};
use integration::skip;
use prost::Message;
use raftproto::checkpoint::GroupManifest;
use storage::framed;

use crate::formation::wait_for;
use crate::{beside_others, nodes};

mod last;
mod part;
mod sectors;

const TEXT: &str = "text/plain";

/// Sealed segments, and a checkpoint, after a few appends.
const SMALL: [&str; 4] = [
    "--wal-segment-bytes",
    "1MiB",
    "--checkpoint-bytes",
    "256KiB",
];

const STREAMS: usize = 24;

fn path(stream: usize) -> String {
    format!("/v1/stream/damage-{stream}")
}

/// What was acknowledged, by stream.
struct Written(Vec<String>);

impl Written {
    fn create(cluster: &Cluster) -> Written {
        let mut client = cluster.client(1);
        for stream in 0..STREAMS {
            assert_eq!(client.create(&path(stream), TEXT).status, 201);
        }
        Written(vec![String::new(); STREAMS])
    }

    /// As producers, so that what is not known to be done can be sent again; several at once, which share the syncs.
    fn append(&mut self, cluster: &Cluster, node: u32, rounds: usize, mark: &str) {
        let numbered: Vec<_> = self.0.iter_mut().enumerate().collect();
        in_parts(numbered, |(stream, kept)| {
            for round in 0..rounds {
                let body = format!("{mark}-{round}-{stream:-<16000};");
                append_one(cluster, node, (stream, kept), &body);
            }
        });
    }

    fn append_one(&mut self, cluster: &Cluster, node: u32, stream: usize, body: &str) {
        append_one(cluster, node, (stream, &mut self.0[stream]), body);
    }

    fn expect_at(&self, cluster: &Cluster, node: u32) {
        in_parts(self.0.iter().enumerate().collect(), |(stream, kept)| {
            assert_eq!(read_all(cluster, node, stream), *kept, "stream {stream}");
        });
    }
}

/// Does it for all streams, eight of them at once.
fn in_parts<T: Send>(mut streams: Vec<T>, each: impl Fn(T) + Sync) {
    std::thread::scope(|scope| {
        while !streams.is_empty() {
            let part = streams.split_off(streams.len().saturating_sub(STREAMS / 8));
            scope.spawn(|| part.into_iter().for_each(&each));
        }
    });
}

fn append_one(cluster: &Cluster, node: u32, (stream, kept): (usize, &mut String), body: &str) {
    let number = kept.matches(';').count().to_string();
    let headers = [
        ("content-type", TEXT),
        ("producer-id", "writer"),
        ("producer-epoch", "0"),
        ("producer-seq", number.as_str()),
    ];
    let deadline = Instant::now() + PATIENCE;
    loop {
        let asked = Client::try_connect(cluster.address(node), Duration::from_secs(5));
        let reply = asked.and_then(|mut client| {
            client.try_send("POST", &path(stream), &headers, body.as_bytes())
        });
        match reply {
            Ok(reply) if matches!(reply.status, 200 | 204) => break,
            Ok(reply) => assert_eq!(reply.status, 503, "{}", reply.text()),
            Err(_) => {}
        }
        assert!(Instant::now() < deadline, "stream {stream} takes nothing");
        std::thread::sleep(Duration::from_millis(20));
    }
    kept.push_str(body);
}

/// A client that honours `Retry-After`.
fn read_all(cluster: &Cluster, node: u32, stream: usize) -> String {
    let deadline = Instant::now() + PATIENCE;
    let (mut all, mut offset) = (String::new(), "-1".to_owned());
    loop {
        assert!(Instant::now() < deadline, "stream {stream} is not read");
        let path = format!("{}?offset={offset}", path(stream));
        let asked = Client::try_connect(cluster.address(node), Duration::from_secs(5));
        let reply = asked.and_then(|mut client| client.try_send("GET", &path, &[], b""));
        match reply {
            Ok(reply) if reply.status == 200 => {
                all.push_str(&reply.text());
                if reply.header("stream-up-to-date") == "true" {
                    return all;
                }
                offset = reply.header("stream-next-offset").to_owned();
            }
            Ok(reply) => assert_eq!(reply.status, 503, "{}", reply.text()),
            Err(_) => {}
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn files(dir: &Path, is_meant: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .filter(|e| is_meant(&e.file_name().to_string_lossy()))
        .map(|e| e.path())
        .collect();
    found.sort();
    found
}

/// The segments of a node that hold something, oldest first.
fn segments(cluster: &Cluster, node: u32) -> Vec<PathBuf> {
    files(&cluster.data(node).join("wal"), |name| {
        name.ends_with(".wal")
    })
}

/// Files of the checkpoints that stand, the largest first. What a kill left beside them is swept away unread at the next
/// start: damage there is found by nobody.
fn checkpointed(cluster: &Cluster, node: u32, prefix: &str) -> Vec<PathBuf> {
    let groups = files(&cluster.data(node).join("groups"), |_| true);
    let mut all = Vec::new();
    for group in groups {
        let manifest = group.join("manifest");
        let Ok(Some(bytes)) = framed::read(&manifest) else {
            continue;
        };
        let named = GroupManifest::decode(bytes).expect("a manifest");
        let tables = named.deltas.iter().chain([&named.base]);
        let tables = tables.map(|number| group.join(format!("table-{number}")));
        let packs = named.packs.iter();
        let packs = packs.map(|number| group.join(format!("pack-{number}")));
        let kept = tables.chain(packs).chain([manifest]);
        all.extend(kept.filter(|path| {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().starts_with(prefix) && path.exists()
        }));
    }
    all.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).map_or(0, |m| m.len())));
    assert!(!all.is_empty(), "no {prefix} at node {node}");
    all
}

fn flip(path: &Path, offset: u64) {
    let file = fs::File::options().read(true).write(true).open(path);
    let file = file.expect("the file is there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)
        .expect("it is so long");
    file.write_all_at(&[byte[0] ^ 0x10], offset)
        .expect("writable");
}

fn truncate(path: &Path) {
    let length = fs::metadata(path).expect("the file is there").len();
    let file = fs::File::options().write(true).open(path);
    file.and_then(|f| f.set_len(length / 2)).expect("writable");
}

/// A change of a node's files, named; answers the file that the log must name.
type Damage = (&'static str, fn(&Cluster, u32) -> PathBuf);

fn set_aside(cluster: &Cluster, node: u32) -> Vec<PathBuf> {
    files(&cluster.data(node), |name| name.starts_with("damaged-"))
}

/// Lets node 3 run into each damage in turn, and judges what becomes of it.
fn each_is_mended(cluster: &mut Cluster, damages: &[Damage]) {
    let mut written = Written::create(cluster);
    written.append(cluster, 1, 4, "first");
    for (name, damage) in damages {
        println!("{name}");
        cluster.wait_ready();
        cluster.expect_equal_states(&[1, 2, 3]);
        // Some segments, or checkpoints.
        written.append(cluster, 3, 10, name);
        cluster.kill(3);
        let file = damage(cluster, 3);
        let before = cluster.log(3).len();
        cluster.start_node(3);
        // The others serve, whatever it does.
        written.append(cluster, 1, 1, name);
        wait_for("it sets its files aside", || {
            set_aside(cluster, 3).len() == 1
        });
        cluster.wait_members(1, &[1, 2, 3]);
        cluster.wait_ready();
        let log = cluster.log(3).split_off(before);
        let file_name = file.file_name().map(|n| n.to_string_lossy().into_owned());
        let file_name = file_name.unwrap_or_default();
        let named = log.lines().find(|l| l.contains("event=damaged"));
        assert!(
            named.is_some_and(|l| l.contains(&file_name)),
            "{name}: {file_name} in {named:?}"
        );
        let metrics = cluster.client(3).get("/metrics").text();
        assert!(
            metrics
                .lines()
                .any(|l| l.starts_with("ursula_damaged_directories") && l.ends_with(" 1")),
            "{name}: no metric"
        );
        written.append(cluster, 3, 1, name);
        written.expect_at(cluster, 3);
        cluster.expect_equal_states(&[1, 2, 3]);
        for dir in set_aside(cluster, 3) {
            fs::remove_dir_all(dir).expect("ours");
        }
    }
}

#[test]
fn a_damaged_log_of_one_node_is_rebuilt_by_the_others() {
    let _beside = beside_others();
    if nodes() < 3 {
        return skip("a node alone refuses");
    }
    // No checkpoint, so that sealed segments are there.
    let settings = ["--wal-segment-bytes", "1MiB", "--checkpoint-bytes", "1GiB"];
    let mut cluster = Cluster::start(3, &settings);
    each_is_mended(
        &mut cluster,
        &[
            ("a flipped bit", |cluster, node| {
                let sealed = segments(cluster, node)[0].clone();
                flip(&sealed, 300_000);
                sealed
            }),
            ("a cut segment", |cluster, node| {
                let sealed = segments(cluster, node)[0].clone();
                truncate(&sealed);
                sealed
            }),
            ("a segment that is gone", |cluster, node| {
                let sealed = segments(cluster, node)[1].clone();
                fs::remove_file(&sealed).expect("ours");
                sealed
            }),
            ("swapped segments", |cluster, node| {
                let all = segments(cluster, node);
                let aside = all[0].with_extension("aside");
                fs::rename(&all[0], &aside).expect("ours");
                fs::rename(&all[1], &all[0]).expect("ours");
                fs::rename(&aside, &all[1]).expect("ours");
                all[0].clone()
            }),
            ("a segment of another node", |cluster, node| {
                let own = segments(cluster, node)[0].clone();
                fs::copy(&segments(cluster, 1)[0], &own).expect("ours");
                own
            }),
        ],
    );
}

#[test]
fn a_damaged_checkpoint_of_one_node_is_rebuilt_by_the_others() {
    let _beside = beside_others();
    if nodes() < 3 {
        return skip("a node alone refuses");
    }
    let mut cluster = Cluster::start(3, &SMALL);
    each_is_mended(
        &mut cluster,
        &[
            ("a flipped bit in a manifest", |cluster, node| {
                let manifest = checkpointed(cluster, node, "manifest")[0].clone();
                flip(&manifest, 40);
                manifest
            }),
            ("a flipped bit in a table", |cluster, node| {
                let table = checkpointed(cluster, node, "table-")[0].clone();
                flip(&table, 60);
                table
            }),
            ("a table that is gone", |cluster, node| {
                let table = checkpointed(cluster, node, "table-")[0].clone();
                fs::remove_file(&table).expect("ours");
                table
            }),
            ("a manifest that is gone", |cluster, node| {
                let manifest = checkpointed(cluster, node, "manifest")[0].clone();
                fs::remove_file(&manifest).expect("ours");
                // The log alone says that something lacks.
                PathBuf::from("group")
            }),
        ],
    );

    cluster.expect_equal_states(&[1, 2, 3]);
}

#[test]
fn a_damaged_pack_of_one_node_gets_the_bytes_that_the_others_have() {
    let _beside = beside_others();
    if nodes() < 3 {
        return skip("a node alone reports it");
    }
    let more = ["--hot-bytes-kept", "0"];
    let settings = [&SMALL[..], &more].concat();
    let mut cluster = Cluster::start(3, &settings);
    let mut written = Written::create(&cluster);
    written.append(&cluster, 1, 6, "first");
    cluster.wait_ready();
    type Harm = fn(&Path);
    let damages: [(&str, Harm); 4] = [
        ("a flipped bit", |pack| {
            flip(pack, fs::metadata(pack).expect("it is there").len() / 2);
        }),
        ("a flipped bit in the index", |pack| {
            flip(pack, fs::metadata(pack).expect("it is there").len() - 30);
        }),
        ("a cut pack", truncate),
        ("a pack that is gone", |pack| {
            fs::remove_file(pack).expect("ours");
        }),
    ];
    for (name, damage) in damages {
        println!("{name}");
        // After a start nothing of what packs have is in memory; a pack is only read when somebody asks for its bytes.
        cluster.stop(3);
        for pack in checkpointed(&cluster, 3, "pack-") {
            damage(&pack);
        }
        let before = cluster.log(3).len();
        cluster.start_node(3);
        cluster.wait_ready();
        written.expect_at(&cluster, 3);
        let log = cluster.log(3).split_off(before);
        assert!(!log.contains("event=starting_again"), "{name}: {log}");
        // In a sound chunk, what is wrong with the index is found by the scrub alone.
        let is_read = name != "a flipped bit in the index";
        assert_eq!(log.contains("event=pack_mended"), is_read, "{name}: {log}");
        let mended = integration::metric(&mut cluster.client(3), "ursula_packs_mended_total");
        assert_eq!(mended > 0, is_read, "{name}");
        written.append(&cluster, 3, 1, "more");
    }
    assert!(set_aside(&cluster, 3).is_empty());
    cluster.expect_equal_states(&[1, 2, 3]);
}

#[test]
fn a_newer_version_is_refused_and_a_disk_that_damages_again_and_again_is_given_up() {
    let _beside = beside_others();
    if nodes() < 3 {
        return skip("a node alone refuses");
    }
    let mut cluster = Cluster::start(3, &SMALL);
    let mut written = Written::create(&cluster);
    written.append(&cluster, 1, 6, "first");
    cluster.wait_ready();

    cluster.stop(3);
    let manifest = checkpointed(&cluster, 3, "manifest")[0].clone();
    let kept = fs::read(&manifest).expect("it is there");
    let mut newer = kept.clone();
    newer[4..8].copy_from_slice(&77u32.to_le_bytes());
    fs::write(&manifest, newer).expect("ours");
    cluster.start_node(3);
    assert!(!cluster.wait_end(3).success());
    assert!(cluster.log(3).contains("start a newer ursula"));
    assert!(set_aside(&cluster, 3).is_empty());
    fs::write(&manifest, &kept).expect("ours");

    for number in 1..=3 {
        fs::create_dir(cluster.data(3).join(format!("damaged-{number}"))).expect("ours");
    }
    flip(&manifest, 40);
    cluster.start_node(3);
    assert!(!cluster.wait_end(3).success());
    assert!(cluster.log(3).contains("the disk is not to be trusted"));
    assert_eq!(fs::read(&manifest).expect("it is there").len(), kept.len());

    // Nobody to ask: nothing is touched, and the node waits.
    fs::remove_dir(cluster.data(3).join("damaged-3")).expect("ours");
    cluster.kill(1);
    cluster.kill(2);
    cluster.start_node(3);
    wait_for("it waits", || {
        cluster.log(3).contains("event=waiting_to_join")
    });
    assert_eq!(set_aside(&cluster, 3).len(), 2);
    assert!(manifest.exists());
    cluster.start_node(1);
    cluster.start_node(2);
    cluster.wait_members(1, &[1, 2, 3]);
    cluster.wait_ready();
    assert_eq!(set_aside(&cluster, 3).len(), 3);
    written.append(&cluster, 3, 1, "last");
    written.expect_at(&cluster, 3);
    cluster.expect_equal_states(&[1, 2, 3]);
}

#[test]
fn the_scrub_finds_damage_that_nobody_reads_and_the_others_mend_it() {
    let _beside = beside_others();
    if nodes() < 3 {
        return skip("a node alone reports it");
    }
    let more = [
        "--scrub-interval-ms",
        "100ms",
        "--scrub-bytes-per-second",
        "1GiB",
    ];
    let settings = [&SMALL[..], &more].concat();
    let mut cluster = Cluster::start(3, &settings);
    let mut written = Written::create(&cluster);
    written.append(&cluster, 1, 6, "first");
    cluster.wait_ready();
    // A pack gets its bytes from the others, while the node serves.
    let before = cluster.log(3).len();
    let mended = |cluster: &Cluster| {
        integration::metric(&mut cluster.client(3), "ursula_packs_mended_total")
    };
    let repaired = |cluster: &Cluster| {
        integration::metric(&mut cluster.client(3), "ursula_scrub_repaired_total")
    };
    let pack = checkpointed(&cluster, 3, "pack-")[0].clone();
    let length = fs::metadata(&pack).expect("it is there").len();
    for (number, position) in [length / 2, length - 30, 9].into_iter().enumerate() {
        flip(&pack, position);
        wait_for("the scrub mends it", || mended(&cluster) > number as u64);
        assert!(repaired(&cluster) > number as u64);
    }
    fs::remove_file(&pack).expect("ours");
    wait_for("the scrub mends what is gone", || mended(&cluster) > 3);
    let log = cluster.log(3).split_off(before);
    assert!(!log.contains("event=starting_again"), "{log}");

    // A table is this replica's own: it is built anew.
    let table = checkpointed(&cluster, 3, "table-")[0].clone();
    flip(&table, 60);
    wait_for("the scrub finds it", || {
        let log = cluster.log(3).split_off(before);
        log.contains("event=scrub_damage") && log.contains("event=starting_again")
    });
    cluster.wait_ready();
    assert_eq!(set_aside(&cluster, 3).len(), 1);
    written.append(&cluster, 3, 1, "last");
    written.expect_at(&cluster, 3);
    cluster.expect_equal_states(&[1, 2, 3]);
}
