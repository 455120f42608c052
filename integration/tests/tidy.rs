//! Rules of the tree: which folder may know which, and how long a file may be.

use std::path::{Path, PathBuf};

use integration::repository;

/// Folder, and what must not appear in its code.
const ABSENT: [(&str, &[&str]); 8] = [
    (
        "src/protocol",
        &[
            "crate::group",
            "crate::http",
            "crate::core",
            "crate::ops",
            "glommio",
            "hyper",
            "storage::",
            "std::fs",
            "std::net",
        ],
    ),
    (
        "src/group",
        &[
            "crate::http",
            "crate::core",
            "crate::ops",
            "crate::config",
            "glommio",
            "hyper",
            "storage::",
            "std::fs",
            "std::net",
            "std::time",
            "rand",
            "HashMap",
        ],
    ),
    (
        "src/meta",
        &[
            "crate::http",
            "crate::core",
            "crate::group",
            "glommio",
            "hyper",
            "storage::",
            "std::fs",
            "std::net",
            "std::time",
            "HashMap",
        ],
    ),
    (
        "src/http",
        &[
            "crate::group",
            "crate::core",
            "crate::meta",
            "raft::",
            "storage::",
            "glommio",
            "std::fs",
            "std::net",
        ],
    ),
    (
        "src/wire",
        &[
            "crate::group",
            "crate::http",
            "crate::core",
            "crate::meta",
            "crate::ops",
            "crate::config",
            "crate::node",
            "glommio",
            "hyper",
            "raft::",
            "storage::",
            "std::fs",
            "std::net",
        ],
    ),
    (
        "src/peer",
        &[
            "crate::group",
            "crate::http",
            "crate::meta",
            "crate::config",
            "raft::",
            "storage::",
            "std::fs",
            "HashMap",
        ],
    ),
    ("storage/src", &["ursula::", "raft::", "raftproto", "hyper"]),
    (
        "raftproto/src",
        &["glommio", "hyper", "ursula::", "std::fs"],
    ),
];

