//! Who the members of a group are, how far each is, and handing over between them: raft-rs's view of it.

use bytes::Bytes;
use prost011::Message as _;
use raft::prelude::ConfChangeV2;
use raft::{ProgressState, SnapshotStatus};

use super::peer::node_of;
use super::raft::Raft;
use super::settings::Replica;
use crate::mutation;

/// Heartbeats are answered beside so many readies that wait for the disk. Each answer lets the leader send more, so that beyond
/// this they wait too: the disk stands still, and what it does not take would gather here.
const ANSWERED_BESIDE_MAX: usize = 512;

/// Readies that may wait for the disk. Beyond this the replica lets no time pass and hears nothing until they are written, as if
/// it were cut off.
pub(super) const UNSYNCED_MAX: usize = 8192;

impl Raft {
    /// Leadership is on its way to another replica: nothing can be proposed.
    pub(super) fn is_transferring(&self) -> bool {
        self.node.raft.lead_transferee.is_some()
    }

    /// Nobody else votes: what is on this disk is committed.
    pub(super) fn is_alone(&self) -> bool {
        self.is_only_voter() && self.node.store().conf_state().learners.is_empty()
    }

    /// Its own vote makes it lead.
    pub(super) fn is_only_voter(&self) -> bool {
        let conf = self.node.store().conf_state();
        conf.voters == [self.id()] && conf.voters_outgoing.is_empty()
    }

    /// Hands leadership over to the replica that has most of the log, or to the one on `node`. False: there is none.
    pub(super) fn transfer(&mut self, node: Option<u64>) -> bool {
        let best = self
            .replicas()
            .into_iter()
            .filter(|r| r.is_voter && r.is_active && !r.is_installing && r.raft_id != self.id())
            .filter(|r| node.is_none_or(|node| node_of(r.raft_id) == node))
            .max_by_key(|r| r.matched);
        if let Some(best) = best {
            self.node.transfer_leader(best.raft_id);
        }
        best.is_some()
    }

    /// The replicas as this leader sees them; empty on others.
    pub(super) fn replicas(&self) -> Vec<Replica> {
        if !self.is_leader() {
            return Vec::new();
        }
        let conf = self.node.store().conf_state();
        let mut replicas: Vec<Replica> = self
            .node
            .raft
            .prs()
            .iter()
            .map(|(id, progress)| Replica {
                raft_id: *id,
                matched: progress.matched,
                is_active: progress.recent_active || *id == self.id(),
                is_installing: progress.state == ProgressState::Snapshot,
                is_voter: conf.voters.contains(id) || conf.voters_outgoing.contains(id),
            })
            .collect();
        replicas.sort_unstable_by_key(|r| r.raft_id);
        replicas
    }

    /// The link to a node broke: what was sent may be lost.
    pub(super) fn unreachable(&mut self, node: u64) {
        // Who was to take over may never have heard of it: what waits for that goes on here. If it has, it campaigns as after
        // a time-out.
        let heir = self.node.raft.lead_transferee;
        if heir.is_some_and(|id| node_of(id) == node) {
            self.node.raft.abort_leader_transfer();
        }
        for replica in self.replicas() {
            if node_of(replica.raft_id) == node {
                self.node.report_unreachable(replica.raft_id);
                if replica.is_installing {
                    self.checkpoint_failed(replica.raft_id);
                }
            }
        }
    }

    /// A replica did not take the checkpoint that it was pointed to: it is told again.
    pub(super) fn checkpoint_failed(&mut self, raft_id: u64) {
        self.node.report_snapshot(raft_id, SnapshotStatus::Failure);
    }

    /// The voters are these, and nobody else takes part.
    pub(super) fn has_exactly(&self, wanted: &[u64]) -> bool {
        let conf = self.node.store().conf_state();
        conf.voters_outgoing.is_empty()
            && conf.learners.is_empty()
            && conf.voters.len() == wanted.len()
            && wanted.iter().all(|id| conf.voters.contains(id))
    }

    /// Members are known; a replica that is to join knows none.
    pub(super) fn has_members(&self) -> bool {
        !self.node.store().conf_state().voters.is_empty()
    }

    /// Forgets the log's first entry, which is applied: a log tells how members changed, not who the founders were, so whoever
    /// leads from here on gives those that have nothing a checkpoint.
    pub(super) fn forget_first(&mut self) {
        if !mutation::is_on("new-members-untaught") {
            self.node.mut_store().compact(1);
        }
    }

    /// A refusal that came late can put what is sent next below what the follower is known to have (raft-rs issue 555).
    pub(super) fn hold_next_above_matched(&mut self, follower: u64) {
        if !self.is_leader() {
            return;
        }
        if let Some(progress) = self.node.raft.mut_prs().get_mut(follower)
            && progress.next_idx <= progress.matched
        {
            progress.next_idx = progress.matched + 1;
        }
    }

    /// Steps down, if it leads.
    pub(super) fn lead_no_more(&mut self) {
        if self.is_leader() {
            let term = self.node.raft.term;
            self.node.raft.become_follower(term, 0);
        }
    }

    /// What was promised is on disk, and not too much waits for it.
    pub(super) fn answers_beside_the_disk(&self, first: Option<&u64>, promised_in: u64) -> bool {
        self.unsynced() <= ANSWERED_BESIDE_MAX && first.is_none_or(|n| *n > promised_in)
    }

    /// The disk stands still, and [`UNSYNCED_MAX`] waits for it.
    pub(super) fn waits_too_long_for_the_disk(&self) -> bool {
        self.unsynced() >= UNSYNCED_MAX
    }

    /// A membership change is in the log and not applied.
    pub(super) fn has_pending_change(&self) -> bool {
        self.node.raft.has_pending_conf()
    }

    /// Proposes a membership change; an empty one ends a joint one.
    ///
    /// # Errors
    /// Raft's, if it was dropped.
    pub(super) fn propose_change(&mut self, change: ConfChangeV2) -> Result<(), raft::Error> {
        self.node.propose_conf_change(Vec::new(), change)
    }

    /// Applies a committed membership change.
    pub(super) fn change_membership(&mut self, payload: &Bytes) {
        let change = match ConfChangeV2::decode(payload.as_ref()) {
            Ok(change) => change,
            Err(error) => panic!("group {}: a membership change: {error}", self.group),
        };
        match self.node.apply_conf_change(&change) {
            Ok(conf_state) => {
                let id = self.node.raft.id;
                let is_in = conf_state.voters.contains(&id)
                    || conf_state.voters_outgoing.contains(&id)
                    || conf_state.learners.contains(&id);
                self.node.mut_store().set_conf_state(conf_state);
                if !is_in && !mutation::is_on("removed-leader-goes-on") {
                    // raft-rs would go on to lead a group that it is no member of.
                    self.lead_no_more();
                }
            }
            Err(error) => panic!("group {}: a membership change: {error}", self.group),
        }
    }
}
