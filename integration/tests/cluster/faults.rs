//! Disks and processes of one node that fail, and what the others do meanwhile.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use integration::cluster::Cluster;
use integration::history::History;
use integration::load::{Links, Load, Numbers, Plan, Sent, Stream, judge, read_back};
use integration::skip;

use crate::episodes::SETTINGS;
use crate::formation::{wait_for, works};
use crate::writers::{BOUNDED, Writers};
use crate::{alone, beside_others, number};

const TEXT: &str = "text/plain";

fn path(stream: usize) -> String {
    format!("/v1/stream/faults/s{stream}")
}

fn create(cluster: &Cluster, streams: usize) {
    let mut client = cluster.client(1);
    for stream in 0..streams {
        let created = client.create(&path(stream), TEXT);
        assert_eq!(created.status, 201, "{}", created.text());
    }
}

/// Appends to all streams through one node until each took one; how long the slowest took.
fn append_to_all(cluster: &Cluster, node: u32, streams: usize, body: &[u8]) -> Duration {
    let mut links = Links::new(&cluster.addresses(), Duration::from_secs(10));
    let mut slowest = Duration::ZERO;
    for stream in 0..streams {
        let began = Instant::now();
        loop {
            let at = node as usize - 1;
            let headers = [("content-type", TEXT)];
            match links.send(at, "POST", &path(stream), &headers, body) {
                Sent::Answered(reply) if reply.status == 204 => break,
                Sent::Answered(reply) => panic!("{} {}", reply.status, reply.text()),
                Sent::Refused | Sent::Unknown => std::thread::sleep(Duration::from_millis(20)),
            }
            assert!(
                began.elapsed() < Duration::from_secs(30),
                "stream {stream} takes nothing through node {node}"
            );
        }
        slowest = slowest.max(began.elapsed());
    }
    slowest
}

#[test]
fn a_full_disk_of_one_node_stops_nobody_else() {
    let _beside = beside_others();
    // SAFETY: a call without arguments.
    if unsafe { libc::geteuid() } != 0 {
        return skip("only root may mount");
    }
    const STREAMS: usize = 8;
    let settings = ["--wal-segment-bytes", "1MiB", "--log-bytes-max", "4MiB"];
    let mut cluster = Cluster::prepare(3, &settings, None);
    let data = cluster.data(3);
    std::fs::create_dir_all(&data).expect("the scratch directory is writable");
    let place = data.to_str().expect("an ASCII path").to_owned();
    let mount = "mount -t tmpfs -o size=40m none \"$0\" && exec \"$@\"";
    cluster.wrap(3, &["unshare", "--mount", "sh", "-c", mount, &place]);
    for node in [1, 2, 3] {
        cluster.start_node(node);
    }
    cluster.wait_ready();
    create(&cluster, STREAMS);
    let inside = format!("/proc/{}/root{}", cluster.pid(3), data.display());
    let ballast = Path::new(&inside).join("ballast");
    let is_filled = fill(&ballast);
    println!("{is_filled} bytes of ballast");
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    while cluster.is_ready(3) {
        slowest = slowest.max(append_to_all(&cluster, 1, STREAMS, &[b'x'; 50_000]));
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "its disk never was full"
        );
    }
    // A thread of its own writes the log.
    wait_for("it says why", || cluster.log(3).contains("event=disk_full"));
    // The others go on; also with what the full one led.
    for _ in 0..5 {
        slowest = slowest.max(append_to_all(&cluster, 2, STREAMS, &[b'y'; 50_000]));
    }
    // It has given away what it led, and sends on what it is asked.
    for stream in 0..STREAMS {
        wait_for("leaders with room", || {
            matches!(cluster.leader_by(1, &path(stream)), Some(1 | 2))
        });
    }
    slowest = slowest.max(append_to_all(&cluster, 3, STREAMS, b"through the full one"));
    println!("the slowest append took {slowest:?}");
    assert!(
        slowest < Duration::from_secs(10),
        "an append took {slowest:?}"
    );
    assert!(!cluster.is_ready(3), "it says that all is well");
    std::fs::remove_file(&ballast).expect("the ballast is ours");
    cluster.wait_ready();
    append_to_all(&cluster, 3, STREAMS, b"z");
    cluster.expect_equal_states(&[1, 2, 3]);
    for stream in 0..STREAMS {
        let told = [1, 2, 3].map(|node| cluster.client(node).read_all(&path(stream)));
        assert!(told[0] == told[1] && told[1] == told[2], "stream {stream}");
    }
    cluster.expect_all_alive();
}

