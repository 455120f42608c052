//! A node that hears of no leader of the meta group asks the others who the members are. It may have been removed meanwhile, and
//! then no leader will ever tell it: the groups that it leads, with a majority of others, would follow that order never.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use raftproto::peer::{StatusReply, StatusRequest};

use super::Core;
use crate::meta::Tables;
use crate::mutation;
use crate::protocol::Member;

/// Between two questions, in microseconds.
const PAUSE_US: u64 = 3_000_000;

/// The newest members that another node has told of; of the meta group's core alone.
#[derive(Default)]
pub struct Learnt {
    members: RefCell<Vec<Member>>,
    /// The entry of the meta group's log by which they are.
    as_of: Cell<u64>,
    /// When the last question was asked, or a leader was known.
    asked_us: Cell<u64>,
}

impl Learnt {
    /// Whether one of the others is to be asked now; `is_lost`: the meta group has no leader here.
    pub fn is_due(&self, is_lost: bool, now_us: u64) -> bool {
        let since_us = self.asked_us.get();
        let is_due = is_lost && since_us > 0 && now_us >= since_us + PAUSE_US;
        if !is_lost || since_us == 0 || is_due {
            self.asked_us.set(now_us);
        }
        is_due && !mutation::is_on("members-never-learnt")
    }

    /// Replaces the members of older tables.
    pub fn add_to(&self, tables: &mut Tables) {
        if self.as_of.get() > tables.as_of {
            tables.members.clone_from(&self.members.borrow());
            tables.as_of = self.as_of.get();
        }
    }

    /// Takes what a node told; answers whether it is newer than those tables.
    pub fn take(&self, told: StatusReply, known: &Tables) -> bool {
        // Who knows of no order knows nothing newer than the settings.
        if told.members.is_empty() || told.members_as_of <= known.as_of {
            return false;
        }
        let members = told.members.into_iter().map(|m| Member {
            raft_id: m.raft_id,
            address: m.cluster_address,
            drained: m.drained,
        });
        *self.members.borrow_mut() = members.collect();
        self.as_of.set(told.members_as_of);
        true
    }
}

impl Core {
    /// Asks one of the others, now and then, while the meta group has no leader here.
    pub(super) fn learn_members(self: &Rc<Self>) {
        let is_lost = (self.groups.borrow().get(&0)).is_some_and(|meta| meta.leader() == 0);
        if !self.learnt.is_due(is_lost, self.clock.monotonic_us()) {
            return;
        }
        let links = self.links.borrow();
        let up: Vec<_> = links.values().filter(|link| link.is_up()).collect();
        let Some(link) = up.get(self.clock.random() as usize % up.len().max(1)) else {
            return;
        };
        let address = link.address().to_owned();
        let core = self.clone();
        crate::core::tasks::spawn(async move {
            let told = core.caller.status(&address, StatusRequest::default()).await;
            let known = core.tables.borrow().clone();
            if let Ok(told) = told
                && core.learnt.take(told, &known)
            {
                log::info!("event=members_learnt address={address}");
                core.share_tables();
            }
        })
        .detach();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftproto::checkpoint::Member as StoredMember;

    #[test]
    fn a_newer_list_replaces_the_own_until_that_is_as_new() {
        let learnt = Learnt::default();
        let told = |as_of, ids: &[u64]| StatusReply {
            members_as_of: as_of,
            members: (ids.iter())
                .map(|id| StoredMember {
                    raft_id: *id,
                    ..StoredMember::default()
                })
                .collect(),
            ..StatusReply::default()
        };
        let tables = |as_of| Tables {
            as_of,
            ..Tables::default()
        };
        assert!(!learnt.take(told(7, &[1, 2]), &tables(7)));
        assert!(!learnt.take(told(9, &[]), &tables(7)));
        assert!(learnt.take(told(9, &[1, 2]), &tables(7)));
        for (own, expected) in [(7, (2, 9)), (9, (0, 9)), (10, (0, 10))] {
            let mut own = tables(own);
            learnt.add_to(&mut own);
            assert_eq!((own.members.len(), own.as_of), expected);
        }
    }
}
