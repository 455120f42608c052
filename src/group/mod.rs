//! The logic of one Raft group: streams, their log, and what follows from it.
//!
//! Sans-IO: no clock, no socket, no file and no randomness of its own. [`Group::step`] takes an input with
//! the time given and answers with effects, so that a seed replays any failure. The shell in `core` carries
//! the effects out.

mod batch;
mod checkpoint;
mod expiry;
mod holds;
mod log;
mod machine;
mod raft;
mod read;
mod stream;
mod tails;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use raftproto::command::{Command, Expire, command::Kind};

pub use self::batch::request_of;
pub use self::checkpoint::{CheckpointPlan, PlaceChunk, combine_stream_states};
pub use self::log::LogPosition;
pub use self::machine::{BatchError, Machine};
pub use self::raft::{LogEntry, Persist, RaftStart, SavedHardState};

use self::batch::{Pending, Proposed, command_of};
use self::machine::decode_batch;
use self::raft::Raft;
use crate::meta::Tables;
use crate::protocol::{
    BucketName, GroupTarget, Incarnation, Op, Outcome, Refusal, Request, StreamKey, TailNews,
};

/// Whom an outcome goes to; the shell's own number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReplyTo(pub u64);

/// What a group is told.
#[derive(Debug)]
pub enum Input {
    /// A client, another core or another group asks.
    Request {
        /// What.
        request: Request,
        /// Who gets the outcome.
        reply_to: ReplyTo,
    },
    /// The WAL is free: propose what has gathered.
    Flush,
    /// The ready with this number, and all before it, are on disk.
    Persisted(u64),
    /// Time has passed.
    Tick,
}

/// What a group wants done.
#[derive(Debug)]
pub enum Effect {
    /// Write to the WAL and sync, then answer [`Input::Persisted`].
    Persist(Persist),
    /// Answer a request.
    Reply {
        /// Who asked.
        reply_to: ReplyTo,
        /// The answer.
        outcome: Outcome,
    },
    /// Tell the cores that follow a stream.
    Tail {
        /// Which cores.
        cores: Vec<u16>,
        /// What.
        news: TailNews,
    },
    /// Send a command to the group that it is for, and settle the outbox message once it is done.
    Deliver {
        /// Names the message in this group's outbox.
        outbox_id: u64,
        /// The command.
        command: Command,
    },
    /// A hold was not confirmed for long: ask the fork's group and confirm or release it.
    CheckHold {
        /// The source stream, of this group.
        source: StreamKey,
        /// Which stream at that key.
        incarnation: Incarnation,
        /// The hold.
        hold_id: u64,
        /// The fork, of any group.
        fork_key: StreamKey,
    },
    /// A bucket's deletion was found under way: finish it.
    ResumeBucketDeletion(BucketName),
    /// The tables of group 0 changed: give every core a copy.
    TablesChanged,
    /// The group takes requests from now on.
    Ready,
}

/// See the module's head.
pub struct Group {
    machine: Machine,
    raft: Raft,
    pending: Pending,
    proposed: VecDeque<Proposed>,
    applied: LogPosition,
    is_ready: bool,
    /// The time of the current step; never goes back, and never below the log's last stamp.
    now_ms: u64,
    /// When this leadership began: reads before it may not be logged.
    leader_since_ms: u64,
    durable_pack: u32,
}

impl Group {
    /// A group that starts from a checkpoint's machine and the log after it.
    ///
    /// # Errors
    /// If raft-rs refuses the configuration.
    pub fn new(
        machine: Machine,
        start: RaftStart,
        durable_pack: u32,
    ) -> Result<Group, ::raft::Error> {
        let applied = start.checkpoint;
        Ok(Group {
            machine,
            raft: Raft::new(start)?,
            pending: Pending::default(),
            proposed: VecDeque::new(),
            applied,
            is_ready: false,
            now_ms: 0,
            leader_since_ms: u64::MAX,
            durable_pack,
        })
    }

    /// Starts an election. With one voter it is won once its first entry is on disk.
    ///
    /// # Errors
    /// Raft's.
    pub fn campaign(
        &mut self,
        now_ms: u64,
        effects: &mut Vec<Effect>,
    ) -> Result<(), ::raft::Error> {
        self.set_now(now_ms);
        self.raft.campaign()?;
        self.drive(effects);
        Ok(())
    }