/// Longest file in lines.
const LINES_MAX: usize = 500;

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn folders_know_only_what_they_may() {
    let top = repository();
    let mut broken = Vec::new();
    for (folder, absent) in ABSENT {
        let mut files = Vec::new();
        sources(&top.join(folder), &mut files);
        assert!(!files.is_empty(), "{folder} has no sources");
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            for (number, line) in text.lines().enumerate() {
                let code = line.split("//").next().unwrap_or("");
                for word in absent {
                    // `::raft::Error` is raft-rs's error, which the group hands on.
                    if code.contains(word)
                        && !(folder == "src/group"
                            && *word == "rand"
                            && (code.contains("operand") || code.contains("randomized")))
                    {
                        broken.push(format!("{}:{}: {word}", file.display(), number + 1));
                    }
                }
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn files_stay_short_and_say_what_they_are_for() {
    let top = repository();
    let mut files = Vec::new();
    for folder in [
        "src",
        "storage/src",
        "raftproto/src",
        "integration/src",
        "integration/tests",
        "integration/fuzz",
        "benches/src",
    ] {
        sources(&top.join(folder), &mut files);
    }
    let mut broken = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        if text.lines().count() > LINES_MAX {
            broken.push(format!(
                "{} has more than {LINES_MAX} lines",
                file.display()
            ));
        }
        if !text.starts_with("//!") {
            broken.push(format!(
                "{} does not open with what it is for",
                file.display()
            ));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// Bounds of what a stream, group or cluster may have: reached by data, and refused with `409`.
const LIMITS: [&str; 3] = [
    "buckets_max",
    "producers_per_stream_max",
    "streams_per_group_max",
];

/// A refusal's bound is a static text, also at the node that it was sent to: there it is looked up in `src/wire`. Each but a
/// limit of data has its place in the metric of refusals.
#[test]
fn every_bound_that_a_refusal_names_is_known_to_other_nodes_and_counted() {
    let top = repository();
    let known = std::fs::read_to_string(top.join("src/wire/refusal.rs")).unwrap();
    let counted = std::fs::read_to_string(top.join("src/ops/metrics.rs")).unwrap();
    let mut files = Vec::new();
    for folder in ["src/core", "src/group", "src/http", "src/meta"] {
        sources(&top.join(folder), &mut files);
    }
    let mut found = 0;
    let mut missing = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for before in [
            "bound: \"",
            "bound = \"",
            "overloaded(\"",
            "metrics.refused(\"",
        ] {
            for rest in text.split(before).skip(1) {
                let bound = rest.split('"').next().unwrap_or("");
                found += 1;
                let quoted = format!("\"{bound}\"");
                let is_counted = LIMITS.contains(&bound) || counted.contains(&quoted);
                // Those of a connection and of one core's room never go to another node.
                let is_known = before == "metrics.refused(\"" || known.contains(&quoted);
                if !is_known || !is_counted {
                    missing.push(format!("{}: {bound}", file.display()));
                }
            }
        }
    }
    assert!(found >= 10, "only {found} found: the patterns are outdated");
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// What is refused at a bound shows before, in the metric of saturation. Room on the disk has gauges of its own.
#[test]
fn every_bound_that_is_counted_says_how_full_it_is() {
    let top = repository();
    let counted = std::fs::read_to_string(top.join("src/ops/metrics.rs")).unwrap();
    let shown = std::fs::read_to_string(top.join("src/core/status.rs")).unwrap();
    let (_, list) = counted.split_once("const BOUNDS: ").unwrap();
    let (list, _) = list.split_once("];").unwrap();
    let bounds: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
    assert!(bounds.len() >= 10, "{bounds:?}");
    let is_missing =
        |bound: &&&str| **bound != "disk_space" && !shown.contains(&format!("\"{bound}\","));
    let missing: Vec<_> = bounds.iter().filter(is_missing).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Values that may have spaces or quotes.
const FREE_TEXTS: [&str; 7] = [
    "error", "reason", "text", "what", "path", "stream", "trouble",
];

/// `event=name key=value ... words`: `src/ops/logging/line.rs` makes logfmt and JSON of that, and counts on it that free text
/// stands behind the pairs, or is quoted with `{:?}`.
#[test]
fn log_lines_begin_with_their_event_and_quote_what_may_have_spaces() {
    let top = repository();
    let mut files = Vec::new();
    for folder in ["src", "storage/src"] {
        sources(&top.join(folder), &mut files);
    }
    let (mut found, mut broken) = (0, Vec::new());
    for file in files {
        let source = std::fs::read_to_string(&file).unwrap();
        for level in ["error", "warn", "info", "debug"] {
            for call in source.split(&format!("log::{level}!(")).skip(1) {
                let Some(text) = call.trim_start().strip_prefix('"') else {
                    broken.push(format!("{}: {:.60}", file.display(), call));
                    continue;
                };
                // No text has an escaped quote: `{:?}` puts them.
                let text = text.split('"').next().unwrap_or("");
                found += 1;
                let is_pair =
                    |word: &&str| word.split_once('=').is_some_and(|(_, v)| !v.is_empty());
                let pairs: Vec<&str> = text.split_whitespace().take_while(is_pair).collect();
                let is_free = |pair: &&&str| {
                    FREE_TEXTS
                        .iter()
                        .any(|t| pair.starts_with(&format!("{t}=")))
                };
                let mut free = pairs.iter().filter(is_free);
                let is_event = pairs
                    .first()
                    .is_some_and(|first| first.starts_with("event="));
                if !is_event || text.ends_with('\\') || !free.all(|pair| pair.ends_with(":?}")) {
                    broken.push(format!("{}: {text}", file.display()));
                }
            }
        }
    }
    assert!(found >= 100, "only {found} found: the pattern is outdated");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// The lists of the simulator's deliberate bugs.
fn deliberate_bugs(top: &Path) -> String {
    let mut files = Vec::new();
    sources(&top.join("integration/sim/src/mutations"), &mut files);
    let read = |path: &PathBuf| std::fs::read_to_string(path).unwrap();
    files.iter().map(read).collect()
}

/// `integration/FAULTS.md` says what would catch a guard that is gone: each test, deliberate bug, file and function there exists.
#[test]
fn what_the_table_of_faults_names_is_there() {
    let top = repository();
    let mut files = Vec::new();
    for folder in ["src", "storage/src", "integration"] {
        sources(&top.join(folder), &mut files);
    }
    let read = |path: &PathBuf| std::fs::read_to_string(path).unwrap();
    let all: Vec<String> = files.iter().map(read).collect();
    let bugs = deliberate_bugs(&top);
    let table = read(&top.join("integration/FAULTS.md"));
    let rows = table.lines().filter(|line| line.starts_with("| "));
    let (mut found, mut missing) = (0, Vec::new());
    for name in rows.flat_map(|row| row.split('`').skip(1).step_by(2)) {
        let is_there = if let Some((file, function)) = name.split_once("::") {
            let source = std::fs::read_to_string(top.join("src").join(file));
            source.is_ok_and(|s| s.contains(&format!("fn {function}(")))
        } else if name.contains('/') {
            [top.join(name), top.join("src").join(name)]
                .iter()
                .any(|p| p.exists())
        } else if name.matches('_').count() > 1 && !name.contains(char::is_uppercase) {
            let test = format!("    fn {name}(");
            all.iter()
                .any(|s| s.contains(&test) || s.contains(&format!("\nfn {name}(")))
        } else if name.contains('-') {
            bugs.contains(&format!("\"{name}\""))
        } else {
            continue;
        };
        found += 1;
        if !is_there {
            missing.push(name);
        }
    }
    assert!(found >= 150, "only {found} found: the pattern is outdated");
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// Where each test must run, one that does not is a failure: `integration::skip` sees to it, and nobody leaves by another way.
#[test]
fn tests_are_skipped_by_one_way_alone() {
    let mut files = Vec::new();
    sources(&repository().join("integration"), &mut files);
    // In two, so that it is not found here.
    let said = ["println!(\"", "skipped"].concat();
    let own = Path::new("integration/src/skip.rs");
    let says_so = |path: &&PathBuf| std::fs::read_to_string(path).unwrap().contains(&said);
    let others = files.iter().filter(|path| !path.ends_with(own));
    let found: Vec<_> = others.filter(says_so).collect();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn each_bug_that_was_found_has_a_command_that_shows_it() {
    let top = repository();
    let read = |path: &str| std::fs::read_to_string(top.join(path)).unwrap();
    let bugs = deliberate_bugs(&top);
    let table = read("integration/sim/FOUND.md");
    let rows = table.lines().filter(|line| line.starts_with("| "));
    let mut wrong = Vec::new();
    let mut count = 0;
    for row in rows.skip(2) {
        count += 1;
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [by, symptom, cause, _, today, mended, before, shown] = cells[..] else {
            wrong.push(format!("{} columns: {row}", cells.len()));
            continue;
        };
        let is_commit = |word: &str| {
            word.len() == 7 && word.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'))
        };
        let is_told = ![by, symptom, cause].contains(&"");
        let has_commits = mended.split(", ").all(is_commit) && is_commit(before);
        // What was the simulator's own mistake is no bug of the server.
        let is_shown = shown.matches('`').count() >= 2 || shown.starts_with("the simulator only");
        let name = today.trim_matches('`');
        let is_known = name.is_empty() || bugs.contains(&format!("\"{name}\""));
        if !(is_told && has_commits && is_shown && is_known) {
            wrong.push(row.to_owned());
        }
    }
    assert!(count >= 45, "only {count} rows: the pattern is outdated");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
