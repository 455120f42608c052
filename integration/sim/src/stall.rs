//! One disk at a time is slow or stands still, and nothing else strikes: who appends to a group that another node leads does not
//! notice. Only in plans with `stalls`, which are calm otherwise: elsewhere an append is late for many reasons.
//! Whether a leader with such a disk gives its leadership away is not judged here: the server's shell decides that
//! (`core/pace.rs`, `core/balance.rs`), which this simulator does not run.

use ursula::protocol::{Outcome, Refusal};

use crate::history::{Op, What};
use crate::world::World;

/// Groups have their leaders by then.
const CALM_FROM_US: u64 = 20_000_000;

/// An append takes no longer. Messages and syncs of sound disks take a millisecond or so.
const APPENDED_WITHIN_US: u64 = 1_000_000;

/// How long a disk stands still, or is slow.
const STALL_US: u64 = 30_000_000;

/// After that all catch up.
const REST_US: u64 = 10_000_000;

/// How many times as long a slow disk takes.
const SLOWNESS: u64 = 100;

/// The last disk that was slow.
#[derive(Debug, Default)]
pub struct Stall {
    node: u64,
    since_us: u64,
    until_us: u64,
    stands_still: bool,
    /// Groups that its node led when it began.
    led: Vec<u32>,
}

impl Stall {
    /// No sync of this node ends before.
    pub fn holds_until_us(&self, node: u64) -> u64 {
        match self.stands_still && self.node == node {
            true => self.until_us,
            false => 0,
        }
    }
}

impl World {
    /// A disk is slow or stands still, where none was of late.
    pub fn stall(&mut self, node: u64) {
        let is_early = self.now_us < CALM_FROM_US.max(self.stall.until_us + REST_US);
        // When faults end all disks are well.
        if is_early || self.now_us + STALL_US + REST_US > self.plan.chaos_us {
            return;
        }
        let stands_still = self.rng.chance(500_000);
        let me = &mut self.nodes[node as usize - 1];
        if !stands_still {
            me.slowness = SLOWNESS;
        }
        let groups = me.process.groups.iter();
        let led = groups.filter(|(_, h)| h.group.is_leader());
        self.stall = Stall {
            node,
            since_us: self.now_us,
            until_us: self.now_us + STALL_US,
            stands_still,
            led: led.map(|(group, _)| *group).collect(),
        };
        let until_us = self.stall.until_us;
        self.queue.at(until_us, crate::event::Event::DiskWell(node));
        self.trace.show(self.now_us, || format!("{:?}", self.stall));
    }

    /// An append was answered: not later for a disk that its leader has no need of.
    pub fn look_at_stall(&mut self, op: &Op, outcome: &Outcome) {
        let stall = &self.stall;
        let is_beside = op.call_us <= stall.until_us && self.now_us > stall.since_us;
        let is_append = matches!(op.what, What::Append { .. });
        if stall.node == 0 || !is_beside || !is_append || self.net.is_calm {
            return;
        }
        let slow = &self.nodes[stall.node as usize - 1];
        let hosted = slow.process.groups.get(&op.group);
        if hosted.is_some_and(|h| h.group.is_leader()) || stall.led.contains(&op.group) {
            return;
        }
        let is_refused = matches!(
            outcome,
            Outcome::Refused(
                Refusal::Unavailable | Refusal::OutcomeUnknown | Refusal::Overloaded { .. }
            )
        );
        let took_us = self.now_us - op.call_us.max(stall.since_us);
        if is_refused || took_us > APPENDED_WITHIN_US {
            return self.find(format!(
                "an append of group {} is held up by a disk that its leader has no need of, for {took_us} us: {:?}, {outcome:?}",
                op.group, self.stall
            ));
        }
        if self.stall.stands_still {
            self.coverage
                .hit("an append beside a disk that stands still");
        } else {
            self.coverage.hit("an append beside a slow disk");
        }
    }
}
