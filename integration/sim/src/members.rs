//! Nodes that come, go and lose their disks: an operator's orders to group 0, new data directories that ask what their
//! replicas are to be called (`node/join.rs`), and who listens to whom (`core/peer_events.rs`).

use std::collections::BTreeSet;

use raftproto::checkpoint::Membership;
use raftproto::peer::{Hello, StatusReply};
use ursula::group::{Input, node_of};
use ursula::meta::admission::{Known, admit, may_be_behind};
use ursula::meta::joining::{judge, judge_claim, lacks_order};
use ursula::protocol::{Member, MemberChange, Outcome, Refusal};

use crate::disk::Disk;
use crate::event::{Event, Life};
use crate::history::{Op, What};
use crate::node::Node;
use crate::world::World;

/// Between two questions of a node that is to join.
const JOIN_PAUSE_US: u64 = 250_000;

/// Questions between two orders of a node whose disk is damaged.
const ROUNDS_PER_ORDER: u32 = 40;

/// Whose operation the operator's is.
pub const OPERATOR: usize = usize::MAX - 1;

/// A data directory's identity.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Of the node's replicas.
    pub raft_id: u64,
    /// Drawn when the directory was made.
    pub store: u64,
    /// The first members of all groups; none where the node joined later.
    pub voters: Vec<u64>,
}

/// How a process introduces itself.
#[derive(Debug, Clone, Copy)]
pub struct Introduced {
    /// Of the node's replicas.
    pub raft_id: u64,
    /// Of its data directory.
    pub store: u64,
    /// Newest version of commands that it applies.
    pub version: u32,
}

/// A node without a data directory that counts.
#[derive(Debug, Clone, Default)]
pub struct Joining {
    /// The replicas whose disk was found damaged; `None`: there is nothing on the disk.
    damaged: Option<u64>,
    rounds: u32,
    /// The new directory, which the others are to note.
    claim: Option<Identity>,
}

impl World {
    /// All node numbers.
    pub fn all_nodes(&self) -> std::ops::RangeInclusive<u64> {
        1..=self.nodes.len() as u64
    }

    /// The members as the cluster was founded.
    pub fn founders(&self) -> Vec<Member> {
        (1..=self.plan.nodes).map(member).collect()
    }

    /// The newest members that the log of group 0 tells of.
    pub fn members(&self) -> Vec<Member> {
        let logged = self.ledger.members();
        if logged.is_empty() {
            return self.founders();
        }
        let all = logged.iter();
        all.map(|(raft_id, drained)| Member {
            raft_id: *raft_id,
            drained: *drained,
            ..member(node_of(*raft_id))
        })
        .collect()
    }

    /// A node hears what another process sends: it has admitted it, or does so now.
    pub fn hears(&mut self, node: u64, from: Life) -> bool {
        if self.node(node).process.admitted.contains(&from) {
            return true;
        }
        let Some(introduced) = self.lives.get(&from).copied() else {
            return false;
        };
        let raft_id = introduced.raft_id;
        let hello = hello(from.node, introduced);
        let founders = self.plan.nodes;
        let me = &mut self.nodes[node as usize - 1];
        let members = &me.process.tables.members;
        let known_raft_id = |node: u64| match members.is_empty() {
            true => Some(node).filter(|n| *n <= founders),
            false => {
                let found = members.iter().find(|m| m.node() == node);
                found.map(|m| m.raft_id)
            }
        };
        let groups = &me.process.groups;
        let mut memberships = groups.values().map(|h| h.group.membership());
        let leader = groups.get(&0).map_or(0, |h| node_of(h.group.leader()));
        let own = me.identity.as_ref().map_or(0, |identity| identity.raft_id);
        let known = Known {
            raft_id: known_raft_id(from.node),
            is_in_a_group: memberships.any(|m| ids_of(&m).contains(&raft_id)),
            may_be_behind: may_be_behind(leader, own, known_raft_id(node)),
            level: me.process.tables.level,
        };
        let admitted = admit(&hello, known).and_then(|()| me.bound.bind(&hello));
        match admitted {
            Ok(_) => {
                me.process.admitted.insert(from);
                true
            }
            Err(why) => {
                self.coverage.hit("a node refused at the door");
                self.trace.show(self.now_us, || {
                    format!("node {node} refuses {raft_id:#x}: {why}")
                });
                false
            }
        }
    }

