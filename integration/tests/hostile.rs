//! What a hostile client sends gets a 4xx or a closed connection, and the server goes on serving.

use integration::{Server, raw};

fn status(answer: &[u8]) -> Option<u16> {
    String::from_utf8_lossy(answer)
        .split(' ')
        .nth(1)?
        .parse()
        .ok()
}

fn assert_refused(server: &Server, what: &str, bytes: &[u8]) {
    let answer = raw(&server.address, bytes);
    match status(&answer) {
        None => {}
        Some(code) => assert!((400..500).contains(&code), "{what}: {code}"),
    }
    assert_eq!(server.client().get("/healthz").status, 200, "after {what}");
}

#[test]
fn malformed_requests_are_refused() {
    let server = Server::start(&["--core-count", "2"]);
    let long = "x".repeat(100_000);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("no http", b"hello\r\n\r\n".to_vec()),
        ("nul in the request line", b"GET /\0 HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()),
        ("content-length twice", b"POST /v1/stream/a HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab".to_vec()),
        ("content-length with a sign", b"POST /v1/stream/a HTTP/1.1\r\nhost: x\r\ncontent-length: +1\r\n\r\na".to_vec()),
        ("a folded header", b"GET / HTTP/1.1\r\nhost: x\r\na: b\r\n c\r\n\r\n".to_vec()),
        ("a space before the colon", b"GET / HTTP/1.1\r\nhost : x\r\n\r\n".to_vec()),
        ("a bad chunk size", b"POST /v1/stream/a HTTP/1.1\r\nhost: x\r\ncontent-type: a/b\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".to_vec()),
        ("a huge header", format!("GET / HTTP/1.1\r\nhost: x\r\na: {long}\r\n\r\n").into_bytes()),
        ("many headers", format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(10_000)).into_bytes()),
        ("a huge path", format!("GET /v1/stream/{long} HTTP/1.1\r\nhost: x\r\n\r\n").into_bytes()),
        ("a path above 1 KiB", format!("PUT /v1/stream/{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(1025)).into_bytes()),
    ];
    for (what, bytes) in cases {
        assert_refused(&server, what, &bytes);
    }
}

#[test]
fn a_second_request_cannot_be_smuggled() {
    let server = Server::start(&["--core-count", "1"]);
    let smuggled = b"POST /v1/stream/a HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nPUT /v1/stream/evil HTTP/1.1\r\nhost: x\r\n\r\n";
    raw(&server.address, smuggled);
    let obfuscated = b"POST /v1/stream/a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: xchunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n";
    assert_refused(&server, "an unknown transfer-encoding", obfuscated);
}

#[test]
fn paths_offsets_and_headers_are_checked() {
    let server = Server::start(&["--core-count", "2"]);
    let mut c = server.client();
    c.create("/v1/stream/ok", "application/json");
    for path in [
        "/v1/stream/../x",
        "/v1/stream/%2e%2e/x",
        "/v1/stream/a//b",
        "/v1/stream/%00",
        "/v1/stream/%zz",
        "/v1/stream/%ff",
        "/v1/stream/a%0d%0ax",
        "/v1/stream/__ds/x",
        "/v1/stream/__ds",
        "/admin",
        "/ab",
    ] {
        assert_eq!(c.create(path, "text/plain").status, 400, "{path}");
    }
    for offset in [
        "",
        "x",
        "0_0",
        "..%2f",
        "0000000000000000_00000000000000000",
        "9999999999999999_0000000000000000",
        "%00",
    ] {
        assert_eq!(
            c.get(&format!("/v1/stream/ok?offset={offset}")).status,
            400,
            "{offset}"
        );
    }
    c.append("/v1/stream/ok", "application/json", b"[1,2]");
    assert_eq!(
        c.get("/v1/stream/ok?offset=0000000000000000_0000000000000001")
            .status,
        400,
        "inside of a message"
    );
    assert_eq!(
        c.get("/v1/stream/ok?offset=0000000000000000_0000000000000999")
            .status,
        400,
        "beyond the tail"
    );
    for (name, value) in [
        ("stream-ttl", "-1"),
        ("stream-expires-at", "x"),
        ("content-type", "nonsense"),
        ("stream-forked-from", "/x"),
    ] {
        assert_eq!(
            c.send("PUT", "/v1/stream/h", &[(name, value)], b"").status,
            400,
            "{name}: {value}"
        );
    }
    assert_eq!(c.send("PATCH", "/v1/stream/ok", &[], b"").status, 405);
    assert_eq!(c.get("/healthz").status, 200);
}

#[test]
fn bad_json_is_refused_whatever_its_depth() {
    let server = Server::start(&["--core-count", "1"]);
    let mut c = server.client();
    c.create("/v1/stream/j", "application/json");
    let deep = "[".repeat(200_000) + &"]".repeat(200_000);
    let objects = "{\"a\":".repeat(100_000);
    for body in [
        "{",
        "[1,]",
        "nul",
        "1 2",
        "\u{feff}1",
        "[]",
        &deep,
        &objects,
    ] {
        assert_eq!(
            c.append("/v1/stream/j", "application/json", body.as_bytes())
                .status,
            400,
            "{body:.20}"
        );
    }
    assert_eq!(
        c.append("/v1/stream/j", "application/json", b"\"\xff\"")
            .status,
        400
    );
    let number = "1".repeat(1 << 20);
    assert_eq!(
        c.append("/v1/stream/j", "application/json", number.as_bytes())
            .status,
        204,
        "stored verbatim"
    );
    assert_eq!(c.get("/v1/stream/j").body.len(), number.len() + 2);
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

#[test]
fn floods_of_http2_end_and_others_are_served() {
    let server = Server::start(&["--core-count", "1"]);
    let preface = [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        &frame(4, 0, 0, &[]),
    ]
    .concat();
    // :method GET, :scheme http, :path /, :authority x
    let get = [0x82, 0x86, 0x84, 0x41, 0x01, b'x'];
    let rapid_reset: Vec<u8> = (0..50_000u32)
        .flat_map(|i| {
            [
                frame(1, 5, 2 * i + 1, &get),
                frame(3, 0, 2 * i + 1, &[0, 0, 0, 8]),
            ]
            .concat()
        })
        .collect();
    let settings: Vec<u8> = (0..50_000).flat_map(|_| frame(4, 0, 0, &[])).collect();
    let pings: Vec<u8> = (0..50_000).flat_map(|_| frame(6, 0, 0, &[0; 8])).collect();
    let continuation = [
        frame(1, 1, 1, &get),
        (0..20_000)
            .flat_map(|_| frame(9, 0, 1, &[0x40, 1, b'a', 1, b'b']))
            .collect(),
    ]
    .concat();
    let garbage: Vec<u8> = (0..20_000u32)
        .flat_map(|i| frame((i % 256) as u8, (i % 7) as u8, i % 9, &[1, 2, 3]))
        .collect();
    for (what, flood) in [
        ("rapid reset", rapid_reset),
        ("settings", settings),
        ("pings", pings),
        ("continuation", continuation),
        ("garbage", garbage),
    ] {
        let before = server.resident_bytes();
        raw(&server.address, &[preface.clone(), flood].concat());
        assert_eq!(server.client().get("/healthz").status, 200, "after {what}");
        let grown = server.resident_bytes().saturating_sub(before);
        assert!(grown < 100 << 20, "{what}: grew by {} MiB", grown >> 20);
    }
}

#[test]
fn random_bytes_do_not_stop_it() {
    let server = Server::start(&["--core-count", "2"]);
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let model = b"POST /v1/stream/fuzz?offset=-1&live=sse HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nproducer-id: p\r\nproducer-epoch: 0\r\nproducer-seq: 0\r\ncontent-length: 7\r\n\r\n[1,2,3]";
    for _ in 0..300 {
        let mut bytes = model.to_vec();
        for _ in 0..1 + random() % 6 {
            let at = (random() % bytes.len() as u64) as usize;
            match random() % 3 {
                0 => bytes[at] = random() as u8,
                1 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, random() as u8),
            }
        }
        let mut stream = std::net::TcpStream::connect(&server.address).unwrap();
        let _ = std::io::Write::write_all(&mut stream, &bytes);
    }
    assert_eq!(server.client().get("/healthz").status, 200);
    assert!(
        server
            .client()
            .get("/metrics")
            .text()
            .contains("ursula_handler_panics_total{core=\"0\"} 0")
    );
}
