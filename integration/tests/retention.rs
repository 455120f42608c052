//! Retention: what is too old or too much goes by itself, the oldest first and in whole messages.

use std::time::{Duration, Instant};

use integration::{Client, Server, scratch_dir};

const JSON: &str = "application/json";
const TEXT: &str = "text/plain";

/// Longest wait for what a server does by itself.
const PATIENCE: Duration = Duration::from_secs(30);

fn create(c: &mut Client, path: &str, content_type: &str, more: &[(&str, &str)]) -> u16 {
    let mut headers = vec![("content-type", content_type)];
    headers.extend_from_slice(more);
    c.send("PUT", path, &headers, b"").status
}

/// Bytes that a reader from the start gets.
fn until_at_most(c: &mut Client, path: &str, bytes: usize) -> Vec<u8> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = c.read_all(path);
        if found.len() <= bytes {
            return found;
        }
        assert!(Instant::now() < deadline, "{} bytes are kept", found.len());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn durable(dir: &std::path::Path) -> Server {
    let wal = dir.join("wal");
    let (wal, cold) = (wal.to_str().unwrap(), dir.join("cold"));
    let settings = ["--wal-dir", wal, "--cold", cold.to_str().unwrap()];
    let tiny = ["--checkpoint-bytes", "64KiB", "--cold-pack-bytes", "16KiB"];
    let soon = ["--cold-flush-age-ms", "20ms", "--wal-segment-bytes", "1MiB"];
    let cores = ["--core-count", "2", "--raft-group-count", "3"];
    Server::start(&[&settings[..], &tiny, &soon, &cores].concat())
}

#[test]
fn no_more_bytes_are_kept_than_a_stream_may_have_also_after_a_crash() {
    let dir = scratch_dir();
    let server = durable(dir.path());
    let mut c = server.client();
    let path = "/v1/stream/bounded";
    let bounded = [("stream-max-bytes", "10000")];
    assert_eq!(create(&mut c, path, JSON, &bounded), 201);
    assert_eq!(create(&mut c, path, JSON, &bounded), 200);
    let other = [("stream-max-bytes", "10001")];
    assert_eq!(create(&mut c, path, JSON, &other), 409);
    let message = |number: usize| format!("{{\"number\":{number},\"text\":\"{:a>80}\"}}", "");
    let mut first = String::new();
    for number in 0..600 {
        let reply = c.append(path, JSON, message(number).as_bytes());
        assert_eq!(reply.status, 204);
        if number == 0 {
            first = reply.next();
        }
    }
    // A thirty-second and an append or two are the grain of it; the brackets are the reader's.
    let kept = |c: &mut Client, count: usize| {
        let found = until_at_most(c, path, 10_600);
        let messages: Vec<serde_json::Value> = serde_json::from_slice(&found).unwrap();
        let bytes: usize = (count - messages.len()..count)
            .map(|number| message(number).len() + 2)
            .sum();
        assert!(bytes >= 10_000, "{bytes} bytes are too few");
        let numbers: Vec<u64> = messages
            .iter()
            .map(|m| m["number"].as_u64().unwrap())
            .collect();
        let expected: Vec<u64> = ((count - messages.len()) as u64..count as u64).collect();
        assert_eq!(numbers, expected, "the newest ones, whole");
    };
    kept(&mut c, 600);
    let early = c.get(&format!("{path}?offset={first}"));
    assert_eq!(early.status, 410);
    let earliest = early.header("stream-earliest-offset").to_owned();
    assert_eq!(c.get(&format!("{path}?offset={earliest}")).status, 200);
    let head = c.send("HEAD", path, &[], b"");
    assert_eq!(head.header("stream-max-bytes"), "10000");
    server.kill();

    let server = durable(dir.path());
    let mut c = server.client();
    assert_eq!(c.get(&format!("{path}?offset={first}")).status, 410);
    kept(&mut c, 600);
    for number in 600..700 {
        assert_eq!(c.append(path, JSON, message(number).as_bytes()).status, 204);
    }
    kept(&mut c, 700);
    assert!(server.stop().success());
}

