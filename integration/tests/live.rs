//! Live readers: what they are told when characters are cut, when they leave, and when a killed server comes back.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use integration::{Client, Server, scratch_dir};

const TEXT: &str = "text/plain";

fn follow(server: &Server, path: &str, offset: &str) -> Client {
    let mut client = server.client();
    let request = format!("GET {path}?offset={offset}&live=sse HTTP/1.1\r\nhost: x\r\n\r\n");
    client.write(request.as_bytes()).unwrap();
    client
}

/// Lines of an event stream up to and including the next control event's data.
fn until_control(client: &mut Client) -> String {
    let mut text = String::new();
    loop {
        let line = client.line();
        assert!(!line.is_empty(), "the stream ended after {text:?}");
        let is_control = line.starts_with("data:{\"streamNextOffset\"");
        text.push_str(&line);
        if is_control {
            return text;
        }
    }
}

fn offset(position: u64) -> String {
    format!("0000000000000000_{position:016}")
}

#[test]
fn the_start_of_a_character_is_not_passed_over() {
    let server = Server::start(&["--core-count", "1"]);
    let mut c = server.client();
    c.create("/v1/stream/cut", TEXT);
    c.append("/v1/stream/cut", TEXT, b"abc\xe2\x82");
    let mut first = follow(&server, "/v1/stream/cut", &offset(3));
    let seen = until_control(&mut first);
    assert!(
        seen.contains(&offset(3)) && !seen.contains("upToDate"),
        "a reader that resumes here would lose two bytes: {seen}"
    );
    let mut second = follow(&server, "/v1/stream/cut", &offset(3));
    until_control(&mut second);
    c.append("/v1/stream/cut", TEXT, b"\xac!");
    for reader in [&mut first, &mut second] {
        let seen = until_control(reader);
        assert!(
            seen.contains("data:€!") && seen.contains("upToDate"),
            "{seen}"
        );
    }
}

/// Else all readers of a node that dies come to the others at once (FAULTS.md, case 37).
#[test]
fn each_reader_is_told_its_own_time_to_come_back() {
    let server = Server::start(&["--core-count", "1"]);
    server.client().create("/v1/stream/again", TEXT);
    let told: BTreeSet<u64> = (0..8)
        .map(|_| {
            let seen = until_control(&mut follow(&server, "/v1/stream/again", "-1"));
            let mut lines = seen.lines().filter_map(|l| l.strip_prefix("retry: "));
            let line = lines.next().expect("a time");
            assert!(lines.next().is_none(), "{seen}");
            line.parse().expect("a number")
        })
        .collect();
    assert!(
        told.len() > 4 && told.iter().all(|ms| (500..3500).contains(ms)),
        "{told:?}"
    );
}

#[test]
fn a_character_that_never_ends_is_told_before_the_close() {
    let server = Server::start(&["--core-count", "1"]);
    let mut c = server.client();
    c.create("/v1/stream/end", TEXT);
    let mut reader = follow(&server, "/v1/stream/end", "-1");
    until_control(&mut reader);
    c.append("/v1/stream/end", TEXT, b"tail\xe2");
    assert!(until_control(&mut reader).contains("data:tail\n"));
    c.send("POST", "/v1/stream/end", &[("stream-closed", "true")], b"");
    let seen = until_control(&mut reader);
    assert!(
        seen.contains("data:\u{fffd}\n") && seen.contains("streamClosed"),
        "{seen}"
    );
}

#[test]
fn a_reader_that_left_frees_its_place() {
    let server = Server::start(&["--core-count", "1", "--live-readers-max", "2"]);
    let mut c = server.client();
    c.create("/v1/stream/x", TEXT);
    for mode in ["sse", "long-poll"] {
        let mut readers = Vec::new();
        for _ in 0..2 {
            let mut client = server.client();
            let request = format!(
                "GET /v1/stream/x?offset={}&live={mode} HTTP/1.1\r\nhost: x\r\n\r\n",
                offset(0)
            );
            client.write(request.as_bytes()).unwrap();
            readers.push(client);
        }
        let live = |c: &mut Client| {
            c.get("/metrics")
                .text()
                .contains("ursula_live_readers{core=\"0\"} 2")
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !live(&mut c) {
            assert!(Instant::now() < deadline, "the readers did not come");
        }
        drop(readers);
        // Far below the heartbeat and the long-poll's time.
        let deadline = Instant::now() + Duration::from_secs(5);
        while live(&mut c) {
            assert!(
                Instant::now() < deadline,
                "{mode}: the places are still taken"
            );
        }
    }
}

#[test]
fn a_killed_server_comes_back_at_once_on_its_address() {
    let dir = scratch_dir();
    let path = dir.path().to_str().unwrap();
    let server = Server::start(&["--wal-dir", path, "--core-count", "2", "--no-pin"]);
    let address = server.address.clone();
    server.kill();
    let settings = [
        "--wal-dir",
        path,
        "--core-count",
        "2",
        "--no-pin",
        "--listen",
        &address,
    ];
    for _ in 0..5 {
        match Server::try_start(&settings) {
            Ok(server) => server.kill(),
            Err(log) => panic!("refused beside nobody:\n{log}"),
        }
    }
}
