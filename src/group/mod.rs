//! The logic of one Raft group: streams, their log, and what follows from it.
//!
//! Sans-IO: no clock, no socket, no file and no randomness of its own. [`Group::step`] takes an input with
//! the time given and answers with effects, so that a seed replays any failure. The shell in `core` carries
//! the effects out.

mod answers;
mod asker;
mod backup;
mod batch;
mod bounds;
mod checkpoint;
mod choose;
mod cold;
mod cold_damage;
mod cold_state;
mod collect;
mod effects;
mod elections;
mod entry;
mod expiry;
mod holds;
mod lead;
mod level;
mod linear;
mod log;
mod machine;
mod members;
mod outage;
mod packs;
mod peer;
mod raft;
mod read;
mod replicas;
mod retention;
mod route;
mod settings;
mod sleep;
mod stream;
mod tails;
#[cfg(test)]
mod tests;
mod view;

use std::collections::BTreeMap;

use raftproto::command::{Expire, command::Kind};

pub use self::answers::{is_commit_notice, may_overtake};
use self::asker::{Asker, refuse};
pub use self::backup::{BaseMisfit, Exported, own_from, stamp_of};
pub use self::batch::request_of;
pub use self::bounds::Footprint;
pub use self::checkpoint::{
    CheckpointPlan, HeldChunk, HeldColdChunk, PlaceChunk, combine_stream_states,
};
pub use self::choose::PackSource;
pub use self::cold::{ColdAnswer, ColdFigures, ColdSettings, PackedChunk};
pub use self::cold_damage::ChunkVerdict;
pub use self::cold_state::ColdPack;
pub use self::effects::{Effect, Fetched, Input, Now, ReplyTo};
pub use self::log::LogPosition;
pub use self::machine::{BatchError, Machine};
pub use self::outage::Outage;
pub use self::peer::{BadMessage, node_of};
pub use self::raft::{LogEntry, Persist, SavedHardState};
pub use self::settings::{RaftSettings, RaftStart, ReadMode, Replica};

use self::batch::{Pending, Proposed};
use self::linear::Leadership;
use self::machine::decode_batch;
use self::raft::Raft;
use self::route::Waiting;
use crate::meta::Tables;
use crate::mutation;
use crate::protocol::{GroupTarget, Op, Outcome, Refusal, Request, StreamKey};

