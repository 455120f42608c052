//! A few seeds for every build, and that a seed is a history.

use sim::report::Lines;

/// Seeds of one build.
const SEEDS: std::ops::Range<u64> = 1..5;

#[test]
fn some_seeds_find_nothing() {
    for seed in SEEDS {
        let report = sim::run(seed, Lines::Dropped);
        let findings = report.findings.join("; ");
        assert!(findings.is_empty(), "cargo sim --seed {seed}: {findings}");
    }
}

#[test]
fn a_seed_is_one_history() {
    for seed in [3, 7] {
        let [first, second] = [(); 2].map(|()| sim::run(seed, Lines::Kept(String::new())));
        assert!(first.lines == second.lines, "seed {seed}");
        assert_eq!((first.hash, first.steps), (second.hash, second.steps));
    }
}

/// A deliberate bug stands in the code under its name, be that where the simulator stands in for files, and in the list; and only the
/// simulator's build may have any.
#[test]
fn deliberate_bugs_are_listed_and_in_no_release() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let mut code = String::new();
    for dir in ["src", "storage/src", "integration/sim/src"] {
        read_all(&std::path::Path::new(root).join(dir), &mut code);
    }
    let in_code: std::collections::BTreeSet<&str> = code
        .split("is_on(\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect();
    let listed = sim::mutations::all().map(|m| m.name).collect();
    assert_eq!(in_code, listed);
    assert!(!ursula::mutation::is_on("gap-taken"));
    let refusal = "#[cfg(all(feature = \"mutations\", not(debug_assertions)))]\ncompile_error!";
    assert!(code.contains(refusal), "a release build must refuse them");
}

fn read_all(dir: &std::path::Path, code: &mut String) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, code);
        } else if path.extension().is_some_and(|e| e == "rs") {
            *code += &std::fs::read_to_string(path).unwrap();
        }
    }
}
