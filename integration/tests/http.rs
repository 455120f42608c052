//! What HTTP and its caches ask of the server, beside the protocol's own words.

use std::time::{Duration, Instant};

use integration::{Client, Reply, Server, raw, scratch_dir};

const TEXT: &str = "text/plain";
const JSON: &str = "application/json";

/// Sends a head as it is and reads the answer.
fn sent(server: &Server, request: &str) -> Reply {
    let mut client = server.client();
    client.write(request.as_bytes()).unwrap();
    client.read_reply(request.starts_with("HEAD")).unwrap()
}

fn if_none_match(c: &mut Client, path: &str, etag: &str) -> Reply {
    c.send("GET", path, &[("if-none-match", etag)], b"")
}

#[test]
fn a_long_message_comes_whole_and_alone_under_its_own_tag() {
    let server = Server::start(&["--core-count", "1", "--read-chunk-bytes", "1KiB"]);
    let mut c = server.client();
    let path = "/v1/stream/long";
    c.create(path, JSON);
    let long = format!("\"{}\"", "x".repeat(5000));
    let first_tail = c.append(path, JSON, long.as_bytes()).next();
    let alone = c.get(path);
    assert_eq!(
        (alone.text(), alone.header("stream-up-to-date")),
        (format!("[{long}]"), "true")
    );
    let etag = alone.header("etag").to_owned();
    assert_eq!(if_none_match(&mut c, path, &etag).status, 304);
    let poll = format!("{path}?offset=-1&live=long-poll");
    assert_eq!(c.get(&poll).header("etag"), etag, "one tag in both modes");

    let closing = [("content-type", JSON), ("stream-closed", "true")];
    assert_eq!(c.send("POST", path, &closing, b"{\"new\":1}").status, 204);
    for reply in [
        if_none_match(&mut c, path, &etag),
        c.send("GET", &poll, &[("if-none-match", &etag)], b""),
    ] {
        assert_eq!(
            (reply.status, reply.text()),
            (200, format!("[{long}]")),
            "not what follows it"
        );
        assert_eq!(reply.next(), first_tail);
        assert_eq!(reply.header("stream-up-to-date"), "");
        assert_ne!(reply.header("etag"), etag);
        let again = if_none_match(&mut c, path, reply.header("etag"));
        assert_eq!(again.status, 304);
    }
    let rest = c.get(&format!("{path}?offset={first_tail}"));
    assert_eq!(
        (rest.text(), rest.header("stream-closed")),
        ("[{\"new\":1}]".to_owned(), "true")
    );

    let path = "/v1/stream/closed-later";
    c.create(path, JSON);
    c.append(path, JSON, long.as_bytes());
    let etag = c.get(path).header("etag").to_owned();
    c.send("POST", path, &[("stream-closed", "true")], b"");
    let closed = if_none_match(&mut c, path, &etag);
    assert_eq!(
        (closed.status, closed.header("stream-closed")),
        (200, "true")
    );
}

#[test]
fn a_tag_that_said_up_to_date_is_over_once_it_is_not() {
    let server = Server::start(&["--core-count", "1", "--read-chunk-bytes", "1KiB"]);
    let mut c = server.client();
    let path = "/v1/stream/exact";
    c.create(path, TEXT);
    c.append(path, TEXT, &[b'x'; 1024]);
    let full = c.get(path);
    assert_eq!(full.header("stream-up-to-date"), "true");
    c.append(path, TEXT, b"y");
    let partial = if_none_match(&mut c, path, full.header("etag"));
    assert_eq!(
        (partial.status, partial.header("stream-up-to-date")),
        (200, "")
    );
    let again = if_none_match(&mut c, path, partial.header("etag"));
    assert_eq!(again.status, 304);
}

#[test]
fn compression_is_a_matter_of_vary_and_of_weights() {
    let server = Server::start(&["--core-count", "1"]);
    let mut c = server.client();
    let path = "/v1/stream/z";
    c.create(path, TEXT);
    c.append(path, TEXT, "abc".repeat(5000).as_bytes());
    let zipped = c.send("GET", path, &[("accept-encoding", "gzip;q=0.5")], b"");
    assert_eq!(zipped.header("content-encoding"), "gzip");
    let both = [
        ("accept-encoding", "gzip"),
        ("if-none-match", zipped.header("etag")),
    ];
    let same = c.send("GET", path, &both, b"");
    assert_eq!((same.status, same.header("vary")), (304, "accept-encoding"));
    for refused in ["gzip;q=0", "gzip;Q=0", "gzip; q=0.000", "br"] {
        let plain = c.send("GET", path, &[("accept-encoding", refused)], b"");
        assert_eq!(
            (plain.header("content-encoding"), plain.header("vary")),
            ("", "accept-encoding"),
            "{refused}"
        );
    }
}

