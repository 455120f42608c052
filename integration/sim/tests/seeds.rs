//! A few seeds for every build, and that a seed is a history.

/// Seeds of one build.
const SEEDS: std::ops::Range<u64> = 1..51;

#[test]
fn some_seeds_find_nothing() {
    for seed in SEEDS {
        let report = sim::run(seed, false);
        let findings = report.findings.join("; ");
        assert!(findings.is_empty(), "cargo sim --seed {seed}: {findings}");
    }
}

#[test]
fn a_seed_is_one_history() {
    for seed in [3, 7, 12] {
        let (first, second) = (sim::run(seed, false), sim::run(seed, false));
        assert_eq!(
            (first.hash, first.steps),
            (second.hash, second.steps),
            "seed {seed}"
        );
    }
}
