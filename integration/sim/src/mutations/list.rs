//! Most of them: what each breaks, within how many seeds it is found, and what its finding says.

use super::{Mutation, aimed, bug};
use crate::aims::STALLS;

/// What several of them look like.
pub(super) const STALE: &str = "what it was told is not of index";
pub(super) const STATE: &str = "has another state of group";
const STREAMS: &str = "than the log means";
pub(super) const BYTES: &str = "bytes that the stream never had there";
pub(super) const INHERITED: &str = "inherited are gone";
const NO_ENTRY: &str = "no entry after";
const DENIED: &str = "it is in the log";
const ENTRY: &str = "applied another entry";
const LOST: &str = "its log was lost";
const TWO: &str = "both led group";
const NO_LEADER: &str = "has no leader";
const DISAGREE: &str = "do not agree, or are not";

/// All of them.
pub(super) const MOST: &[Mutation] = &[
    bug("WAL", "checksum-unchecked", 300, &["does not decode"]),
    bug("WAL", "damage-taken-for-a-tear", 600, &[LOST]),
    bug(
        "WAL",
        "tear-taken-for-damage",
        300,
        &["in the middle of the log"],
    ),
    aimed(
        "WAL",
        "cut-segment-taken",
        60,
        &[LOST],
        "fault_damage=100,fault_us=1000000,cold=0,fault_siege=0",
    ),
    aimed(
        "WAL",
        "foreign-segment-taken",
        300,
        &[LOST],
        "fault_damage=100,fault_us=1000000,cold=0,fault_siege=0",
    ),
    bug(
        "WAL",
        "first-entry-wins",
        300,
        &["stamp_ms >= self.last_stamp_ms", ENTRY],
    ),
    aimed(
        "WAL",
        "first-vote-wins",
        100,
        &[TWO, ENTRY, LOST],
        "fault_crash=100,fault_crash_many=100,fault_us=300000,fault_partition=50",
    ),
    bug("Raft driving", "answer-before-sync", 300, &[LOST, ENTRY]),
    aimed(
        "Raft driving",
        "vote-not-written",
        150,
        &[TWO, ENTRY],
        "fault_crash=100,fault_crash_many=100,fault_us=300000,fault_partition=50",
    ),
    bug(
        "Raft driving",
        "late-word-believed",
        300,
        &["contradicts one that is committed"],
    ),
    bug("lease", "lease-never-ends", 300, &[STALE]),
    bug("lease", "lease-after-hand-over", 600, &[STALE]),
    aimed(
        "lease",
        "lease-from-the-answer",
        40,
        &[STALE],
        concat!(sieges!(), ",siege_aim=2"),
    ),
    aimed(
        "lease",
        "promise-forgotten",
        40,
        &[STALE],
        concat!(sieges!(), ",siege_aim=3"),
    ),
    aimed(
        "lease",
        "lease-reads-applied",
        40,
        &[STALE],
        concat!(
            calm!(),
            ",fault_slow_disk=100,fault_us=500000,read_index=0,delay_us=100,sync_us=1000,think_us=5000,clients=6,keys=1,\
             groups=1,nodes=3,spares=0,operate_us=0,cold=0,forks=0,mortal=0,chaos_us=30000000,patience_us=20000,fault_siege=0"
        ),
    ),
    aimed(
        "reads",
        "round-context-reused",
        40,
        &[STALE],
        concat!(
            sieges!(),
            ",read_index=1,duplicate=500000,late=100000,late_us=500000"
        ),
    ),
    aimed(
        "lease",
        "lease-without-margin",
        120,
        &[STALE],
        concat!(
            sieges!(),
            ",siege_aim=2,drift=75000,fault_siege=800,fault_us=1000000,clients=8,think_us=20000,chaos_us=60000000"
        ),
    ),
    aimed(
        "reads",
        "round-joined-late",
        120,
        &[STALE],
        concat!(
            calm!(),
            ",read_index=1,loss=100000,delay_us=5000,sync_us=1000,think_us=3000,clients=8,keys=1,groups=1,nodes=3,spares=0,\
             operate_us=0,cold=0,forks=0,mortal=0,chaos_us=30000000,fault_siege=0,fault_slow_disk=100,fault_us=500000"
        ),
    ),
    aimed(
        "reads",
        "ready-before-applied",
        60,
        &[STALE],
        "nodes=1,spares=0",
    ),
    bug("reads", "read-before-installed", 300, &["is out of range"]),
    bug(
        "routing",
        "question-numbers-begin-again",
        300,
        &[NO_ENTRY, STALE],
    ),
    bug(
        "routing",
        "unknown-sent-again",
        300,
        &["stands twice in the log"],
    ),
    bug(
        "routing",
        "unknown-called-undone",
        300,
        &[DENIED, "was said not to be done"],
    ),
    aimed(
        "routing",
        "doubt-forgotten",
        40,
        &[DENIED],
        "fault_partition=400,fault_us=1000000,mortal=1000,clients=6",
    ),
    bug(
        "routing",
        "sent-again-into-any-life",
        300,
        &["times and done", STREAMS, NO_ENTRY],
    ),
    aimed(
        "routing",
        "first-sending-names-no-streams",
        200,
        &["times and done"],
        "clients=6,think_us=5000,operate_us=0,cold=0",
    ),
    bug("state machine", "apply-by-own-clock", 300, &[STATE]),
    bug("state machine", "incarnation-given-twice", 300, &[STREAMS]),
    bug("state machine", "closed-takes-producers", 300, &[STREAMS]),
    bug("producers", "stale-epoch-taken", 300, &[NO_ENTRY, STREAMS]),
    bug("producers", "duplicate-taken", 300, &[STREAMS]),
    bug("producers", "gap-taken", 300, &[STREAMS]),
    aimed(
        "checkpoint",
        "checkpoint-unverified",
        40,
        &[STATE],
        "fault_damage=100,fault_us=1000000,cold=0,fault_siege=0",
    ),
    aimed(
        "checkpoint",
        "renamed-before-sync",
        100,
        &["is damaged at byte"],
        "fault_crash=100,fault_checkpoint=100,fault_us=1000000,cold=0,fault_siege=0",
    ),
    aimed(
        "checkpoint",
        "pack-unverified",
        100,
        &[BYTES],
        "fault_damage=100,fault_us=1000000,cold=0,fault_siege=0,lasting=1",
    ),
    bug("checkpoint", "checkpoint-without-producers", 300, &[STATE]),
    bug("checkpoint", "chunks-of-another-stream", 300, &[STATE]),
    bug(
        "checkpoint",
        "dropped-before-durable",
        300,
        &["neither in memory nor on its disk"],
    ),
    bug("checkpoint", "touch-not-checkpointed", 300, &[STATE]),
    aimed(
        "checkpoint",
        "known-checkpoint-unanswered",
        400,
        &[DISAGREE],
        concat!(
            calm!(),
            ",loss=200000,operate_us=1000000,oust=0,spares=2,groups=3,chaos_us=8000000,clients=1,think_us=200000,\
             rest=1000000,rest_us=60000000,log_bytes_max=300,uncommitted_bytes_max=2000,cold=0,lasting=0,mortal=0"
        ),
    ),
    bug("membership", "wiped-disk-votes", 300, &[LOST]),
    bug(
        "membership",
        "membership-forgotten",
        300,
        &["did not write that it is committed"],
    ),
    bug("membership", "learner-without-log", 300, &[NO_LEADER, LOST]),
    bug(
        "membership",
        "checkpoint-leaves-the-joint",
        300,
        &["leave a non-joint config"],
    ),
    aimed(
        "membership",
        "removed-leader-goes-on",
        200,
        &["of which it is no member"],
        concat!(
            calm!(),
            ",fault_siege=0,fault_hand_over=100,fault_us=300000,operate_us=1000000,oust=500000,spares=2,nodes=3,delay_us=30000,groups=3,\
             chaos_us=20000000,clients=1,think_us=200000,cold=0"
        ),
    ),
    aimed(
        "membership",
        "new-members-untaught",
        40,
        &[DISAGREE],
        concat!(
            calm!(),
            ",fault_siege=0,timed_checkpoints=0,fault_checkpoint=0,fault_jump=0,log_bytes_max=4194304,uncommitted_bytes_max=4194304,\
             operate_us=2000000,oust=0,spares=2,nodes=3,groups=3,delay_us=1000,clients=1,think_us=200000,rest=1000000,\
             rest_us=60000000,chaos_us=20000000,cold=0,newborn=0"
        ),
    ),
    aimed(
        "membership",
        "members-never-learnt",
        600,
        &[DISAGREE],
        concat!(
            calm!(),
            ",fault_siege=0,newborn=0,operate_us=2000000,oust=1000000,spares=2,nodes=5,loss=300000,delay_us=30000,groups=3,\
             chaos_us=10000000,clients=1,think_us=200000,cold=0"
        ),
    ),
    aimed(
        "membership",
        "given-up-at-once",
        300,
        &[NO_LEADER],
        concat!(
            calm!(),
            ",damage_packs=0,fault_damage=600,fault_partition=600,fault_us=300000,lasting=1,mortal=0,cold=0,nodes=3,spares=0,\
             operate_us=0,fault_siege=0,chaos_us=60000000"
        ),
    ),
    bug("membership", "removed-raft-id-again", 300, &[NO_ENTRY]),
    bug("membership", "checkpoint-without-removed", 300, &[STATE]),
    aimed(
        "membership",
        "silent-member-left-out",
        100,
        &["fewer than the cluster ever was"],
        "fault_siege=0,operate_us=1000000,spares=0,nodes=3,upgrade=1,upgrade_us=300000000,fault_partition=100,fault_us=1000000,\
         chaos_us=60000000,cold=0,clients=2",
    ),
    aimed(
        "membership",
        "unclaimed-replica-speaks",
        500,
        &[DISAGREE],
        concat!(
            calm!(),
            ",fault_siege=0,newborn=1000000,operate_us=1000000,oust=0,upgrade=1,upgrade_us=300000000,nodes=5,spares=0,groups=1,delay_us=1000,clients=2,think_us=50000,\
             chaos_us=60000000,cold=0,lasting=0"
        ),
    ),
    bug(
        "upgrade",
        "new-command-before-all-can",
        300,
        &["is sent version"],
    ),
    bug("upgrade", "silent-member-can", 300, &["cannot apply that"]),
    bug("placement", "slots-not-checkpointed", 300, &[STATE]),
    bug("forks", "held-source-removed", 300, &[STREAMS, INHERITED]),
    bug("forks", "abandoned-fork-created", 300, &[STREAMS]),
    bug("forks", "checkpoint-without-holds", 300, &[STATE]),
    aimed(
        "forks",
        "checkpoint-without-outbox",
        100,
        &[STATE],
        "forks=1,deliver_us=5000000",
    ),
    bug("forks", "fork-one-byte-more", 300, &[BYTES]),
    bug("TTL", "expiry-unchecked", 300, &[STREAMS]),
    bug("TTL", "expiry-of-another-stream", 300, &[STREAMS]),
    bug("TTL", "expired-early", 100, &[STALE]),
    bug("conditional appends", "regression-taken", 300, &[STREAMS]),
    bug(
        "live readers",
        "install-untold",
        300,
        &["its live readers know"],
    ),
    aimed(
        "liveness",
        "hand-over-without-end",
        40,
        &["is refused for"],
        concat!(
            calm!(),
            ",fault_siege=0,fault_hand_over=100,fault_us=300000,loss=300000,operate_us=0,clients=1,think_us=200000,\
             chaos_us=20000000,cold=0"
        ),
    ),
    aimed(
        "liveness",
        "slowest-replica-waited-for",
        5,
        &["is held up by a disk"],
        STALLS,
    ),
    bug(
        "bounds",
        "log-kept-for-ever",
        300,
        &["bytes of the applied log"],
    ),
    bug("bounds", "held-for-ever", 300, &["was never answered"]),
    aimed(
        "bounds",
        "sent-readies-kept",
        5,
        &["readies before a sync", NO_LEADER],
        concat!(
            calm!(),
            ",fault_siege=0,groups=1,clients=6,think_us=3000,sync_us=100,delay_us=100,rest=0,cold=0,backup=0,operate_us=0,oust=0,\
             newborn=0,spares=0,mortal=0,log_bytes_max=4194304,chaos_us=120000000"
        ),
    ),
    bug("bounds", "offers-kept", 300, &["that Raft has not taken"]),
    bug(
        "bounds",
        "proposals-unbounded",
        300,
        &["bytes of proposals"],
    ),
    bug(
        "bounds",
        "given-up-and-counted",
        300,
        &["bytes of proposals and has"],
    ),
    bug(
        "bounds",
        "hot-bytes-kept",
        300,
        &["hot bytes after a checkpoint"],
    ),
    aimed(
        "bounds",
        "later-pack-forgotten",
        600,
        &["hot bytes"],
        concat!(
            calm!(),
            ",cold=1,cold_pack_bytes=300,cold_flush_age_ms=500,cold_hot_bytes=0,store_us=500000,store_fails=0,store_lost=0,\
             store_late=0,store_flip=0,store_out_us=0,sync_us=10000,fault_slow_disk=100,fault_checkpoint=100,fault_us=300000,\
             think_us=50000,rest=300000,rest_us=5000000,clients=3,mortal=0,keep=0,operate_us=0,spares=0,forks=0,\
             fault_siege=0,fault_jump=0,chaos_us=100000000"
        ),
    ),
];