/// Writes until there is no room; how much that was.
fn fill(path: &Path) -> usize {
    let mut file = std::fs::File::create(path).expect("there is room for a file");
    let mut bytes = 0;
    while std::io::Write::write_all(&mut file, &[1; 64 << 10]).is_ok() {
        bytes += 64 << 10;
    }
    bytes
}

/// Files of a node's log, the longest used first.
fn wal_files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files = Vec::new();
    for path in entries.map(|e| e.path()) {
        if path.is_dir() {
            files.extend(wal_files(&path));
        } else if path.extension().is_some_and(|e| e == "wal") {
            files.push(path);
        }
    }
    let used = |path: &PathBuf| {
        let bytes = std::fs::read(path).unwrap_or_default();
        bytes.iter().rposition(|b| *b != 0).unwrap_or(0)
    };
    files.sort_by_key(|path| std::cmp::Reverse(used(path)));
    files
}

#[test]
fn a_flipped_bit_is_refused_where_nothing_may_be_rebuilt_and_an_order_replaces_the_node() {
    let _beside = beside_others();
    let settings = ["--wal-segment-bytes", "1MiB", "--no-rebuild"];
    let mut cluster = Cluster::start(3, &settings);
    create(&cluster, 4);
    for _ in 0..20 {
        append_to_all(&cluster, 1, 4, &[b'x'; 50_000]);
    }
    cluster.kill(3);
    let file = wal_files(&cluster.data(3)).remove(0);
    let mut bytes = std::fs::read(&file).expect("the log is readable");
    let used = bytes.iter().rposition(|b| *b != 0).expect("it was used");
    // Records stand after it: this is no write that a crash has cut.
    bytes[used / 2] ^= 0x10;
    std::fs::write(&file, bytes).expect("the log is writable");
    cluster.start_node(3);
    let status = cluster.wait_end(3);
    assert!(!status.success(), "it started with a wrong bit");
    let name = file.file_name().expect("a file").to_string_lossy();
    let log = cluster.log(3);
    assert!(log.contains(&*name), "{name} is not named:\n{log}");
    append_to_all(&cluster, 2, 4, b"y");

    cluster.wipe(3);
    let replaced = cluster.order(1, &["--wait-s", "0", "replace", "3"]);
    println!("{replaced:?}");
    cluster.let_join(3);
    cluster.start_node(3);
    cluster.wait_members(1, &[1, 2, 3]);
    cluster.wait_ready();
    for stream in 0..4 {
        let bytes = cluster.client(3).read_all(&path(stream));
        assert_eq!(bytes.len(), 20 * 50_000 + 1, "stream {stream}");
    }
    works(&cluster, "after");
    cluster.expect_equal_states(&[1, 2, 3]);
}

#[test]
fn a_follower_that_stands_still_does_not_make_the_others_grow() {
    let _alone = alone();
    const STREAMS: usize = 8;
    const GROWTH_MAX: u64 = 300 << 20;
    let cluster = Cluster::start(3, &BOUNDED);
    create(&cluster, STREAMS);
    let addresses = cluster.addresses()[..2].to_vec();
    let patience = Duration::from_secs(30);
    let mut writers = Writers::start((0..STREAMS).map(path), &addresses, |_| 0, patience);
    // Its memory fills as it does without a fault.
    std::thread::sleep(Duration::from_secs(3));
    let before = [1, 2].map(|node| cluster.resident_bytes(node));
    let written = writers.acknowledged();
    cluster.pause(3);
    let until = Instant::now() + Duration::from_secs(number("URSULA_TEST_STOP_SECONDS", 20).into());
    let mut most = before;
    while Instant::now() < until {
        std::thread::sleep(Duration::from_millis(100));
        for (most, node) in most.iter_mut().zip([1, 2]) {
            *most = (*most).max(cluster.resident_bytes(node));
        }
    }
    let meanwhile = writers.acknowledged() - written;
    cluster.resume(3);
    let all = writers.stop();
    let megabytes = |bytes: [u64; 2]| bytes.map(|b| b >> 20);
    println!(
        "{} MiB written meanwhile; nodes 1 and 2 had {:?} MiB, at most {:?}",
        meanwhile >> 6,
        megabytes(before),
        megabytes(most)
    );
    assert!(meanwhile > 500, "too little load: {meanwhile} appends");
    for (most, before) in most.iter().zip(before) {
        assert!(
            *most < before + GROWTH_MAX,
            "grew from {before} to {most} bytes"
        );
    }
    all.expect_all(&cluster);
}

