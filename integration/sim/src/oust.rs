//! Orders that meet: who leads a group is to go just when another node was ordered in. A leader that is to go must not wait
//! for those who join, since they may know only the members that follow it.

use ursula::protocol::MemberChange;

use crate::history::{Op, What};
use crate::world::World;

impl World {
    /// The order was to take a node in.
    pub fn is_joining(&self, op: &Op) -> bool {
        let joins = |c: &MemberChange| matches!(c, MemberChange::Add(_) | MemberChange::Replace(_));
        !self.net.is_calm && matches!(&op.what, What::Members { change, .. } if joins(change))
    }

    /// Somebody who leads streams is to go, be it that he comes back as another one.
    pub fn oust(&mut self) {
        let leads_streams = |n: &&crate::node::Node| {
            let groups = n.process.groups.iter();
            let mut led = groups.filter(|(_, h)| h.group.is_ready()).peekable();
            led.peek().is_some() && led.all(|(group, _)| *group > 0)
        };
        let found = self.nodes.iter().find(leads_streams);
        let leader = found.map(|n| n.life.node);
        let members = self.members();
        let is_member = |node: &u64| members.iter().any(|m| m.node() == *node);
        let Some(node) = leader.filter(is_member) else {
            return;
        };
        self.coverage
            .hit("a leader ordered away while another node joins");
        let may_remove = members.len() > 3 && self.ledger.level() >= 4;
        self.give_order(match may_remove {
            true => MemberChange::Remove(node),
            false => MemberChange::Replace(node),
        });
    }
}
