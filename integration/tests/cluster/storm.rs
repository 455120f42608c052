//! All readers of a node come to the others at once when it dies. `URSULA_TEST_READERS` says how many there are.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use integration::Client;
use integration::cluster::Cluster;
use integration::load::{Links, Sent, offset};

use crate::{alone, number};

const PATIENCE: Duration = Duration::from_secs(60);

/// Readers are opened by so many threads.
const HANDS: usize = 8;

const STREAMS: usize = 16;

fn path(stream: usize) -> String {
    format!("/v1/stream/storm/s{stream}")
}

/// Follows a stream from an offset.
fn follow(address: &str, stream: usize, position: u64) -> Client {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let request = format!(
            "GET {}?live=sse&offset={} HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n",
            path(stream),
            offset(position)
        );
        let asked = Client::try_connect(address, PATIENCE).and_then(|mut client| {
            client.write(request.as_bytes())?;
            client.read_head().map(|(status, _)| (client, status))
        });
        if let Ok((client, 200)) = asked {
            return client;
        }
        assert!(
            Instant::now() < deadline,
            "{}: {asked:?}",
            path(stream),
            asked = asked.map(|a| a.1)
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Reads until this text came.
fn until(client: &mut Client, text: &str) {
    let mut seen = String::new();
    while !seen.contains(text) {
        let chunk = client.read_chunk().expect("more of the stream");
        assert!(!chunk.is_empty(), "it ended before {text}: {seen}");
        seen.push_str(&String::from_utf8_lossy(&chunk));
    }
}

/// Appends to a stream of its own all the time; how long each took.
fn write(addresses: &[String], stop: &AtomicBool) -> Vec<Duration> {
    let mut links = Links::new(addresses, Duration::from_secs(10));
    let mut took = Vec::new();
    let (mut node, mut seq) = (0, 0_u64);
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let number = seq.to_string();
        let headers = [
            ("content-type", "text/plain"),
            ("producer-id", "w"),
            ("producer-epoch", "0"),
            ("producer-seq", &number),
        ];
        loop {
            match links.send(node, "POST", &path(0), &headers, b"-") {
                Sent::Answered(reply) => {
                    assert!(matches!(reply.status, 200 | 204), "{}", reply.text());
                    break;
                }
                Sent::Refused | Sent::Unknown => node = (node + 1) % addresses.len(),
            }
            assert!(began.elapsed() < PATIENCE, "an append is not taken");
            std::thread::sleep(Duration::from_millis(2));
        }
        took.push(began.elapsed());
        seq += 1;
        std::thread::sleep(Duration::from_millis(2));
    }
    took.sort_unstable();
    took
}

#[test]
fn readers_that_come_at_once_when_their_node_dies_miss_nothing() {
    let _alone = alone();
    let readers = number("URSULA_TEST_READERS", 1000) as usize;
    let mut cluster = Cluster::start(3, &[]);
    for stream in 0..STREAMS {
        let created = cluster.client(1).create(&path(stream), "text/plain");
        assert_eq!(created.status, 201, "{}", created.text());
    }
    // Stream 0 is written to all the time; the readers follow the others.
    let stream_of = |reader: usize| 1 + reader % (STREAMS - 1);
    for stream in 1..STREAMS {
        let told = cluster
            .client(1)
            .append(&path(stream), "text/plain", b"one");
        assert_eq!(told.status, 204, "{}", told.text());
    }
    let open = |addresses: &[String], position: u64, expected: &str| -> Vec<Client> {
        std::thread::scope(|scope| {
            let hands = (0..HANDS).map(|hand| {
                scope.spawn(move || {
                    let mine = (hand..readers).step_by(HANDS);
                    mine.map(|reader| {
                        let address = &addresses[reader % addresses.len()];
                        let mut client = follow(address, stream_of(reader), position);
                        until(&mut client, expected);
                        client
                    })
                    .collect::<Vec<_>>()
                })
            });
            let hands: Vec<_> = hands.collect();
            let opened = hands.into_iter().flat_map(|h| h.join().expect("it reads"));
            opened.collect()
        })
    };
    let first = cluster.address(1).to_owned();
    let before = open(&[first], 0, "one");
    let rest = cluster.addresses()[1..].to_vec();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (addresses, stop) = (rest.clone(), stop.clone());
        std::thread::spawn(move || write(&addresses, &stop))
    };
    cluster.kill(1);
    // What is appended while nobody reads must come too.
    let mut links = Links::new(&rest, Duration::from_secs(10));
    let deadline = Instant::now() + PATIENCE;
    let mut waiting: BTreeSet<usize> = (1..STREAMS).collect();
    while let Some(stream) = waiting.first().copied() {
        let headers = [
            ("content-type", "text/plain"),
            ("producer-id", "s"),
            ("producer-epoch", "0"),
            ("producer-seq", "0"),
        ];
        if let Sent::Answered(reply) =
            links.send(stream % 2, "POST", &path(stream), &headers, b"two")
        {
            assert!(matches!(reply.status, 200 | 204), "{}", reply.text());
            waiting.remove(&stream);
        }
        assert!(Instant::now() < deadline, "{} takes nothing", path(stream));
    }
    drop(before);
    let began = Instant::now();
    let mut after = open(&rest, 3, "two");
    let took = began.elapsed();
    assert_eq!(after.len(), readers);
    for stream in 1..STREAMS {
        let told = cluster
            .client(2)
            .append(&path(stream), "text/plain", b"three");
        assert_eq!(told.status, 204, "{}", told.text());
    }
    for client in &mut after {
        until(client, "three");
    }
    stop.store(true, Ordering::Relaxed);
    let appends = writer.join().expect("a writer's claim failed");
    let at = |share: usize| appends[(appends.len() * share / 100).min(appends.len() - 1)];
    println!(
        "{readers} readers came back in {took:?}; {} appends meanwhile: median {:?}, p99 {:?}, most {:?}",
        appends.len(),
        at(50),
        at(99),
        at(100)
    );
    cluster.expect_all_alive();
}