#[test]
fn a_leader_that_stood_still_answers_nothing_stale() {
    let _alone = alone();
    for mode in ["lease", "read-index"] {
        let settings = [&SETTINGS[..], &["--read-mode", mode]].concat();
        stands_still(Cluster::start(3, &settings), mode);
    }
}

/// The first stream's leader stands still for ten election time-outs while all nodes are asked, and is asked as soon as it goes on.
fn stands_still(mut cluster: Cluster, mode: &str) {
    let addresses = cluster.addresses();
    let (history, numbers) = (Arc::new(History::new()), Arc::new(Numbers::default()));
    for round in 0..number("URSULA_TEST_ROUNDS", 1) {
        let streams = Stream::some(&format!("still{round}"), 6);
        let plan = Plan {
            seed: round.into(),
            ..Plan::default()
        };
        let load = Load::start(&addresses, &streams, &plan, &history, &numbers);
        wait_for("somebody leads", || {
            cluster.leader(&streams[0].path).is_some()
        });
        let leader = cluster.leader(&streams[0].path).unwrap_or(1);
        cluster.pause(leader);
        // The fault's length.
        std::thread::sleep(Duration::from_secs(3));
        cluster.resume(leader);
        cluster.wait_ready();
        std::thread::sleep(Duration::from_millis(500));
        let counts = load.stop();
        cluster.expect_all_alive();
        let bytes = read_back(&addresses, &streams, &history);
        println!(
            "{mode}: node {leader} stood still: {bytes} bytes, {:?}, {counts:?}",
            judge(&streams, &history)
        );
        cluster.expect_equal_states(&[1, 2, 3]);
    }
}

/// Longer than any time-out between nodes; with `URSULA_TEST_STOP_SECONDS=180` for minutes.
#[test]
fn who_stands_still_for_long_comes_back_to_what_the_others_have() {
    let _beside = beside_others();
    let mut cluster = Cluster::start(3, &SETTINGS);
    let addresses = cluster.addresses();
    let (history, numbers) = (Arc::new(History::new()), Arc::new(Numbers::default()));
    for wants_leader in [false, true] {
        let streams = Stream::some(&format!("long{wants_leader}"), 6);
        let plan = Plan::default();
        let load = Load::start(&addresses, &streams, &plan, &history, &numbers);
        wait_for("somebody leads", || {
            cluster.leader(&streams[0].path).is_some()
        });
        let leader = cluster.leader(&streams[0].path).unwrap_or(1);
        let node = if wants_leader { leader } else { 1 + leader % 3 };
        cluster.pause(node);
        // The fault's length.
        std::thread::sleep(Duration::from_secs(
            number("URSULA_TEST_STOP_SECONDS", 4).into(),
        ));
        let others: Vec<u32> = cluster.ids().into_iter().filter(|n| *n != node).collect();
        for other in &others {
            assert!(cluster.is_ready(*other), "node {other} is not ready");
        }
        cluster.resume(node);
        cluster.wait_ready();
        load.wait(&["append Appended", "produce Appended", "read Content"], 8);
        let counts = load.stop();
        cluster.expect_all_alive();
        let bytes = read_back(&addresses, &streams, &history);
        println!(
            "node {node} stood still: {bytes} bytes, {:?}, {counts:?}",
            judge(&streams, &history)
        );
        cluster.expect_equal_states(&[1, 2, 3]);
    }
}
