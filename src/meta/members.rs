//! The members that all groups shall have: what an operator's order makes of them. The groups follow one by one
//! (`group/members.rs`).

use raftproto::command::{self, change_members::Change};

use super::Meta;
use crate::mutation;
use crate::protocol::{Member, Outcome, Refusal};

/// Nodes of a cluster.
const MEMBERS_MAX: usize = 9;

/// Above the node's number in a raft id stands how often its disk was replaced, or it came back after a removal.
const REPLACED_ONCE: u64 = 1 << 16;

impl Meta {
    pub(super) fn change_members(
        &mut self,
        order: command::ChangeMembers,
        version: u32,
    ) -> (Outcome, bool) {
        // What an entry means does not change with the binary.
        let remembers = version >= 4;
        let member = |m: command::Member| Member {
            raft_id: m.raft_id,
            address: m.cluster_address,
            drained: m.drained,
        };
        let mut members = if self.members.is_empty() {
            order.base.into_iter().map(member).collect()
        } else {
            self.members.clone()
        };
        let place = |members: &[Member], node: u64| members.iter().position(|m| m.node() == node);
        let refused = |text: String| (Outcome::Refused(Refusal::BadMembers(text)), false);
        match order.change {
            Some(Change::Add(added)) => {
                let added = member(added);
                match place(&members, added.node()) {
                    Some(known) => members[known].address = added.address,
                    None if members.len() >= MEMBERS_MAX => {
                        return refused(format!("a cluster has at most {MEMBERS_MAX} nodes"));
                    }
                    None => {
                        // Who was a member before may come with another data directory: those who remember the former one
                        // refuse it under the former raft id.
                        let former = remembers
                            .then(|| self.removed.remove(&added.node()))
                            .flatten();
                        let next = former.map_or(0, |id| id + REPLACED_ONCE);
                        let raft_id = match mutation::is_on("removed-raft-id-again") {
                            true => added.raft_id,
                            false => added.raft_id.max(next),
                        };
                        members.push(Member { raft_id, ..added });
                    }
                }
            }
            Some(Change::Remove(node)) => match place(&members, node) {
                Some(_) if members.len() == 1 => {
                    return refused(format!("node {node} is the last one"));
                }
                Some(known) => {
                    let removed = members.remove(known);
                    if remembers {
                        self.removed.insert(node, removed.raft_id);
                    }
                }
                // The same order again.
                None => {}
            },
            Some(Change::Replace(node)) => match place(&members, node) {
                Some(known) => members[known].raft_id += REPLACED_ONCE,
                None => return refused(format!("node {node} is not a member: add it")),
            },
            Some(Change::Drain(node) | Change::Undrain(node)) => {
                let is_drained = matches!(order.change, Some(Change::Drain(_)));
                match place(&members, node) {
                    Some(known) => members[known].drained = is_drained,
                    None => return refused(format!("node {node} is not a member")),
                }
                if members.iter().all(|m| m.drained) {
                    return refused("then no node could lead".to_owned());
                }
            }
            None => return refused("an order of a newer ursula".to_owned()),
        }
        members.sort_unstable_by_key(Member::node);
        let is_changed = members != self.members;
        self.members = members;
        (Outcome::Members(self.members.clone()), is_changed)
    }
}
