//! The fault atlas: disks are lost and damaged only as long as each membership that counts for somebody has a majority of
//! whole ones, and packs as long as some node has all of them whole: whatever is lost is a bug.

use std::collections::BTreeSet;

use crate::node::Node;
use crate::world::World;

impl World {
    /// Another disk may go bad: a majority of good ones stays in each membership that still counts for somebody, so
    /// that whatever is lost is a bug.
    pub fn may_break(&mut self, node: u64) -> bool {
        let me = &self.nodes[node as usize - 1];
        let Some(identity) = me.identity.as_ref().filter(|_| !me.is_broken) else {
            return false;
        };
        let raft_id = identity.raft_id;
        if self.lost.contains(&raft_id) {
            // One that is bad may become worse.
            return true;
        }
        if self.operator.is_unsure || self.operator.order.is_some() {
            return false;
        }
        let mut lost = self.bad();
        lost.insert(raft_id);
        let wanted: Vec<u64> = self.members().iter().map(|m| m.raft_id).collect();
        self.bears(&wanted, &lost)
    }

    /// A pack of a node may be damaged: another node has all that it has and is whole, so that there is a good copy of each byte, be
    /// the packs of all others damaged.
    pub fn may_damage_pack(&self, node: u64) -> bool {
        let me = &self.nodes[node as usize - 1];
        let is_known = me.identity.is_some() && me.is_up && !me.is_broken;
        if !is_known || self.operator.is_unsure || self.operator.order.is_some() {
            return false;
        }
        let has_all = |other: &Node| {
            let raft_id = other.identity.as_ref().map_or(0, |i| i.raft_id);
            let mut groups = me.process.groups.iter();
            groups.all(|(group, mine)| {
                let theirs = other.process.groups.get(group);
                theirs.is_some_and(|theirs| {
                    theirs.group.applied().index >= mine.group.applied().index
                        && theirs.group.membership().voters.contains(&raft_id)
                })
            })
        };
        let bad = self.bad();
        let is_whole = |other: &Node| {
            let identity = other.identity.as_ref();
            identity.is_some_and(|i| !bad.contains(&i.raft_id)) && other.disk.is_whole()
        };
        let mut others = self.nodes.iter().filter(|n| n.life.node != node);
        others.any(|other| self.is_reached(other) && is_whole(other) && has_all(other))
    }

    /// Replicas whose disk was lost or damaged, or of which a pack is.
    pub fn bad(&self) -> BTreeSet<u64> {
        let hurt = self.nodes.iter().filter(|n| n.disk.has_hurt_packs());
        let hurt = hurt.filter_map(|n| Some(n.identity.as_ref()?.raft_id));
        self.lost.iter().copied().chain(hurt).collect()
    }

    /// Who is left is a majority of these members, of all that some replica holds, and of those on the way between.
    pub fn bears(&self, wanted: &[u64], lost: &BTreeSet<u64>) -> bool {
        let all = self.nodes.iter().flat_map(|n| n.configs.values());
        let mut all = all.flatten();
        is_whole(wanted, lost)
            && all.all(|c| {
                is_whole(&c.voters, lost)
                    && is_whole(&c.voters_outgoing, lost)
                    && are_steps_whole(&c.voters, wanted, lost)
            })
    }
}

/// A majority is not lost.
fn is_whole(voters: &[u64], lost: &BTreeSet<u64>) -> bool {
    let bad = voters.iter().filter(|id| lost.contains(id)).count();
    voters.is_empty() || bad <= (voters.len() - 1) / 2
}

/// A group that grows may do so in steps, without those that are not heard of yet (`group/members.rs::may_become`): it bears no
/// more losses than the step does.
fn are_steps_whole(voters: &[u64], wanted: &[u64], lost: &BTreeSet<u64>) -> bool {
    let (stay, join): (Vec<u64>, Vec<u64>) = wanted.iter().partition(|id| voters.contains(id));
    let count_lost = |ids: &[u64]| ids.iter().filter(|id| lost.contains(id)).count();
    let (stay_lost, join_lost) = (count_lost(&stay), count_lost(&join));
    let is_step = |len: &usize| !voters.is_empty() && *len > stay.len();
    let mut steps = (voters.len()..wanted.len()).filter(is_step);
    steps.all(|len| stay_lost + join_lost.min(len - stay.len()) <= (len - 1) / 2)
}
