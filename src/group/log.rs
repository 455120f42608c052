//! The group's Raft log in memory: what raft-rs reads, and the payloads beside it.
//! Owns the entries from `first` to the last; everything before is in a checkpoint or applied for good.
//!
//! A payload lives once: raft-rs holds a descriptor of eight bytes as the entry's data, the payload stays a
//! `Bytes` here, in the WAL's buffer and in hot memory.
//! Invariants: `payloads[i]` belongs to `entries[i]`; indexes are contiguous.

use std::cell::Cell;
use std::collections::VecDeque;

use bytes::Bytes;
use raft::prelude::{ConfState, Entry, EntryType, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Result, Storage, StorageError};

use crate::mutation;

/// Length and checksum (CRC-32C) of a payload, as raft-rs carries it.
pub(super) fn descriptor(payload: &Bytes, crc32c: u32) -> Vec<u8> {
    let mut data = Vec::with_capacity(8);
    data.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    data.extend_from_slice(&crc32c.to_le_bytes());
    data
}

/// The log's position: an index and the term of the entry there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct LogPosition {
    /// Log index.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// What an entry costs beside its payload, in bytes.
const ENTRY_BYTES: u64 = 128;

/// See the module's head.
pub(super) struct GroupLog {
    before: LogPosition,
    entries: VecDeque<Entry>,
    payloads: VecDeque<Bytes>,
    payload_bytes: u64,
    /// Payloads that raft-rs knows as descriptors and has not yet handed over as ready: own proposals and what a leader
    /// sent. Index and term name an entry (Raft, section 5.3).
    offered: VecDeque<(LogPosition, Bytes)>,
    hard_state: HardState,
    conf_state: ConfState,
    /// What a replica that lacks the entries can be given instead.
    checkpoint: Option<(LogPosition, ConfState)>,
    /// raft-rs asked for a checkpoint that is not there.
    checkpoint_wanted: Cell<bool>,
}

impl GroupLog {
    /// A log whose entries up to `before` are gone.
    pub(super) fn new(
        before: LogPosition,
        hard_state: HardState,
        conf_state: ConfState,
    ) -> GroupLog {
        GroupLog {
            before,
            entries: VecDeque::new(),
            payloads: VecDeque::new(),
            payload_bytes: 0,
            offered: VecDeque::new(),
            hard_state,
            conf_state,
            checkpoint: None,
            checkpoint_wanted: Cell::new(false),
        }
    }

    /// Remembers the payload of an entry that raft-rs is told of as a descriptor.
    pub(super) fn offer(&mut self, position: LogPosition, payload: Bytes) {
        self.offered.push_back((position, payload));
    }

    /// Bytes of payload after an index.
    pub(super) fn bytes_after(&self, index: u64) -> u64 {
        let from = index.saturating_sub(self.before.index) as usize;
        let lacking = self.payloads.iter().skip(from.min(self.payloads.len()));
        lacking.map(|p| p.len() as u64).sum()
    }

    /// What the entries up to `index` fill, as far as they are kept.
    pub(super) fn bytes_up_to(&self, index: u64) -> u64 {
        let after = self
            .last()
            .saturating_sub(index)
            .min(self.entries.len() as u64);
        let all = self.payload_bytes + ENTRY_BYTES * self.entries.len() as u64;
        all - self.bytes_after(index) - ENTRY_BYTES * after
    }

    /// Payloads that wait for their entries.
    pub(super) fn offers(&self) -> usize {
        self.offered.len()
    }

    /// The entries after this index are here.
    pub(super) fn first_kept(&self) -> u64 {
        self.before.index
    }

    /// The entries after `index` up to `last`, with their payloads; `None`: some are gone.
    pub(super) fn range(
        &self,
        index: u64,
        last: u64,
    ) -> Option<impl Iterator<Item = (&Entry, &Bytes)>> {
        let from = index.checked_sub(self.before.index)? as usize;
        let count = last.saturating_sub(index) as usize;
        let entries = self.entries.iter().zip(&self.payloads);
        Some(entries.skip(from).take(count))
    }

