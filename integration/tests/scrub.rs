//! `ursula scrub`: all that a stopped node has is read, and what is damaged is named.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use integration::{Server, scratch_dir};

fn scrub(dir: &Path) -> Output {
    let mut command = Command::new(Server::binary());
    command.args(["scrub", "--wal-dir"]).arg(dir);
    command.output().unwrap()
}

fn count(output: &Output, name: &str) -> u64 {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|n| n.parse().ok())
        .unwrap_or_else(|| panic!("no {name} in {text}"))
}

fn files(dir: &Path, prefix: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            files(&path, prefix, found);
        } else if name.starts_with(prefix) {
            found.push(path);
        }
    }
}

#[test]
fn a_stopped_node_is_read_through_and_each_damage_is_named() {
    let dir = scratch_dir();
    let path = dir.path().to_str().unwrap();
    let settings = [
        "--wal-dir",
        path,
        "--core-count",
        "2",
        "--no-pin",
        "--checkpoint-bytes",
        "64KiB",
    ];
    let server = Server::start(&settings);
    let mut client = server.client();
    for number in 0..50 {
        let stream = format!("/v1/stream/s{number}");
        client.create(&stream, "text/plain");
        for _ in 0..5 {
            let reply = client.append(&stream, "text/plain", &[b'a' + number as u8 % 26; 2000]);
            assert_eq!(reply.status, 204);
        }
    }
    let in_use = scrub(dir.path());
    assert!(!in_use.status.success());
    let words = String::from_utf8_lossy(&in_use.stderr).into_owned();
    assert!(words.contains("in use"), "{words}");
    server.kill();

    let sound = scrub(dir.path());
    let words = String::from_utf8_lossy(&sound.stderr).into_owned();
    assert!(sound.status.success(), "{words}");
    for name in [
        "manifests",
        "tables",
        "packs",
        "chunks",
        "pack_bytes",
        "segments",
    ] {
        assert!(count(&sound, name) > 0, "{name}");
    }
    assert_eq!(count(&sound, "damaged"), 0);

    let (mut damaged, mut groups) = (Vec::new(), Vec::new());
    for kind in ["pack-", "table-", "manifest"] {
        let mut found = Vec::new();
        files(&dir.path().join("groups"), kind, &mut found);
        // One of each kind, each of another group: nothing below a damaged manifest can be checked.
        let file = found
            .into_iter()
            .find(|f| !groups.contains(&f.parent().unwrap().to_owned()));
        let file = file.unwrap_or_else(|| panic!("no {kind} of another group"));
        groups.push(file.parent().unwrap().to_owned());
        damaged.push(file);
    }
    for file in &damaged {
        let mut bytes = std::fs::read(file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        std::fs::write(file, bytes).unwrap();
    }
    let found = scrub(dir.path());
    assert_eq!(found.status.code(), Some(1));
    assert_eq!(count(&found, "damaged"), 3);
    let words = String::from_utf8_lossy(&found.stderr).into_owned();
    for file in damaged {
        assert!(
            words.contains(&format!("{} is damaged", file.display())),
            "{words}"
        );
    }
}

#[test]
fn the_objects_of_a_cold_directory_are_read_too() {
    let (dir, cold) = (scratch_dir(), scratch_dir());
    let settings = [
        "--wal-dir",
        dir.path().to_str().unwrap(),
        "--cold",
        cold.path().to_str().unwrap(),
        "--no-pin",
        "--checkpoint-bytes",
        "64KiB",
        "--cold-pack-bytes",
        "16KiB",
        "--cold-flush-age-ms",
        "20ms",
    ];
    let server = Server::start(&settings);
    let mut client = server.client();
    client.create("/v1/stream/a", "text/plain");
    for _ in 0..20 {
        let reply = client.append("/v1/stream/a", "text/plain", &[b'a'; 10_000]);
        assert_eq!(reply.status, 204);
    }
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while integration::metric(&mut server.client(), "ursula_cold_behind_bytes") > 0 {
        assert!(std::time::Instant::now() < deadline, "{}", server.log());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(server.stop().success());
    let sound = scrub(dir.path());
    assert!(sound.status.success());
    let packs = count(&sound, "cold_packs");
    let mut found = Vec::new();
    files(cold.path(), "0", &mut found);
    assert_eq!(packs, found.len() as u64);
    let mut bytes = std::fs::read(&found[0]).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&found[0], bytes).unwrap();
    let damaged = scrub(dir.path());
    assert_eq!(damaged.status.code(), Some(1));
    assert_eq!(count(&damaged, "cold_packs"), packs - 1);
    let words = String::from_utf8_lossy(&damaged.stderr).into_owned();
    assert!(words.contains(found[0].to_str().unwrap()), "{words}");
}

#[test]
fn what_is_no_data_directory_is_left_as_it_is() {
    let dir = scratch_dir();
    let refused = scrub(dir.path());
    assert!(!refused.status.success());
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(words.contains("no data directory"), "{words}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn who_reads_no_output_is_still_told_by_the_exit_code() {
    let dir = scratch_dir();
    let server = Server::start(&["--wal-dir", dir.path().to_str().unwrap(), "--no-pin"]);
    server.client().create("/v1/stream/a", "text/plain");
    assert!(server.stop().success());
    let scrub = || {
        let mut command = Command::new(Server::binary());
        command.args(["scrub", "--wal-dir"]).arg(dir.path());
        // A pipe that nobody reads.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        command.stdout(writer.try_clone().unwrap()).stderr(writer);
        command.status().unwrap()
    };
    assert!(scrub().success());
    let mut found = Vec::new();
    files(&dir.path().join("wal"), "", &mut found);
    found.retain(|file| std::fs::metadata(file).is_ok_and(|m| m.len() > 4096));
    let segment = found.first().expect("a log has a segment");
    std::fs::write(segment, b"no segment").unwrap();
    assert_eq!(scrub().code(), Some(1), "damage, not a broken pipe");
}
