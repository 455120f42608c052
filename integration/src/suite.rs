//! The protocol's official suite, unmodified: installed once, run against any address.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

use crate::repository;

/// Exactly these versions.
const PACKAGES: [&str; 3] = [
    "@durable-streams/server-conformance-tests@0.3.6",
    "@durable-streams/client@0.2.7",
    "vitest@4",
];

/// Tests that a whole run passes at least.
const PASSED_MIN: u64 = 332;

/// The directory with the packages and our scripts.
///
/// # Panics
/// If they cannot be installed.
pub fn workshop() -> PathBuf {
    static ONCE: Once = Once::new();
    let dir = repository().join("target/conformance");
    ONCE.call_once(|| {
        std::fs::create_dir_all(&dir).expect("the target directory is writable");
        std::fs::write(
            dir.join("package.json"),
            "{\"private\":true,\"type\":\"module\"}",
        )
        .expect("the target directory is writable");
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
        for name in ["suite.test.mjs", "client.mjs", "retry.mjs"] {
            let source = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/js")
                .join(name);
            std::fs::copy(source, dir.join(name)).expect("the target directory is writable");
        }
    });
    dir
}

/// Runs the whole suite but the subscriptions. With `retry`, requests that were certainly not done are sent again, and
/// those of unknown outcome where the protocol allows it.
///
/// # Panics
/// If a test fails, or too few ran.
pub fn run(name: &str, url: &str, retry: bool) {
    let dir = workshop();
    let report = dir.join(format!("report-{name}.json"));
    let _ = std::fs::remove_file(&report);
    let mut command = Command::new("npx");
    command
        .args([
            "vitest",
            "run",
            "suite.test.mjs",
            "--testTimeout",
            "60000",
            "--reporter=json",
        ])
        .arg(format!("--outputFile={}", report.display()))
        .env("CONFORMANCE_URL", url)
        .current_dir(&dir);
    if retry {
        command.env("CONFORMANCE_RETRY", "1");
    }
    let output = command.output().expect("npx runs");
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
        passed >= PASSED_MIN,
        "only {passed} tests ran:\n{}",
        String::from_utf8_lossy(&output.stdout)
    );
}
