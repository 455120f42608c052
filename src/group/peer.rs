//! Messages between the replicas of a group: what raft-rs holds as descriptors travels with its payloads.
//! What comes from a peer is looked at before raft-rs sees it, since raft-rs ends the process where a message
//! contradicts its log (shared by all groups of the node).

use bytes::Bytes;
use raft::Storage;
use raft::prelude::{ConfState, Entry, EntryType, Message, MessageType};
use raftproto::checkpoint::Membership;
use raftproto::peer::{CheckpointInfo, LogEntry, RaftMessage};

use super::log::{GroupLog, LogPosition, descriptor};
use crate::mutation;

/// A message that this replica must not take, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    /// Not of a kind that replicas send each other.
    #[error("a message of a kind that replicas do not send")]
    Kind,
    /// For another replica.
    #[error("a message for another replica")]
    NotForUs,
    /// Of no term, or from nobody: so raft-rs marks what a replica says to itself.
    #[error("a message without its term or its sender")]
    Unsigned,
    /// Entries with gaps, or damaged on the way.
    #[error("its entries are damaged or do not follow each other")]
    Entries,
    /// The leader counts on entries that this replica has not: its log was lost.
    #[error(
        "the leader knows of entries that this replica acknowledged and does not have: its log was lost"
    )]
    LogLost,
    /// An entry contradicts what was committed here: the logs have parted for good.
    #[error("an entry contradicts one that is committed here")]
    Diverged,
}

/// The node of a replica: a replica that takes the place of a lost one has another raft id on the same node.
pub fn node_of(raft_id: u64) -> u64 {
    raft_id & 0xffff
}

/// A membership as it is sent and stored.
pub(super) fn membership(conf: &ConfState) -> Membership {
    Membership {
        voters: conf.voters.clone(),
        learners: conf.learners.clone(),
        voters_outgoing: conf.voters_outgoing.clone(),
        learners_next: conf.learners_next.clone(),
        auto_leave: conf.auto_leave,
    }
}

/// The opposite of [`membership`].
pub(super) fn conf_state(membership: &Membership) -> ConfState {
    ConfState {
        voters: membership.voters.clone(),
        learners: membership.learners.clone(),
        voters_outgoing: membership.voters_outgoing.clone(),
        learners_next: membership.learners_next.clone(),
        auto_leave: membership.auto_leave,
    }
}

/// A message of raft-rs with the payloads of its entries. `None` if the log has other entries by now: it was made
/// before, and is not worth sending.
pub(super) fn outgoing(group: u32, log: &GroupLog, message: Message) -> Option<RaftMessage> {
    let mut entries = Vec::with_capacity(message.entries.len());
    for entry in &message.entries {
        if log.term(entry.index) != Ok(entry.term) {
            return None;
        }
        let payload = log.payload(entry.index)?.clone();
        entries.push(LogEntry {
            index: entry.index,
            term: entry.term,
            r#type: entry.entry_type as u32,
            crc32c: checksum(entry, &payload),
            payload,
        });
    }
    let checkpoint = message.snapshot.as_ref().map(|snapshot| {
        let metadata = snapshot.get_metadata();
        CheckpointInfo {
            index: metadata.index,
            term: metadata.term,
            membership: Some(membership(metadata.get_conf_state())),
        }
    });
    Some(RaftMessage {
        group,
        r#type: message.msg_type as u32,
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries,
        commit: message.commit,
        commit_term: message.commit_term,
        reject: message.reject,
        reject_hint: message.reject_hint,
        request_snapshot: message.request_snapshot,
        context: (!message.context.is_empty()).then(|| Bytes::from(message.context)),
        priority: message.priority,
        checkpoint,
    })
}

/// The checksum that a descriptor has already; a membership change has none.
fn checksum(entry: &Entry, payload: &Bytes) -> u32 {
    let known = entry.data.get(4..8).and_then(|crc| crc.try_into().ok());
    match known {
        Some(crc) if entry.entry_type() == EntryType::EntryNormal => u32::from_le_bytes(crc),
        _ => crc32c::crc32c(payload),
    }
}

