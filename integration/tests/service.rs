//! The server as its service manager hears of it (sd_notify).

use std::io::{Read, Write};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};

use integration::{Server, scratch_dir};

use crate::ops::{Hung, thread_named, wait_until_ready};

const PATIENCE: Duration = Duration::from_secs(60);

/// Datagrams of a server whose manager is this test.
struct Manager {
    socket: UnixDatagram,
    seen: Vec<String>,
}

impl Manager {
    fn start(dir: &std::path::Path, settings: &[&str]) -> (Manager, Server) {
        let path = dir.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let mut command = Command::new(Server::binary());
        command
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "2000000");
        let server = Server::try_start_by(command, settings).unwrap_or_else(|log| panic!("{log}"));
        let seen = Vec::new();
        (Manager { socket, seen }, server)
    }

    fn receive(&mut self) {
        let mut buffer = [0; 4096];
        if let Ok(count) = self.socket.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
            self.seen.push(text);
        }
    }

    fn wait_for(&mut self, part: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.seen.iter().any(|text| text.contains(part)) {
            assert!(Instant::now() < deadline, "no {part} in {:?}", self.seen);
            self.receive();
        }
    }
}

#[test]
fn the_service_manager_hears_how_the_node_is() {
    let dir = scratch_dir();
    let data = dir.path().join("data");
    let (mut manager, server) = Manager::start(
        dir.path(),
        &["--core-count", "2", "--wal-dir", data.to_str().unwrap()],
    );
    manager.wait_for("READY=1");
    let first = manager.seen.iter().position(|t| t.contains("READY=1"));
    assert!(
        manager.seen[..first.unwrap()]
            .iter()
            .any(|t| t.contains("EXTEND_TIMEOUT_USEC=") && t.contains("STATUS=recovering")),
        "{:?}",
        manager.seen
    );
    manager.wait_for("WATCHDOG=1");
    manager.wait_for("17 groups led here, 0 without a leader");
    assert!(server.stop().success());
    manager.wait_for("STOPPING=1");
}

#[test]
fn a_stop_that_drains_asks_for_more_time() {
    let dir = scratch_dir();
    let (mut manager, server) = Manager::start(dir.path(), &["--core-count", "2"]);
    manager.wait_for("READY=1");
    // A body of which half is there: the stop waits for the rest.
    let mut slow = std::net::TcpStream::connect(&server.address).unwrap();
    let half = b"PUT /v1/stream/slow HTTP/1.1\r\nhost: a\r\ncontent-type: text/plain\r\ncontent-length: 8\r\n\r\nhalf";
    slow.write_all(half).unwrap();
    let pid = server.pid() as libc::pid_t;
    manager.seen.clear();
    // SAFETY: the pid is that of a child that was not waited for.
    unsafe { libc::kill(pid, libc::SIGTERM) };
    manager.wait_for("STATUS=stopping: ");
    let told = |t: &&String| t.contains("STATUS=stopping: ");
    let text = manager.seen.iter().find(told).unwrap();
    assert!(text.contains("EXTEND_TIMEOUT_USEC=90000000"), "{text}");
    slow.write_all(b"rest").unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert!(server.wait_end().success());
}

#[test]
fn a_core_that_hangs_starves_the_watchdog() {
    let dir = scratch_dir();
    let (mut manager, server) = Manager::start(dir.path(), &["--core-count", "2"]);
    manager.wait_for("WATCHDOG=1");
    wait_until_ready(&mut server.client());
    let hung = Hung::thread(thread_named(server.pid(), "core-1"));
    // What was sent before it hung.
    let quiet_from = Instant::now() + Duration::from_secs(1);
    while Instant::now() < quiet_from {
        manager.receive();
    }
    manager.seen.clear();
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        manager.receive();
    }
    assert!(
        !manager.seen.iter().any(|t| t.contains("WATCHDOG=1")),
        "{:?}",
        manager.seen
    );
    drop(hung);
    manager.wait_for("WATCHDOG=1");
}
