//! Nodes that this one may only not know yet. A node that was away while others became members refuses nobody on the word
//! of its old member list: until it hears of a leader of the meta group, whoever proves the cluster's name and settings, and
//! has a raft id of its own, may speak, and is answered where it says that it listens. The list that such a node
//! teaches then makes it a member like the others.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use raftproto::peer::Hello;

use super::{Core, Message};
use crate::meta::admission::may_be_behind;

/// Nodes more than members that are answered.
const GUESTS_MAX: usize = 64;

/// By node: its address, and the cores that it speaks to. It is answered as long as it speaks.
#[derive(Default)]
pub(super) struct Guests {
    by_node: BTreeMap<u64, (String, BTreeSet<u16>)>,
    /// By node: connections on which it speaks to this core.
    speaking: BTreeMap<u64, u32>,
}

impl Guests {
    /// A connection began or ended; answers whether it was the first one or the last.
    fn count(&mut self, node: u64, is_open: bool) -> bool {
        let count = self.speaking.entry(node).or_default();
        *count = if is_open {
            *count + 1
        } else {
            count.saturating_sub(1)
        };
        let (is_first, is_last) = (is_open && *count == 1, *count == 0);
        if is_last {
            self.speaking.remove(&node);
        }
        is_first || is_last
    }

    /// Notes that a node speaks to a core, or no longer; answers whether that changes who is to be linked to.
    fn note(&mut self, node: u64, address: String, core: u16, is_open: bool) -> bool {
        if !is_open {
            let Some((_, cores)) = self.by_node.get_mut(&node) else {
                return false;
            };
            cores.remove(&core);
            let is_gone = cores.is_empty();
            if is_gone {
                self.by_node.remove(&node);
            }
            return is_gone;
        }
        if self.by_node.len() >= GUESTS_MAX && !self.by_node.contains_key(&node) {
            return false;
        }
        let (known, cores) = self.by_node.entry(node).or_default();
        cores.insert(core);
        let is_new = *known != address;
        *known = address;
        is_new
    }
}

impl Core {
    /// The own member list may be old.
    pub(super) fn may_be_behind(&self) -> bool {
        let leader = self.leaders.borrow().first().copied().unwrap_or_default();
        let listed = self.known_raft_id(self.config.node_id);
        may_be_behind(leader, self.identity.raft_id, listed)
    }

    /// A node began to speak to this core, after it was admitted, or ended.
    pub(super) fn on_speaker(self: &Rc<Self>, hello: &Hello, is_open: bool) {
        let node = hello.node_id;
        let is_edge = self.guests.borrow_mut().count(node, is_open);
        let is_stranger = self.known_raft_id(node).is_none() && !hello.cluster_address.is_empty();
        if !is_edge || is_open && !is_stranger {
            return;
        }
        let core = self.id;
        for other in (0..self.cores).filter(|c| *c != core) {
            let address = hello.cluster_address.clone();
            let guest = Message::Guest {
                node,
                address,
                core,
                is_open,
            };
            self.post_answer(other, guest);
        }
        self.note_guest(node, hello.cluster_address.clone(), core, is_open);
    }

    /// Answers a node at the address that it gave as long as it speaks to some core.
    pub(super) fn note_guest(
        self: &Rc<Self>,
        node: u64,
        address: String,
        core: u16,
        is_open: bool,
    ) {
        let mut guests = self.guests.borrow_mut();
        let has_changed = guests.note(node, address.clone(), core, is_open);
        drop(guests);
        if has_changed {
            if is_open {
                let own = self.id;
                log::info!("event=unknown_peer core={own} node={node} address={address}");
            }
            self.follow_members();
        }
    }

    /// Adds the guests to the nodes that are linked to.
    pub(super) fn add_guests(&self, wanted: &mut BTreeMap<u64, String>) {
        for (node, (address, _)) in &self.guests.borrow().by_node {
            wanted.entry(*node).or_insert_with(|| address.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_answered_as_long_as_it_speaks_to_a_core() {
        let mut guests = Guests::default();
        assert!(guests.count(4, true));
        assert!(!guests.count(4, true));
        assert!(guests.note(4, "a:1".into(), 0, true));
        assert!(!guests.note(4, "a:1".into(), 1, true));
        assert!(guests.note(4, "a:2".into(), 1, true));
        assert!(!guests.count(4, false));
        assert!(guests.count(4, false));
        assert!(!guests.note(4, "a:2".into(), 0, false));
        assert!(guests.note(4, "a:2".into(), 1, false));
        assert!(!guests.note(4, "a:2".into(), 1, false));
        for node in 0..100 {
            guests.note(node, "b:1".into(), 0, true);
        }
        assert_eq!(guests.by_node.len(), GUESTS_MAX);
    }
}
