//! Those of old data: packs and what is kept of streams, damaged objects, the collection, the backup, retention.

use super::list::{BYTES, INHERITED, STALE, STATE};
use super::{Mutation, aimed, bug};

const ORPHAN: &str = "in the store and nobody knows of it";

/// All of them.
pub(super) const COLD: &[Mutation] = &[
    bug("cold tier", "cold-read-unverified", 300, &[BYTES]),
    bug(
        "cold tier",
        "published-before-put",
        300,
        &["which is not in the store"],
    ),
    bug("cold tier", "put-before-the-intent", 300, &[ORPHAN]),
    bug("cold tier", "intent-given-up-at-once", 300, &[ORPHAN]),
    aimed(
        "cold tier",
        "grace-from-the-intent",
        150,
        &[ORPHAN],
        "cold=1,store_out_us=60000000,store_late=600000,fault_us=3000000,cold_grace_ms=60000,cold_flush_age_ms=500,cold_pack_bytes=300",
    ),
    bug("cold tier", "unsure-pack-cancelled", 300, &[ORPHAN]),
    bug("cold tier", "checkpoint-without-intents", 300, &[STATE]),
    aimed(
        "cold tier",
        "dropped-before-published",
        100,
        &["group/stream/bytes.rs", BYTES],
        "cold=1,lasting=1,keep=0,keys=1,groups=1,body_max=20000,cold_pack_bytes=3000,cold_flush_age_ms=500,cold_hot_bytes=0,\
         think_us=5000,mortal=0,aim=0,chaos_us=60000000",
    ),
    aimed(
        "cold tier",
        "outage-waited-out",
        60,
        &["is refused for"],
        "cold=1,cold_behind=1,cold_pack_bytes=300,cold_flush_age_ms=500,store_out_us=20000000,fault_siege=0,chaos_us=200000000,\
         drift=0,wall_offset_ms=0,fault_jump=0",
    ),
    aimed(
        "damaged objects",
        "damaged-object-left",
        40,
        &["is damaged"],
        concat!(
            rot!(),
            ",cold_hot_bytes=1000000,keep=0,timed_checkpoints=0,fault_checkpoint=0,log_bytes_max=4194304,\
             uncommitted_bytes_max=4194304"
        ),
    ),
    aimed(
        "damaged objects",
        "unreadable-chunk-waited-for",
        60,
        &["has work to do"],
        concat!(rot!(), ",cold_hot_bytes=0,keep=900000,cold_live_percent=90"),
    ),
    bug(
        "damaged objects",
        "unreadable-pack-waited-for",
        300,
        &["has work to do"],
    ),
    bug(
        "collection",
        "deleted-without-grace",
        300,
        &["us after a read of it was planned"],
    ),
    bug(
        "collection",
        "moved-chunk-not-counted",
        300,
        &["group/cold_state.rs", "is deleted that is needed"],
    ),
    bug("collection", "moved-chunk-forgotten", 600, &[STATE]),
    bug("collection", "forgotten-before-deleted", 300, &[ORPHAN]),
    aimed(
        "backup",
        "unlisted-base-taken-for-none",
        60,
        &["takes a time from the backup"],
        "cold=1,backup=1,backup_keep_ms=20000,list_odd=500000,drift=0,wall_offset_ms=0,fault_jump=0",
    ),
    aimed(
        "backup",
        "old-bases-kept",
        20,
        &["nobody collects"],
        "cold=1,backup=1,backup_keep_ms=40000,drift=0,wall_offset_ms=0,fault_jump=0,fault_siege=0",
    ),
    bug("retention", "trimmed-under-a-fork", 300, &[INHERITED]),
    bug(
        "retention",
        "floor-ignored",
        300,
        &["group/stream/cold.rs", STALE, BYTES],
    ),
    bug(
        "retention",
        "age-of-the-first",
        300,
        &["keeps the append of"],
    ),
    aimed(
        "retention",
        "late-trim-keeps-more",
        40,
        &[": it leaves "],
        "lasting=1,keep=900000,cold=1,keys=1,groups=1,think_us=5000,time_ticks=600,clients=6,mortal=0,aim=0,delay_us=100,\
         sync_us=100",
    ),
];
