//! Sieges: faults that aim at a group's leader while clients ask it, and all others, as fast as they can. What a lease, a
//! round of confirmation or a promise after a start is worth shows only in the moments between two leaders, which faults
//! that strike anybody at any time seldom meet while somebody looks.
//! Not in every seed ([`Plan::fault_siege`](crate::plan::Plan)), and seldom, since each costs as much as minutes of rest.

use ursula::group::Input;

use crate::client::Client;
use crate::event::Event;
use crate::history::{Op, What};
use crate::plan::Plan;
use crate::rng::Rng;
use crate::world::World;

/// Between the end of a siege and the next.
const REST_US: u64 = 15_000_000;

/// Clients ask again within so much, and wait no longer than this.
const THINK_US: u64 = 6_000;
const PATIENCE_US: u64 = 40_000;

/// Who is besieged.
#[derive(Debug, Default, Clone, Copy)]
pub struct Siege {
    /// Of which group.
    pub group: u32,
    /// Who leads it.
    pub leader: u64,
    /// When it ends.
    pub until_us: u64,
}

/// What happens in a siege.
#[derive(Debug, Clone, Copy)]
pub enum Blow {
    /// The leader is struck.
    Leader,
    /// A voter ends, and is there again at once.
    Voter(u64),
}

impl World {
    /// A siege is under way.
    pub fn siege(&self) -> Option<Siege> {
        Some(self.siege).filter(|s| self.now_us < s.until_us && !self.net.is_calm)
    }

    /// A siege begins, if some group has a leader and the last one is long over.
    pub fn besiege(&mut self) {
        let is_over = self.siege.leader == 0 || self.siege.until_us + REST_US <= self.now_us;
        let group = self.rng.range(1, self.plan.groups) as u32;
        let is_leader = |n: &&crate::node::Node| {
            let hosted = n.process.groups.get(&group);
            n.is_up && !n.is_paused && hosted.is_some_and(|h| h.group.is_ready())
        };
        let leader = self.nodes.iter().find(is_leader).map(|n| n.life.node);
        let Some(leader) = leader.filter(|_| is_over) else {
            return;
        };
        self.coverage.hit("a leader besieged");
        self.trace.show(self.now_us, || {
            format!("node {leader}, which leads group {group}, is besieged")
        });
        self.siege = Siege {
            group,
            leader,
            until_us: self.now_us + self.rng.range(1_000_000, 2_200_000),
        };
        // What links were cut before comes again: the leader is to lead until it is struck.
        self.net.cut.clear();
        let at_us = self.now_us + self.rng.range(50_000, 300_000);
        self.queue.at(at_us, Event::Siege(Blow::Leader));
        for client in 0..self.clients.len() {
            let at_us = self.now_us + self.rng.below(THINK_US);
            self.ask_at(client, at_us);
        }
    }

    /// What the siege has in store.
    pub fn blow(&mut self, blow: Blow) {
        let Some(Siege {
            group,
            leader,
            until_us,
        }) = self.siege()
        else {
            return;
        };
        if let Blow::Voter(node) = blow {
            self.coverage.hit("a voter starts again at once");
            self.crash(node);
            let at_us = self.now_us + self.rng.range(1_000, 20_000);
            return self.queue.at(at_us, Event::Restart(node));
        }
        let others: Vec<u64> = self.all_nodes().filter(|n| *n != leader).collect();
        self.queue.at(until_us, Event::Reconnect);
        match self.rng.below(6) {
            0..2 => {
                for other in others {
                    self.net.cut.extend([(leader, other), (other, leader)]);
                }
            }
            2 => self.net.cut.extend(others.iter().map(|n| (leader, *n))),
            3 => {
                self.coverage.hit("leadership handed over");
                self.step(leader, group, Input::TransferLeader(None));
            }
            _ => {
                // One that hears nothing of the leader asks for votes, and those who promised to give none start again.
                let asks = self.rng.pick(&others);
                self.net.cut.extend([(leader, asks), (asks, leader)]);
                let at_us = self.now_us + self.rng.range(250_000, 900_000);
                for voter in others.into_iter().filter(|n| *n != asks) {
                    self.queue.at(at_us, Event::Siege(Blow::Voter(voter)));
                }
            }
        }
        self.trace
            .show(self.now_us, || format!("cut: {:?}", self.net.cut));
    }
}

impl Siege {
    /// What a client asks now: half of them write to others, half ask the leader what is there.
    pub fn op(&self, id: u64, client: usize, plan: &Plan, key: &str, rng: &mut Rng) -> Op {
        let nodes = plan.nodes;
        let is_writer = client.is_multiple_of(2);
        let other = 1 + (self.leader + rng.below(nodes - 1)) % nodes;
        let what = match rng.below(100) {
            0..10 if is_writer => What::Create {
                expiry: ursula::protocol::Expiry::Never,
                retention: ursula::protocol::Retention::default(),
                body: Client::body(id, plan, rng),
                closed: false,
            },
            10..12 if is_writer => What::Delete,
            _ if is_writer => What::Append {
                producer: None,
                body: Client::body(id, plan, rng),
                close: false,
            },
            0..15 => What::Read {
                from: 30,
                bytes_max: 1 << 30,
                is_live: false,
            },
            _ => What::Head,
        };
        Op {
            id,
            client,
            node: if is_writer { other } else { self.leader },
            group: self.group,
            key: key.to_owned(),
            what,
            call_us: 0,
            known: 0,
        }
    }

    /// How long its client waits for an answer.
    pub fn patience_us(rng: &mut Rng) -> u64 {
        rng.range(THINK_US, PATIENCE_US)
    }

    /// And before it asks again.
    pub fn think_us(rng: &mut Rng) -> u64 {
        rng.below(THINK_US)
    }
}
