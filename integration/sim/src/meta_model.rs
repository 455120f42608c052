//! The rules of group 0 once more, as simply as they can be said.

use std::collections::BTreeMap;

use raftproto::command::{Member, change_members::Change, command::Kind};
use ursula::protocol::Refusal;

use crate::verdict::Verdict;

/// Nodes of a cluster.
const MEMBERS_MAX: usize = 9;

/// See the module's head.
#[derive(Debug, Default)]
pub struct MetaModel {
    /// Raft id, and whether it is drained; empty: as they were founded.
    pub members: Vec<(u64, bool)>,
    /// How many there were when they were fewest; `None`: as they were founded.
    pub fewest: Option<usize>,
    /// The last raft ids of nodes that are gone, by node.
    pub removed: BTreeMap<u64, u64>,
    /// Version of commands that every member can apply; 0: none was noted.
    pub level: u32,
    /// Groups that the slots were assigned to.
    pub group_count: u32,
}

impl MetaModel {
    /// Applies a command of group 0; `None`: it is none, or nobody waits for its answer.
    pub fn apply(&mut self, version: u32, kind: &Kind) -> Option<Verdict> {
        match kind {
            Kind::AssignSlots(a) => {
                if self.group_count == 0 {
                    self.group_count = a.group_count;
                }
                None
            }
            Kind::RaiseLevel(r) => {
                let members: Vec<u64> = self.members.iter().map(|(id, _)| *id).collect();
                if members == r.members {
                    self.level = self.level.max(r.level);
                }
                None
            }
            Kind::ChangeMembers(c) => {
                let base: Vec<(u64, bool)> = match self.members.is_empty() {
                    true => c.base.iter().map(known).collect(),
                    false => self.members.clone(),
                };
                match self.changed(base, c.change.as_ref()?, version >= 4) {
                    Some(members) => {
                        let fewest = members.len().min(self.fewest.unwrap_or(usize::MAX));
                        self.fewest = Some(fewest);
                        self.members = members.clone();
                        Some(Verdict::Members(members))
                    }
                    None => Some(Verdict::Refused(Refusal::BadMembers(String::new()))),
                }
            }
            _ => None,
        }
    }

    /// `None`: it is refused.
    fn changed(
        &mut self,
        mut members: Vec<(u64, bool)>,
        change: &Change,
        remembers: bool,
    ) -> Option<Vec<(u64, bool)>> {
        let node = match change {
            Change::Add(added) => added.raft_id & 0xffff,
            Change::Remove(n) | Change::Replace(n) | Change::Drain(n) | Change::Undrain(n) => *n,
        };
        let place = members.iter().position(|(id, _)| id & 0xffff == node);
        match (change, place) {
            (Change::Add(_), Some(_)) | (Change::Remove(_), None) => {}
            (Change::Add(added), None) => {
                if members.len() >= MEMBERS_MAX {
                    return None;
                }
                let former = self.removed.remove(&node).filter(|_| remembers);
                let raft_id = former.map_or(added.raft_id, |id| id + (1 << 16));
                members.push((raft_id, added.drained));
            }
            (Change::Remove(_), Some(place)) => {
                if members.len() == 1 {
                    return None;
                }
                let (raft_id, _) = members.remove(place);
                if remembers {
                    self.removed.insert(node, raft_id);
                }
            }
            (Change::Replace(_), Some(place)) => members[place].0 += 1 << 16,
            (Change::Drain(_), Some(place)) => members[place].1 = true,
            (Change::Undrain(_), Some(place)) => members[place].1 = false,
            (_, None) => return None,
        }
        if matches!(change, Change::Drain(_)) && members.iter().all(|(_, drained)| *drained) {
            return None;
        }
        members.sort_by_key(|(id, _)| id & 0xffff);
        Some(members)
    }
}

fn known(m: &Member) -> (u64, bool) {
    (m.raft_id, m.drained)
}
