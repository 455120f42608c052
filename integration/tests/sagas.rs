//! What spans two groups against clients that go away and clients that come together.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use integration::{Server, scratch_dir};

const TEXT: &str = "text/plain";

fn server(dir: &std::path::Path) -> Server {
    let dir = dir.to_str().unwrap();
    Server::start(&["--wal-dir", dir, "--core-count", "2"])
}

/// Sends a request over HTTP/2 and resets its stream a moment later: what the server does for it is dropped, which
/// a client of HTTP/1.1 cannot bring about.
fn send_and_reset(
    server: &Server,
    method: &str,
    path: &str,
    header: Option<(&str, &str)>,
    micros: u64,
) {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_nodelay(true).unwrap();
    let frame = |kind: u8, flags: u8, id: u8, payload: &[u8]| {
        let mut bytes = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, id];
        bytes.extend_from_slice(payload);
        bytes
    };
    // HPACK without tables: a static name by index (or 0 and a literal), and a literal value.
    let mut block = vec![0x86];
    for (name, value) in [(2, method), (4, path), (1, "x")] {
        block.extend([name, value.len() as u8]);
        block.extend_from_slice(value.as_bytes());
    }
    if let Some((name, value)) = header {
        block.extend([0, name.len() as u8]);
        block.extend_from_slice(name.as_bytes());
        block.push(value.len() as u8);
        block.extend_from_slice(value.as_bytes());
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, b""));
    bytes.extend(frame(1, 5, 1, &block));
    stream.write_all(&bytes).unwrap();
    std::thread::sleep(Duration::from_micros(micros));
    // CANCEL.
    stream.write_all(&frame(3, 0, 1, &[0, 0, 0, 8])).unwrap();
    let mut rest = [0; 1024];
    let _ = stream.read(&mut rest);
}

#[test]
fn a_deletion_whose_client_goes_leaves_no_marked_bucket() {
    let dir = scratch_dir();
    let server = server(dir.path());
    let mut c = server.client();
    assert_eq!(c.send("PUT", "/demo", &[], b"").status, 201);
    assert_eq!(c.create("/demo/x", TEXT).status, 201);
    for round in 0..100 {
        send_and_reset(&server, "DELETE", "/demo", None, round * 50);
        let deadline = Instant::now() + Duration::from_secs(5);
        while c.send("GET", "/demo", &[], b"").json()["deleting"] == true {
            assert!(Instant::now() < deadline, "round {round}: marked for ever");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    assert_eq!(c.create("/demo/y", TEXT).status, 201);
}

#[test]
fn a_bucket_that_was_answered_as_deleted_is_gone() {
    let dir = scratch_dir();
    let server = server(dir.path());
    let mut c = server.client();
    let mut deleted = 0;
    for round in 0..200 {
        let mut first = server.client();
        let mut second = server.client();
        assert!(c.send("PUT", "/demo", &[], b"").status < 300);
        assert!(c.create("/demo/x", TEXT).status < 300);
        let first = std::thread::spawn(move || first.send("DELETE", "/demo", &[], b"").status);
        let second = std::thread::spawn(move || {
            assert_eq!(second.send("DELETE", "/demo/x", &[], b"").status, 204);
            second.send("DELETE", "/demo", &[], b"").status
        });
        let statuses = [first.join().unwrap(), second.join().unwrap()];
        let stands = c.send("GET", "/demo", &[], b"").status == 200;
        if statuses.contains(&204) {
            deleted += 1;
            assert!(!stands, "round {round}: {statuses:?}");
        }
    }
    assert!(deleted > 0);
}

#[test]
fn a_fork_whose_client_goes_holds_nothing_that_nobody_has() {
    let dir = scratch_dir();
    let server = server(dir.path());
    let mut c = server.client();
    c.create("/v1/stream/source", TEXT);
    c.append("/v1/stream/source", TEXT, b"text");
    for round in 0..50 {
        let from = Some(("stream-forked-from", "/v1/stream/source"));
        let path = format!("/v1/stream/f{round}");
        send_and_reset(&server, "PUT", &path, from, round * 50);
    }
    // A soft-deleted source goes with its last fork: at once, not when the sweep comes by.
    assert_eq!(c.send("DELETE", "/v1/stream/source", &[], b"").status, 204);
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        for fork in 0..50 {
            c.send("DELETE", &format!("/v1/stream/f{fork}"), &[], b"");
        }
        if c.get("/v1/stream/source").status == 404 {
            return;
        }
        assert!(Instant::now() < deadline, "a hold is left");
        std::thread::sleep(Duration::from_millis(20));
    }
}
