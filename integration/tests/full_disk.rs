//! A disk that fills, beneath one node: what grows the data is refused, what frees room is not, nobody waits without end, and
//! nothing that was acknowledged is lost or doubled.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use integration::{Client, Server, scratch_dir};

const TEXT: &str = "text/plain";

/// Longest wait for the answer of a request that was under way when the disk filled. The bound is 5 s.
const BOUND: Duration = Duration::from_secs(15);

/// A small filesystem that outlives the servers on it.
struct SmallDisk {
    holder: Child,
    dir: tempfile::TempDir,
}

impl SmallDisk {
    fn mount(size: &str) -> SmallDisk {
        let dir = scratch_dir();
        let mut command = Command::new("unshare");
        if !is_root() {
            command.arg("--map-root-user");
        }
        let script =
            format!("mount -t tmpfs -o size={size} none \"$0\" && echo mounted && exec cat");
        let mut holder = command
            .args(["--mount", "sh", "-c", &script])
            .arg(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare is there");
        let mut line = String::new();
        let told = holder.stdout.take().expect("piped above");
        BufReader::new(told).read_line(&mut line).unwrap();
        assert_eq!(line, "mounted\n");
        SmallDisk { holder, dir }
    }

    fn start(&self) -> Server {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string(), "--mount"]);
        if !is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg(Server::binary());
        let settings = [
            "--core-count",
            "1",
            "--wal-segment-bytes",
            "1MiB",
            "--wal-dir",
            self.dir.path().to_str().unwrap(),
        ];
        Server::try_start_by(command, &settings).unwrap_or_else(|log| panic!("{log}"))
    }

    /// Where the test sees it.
    fn path(&self) -> PathBuf {
        let (pid, dir) = (self.holder.id(), self.dir.path());
        format!("/proc/{pid}/root{}", dir.display()).into()
    }

    /// Takes the room that is left, but for the last page or so.
    fn fill(&self) -> Ballast {
        let path = self.path().join("ballast");
        let mut file = std::fs::File::create(&path).expect("there is room for a file");
        while file.write_all(&[1; 4096]).is_ok() {}
        Ballast(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

struct Ballast(PathBuf);

impl Ballast {
    fn remove(self) {
        std::fs::remove_file(self.0).expect("it is ours");
    }
}

fn is_root() -> bool {
    // SAFETY: a call without arguments.
    unsafe { libc::geteuid() == 0 }
}

fn wait_until(server: &Server, what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "{what}: {}",
            server.log()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn is_ready(server: &Server) -> bool {
    server.client().get("/readyz").status == 200
}

#[test]
fn a_full_disk_refuses_writes_until_there_is_room_and_loses_nothing() {
    let disk = SmallDisk::mount("24m");
    let server = disk.start();
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![1; 12 << 20]).unwrap();
    let mut c = server.client();
    c.create("/v1/stream/f", TEXT);
    c.create("/v1/stream/gone", TEXT);
    let mut acknowledged = 0;
    let refused = loop {
        let reply = c.append("/v1/stream/f", TEXT, &[b'x'; 50_000]);
        if reply.status != 204 {
            break reply;
        }
        acknowledged += 50_000;
        assert!(acknowledged < 24_000_000, "it never got full");
    };
    assert_eq!(refused.status, 503);
    assert!(
        refused.text().contains("disk_space"),
        "{} after {acknowledged}: {}",
        refused.text(),
        server.log()
    );
    assert_ne!(refused.header("retry-after"), "");
    let reasons = c.get("/readyz").text();
    assert!(reasons.contains("disk is full"), "{reasons}");
    assert_eq!(c.get("/v1/stream/f").status, 200, "reads go on");
    // What frees room is taken: the log keeps some for that.
    assert_eq!(c.send("DELETE", "/v1/stream/gone", &[], b"").status, 204);
    assert_eq!(c.append("/v1/stream/f", TEXT, b"x").status, 503);
    std::fs::remove_file(&ballast).unwrap();
    wait_until(&server, "it has room", || is_ready(&server));
    assert_eq!(c.append("/v1/stream/f", TEXT, b"!").status, 204);
    assert_eq!(c.read_all("/v1/stream/f").len(), acknowledged + 1);
    assert_eq!(c.get("/v1/stream/gone").status, 404);
    // Where something just frees a little it may be said again, but not with each request, and its end each time.
    let log = server.log();
    let said = |event: &str| log.matches(event).count();
    let full = said("event=disk_full");
    assert!((1..=3).contains(&full), "{log}");
    assert_eq!(full, said("event=disk_has_room"), "{log}");
}

/// A body that finds no room in what is left of a segment.
const LONG: usize = 600_000;

fn append_numbered(c: &mut Client, seq: u32) -> integration::Reply {
    let seq = seq.to_string();
    let headers = [
        ("content-type", TEXT),
        ("producer-id", "p"),
        ("producer-epoch", "0"),
        ("producer-seq", &seq),
    ];
    c.send("POST", "/v1/stream/f", &headers, &[b'x'; LONG])
}

/// Appends until one finds no room: its number and its answer.
fn append_until_full(server: &Server) -> (u32, integration::Reply) {
    let mut c = server.client();
    for seq in 0..20 {
        let began = Instant::now();
        let reply = append_numbered(&mut c, seq);
        assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
        if reply.status != 200 {
            return (seq, reply);
        }
    }
    panic!("it never got full: {}", server.log());
}

#[test]
fn an_append_under_way_when_the_disk_fills_is_answered_as_unknown_and_done_once() {
    let disk = SmallDisk::mount("24m");
    let server = disk.start();
    let mut c = server.client();
    c.create("/v1/stream/f", TEXT);
    let ballast = disk.fill();
    let (seq, reply) = append_until_full(&server);
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert_eq!(reply.header("stream-outcome"), "unknown");
    assert_ne!(reply.header("retry-after"), "");
    // Reads go on; what was not begun is refused as not done.
    assert_eq!(c.get("/v1/stream/f").status, 200);
    for (method, headers) in [("POST", &[("content-type", TEXT)][..]), ("DELETE", &[])] {
        let began = Instant::now();
        let body: &[u8] = if method == "POST" { b"x" } else { b"" };
        let reply = c.send(method, "/v1/stream/f", headers, body);
        assert_eq!(reply.status, 503);
        assert!(reply.text().contains("disk_space"), "{}", reply.text());
        assert_eq!(reply.header("stream-outcome"), "");
        assert!(began.elapsed() < BOUND);
    }
    ballast.remove();
    wait_until(&server, "it has room", || is_ready(&server));
    let again = append_numbered(&mut c, seq);
    assert_eq!(again.status, 204, "a duplicate: {}", again.text());
    let expected = (seq as usize + 1) * LONG;
    assert_eq!(c.read_all("/v1/stream/f").len(), expected);
    assert_eq!(append_numbered(&mut c, seq + 1).status, 200);
    server.kill();
    let server = disk.start();
    let stored = server.client().read_all("/v1/stream/f");
    assert_eq!(stored.len(), expected + LONG);
}

#[test]
fn a_stop_while_the_disk_is_full_is_prompt_and_in_good_order() {
    let disk = SmallDisk::mount("24m");
    let server = disk.start();
    server.client().create("/v1/stream/f", TEXT);
    let ballast = disk.fill();
    let acknowledged = std::thread::scope(|scope| {
        let writer = scope.spawn(|| append_until_full(&server));
        wait_until(&server, "it is full", || !is_ready(&server));
        // SAFETY: the pid is that of a child that was not waited for.
        unsafe { libc::kill(server.pid() as libc::pid_t, libc::SIGTERM) };
        let (seq, reply) = writer.join().unwrap();
        assert_eq!(reply.status, 503);
        assert_eq!(reply.header("stream-outcome"), "unknown");
        seq as usize * LONG
    });
    let began = Instant::now();
    let log = server.wait_end();
    assert_eq!(log.code(), Some(0));
    assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
    ballast.remove();
    let server = disk.start();
    let mut c = server.client();
    let length = c.read_all("/v1/stream/f").len();
    assert!([acknowledged, acknowledged + LONG].contains(&length));
    assert_eq!(c.append("/v1/stream/f", TEXT, b"x").status, 204);
}
