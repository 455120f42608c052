//! Drives raft-rs: proposals in, readies out as effects.
//! Owns the `RawNode` of one group. Uses the asynchronous ready interface only (entries leave before the
//! sync returns); `persisted` must be called in the order of the readies.

use std::collections::VecDeque;

use bytes::Bytes;
use raft::prelude::{ConfState, Entry, EntryType, HardState};
use raft::{RawNode, StateRole};

use super::log::{GroupLog, LogPosition, descriptor};

/// What must reach the disk before the ready with this number is persisted.
#[derive(Debug, Clone)]
pub struct Persist {
    /// The ready's number; answered with [`super::Input::Persisted`].
    pub number: u64,
    /// Set if the term or the vote changed.
    pub hard_state: Option<SavedHardState>,
    /// New entries in log order.
    pub entries: Vec<LogEntry>,
}

/// A Raft hard state as it is written to the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SavedHardState {
    /// Current term.
    pub term: u64,
    /// Whom this node voted for in it; 0: nobody.
    pub vote: u64,
    /// Committed up to here, at least.
    pub commit: u64,
}

/// A log entry as it is written to the WAL.
#[derive(Debug, Clone)]
pub struct LogEntry {
    /// Log index.
    pub index: u64,
    /// Raft term.
    pub term: u64,
    /// A membership change; its payload is raft-rs's own message.
    pub is_conf_change: bool,
    /// An encoded `CommandBatch`; empty for a leader's first entry.
    pub payload: Bytes,
}

/// A committed entry to apply.
pub(super) struct Committed {
    pub(super) index: u64,
    pub(super) term: u64,
    pub(super) payload: Bytes,
}

/// What a group starts from.
#[derive(Debug, Clone, Default)]
pub struct RaftStart {
    /// This node.
    pub node_id: u64,
    /// The voters of the newest configuration.
    pub voters: Vec<u64>,
    /// What the checkpoint holds.
    pub checkpoint: LogPosition,
    /// The newest hard state found.
    pub hard_state: SavedHardState,
    /// The log after the checkpoint, contiguous.
    pub entries: Vec<LogEntry>,
}

pub(super) struct Raft {
    node: RawNode<GroupLog>,
    saved: SavedHardState,
    /// Readies in flight, oldest first.
    in_flight: VecDeque<u64>,
}

impl Raft {
    pub(super) fn new(start: RaftStart) -> Result<Raft, raft::Error> {
        let last = start
            .entries
            .last()
            .map_or(start.checkpoint.index, |e| e.index);
        let hard_state = HardState {
            term: start.hard_state.term.max(start.checkpoint.term),
            vote: start.hard_state.vote,
            // Only what was verified is in the log, so the commit index is clamped to it.
            commit: start.hard_state.commit.clamp(start.checkpoint.index, last),
        };
        let conf_state = ConfState {
            voters: start.voters.clone(),
            ..ConfState::default()
        };
        let mut log = GroupLog::new(start.checkpoint, hard_state, conf_state);
        for saved in start.entries {
            let entry_type = if saved.is_conf_change {
                EntryType::EntryConfChangeV2
            } else {
                EntryType::EntryNormal
            };
            let data = match (saved.is_conf_change, saved.payload.is_empty()) {
                (true, _) => saved.payload.to_vec(),
                (false, true) => Vec::new(),
                (false, false) => descriptor(&saved.payload),
            };
            let entry = Entry {
                entry_type: entry_type as i32,
                index: saved.index,
                term: saved.term,
                data,
                ..Entry::default()
            };
            log.put(entry, saved.payload);
        }
        let config = raft::Config {
            id: start.node_id,
            election_tick: 10,
            heartbeat_tick: 3,
            applied: start.checkpoint.index,
            pre_vote: true,
            check_quorum: true,
            max_size_per_msg: 4 << 20,
            max_inflight_msgs: 256,
            max_committed_size_per_ready: 64 << 20,
            ..raft::Config::default()
        };
        config.validate()?;
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        Ok(Raft {
            node: RawNode::new(&config, log, &logger)?,
            saved: SavedHardState {
                commit: 0,
                ..start.hard_state
            },
            in_flight: VecDeque::new(),
        })
    }

    /// Starts an election; with one voter it is won at once.
    pub(super) fn campaign(&mut self) -> Result<(), raft::Error> {
        self.node.campaign()
    }