/// See the module's head.
pub struct Group {
    machine: Machine,
    raft: Raft,
    pending: Pending,
    /// By their places in the log, of which several leaderships may have used the same.
    proposed: BTreeMap<LogPosition, Proposed>,
    /// Payload bytes of `proposed`.
    uncommitted_bytes: u64,
    waiting: Waiting,
    leadership: Leadership,
    applied: LogPosition,
    /// Bytes of all commands applied since the start, each with [`COMMAND_BYTES`] more.
    work_bytes: u64,
    is_ready: bool,
    /// The leader at the end of the last step.
    known_leader: u64,
    /// A checkpoint is being fetched, from this raft id in this term.
    fetching: Option<(u64, u64)>,
    fetched: Option<Box<Fetched>>,
    /// A checkpoint takes the place of the files with this ready.
    installing: Option<u64>,
    /// Why this replica is not sound.
    trouble: Option<BadMessage>,
    /// Since when this replica is ready, in ticks.
    ready_since_ticks: u64,
    /// Who leads, by what is heard since then: its term and raft id.
    heard_leader: (u64, u64),
    /// Streams that were read here, for the leader.
    touches: Vec<StreamKey>,
    now: Now,
    /// Nobody gets a vote before: a lease may rest on a promise that was forgotten with the last stop.
    no_vote_until_us: u64,
    ticks: u64,
    asleep: bool,
    idle_ticks: u32,
    /// The time of the current step; never goes back, and never below the log's last stamp.
    now_ms: u64,
    /// When this leadership began: reads before it may not be logged.
    leader_since_ms: u64,
    durable_pack: u32,
    /// Version of commands that may be proposed: each member can apply it.
    level: u32,
    cold: cold::ColdWork,
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
        let group = machine.group;
        let level_first = start.settings.level_first;
        let tokens = xxhash_rust::xxh3::xxh3_64(&start.settings.seed.to_le_bytes());
        Ok(Group {
            machine,
            raft: Raft::new(group, start)?,
            pending: Pending::default(),
            proposed: BTreeMap::new(),
            uncommitted_bytes: 0,
            waiting: Waiting::starting_at(tokens),
            leadership: Leadership::default(),
            applied,
            work_bytes: 0,
            is_ready: false,
            known_leader: 0,
            fetching: None,
            fetched: None,
            installing: None,
            trouble: None,
            ready_since_ticks: 0,
            heard_leader: (0, 0),
            touches: Vec::new(),
            now: Now::default(),
            no_vote_until_us: u64::MAX,
            ticks: 0,
            asleep: false,
            idle_ticks: 0,
            now_ms: 0,
            leader_since_ms: u64::MAX,
            durable_pack,
            level: level_first,
            cold: cold::ColdWork::default(),
        })
    }

    /// Starts an election. With one voter it is won once its first entry is on disk; with several it must only be called
    /// where this replica was never told of a leader.
    ///
    /// # Errors
    /// Raft's.
    pub fn campaign(&mut self, now: Now, effects: &mut Vec<Effect>) -> Result<(), ::raft::Error> {
        self.set_now(now);
        self.raft.campaign()?;
        self.drive(effects);
        Ok(())
    }

    /// Takes one input.
    pub fn step(&mut self, now: Now, input: Input, effects: &mut Vec<Effect>) {
        self.set_now(now);
        if sleep::wakes(&input, self.raft.leader(), self.raft.id()) {
            self.wake();
        }
        match input {
            Input::Request { request, reply_to } => {
                self.on_request(request, reply_to, false, effects);
            }
            Input::Forwarded { request, reply_to } => {
                self.on_request(request, reply_to, true, effects);
            }
            Input::ForwardReply { token, outcome } => {
                self.on_forward_reply(token, outcome, effects);
            }
            Input::NotSent { token } => self.not_sent(token, effects),
            Input::Hibernate { node, notice } => self.on_hibernate(node, &notice),
            Input::Peer(message) => self.on_peer(message, effects),
            Input::LinkLost(node) => {
                self.raft.unreachable(node);
                self.lose_answers_of(node, effects);
            }
            Input::AnswersLost(node) => self.lose_answers_of(node, effects),
            Input::Fetched(fetched) => self.on_fetched(fetched),
            Input::FetchFailed => self.fetching = None,
            Input::TransferLeader(node) => self.transfer_leader(node, effects),
            Input::Reconcile(wanted) => self.reconcile(&wanted, effects),
            Input::RaiseLevel(raise) => self.raise_level(raise),
            Input::RaftTick => self.on_raft_tick(effects),
            Input::GiveUpLate => self.give_up(effects),
            Input::Flush => self.flush(effects),
            Input::Persisted(number) => self.on_persisted(number, effects),
            Input::Cold(answer) => self.on_cold(*answer, effects),
            Input::Tick => self.on_tick(effects),
        }
        self.drive(effects);
        self.forward_touches(effects);
    }

    /// The group's number.
    pub fn id(&self) -> u32 {
        self.machine.group
    }

    /// The group takes requests: it leads and has applied an entry of its own term.
    pub fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// How full the room for what is to be proposed, or is and not applied, is, from 0 to 1.
    pub fn uncommitted(&self) -> f64 {
        self.uncommitted_now() as f64 / self.raft.settings().uncommitted_bytes_max.max(1) as f64
    }

    /// Commands wait for [`Input::Flush`]; also after one, if a long entry takes several.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Nothing is on its way to the disk, and nobody waits. What was proposed and given up may stay for ever: where no
    /// leader tells what became of it.
    pub fn is_idle(&self) -> bool {
        let awaited = |p: &Proposed| p.askers.iter().any(Option::is_some);
        self.pending.is_empty()
            && !self.proposed.values().any(awaited)
            && self.waiting.is_empty()
            && self.raft.is_idle()
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
        let meta = self.machine.meta.as_ref()?;
        Some(Tables {
            as_of: self.applied.index,
            ..meta.tables()
        })
    }

    /// Hash of all that replicas agree on (I5).
    pub fn state_hash(&self) -> u64 {
        self.machine.state_hash()
    }

    fn set_now(&mut self, now: Now) {
        if self.no_vote_until_us == u64::MAX {
            let settings = self.raft.settings();
            let promise_ms = settings.tick_ms * settings.election_ticks as u64;
            let is_fresh = self.raft.last_index() == 0 && self.raft.term() == 0;
            let wait_us = if is_fresh { 0 } else { promise_ms * 1000 };
            self.no_vote_until_us = now.monotonic_us + wait_us;
        }
        self.now = now;
        // Who leads never goes back. Others do: a clock that was put right must not be remembered as it was.
        let before_ms = if self.is_ready { self.now_ms } else { 0 };
        self.now_ms = before_ms.max(now.wall_ms).max(self.machine.last_stamp_ms);
    }

    /// Refuses what could only be refused, without an entry. A stream whose time is over ends first, so that
    /// the command which follows in the same entry finds it gone.
    fn refuse_early(&mut self, request: &Request) -> Option<Refusal> {
        let GroupTarget::Key(key) = &request.target else {
            return None;
        };
        // With other voters, what is missing here may be there already by another leader's word.
        let is_certain = self.raft.is_alone();
        let stream = self.machine.streams.get(key);
        let needs_stream = matches!(request.op, Op::Append(_) | Op::Delete);
        let Some(stream) = stream else {
            return (is_certain && needs_stream && !self.is_touched_by_pending())
                .then_some(Refusal::NotFound);
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
                (Op::Confirm { .. }, _) => self.confirmed(),
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
            Op::Confirm { visible, slides } => self.confirm(&key, visible, slides),
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
            self.refuse_pending(effects);
            return;
        }
        for made in self.pending.take_entries(self.now_ms, self.level()) {
            let (bytes, askers) = (made.payload.len() as u64, made.askers);
            match self.raft.propose(made.payload, made.crc32c) {
                Ok(position) => {
                    self.uncommitted_bytes += bytes;
                    let patience_us = PROPOSED_PATIENCE_US + route::carrying_us(bytes);
                    let proposed = Proposed {
                        askers,
                        bytes,
                        until_us: self.now.monotonic_us + patience_us,
                    };
                    self.proposed.insert(position, proposed);
                }
                Err(_) => refuse(askers, &Refusal::Unavailable, effects),
            }
        }
    }

    /// Takes readies until there is none: persists, sends, applies, answers.
    fn drive(&mut self, effects: &mut Vec<Effect>) {
        while self.installing.is_none()
            && let Some(step) = self.raft.ready()
        {
            effects.extend(step.messages.into_iter().map(Effect::Send));
            if let Some(position) = step.restored {
                self.restored(position, step.persist, effects);
                break;
            }
            effects.extend(step.persist.map(Effect::Persist));
            let mut is_changed = false;
            for entry in step.committed {
                let position = LogPosition {
                    index: entry.index,
                    term: entry.term,
                };
                if entry.is_conf_change {
                    self.passed(position, effects);
                    self.raft.change_membership(&entry.payload);
                    is_changed = true;
                } else {
                    self.apply(position, &entry.payload, effects);
                }
            }
            self.raft.applied(self.applied.index);
            if is_changed {
                self.raft.forget_first();
            }
            for (context, index) in step.reads {
                self.on_confirmed(&context, index, effects);
            }
        }
        self.look_at_leader(effects);
        self.answer_confirmed(effects);
        if self.raft.take_checkpoint_wanted() {
            effects.push(Effect::CheckpointWanted);
        }
    }

    /// The entry at `position` is the log's: answers for others that stood there are certain.
    fn passed(&mut self, position: LogPosition, effects: &mut Vec<Effect>) -> Vec<Option<Asker>> {
        assert_eq!(
            position.index,
            self.applied.index + 1,
            "entries are applied in order"
        );
        self.applied = position;
        let mut lost = Vec::new();
        let askers = Proposed::take(
            &mut self.proposed,
            position,
            &mut self.uncommitted_bytes,
            &mut lost,
        );
        // Another leader's entry stands in the place: this one never will.
        refuse(lost.into_iter().map(Some), &Refusal::Unavailable, effects);
        askers
    }

    fn apply(&mut self, position: LogPosition, payload: &bytes::Bytes, effects: &mut Vec<Effect>) {
        let askers = self.passed(position, effects);
        if payload.is_empty() {
            return;
        }
        let known = self.raft.settings().commands_version;
        let batch = match decode_batch(payload, known) {
            Ok(batch) => batch,
            // What was written under a checksum by a known version decodes: anything else must stop here,
            // since going on would make this replica differ from the others (I5).
            Err(error) => panic!("group {}, entry {}: {error}", self.id(), position.index),
        };
        // A committed entry says that its version could be written.
        self.note_level(batch.version);
        let from = effects.len();
        self.work_bytes += payload.len() as u64 + COMMAND_BYTES * batch.commands.len() as u64;
        let mut askers = askers.into_iter();
        let stamp_ms = match mutation::is_on("apply-by-own-clock") {
            true => self.now_ms,
            false => batch.stamp_ms,
        };
        for command in batch.commands {
            let outcome = self
                .machine
                .apply(batch.version, stamp_ms, command, effects);
            if let Some(asker) = askers.next().flatten() {
                asker.answer(outcome, effects);
            }
        }
        self.note_applied(batch.stamp_ms);
        if self.is_ready {
            self.flush_on(effects);
        } else {
            // The leader carries them out; a new one begins with all that is left.
            let is_leaders = |e: &mut Effect| matches!(e, Effect::Deliver { .. });
            effects.extract_if(from.., is_leaders).for_each(drop);
        }
    }
}

/// What a command costs besides its bytes, in bytes.
const COMMAND_BYTES: u64 = 512;

/// How long the answer to a proposal is waited for after its leader was deposed, in microseconds.
const PROPOSED_PATIENCE_US: u64 = 5_000_000;