#[test]
fn the_host_is_named_once_and_well() {
    let server = Server::start(&["--core-count", "1"]);
    for (status, head) in [
        (400, "GET /healthz HTTP/1.1\r\n"),
        (400, "GET /healthz HTTP/1.1\r\nhost: a\r\nhost: a\r\n"),
        (400, "GET /healthz HTTP/1.1\r\nhost: a b\r\n"),
        (400, "GET /healthz HTTP/1.1\r\nhost: u:p@a\r\n"),
        (400, "PUT /v1/stream/g HTTP/1.1\r\nhost: <script>\r\n"),
        (200, "GET /healthz HTTP/1.1\r\nhost: [::1]:4437\r\n"),
        (200, "GET /healthz HTTP/1.1\r\nhost:\r\n"),
        (200, "GET /healthz HTTP/1.0\r\n"),
    ] {
        assert_eq!(
            sent(&server, &format!("{head}\r\n")).status,
            status,
            "{head}"
        );
    }
    for (head, location) in [
        (
            "PUT /v1/stream/a HTTP/1.1\r\nhost: a.example\r\n",
            "http://a.example/v1/stream/a",
        ),
        (
            "PUT http://b.example:81/v1/stream/b HTTP/1.1\r\nhost: a.example\r\n",
            "http://b.example:81/v1/stream/b",
        ),
        ("PUT /v1/stream/c HTTP/1.0\r\n", "/v1/stream/c"),
        ("PUT /v1/stream/d HTTP/1.1\r\nhost:\r\n", "/v1/stream/d"),
    ] {
        let reply = sent(&server, &format!("{head}\r\n"));
        assert_eq!(
            (reply.status, reply.header("location")),
            (201, location),
            "{head}"
        );
    }
}

#[test]
fn query_values_are_percent_decoded() {
    let server = Server::start(&["--core-count", "1", "--long-poll-ms", "50ms"]);
    let mut c = server.client();
    c.create("/v1/stream/q", TEXT);
    let tail = c.append("/v1/stream/q", TEXT, b"hi").next();
    assert_eq!(c.get("/v1/stream/q?offset=%2D1").text(), "hi");
    assert_eq!(c.get("/v1/stream/q?offset=n%6fw").header("etag"), "");
    let encoded = tail.replace('_', "%5f");
    let poll = c.get(&format!(
        "/v1/stream/q?offset={encoded}&live=long%2Dpoll&cursor=18446744073709551615"
    ));
    assert_eq!((poll.status, poll.next()), (204, tail));
    let cursor: u64 = poll.header("stream-cursor").parse().unwrap();
    assert!(cursor < 1 << 40, "an absurd cursor is absent: {cursor}");
    assert_eq!(c.get("/v1/stream/q?offset=%252D1").status, 400);
    c.send("PUT", "/demo", &[], b"");
    assert_eq!(c.get("/demo/streams?limit=1&limit=2").status, 400);
}

#[test]
fn the_id_of_the_list_is_no_stream() {
    let server = Server::start(&["--core-count", "1"]);
    let mut c = server.client();
    c.send("PUT", "/demo", &[], b"");
    let refused = c.create("/demo/%73treams", TEXT);
    assert_eq!(refused.status, 400);
    assert!(refused.text().contains("reserved"), "{}", refused.text());
    assert_eq!(c.create("/demo/streams2", TEXT).status, 201);
    assert_eq!(c.create("/v1/stream/streams", TEXT).status, 201);
    assert_eq!(c.get("/favicon.ico").status, 404);
    assert_eq!(c.send("OPTIONS", "/UPPER/x", &[], b"").status, 204);
}

#[test]
fn the_state_of_a_stream_comes_before_the_fault_of_a_body() {
    let server = Server::start(&["--core-count", "2"]);
    let mut c = server.client();
    c.create("/v1/stream/text", TEXT);
    c.create("/v1/stream/json", JSON);
    c.create("/v1/stream/closed", JSON);
    c.send(
        "POST",
        "/v1/stream/closed",
        &[("stream-closed", "true")],
        b"",
    );
    c.create("/v1/stream/gone", JSON);
    let fork = [("stream-forked-from", "/v1/stream/gone")];
    assert_eq!(c.send("PUT", "/v1/stream/fork", &fork, b"").status, 201);
    assert_eq!(c.send("DELETE", "/v1/stream/gone", &[], b"").status, 204);
    for (name, of_bad_json, of_no_type) in [
        ("none", 404, 404),
        ("gone", 410, 410),
        ("closed", 409, 409),
        ("text", 409, 400),
        ("json", 400, 400),
    ] {
        let path = format!("/v1/stream/{name}");
        for body in [&b"{bad"[..], b"[]"] {
            let reply = c.append(&path, JSON, body);
            assert_eq!(reply.status, of_bad_json, "{name}");
            let closed = if name == "closed" { "true" } else { "" };
            assert_eq!(reply.header("stream-closed"), closed, "{name}");
        }
        let reply = c.send("POST", &path, &[], b"data");
        assert_eq!(reply.status, of_no_type, "{name} without a type");
    }
}