    /// What raft-rs has not taken by now it will not take.
    pub(super) fn drop_offers(&mut self) {
        if !mutation::is_on("offers-kept") {
            self.offered.clear();
        }
    }

    /// Takes entries of a ready; a later entry at a lower index replaces all from there on.
    pub(super) fn append(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            let payload = self.take_offered(&entry);
            self.put(entry, payload);
        }
    }

    /// Takes an entry with its payload, as recovered or received.
    pub(super) fn put(&mut self, entry: Entry, payload: Bytes) {
        assert!(
            entry.index > self.before.index,
            "an entry below the checkpoint"
        );
        let keep = (entry.index - self.before.index - 1) as usize;
        assert!(keep <= self.entries.len(), "a gap in the log");
        self.entries.truncate(keep);
        let gone = self.payloads.drain(keep..);
        self.payload_bytes -= gone.map(|p| p.len() as u64).sum::<u64>();
        self.payload_bytes += payload.len() as u64;
        self.entries.push_back(entry);
        self.payloads.push_back(payload);
    }

    fn take_offered(&mut self, entry: &Entry) -> Bytes {
        let position = LogPosition {
            index: entry.index,
            term: entry.term,
        };
        let found = self.offered.iter().position(|(p, _)| *p == position);
        if let Some((_, payload)) = found.and_then(|found| self.offered.remove(found)) {
            return payload;
        }
        if entry.entry_type() != EntryType::EntryNormal {
            return Bytes::copy_from_slice(&entry.data);
        }
        assert!(
            entry.data.is_empty(),
            "entry {} of term {} has no payload",
            entry.index,
            entry.term
        );
        Bytes::new()
    }

    /// The payload of the entry at `index`.
    pub(super) fn payload(&self, index: u64) -> Option<&Bytes> {
        let position = index.checked_sub(self.before.index + 1)?;
        self.payloads.get(position as usize)
    }

    /// Forgets the entries up to `index`, which must be applied.
    pub(super) fn compact(&mut self, index: u64) {
        while self.before.index < index {
            let Some(entry) = self.entries.pop_front() else {
                break;
            };
            let payload = self.payloads.pop_front();
            self.payload_bytes -= payload.map_or(0, |p| p.len() as u64);
            self.before = LogPosition {
                index: entry.index,
                term: entry.term,
            };
        }
    }

    /// Forgets applied entries up to `index`, as far as payloads fill more than `bytes_max`.
    pub(super) fn compact_above(&mut self, index: u64, bytes_max: u64) {
        while self.payload_bytes + ENTRY_BYTES * self.entries.len() as u64 > bytes_max
            && self.before.index < index
            && !mutation::is_on("log-kept-for-ever")
        {
            self.compact(self.before.index + 1);
        }
    }

    /// The state is that of a checkpoint now, and the log begins behind it.
    pub(super) fn restore(&mut self, position: LogPosition, conf_state: ConfState) {
        self.before = position;
        self.entries.clear();
        self.payloads.clear();
        self.payload_bytes = 0;
        self.offered.clear();
        self.checkpoint = Some((position, conf_state.clone()));
        self.conf_state = conf_state;
    }

    /// A checkpoint is on disk that replicas can be given.
    pub(super) fn set_checkpoint(&mut self, position: LogPosition, conf_state: ConfState) {
        self.checkpoint = Some((position, conf_state));
    }

    pub(super) fn checkpoint_index(&self) -> u64 {
        self.checkpoint.as_ref().map_or(0, |(at, _)| at.index)
    }

    /// Whether a checkpoint was asked for since this was called last.
    pub(super) fn take_checkpoint_wanted(&self) -> bool {
        self.checkpoint_wanted.replace(false)
    }

    pub(super) fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state;
    }

    pub(super) fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    pub(super) fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    pub(super) fn conf_state(&self) -> &ConfState {
        &self.conf_state
    }

    pub(super) fn last(&self) -> u64 {
        self.before.index + self.entries.len() as u64
    }
}

