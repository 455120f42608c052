//! A node that was away for too long gets a checkpoint instead of the log; whatever is killed meanwhile, in the end it
//! tells the same bytes. `URSULA_TEST_TRANSFER_MB` says how much is written meanwhile.

use integration::cluster::Cluster;
use integration::load::{Links, Sent, offset, position};

use crate::formation::{wait_for, works};
use crate::{beside_others, number};

/// So small that the log's start is gone soon.
const SETTINGS: [&str; 6] = [
    "--checkpoint-bytes",
    "64KiB",
    "--wal-segment-bytes",
    "1MiB",
    "--log-bytes-max",
    "1MiB",
];

const STREAMS: usize = 5;

const TEXT: &str = "text/plain";

const PART: usize = 64 << 10;

/// Several groups get something, one gets most: its checkpoint is on its way for a while.
fn share(stream: usize, megabytes: usize) -> usize {
    let parts = megabytes * (1 << 20) / PART;
    if stream == 0 { parts } else { parts / 8 }
}

fn path(stream: usize) -> String {
    format!("/v1/stream/transfer/s{stream}")
}

/// Bytes that tell where they belong.
fn part(stream: usize, number: usize) -> Vec<u8> {
    let word = format!("{stream}.{number};");
    word.bytes().cycle().take(PART).collect()
}

fn write(cluster: &Cluster, node: u32, from_round: usize, megabytes: usize) {
    let mut client = cluster.client(node);
    for stream in 0..STREAMS {
        let path = path(stream);
        if from_round == 0 {
            let created = client.create(&path, TEXT);
            assert_eq!(created.status, 201, "{}", created.text());
        }
        let count = share(stream, megabytes);
        for number in from_round * count..(from_round + 1) * count {
            let appended = client.append(&path, TEXT, &part(stream, number));
            assert_eq!(appended.status, 204, "{}", appended.text());
        }
    }
}

/// A node has all of these bytes; reads that do not reach the end are answered from its own disk.
fn expect_all(cluster: &Cluster, node: u32, rounds: usize, megabytes: usize) {
    let mut links = Links::new(&cluster.addresses(), integration::cluster::PATIENCE);
    for stream in 0..STREAMS {
        let count = rounds * share(stream, megabytes);
        let expected: Vec<u8> = (0..count).flat_map(|n| part(stream, n)).collect();
        let mut found = Vec::new();
        while found.len() < expected.len() {
            let query = format!("{}?offset={}", path(stream), offset(found.len() as u64));
            // A node that has just started may refuse.
            let Sent::Answered(reply) = links.send(node as usize - 1, "GET", &query, &[], b"")
            else {
                std::thread::sleep(std::time::Duration::from_millis(20));
                continue;
            };
            assert_eq!(reply.status, 200, "{query}: {}", reply.text());
            found.extend_from_slice(&reply.body);
            let next = position(reply.header("stream-next-offset"));
            assert_eq!(next, found.len() as u64, "{query}");
            assert!(!reply.body.is_empty(), "{query}: nothing");
        }
        assert!(found == expected, "node {node}: stream {stream} differs");
    }
}

/// How often a line with this stands in a node's log.
fn count(cluster: &Cluster, node: u32, what: &str) -> usize {
    cluster.log(node).matches(what).count()
}

/// Waits until a node begins to fetch once more; from which node, as its log says.
fn fetch_begins(cluster: &Cluster, node: u32, before: usize) -> u32 {
    wait_for("a checkpoint is fetched", || {
        count(cluster, node, "event=checkpoint_fetch ") > before
    });
    let log = cluster.log(node);
    let line = log.lines().rfind(|l| l.contains("event=checkpoint_fetch "));
    let giver = line.and_then(|l| l.split(" node=").nth(1));
    let giver = giver.and_then(|g| g.split(' ').next()?.parse().ok());
    giver.unwrap_or_else(|| panic!("no node is named: {line:?}"))
}

/// Fetches that began and neither ended well nor badly.
fn cut_off(cluster: &Cluster, node: u32) -> usize {
    let began = count(cluster, node, "event=checkpoint_fetch ");
    let ended = count(cluster, node, "event=checkpoint_fetched ");
    began - ended - count(cluster, node, "event=checkpoint_not_fetched ")
}

