//! The protocol's official suite and clients, unmodified.

use std::path::Path;
use std::process::Command;

use integration::{Server, repository, scratch_dir, suite};

fn run_suite(name: &str, settings: &[&str]) {
    let server = Server::start(settings);
    suite::run(name, &server.url());
    assert!(server.stop().success());
}

#[test]
fn the_official_suite_passes_in_memory_on_one_core() {
    run_suite("memory-1", &["--core-count", "1"]);
}

#[test]
fn the_official_suite_passes_with_a_wal_on_two_cores() {
    let dir = scratch_dir();
    run_suite(
        "wal-2",
        &[
            "--core-count",
            "2",
            "--wal-dir",
            dir.path().to_str().unwrap(),
        ],
    );
}

#[test]
fn the_official_suite_passes_with_a_wal_on_four_executors() {
    let dir = scratch_dir();
    let path = dir.path().to_str().unwrap();
    // Tiny bounds, so that checkpoints, recycling and reads from packs happen all the time.
    let settings = [
        "--core-count",
        "4",
        "--no-pin",
        "--wal-dir",
        path,
        "--wal-segment-bytes",
        "1MiB",
        "--checkpoint-bytes",
        "64KiB",
        "--hot-bytes-max",
        "64MiB",
    ];
    run_suite("wal-4", &settings);
}

#[test]
fn the_official_javascript_client_creates_appends_reads_tails_and_resumes() {
    let dir = suite::workshop();
    let server = Server::start(&["--core-count", "2"]);
    let output = Command::new("node")
        .arg("client.mjs")
        .arg(server.url())
        .current_dir(&dir)
        .output()
        .expect("node runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("all good"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_official_python_client_creates_appends_reads_tails_and_resumes() {
    let venv = repository().join("target/conformance-python");
    let python = venv.join("bin/python");
    if !venv.join("installed").exists() {
        let made = Command::new("python3")
            .args(["-m", "venv"])
            .arg(&venv)
            .status()
            .expect("python3 is installed");
        assert!(made.success(), "python3 -m venv failed");
        let installed = Command::new(&python)
            .args(["-m", "pip", "install", "-q", "durable-streams"])
            .status()
            .expect("pip runs");
        assert!(installed.success(), "pip could not install durable-streams");
        std::fs::write(venv.join("installed"), "").unwrap();
    }
    let server = Server::start(&["--core-count", "2"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/client.py");
    let output = Command::new(&python)
        .arg(script)
        .arg(server.url())
        .output()
        .expect("python runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("all good"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
