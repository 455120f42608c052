//! Coming to lead, ceasing to, handing over; ticks; and what other replicas say.

use raftproto::peer::RaftMessage;

use super::asker::{Asker, refuse};
use super::batch::Proposed;
use super::log::LogPosition;
use super::peer::{BadMessage, node_of};
use super::{Effect, Fetched, Group, Persist};
use crate::mutation;
use crate::protocol::Refusal;

/// Ticks after which a replica that did not take its checkpoint is told of it again.
const CHECKPOINT_TICKS: u64 = 100;

/// Ticks between looks at what waits for too long.
const LATE_TICKS: u64 = 10;

impl Group {
    /// Steps from one role to the other, as raft-rs has done before.
    pub(super) fn look_at_leader(&mut self, effects: &mut Vec<Effect>) {
        let leader = self.raft.leader();
        if self.is_ready && !self.raft.is_leader() {
            self.cease_to_lead(effects);
        }
        if !self.is_ready
            && self.raft.is_leader()
            && (self.applied.term == self.raft.term() || mutation::is_on("ready-before-applied"))
            && self.installing.is_none()
        {
            self.become_ready(effects);
        }
        if leader != self.known_leader {
            self.known_leader = leader;
            effects.push(Effect::LeaderChanged);
            self.retry_held(effects);
        }
    }

    fn become_ready(&mut self, effects: &mut Vec<Effect>) {
        self.is_ready = true;
        self.ready_since_ticks = self.ticks;
        self.set_now(self.now);
        self.leader_since_ms = self.now_ms;
        self.cold.reset();
        self.tend_cold_store(effects);
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
        effects.push(Effect::LeaderChanged);
        self.retry_held(effects);
    }

    fn cease_to_lead(&mut self, effects: &mut Vec<Effect>) {
        self.is_ready = false;
        self.leader_since_ms = u64::MAX;
        self.cold.reset();
        self.refuse_pending(effects);
        // What was proposed may still be committed: its answer comes when its place in the log is known.
        for asked in self.take_unconfirmed() {
            self.dispatch(asked, effects);
        }
    }

    /// Hands leadership over. What was asked before is proposed first; what is asked meanwhile waits.
    pub(super) fn transfer_leader(&mut self, node: Option<u64>, effects: &mut Vec<Effect>) {
        if !self.raft.is_leader() || self.raft.is_transferring() {
            return;
        }
        self.flush(effects);
        self.end_lease();
        if !self.raft.transfer(node) {
            log::debug!("event=no_replica_to_hand_over_to group={}", self.id());
        }
    }

    pub(super) fn on_tick(&mut self, effects: &mut Vec<Effect>) {
        self.keep_watched_alive();
        if !self.is_ready || self.raft.is_transferring() {
            return;
        }
        self.expire_due();
        self.trim_due();
        self.check_holds(effects);
        self.tend_cold_store(effects);
    }

    pub(super) fn on_raft_tick(&mut self, effects: &mut Vec<Effect>) {
        if self.installing.is_some() || self.asleep {
            return;
        }
        self.fall_asleep_if_idle(effects);
        if self.asleep {
            return;
        }
        self.ticks += 1;
        self.raft.tick();
        self.repeat_round();
        self.retry_held(effects);
        if self.ticks.is_multiple_of(LATE_TICKS) {
            self.give_up_late(effects);
            self.give_up_proposed(effects);
        }
        if self.ticks.is_multiple_of(CHECKPOINT_TICKS) {
            let replicas = self.raft.replicas();
            for replica in replicas.iter().filter(|r| r.is_installing) {
                self.raft.checkpoint_failed(replica.raft_id);
            }
        }
    }

    /// The log stands still: refuses what was not proposed, and what has waited for too long.
    pub(super) fn give_up(&mut self, effects: &mut Vec<Effect>) {
        self.retry_held(effects);
        self.give_up_late(effects);
        self.give_up_proposed(effects);
        let bound = "disk_space";
        refuse(
            self.pending.take_asked(),
            &Refusal::Overloaded { bound },
            effects,
        );
        // What is proposed stays in the log, and is done once there is room: only its askers are told that they cannot know.
        let now_us = self.now.monotonic_us;
        let late = self.proposed.values_mut().filter(|p| p.until_us <= now_us);
        let askers: Vec<Option<Asker>> = late.flat_map(Proposed::take_askers).collect();
        refuse(askers, &Refusal::OutcomeUnknown, effects);
    }

    /// Gives up proposals of former leaderships whose place in the log is not known for too long, and forgets them: the log
    /// may never reach them, and a group that waits neither sleeps nor stops.
    fn give_up_proposed(&mut self, effects: &mut Vec<Effect>) {
        let (now_us, term) = (self.now.monotonic_us, self.raft.term());
        let is_ready = self.is_ready;
        let mut given_up = Vec::new();
        let bytes = &mut self.uncommitted_bytes;
        self.proposed.retain(|place, proposed| {
            let is_underway = is_ready && place.term == term;
            let is_late = !is_underway && proposed.until_us <= now_us;
            if is_late {
                if !mutation::is_on("given-up-and-counted") {
                    *bytes -= proposed.bytes;
                }
                given_up.append(&mut proposed.askers);
            }
            !is_late
        });
        refuse(given_up, &Refusal::OutcomeUnknown, effects);
    }

