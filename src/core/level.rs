//! Notes what the other nodes can apply, and has group 0 raise the cluster's level once all can: `meta/level.rs`.

use std::rc::Rc;

use raftproto::peer::Hello;
use raftproto::version::{COMMANDS, LEVEL_FIRST};

use super::Core;
use crate::group::Input;
use crate::meta::level;

impl Core {
    /// A link came up, or went down: who is not linked may be another binary by now.
    pub(super) fn note_version(&self, node: u64, hello: Option<&Hello>) {
        let mut versions = self.versions.borrow_mut();
        match hello {
            Some(hello) => versions.insert(node, (hello.raft_id, hello.commands_version)),
            None => versions.remove(&node),
        };
    }

    /// Tells the own groups which commands they may propose.
    pub(super) fn share_level(&self) {
        let level = self.tables.borrow().level;
        for group in self.groups.borrow_mut().values_mut() {
            group.note_level(level);
        }
    }

    /// Raises the level by one, if this core leads group 0 and every member can apply the next version.
    pub(super) fn raise_level(self: &Rc<Self>) {
        let groups = self.groups.borrow();
        let Some(meta) = groups.get(&0).filter(|g| g.is_ready()) else {
            return;
        };
        let level = self.tables.borrow().level.max(LEVEL_FIRST);
        if level >= COMMANDS {
            return;
        }
        let own = self.identity.raft_id;
        let known = self.tables.borrow().members.clone();
        let mut members: Vec<u64> = match known.is_empty() {
            true => self.config.peers.iter().map(|p| p.id).collect(),
            false => known.iter().map(|m| m.raft_id).collect(),
        };
        if members.is_empty() {
            members.push(own);
        }
        // Who is to go still gets what its groups log.
        if !meta.has_members(&members) {
            return;
        }
        drop(groups);
        let versions = self.versions.borrow();
        let next = level::next(level, members, |raft_id| match raft_id == own {
            true => Some(COMMANDS),
            false => {
                let said = versions.get(&crate::group::node_of(raft_id));
                said.filter(|(id, _)| *id == raft_id).map(|(_, v)| *v)
            }
        });
        drop(versions);
        if let Some(next) = next {
            log::debug!(
                "event=raise_level level={next} every member can apply commands of this version"
            );
            let raise = level::raise(next, &known);
            self.step(0, Input::RaiseLevel(raise));
        }
    }
}
