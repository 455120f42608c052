//! A rolling upgrade: nodes of a version and of the one before it are side by side. The operator starts them in the newer one
//! by and by, and takes some back while the cluster's level allows it. What is checked: nothing is written that some member
//! could not apply, and at the end, when all can, the level has risen.

use prost::Message;
use raftproto::command::{CommandBatch, command::Kind};
use raftproto::peer::RaftMessage;
use ursula::group::{Input, node_of};
use ursula::meta::level;

use crate::event::{Event, Packet};
use crate::world::World;

/// Who was started in the older version so long ago counts: what a leader knows of it can be older than that only by a
/// pause and the time until a link is given up.
const KNOWN_WITHIN_US: u64 = 40_000_000;

impl World {
    /// The operator's next step.
    pub fn upgrade(&mut self) {
        if self.net.is_calm {
            return;
        }
        let next_us = self.now_us + self.rng.latency(self.plan.upgrade_us);
        self.queue.at(next_us, Event::Upgrade);
        let (first, last) = (self.plan.version_first(), self.plan.version_last());
        let node = self.rng.range(1, self.nodes.len() as u64);
        if self.node(node).version == first {
            self.coverage.hit("a node upgraded");
            self.run_version(node, last);
            let is_last = self.nodes.iter().all(|n| n.version == last);
            if is_last && self.rng.chance(500_000) {
                // Just when the level may rise.
                let other = self.rng.range(1, self.nodes.len() as u64);
                let at_us = self.now_us + self.rng.range(100_000, 2_000_000);
                self.queue.at(at_us, Event::TakeBack(other));
            }
        } else if self.rng.chance(400_000) {
            self.take_back(node);
        }
    }

    /// The operator sees that the level allows it, and takes a node back.
    pub fn take_back(&mut self, node: u64) {
        let first = self.plan.version_first();
        let may_go_back = self.ledger.level() < self.plan.version_last();
        if may_go_back && self.node(node).version != first && !self.net.is_calm {
            self.coverage.hit("a node taken back to the version before");
            self.run_version(node, first);
        }
    }

    /// Starts a node in another version.
    pub fn run_version(&mut self, node: u64, version: u32) {
        self.trace.show(self.now_us, || {
            format!("node {node} is to be of version {version}")
        });
        let now_us = self.now_us;
        let me = self.node(node);
        (me.version, me.version_since_us) = (version, now_us);
        self.crash(node);
    }

    /// Faults end: whoever is still of the version before is upgraded.
    pub fn end_upgrade(&mut self) {
        for node in self.all_nodes() {
            if self.node(node).version != self.plan.version_last() {
                self.run_version(node, self.plan.version_last());
            }
        }
    }

    /// A node of the version before gets entries that it could not apply: it ends, and is started in the newer one. It must
    /// be the operator who took it back just when the level rose.
    pub fn meets_unknown(&mut self, node: u64, packet: &Packet) -> bool {
        let Packet::Raft(bytes) = packet else {
            return false;
        };
        let can = self.node(node).version;
        if can == self.plan.version_last() {
            return false;
        }
        let message = RaftMessage::decode(bytes.clone()).unwrap();
        let batches = message.entries.iter();
        let batches = batches.filter_map(|e| CommandBatch::decode(e.payload.clone()).ok());
        let Some(unknown) = batches.into_iter().find(|b| b.version > can) else {
            return false;
        };
        let is_raise = |kind: &Option<Kind>| matches!(kind, Some(Kind::RaiseLevel(_)));
        let is_raise = unknown.commands.iter().any(|c| is_raise(&c.kind));
        if unknown.version > self.ledger.level() && !is_raise {
            self.find(format!(
                "node {node} applies commands up to version {can}, and is sent version {}",
                unknown.version
            ));
        }
        self.run_version(node, self.plan.version_last());
        true
    }

    /// As `core/level.rs` does.
    pub fn raise_level(&mut self, node: u64) {
        let me = &self.nodes[node as usize - 1];
        let Some(meta) = me.process.groups.get(&0).filter(|h| h.group.is_ready()) else {
            return;
        };
        let tables = &me.process.tables;
        let level = tables.level.max(self.plan.level_first());
        let members: Vec<u64> = match tables.members.is_empty() {
            true => (1..=self.plan.nodes).collect(),
            false => tables.members.iter().map(|m| m.raft_id).collect(),
        };
        if level >= me.version || !meta.group.has_members(&members) {
            return;
        }
        let own = meta.group.raft_id();
        let can = |raft_id: u64| {
            let mut heard = me.process.admitted.iter();
            let said = heard.rfind(|life| life.node == node_of(raft_id));
            let said = said.and_then(|life| self.lives.get(life));
            match raft_id == own {
                true => Some(me.version),
                false => said.filter(|l| l.raft_id == raft_id).map(|l| l.version),
            }
        };
        let Some(next) = level::next(level, members.iter().copied(), can) else {
            return;
        };
        let raise = level::raise(next, &tables.members);
        let cannot = |raft_id: &&u64| {
            let there = &self.nodes[node_of(**raft_id) as usize - 1];
            let is_known = there.version_since_us + KNOWN_WITHIN_US < self.now_us;
            there.version < next && is_known
        };
        if let Some(raft_id) = members.iter().find(cannot) {
            let text = format!("the level rises to {next}, and {raft_id:#x} cannot apply that");
            return self.find(text);
        }
        self.step(node, 0, Input::RaiseLevel(raise));
        if self.rng.chance(300_000) {
            // The operator sees the level as it was.
            let other = self.rng.range(1, self.nodes.len() as u64);
            if other != node {
                self.take_back(other);
            }
        }
    }
}
