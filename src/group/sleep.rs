//! Groups with nothing to do sleep: their leader says so once, and then nobody counts time for them. What wakes a replica is
//! any message of another one, a request that needs the others, and the loss of the link to the leader's node; the
//! nodes' links say for all groups at once that a node lives.
//!
//! It is safe since a sleeping follower votes for nobody while it knows of a leader, and a leader has no lease without a
//! round. A replica that was not told, or woke alone, campaigns in vain (pre-vote), which wakes the leader. What a follower
//! answers alone does not wake it.

use raftproto::peer::HibernateGroup;

use super::peer::node_of;
use super::{Effect, Group, Input};
use crate::protocol::Op;

/// Ticks without anything to do after which a leader lets its group sleep.
const IDLE_TICKS: u32 = 40;

impl Group {
    /// No time passes for the group's Raft.
    pub fn is_asleep(&self) -> bool {
        self.asleep
    }

    /// Time matters to the group's streams at `now_ms`.
    pub fn has_timed_work(&self, now_ms: u64) -> bool {
        let is_due = |(due_ms, _): &(u64, _)| *due_ms <= now_ms;
        self.machine.deadlines.first().is_some_and(is_due)
            || self.machine.trims.first().is_some_and(is_due)
            || !self.machine.hold_checks.is_empty()
            || self.has_cold_work(now_ms)
            || self.may_keep_watched_alive()
    }

    /// The group is no more or no less than what these members are to have.
    pub fn has_members(&self, wanted: &[u64]) -> bool {
        self.raft.has_exactly(wanted)
    }

    pub(super) fn wake(&mut self) {
        if std::mem::take(&mut self.asleep) {
            self.idle_ticks = 0;
        }
    }

    /// A tick at which the leader looks whether anybody needs the group.
    pub(super) fn fall_asleep_if_idle(&mut self, effects: &mut Vec<Effect>) {
        if !self.is_ready || self.raft.is_alone() {
            return;
        }
        let last = self.raft.last_index();
        let is_idle = self.pending.is_empty()
            && self.proposed.is_empty()
            && self.waiting.is_empty()
            && self.leadership.is_quiet()
            && self.raft.is_idle()
            && !self.raft.is_transferring()
            && !self.raft.has_pending_change()
            && self.applied.index == last;
        let have_all = || {
            let replicas = self.raft.replicas();
            replicas.iter().all(|r| r.is_active && r.matched == last)
        };
        self.idle_ticks = if is_idle { self.idle_ticks + 1 } else { 0 };
        if self.idle_ticks < IDLE_TICKS || !have_all() {
            return;
        }
        self.asleep = true;
        for replica in self.raft.replicas() {
            if replica.raft_id != self.raft.id() {
                effects.push(Effect::Hibernate {
                    node: node_of(replica.raft_id),
                    notice: HibernateGroup {
                        group: self.id(),
                        term: self.raft.term(),
                        commit: last,
                    },
                });
            }
        }
    }

    /// The leader on `node` lets the group sleep: so does this replica if it has all that the leader has.
    pub(super) fn on_hibernate(&mut self, node: u64, notice: &HibernateGroup) {
        self.asleep = !self.raft.is_leader()
            && node_of(self.raft.leader()) == node
            && notice.term == self.raft.term()
            && notice.commit == self.applied.index
            && notice.commit == self.raft.last_index()
            && self.waiting.is_empty();
    }
}

/// What comes from others, or may need them, ends a group's sleep.
pub(super) fn wakes(input: &Input, leader: u64, own: u64) -> bool {
    match input {
        Input::Request { request, .. } => match request.op {
            Op::Watch { .. } | Op::Unwatch { .. } => false,
            // A follower answers it alone if it can, and wakes if it cannot. Followers that woke at the same moment would hear no
            // leader and elect one.
            Op::Read(_) | Op::ReadInherited { .. } => leader == own,
            _ => true,
        },
        Input::LinkLost(node) => node_of(leader) == *node || leader == 0,
        Input::Forwarded { .. }
        | Input::ForwardReply { .. }
        | Input::NotSent { .. }
        | Input::Peer(_)
        | Input::AnswersLost(_)
        | Input::Fetched(_)
        | Input::FetchFailed
        | Input::TransferLeader(_)
        | Input::Reconcile(_)
        | Input::RaiseLevel(_)
        | Input::Cold(_)
        | Input::Flush => true,
        Input::Hibernate { .. }
        | Input::RaftTick
        | Input::GiveUpLate
        | Input::Persisted(_)
        | Input::Tick => false,
    }
}