    /// A node without a data directory asks the others what its replicas are to be called.
    pub fn try_join(&mut self, node: u64) {
        let me = self.node(node);
        let is_down = !me.is_up && !me.is_broken;
        let Some(mut joining) = me.joining.clone().filter(|_| is_down) else {
            return;
        };
        let (reached, replies) = self.ask_all(node, joining.claim.as_ref());
        if let Some(identity) = &joining.claim {
            match judge_claim(identity.raft_id, &replies) {
                Ok(true) => {
                    let me = self.node(node);
                    me.identity = joining.claim;
                    me.joining = None;
                    self.start(node);
                    return self.expose_newborn(node);
                }
                Ok(false) => joining.claim = None,
                Err(_) => self.coverage.hit("a new directory not noted yet"),
            }
        } else {
            if let Some(damaged) = joining.damaged
                && joining.rounds.is_multiple_of(ROUNDS_PER_ORDER)
                && lacks_order(node, damaged, &replies)
                && let Some(asked) = reached.first()
            {
                self.coverage.hit("a damaged node orders its replacement");
                self.order(*asked, usize::MAX, MemberChange::Replace(node));
            }
            joining.rounds += 1;
            let named = judge(node, &replies);
            let named = named
                .ok()
                .filter(|id| joining.damaged.is_none_or(|d| *id > d));
            if let Some(raft_id) = named {
                joining.claim = Some(self.make_directory(node, raft_id, joining.damaged));
                let known = replies.iter().flat_map(|r| &r.bound_raft_ids);
                self.node(node).bound.note(known.copied());
                self.seclude_newborn(node);
            }
        }
        self.node(node).joining = Some(joining);
        self.queue
            .at(self.now_us + JOIN_PAUSE_US, Event::Join(node));
    }

    /// What the others say who are reached, and who they are; they note what is claimed.
    fn ask_all(&mut self, node: u64, claim: Option<&Identity>) -> (Vec<u64>, Vec<StatusReply>) {
        let others: Vec<u64> = self.all_nodes().filter(|n| *n != node).collect();
        self.ask_some(node, &others, claim)
    }

    /// The same of these nodes.
    pub fn ask_some(
        &mut self,
        node: u64,
        others: &[u64],
        claim: Option<&Identity>,
    ) -> (Vec<u64>, Vec<StatusReply>) {
        let (mut reached, mut replies) = (Vec::new(), Vec::new());
        for other in others.iter().copied() {
            let ways = [(node, other), (other, node)].map(|(from, to)| {
                self.net
                    .link(&self.plan, &mut self.rng, from, to, self.now_us)
            });
            let there = &mut self.nodes[other as usize - 1];
            if ways[0].is_none() || !there.is_up || there.is_paused {
                continue;
            }
            let refused = claim.and_then(|claim| {
                let introduced = Introduced {
                    raft_id: claim.raft_id,
                    store: claim.store,
                    version: 0,
                };
                there.bound.bind(&hello(node, introduced)).err()
            });
            // It may note what is claimed, and its answer be lost.
            if ways[1].is_some() {
                replies.extend(there.status().map(|reply| StatusReply {
                    claim_refused: refused.unwrap_or_default(),
                    ..reply
                }));
                reached.push(other);
            }
        }
        (reached, replies)
    }

    fn make_directory(&mut self, node: u64, raft_id: u64, damaged: Option<u64>) -> Identity {
        self.coverage.hit(match damaged {
            None if raft_id == node => "a new node joined",
            None => "a node without its disk joined",
            Some(_) => "a damaged node joined anew",
        });
        self.trace
            .show(self.now_us, || format!("node {node} joins as {raft_id:#x}"));
        self.stores += 1;
        let store = self.stores;
        let me = self.node(node);
        me.disk = Disk::default();
        me.configs.clear();
        Identity {
            raft_id,
            store,
            voters: Vec::new(),
        }
    }

