//! Links that are no good for a while: late in one direction, or gone and there again every second.
//! In some seeds only ([`Plan::link_trouble_us`](crate::plan::Plan)), whatever else strikes there.

use crate::event::Event;
use crate::plan::Plan;
use crate::rng::Rng;
use crate::world::World;

/// What is sent by a late link takes so much longer.
const LATE_US: u64 = 200_000;

/// A link that flaps is there, or gone, for so long.
const FLAP_US: u64 = 1_000_000;

/// A link that breaks is noticed within so much, if its end comes no sooner.
const NOTICED_WITHIN_US: u64 = 1_500_000;

/// What becomes of a link.
#[derive(Debug, Clone, Copy)]
pub enum Trouble {
    /// Some link is late or flaps from now on.
    Begins,
    /// That from one node to another is as fast as before.
    InTime(u64, u64),
    /// That between two nodes is gone, or is there again, and changes so many times more.
    Flaps(u64, u64, u64),
}

impl Plan {
    /// In some seeds links are late or flap. What they draw for it is drawn apart.
    pub fn add_links(&mut self) {
        let rng = &mut Rng::new(self.seed ^ 0x6c69_6e6b);
        if rng.below(20) == 0 && self.nodes > 1 && self.fault_siege == 0 {
            self.link_trouble_us = rng.pick(&[5_000_000, 30_000_000]);
        }
    }
}

impl World {
    /// The first link.
    pub fn schedule_link_trouble(&mut self) {
        if self.plan.link_trouble_us > 0 {
            let at_us = self.now_us + self.rng.latency(self.plan.link_trouble_us);
            self.queue.at(at_us, Event::Link(Trouble::Begins));
        }
    }

    /// See [`Trouble`].
    pub fn link(&mut self, trouble: Trouble) {
        if self.net.is_calm {
            return;
        }
        match trouble {
            Trouble::Begins => self.begin_link_trouble(),
            Trouble::InTime(from, to) => {
                self.net.late.remove(&(from, to));
            }
            Trouble::Flaps(one, other, left) => self.flap(one, other, left),
        }
    }

    fn begin_link_trouble(&mut self) {
        self.schedule_link_trouble();
        let from = self.rng.range(1, self.nodes.len() as u64);
        let others: Vec<u64> = self.all_nodes().filter(|n| *n != from).collect();
        if others.is_empty() {
            return;
        }
        let to = self.rng.pick(&others);
        if self.rng.chance(500_000) {
            self.trace
                .show(self.now_us, || format!("late: from {from} to {to}"));
            self.net.late.insert((from, to), LATE_US);
            let at_us = self.now_us + self.rng.range(5_000_000, 30_000_000);
            self.queue.at(at_us, Event::Link(Trouble::InTime(from, to)));
        } else {
            // It is there at the end.
            let times = 2 * self.rng.range(3, 10) - 1;
            self.flap(from, to, times);
        }
    }

    fn flap(&mut self, one: u64, other: u64, left: u64) {
        let is_gone = !left.is_multiple_of(2);
        let ways = [(one, other), (other, one)];
        self.trace.show(self.now_us, || {
            format!("flaps: {one} and {other}, gone: {is_gone}")
        });
        if is_gone {
            self.coverage.hit("a link that flaps");
            self.net.cut.extend(ways);
            for (node, peer) in ways {
                self.lose_link(node, peer, NOTICED_WITHIN_US);
            }
        } else {
            self.net.cut.retain(|way| !ways.contains(way));
        }
        if left > 0 {
            let next = Trouble::Flaps(one, other, left - 1);
            self.queue.at(self.now_us + FLAP_US, Event::Link(next));
        }
    }
}
