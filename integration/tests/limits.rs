//! Each bound answers with a status, is counted, and loses nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use integration::{Client, Server};

const TEXT: &str = "text/plain";

#[test]
fn a_large_body_is_413_and_a_slow_one_408() {
    let server = Server::start(&[
        "--core-count",
        "1",
        "--body-bytes-max",
        "64KiB",
        "--body-timeout-ms",
        "300ms",
    ]);
    let mut c = server.client();
    c.create("/v1/stream/b", TEXT);
    assert_eq!(c.append("/v1/stream/b", TEXT, &[b'x'; 70_000]).status, 413);
    let mut chunked = server.client();
    chunked
        .write(b"POST /v1/stream/b HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
        .unwrap();
    assert_eq!(chunked.read_reply(false).unwrap().status, 408);
    assert_eq!(
        server.client().get("/v1/stream/b").body.len(),
        0,
        "half a body was applied"
    );
    assert_eq!(
        server
            .client()
            .append("/v1/stream/b", TEXT, &[b'x'; 60_000])
            .status,
        204
    );
}

#[test]
fn bodies_in_flight_and_hot_bytes_and_readers_have_bounds() {
    let server = Server::start(&[
        "--core-count",
        "1",
        "--body-bytes-max",
        "100KiB",
        "--body-bytes-in-flight-max",
        "100KiB",
        "--hot-bytes-max",
        "1MiB",
        "--live-readers-max",
        "3",
        "--long-poll-ms",
        "400ms",
    ]);
    let mut c = server.client();
    c.create("/v1/stream/l", TEXT);
    // A body that is announced holds its share of the bound until it is there.
    let mut announced = server.client();
    announced
        .write(b"POST /v1/stream/l HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\ncontent-length: 90000\r\nexpect: 100-continue\r\n\r\n")
        .unwrap();
    assert!(announced.line().contains("100 Continue"));
    announced.line();
    let refused = c.append("/v1/stream/l", TEXT, &[b'x'; 90_000]);
    assert_eq!((refused.status, refused.header("retry-after")), (503, "1"));
    assert!(refused.text().contains("body_bytes_in_flight_max"));
    announced.write(&[b'x'; 90_000]).unwrap();
    assert_eq!(announced.read_reply(false).unwrap().status, 204);
    let mut accepted = 90_000;
    let full = loop {
        let reply = c.append("/v1/stream/l", TEXT, &vec![b'x'; 90 << 10]);
        if reply.status != 204 {
            break reply;
        }
        accepted += 90 << 10;
        assert!(accepted < 4 << 20, "hot_bytes_max does not hold");
    };
    assert_eq!(full.status, 503, "{}", full.text());
    assert!(full.text().contains("hot_bytes_max"));
    assert_eq!(
        c.read_all("/v1/stream/l").len(),
        accepted,
        "what was acknowledged is there"
    );
    let tail = c.send("HEAD", "/v1/stream/l", &[], b"").next();
    let mut waiting: Vec<Client> = (0..6).map(|_| server.client()).collect();
    for client in &mut waiting {
        client
            .write(
                format!(
                    "GET /v1/stream/l?offset={tail}&live=long-poll HTTP/1.1\r\nhost: x\r\n\r\n"
                )
                .as_bytes(),
            )
            .unwrap();
    }
    let statuses: Vec<u16> = waiting
        .iter_mut()
        .map(|c| c.read_reply(false).unwrap().status)
        .collect();
    assert_eq!(
        statuses.iter().filter(|s| **s == 204).count(),
        3,
        "{statuses:?}"
    );
    assert_eq!(
        statuses.iter().filter(|s| **s == 503).count(),
        3,
        "{statuses:?}"
    );
    let metrics = c.get("/metrics").text();
    for bound in [
        "hot_bytes_max",
        "body_bytes_in_flight_max",
        "live_readers_max",
    ] {
        assert!(
            metrics.contains(&format!(
                "ursula_refusals_total{{core=\"0\",bound=\"{bound}\"}}"
            )),
            "{metrics}"
        );
    }
}

#[test]
fn connections_have_a_bound() {
    let server = Server::start(&["--core-count", "1", "--connections-max", "5"]);
    let held: Vec<Client> = (0..5).map(|_| server.client()).collect();
    let mut one_more = server.client();
    assert_eq!(one_more.read_reply(false).unwrap().status, 503);
    drop(held);
    // The places are free once the server has noticed.
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        let mut client = server.client();
        if client
            .try_send("GET", "/healthz", &[], b"")
            .is_ok_and(|r| r.status == 200)
        {
            break;
        }
        assert!(std::time::Instant::now() < deadline);
    }
}