    pub(super) fn on_peer(&mut self, message: RaftMessage, effects: &mut Vec<Effect>) {
        use ::raft::prelude::MessageType as T;
        if self.installing.is_some() {
            return;
        }
        let kind = message.r#type as i32;
        let speaks_as_leader = [T::MsgAppend, T::MsgHeartbeat, T::MsgSnapshot];
        if speaks_as_leader.iter().any(|k| *k as i32 == kind) && message.term >= self.heard_leader.0
        {
            self.heard_leader = (message.term, message.from);
        }
        if self.trouble.is_some() {
            return;
        }
        let asks_for_vote = kind == T::MsgRequestVote as i32 || kind == T::MsgRequestPreVote as i32;
        let may_have_promised = self.now.monotonic_us < self.no_vote_until_us;
        // Whom a leader told to take over asks with leave: that leader has no lease any more (`end_lease`).
        let is_handed_over = message.context.as_deref() == Some(::raft::CAMPAIGN_TRANSFER);
        if asks_for_vote
            && may_have_promised
            && !is_handed_over
            && !mutation::is_on("promise-forgotten")
        {
            return;
        }
        if kind == T::MsgSnapshot as i32 {
            return self.on_checkpoint_offer(&message, effects);
        }
        if !self.raft.has_members() && kind == T::MsgAppend as i32 && message.index == 0 {
            // A log tells how members changed, not who they were: a replica that joins begins with a checkpoint.
            return;
        }
        match self.raft.step(message) {
            Ok(()) => {}
            Err(bad @ (BadMessage::LogLost | BadMessage::Diverged)) => {
                self.trouble = Some(bad);
                effects.push(Effect::Trouble(bad));
            }
            Err(bad) => effects.push(Effect::Trouble(bad)),
        }
    }

    /// The leader has compacted what this replica lacks, and points to a checkpoint.
    fn on_checkpoint_offer(&mut self, message: &RaftMessage, effects: &mut Vec<Effect>) {
        let Some(offer) = &message.checkpoint else {
            return;
        };
        let is_signed = message.term > 0 && message.from > 0;
        let is_ours = message.to == self.raft.id() && message.term >= self.raft.term();
        if !is_signed || !is_ours {
            return;
        }
        if self.raft.has_committed(offer.index, offer.term) {
            // It was installed, and the answer was lost: without another one the leader would offer it for ever.
            if !mutation::is_on("known-checkpoint-unanswered") {
                let at = LogPosition {
                    index: offer.index,
                    term: offer.term,
                };
                let members = offer.membership.clone().unwrap_or_default();
                self.raft.restore(message.from, message.term, at, &members);
            }
            return;
        }
        if self.fetching.is_some() {
            return;
        }
        self.fetching = Some((message.from, message.term));
        effects.push(Effect::FetchCheckpoint {
            node: node_of(message.from),
            index: offer.index,
        });
    }

    pub(super) fn on_fetched(&mut self, fetched: Box<Fetched>) {
        let Some((from, term)) = self.fetching.take() else {
            return;
        };
        if fetched.position.index <= self.applied.index || self.installing.is_some() {
            return;
        }
        // Another leader since then has what is in it too: it was committed.
        let (from, term) = match self.raft.leader() {
            leader if leader != 0 && self.raft.term() > term => (leader, self.raft.term()),
            _ => (from, term),
        };
        let (position, membership) = (fetched.position, fetched.membership.clone());
        self.fetched = Some(fetched);
        self.raft.restore(from, term, position, &membership);
    }

    /// raft-rs has taken the checkpoint: its state is the group's from now on, once the files are in their place.
    pub(super) fn restored(
        &mut self,
        position: LogPosition,
        persist: Option<Persist>,
        effects: &mut Vec<Effect>,
    ) {
        let (Some(fetched), Some(persist)) = (self.fetched.take(), persist) else {
            return;
        };
        assert_eq!(
            fetched.position, position,
            "another checkpoint than the fetched one"
        );
        let tails = std::mem::take(&mut self.machine.tails);
        self.machine = fetched.machine;
        self.machine.tails = tails;
        self.keep_cold_on();
        self.durable_pack = fetched.durable_pack;
        self.applied = position;
        self.forget_proposed(position.index, effects);
        if !mutation::is_on("read-before-installed") {
            self.installing = Some(persist.number);
        }
        if !mutation::is_on("install-untold") {
            self.machine.tell_all(effects);
        }
        if self.machine.meta.is_some() {
            effects.push(Effect::TablesChanged);
        }
        effects.push(Effect::Install(persist));
    }

    pub(super) fn on_persisted(&mut self, number: u64, effects: &mut Vec<Effect>) {
        let messages = self.raft.persisted(number);
        effects.extend(messages.into_iter().map(Effect::Send));
        if self.installing.take_if(|n| *n <= number).is_some() {
            self.raft.applied(self.applied.index);
            self.retry_held(effects);
        }
    }
}
