//! The protocol's official suite and clients, unmodified.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

use integration::{Server, repository, scratch_dir};

/// Exactly these versions.
const PACKAGES: [&str; 3] = [
    "@durable-streams/server-conformance-tests@0.3.6",
    "@durable-streams/client@0.2.7",
    "vitest@4",
];

fn workshop() -> PathBuf {
    static ONCE: Once = Once::new();
    let dir = repository().join("target/conformance");
    ONCE.call_once(|| {
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(
            dir.join("package.json"),
            "{\"private\":true,\"type\":\"module\"}",
        )
        .unwrap();
        let is_there = dir
            .join("node_modules/@durable-streams/server-conformance-tests")
            .is_dir()
            && dir.join("node_modules/vitest").is_dir();
        if !is_there {
            let installed = Command::new("npm")
                .args(["install", "--no-audit", "--no-fund", "--no-package-lock"])
                // npm 9 and 10 break off over the peer dependencies otherwise.
                .arg("--legacy-peer-deps")
                .args(PACKAGES)
                .current_dir(&dir)
                .status();
            assert!(
                installed.expect("npm is installed").success(),
                "npm could not install {PACKAGES:?}"
            );
        }
        for name in ["suite.test.mjs", "client.mjs"] {
            let source = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/js")
                .join(name);
            std::fs::copy(source, dir.join(name)).unwrap();
        }
    });
    dir
}

/// Runs the whole suite but the subscriptions; a run of no test is a failure.
fn run_suite(name: &str, settings: &[&str]) {
    let dir = workshop();
    let server = Server::start(settings);
    let report = dir.join(format!("report-{name}.json"));
    let _ = std::fs::remove_file(&report);
    let output = Command::new("npx")
        .args([
            "vitest",
            "run",
            "suite.test.mjs",
            "--testTimeout",
            "60000",
            "--reporter=json",
        ])
        .arg(format!("--outputFile={}", report.display()))
        .env("CONFORMANCE_URL", server.url())
        .current_dir(&dir)
        .output()
        .expect("npx runs");
    let text = std::fs::read_to_string(&report).unwrap_or_default();
    let report: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let count = |key: &str| report[key].as_u64().unwrap_or(0);
    let (passed, failed) = (count("numPassedTests"), count("numFailedTests"));
    println!(
        "conformance {name}: {passed} passed, {failed} failed, {} skipped",
        count("numPendingTests")
    );
    let names: Vec<String> = report["testResults"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|file| {
            file["assertionResults"]
                .as_array()
                .cloned()
                .unwrap_or_default()
        })
        .filter(|test| test["status"] == "failed")
        .map(|test| format!("{}: {}", test["fullName"], test["failureMessages"][0]))
        .collect();
    assert!(failed == 0, "{}", names.join("\n"));
    assert!(
        passed >= 332,
        "only {passed} tests ran:\n{}",
        String::from_utf8_lossy(&output.stdout)
    );
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
    let dir = workshop();
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