/// A peer's message for raft-rs, with the payloads that it must not be told of. A checkpoint is not in it. Only what is said
/// in this term or a later one can contradict this log: a late message of a former leader tells of entries that were
/// replaced since, and raft-rs answers it with the term.
///
/// # Errors
/// [`BadMessage`].
pub(super) fn incoming(
    own_id: u64,
    log: &GroupLog,
    (term, committed, is_leader): (u64, u64, bool),
    message: RaftMessage,
) -> Result<(Message, Vec<(LogPosition, Bytes)>), BadMessage> {
    use MessageType as T;
    if message.to != own_id || message.from == own_id {
        return Err(BadMessage::NotForUs);
    }
    if message.term == 0 || message.from == 0 {
        return Err(BadMessage::Unsigned);
    }
    let kind = i32::try_from(message.r#type).ok().and_then(T::from_i32);
    let kind = kind.ok_or(BadMessage::Kind)?;
    let is_current = message.term >= term || mutation::is_on("late-word-believed");
    match kind {
        // raft-rs gives term 0 to all places beyond its log: it would take them for known, and commit what is not there.
        T::MsgAppend if message.index > 0 && message.log_term == 0 => {
            return Err(BadMessage::Entries);
        }
        T::MsgAppend
        | T::MsgRequestVote
        | T::MsgRequestVoteResponse
        | T::MsgRequestPreVote
        | T::MsgRequestPreVoteResponse
        | T::MsgHeartbeatResponse
        | T::MsgSnapshot
        | T::MsgTimeoutNow => {}
        T::MsgHeartbeat if is_current && message.commit > log.last() => {
            return Err(BadMessage::LogLost);
        }
        T::MsgHeartbeat => {}
        T::MsgAppendResponse
            if is_current && is_leader && !message.reject && message.index > log.last() =>
        {
            return Err(BadMessage::Diverged);
        }
        T::MsgAppendResponse => {}
        _ => return Err(BadMessage::Kind),
    }
    let mut entries = Vec::with_capacity(message.entries.len());
    let mut payloads = Vec::with_capacity(message.entries.len());
    for (expected, entry) in (message.index + 1..).zip(message.entries) {
        let is_known_committed = is_current && entry.index <= committed;
        if is_known_committed && log.term(entry.index).is_ok_and(|term| term != entry.term) {
            return Err(BadMessage::Diverged);
        }
        if entry.term == 0
            || entry.index != expected
            || crc32c::crc32c(&entry.payload) != entry.crc32c
        {
            return Err(BadMessage::Entries);
        }
        let entry_type = i32::try_from(entry.r#type).ok();
        let entry_type = entry_type.and_then(EntryType::from_i32);
        let entry_type = entry_type.ok_or(BadMessage::Entries)?;
        let data = match (entry_type, entry.payload.is_empty()) {
            (EntryType::EntryNormal, true) => Vec::new(),
            (EntryType::EntryNormal, false) => descriptor(&entry.payload, entry.crc32c),
            _ => entry.payload.to_vec(),
        };
        let position = LogPosition {
            index: entry.index,
            term: entry.term,
        };
        payloads.push((position, entry.payload));
        entries.push(Entry {
            entry_type: entry_type as i32,
            index: position.index,
            term: position.term,
            data,
            ..Entry::default()
        });
    }
    let message = Message {
        msg_type: kind as i32,
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries,
        commit: message.commit,
        commit_term: message.commit_term,
        reject: message.reject,
        reject_hint: message.reject_hint,
        request_snapshot: message.request_snapshot,
        context: message.context.map(Vec::from).unwrap_or_default(),
        priority: message.priority,
        ..Message::default()
    };
    Ok((message, payloads))
}
