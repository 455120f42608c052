//! Spreads leadership: each group has a preferred node, by its number among the voters, and a leader that is not on it hands
//! over once that node is up and has the log. Which node is preferred depends on the membership alone, so leadership
//! does not wander; restarted nodes get theirs back a few groups at a time. A node with a slow disk gets none, and gives
//! away what it has.

use std::rc::Rc;

use super::Core;
use crate::group::{Group, Input, Replica, node_of};

/// How long a leader stays before it hands over for balance, in microseconds.
const SETTLED_US: u64 = 5_000_000;

/// Entries that the preferred replica may lack.
const LAG_MAX: u64 = 64;

/// Groups that hand over at once.
const AT_ONCE: usize = 4;

/// Groups that are looked at in a turn: with many, a look at all of them would be most of what an idle node does.
const LOOKED_AT: usize = 64;

impl Core {
    /// Hands over a few groups to the nodes that they prefer, going round all of them.
    pub(super) fn balance(self: &Rc<Self>) {
        if self.stop.raised() > 0 || self.links.borrow().is_empty() {
            return;
        }
        let now_us = self.clock.monotonic_us();
        let drained: Vec<u64> = {
            let tables = self.tables.borrow();
            let drained = tables.members.iter().filter(|m| m.drained);
            drained.map(crate::protocol::Member::node).collect()
        };
        let must_go = drained.contains(&self.config.node_id) || self.pace.is_slow(now_us);
        let is_slow = |node: u64| self.pace.is_other_slow(node, now_us);
        let mut next = Vec::new();
        let from = self.balanced_to.get();
        let groups = self.groups.borrow();
        let round = groups.range(from..).chain(groups.range(..from));
        let mut seen = from;
        for (id, group) in round.take(LOOKED_AT) {
            seen = *id;
            let mut led_since = self.led_since.borrow_mut();
            if !group.is_ready() || group.is_alone() {
                led_since.remove(&group.id());
                continue;
            }
            let since_us = *led_since.entry(group.id()).or_insert(now_us);
            if (must_go || since_us + SETTLED_US <= now_us)
                && let Some(node) = better_leader(group, &drained, must_go, is_slow)
                && self.links.borrow().get(&node).is_some_and(|l| l.is_up())
            {
                next.push((group.id(), node));
                // A try that fails is not repeated at once.
                led_since.insert(group.id(), now_us);
                if next.len() == AT_ONCE {
                    break;
                }
            }
        }
        self.balanced_to.set(seen + 1);
        drop(groups);
        for (group, node) in next {
            log::info!("event=leadership_balanced group={group} to_node={node}");
            self.step(group, Input::TransferLeader(Some(node)));
        }
    }
}

/// The preferred node of a group that is led here, if that is another one and it could take over at once. Where none of
/// that is so and this node shall not lead: the first that could. Which one is preferred is the same for all nodes; which
/// ones are slow is not, and only keeps them from taking over.
fn better_leader(
    group: &Group,
    drained: &[u64],
    must_go: bool,
    is_slow: impl Fn(u64) -> bool,
) -> Option<u64> {
    let mut voters = group.membership().voters;
    voters.retain(|v| !drained.contains(&node_of(*v)));
    voters.sort_unstable();
    let preferred = *voters.get(group.id() as usize % voters.len().max(1))?;
    let replicas = group.replicas();
    let can_lead = |id: &u64| {
        let last = group.last_index();
        let is_able = |r: &Replica| r.raft_id == *id && r.has_all_but(LAG_MAX, last);
        *id != group.raft_id() && !is_slow(node_of(*id)) && replicas.iter().any(is_able)
    };
    let others = voters.iter().copied().filter(|_| must_go);
    let mut candidates = std::iter::once(preferred).chain(others);
    candidates.find(can_lead).map(node_of)
}
