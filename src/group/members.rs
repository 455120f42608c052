//! From the members that a group has to those that it shall have: new ones learn first, then one joint change lets all of
//! them in and the others out (Raft dissertation, section 4). Each look proposes at most one step, so that whatever
//! interrupts it, the next look goes on.

use raft::prelude::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2};

use super::{Effect, Group};
use crate::mutation;

/// Entries that a learner may lack when it becomes a voter.
const LAG_MAX: u64 = 128;

/// Ticks in which a leader hears of everybody who lives.
const HEARD_TICKS: u64 = 40;

impl Group {
    /// Proposes the next step towards these members, given by raft id.
    pub(super) fn reconcile(&mut self, wanted: &[u64], effects: &mut Vec<Effect>) {
        if !self.is_ready
            || wanted.is_empty()
            || self.raft.is_transferring()
            || self.raft.has_pending_change()
        {
            return;
        }
        let now = self.raft.membership();
        if !now.voters_outgoing.is_empty() {
            // An empty change ends the joint one; what is down has no say in it.
            return self.propose_change(Vec::new());
        }
        let is_wanted = |id: &u64| wanted.contains(id);
        let is_known = |id: &u64| now.voters.contains(id) || now.learners.contains(id);
        let missing: Vec<u64> = wanted.iter().copied().filter(|id| !is_known(id)).collect();
        if let Some(first) = missing.first() {
            return self.propose_change(vec![(ConfChangeType::AddLearnerNode, *first)]);
        }
        let replicas = self.raft.replicas();
        let is_active = |id: &u64| replicas.iter().any(|r| r.raft_id == *id && r.is_active);
        // An order for a node that never comes holds up no other.
        let has_listened = self.ticks.saturating_sub(self.ready_since_ticks) >= HEARD_TICKS;
        let joining = now.learners.iter().copied().filter(is_wanted);
        let joining: Vec<u64> = joining
            .filter(|id| is_active(id) || !has_listened)
            .collect();
        let all = now.voters.iter().chain(&now.learners).copied();
        let leaving: Vec<u64> = all.filter(|id| !is_wanted(id)).collect();
        let last = self.raft.last_index();
        let has_the_log = |id: &u64| {
            let mut all = replicas.iter();
            all.any(|r| r.raft_id == *id && r.has_all_but(LAG_MAX, last))
        };
        // Before those who join are waited for: one of them may hear only members, and so nothing of a leader that leaves.
        if leaving.contains(&self.raft.id())
            && let Some(heir) = now
                .voters
                .iter()
                .find(|id| is_wanted(id) && has_the_log(id))
        {
            let node = super::node_of(*heir);
            return self.transfer_leader(Some(node), effects);
        }
        if !joining.iter().all(has_the_log) && !mutation::is_on("learner-without-log") {
            return;
        }
        let stays = now.voters.iter().copied().filter(is_wanted);
        let next: Vec<u64> = stays.chain(joining.iter().copied()).collect();
        if !may_become(&next, now.voters.len(), wanted.len(), is_active) {
            return;
        }
        let joining = joining.into_iter().map(|id| (ConfChangeType::AddNode, id));
        let leaving = leaving
            .into_iter()
            .map(|id| (ConfChangeType::RemoveNode, id));
        let changes: Vec<_> = joining.chain(leaving).collect();
        if !changes.is_empty() {
            self.propose_change(changes);
        }
    }

    fn propose_change(&mut self, changes: Vec<(ConfChangeType, u64)>) {
        // Who votes changes by a joint configuration, also where only one comes or goes: a majority of both must have it.
        let is_joint = changes
            .iter()
            .any(|(kind, _)| *kind != ConfChangeType::AddLearnerNode);
        let transition = if is_joint {
            ConfChangeTransition::Implicit
        } else {
            ConfChangeTransition::Auto
        };
        let changes = changes.into_iter().map(|(kind, node_id)| ConfChangeSingle {
            change_type: kind as i32,
            node_id,
        });
        let change = ConfChangeV2 {
            transition: transition as i32,
            changes: changes.collect(),
            ..ConfChangeV2::default()
        };
        if let Err(error) = self.raft.propose_change(change) {
            log::debug!(
                "event=change_not_proposed group={} error={error:?}",
                self.id(),
                error = error.to_string()
            );
        }
    }
}

/// The group may become these voters, on the way from so many to so many. A silent member holds up what would leave fewer than
/// both, since fewer would have what is committed, or fewer could fail; and nobody leads where most of the next are away.
fn may_become(
    next: &[u64],
    voters_count: usize,
    wanted_count: usize,
    is_active: impl Fn(&u64) -> bool,
) -> bool {
    let is_enough = next.len() >= voters_count.min(wanted_count);
    let active_count = next.iter().filter(|id| is_active(id)).count();
    (is_enough || mutation::is_on("silent-member-left-out")) && active_count > next.len() / 2
}