#[test]
fn headers_that_never_end_are_cut() {
    let server = Server::start(&["--core-count", "1", "--header-timeout-ms", "300ms"]);
    let mut slow = TcpStream::connect(&server.address).unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n").unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).expect("the server closes it");
    assert_eq!(server.client().get("/healthz").status, 200);
}

/// Clients and balancers keep connections for the next request longer than a request's headers may take.
#[test]
fn a_connection_may_be_idle_for_longer_than_headers_may_take() {
    let settings = ["--core-count", "1", "--header-timeout-ms", "200ms"];
    let server = Server::start(&settings);
    let (mut idle, mut slow) = (server.client(), server.client());
    assert_eq!(idle.get("/healthz").status, 200);
    assert_eq!(slow.get("/healthz").status, 200);
    slow.write(b"GET /healthz HTTP/1.1\r\nhost: ").unwrap();
    let cut = slow.read_reply(false).expect_err("its headers never end");
    assert!(has_ended(&cut), "{cut}");
    // Idle since before those headers began.
    assert_eq!(idle.get("/healthz").status, 200);
    assert!(server.stop().success());
    let server = Server::start(&[&settings[..], &["--idle-timeout-ms", "500ms"]].concat());
    let mut idle = server.client();
    assert_eq!(idle.get("/healthz").status, 200);
    let cut = idle.read_reply(false).expect_err("nobody asked");
    assert!(has_ended(&cut), "{cut}");
}

fn has_ended(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset)
}

#[test]
fn who_never_says_a_whole_request_is_cut() {
    let server = Server::start(&["--core-count", "1", "--header-timeout-ms", "300ms"]);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for beginning in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n", preface, settings] {
        let mut silent = TcpStream::connect(&server.address).unwrap();
        silent.write_all(beginning).unwrap();
        silent
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut rest = Vec::new();
        silent
            .read_to_end(&mut rest)
            .unwrap_or_else(|e| panic!("{beginning:?} keeps its place: {e}"));
    }
    assert_eq!(server.client().get("/healthz").status, 200);
}

/// Small appends of many streams share an entry of the log; what one stream keeps must not keep the others' bytes, and
/// checkpoints must come although something waits for the disk at every moment.
#[test]
fn checkpoints_come_under_a_load_that_never_pauses() {
    let dir = integration::scratch_dir();
    let path = dir.path().to_str().unwrap();
    let server = Server::start(&[
        "--wal-dir",
        path,
        "--core-count",
        "1",
        "--no-pin",
        "--checkpoint-bytes",
        "256KiB",
    ]);
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..16 {
            let (server, is_over) = (&server, &is_over);
            scope.spawn(move || {
                let mut c = server.client();
                let path = format!("/v1/stream/busy{writer}");
                c.create(&path, TEXT);
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    assert_eq!(c.append(&path, TEXT, &[b'x'; 500]).status, 204);
                }
            });
        }
        let mut c = server.client();
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        let checkpoints = loop {
            let metrics = c.get("/metrics").text();
            let line = metrics
                .lines()
                .find(|l| l.starts_with("ursula_checkpoints_total"));
            let count: u64 = line
                .and_then(|l| l.split(' ').nth(1)?.parse().ok())
                .unwrap_or(0);
            if count >= 50 || std::time::Instant::now() > deadline {
                break count;
            }
        };
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(checkpoints >= 50, "only {checkpoints} under load");
    });
}

#[test]
fn readers_that_do_not_read_cost_a_bounded_number_of_bytes() {
    let server = Server::start(&["--core-count", "1", "--hot-bytes-max", "128MiB"]);
    let mut c = server.client();
    c.create("/v1/stream/big", "application/octet-stream");
    let mut stalled: Vec<Client> = (0..1000).map(|_| server.client()).collect();
    for reader in &mut stalled {
        reader
            .write(b"GET /v1/stream/big?offset=-1&live=sse HTTP/1.1\r\nhost: x\r\n\r\n")
            .unwrap();
    }
    let before = server.resident_bytes();
    for _ in 0..60 {
        assert_eq!(
            c.append(
                "/v1/stream/big",
                "application/octet-stream",
                &vec![7; 1 << 20]
            )
            .status,
            204
        );
    }
    let grown = server.resident_bytes().saturating_sub(before);
    // 60 MiB of data once, and per reader at most a rendered event or two, mostly shared.
    assert!(grown < 400 << 20, "grew by {} MiB", grown >> 20);
    assert_eq!(server.client().get("/healthz").status, 200);
}
