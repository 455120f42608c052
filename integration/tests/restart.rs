//! What a data directory goes through.

use std::path::{Path, PathBuf};
use std::process::Command;

use integration::{Server, scratch_dir};

const TEXT: &str = "text/plain";

fn wal_files(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir.join("wal"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    found.retain(|p| p.extension().is_some_and(|e| e == "wal"));
    found.sort();
    found
}

#[test]
fn any_number_of_cores_finds_all_data() {
    let dir = scratch_dir();
    let path = dir.path().to_str().unwrap();
    let mut expected: Vec<(String, Vec<u8>)> = Vec::new();
    for (round, cores) in ["1", "4", "2", "3", "1"].into_iter().enumerate() {
        let settings = [
            "--wal-dir",
            path,
            "--core-count",
            cores,
            "--no-pin",
            "--checkpoint-bytes",
            "64KiB",
            "--wal-segment-bytes",
            "1MiB",
        ];
        let server = Server::start(&settings);
        let mut c = server.client();
        for (path, body) in &expected {
            let found = c.read_all(path);
            assert!(
                found == *body,
                "{path} with {cores} cores: {} bytes, not {}",
                found.len(),
                Vec::len(body)
            );
        }
        for number in 0..40 {
            let path = format!("/v1/stream/r{round}/{number}");
            c.create(&path, "application/octet-stream");
            let body: Vec<u8> = (0..9000u32).map(|i| (i * 31 + number) as u8).collect();
            for part in body.chunks(1500) {
                assert_eq!(
                    c.append(&path, "application/octet-stream", part).status,
                    204
                );
            }
            expected.push((path, body));
        }
        if round % 2 == 0 {
            server.kill();
        } else {
            assert!(server.stop().success());
        }
    }
}

#[test]
fn a_flipped_bit_is_named_and_nothing_is_cut() {
    let dir = scratch_dir();
    let settings = [
        "--wal-dir",
        dir.path().to_str().unwrap(),
        "--core-count",
        "1",
    ];
    let server = Server::start(&settings);
    let mut c = server.client();
    for i in 0..20 {
        c.create(&format!("/v1/stream/{i}"), TEXT);
    }
    server.kill();
    let file = wal_files(dir.path()).remove(0);
    let good = std::fs::read(&file).unwrap();
    for position in [30, 4096, 4200, 6000] {
        let mut bad = good.clone();
        bad[position] ^= 4;
        std::fs::write(&file, &bad).unwrap();
        let log = Server::try_start(&settings)
            .err()
            .expect("a damaged log must not be served");
        assert!(
            log.contains("is damaged at byte") && log.contains(file.to_str().unwrap()),
            "{log}"
        );
        assert!(
            std::fs::read(&file).unwrap() == bad,
            "the damaged file was changed"
        );
    }
    std::fs::write(&file, &good).unwrap();
    let server = Server::start(&settings);
    assert_eq!(server.client().get("/v1/stream/19").status, 200);
}

#[test]
fn a_torn_tail_is_accepted() {
    let dir = scratch_dir();
    let settings = [
        "--wal-dir",
        dir.path().to_str().unwrap(),
        "--core-count",
        "1",
    ];
    let server = Server::start(&settings);
    let mut c = server.client();
    c.create("/v1/stream/a", TEXT);
    for _ in 0..5 {
        c.append("/v1/stream/a", TEXT, &[b'x'; 3000]);
    }
    server.kill();
    let file = wal_files(dir.path()).remove(0);
    let mut bytes = std::fs::read(&file).unwrap();
    let end = bytes.iter().rposition(|b| *b != 0).unwrap();
    bytes[end - 1000..=end].fill(0);
    std::fs::write(&file, &bytes).unwrap();
    let server = Server::start(&settings);
    assert!(server.log().contains("event=torn_tail"), "{}", server.log());
    assert_eq!(server.client().get("/v1/stream/a").body.len(), 12_000);
}

#[test]
fn a_second_server_is_refused() {
    let dir = scratch_dir();
    let settings = [
        "--wal-dir",
        dir.path().to_str().unwrap(),
        "--core-count",
        "1",
    ];
    let server = Server::start(&settings);
    let log = Server::try_start(&settings)
        .err()
        .expect("one process per directory");
    assert!(log.contains("is in use by another ursula"), "{log}");
    let log = Server::try_start(&["--listen", &server.address, "--core-count", "1"])
        .err()
        .expect("one per port");
    assert!(log.contains("in use by another process"), "{log}");
    assert_eq!(server.client().get("/healthz").status, 200);
}

#[test]
fn what_must_not_change_is_refused_with_the_value_to_give() {
    let dir = scratch_dir();
    let path = dir.path().to_str().unwrap();
    drop(Server::start(&[
        "--wal-dir",
        path,
        "--raft-group-count",
        "4",
        "--core-count",
        "1",
    ]));
    let log = Server::try_start(&[
        "--wal-dir",
        path,
        "--raft-group-count",
        "8",
        "--core-count",
        "1",
    ])
    .err()
    .unwrap();
    assert!(log.contains("give --raft-group-count 4"), "{log}");
}

#[test]
fn old_data_is_looked_for_where_it_was_put_only() {
    let dir = scratch_dir();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (wal, one, other) = (at("wal"), at("one"), at("other"));
    let settings = |cold: &str| {
        let fast =
            "--core-count 1 --cold-pack-bytes 4KiB --cold-flush-age-ms 20ms --hot-bytes-kept 0";
        let mut settings = vec!["--wal-dir".to_owned(), wal.clone()];
        settings.extend(fast.split(' ').map(str::to_owned));
        if !cold.is_empty() {
            settings.extend(["--cold".to_owned(), cold.to_owned()]);
        }
        settings
    };
    let try_start = |cold: &str| {
        let settings = settings(cold);
        Server::try_start(&settings.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let path = "/v1/stream/old";
    // Where nothing is yet may be left.
    drop(try_start("").expect("the default place"));
    let server = try_start(&one).expect("nothing was put elsewhere");
    let mut c = server.client();
    c.create(path, "text/plain");
    assert_eq!(c.append(path, "text/plain", &[b'x'; 10_000]).status, 204);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while integration::metric(&mut c, "ursula_cold_behind_bytes") > 0 {
        assert!(std::time::Instant::now() < deadline, "{}", server.log());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(server.stop().success());
    for elsewhere in [other.as_str(), "", "s3://old-data/b"] {
        let log = try_start(elsewhere).err().expect("refused");
        assert!(log.contains(&format!("give --cold {one}")), "{log}");
    }
    std::fs::rename(&one, &other).unwrap();
    std::fs::create_dir(&one).unwrap();
    let log = try_start(&one).err().expect("an empty directory is not it");
    assert!(log.contains("is its disk mounted?"), "{log}");
    std::fs::remove_dir(&one).unwrap();
    std::fs::rename(&other, &one).unwrap();
    let server = try_start(&one).expect("all is where it was");
    assert!(server.client().read_all(path) == [b'x'; 10_000]);
}

#[test]
fn in_memory_says_so_and_a_stop_ends_live_readers() {
    let server = Server::start(&["--core-count", "2"]);
    assert!(
        server
            .log()
            .contains("in-memory: nothing survives a restart")
    );
    let mut c = server.client();
    c.create("/v1/stream/l", TEXT);
    let mut readers: Vec<_> = (0..4).map(|_| server.client()).collect();
    for (number, reader) in readers.iter_mut().enumerate() {
        let mode = ["sse", "long-poll"][number % 2];
        let request = format!("GET /v1/stream/l?offset=-1&live={mode} HTTP/1.1\r\nhost: x\r\n\r\n");
        reader.write(request.as_bytes()).unwrap();
    }
    for reader in readers.iter_mut().step_by(2) {
        while !reader.line().contains("streamNextOffset") {}
    }
    let began = std::time::Instant::now();
    assert!(server.stop().success());
    assert!(
        began.elapsed() < std::time::Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn a_stop_during_the_start_ends_it() {
    for delay_ms in [0, 5, 10, 15, 20, 25, 30, 40, 60, 80] {
        let mut server = Command::new(Server::binary())
            .args(["server", "--listen", "127.0.0.1:0", "--core-count", "4"])
            .args(["--no-pin", "--io-memory", "64KiB"])
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(delay_ms));
        // SAFETY: the pid is that of a child that was not waited for.
        unsafe { libc::kill(server.id() as libc::pid_t, libc::SIGTERM) };
        let began = std::time::Instant::now();
        while server.try_wait().unwrap().is_none() {
            assert!(
                began.elapsed() < std::time::Duration::from_secs(10),
                "stopped after {delay_ms} ms, it hangs"
            );
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

#[test]
fn the_configuration_can_be_checked() {
    let check = |arguments: &[&str]| {
        let output = Command::new(Server::binary())
            .args(["config", "check"])
            .args(arguments)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), text)
    };
    let (code, text) = check(&["--raft-log-dir", "/x", "--long-poll-ms", "3s"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("wal_dir = \"/x\"")
            && text.contains("long_poll_ms = 3000  # flag --long-poll-ms"),
        "{text}"
    );
    let (code, text) = check(&["--core-cuont", "1"]);
    assert_eq!(code, Some(2));
    assert!(
        text.contains("--core-cuont") && text.contains("did you mean --core-count?"),
        "{text}"
    );
    let (code, text) = check(&["--raft-group-count", "none"]);
    assert_eq!(code, Some(2));
    assert!(
        text.contains("allowed: a whole number from 1 to 4096"),
        "{text}"
    );
}
