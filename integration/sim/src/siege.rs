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

/// What a siege aims at.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// The leader is cut off, hands over, or its voters forget their promises.
    #[default]
    Any,
    /// Answers to the leader are late, by little less than it waits for them; it is cut off when it has just asked. A lease
    /// that is counted from the answer outlives the promises that it rests on.
    LateAnswers,
    /// A node that has the whole log and hears no leader asks for votes while those who promised to give none start again,
    /// and the leader is cut off with a fresh lease.
    Promises,
}

/// To whom those clients write who do not ask the leader what is there.
#[derive(Debug, Default, Clone, Copy)]
enum Writes {
    /// To all but the leader.
    #[default]
    ToOthers,
    /// To nobody: the node that asks for votes is not to lack anything.
    ToNobody,
    /// To this one.
    To(u64),
}

/// Who is besieged.
#[derive(Debug, Default, Clone, Copy)]
pub struct Siege {
    /// Of which group.
    pub group: u32,
    /// Who leads it.
    pub leader: u64,
    /// When it ends.
    pub until_us: u64,
    /// What it aims at.
    pub aim: Aim,
    /// The leader is cut off when it asks the others next.
    pub is_armed: bool,
    writes: Writes,
}

/// What happens in a siege.
#[derive(Debug, Clone, Copy)]
pub enum Blow {
    /// The leader is struck.
    Leader,
    /// A voter ends, and is there again at once.
    Voter(u64),
    /// The leader is cut off from all.
    Cut,
    /// Of [`Aim::Promises`].
    Forget,
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
        let aims = match self.plan.siege_aim {
            0 => [Aim::Any, Aim::Any, Aim::LateAnswers, Aim::Promises],
            1 => [Aim::Any; 4],
            2 => [Aim::LateAnswers; 4],
            _ => [Aim::Promises; 4],
        };
        let aim = match self.rng.pick(&aims) {
            // A round that takes longer than a leader waits for gives no lease.
            Aim::LateAnswers if self.plan.delay_us > 1_000 => Aim::Any,
            aim => aim,
        };
        self.siege = Siege {
            group,
            leader,
            until_us: self.now_us + self.rng.range(1_000_000, 2_200_000),
            aim,
            is_armed: false,
            writes: match aim {
                Aim::Promises => Writes::ToNobody,
                _ => Writes::ToOthers,
            },
        };
        if aim == Aim::Promises {
            self.siege.until_us = self.now_us + 2_400_000;
        }
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
            aim,
            ..
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
        let cut_off: Vec<_> = others
            .iter()
            .flat_map(|n| [(leader, *n), (*n, leader)])
            .collect();
        match blow {
            Blow::Cut => return self.net.cut.extend(cut_off),
            Blow::Forget => {
                self.net.cut.extend(cut_off);
                let Writes::To(asks) = self.siege.writes else {
                    return;
                };
                for voter in others.into_iter().filter(|n| *n != asks) {
                    self.queue.at(self.now_us, Event::Siege(Blow::Voter(voter)));
                }
                return;
            }
            _ => {}
        }
        self.queue.at(until_us, Event::Reconnect);
        if aim == Aim::LateAnswers {
            self.coverage.hit("answers to a leader are late");
            let late_us = self.rng.range(165_000, 190_000);
            self.net.late_to = Some((leader, late_us));
            self.siege.is_armed = true;
            return;
        }
        if aim == Aim::Promises {
            self.coverage.hit("those who promised start again");
            let asks = self.rng.pick(&others);
            self.siege.writes = Writes::To(asks);
            self.net.cut.extend([(leader, asks), (asks, leader)]);
            let at_us = self.now_us + self.rng.range(600_000, 1_500_000);
            return self.queue.at(at_us, Event::Siege(Blow::Forget));
        }
        match self.rng.below(6) {
            0..2 => self.net.cut.extend(cut_off),
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

impl World {
    /// The besieged leader asks the others whether it still leads.
    pub fn is_asking(&mut self, node: u64, group: u32) {
        let besieged = self.siege().filter(|s| s.is_armed);
        let Some(siege) = besieged.filter(|s| (s.leader, s.group) == (node, group)) else {
            return;
        };
        // Rounds before were answered as late as this one will be.
        if self.rng.chance(200_000) {
            self.siege.is_armed = false;
            self.coverage.hit("a leader cut off when it has asked");
            self.queue.at(self.now_us + 1, Event::Siege(Blow::Cut));
            self.trace
                .show(self.now_us, || format!("{siege:?}: it has asked"));
        }
    }
}

impl Siege {
    /// What a client asks now: half of them write to others, half ask the leader what is there.
    pub fn op(&self, id: u64, client: usize, plan: &Plan, key: &str, rng: &mut Rng) -> Op {
        let nodes = plan.nodes;
        let is_other = client.is_multiple_of(2);
        let other = 1 + (self.leader + rng.below(nodes - 1)) % nodes;
        let (other, is_writer) = match self.writes {
            Writes::ToOthers => (other, is_other),
            Writes::ToNobody => (other, false),
            Writes::To(node) => (node, is_other),
        };
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
                seq: None,
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
            node: if is_other { other } else { self.leader },
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
