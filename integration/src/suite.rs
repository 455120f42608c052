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

/// What a run has shown.
struct Report {
    passed: u64,
    /// Full name and message of each.
    failed: Vec<(String, String)>,
    /// Requests of unknown outcome that no client may repeat.
    unknown: usize,
    output: String,
}

/// Runs the whole suite but the subscriptions.
///
/// # Panics
/// If a test fails, or too few ran.
pub fn run(name: &str, url: &str) {
    let report = vitest(name, url, None);
    demand(&report);
}

/// The same while leaders die. Requests that were certainly not done are sent again, and those of unknown outcome where
/// the protocol allows it (`retry.mjs`). Where it does not, the test that sent the request cannot go on: such tests, and
/// no more of them than there were such requests, are run again.
///
/// # Panics
/// If a test fails without that excuse, or again and again, or too few ran.
pub fn run_with_retries(name: &str, url: &str) {
    let mut report = vitest(name, url, Some(""));
    let whole = report.passed + report.failed.len() as u64;
    assert!(whole >= PASSED_MIN, "only {whole} ran:\n{}", report.output);
    for _ in 0..3 {
        if report.failed.is_empty() {
            return;
        }
        // A lifetime that is over while nobody leads ends with the next leader, which also allows for reads that the one
        // before had not logged (ARCHITECTURE.md, expiry): later than the suite waits for.
        let is_of_time = |name: &str| name.contains("TTL");
        let others = report.failed.iter().filter(|(name, _)| !is_of_time(name));
        assert!(others.count() <= report.unknown, "{:#?}", report.failed);
        let names: Vec<String> = report.failed.iter().map(|(n, _)| escaped(n)).collect();
        println!("again, for an unknown outcome: {names:?}");
        report = vitest(name, url, Some(&names.join("|")));
        assert!(
            report.passed > 0 || !report.failed.is_empty(),
            "none was run again"
        );
    }
    assert!(report.failed.is_empty(), "{:#?}", report.failed);
}

/// As a regular expression that means the text.
fn escaped(text: &str) -> String {
    let escape = |c: char| match c {
        c if c.is_alphanumeric() || c == ' ' => c.to_string(),
        // Any one character: no escape means the same everywhere.
        _ => ".".to_owned(),
    };
    text.chars().map(escape).collect()
}

fn demand(report: &Report) {
    assert!(report.failed.is_empty(), "{:#?}", report.failed);
    assert!(
        report.passed >= PASSED_MIN,
        "only {} tests ran:\n{}",
        report.passed,
        report.output
    );
}

/// One run; with `retries`, of the tests whose names fit and with a fetch that sends again.
fn vitest(name: &str, url: &str, retries: Option<&str>) -> Report {
    let dir = workshop();
    let report = dir.join(format!("report-{name}.json"));
    let unknown = dir.join(format!("unknown-{name}.txt"));
    let _ = std::fs::remove_file(&report);
    let _ = std::fs::remove_file(&unknown);
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
    if let Some(pattern) = retries {
        command.env("CONFORMANCE_UNKNOWN", &unknown);
        if !pattern.is_empty() {
            command.args(["-t", pattern]);
        }
    }
    let output = command.output().expect("npx runs");
    let text = std::fs::read_to_string(&report).unwrap_or_default();
    let report: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let count = |key: &str| report[key].as_u64().unwrap_or(0);
    let (passed, failed) = (count("numPassedTests"), count("numFailedTests"));
    let unknown = std::fs::read_to_string(&unknown).unwrap_or_default();
    println!(
        "conformance {name}: {passed} passed, {failed} failed, {} skipped\n{unknown}",
        count("numPendingTests")
    );
    let tests = report["testResults"].as_array().into_iter().flatten();
    let tests = tests.filter_map(|file| file["assertionResults"].as_array());
    let name_and_message = |test: &serde_json::Value| {
        let name = test["fullName"].as_str().unwrap_or("").to_owned();
        (name, test["failureMessages"][0].to_string())
    };
    Report {
        passed,
        failed: tests
            .flatten()
            .filter(|test| test["status"] == "failed")
            .map(name_and_message)
            .collect(),
        unknown: unknown.lines().count(),
        output: String::from_utf8_lossy(&output.stdout).into_owned(),
    }
}