#[test]
fn what_is_too_old_goes_and_what_came_since_stays() {
    let dir = scratch_dir();
    let server = durable(dir.path());
    let mut c = server.client();
    let path = "/v1/stream/aging";
    let aging = [("stream-max-age", "2")];
    assert_eq!(create(&mut c, path, TEXT, &aging), 201);
    let since = Instant::now();
    let first = c.append(path, TEXT, b"old;").next();
    loop {
        let found = c.read_all(path);
        if found.is_empty() {
            break;
        }
        assert!(since.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(20));
    }
    // Two clocks, and whole milliseconds.
    assert!(since.elapsed() > Duration::from_millis(1990), "too early");
    let second = c.append(path, TEXT, b"new;").next();
    assert_eq!(c.get(path).text(), "new;");
    assert_eq!(c.get(&format!("{path}?offset={first}")).text(), "new;");
    let head = c.send("HEAD", path, &[], b"");
    assert_eq!(head.next(), second, "offsets only grow");
    assert_eq!(head.header("stream-max-age"), "2");
    server.kill();
    let server = durable(dir.path());
    let mut c = server.client();
    until_at_most(&mut c, path, 0);
    assert!(server.stop().success());
}

#[test]
fn a_stream_keeps_what_its_bucket_says_unless_it_says_something_itself() {
    let server = Server::start(&["--core-count", "2"]);
    let mut c = server.client();
    let bounded = [("stream-max-bytes", "100"), ("stream-max-age", "3600")];
    assert_eq!(c.send("PUT", "/kept", &bounded, b"").status, 201);
    let info = c.get("/kept").json();
    assert_eq!(
        (&info["max_bytes"], &info["max_age_seconds"]),
        (&100.into(), &3600.into())
    );
    let of = |c: &mut Client, path: &str| {
        let head = c.send("HEAD", path, &[], b"");
        let header = |name: &str| head.header(name).to_owned();
        (header("stream-max-bytes"), header("stream-max-age"))
    };
    let pair = |bytes: &str, age: &str| (bytes.to_owned(), age.to_owned());
    create(&mut c, "/kept/by-bucket", TEXT, &[]);
    assert_eq!(of(&mut c, "/kept/by-bucket"), pair("100", "3600"));
    create(&mut c, "/kept/own", TEXT, &[("stream-max-bytes", "7")]);
    assert_eq!(of(&mut c, "/kept/own"), pair("7", ""));
    create(&mut c, "/kept/all", TEXT, &[("stream-max-bytes", "none")]);
    assert_eq!(of(&mut c, "/kept/all"), pair("", ""));

    assert_eq!(c.send("PUT", "/kept", &[], b"").status, 200);
    assert_eq!(c.get("/kept").json()["max_bytes"], 100, "kept as it was");
    let none = [("stream-max-age", "none")];
    assert_eq!(c.send("PUT", "/kept", &none, b"").status, 200);
    assert!(c.get("/kept").json()["max_bytes"].is_null());
    assert_eq!(create(&mut c, "/kept/by-bucket", TEXT, &[]), 200, "stands");
    assert_eq!(of(&mut c, "/kept/by-bucket"), pair("100", "3600"));

    for _ in 0..20 {
        c.append("/kept/by-bucket", TEXT, &[b'x'; 30]);
    }
    let found = until_at_most(&mut c, "/kept/by-bucket", 160);
    assert!(found.len() >= 100, "{}", found.len());
    for bad in ["0", "-5", "1.5", "ten", ""] {
        let reply = c.send("PUT", "/kept/bad", &[("stream-max-bytes", bad)], b"");
        assert_eq!(reply.status, 400, "{bad}");
        assert!(
            reply.text().contains("stream-max-bytes"),
            "{}",
            reply.text()
        );
    }
    assert!(server.stop().success());
}

#[test]
fn a_fork_keeps_what_it_inherited_from_a_stream_that_does_not() {
    let dir = scratch_dir();
    let server = durable(dir.path());
    let mut c = server.client();
    let (source, fork) = ("/v1/stream/source", "/v1/stream/fork");
    assert_eq!(
        create(&mut c, source, TEXT, &[("stream-max-bytes", "1000")]),
        201
    );
    let old = vec![b'o'; 900];
    c.append(source, TEXT, &old);
    assert_eq!(
        create(&mut c, fork, TEXT, &[("stream-forked-from", source)]),
        201
    );
    assert_eq!(
        c.send("HEAD", fork, &[], b"").header("stream-max-bytes"),
        ""
    );
    for _ in 0..20 {
        c.append(source, TEXT, &[b'n'; 300]);
    }
    let found = until_at_most(&mut c, source, 1400);
    assert!(found.iter().all(|b| *b == b'n'));
    assert!(c.read_all(fork) == old);
    server.kill();
    let server = durable(dir.path());
    assert!(server.client().read_all(fork) == old);
    assert!(server.stop().success());
}
