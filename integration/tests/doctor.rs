//! `ursula doctor`, and the server where the doctor says that it does not start.

use std::process::Command;

use integration::{Server, scratch_dir};

use crate::ops::{ADMIN, admin_of};

#[test]
fn the_doctor_says_what_is_wrong_and_how_to_mend_it() {
    let doctor = |arguments: &[&str]| {
        let mut command = Command::new(Server::binary());
        let output = command.arg("doctor").args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text)
    };
    let dir = scratch_dir();
    let data = dir.path().to_str().unwrap();
    let (code, text) = doctor(&["--json", "--wal-dir", data]);
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    let find = |report: &serde_json::Value, id: &str| {
        let checks = report["checks"].as_array().unwrap();
        let found = checks.iter().find(|c| c["id"] == id);
        found.unwrap_or_else(|| panic!("{id}: {report}")).clone()
    };
    for id in [
        "kernel.version",
        "kernel.io_uring",
        "data.directory",
        "limits.memlock",
    ] {
        let check = find(&report, id);
        assert_eq!(check["severity"], "ok", "{check}");
        for key in ["current", "wanted", "fix"] {
            assert!(check[key].is_string(), "{check}");
        }
    }
    let fatal = report["fatal"].as_u64().unwrap();
    assert_eq!(code, Some(if fatal == 0 { 0 } else { 78 }), "{text}");
    assert!(
        std::fs::read_dir(dir.path()).unwrap().next().is_none(),
        "it leaves nothing"
    );

    let server = Server::start(&ADMIN);
    let file = dir.path().join("u.toml");
    let settings = format!(
        "listen = \"{}\"\nwal_dir = \"/proc/nowhere\"\npeers = \"1=no.such.host.invalid:1\"\n\
         cluster_listen = \"127.0.0.1:0\"\n",
        server.address
    );
    std::fs::write(&file, settings).unwrap();
    let (code, text) = doctor(&["--json", "--config", file.to_str().unwrap()]);
    assert_eq!(code, Some(78));
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    for id in ["net.listen", "net.names", "data.directory"] {
        let check = find(&report, id);
        assert_eq!(check["severity"], "fatal", "{check}");
        assert_ne!(check["fix"], "", "{check}");
    }
    let settings = format!(
        "wal_dir = {data:?}\ncold = \"s3://bucket\"\ns3_endpoint = \"http://127.0.0.1:1\"\ns3_access_key_id = \"a\"\n"
    );
    std::fs::write(&file, settings).unwrap();
    let (_, text) = doctor(&["--json", "--config", file.to_str().unwrap()]);
    let check = find(&serde_json::from_str(&text).unwrap(), "cold.store");
    assert_eq!(check["severity"], "warn", "{check}");
    assert!(
        check["current"].as_str().unwrap().contains("refused"),
        "{check}"
    );
    let (_, text) = doctor(&["--at", &admin_of(&server)]);
    assert!(
        text.contains("kernel.io_uring") && !text.contains("net.listen "),
        "{text}"
    );
    std::fs::write(&file, "wal_dri = \"/x\"\n").unwrap();
    assert_eq!(doctor(&["--config", file.to_str().unwrap()]).0, Some(2));
}

#[test]
fn the_disk_is_measured_when_asked() {
    let dir = scratch_dir();
    let output = Command::new(Server::binary())
        .args([
            "doctor",
            "--disk",
            "--wal-dir",
            dir.path().to_str().unwrap(),
        ])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|l| l.contains("disk.fsync")).unwrap();
    assert!(line.contains("p99") && line.contains("syncs"), "{line}");
}

/// What a program prints, on both ways, and how it ends.
fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(Server::binary())
        .args(arguments)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[test]
fn what_is_no_data_directory_is_refused_by_doctor_and_server_alike() {
    let dir = scratch_dir();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("file"), "").unwrap();
    std::fs::create_dir(at("photos")).unwrap();
    std::fs::write(at("photos/one.jpg"), "").unwrap();
    std::fs::create_dir(at("known")).unwrap();
    std::fs::create_dir(at("known/lost+found")).unwrap();
    for (place, part) in [("file", "is no directory"), ("photos", "one.jpg")] {
        let (code, text) = run(&["doctor", "--wal-dir", &at(place)]);
        assert_eq!(code, Some(78), "{text}");
        assert!(
            text.contains(part) && text.contains("give wal_dir"),
            "{text}"
        );
        let listen = ["--listen", "127.0.0.1:0", "--admin-listen", "off"];
        let (code, text) = run(&[&["server", "--wal-dir", &at(place)], &listen[..]].concat());
        assert_eq!(code, Some(78), "{text}");
        assert!(
            text.contains(part) && text.contains("give wal_dir"),
            "{text}"
        );
    }
    let left = std::fs::read_dir(at("photos")).unwrap().count();
    assert_eq!(left, 1, "nothing was written there");
    // A filesystem of its own begins so.
    Server::start(&["--core-count", "1", "--wal-dir", &at("known")]).stop();
}

#[test]
fn a_disk_cannot_be_measured_without_a_data_directory() {
    let (code, text) = run(&["doctor", "--disk"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("--wal-dir"), "{text}");
}