    /// The node's disk is empty from now on. With one that was damaged, what it knows of the others stays.
    pub fn wipe(&mut self, node: u64, is_damage: bool) {
        self.crash(node);
        let me = &mut self.nodes[node as usize - 1];
        let damaged = me.identity.as_ref().map(|i| i.raft_id);
        self.trace.show(self.now_us, || {
            format!("the disk of node {node}, {damaged:x?}, is gone (damaged: {is_damage})")
        });
        if let Some(raft_id) = damaged {
            self.lost.insert(raft_id);
        }
        me.joining = Some(Joining {
            damaged: damaged.filter(|_| is_damage),
            ..Joining::default()
        });
        me.identity = None;
        me.configs.clear();
        if !is_damage {
            me.disk = Disk::default();
            me.bound = Default::default();
        }
        let at_us = self.now_us + self.rng.below(JOIN_PAUSE_US);
        self.queue.at(at_us, Event::Join(node));
    }

    /// The operator looks, and perhaps gives an order.
    pub fn operate(&mut self) {
        if self.net.is_calm || self.plan.operate_us == 0 {
            return;
        }
        let next_us = self.now_us + self.rng.latency(self.plan.operate_us);
        self.queue.at(next_us, Event::Operate);
        if self.operator.order.is_some() {
            return;
        }
        let members = self.members();
        if self.operator.is_unsure {
            if self.operator.is_under_way(self.now_us) {
                return;
            }
            // Changes nothing; once it is answered, what was ordered before is done or never will be.
            let fence = MemberChange::Drain(members[0].node(), false);
            return self.give_order(fence);
        }
        let raft_id_of = |node: u64| {
            let found = members.iter().find(|m| m.node() == node);
            found.map(|m| m.raft_id)
        };
        for node in self.all_nodes() {
            let me = &self.nodes[node as usize - 1];
            match (&me.identity, raft_id_of(node)) {
                (Some(identity), Some(raft_id)) if raft_id > identity.raft_id => {
                    // It was replaced: what is on its disk counts for nobody.
                    if self.may_break(node) {
                        self.coverage.hit("a replaced node wiped");
                        self.wipe(node, false);
                    }
                    return;
                }
                (None, Some(raft_id)) if self.lost.contains(&raft_id) => {
                    if self.rng.chance(700_000) {
                        self.coverage.hit("a lost disk's replicas replaced");
                        self.give_order(MemberChange::Replace(node));
                    }
                    return;
                }
                _ => {}
            }
        }
        let node = self.rng.range(1, self.nodes.len() as u64);
        let is_member = raft_id_of(node).is_some();
        match self.rng.below(100) {
            0..45 if !is_member => self.give_order(MemberChange::Add(member(node))),
            // Before, nobody remembers who was removed: `cluster replace` is needed after it.
            45..80 if is_member && members.len() > 2 && self.ledger.level() >= 4 => {
                self.give_order(MemberChange::Remove(node));
            }
            80..85 if is_member => self.give_order(MemberChange::Replace(node)),
            85..90 if is_member => {
                let is_drained = self.rng.chance(500_000);
                self.give_order(MemberChange::Drain(node, is_drained));
            }
            90..95 if !is_member && self.may_break(node) => {
                self.coverage.hit("a removed node wiped");
                self.wipe(node, false);
            }
            95..98 if !is_member => self.give_order(MemberChange::Replace(node)),
            _ => {}
        }
    }

    pub fn give_order(&mut self, change: MemberChange) {
        let mut wanted: Vec<u64> = self.members().iter().map(|m| m.raft_id).collect();
        match &change {
            MemberChange::Add(added) => wanted.push(self.ledger.raft_id_if_added(added.node())),
            MemberChange::Remove(node) => wanted.retain(|id| node_of(*id) != *node),
            MemberChange::Replace(node) => {
                for id in wanted.iter_mut().filter(|id| node_of(**id) == *node) {
                    *id += 1 << 16;
                }
            }
            MemberChange::Drain(..) => {}
        }
        if !self.bears(&wanted, &self.bad()) {
            return;
        }
        self.coverage.hit(match change {
            MemberChange::Add(_) => "a node added",
            MemberChange::Remove(_) => "a node removed",
            MemberChange::Replace(_) => "a node replaced",
            MemberChange::Drain(..) => "a node drained or not",
        });
        let node = self.rng.range(1, self.nodes.len() as u64);
        let id = self.order(node, OPERATOR, change);
        self.operator.order = Some(id);
    }

