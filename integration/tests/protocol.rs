//! Claims of ours beyond the official suite.

use integration::{Server, scratch_dir};

const TEXT: &str = "text/plain";

#[test]
fn buckets_are_real_state() {
    let dir = scratch_dir();
    let settings = [
        "--wal-dir",
        dir.path().to_str().unwrap(),
        "--core-count",
        "2",
    ];
    let server = Server::start(&settings);
    let mut c = server.client();
    assert_eq!(
        c.create("/demo/never", TEXT).status,
        404,
        "the bucket was never created"
    );
    assert_eq!(c.send("PUT", "/demo", &[], b"").status, 201);
    assert_eq!(c.send("PUT", "/demo", &[], b"").status, 200);
    assert_eq!(c.get("/demo").json()["name"], "demo");
    assert_eq!(c.get("/none").status, 404);
    for bad in ["/abc", "/UPPER", "/healthzz.x"] {
        assert_eq!(c.send("PUT", bad, &[], b"").status, 400, "{bad}");
    }
    assert_eq!(c.send("PUT", "/cluster", &[], b"").status, 400, "reserved");
    for name in ["b", "a%2Fx", "c"] {
        assert_eq!(c.create(&format!("/demo/{name}"), TEXT).status, 201);
    }
    assert_eq!(c.append("/demo/a%2Fx", TEXT, b"hi").status, 204);
    assert_eq!(c.get("/demo/a%2Fx").text(), "hi");
    assert_eq!(
        c.get("/v1/stream/demo/b").status,
        404,
        "the two forms are two namespaces"
    );
    let list = c.get("/demo/streams?limit=2").json();
    let ids: Vec<&str> = list["streams"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["a/x", "b"]);
    let next = list["next"].as_str().unwrap();
    let rest = c.get(&format!("/demo/streams?limit=2&after={next}")).json();
    assert_eq!(rest["streams"][0]["id"], "c");
    assert!(rest["next"].is_null());
    assert_eq!(
        c.get("/demo/streams?prefix=a%2F").json()["streams"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(c.send("DELETE", "/demo", &[], b"").status, 409);
    assert_eq!(
        c.create("/demo/d", TEXT).status,
        201,
        "a bucket that was not removed takes streams again"
    );
    server.kill();

    let server = Server::start(&settings);
    let mut c = server.client();
    assert_eq!(c.get("/demo/a%2Fx").text(), "hi");
    for name in ["a%2Fx", "b", "c", "d"] {
        assert_eq!(
            c.send("DELETE", &format!("/demo/{name}"), &[], b"").status,
            204
        );
    }
    assert_eq!(c.send("DELETE", "/demo", &[], b"").status, 204);
    assert_eq!(c.get("/demo").status, 404);
    assert_eq!(c.create("/demo/e", TEXT).status, 404);
    assert_eq!(c.send("PUT", "/demo", &[], b"").status, 201);
    assert_eq!(c.create("/demo/e", TEXT).status, 201);
}

#[test]
fn a_list_pages_in_order_over_all_groups() {
    let server = Server::start(&["--core-count", "2", "--raft-group-count", "5"]);
    let mut c = server.client();
    c.send("PUT", "/lists", &[], b"");
    let mut expected: Vec<String> = (0..57).map(|i| format!("s{}", i * 7919 % 1000)).collect();
    for id in &expected {
        assert_eq!(c.create(&format!("/lists/{id}"), TEXT).status, 201);
    }
    expected.sort();
    let mut found = Vec::new();
    let mut after = String::new();
    loop {
        let list = c.get(&format!("/lists/streams?limit=10{after}")).json();
        found.extend(
            list["streams"]
                .as_array()
                .unwrap()
                .iter()
                .map(|s| s["id"].as_str().unwrap().to_owned()),
        );
        match list["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(found, expected);
}

#[test]
fn forks_between_groups_survive_a_kill_and_collect_in_cascade() {
    let dir = scratch_dir();
    let settings = [
        "--wal-dir",
        dir.path().to_str().unwrap(),
        "--core-count",
        "2",
        "--checkpoint-bytes",
        "64KiB",
        "--wal-segment-bytes",
        "1MiB",
    ];
    let server = Server::start(&settings);
    let mut c = server.client();
    let source = "/v1/stream/origin";
    c.create(source, "application/json");
    let mut middle = String::new();
    for i in 0..200 {
        let reply = c.append(
            source,
            "application/json",
            format!("{{\"i\":{i},\"x\":\"{}\"}}", "y".repeat(2000)).as_bytes(),
        );
        if i == 99 {
            middle = reply.next();
        }
    }
    let fork = |c: &mut integration::Client, path: &str, from: &str, headers: &[(&str, &str)]| {
        let mut all = vec![("stream-forked-from", from)];
        all.extend(headers);
        c.send("PUT", path, &all, b"")
    };
    for i in 0..8 {
        let at = [
            ("stream-fork-offset", &*middle),
            ("stream-fork-sub-offset", "3"),
        ];
        assert_eq!(
            fork(&mut c, &format!("/v1/stream/f{i}"), source, &at).status,
            201
        );
    }
    assert_eq!(
        fork(&mut c, "/v1/stream/g", "/v1/stream/f0", &[]).status,
        201,
        "a fork of a fork"
    );
    c.append("/v1/stream/f0", "application/json", b"[\"own\"]");
    assert_eq!(c.send("DELETE", source, &[], b"").status, 204);
    assert_eq!(c.get(source).status, 410);
    server.kill();

    let server = Server::start(&settings);
    let mut c = server.client();
    assert_eq!(c.get(source).status, 410);
    let count = |c: &mut integration::Client, path: &str| {
        let mut messages = Vec::new();
        let mut offset = "-1".to_owned();
        loop {
            let reply = c.get(&format!("{path}?offset={offset}"));
            assert_eq!(reply.status, 200, "{}", reply.text());
            messages.extend(reply.json().as_array().unwrap().clone());
            offset = reply.next();
            if reply.header("stream-up-to-date") == "true" {
                return messages;
            }
        }
    };
    let all = count(&mut c, "/v1/stream/f0");
    assert_eq!(all.len(), 104);
    assert_eq!(
        (all[102]["i"].as_u64(), all[103].as_str()),
        (Some(102), Some("own"))
    );
    assert_eq!(count(&mut c, "/v1/stream/g").len(), 103);
    for path in [
        "/v1/stream/g",
        "/v1/stream/f0",
        "/v1/stream/f1",
        "/v1/stream/f2",
        "/v1/stream/f3",
    ] {
        assert_eq!(c.send("DELETE", path, &[], b"").status, 204);
    }
    for path in ["/v1/stream/f4", "/v1/stream/f5", "/v1/stream/f6"] {
        assert_eq!(c.send("DELETE", path, &[], b"").status, 204);
    }
    assert_eq!(c.get(source).status, 410);
    assert_eq!(c.send("DELETE", "/v1/stream/f7", &[], b"").status, 204);
    // The source is collected after the answer; a time-out here is a leak.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while c.get(source).status != 404 {
        assert!(
            std::time::Instant::now() < deadline,
            "the source is never collected"
        );
    }
}

#[test]
fn a_producers_retry_after_a_kill_gets_the_first_answer() {
    let dir = scratch_dir();
    let settings = [
        "--wal-dir",
        dir.path().to_str().unwrap(),
        "--core-count",
        "1",
    ];
    let server = Server::start(&settings);
    let mut c = server.client();
    let path = "/v1/stream/p";
    c.create(path, TEXT);
    let post = |c: &mut integration::Client, epoch: &str, seq: &str, body: &[u8]| {
        let headers = [
            ("content-type", TEXT),
            ("producer-id", "me"),
            ("producer-epoch", epoch),
            ("producer-seq", seq),
        ];
        c.send("POST", path, &headers, body)
    };
    assert_eq!(post(&mut c, "1", "0", b"a").status, 200);
    let first = post(&mut c, "1", "1", b"b");
    assert_eq!(first.status, 200);
    server.kill();
    let server = Server::start(&settings);
    let mut c = server.client();
    let retry = post(&mut c, "1", "1", b"b");
    assert_eq!((retry.status, retry.next()), (204, first.next()));
    assert_eq!(retry.header("producer-seq"), "1");
    assert_eq!(post(&mut c, "0", "5", b"z").status, 403);
    let gap = post(&mut c, "1", "5", b"z");
    assert_eq!(
        (gap.status, gap.header("producer-expected-seq")),
        (409, "2")
    );
    assert_eq!(c.get(path).text(), "ab");
}

#[test]
fn events_are_shared_rotated_and_kept_alive() {
    let server = Server::start(&[
        "--core-count",
        "2",
        "--sse-rotate-ms",
        "1200ms",
        "--sse-heartbeat-ms",
        "200ms",
    ]);
    let mut c = server.client();
    c.create("/v1/stream/live", TEXT);
    let mut readers: Vec<_> = (0..8).map(|_| server.client()).collect();
    for reader in &mut readers {
        reader
            .write(b"GET /v1/stream/live?offset=-1&live=sse HTTP/1.1\r\nhost: x\r\n\r\n")
            .unwrap();
    }
    let until = |reader: &mut integration::Client, wanted: &str| {
        loop {
            let line = reader.line();
            assert!(!line.is_empty(), "the stream ended before {wanted}");
            if line.contains(wanted) {
                return line;
            }
        }
    };
    for reader in &mut readers {
        assert!(until(reader, "streamNextOffset").contains("\"upToDate\":true"));
    }
    c.append("/v1/stream/live", TEXT, b" one\nevent: control");
    for reader in &mut readers {
        assert_eq!(until(reader, "one"), "data:  one\n");
        assert_eq!(reader.line(), "data:event: control\n");
        until(reader, "_0000000000000019");
        until(reader, ": heartbeat");
    }
    // Every connection is ended in time; the last chunk says so.
    for reader in &mut readers {
        loop {
            if reader.line() == "0\r\n" {
                break;
            }
        }
    }
}

#[test]
fn metrics_have_a_core_and_health_answers() {
    let dir = scratch_dir();
    let server = Server::start(&[
        "--core-count",
        "3",
        "--no-pin",
        "--wal-dir",
        dir.path().to_str().unwrap(),
    ]);
    let mut c = server.client();
    c.create("/v1/stream/m", TEXT);
    assert_eq!(c.get("/healthz").text(), "ok\n");
    assert_eq!(c.get("/readyz").json()["ready"], true);
    let text = c.get("/metrics").text();
    for core in 0..3 {
        assert!(
            text.contains(&format!("ursula_core_up{{core=\"{core}\"}} 1")),
            "{text}"
        );
        assert!(text.contains(&format!(
            "ursula_wal_commit_seconds_count{{core=\"{core}\"}}"
        )));
    }
    assert!(text.contains("operation=\"create\",status=\"201\"} 1"));
    for line in text
        .lines()
        .filter(|l| l.starts_with("ursula_") && !is_of_the_node(l))
    {
        assert!(line.contains("core=\""), "{line}");
    }
}

/// The node has one of it, whatever its cores.
fn is_of_the_node(line: &str) -> bool {
    ["build_info", "node_info", "disk_", "log_", "admin_"]
        .iter()
        .any(|name| line["ursula_".len()..].starts_with(name))
}

#[test]
fn answers_can_be_compressed_and_revalidated() {
    let server = Server::start(&["--core-count", "1"]);
    let mut c = server.client();
    c.send(
        "PUT",
        "/v1/stream/z",
        &[("content-type", TEXT)],
        "abc".repeat(5000).as_bytes(),
    );
    let plain = c.get("/v1/stream/z");
    let zipped = c.send(
        "GET",
        "/v1/stream/z",
        &[("accept-encoding", "br, gzip")],
        b"",
    );
    assert_eq!(zipped.header("content-encoding"), "gzip");
    assert!(zipped.body.len() < 1000 && zipped.body.starts_with(&[0x1f, 0x8b]));
    assert_ne!(plain.header("etag"), zipped.header("etag"));
    let etag = plain.header("etag").to_owned();
    let again = c.send("GET", "/v1/stream/z", &[("if-none-match", &etag)], b"");
    assert_eq!((again.status, again.body.len()), (304, 0));
    c.send("POST", "/v1/stream/z", &[("stream-closed", "true")], b"");
    assert_eq!(
        c.send("GET", "/v1/stream/z", &[("if-none-match", &etag)], b"")
            .status,
        200
    );
}
