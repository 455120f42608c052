//! Nodes that have just joined and lose their disk before many have met them. What they acknowledged counts with whom they met;
//! when they come back with nothing, those who answer must know that they were there.

use crate::event::{Event, Life};
use crate::node::Node;
use crate::world::World;

/// A node learns, votes and acknowledges within so much.
const GROWN_UP_US: u64 = 4_000_000;

impl World {
    /// A node has a new directory: for a while it reaches only who leads.
    pub fn seclude_newborn(&mut self, node: u64) {
        if self.net.is_calm || self.plan.newborn == 0 || !self.rng.chance(self.plan.newborn) {
            return;
        }
        self.coverage.hit("who joins reaches only leaders");
        let leaders = self.leaders_but(node);
        let others = self.all_nodes().filter(|n| *n != node);
        for other in others.filter(|n| !leaders.contains(n)) {
            self.net.cut.extend([(other, node), (node, other)]);
        }
        let at_us = self.now_us + self.rng.range(300_000, 2 * GROWN_UP_US);
        self.queue.at(at_us, Event::Reconnect);
    }

    /// A node that joined begins to speak.
    pub fn expose_newborn(&mut self, node: u64) {
        if self.plan.newborn > 0 && self.rng.chance(self.plan.newborn) {
            let life = self.node(node).life;
            let at_us = self.now_us + self.rng.range(100_000, GROWN_UP_US);
            self.queue.at(at_us, Event::Newborn(life));
        }
    }

    /// It loses its disk, and cannot reach who leads.
    pub fn lose_newborn(&mut self, life: Life) {
        let node = life.node;
        if self.net.is_calm || self.node(node).life != life || !self.may_break(node) {
            return;
        }
        self.coverage.hit("a new directory lost");
        self.net
            .cut
            .retain(|(from, to)| *from != node && *to != node);
        for leader in self.leaders_but(node) {
            self.net.cut.extend([(leader, node), (node, leader)]);
        }
        self.wipe(node, false);
        let at_us = self.now_us + self.rng.range(300_000, 1_500_000);
        self.queue.at(at_us, Event::Reconnect);
    }

    fn leaders_but(&self, node: u64) -> Vec<u64> {
        let leads = |n: &&Node| {
            let mut groups = n.process.groups.values();
            n.life.node != node && groups.any(|h| h.group.is_leader())
        };
        let leaders = self.nodes.iter().filter(leads);
        leaders.map(|n| n.life.node).collect()
    }
}
