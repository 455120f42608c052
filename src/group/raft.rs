//! Drives raft-rs: proposals and peers' messages in, readies out as effects.
//! Owns the `RawNode` of one group. Uses the asynchronous ready interface only (a leader's entries leave before its
//! sync returns); `persisted` must be called in the order of the readies, and what a follower answers waits for it.

use std::collections::VecDeque;

use bytes::Bytes;
use raft::prelude::{Entry, EntryType, HardState, Message, MessageType, Snapshot};
use raft::{RawNode, StateRole};
use raftproto::checkpoint::Membership;
use raftproto::peer::RaftMessage;

use super::answers::{Acknowledged, waits_for_no_disk};
use super::elections::election_ticks;
use super::log::{GroupLog, LogPosition, descriptor};
use super::peer::{self, BadMessage};
use super::settings::{RaftSettings, RaftStart};
use crate::mutation;

/// What must reach the disk before the ready with this number is persisted.
#[derive(Debug, Clone)]
pub struct Persist {
    /// The ready's number; answered with [`super::Input::Persisted`].
    pub number: u64,
    /// Set if the term or the vote changed, or a membership change is known for committed.
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
    pub(super) is_conf_change: bool,
    pub(super) payload: Bytes,
}

/// What one ready brings.
#[derive(Default)]
pub(super) struct Step {
    pub(super) persist: Option<Persist>,
    pub(super) messages: Vec<RaftMessage>,
    pub(super) committed: Vec<Committed>,
    /// Contexts and indexes of confirmed reads.
    pub(super) reads: Vec<(Vec<u8>, u64)>,
    /// A checkpoint replaces state and log.
    pub(super) restored: Option<LogPosition>,
}

pub(super) struct Raft {
    pub(super) node: RawNode<GroupLog>,
    pub(super) group: u32,
    saved: SavedHardState,
    /// Readies in flight, oldest first.
    in_flight: VecDeque<u64>,
    /// Messages that leave once the ready with the number is persisted.
    held_messages: VecDeque<(u64, Vec<RaftMessage>)>,
    /// The newest ready with a term or a vote.
    promised_in: u64,
    settings: RaftSettings,
    /// The election time-out, and the state that it was drawn for.
    drawn_for: (u64, StateRole),
    drawn: usize,
    /// What a leader is told that is on disk here.
    pub(super) acknowledged: Acknowledged,
    /// Entries after this index are kept for the backup.
    pub(super) kept_from: Option<u64>,
}