    pub(super) fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    pub(super) fn term(&self) -> u64 {
        self.node.raft.term
    }

    /// Proposes a payload; answers its position in the log. Only for leaders.
    ///
    /// # Errors
    /// Raft's, if the proposal was dropped: it is certainly not in the log.
    pub(super) fn propose(&mut self, payload: Bytes) -> Result<LogPosition, raft::Error> {
        assert!(self.is_leader(), "only a leader proposes");
        self.node.propose(Vec::new(), descriptor(&payload))?;
        let index = self.node.raft.raft_log.last_index();
        self.node.mut_store().propose(index, payload);
        Ok(LogPosition {
            index,
            term: self.term(),
        })
    }

    /// Takes the next ready, if there is one: what to persist, and what is committed.
    pub(super) fn ready(&mut self) -> Option<(Option<Persist>, Vec<Committed>)> {
        if !self.node.has_ready() {
            return None;
        }
        let mut ready = self.node.ready();
        let committed = ready.take_committed_entries();
        let entries = ready.take_entries();
        let number = ready.number();
        let hard_state = ready.hs().cloned().and_then(|hs| self.changed(hs));
        let saved = entries
            .iter()
            .map(|e| (e.index, e.term, e.entry_type()))
            .collect::<Vec<_>>();
        self.node.mut_store().append(entries);
        let entries = saved
            .into_iter()
            .map(|(i, t, k)| self.log_entry(i, t, k))
            .collect::<Vec<_>>();
        // One voter: nobody to send to. Messages become effects together with the peer links.
        debug_assert!(ready.messages().is_empty() && ready.persisted_messages().is_empty());
        self.node.advance_append_async(ready);
        let persist = (hard_state.is_some() || !entries.is_empty()).then_some(Persist {
            number,
            hard_state,
            entries,
        });
        let committed = committed.into_iter().map(|e| self.committed(e)).collect();
        match persist {
            Some(_) => self.in_flight.push_back(number),
            None if self.in_flight.is_empty() => self.node.on_persist_ready(number),
            None => {}
        }
        Some((persist, committed))
    }

    fn changed(&mut self, hs: HardState) -> Option<SavedHardState> {
        let now = SavedHardState {
            term: hs.term,
            vote: hs.vote,
            commit: hs.commit,
        };
        self.node.mut_store().set_hard_state(hs);
        let changed = (now.term, now.vote) != (self.saved.term, self.saved.vote);
        self.saved = now;
        changed.then_some(now)
    }

    fn log_entry(&self, index: u64, term: u64, kind: EntryType) -> LogEntry {
        LogEntry {
            index,
            term,
            is_conf_change: kind != EntryType::EntryNormal,
            payload: self
                .node
                .store()
                .payload(index)
                .cloned()
                .unwrap_or_default(),
        }
    }

    fn committed(&self, entry: Entry) -> Committed {
        let payload = self
            .node
            .store()
            .payload(entry.index)
            .cloned()
            .unwrap_or_default();
        if entry.entry_type() == EntryType::EntryNormal && !entry.data.is_empty() {
            assert_eq!(
                entry.data[..4],
                (payload.len() as u32).to_le_bytes(),
                "the payload of entry {} is not the one that was proposed",
                entry.index
            );
        }
        Committed {
            index: entry.index,
            term: entry.term,
            payload,
        }
    }

    /// The ready with this number, and all before, are on disk.
    pub(super) fn persisted(&mut self, number: u64) {
        while self.in_flight.front().is_some_and(|n| *n <= number) {
            self.in_flight.pop_front();
        }
        self.node.on_persist_ready(number);
    }

    /// Entries up to `index` are applied; those that no follower needs are forgotten.
    pub(super) fn applied(&mut self, index: u64) {
        self.node.advance_apply_to(index);
        if self.node.store().conf_state().voters.len() <= 1 {
            self.node.mut_store().compact(index);
        }
    }

    pub(super) fn hard_state(&self) -> SavedHardState {
        let hs = self.node.store().hard_state();
        SavedHardState {
            term: hs.term,
            vote: hs.vote,
            commit: hs.commit,
        }
    }

    pub(super) fn voters(&self) -> Vec<u64> {
        self.node.store().conf_state().voters.clone()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }
}
