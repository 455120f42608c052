//! Deliberate bugs, and within how many seeds the simulator must find each. They stand in the product's code behind
//! `mutation::is_on`, which is the constant `false` but in a build with the feature `mutations`; no release build can have it.

/// A deliberate bug.
pub struct Mutation {
    /// As in the code.
    pub name: &'static str,
    /// What it breaks.
    pub area: &'static str,
    /// It is found by one of the first so many seeds; 0: none is known, and `why` says why.
    pub within: u64,
    /// Why there is no bound.
    pub why: &'static str,
}

const fn bug(area: &'static str, name: &'static str, within: u64) -> Mutation {
    Mutation {
        name,
        area,
        within,
        why: "",
    }
}

const fn unbound(area: &'static str, name: &'static str, why: &'static str) -> Mutation {
    Mutation {
        name,
        area,
        within: 0,
        why,
    }
}

/// All of them.
pub const MUTATIONS: &[Mutation] = &[
    bug("WAL", "checksum-unchecked", 60),
    bug("WAL", "damage-taken-for-a-tear", 200),
    bug("WAL", "tear-taken-for-damage", 60),
    bug("WAL", "first-entry-wins", 60),
    bug("WAL", "first-vote-wins", 300),
    bug("Raft driving", "answer-before-sync", 60),
    bug("Raft driving", "vote-not-written", 300),
    bug("Raft driving", "late-word-believed", 60),
    bug("lease", "lease-never-ends", 80),
    bug("lease", "lease-after-hand-over", 300),
    unbound(
        "lease",
        "lease-from-the-answer",
        "found by sieges aimed at it where nothing else disturbs them; no number of seeds is known yet",
    ),
    unbound(
        "lease",
        "promise-forgotten",
        "found by sieges aimed at it where nothing else disturbs them; no number of seeds is known yet",
    ),
    bug("lease", "lease-reads-applied", 300),
    bug("reads", "round-context-reused", 300),
    bug("reads", "read-before-installed", 60),
    bug("routing", "question-numbers-begin-again", 100),
    bug("routing", "unknown-sent-again", 60),
    bug("routing", "unknown-called-undone", 250),
    bug("state machine", "apply-by-own-clock", 60),
    bug("state machine", "incarnation-given-twice", 60),
    bug("state machine", "closed-takes-producers", 60),
    bug("producers", "stale-epoch-taken", 150),
    bug("producers", "duplicate-taken", 60),
    bug("producers", "gap-taken", 250),
    bug("checkpoint", "checkpoint-without-producers", 60),
    bug("checkpoint", "chunks-of-another-stream", 60),
    unbound(
        "checkpoint",
        "dropped-before-durable",
        "not found in the first 300 seeds since nodes are upgraded; found by 300 before",
    ),
    bug("checkpoint", "touch-not-checkpointed", 60),
    unbound(
        "checkpoint",
        "known-checkpoint-unanswered",
        "the answer to an installed checkpoint must be lost, and its group idle, in the last moments of a run; a unit test has it",
    ),
    bug("membership", "wiped-disk-votes", 60),
    unbound(
        "membership",
        "membership-forgotten",
        "not found in the first 260 seeds since nodes are upgraded; found by 140 before",
    ),
    bug("membership", "learner-without-log", 60),
    unbound(
        "membership",
        "removal-not-joint",
        "harmless by itself: majorities of memberships that differ by one voter overlap; the joint change is kept for R13, a unit test has it",
    ),
    bug("membership", "removed-leader-goes-on", 60),
    bug("membership", "new-members-untaught", 200),
    unbound(
        "membership",
        "leaving-leader-teaches",
        "a leader must be ordered away while another node joins, and nobody may take its place until the end; a unit test has it",
    ),
    bug("membership", "removed-raft-id-again", 60),
    bug("membership", "silent-member-left-out", 300),
    unbound(
        "membership",
        "unclaimed-replica-speaks",
        "not found in 400 seeds: the disk must be lost before a second member has met it, and the first not answer; a unit test has it",
    ),
    unbound(
        "membership",
        "checkpoint-without-removed",
        "not searched for yet; a unit test has it",
    ),
    bug("upgrade", "new-command-before-all-can", 60),
    bug("upgrade", "silent-member-can", 60),
    bug("placement", "slots-not-checkpointed", 60),
    bug("forks", "held-source-removed", 60),
    bug("forks", "abandoned-fork-created", 100),
    bug("forks", "checkpoint-without-holds", 60),
    bug("forks", "checkpoint-without-outbox", 200),
    bug("forks", "fork-one-byte-more", 60),
    bug("TTL", "expiry-unchecked", 100),
    bug("TTL", "expiry-of-another-stream", 150),
    bug("cold tier", "cold-read-unverified", 60),
    bug("cold tier", "published-before-put", 60),
    bug("cold tier", "put-before-the-intent", 200),
    bug("cold tier", "intent-given-up-at-once", 100),
    unbound(
        "cold tier",
        "grace-from-the-intent",
        "outages beyond a grace are there for it, and it was not searched for yet; a unit test has it",
    ),
    bug("cold tier", "unsure-pack-cancelled", 60),
    bug("cold tier", "checkpoint-without-intents", 60),
    bug("cold tier", "dropped-before-published", 300),
    bug("collection", "deleted-without-grace", 150),
    bug("collection", "moved-chunk-not-counted", 100),
    bug("collection", "moved-chunk-forgotten", 300),
    bug("collection", "forgotten-before-deleted", 60),
    bug("retention", "trimmed-under-a-fork", 60),
    bug("retention", "floor-ignored", 60),
    bug("retention", "age-of-the-first", 80),
    unbound(
        "retention",
        "late-trim-keeps-more",
        "more than 128 appends to one stream must come in the last moments before the end of faults; a unit test has it",
    ),
    bug("bounds", "log-kept-for-ever", 60),
    bug("bounds", "offers-kept", 60),
    bug("bounds", "proposals-unbounded", 60),
    bug("bounds", "given-up-and-counted", 60),
    bug("bounds", "hot-bytes-kept", 60),
    bug("bounds", "later-pack-forgotten", 200),
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
