//! A system that refuses what the server asks of it.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use integration::{Client, Server, scratch_dir, skip};

const TEXT: &str = "text/plain";

/// The server's binary, after something was done to its process.
fn restricted(restrict: fn() -> std::io::Result<()>) -> Command {
    let mut command = Command::new(Server::binary());
    // SAFETY: what is done there are system calls only.
    unsafe { command.pre_exec(restrict) };
    command
}

fn outcome(result: i32) -> std::io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

#[test]
fn too_little_locked_memory_is_named() {
    let command = restricted(|| {
        let limit = libc::rlimit {
            rlim_cur: 64 << 10,
            rlim_max: 64 << 10,
        };
        // SAFETY: the pointer is to a structure of the right type.
        outcome(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) })
    });
    let log = Server::try_start_by(command, &["--core-count", "2"])
        .err()
        .expect("it does not start");
    assert!(
        log.contains("locked memory") && log.contains("ulimit -l") && log.contains("LimitMEMLOCK="),
        "{log}"
    );
}

/// Answers io_uring_setup with EPERM, as the seccomp profiles of containers do.
fn deny_io_uring() -> std::io::Result<()> {
    const LOAD_NUMBER: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut filter = [
        step(LOAD_NUMBER, 0, 0, 0),
        step(JUMP_IF_EQUAL, 0, 1, libc::SYS_io_uring_setup as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program lives until the calls return.
    unsafe {
        outcome(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        outcome(libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        ))
    }
}

#[test]
fn io_uring_that_is_denied_is_named() {
    let log = Server::try_start_by(restricted(deny_io_uring), &["--core-count", "1"])
        .err()
        .expect("it does not start");
    assert!(
        log.contains("io_uring is denied") && log.contains("kernel.io_uring_disabled"),
        "{log}"
    );
}

fn warnings(server: &Server) -> usize {
    server.log().matches("event=buffered_io").count()
}

#[test]
fn without_direct_io_there_is_one_warning_and_data_is_kept() {
    let dir = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a tmpfs");
    let settings = [
        "--core-count",
        "2",
        "--wal-segment-bytes",
        "1MiB",
        "--checkpoint-bytes",
        "64KiB",
        "--wal-dir",
        dir.path().to_str().unwrap(),
    ];
    let server = Server::start(&settings);
    assert_eq!(warnings(&server), 1, "{}", server.log());
    let mut c = server.client();
    c.create("/v1/stream/t", TEXT);
    for _ in 0..300 {
        assert_eq!(c.append("/v1/stream/t", TEXT, &[b'x'; 10_000]).status, 204);
    }
    server.kill();
    let server = Server::start(&settings);
    assert_eq!(server.client().read_all("/v1/stream/t").len(), 3_000_000);

    let on_disk = scratch_dir();
    let server = Server::start(&["--wal-dir", on_disk.path().to_str().unwrap()]);
    assert_eq!(warnings(&server), 0, "{}", server.log());
}

/// Starts the server with a filesystem of its own on `dir`, which goes with it.
fn start_on(filesystem: &str, dir: &Path) -> Server {
    let mut command = Command::new("unshare");
    // SAFETY: a call without arguments.
    if unsafe { libc::geteuid() } != 0 {
        command.arg("--map-root-user");
    }
    command
        .args(["--mount", "sh", "-c"])
        .arg(format!("mount -t {filesystem} none \"$0\" && exec \"$@\""))
        .arg(dir)
        .arg(Server::binary());
    let settings = [
        "--core-count",
        "1",
        "--wal-segment-bytes",
        "1MiB",
        "--wal-dir",
        dir.to_str().unwrap(),
    ];
    Server::try_start_by(command, &settings).unwrap_or_else(|log| panic!("{log}"))
}

#[test]
fn a_filesystem_that_refuses_direct_io_is_used_without() {
    let dir = scratch_dir();
    let server = start_on("ramfs", dir.path());
    assert_eq!(warnings(&server), 1, "{}", server.log());
    let mut c = server.client();
    c.create("/v1/stream/t", TEXT);
    for _ in 0..300 {
        assert_eq!(c.append("/v1/stream/t", TEXT, &[b'x'; 10_000]).status, 204);
    }
    assert_eq!(c.read_all("/v1/stream/t").len(), 3_000_000);
}

/// From now on no file of the server may grow, nor be written: every write fails.
fn break_disk(server: &Server) {
    let limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: libc::RLIM_INFINITY,
    };
    let pid = server.pid() as libc::pid_t;
    // SAFETY: the pointers are null or to a structure of the right type.
    let result = unsafe {
        libc::prlimit(
            pid,
            libc::RLIMIT_FSIZE,
            &raw const limit,
            std::ptr::null_mut(),
        )
    };
    outcome(result).expect("a child's limits may be set");
}

fn path_of(number: usize) -> String {
    format!("/v1/stream/s{number}")
}

fn append_numbers(c: &mut Client, streams: usize) -> Vec<String> {
    let mut expected = vec![String::new(); streams];
    for round in 0..5 {
        for (number, text) in expected.iter_mut().enumerate() {
            let part = format!("{round}.{number};");
            assert_eq!(
                c.append(&path_of(number), TEXT, part.as_bytes()).status,
                204
            );
            text.push_str(&part);
        }
    }
    expected
}

fn settings(dir: &Path) -> [&str; 4] {
    ["--core-count", "2", "--wal-dir", dir.to_str().unwrap()]
}

#[test]
fn a_write_that_fails_stops_the_groups_and_loses_nothing_acknowledged() {
    let dir = scratch_dir();
    let server = Server::start(&settings(dir.path()));
    let mut c = server.client();
    for number in 0..8 {
        assert_eq!(c.create(&path_of(number), TEXT).status, 201);
    }
    let expected = append_numbers(&mut c, 8);
    assert_eq!(c.get("/readyz").status, 200);
    break_disk(&server);
    for round in 0..2 {
        for number in 0..8 {
            let reply = c.append(&path_of(number), TEXT, b"lost");
            assert_eq!(
                reply.status,
                503,
                "round {round}, stream {number}: {}",
                reply.text()
            );
        }
    }
    assert_eq!(c.get("/healthz").status, 200);
    assert_eq!(c.get("/readyz").status, 503);
    let log = server.log();
    assert!(
        log.matches("event=wal_failed").count() == 2 && log.contains(".wal: File too large"),
        "each core says it once:\n{log}"
    );
    server.kill();
    let server = Server::start(&settings(dir.path()));
    let mut c = server.client();
    for (number, text) in expected.iter().enumerate() {
        assert_eq!(c.read_all(&path_of(number)), text.as_bytes());
    }
}

#[test]
fn a_checkpoint_without_room_is_written_later_and_appends_go_on() {
    let dir = scratch_dir();
    let settings = [
        "--core-count",
        "1",
        "--raft-group-count",
        "1",
        "--checkpoint-bytes",
        "64KiB",
        "--wal-dir",
        dir.path().to_str().unwrap(),
    ];
    let server = Server::start(&settings);
    let own = dir.path().join("groups/00001");
    std::fs::create_dir_all(&own).unwrap();
    let full = ["pack-1.tmp", "table-1.tmp", "manifest.tmp"];
    for name in full {
        std::os::unix::fs::symlink("/dev/full", own.join(name)).unwrap();
    }
    let mut c = server.client();
    c.create("/v1/stream/f", TEXT);
    let began = std::time::Instant::now();
    let mut length = 0;
    while !own.join("manifest").is_file() {
        assert!(began.elapsed().as_secs() < 30, "{}", server.log());
        let reply = c.append("/v1/stream/f", TEXT, &[b'x'; 20_000]);
        assert_eq!(reply.status, 204, "{}", reply.text());
        length += 20_000;
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let log = server.log();
    assert_eq!(
        log.matches("event=checkpoint_failed group=1").count(),
        full.len(),
        "{log}"
    );
    assert!(log.contains("free space on this filesystem"), "{log}");
    assert_eq!(c.get("/readyz").status, 200);
    assert_eq!(c.read_all("/v1/stream/f").len(), length);
    server.kill();
    let server = Server::start(&settings);
    assert_eq!(server.client().read_all("/v1/stream/f").len(), length);
}

/// Answers 20 ms late to each of its first waits, as if the thread had lost its CPU there.
fn late(command: &Path, flags: &[&str]) -> Command {
    let mut late = Command::new("strace");
    late.args(["-f", "-o", "/dev/null", "-e", "trace=io_uring_enter"])
        .args(["-e", "inject=io_uring_enter:delay_exit=20000:when=1..12"])
        .args(flags)
        .arg(command);
    late
}

/// glommio falls asleep beside a task that is ready if its preemption timer fires just before it would run it; before the
/// first one there is nothing that would wake it.
#[test]
fn an_executor_that_loses_its_cpu_before_its_first_task_starts_all_the_same() {
    if Command::new("strace").arg("-V").output().is_err() {
        return skip("there is no strace");
    }
    // With -D the server is the child, and strace is its.
    let command = late(&Server::binary(), &["-D"]);
    let server = Server::try_start_by(command, &["--core-count", "1", "--no-pin"])
        .unwrap_or_else(|log| panic!("{log}"));
    server.client().create("/v1/stream/s", "text/plain");
    let mut command = late(&Server::binary(), &[]);
    command.args(["head", &format!("{}/v1/stream/s", server.url())]);
    let output = command.output().expect("strace runs");
    assert!(output.status.success(), "{output:?}");
    assert!(
        !server.log().contains("event=start_slow"),
        "{}",
        server.log()
    );
}