    /// Takes one input.
    pub fn step(&mut self, now_ms: u64, input: Input, effects: &mut Vec<Effect>) {
        self.set_now(now_ms);
        match input {
            Input::Request { request, reply_to } => self.on_request(request, reply_to, effects),
            Input::Flush => self.flush(effects),
            Input::Persisted(number) => {
                self.raft.persisted(number);
                self.drive(effects);
            }
            Input::Tick => self.on_tick(effects),
        }
    }

    /// The group's number.
    pub fn id(&self) -> u32 {
        self.machine.group
    }

    /// The group takes requests: it leads and has applied an entry of its own term.
    pub fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// Commands wait for [`Input::Flush`].
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Nothing is on its way to the disk.
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.proposed.is_empty() && self.raft.is_idle()
    }

    /// Bytes in memory.
    pub fn hot_bytes(&self) -> u64 {
        self.machine.hot_bytes
    }

    /// Streams, soft-deleted ones included.
    pub fn stream_count(&self) -> usize {
        self.machine.streams.len()
    }

    /// The newest applied entry.
    pub fn applied(&self) -> LogPosition {
        self.applied
    }

    /// The hard state as a new WAL segment repeats it.
    pub fn hard_state(&self) -> SavedHardState {
        self.raft.hard_state()
    }

    /// A copy of the cluster's tables; only in group 0.
    pub fn tables(&self) -> Option<Tables> {
        self.machine.meta.as_ref().map(crate::meta::Meta::tables)
    }

    /// Hash of all that replicas agree on (I5).
    pub fn state_hash(&self) -> u64 {
        self.machine.state_hash()
    }

    fn set_now(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms).max(self.machine.last_stamp_ms);
    }

    fn on_request(&mut self, request: Request, reply_to: ReplyTo, effects: &mut Vec<Effect>) {
        let reply = |outcome| Effect::Reply { reply_to, outcome };
        if !self.is_ready {
            effects.push(reply(Outcome::Refused(Refusal::Unavailable)));
            return;
        }
        if let Some(refusal) = self.refuse_early(&request) {
            effects.push(reply(Outcome::Refused(refusal)));
            return;
        }
        let key = match &request.target {
            GroupTarget::Key(key) => Some(key.clone()),
            GroupTarget::Meta | GroupTarget::Group(_) => None,
        };
        match command_of(request) {
            Ok(kind) => self.pending.push(kind, Some(reply_to)),
            Err(op) => effects.push(reply(self.answer(key, op))),
        }
    }

    /// Refuses what could only be refused, without an entry. A stream whose time is over ends first, so that
    /// the command which follows in the same entry finds it gone.
    fn refuse_early(&mut self, request: &Request) -> Option<Refusal> {
        let GroupTarget::Key(key) = &request.target else {
            return None;
        };
        let stream = self.machine.streams.get(key);
        let needs_stream = matches!(request.op, Op::Append(_) | Op::Delete);
        let Some(stream) = stream else {
            return (needs_stream && !self.is_touched_by_pending()).then_some(Refusal::NotFound);
        };
        let is_write = needs_stream || matches!(request.op, Op::Create(_) | Op::Hold(_));
        if is_write && !stream.soft_deleted && self.is_expired(stream) {
            let expire = Expire {
                key: key.as_str().to_owned(),
                incarnation: stream.incarnation.0,
            };
            self.pending.push(Kind::Expire(expire), None);
        }
        None
    }

    /// A create that is on its way might be for the same key.
    fn is_touched_by_pending(&self) -> bool {
        !self.pending.is_empty() || !self.proposed.is_empty()
    }

    fn answer(&mut self, key: Option<StreamKey>, op: Op) -> Outcome {
        let Some(key) = key else {
            return match (op, &self.machine.meta) {
                (Op::GetBucket(name), Some(meta)) => meta.bucket(&name),
                (
                    Op::List {
                        bucket,
                        prefix,
                        after,
                        limit,
                    },
                    _,
                ) => self.list(&bucket, &prefix, after.as_deref(), limit),
                _ => Outcome::Refused(Refusal::Unavailable),
            };
        };
        match op {
            Op::Head => self.head(&key),
            Op::Read(read) => self.read(&key, &read),
            Op::Watch { core } => self.watch(&key, core),
            Op::Unwatch { core } => {
                self.machine.tails.unwatch(&key, core);
                Outcome::Done
            }
            Op::ReadInherited {
                incarnation,
                from,
                to,
            } => self.read_inherited(&key, incarnation, from, to),
            Op::MatchFork {
                create,
                has_content_type,
                has_expiry,
            } => self.match_fork(&key, &create, has_content_type, has_expiry),
            _ => Outcome::Refused(Refusal::Unavailable),
        }
    }

    fn flush(&mut self, effects: &mut Vec<Effect>) {
        if !self.raft.is_leader() {
            self.lose_leadership(effects);
            return;
        }
        while !self.pending.is_empty() {
            let (payload, replies) = self.pending.take_entry(self.now_ms);
            match self.raft.propose(payload) {
                Ok(position) => self.proposed.push_back(Proposed { position, replies }),
                Err(_) => refuse(replies, &Refusal::Unavailable, effects),
            }
        }
        self.drive(effects);
    }

    /// Takes readies until there is none: persists, applies, answers.
    fn drive(&mut self, effects: &mut Vec<Effect>) {
        while let Some((persist, committed)) = self.raft.ready() {
            if let Some(persist) = persist {
                effects.push(Effect::Persist(persist));
            }
            for entry in committed {
                let position = LogPosition {
                    index: entry.index,
                    term: entry.term,
                };
                self.apply(position, &entry.payload, effects);
            }
            self.raft.applied(self.applied.index);
        }
        if !self.is_ready && self.raft.is_leader() && self.applied.term == self.raft.term() {
            self.become_ready(effects);
        }
    }

    fn apply(&mut self, position: LogPosition, payload: &bytes::Bytes, effects: &mut Vec<Effect>) {
        assert_eq!(
            position.index,
            self.applied.index + 1,
            "entries are applied in order"
        );
        self.applied = position;
        let mut lost = Vec::new();
        let replies = Proposed::take(&mut self.proposed, position, &mut lost);
        refuse(
            lost.into_iter().map(Some),
            &Refusal::OutcomeUnknown,
            effects,
        );
        if payload.is_empty() {
            return;
        }
        let batch = match decode_batch(payload) {
            Ok(batch) => batch,
            // What was written under a checksum by a known version decodes: anything else must stop here,
            // since going on would make this replica differ from the others (I5).
            Err(error) => panic!("group {}, entry {}: {error}", self.id(), position.index),
        };
        let mut replies = replies.into_iter();
        for command in batch.commands {
            let outcome = self.machine.apply(batch.stamp_ms, command, effects);
            if let Some(reply_to) = replies.next().flatten() {
                effects.push(Effect::Reply { reply_to, outcome });
            }
        }
    }

    fn become_ready(&mut self, effects: &mut Vec<Effect>) {
        self.is_ready = true;
        self.set_now(self.now_ms);
        self.leader_since_ms = self.now_ms;
        for (outbox_id, command) in &self.machine.outbox {
            effects.push(Effect::Deliver {
                outbox_id: *outbox_id,
                command: command.clone(),
            });
        }
        if let Some(meta) = &self.machine.meta {
            effects.push(Effect::TablesChanged);
            effects.extend(
                meta.deleting()
                    .into_iter()
                    .map(Effect::ResumeBucketDeletion),
            );
        }
        effects.push(Effect::Ready);
    }

    fn lose_leadership(&mut self, effects: &mut Vec<Effect>) {
        refuse(self.pending.take_replies(), &Refusal::Unavailable, effects);
        for proposed in std::mem::take(&mut self.proposed) {
            refuse(proposed.replies, &Refusal::OutcomeUnknown, effects);
        }
        self.is_ready = false;
    }

    fn on_tick(&mut self, effects: &mut Vec<Effect>) {
        if !self.is_ready {
            return;
        }
        self.keep_watched_alive();
        self.expire_due();
        self.check_holds(effects);
    }
}

fn refuse(
    replies: impl IntoIterator<Item = Option<ReplyTo>>,
    refusal: &Refusal,
    effects: &mut Vec<Effect>,
) {
    for reply_to in replies.into_iter().flatten() {
        let outcome = Outcome::Refused(refusal.clone());
        effects.push(Effect::Reply { reply_to, outcome });
    }
}
