//! Deliberate bugs, and within how many seeds the simulator must find each. They stand in the product's code behind
//! `mutation::is_on`, which is the constant `false` but in a build with the feature `mutations`; no release build can have it.

/// A deliberate bug.
pub struct Mutation {
    /// As in the code.
    pub name: &'static str,
    /// What it breaks.
    pub area: &'static str,
    /// It is found by one of the first so many seeds.
    pub within: u64,
}

const fn bug(area: &'static str, name: &'static str, within: u64) -> Mutation {
    Mutation { name, area, within }
}

/// All of them.
pub const MUTATIONS: &[Mutation] = &[
    bug("WAL", "checksum-unchecked", 50),
    bug("WAL", "damage-taken-for-a-tear", 200),
    bug("WAL", "tear-taken-for-damage", 50),
    bug("WAL", "first-entry-wins", 100),
    bug("WAL", "first-vote-wins", 400),
    bug("Raft driving", "answer-before-sync", 50),
    bug("Raft driving", "vote-not-written", 400),
    bug("Raft driving", "late-word-believed", 100),
    bug("lease", "lease-never-ends", 50),
    bug("lease", "lease-after-hand-over", 400),
    bug("lease", "lease-from-the-answer", 400),
    bug("lease", "promise-forgotten", 400),
    bug("lease", "lease-reads-applied", 200),
    bug("reads", "round-context-reused", 400),
    bug("reads", "read-before-installed", 200),
    bug("routing", "question-numbers-begin-again", 200),
    bug("routing", "unknown-sent-again", 50),
    bug("routing", "unknown-called-undone", 200),
    bug("state machine", "apply-by-own-clock", 20),
    bug("state machine", "incarnation-given-twice", 20),
    bug("state machine", "closed-takes-producers", 20),
    bug("producers", "stale-epoch-taken", 50),
    bug("producers", "duplicate-taken", 20),
    bug("producers", "gap-taken", 50),
    bug("checkpoint", "checkpoint-without-producers", 50),
    bug("checkpoint", "chunks-of-another-stream", 50),
    bug("checkpoint", "dropped-before-durable", 100),
    bug("checkpoint", "touch-not-checkpointed", 200),
    bug("forks", "held-source-removed", 50),
    bug("forks", "abandoned-fork-created", 400),
    bug("forks", "checkpoint-without-holds", 50),
    bug("forks", "checkpoint-without-outbox", 400),
    bug("forks", "fork-one-byte-more", 50),
    bug("TTL", "expiry-unchecked", 200),
    bug("TTL", "expiry-of-another-stream", 400),
];

/// The deliberate bug of that name.
pub fn named(name: &str) -> Option<&'static Mutation> {
    MUTATIONS.iter().find(|m| m.name == name)
}

/// Whether this build has them.
pub const HAS_THEM: bool = cfg!(feature = "mutations");

/// Switches one on in this thread; empty: none.
pub fn switch_on(name: &'static str) {
    #[cfg(feature = "mutations")]
    ursula::mutation::switch_on(name);
    assert!(HAS_THEM || name.is_empty(), "built without mutations");
}
