//! From the records that a log holds to what a group starts with. Pure: the simulator recovers with it too.

use raftproto::checkpoint::GroupManifest;
use storage::wal::{self, Record, RecordRef};

use crate::core::record_kind;
use crate::group::{LogEntry, SavedHardState};
use crate::mutation;

/// Bytes of a vote in a hard state's record.
const VOTE_BYTES: usize = 8;

/// Whether a start needs a record of a group whose checkpoint stands at `checkpoint`.
///
/// # Errors
/// What is damaged, as text.
pub fn is_needed(record: &RecordRef, checkpoint: u64) -> Result<bool, &'static str> {
    match record.kind {
        record_kind::HARD_STATE if record.payload.len() != VOTE_BYTES => {
            Err("a hard state has no vote")
        }
        wal::CARRIED_KIND.. => Ok(true),
        _ => Ok(record.index > checkpoint),
    }
}

/// A group's records as its hard state and a contiguous log: a later record at a lower index wins.
///
/// # Errors
/// What is missing or damaged, as text.
pub fn replay(
    group: u32,
    manifest: &GroupManifest,
    records: Vec<Record>,
) -> Result<(SavedHardState, Vec<LogEntry>), String> {
    let saved = manifest.hard_state.unwrap_or_default();
    let mut hard_state = SavedHardState {
        term: saved.term,
        vote: saved.vote,
        commit: saved.commit,
    };
    let mut entries: Vec<LogEntry> = Vec::new();
    for record in records {
        if record.kind == record_kind::HARD_STATE {
            let vote = record.payload.as_ref().try_into();
            let vote = vote
                .map(u64::from_le_bytes)
                .map_err(|_| format!("the log of group {group} has a hard state without a vote"))?;
            if record.term >= hard_state.term && !mutation::is_on("first-vote-wins") {
                hard_state = SavedHardState {
                    term: record.term,
                    vote,
                    commit: record.index,
                };
            }
            continue;
        }
        if mutation::is_on("first-entry-wins")
            && entries.last().is_some_and(|l| l.index >= record.index)
        {
            continue;
        }
        while entries
            .last()
            .is_some_and(|last| last.index >= record.index)
        {
            entries.pop();
        }
        // A checkpoint of another replica took the place of a log that had parted from it: terms never fall (Raft,
        // section 5.3), so what is older than the checkpoint is of that log.
        if entries.is_empty() && record.term < manifest.term {
            continue;
        }
        let expected = entries.last().map_or(manifest.index, |last| last.index) + 1;
        if record.index != expected {
            return Err(format!(
                "the log of group {group} lacks the entries {expected} to {}: a segment was removed by hand. \
                 Restore the data directory from a backup",
                record.index - 1
            ));
        }
        entries.push(LogEntry {
            index: record.index,
            term: record.term,
            is_conf_change: record.kind == record_kind::CONF_CHANGE,
            payload: record.payload,
        });
    }
    // Both are of one write, or the entries of an earlier one.
    let last = entries.last().map_or(manifest.index, |last| last.index);
    if hard_state.commit > last {
        return Err(format!(
            "the log of group {group} ends at {last}, and {} were committed",
            hard_state.commit
        ));
    }
    // A hard state that was lost with a torn tail is not below the entries that stand.
    hard_state.term = hard_state.term.max(entries.last().map_or(0, |e| e.term));
    Ok((hard_state, entries))
}
