//! Members that a node hears of from others (`core/learn.rs`): who was removed while it heard no leader of group 0 would lead its
//! groups for ever.

use raftproto::checkpoint::Member as StoredMember;
use raftproto::peer::{GroupStatus, StatusReply};

use crate::members::{Introduced, hello};
use crate::node::Node;
use crate::world::World;

impl World {
    /// Asks another node who the members are, if group 0 has no leader here (`core/learn.rs`).
    pub fn learn_members(&mut self, node: u64) {
        let me = &self.nodes[node as usize - 1];
        let meta = me.process.groups.get(&0);
        let is_lost = meta.is_some_and(|h| h.group.leader() == 0);
        let now_us = me.clock.at(self.now_us).monotonic_us;
        if !me.process.learnt.is_due(is_lost, now_us) {
            return;
        }
        let others: Vec<u64> = self.all_nodes().filter(|n| *n != node).collect();
        let asked = self.rng.pick(&others);
        let (reached, mut replies) = self.ask_some(node, &[asked], None);
        let process = &mut self.node(node).process;
        if let Some(told) = replies.pop()
            && !reached.is_empty()
            && process.learnt.take(told, &process.tables)
        {
            process.learnt.add_to(&mut process.tables);
            self.coverage.hit("members learnt from another node");
        }
    }
}

impl Node {
    /// How it answers who asks for its status.
    pub fn status(&self) -> Option<StatusReply> {
        let identity = self.identity.as_ref()?;
        let members = self.process.tables.members.iter();
        let groups = self.process.groups.values();
        let groups = groups.map(|h| GroupStatus {
            group: h.group.id(),
            membership: Some(h.group.membership()),
            trouble: h.group.trouble().map(|t| t.to_string()).unwrap_or_default(),
            ..GroupStatus::default()
        });
        let bound = self.bound.raft_ids().chain([identity.raft_id]);
        Some(StatusReply {
            gives_up_replicas: self.process.gives_up,
            node: Some(hello(
                self.life.node,
                Introduced {
                    raft_id: identity.raft_id,
                    store: identity.store,
                    version: self.version,
                },
            )),
            members: members
                .map(|m| StoredMember {
                    raft_id: m.raft_id,
                    cluster_address: m.address.clone(),
                    drained: m.drained,
                })
                .collect(),
            members_as_of: self.process.tables.as_of,
            bound_raft_ids: bound.collect(),
            groups: groups.collect(),
            ..StatusReply::default()
        })
    }
}
