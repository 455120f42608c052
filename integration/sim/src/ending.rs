//! The end of a run: faults stop, a majority is whole, and then all that must come about is waited for, within bounds.

use ursula::group::node_of;

use crate::cold_check::SETTLED_WITHIN_US;
use crate::event::Event;
use crate::history::{Op, What};
use crate::members::ids_of;
use crate::node::{Node, Waiting};
use crate::saga::Task;
use crate::world::World;

/// After the end of faults every group has a leader within so much.
const LEADERS_WITHIN_US: u64 = 5_000_000;

/// If one gives up just then, within so much more.
const LEADERS_AGAIN_US: u64 = 3_000_000;

/// After that, and after clients have stopped, every request is answered within so much.
const ANSWERS_WITHIN_US: u64 = 12_000_000;

/// Where messages take longer, an answer takes about as long as a turn, and all of this may take as long as this.
const SLOW_DELAY_US: u64 = 30_000;
const SLOW_WITHIN_US: u64 = 30_000_000;

/// After the end of faults all replicas agree within so much.
const AGREE_WITHIN_US: u64 = 40_000_000;

impl World {
    /// Faults end.
    pub fn heal(&mut self) {
        self.trace.show(self.now_us, || "faults end".to_owned());
        self.net.is_calm = true;
        self.net.cut.clear();
        self.heal_store();
        self.set_clocks_right();
        if self.rng.chance(400_000) {
            self.leave_broken();
        }
        for node in self.all_nodes() {
            self.node(node).slowness = 1;
            self.node(node).is_full = false;
            self.resume(node);
        }
        self.end_upgrade();
        for node in self.all_nodes() {
            let at_us = self.now_us + self.rng.below(500_000);
            self.queue.at(at_us, Event::Restart(node));
        }
        self.queue
            .at(self.now_us + LEADERS_WITHIN_US, Event::LeadersDue);
    }

    /// Every group must have a leader, and clients stop.
    pub fn leaders_due(&mut self) {
        let has_leader = |group: u32| {
            let reached = self.nodes.iter().filter(|n| self.is_reached(n));
            reached
                .filter(|n| n.process.groups[&group].group.is_ready())
                .count()
                == 1
        };
        let all_have = (0..=self.plan.groups as u32).all(has_leader);
        let within_us = self.within_us(LEADERS_WITHIN_US + LEADERS_AGAIN_US);
        if !all_have && self.now_us < self.plan.chaos_us + within_us {
            // Where messages are slow, a leader gives up now and then, since nobody answered in time.
            return self.queue.at(self.now_us + 100_000, Event::LeadersDue);
        }
        for group in 0..=self.plan.groups as u32 {
            let reached = self.nodes.iter().filter(|n| self.is_reached(n));
            let ready = reached.filter(|n| n.process.groups[&group].group.is_ready());
            if ready.count() != 1 {
                let seconds = within_us / 1_000_000;
                let all: Vec<String> = self.nodes.iter().map(|n| shown(n, group)).collect();
                self.find(format!(
                    "group {group} has no leader {seconds} s after the end of faults: {all:?}"
                ));
            }
        }
        self.is_closing = true;
        for group in 1..=self.plan.groups as u32 {
            let up = self.nodes.iter().filter(|n| n.is_up);
            for node in up.map(|n| n.life.node).collect::<Vec<_>>() {
                for key in self.keys[group as usize - 1].clone() {
                    self.asked += 1;
                    self.send_operation(Op {
                        id: self.asked,
                        client: usize::MAX,
                        node,
                        group,
                        key,
                        what: What::Read {
                            from: 0,
                            bytes_max: u64::MAX,
                            is_live: false,
                        },
                        call_us: self.now_us,
                        known: 0,
                    });
                }
            }
        }
        self.begin_closing();
        self.queue.at(
            self.now_us + self.within_us(ANSWERS_WITHIN_US),
            Event::AnswersDue,
        );
    }

    /// Nobody may wait any more.
    pub fn answers_due(&mut self) {
        let within_us = self.within_us(ANSWERS_WITHIN_US);
        let is_due = |op: &&Op| op.call_us + within_us <= self.now_us;
        let late = self.operations.values().find(is_due);
        if late.is_none() && !self.operations.is_empty() {
            // A damaged node may order its replacement at any time.
            return self.queue.at(self.now_us + 500_000, Event::AnswersDue);
        }
        if let Some(op) = late {
            let text = format!(
                "operation {} on node {} was never answered: {op:?}",
                op.id, op.node
            );
            self.find(text);
        }
        let reads = |n: &Node| n.process.tasks.values().any(|t| matches!(t, Task::Read(_)));
        let is_in_time = self.now_us < self.plan.chaos_us + SETTLED_WITHIN_US;
        if self.plan.cold > 0 && is_in_time && self.nodes.iter().any(reads) {
            // A stream that lies in a thousand objects is read one after the other.
            return self.queue.at(self.now_us + 500_000, Event::AnswersDue);
        }
        for node in 0..self.nodes.len() {
            let is_clients = |t: &&Task| matches!(t, Task::Fork(_) | Task::Read(_));
            let mut tasks = self.nodes[node].process.tasks.values();
            if tasks.any(|t| is_clients(&t)) {
                self.find(format!("node {} owes a client an answer", node + 1));
            }
            // A group may ask another one at any time what became of a fork.
            let mut waiting = self.nodes[node].process.waiting.values();
            let late = waiting.find_map(|waiting| match waiting {
                Waiting::Node(life, group, _, since_us) => {
                    (since_us + within_us <= self.now_us).then_some((life.node, *group))
                }
                _ => None,
            });
            if let Some((asker, group)) = late {
                let node = node + 1;
                self.find(format!(
                    "node {node} owes node {asker} an answer of group {group}"
                ));
            }
        }
        let until_us = self.now_us + AGREE_WITHIN_US;
        self.agree(until_us);
    }