/// What a node may hold at most while a checkpoint goes or comes, beside what it had before or has afterwards.
const BESIDE: u64 = 36 << 20;

/// Waits until it is installed; the most that each node had in memory meanwhile, in bytes.
fn watch_memory(cluster: &Cluster, installed: usize) -> [u64; 3] {
    let mut most = [0; 3];
    wait_for("it is installed", || {
        for (node, most) in (1..).zip(&mut most) {
            *most = cluster.resident_bytes(node).max(*most);
        }
        count(cluster, 3, "event=checkpoint_installed") >= installed
    });
    most
}

#[test]
fn a_checkpoint_on_its_way_is_held_by_nobody_as_a_whole() {
    let _beside = beside_others();
    let megabytes = 2 * number("URSULA_TEST_TRANSFER_MB", 24) as usize;
    let mut cluster = Cluster::start(3, &SETTINGS);
    cluster.kill(3);
    write(&cluster, 1, 0, megabytes);
    let before = [1, 2].map(|node| cluster.resident_bytes(node));
    cluster.start_node(3);
    let most = watch_memory(&cluster, 1);
    expect_all(&cluster, 3, 1, megabytes);
    cluster.expect_equal_states(&[1, 2, 3]);
    let taken = cluster.resident_bytes(3);
    println!("givers {before:?}, at most {most:?}, taker {taken} in the end");
    for (node, before) in (1..).zip(before) {
        let most = most[node as usize - 1];
        assert!(most <= before + BESIDE, "node {node}: {most} of {before}");
    }
    assert!(most[2] <= taken + BESIDE, "the taker: {most:?} of {taken}");
}

#[test]
fn a_node_that_was_away_gets_a_checkpoint_whatever_is_killed_meanwhile() {
    let _beside = beside_others();
    let megabytes = number("URSULA_TEST_TRANSFER_MB", 24) as usize;
    let mut cluster = Cluster::start(3, &SETTINGS);
    cluster.kill(3);
    write(&cluster, 1, 0, megabytes);

    // The taker dies on the way, some times.
    let mut cut = 0;
    for time in 0..4 {
        let before = count(&cluster, 3, "event=checkpoint_fetch ");
        cluster.start_node(3);
        fetch_begins(&cluster, 3, before);
        // At different places of the way; it may be too late for some.
        std::thread::sleep(std::time::Duration::from_millis(40 * time));
        cluster.kill(3);
        cut = cut_off(&cluster, 3);
        if count(&cluster, 3, "event=checkpoint_installed") > 0 {
            break;
        }
    }
    assert!(cut > 0, "no transfer was cut off");

    cluster.start_node(3);
    cluster.wait_ready();
    wait_for("it is installed", || {
        count(&cluster, 3, "event=checkpoint_installed") > 0
    });
    expect_all(&cluster, 3, 1, megabytes);
    cluster.expect_equal_states(&[1, 2, 3]);
    println!("{cut} transfers were cut off by the taker's death");

    // What it starts from now is what was installed.
    cluster.kill(3);
    cluster.start_node(3);
    cluster.wait_ready();
    expect_all(&cluster, 3, 1, megabytes);
    cluster.expect_equal_states(&[1, 2, 3]);

    // The giver dies on the way: another one gives.
    cluster.kill(3);
    write(&cluster, 2, 1, megabytes);
    let (fetches, installed) = (
        count(&cluster, 3, "event=checkpoint_fetch "),
        count(&cluster, 3, "event=checkpoint_installed"),
    );
    cluster.start_node(3);
    let giver = fetch_begins(&cluster, 3, fetches);
    cluster.kill(giver);
    let failed = count(&cluster, 3, "event=checkpoint_not_fetched");
    println!("node {giver} gave; {failed} noticed so far");
    cluster.start_node(giver);
    cluster.wait_ready();
    wait_for("it is installed", || {
        count(&cluster, 3, "event=checkpoint_installed") > installed
    });
    for node in [3, giver] {
        expect_all(&cluster, node, 2, megabytes);
    }
    cluster.expect_equal_states(&[1, 2, 3]);
    cluster.kill(3);
    cluster.start_node(3);
    cluster.wait_ready();
    expect_all(&cluster, 3, 2, megabytes);
    works(&cluster, "after");
    for node in cluster.ids() {
        assert!(cluster.stop(node).success());
    }
}
