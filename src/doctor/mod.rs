//! The checks of `ursula doctor`: what the machine, the data directory and the network must be like for a node with these
//! settings. They change nothing, except that the probes of the disk write and remove a file of their own.

mod cpu;
mod disk;
mod kernel;
mod network;
mod store;

use std::fmt::Write;

use crate::config::Config;

/// How grave a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As wanted.
    Ok,
    /// It works, but worse, or not for long.
    Warn,
    /// The node does not start, or must not.
    Fatal,
}

/// What one check found.
#[derive(Debug, Clone)]
pub struct Finding {
    /// Which check; a stable name.
    pub id: &'static str,
    /// How grave.
    pub severity: Severity,
    /// What is.
    pub current: String,
    /// What should be.
    pub wanted: String,
    /// What to do; empty if nothing.
    pub fix: String,
}

/// What to look at beside the usual.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scope {
    /// Measure the disk for five seconds.
    pub disk_probe: bool,
    /// This process is the running node: its ports are its own.
    pub is_the_node: bool,
}

/// All checks; the gravest first.
pub fn check(config: &Config, scope: Scope) -> Vec<Finding> {
    let mut findings = Findings(Vec::new());
    kernel::check(config, &mut findings);
    cpu::check(config, &mut findings);
    disk::check(config, scope, &mut findings);
    network::check(config, scope, &mut findings);
    sorted(findings.0)
}

/// All checks, those of the cold store, and what the other nodes say. On an executor.
pub async fn check_all(config: &Config, scope: Scope) -> Vec<Finding> {
    let mut all = check(config, scope);
    all.extend(store::check(config).await);
    all.extend(store::check_place(config).await);
    sorted(all)
}

fn sorted(mut all: Vec<Finding>) -> Vec<Finding> {
    all.sort_by_key(|f| std::cmp::Reverse(f.severity));
    all
}

struct Findings(Vec<Finding>);

impl Findings {
    /// `bad` says how grave it is if it is not so.
    fn expect(
        &mut self,
        id: &'static str,
        is_so: bool,
        bad: Severity,
        (current, wanted): (impl Into<String>, impl Into<String>),
        fix: &str,
    ) {
        let severity = if is_so { Severity::Ok } else { bad };
        self.0.push(Finding {
            id,
            severity,
            current: current.into(),
            wanted: wanted.into(),
            fix: if is_so { String::new() } else { fix.to_owned() },
        });
    }
}

/// The first line of a small file of the kernel.
fn read(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.lines().next().unwrap_or_default().trim().to_owned())
}

fn number(path: &str) -> Option<u64> {
    read(path)?.parse().ok()
}

fn mib(bytes: u64) -> String {
    match bytes {
        u64::MAX => "unlimited".to_owned(),
        _ if bytes >= 10 << 30 => format!("{} GiB", bytes >> 30),
        _ if bytes >= 10 << 20 => format!("{} MiB", bytes >> 20),
        _ => format!("{} KiB", bytes >> 10),
    }
}

/// The gravest one.
pub fn worst(findings: &[Finding]) -> Severity {
    let worst = findings.iter().map(|f| f.severity).max();
    worst.unwrap_or(Severity::Ok)
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Ok => "ok",
        Severity::Warn => "warn",
        Severity::Fatal => "fatal",
    }
}

/// For programs.
pub fn as_json(findings: &[Finding]) -> serde_json::Value {
    let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
    let checks = findings.iter().map(|f| {
        serde_json::json!({
            "id": f.id,
            "severity": word(f.severity),
            "current": f.current,
            "wanted": f.wanted,
            "fix": f.fix,
        })
    });
    serde_json::json!({
        "ok": count(Severity::Fatal) == 0,
        "fatal": count(Severity::Fatal),
        "warn": count(Severity::Warn),
        "checks": checks.collect::<Vec<_>>(),
    })
}

/// For people, from what [`as_json`] made.
pub fn as_text(report: &serde_json::Value) -> String {
    let mut out = String::new();
    let text = |check: &serde_json::Value, key: &str| check[key].as_str().unwrap_or("").to_owned();
    for check in report["checks"].as_array().into_iter().flatten() {
        let (severity, id) = (text(check, "severity"), text(check, "id"));
        let current = text(check, "current");
        let _ = writeln!(out, "{severity:<5} {id:<22} {current}");
        if severity != "ok" {
            let _ = writeln!(out, "{:<29}wanted: {}", "", text(check, "wanted"));
            let _ = writeln!(out, "{:<29}do: {}", "", text(check, "fix"));
        }
    }
    let _ = writeln!(
        out,
        "{} fatal, {} to look at",
        report["fatal"], report["warn"]
    );
    out
}