impl Raft {
    pub(super) fn new(group: u32, start: RaftStart) -> Result<Raft, raft::Error> {
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
        let conf_state = peer::conf_state(&start.membership);
        let mut log = GroupLog::new(start.checkpoint, hard_state, conf_state.clone());
        if start.checkpoint.index > 0 {
            log.set_checkpoint(start.checkpoint, conf_state);
        }
        for saved in start.entries {
            let entry_type = if saved.is_conf_change {
                EntryType::EntryConfChangeV2
            } else {
                EntryType::EntryNormal
            };
            let data = match (saved.is_conf_change, saved.payload.is_empty()) {
                (true, _) => saved.payload.to_vec(),
                (false, true) => Vec::new(),
                (false, false) => descriptor(&saved.payload, crc32c::crc32c(&saved.payload)),
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
        let settings = start.settings;
        let config = raft::Config {
            id: start.node_id,
            election_tick: settings.election_ticks,
            heartbeat_tick: settings.heartbeat_ticks,
            applied: start.checkpoint.index,
            pre_vote: true,
            check_quorum: true,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 64,
            max_committed_size_per_ready: 64 << 20,
            ..raft::Config::default()
        };
        config.validate()?;
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let mut raft = Raft {
            node: RawNode::new(&config, log, &logger)?,
            group,
            saved: SavedHardState {
                commit: 0,
                ..start.hard_state
            },
            in_flight: VecDeque::new(),
            held_messages: VecDeque::new(),
            promised_in: 0,
            settings,
            drawn_for: (u64::MAX, StateRole::Follower),
            drawn: 0,
            acknowledged: Acknowledged::default(),
            kept_from: None,
        };
        raft.draw_time_out();
        Ok(raft)
    }

    /// Starts an election; with one voter it is won at once.
    pub(super) fn campaign(&mut self) -> Result<(), raft::Error> {
        self.node.campaign()
    }

    /// Lets one tick pass.
    pub(super) fn tick(&mut self) {
        if !self.is_leader() && self.is_only_voter() && !self.in_flight.is_empty() {
            // It would lead at once, and raft-rs ends the process if the log of one that does is not on disk.
            return;
        }
        if self.waits_too_long_for_the_disk() {
            return self.lead_no_more();
        }
        self.draw_time_out();
        self.node.tick();
        self.draw_time_out();
    }

    /// raft-rs draws its election time-outs at random. Two that campaign at once win no election, and cost a time-out more:
    /// here the voters take turns, which another term shuffles.
    fn draw_time_out(&mut self) {
        let state = (self.node.raft.term, self.node.raft.state);
        if state != self.drawn_for {
            self.drawn_for = state;
            let conf = self.node.store().conf_state();
            let voters = [&conf.voters[..], &conf.voters_outgoing[..]].concat();
            let place = (self.group, self.node.raft.term, self.node.raft.id);
            self.drawn = election_ticks(voters, place, self.settings.election_ticks);
        }
        // Each time: raft-rs may have drawn one of its own in between.
        self.node.raft.set_randomized_election_timeout(self.drawn);
    }

    /// Gives a peer's message to raft-rs.
    ///
    /// # Errors
    /// [`BadMessage`]; nothing was changed.
    pub(super) fn step(&mut self, message: RaftMessage) -> Result<(), BadMessage> {
        if self.waits_too_long_for_the_disk() {
            return Ok(());
        }
        let known = (self.term(), self.commit(), self.is_leader());
        let (message, payloads) = peer::incoming(self.id(), self.node.store(), known, message)?;
        for (position, payload) in payloads {
            self.node.mut_store().offer(position, payload);
        }
        let notice = self.commit_notice(&message);
        self.step_raw(message);
        if let Some(notice) = notice {
            self.leave_unanswered(notice);
        }
        Ok(())
    }

    /// The state of the checkpoint that a leader pointed to is there: raft-rs decides whether it is still wanted.
    pub(super) fn restore(&mut self, from: u64, term: u64, at: LogPosition, members: &Membership) {
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = at.index;
        metadata.term = at.term;
        metadata.set_conf_state(peer::conf_state(members));
        let message = Message {
            msg_type: MessageType::MsgSnapshot as i32,
            to: self.node.raft.id,
            from,
            term,
            snapshot: Some(snapshot),
            ..Message::default()
        };
        self.step_raw(message);
    }

    fn step_raw(&mut self, message: Message) {
        // What raft-rs refuses here (a message of an unknown peer, a proposal that it drops) changes nothing.
        let from = message.from;
        let _ = self.node.step(message);
        self.hold_next_above_matched(from);
        self.draw_time_out();
    }

    pub(super) fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// The leader that this replica knows of; 0: none.
    pub(super) fn leader(&self) -> u64 {
        self.node.raft.leader_id
    }

    pub(super) fn id(&self) -> u64 {
        self.node.raft.id
    }

    pub(super) fn term(&self) -> u64 {
        self.node.raft.term
    }

    pub(super) fn commit(&self) -> u64 {
        self.node.raft.raft_log.committed
    }

    /// An entry is committed here, for all that can be told of it: of those before the checkpoint the terms are forgotten.
    pub(super) fn has_committed(&self, index: u64, term: u64) -> bool {
        let commit = self.commit();
        index < commit || (index == commit && self.node.raft.raft_log.term(index) == Ok(term))
    }

    pub(super) fn log_bytes_after(&self, index: u64) -> u64 {
        self.node.store().bytes_after(index)
    }

    pub(super) fn last_index(&self) -> u64 {
        self.node.raft.raft_log.last_index()
    }

    /// Asks the other voters whether this replica still leads. The context must be new: an old answer would count (etcd issue 20418).
    pub(super) fn confirm_leadership(&mut self, context: Vec<u8>) {
        self.node.read_index(context);
    }

    /// Proposes a payload with this checksum; answers its position in the log. Only for leaders.
    ///
    /// # Errors
    /// Raft's, if the proposal was dropped: it is certainly not in the log.
    pub(super) fn propose(
        &mut self,
        payload: Bytes,
        crc32c: u32,
    ) -> Result<LogPosition, raft::Error> {
        assert!(self.is_leader(), "only a leader proposes");
        self.node
            .propose(Vec::new(), descriptor(&payload, crc32c))?;
        let position = LogPosition {
            index: self.last_index(),
            term: self.term(),
        };
        self.node.mut_store().offer(position, payload);
        Ok(position)
    }

    /// Takes the next ready, if there is one.
    pub(super) fn ready(&mut self) -> Option<Step> {
        if !self.node.has_ready() {
            self.node.mut_store().drop_offers();
            return None;
        }
        let mut ready = self.node.ready();
        let number = ready.number();
        let mut restored = None;
        if !ready.snapshot().is_empty() {
            let metadata = ready.snapshot().get_metadata();
            let position = LogPosition {
                index: metadata.index,
                term: metadata.term,
            };
            let conf_state = metadata.get_conf_state().clone();
            self.node.mut_store().restore(position, conf_state);
            restored = Some(position);
        }
        let committed = ready.take_committed_entries();
        let entries = ready.take_entries();
        let mut hard_state = ready.hs().cloned().and_then(|hs| self.changed(hs));
        let is_conf_change = |e: &Entry| e.entry_type() != EntryType::EntryNormal;
        if committed.iter().any(is_conf_change) && !mutation::is_on("membership-forgotten") {
            // A start that did not know it for committed would go back to the members before, and those may be gone for
            // good by then.
            hard_state = Some(self.hard_state_now());
        }
        let saved = entries
            .iter()
            .map(|e| (e.index, e.term, e.entry_type()))
            .collect::<Vec<_>>();
        self.node.mut_store().append(entries);
        let entries = saved
            .into_iter()
            .map(|(i, t, k)| self.log_entry(i, t, k))
            .collect::<Vec<_>>();
        let mut messages = self.outgoing(ready.take_messages());
        let mut held = self.outgoing(ready.take_persisted_messages());
        self.note_answers(&messages);
        self.note_answers(&held);
        if mutation::is_on("answer-before-sync") {
            messages.append(&mut held);
        }
        if hard_state.is_some() {
            self.promised_in = number;
        } else if self.answers_beside_the_disk(self.in_flight.front(), self.promised_in) {
            messages.extend(held.extract_if(.., |m| waits_for_no_disk(m)));
        }
        let reads = ready.take_read_states();
        self.node.advance_append_async(ready);
        let persist = (hard_state.is_some() || !entries.is_empty() || restored.is_some())
            .then_some(Persist {
                number,
                hard_state,
                entries,
            });
        let mut step = Step {
            messages,
            committed: committed.into_iter().map(|e| self.committed(e)).collect(),
            reads: reads
                .into_iter()
                .map(|r| (r.request_ctx, r.index))
                .collect(),
            restored,
            persist,
        };
        match &step.persist {
            Some(_) => {
                self.in_flight.push_back(number);
                self.held_messages.push_back((number, held));
            }
            None if self.in_flight.is_empty() => {
                self.node.on_persist_ready(number);
                step.messages.extend(held);
            }
            None => self.held_messages.push_back((number, held)),
        }
        Some(step)
    }

    fn outgoing(&self, messages: Vec<Message>) -> Vec<RaftMessage> {
        let log = self.node.store();
        messages
            .into_iter()
            .filter_map(|m| peer::outgoing(self.group, log, m))
            .collect()
    }

    fn hard_state_now(&self) -> SavedHardState {
        saved(&self.node.raft.hard_state())
    }

    fn changed(&mut self, hs: HardState) -> Option<SavedHardState> {
        let now = saved(&hs);
        self.node.mut_store().set_hard_state(hs);
        let mut changed = (now.term, now.vote) != (self.saved.term, self.saved.vote);
        if mutation::is_on("vote-not-written") {
            changed = now.term != self.saved.term && now.vote == 0;
        }
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
        let is_conf_change = entry.entry_type() != EntryType::EntryNormal;
        if !is_conf_change && !entry.data.is_empty() {
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
            is_conf_change,
            payload,
        }
    }

    /// The ready with this number, and all before, are on disk. Answers the messages that waited for it.
    pub(super) fn persisted(&mut self, number: u64) -> Vec<RaftMessage> {
        while self.in_flight.front().is_some_and(|n| *n <= number) {
            self.in_flight.pop_front();
        }
        let still = self.in_flight.front().copied().unwrap_or(u64::MAX);
        let sent = self.held_messages.partition_point(|(n, _)| *n < still);
        let (mut last, mut messages) = (number, Vec::new());
        for (ready, held) in self.held_messages.drain(..sent) {
            last = last.max(ready);
            messages.extend(held);
        }
        if mutation::is_on("sent-readies-kept") {
            (0..=sent).for_each(|_| self.held_messages.push_front((0, Vec::new())));
        }
        self.node.on_persist_ready(last);
        messages
    }

    /// Entries up to `index` are applied; those that no replica may need are forgotten.
    pub(super) fn applied(&mut self, index: u64) {
        self.node.advance_apply_to(index);
        self.forget_applied(index);
    }

    pub(super) fn hard_state(&self) -> SavedHardState {
        saved(self.node.store().hard_state())
    }

    pub(super) fn settings(&self) -> &RaftSettings {
        &self.settings
    }

    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Readies whose messages wait for the disk.
    pub(super) fn unsynced(&self) -> usize {
        self.held_messages.len()
    }
}

fn saved(hs: &HardState) -> SavedHardState {
    SavedHardState {
        term: hs.term,
        vote: hs.vote,
        commit: hs.commit,
    }
}