    fn order(&mut self, node: u64, client: usize, change: MemberChange) -> u64 {
        self.asked += 1;
        let op = Op {
            id: self.asked,
            client,
            node,
            group: 0,
            key: String::new(),
            what: What::Members {
                base: self.founders(),
                change,
            },
            call_us: self.now_us,
            known: 0,
        };
        let id = op.id;
        self.send_operation(op);
        id
    }

    /// An order is answered, or its node is gone.
    pub fn ordered(&mut self, op: &Op, outcome: Option<&Outcome>) {
        if op.client != OPERATOR || self.operator.order != Some(op.id) {
            return;
        }
        self.operator.order = None;
        match outcome {
            None | Some(Outcome::Refused(Refusal::OutcomeUnknown)) => {
                self.operator.is_unsure = true;
                self.operator.unsure_since_us = self.now_us;
            }
            Some(Outcome::Members(_)) if self.is_joining(op) && self.rng.chance(self.plan.oust) => {
                self.operator.is_unsure = false;
                self.oust();
            }
            Some(Outcome::Members(_) | Outcome::Refused(Refusal::BadMembers(_))) => {
                self.operator.is_unsure = false;
            }
            // Not done, and what was unsure before still is.
            Some(_) => {}
        }
    }

    /// Brings groups that a node leads a step nearer to their members, as `core/peers.rs` does.
    pub fn reconcile(&mut self, node: u64) {
        let process = &self.node(node).process;
        if process.tables.members.is_empty() {
            return;
        }
        let wanted: Vec<u64> = process.tables.members.iter().map(|m| m.raft_id).collect();
        let groups = process.groups.iter();
        let led = groups.filter(|(_, h)| h.group.is_ready() && !h.group.has_members(&wanted));
        for group in led.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.step(node, group, Input::Reconcile(wanted.clone()));
        }
    }

    /// What is left broken when faults end: as much as a majority can bear.
    pub fn leave_broken(&mut self) {
        for _ in 0..3 {
            let node = self.rng.range(1, self.nodes.len() as u64);
            if !self.may_break(node) {
                continue;
            }
            let raft_id = self.nodes[node as usize - 1].identity.as_ref();
            self.trace
                .show(self.now_us, || format!("node {node} stays broken"));
            self.lost.extend(raft_id.map(|i| i.raft_id));
            if self.rng.chance(500_000) {
                self.coverage.hit("a node left broken");
                self.give_up_node(node);
            } else {
                self.coverage.hit("a node left cut off");
                self.isolated.insert(node);
                for other in self.all_nodes() {
                    self.net.cut.insert((node, other));
                    self.net.cut.insert((other, node));
                }
                self.lose_links_of(node, true);
            }
        }
    }

    /// It runs, and faults did not leave it cut off.
    pub fn is_reached(&self, node: &Node) -> bool {
        node.is_up && !self.isolated.contains(&node.life.node)
    }

    /// The node's replicas are members, and nothing is wrong with it.
    pub fn is_sound(&self, raft_id: u64) -> bool {
        let node = &self.nodes[node_of(raft_id) as usize - 1];
        let own = node.identity.as_ref().map(|i| i.raft_id);
        own == Some(raft_id) && self.is_reached(node)
    }
}

/// As a process introduces itself.
pub fn hello(node: u64, introduced: Introduced) -> Hello {
    Hello {
        node_id: node,
        raft_id: introduced.raft_id,
        store_id: introduced.store.to_le_bytes().to_vec().into(),
        commands_version: introduced.version,
        ..Hello::default()
    }
}

fn member(node: u64) -> Member {
    Member {
        raft_id: node,
        address: format!("n{node}:4436"),
        drained: false,
    }
}

/// All that take part.
pub fn ids_of(m: &Membership) -> BTreeSet<u64> {
    let all = [&m.voters, &m.voters_outgoing, &m.learners, &m.learners_next];
    all.into_iter().flatten().copied().collect()
}