impl Storage for GroupLog {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(RaftState::new(
            self.hard_state.clone(),
            self.conf_state.clone(),
        ))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        if low <= self.before.index {
            return Err(StorageError::Compacted.into());
        }
        if high > self.last() + 1 {
            return Err(StorageError::Unavailable.into());
        }
        let max = max_size.into().unwrap_or(u64::MAX);
        let from = (low - self.before.index - 1) as usize;
        let count = (high - low) as usize;
        let mut size = 0u64;
        let mut found = Vec::with_capacity(count.min(1024));
        for (entry, payload) in self
            .entries
            .iter()
            .zip(&self.payloads)
            .skip(from)
            .take(count)
        {
            size += payload.len() as u64 + 64;
            if !found.is_empty() && size > max {
                break;
            }
            found.push(entry.clone());
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> Result<u64> {
        if index == self.before.index {
            return Ok(self.before.term);
        }
        if index < self.before.index {
            return Err(StorageError::Compacted.into());
        }
        let position = (index - self.before.index - 1) as usize;
        match self.entries.get(position) {
            Some(entry) => Ok(entry.term),
            None => Err(StorageError::Unavailable.into()),
        }
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.before.index + 1)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last())
    }

    /// The checkpoint's position only: its files travel beside Raft.
    fn snapshot(&self, request_index: u64, to: u64) -> Result<Snapshot> {
        // One that is not a member there would refuse it without a word. One that is to go and still votes is one.
        let has = |conf: &ConfState| {
            let may_go = &conf.voters_outgoing;
            let mut all = conf.voters.iter().chain(&conf.learners).chain(may_go);
            all.any(|id| *id == to)
        };
        match &self.checkpoint {
            Some((position, conf_state))
                if position.index >= self.before.index
                    && position.index >= request_index
                    && has(conf_state) =>
            {
                let mut snapshot = Snapshot::default();
                let metadata = snapshot.mut_metadata();
                metadata.index = position.index;
                metadata.term = position.term;
                metadata.set_conf_state(conf_state.clone());
                Ok(snapshot)
            }
            _ => {
                self.checkpoint_wanted.set(true);
                Err(StorageError::SnapshotTemporarilyUnavailable.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry {
            index,
            term,
            ..Entry::default()
        }
    }

    #[test]
    fn who_is_to_go_and_still_votes_is_given_a_checkpoint() {
        let at = LogPosition { index: 7, term: 2 };
        let mut log = GroupLog::new(at, HardState::default(), ConfState::default());
        let joint = ConfState {
            voters: vec![1, 4],
            voters_outgoing: vec![1, 2],
            learners: vec![5],
            ..ConfState::default()
        };
        log.set_checkpoint(at, joint);
        for member in [1, 2, 4, 5] {
            assert!(log.snapshot(0, member).is_ok(), "{member}");
        }
        assert!(log.snapshot(0, 3).is_err());
    }

    #[test]
    fn a_later_entry_at_a_lower_index_replaces_the_rest() {
        let mut log = GroupLog::new(
            LogPosition::default(),
            HardState::default(),
            ConfState::default(),
        );
        for index in 1..=5 {
            log.put(entry(index, 1), Bytes::from(vec![index as u8]));
        }
        log.put(entry(3, 2), Bytes::from_static(b"new"));
        assert_eq!(log.last_index(), Ok(3));
        assert_eq!(log.term(3), Ok(2));
        assert_eq!(log.payload(3), Some(&Bytes::from_static(b"new")));
        assert_eq!(log.payload(4), None);
        log.compact(2);
        assert_eq!((log.first_index(), log.term(2)), (Ok(3), Ok(1)));
        assert!(log.term(1).is_err());
    }
}
