//! Checkpoints on bad ways: connections that break long before a file is over, answers with wrong bits, a giver that goes
//! slowly on purpose while its checkpoint is replaced. The relays between the nodes are `integration/src/cluster/wires.rs`.

use std::time::{Duration, Instant};

use integration::cluster::{Cluster, Trouble};
use integration::load::{Links, Sent};

use crate::formation::wait_for;
use crate::{alone, beside_others};

/// Packs of several megabytes, and little log: who was away gets a checkpoint.
const SETTINGS: [&str; 6] = [
    "--checkpoint-bytes",
    "4MiB",
    "--wal-segment-bytes",
    "1MiB",
    "--log-bytes-max",
    "1MiB",
];

const PATH: &str = "/v1/stream/bad-ways";

const PART: usize = 128 << 10;

/// Bytes that do not compress, and tell where they belong.
fn part(number: usize) -> Vec<u8> {
    let mut state = number as u64 + 1;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as u8
    };
    (0..PART).map(|_| next()).collect()
}

/// Appends these parts through the first node, each once: who led may just have been killed, and then is asked again.
fn write(cluster: &Cluster, parts: std::ops::Range<usize>) {
    let mut links = Links::new(&cluster.addresses(), Duration::from_secs(30));
    for number in parts {
        let seq = number.to_string();
        let headers = [
            ("content-type", "application/octet-stream"),
            ("producer-id", "writer"),
            ("producer-epoch", "0"),
            ("producer-seq", &seq),
        ];
        let mut status = 0;
        wait_for("a part is taken", || {
            match links.send(0, "POST", PATH, &headers, &part(number)) {
                Sent::Answered(reply) => status = reply.status,
                Sent::Refused | Sent::Unknown => {}
            }
            status != 0
        });
        assert!(matches!(status, 200 | 204), "part {number}: {status}");
    }
}

/// Three nodes, the third of which was away while all these parts were written.
fn without_the_third(settings: &[&str], parts: usize) -> Cluster {
    let settings = [&SETTINGS[..], settings].concat();
    let mut cluster = Cluster::start_wired(3, &settings).expect("free ports");
    let created = cluster.client(1).create(PATH, "application/octet-stream");
    assert_eq!(created.status, 201, "{}", created.text());
    cluster.kill(3);
    write(&cluster, 0..parts);
    cluster
}

fn set_to_the_third(cluster: &Cluster, trouble: Trouble) {
    let wires = cluster.wires().expect("it has some");
    for giver in [1, 2] {
        wires.set(3, giver, trouble);
    }
}

fn count(cluster: &Cluster, node: u32, what: &str) -> usize {
    cluster.log(node).matches(what).count()
}

/// The sum of a number in all lines of an event.
fn sum(cluster: &Cluster, node: u32, event: &str, name: &str) -> u64 {
    let log = cluster.log(node);
    let lines = log.lines().filter(|line| line.contains(event));
    let numbers = lines.filter_map(|line| {
        let (_, rest) = line.split_once(name)?;
        rest.split(' ').next()?.parse::<u64>().ok()
    });
    numbers.sum()
}

/// The third node has what was written, byte for byte.
fn expect_all(cluster: &mut Cluster, parts: usize) {
    cluster.wait_ready();
    wait_for("it is installed", || {
        count(cluster, 3, "event=checkpoint_installed") > 0
    });
    cluster.expect_equal_states(&[1, 2, 3]);
    let expected: Vec<u8> = (0..parts).flat_map(part).collect();
    let found = cluster.client(3).read_all(PATH);
    assert!(found == expected, "{} of {}", found.len(), expected.len());
    cluster.expect_all_alive();
}

#[test]
fn a_transfer_that_is_cut_in_every_file_goes_on_where_it_was() {
    let _beside = beside_others();
    const PARTS: usize = 64;
    let mut cluster = without_the_third(&[], PARTS);
    // No connection lives for a whole file.
    set_to_the_third(&cluster, Trouble::Cut(2 << 20));
    cluster.start_node(3);
    expect_all(&mut cluster, PARTS);
    let cut = count(&cluster, 3, "event=checkpoint_not_fetched");
    let came = sum(&cluster, 3, "event=checkpoint_", " bytes=");
    println!("{cut} attempts broke off; {came} bytes came");
    assert!(cut > 1, "no attempt broke off");
    // What had come was not sent again, but for what was on its way when the connection broke.
    let most = (PARTS * PART) as u64 * 2 + (4 << 20);
    assert!(came < most, "{came} bytes came, {most} are enough");
}

#[test]
fn wrong_bits_on_the_way_are_found_and_fetched_again() {
    let _beside = beside_others();
    const PARTS: usize = 64;
    let mut cluster = without_the_third(&[], PARTS);
    set_to_the_third(&cluster, Trouble::Flipped(1 << 20));
    cluster.start_node(3);
    wait_for("something was wrong", || {
        count(&cluster, 3, "event=checkpoint_not_fetched") > 2
    });
    set_to_the_third(&cluster, Trouble::None);
    expect_all(&mut cluster, PARTS);
}

#[test]
fn a_transfer_is_as_fast_as_was_set_and_the_checkpoint_may_be_replaced_meanwhile() {
    let _alone = alone();
    const PARTS: usize = 64;
    const BYTES_PER_SECOND: u64 = 2 << 20;
    let mut cluster = without_the_third(&["--transfer-bytes-per-second", "2MiB"], PARTS);
    cluster.start_node(3);
    wait_for("it is under way", || {
        count(&cluster, 3, "event=checkpoint_fetch ") > 0
    });
    let began = Instant::now();
    // The giver's newest checkpoint is another one soon.
    const MORE: usize = 48;
    write(&cluster, PARTS..PARTS + MORE);
    wait_for("it is over", || {
        count(&cluster, 3, "event=checkpoint_fetched ") > 0
    });
    let took = began.elapsed();
    let came = sum(&cluster, 3, "event=checkpoint_fetched ", " bytes=");
    let least = Duration::from_millis(came * 1000 / BYTES_PER_SECOND);
    println!("{came} bytes in {took:?}, {least:?} at least");
    assert!(came as usize > PARTS * PART / 2, "only {came} bytes came");
    // The first part of all leaves at once, and the log may have been late to say so.
    assert!(took + Duration::from_millis(500) > least, "{took:?}");
    expect_all(&mut cluster, PARTS + MORE);
}