    /// All replicas must be the same, and nothing be left over.
    pub fn agree(&mut self, until_us: u64) {
        self.restore_what_has_no_copy();
        // What goes to the store goes through the logs: as long as anything does, replicas follow one another.
        let unsettled = self
            .unsettled()
            .or_else(|| self.unmended())
            .or_else(|| self.ledger.forgotten_hold())
            .or_else(|| self.ledger.overlong(self.oldest_ms()))
            .or_else(|| self.unclosed());
        if let Some(what) = unsettled {
            if self.now_us >= self.plan.chaos_us + SETTLED_WITHIN_US {
                return self.find(format!("long after the end of faults: {what}"));
            }
            let again = Event::Agree(self.now_us + AGREE_WITHIN_US);
            return self.queue.at(self.now_us + 500_000, again);
        }
        let wanted: Vec<u64> = self.members().iter().map(|m| m.raft_id).collect();
        let is_reachable = wanted.iter().all(|id| self.is_sound(*id));
        let sound: Vec<u64> = wanted
            .iter()
            .copied()
            .filter(|id| self.is_sound(*id))
            .collect();
        let has_no_slots = sound.iter().any(|id| {
            let process = &self.nodes[node_of(*id) as usize - 1].process;
            process.tables.slots.is_empty()
        });
        let is_behind = is_reachable && self.ledger.level() < self.plan.version_last();
        let has_parted = (0..=self.plan.groups as u32).find(|group| {
            let reached = self.nodes.iter().filter(|n| self.is_reached(n));
            let mut groups = reached.map(|n| &n.process.groups[group].group);
            let Some(leader) = groups.find(|g| g.is_ready()) else {
                return true;
            };
            if is_reachable && !leader.has_members(&wanted) {
                return true;
            }
            let members = ids_of(&leader.membership());
            let sound = members.iter().filter(|id| self.is_sound(**id));
            let mut ends = sound.map(|id| {
                let n = &self.nodes[node_of(*id) as usize - 1];
                let group = &n.process.groups[group].group;
                (
                    group.applied().index,
                    group.last_index(),
                    group.state_hash(),
                )
            });
            let first = ends.next();
            ends.any(|end| Some(end) != first)
        });
        match has_parted {
            None if !has_no_slots && !is_behind => self.is_done = true,
            None if self.now_us >= until_us && is_behind => {
                self.find(
                    "every member is of the newest version, and the level has not risen".to_owned(),
                );
            }
            None if self.now_us >= until_us => {
                self.find("a member does not know where streams live".to_owned());
            }
            _ if self.now_us < until_us => {
                self.queue.at(self.now_us + 500_000, Event::Agree(until_us));
            }
            has_parted => {
                let group = has_parted.unwrap_or_default();
                let all: Vec<String> = self.nodes.iter().map(|n| shown(n, group)).collect();
                self.find(format!(
                    "the replicas of group {group} do not agree, or are not {wanted:?}: {all:?}"
                ));
            }
        }
    }
}

impl World {
    /// So much, or more where messages are slow.
    pub fn within_us(&self, usual_us: u64) -> u64 {
        match self.plan.delay_us > SLOW_DELAY_US {
            true => SLOW_WITHIN_US.max(usual_us),
            false => usual_us,
        }
    }

    /// What the wall clock that is most behind shows.
    fn oldest_ms(&self) -> u64 {
        let clocks = self.nodes.iter().map(|n| n.clock.at(self.now_us).wall_ms);
        clocks.min().unwrap_or(0)
    }
}

fn shown(node: &Node, group: u32) -> String {
    if !node.is_up {
        return format!("node {}: away", node.life.node);
    }
    let group = &node.process.groups[&group].group;
    let members = group.membership();
    format!(
        "node {} ({:#x}) of {:?} {:?} {:?}: term {} leader {} ready {} applied {} commit {} last {} trouble {:?}",
        node.life.node,
        group.raft_id(),
        members.voters,
        members.voters_outgoing,
        members.learners,
        group.term(),
        group.leader(),
        group.is_ready(),
        group.applied().index,
        group.commit(),
        group.last_index(),
        group.trouble()
    )
}