#[test]
fn a_stale_producer_learns_that_the_stream_is_closed() {
    let server = Server::start(&["--core-count", "1"]);
    let mut c = server.client();
    let path = "/v1/stream/p";
    c.create(path, TEXT);
    let mut post = |epoch: &str, close: &str, body: &[u8]| {
        let headers = [
            ("content-type", TEXT),
            ("producer-id", "p"),
            ("producer-epoch", epoch),
            ("producer-seq", "0"),
            ("stream-closed", close),
        ];
        c.send("POST", path, &headers, body)
    };
    assert_eq!(post("1", "false", b"a").status, 200);
    let stale = post("0", "false", b"z");
    assert_eq!((stale.status, stale.header("stream-closed")), (403, ""));
    let closing = post("2", "true", b"b");
    assert_eq!(closing.status, 200);
    let stale = post("0", "false", b"z");
    assert_eq!(
        (stale.status, stale.header("producer-epoch")),
        (403, "2"),
        "still fenced"
    );
    assert_eq!(
        (stale.header("stream-closed"), stale.next()),
        ("true", closing.next())
    );
}

#[test]
fn only_bytes_that_came_are_counted() {
    let server = Server::start(&["--core-count", "1"]);
    let mut c = server.client();
    c.create("/v1/stream/n", TEXT);
    raw(
        &server.address,
        b"POST /v1/stream/n HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\ncontent-length: 18446744073709551000\r\n\r\na",
    );
    let chunked = "POST /v1/stream/n HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    assert_eq!(sent(&server, chunked).status, 204);
    assert_eq!(c.append("/v1/stream/n", TEXT, b"1234567").status, 204);
    let metrics = c.get("/metrics").text();
    let counted: u64 = metrics
        .lines()
        .find(|l| l.starts_with("ursula_request_body_bytes_total"))
        .and_then(|l| l.rsplit(' ').next()?.parse().ok())
        .unwrap();
    assert_eq!(counted, 1 + 5 + 7);
}

#[test]
fn headers_that_cannot_be_obeyed_are_refused() {
    let server = Server::start(&["--core-count", "1"]);
    let mut c = server.client();
    c.create("/v1/stream/h", TEXT);
    let coded = "POST /v1/stream/h HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\ntransfer-encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    assert_eq!(sent(&server, coded).status, 400);
    assert_eq!(c.get("/v1/stream/h").text(), "", "stored undecoded");
    let twice = [("stream-closed", "true"), ("stream-closed", "true")];
    assert_eq!(c.send("POST", "/v1/stream/h", &twice, b"").status, 400);
    assert_eq!(c.send("PUT", "/v1/stream/h2", &twice, b"").status, 400);
    for (name, value, part) in [
        ("stream-ttl", "9999999999999", "999999999999 seconds"),
        ("stream-ttl", "01", "leading zeros"),
        ("stream-expires-at", "2030-01-01 00:00:00Z", "RFC 3339"),
    ] {
        let refused = c.send("PUT", "/v1/stream/h3", &[(name, value)], b"");
        assert_eq!(refused.status, 400, "{name}: {value}");
        assert!(refused.text().contains(part), "{}", refused.text());
    }
}

#[test]
fn who_waits_on_a_source_that_is_deleted_is_told_that_it_is_gone() {
    let dir = scratch_dir();
    let data = dir.path().to_str().unwrap();
    let server = Server::start(&["--core-count", "2", "--wal-dir", data]);
    let mut c = server.client();
    for (name, is_source, status) in [("source", true, 410), ("plain", false, 404)] {
        let path = format!("/v1/stream/{name}");
        c.create(&path, TEXT);
        if is_source {
            let fork = [("stream-forked-from", &*path)];
            assert_eq!(c.send("PUT", "/v1/stream/fork", &fork, b"").status, 201);
        }
        let mut waiter = server.client();
        let request = format!("GET {path}?offset=now&live=long-poll HTTP/1.1\r\nhost: x\r\n\r\n");
        waiter.write(request.as_bytes()).unwrap();
        until_readers(&mut c, 1);
        assert_eq!(c.send("DELETE", &path, &[], b"").status, 204);
        assert_eq!(waiter.read_reply(false).unwrap().status, status, "{name}");
        until_readers(&mut c, 0);
    }
}

/// Waits until so many live readers are there, over all cores.
fn until_readers(c: &mut Client, wanted: u64) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let metrics = c.get("/metrics").text();
        let readers = metrics
            .lines()
            .filter(|l| l.starts_with("ursula_live_readers{"))
            .filter_map(|l| l.rsplit(' ').next()?.parse::<u64>().ok());
        if readers.sum::<u64>() == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{metrics}");
    }
}
