//! Checkpoints on a node: rounds over its groups, fetches from others, and the exchange of what was fetched.
//! And what replicas show of themselves after each step.

use storage::StorageError;
use storage::pack::PackPlan;
use ursula::group::{CheckpointPlan, Effect, Input};

use crate::checkpoint::{Checkpoint, Placer};
use crate::event::Event;
use crate::files::Room;
use crate::members::ids_of;
use crate::node::Written;
use crate::world::World;

/// No checkpoint takes longer to write.
const WRITE_MAX_US: u64 = 4_000_000;

/// A full disk has room for less.
const FULL_ROOM: u64 = 3_000;

impl World {
    /// Begins a round of checkpoints, unless one is under way.
    pub fn begin_round(&mut self, node: u64) {
        let groups = (0..=self.plan.groups as u32).collect();
        let process = &mut self.node(node).process;
        if process.round.is_none() {
            process.round = Some(groups);
            process.is_wanted = false;
            self.next_in_round(node);
        }
    }

    fn next_in_round(&mut self, node: u64) {
        loop {
            let me = self.node(node);
            let Some(round) = &mut me.process.round else {
                return;
            };
            let Some(group) = round.pop_front() else {
                me.process.round = None;
                self.next_install(node);
                if self.node(node).process.is_wanted {
                    self.begin_round(node);
                }
                return;
            };
            let before = me.disk.checkpoints.get(&group).cloned().unwrap_or_default();
            let unwritten = me.process.unwritten.remove(&group);
            let Some(hosted) = me.process.groups.get_mut(&group) else {
                continue;
            };
            if let Some((plan, placer)) = unwritten {
                return self.write_planned(node, group, plan, placer);
            }
            if hosted.group.is_installing() {
                continue;
            }
            let is_unchanged = hosted.group.applied().index <= before.manifest.index;
            // A mend changes where bytes are, and adds nothing to the log.
            if is_unchanged && hosted.group.dirty_count() == 0 {
                hosted.group.shed_hot_bytes(0);
                continue;
            }
            let number = before.manifest.next_pack.max(1);
            let mut placer = Placer(PackPlan::new(group, number));
            let plan = hosted.group.checkpoint(&mut placer);
            return self.write_planned(node, group, plan, placer);
        }
    }

    /// Writes what was planned; a full disk ends the round, and a later one writes the same.
    fn write_planned(&mut self, node: u64, group: u32, plan: CheckpointPlan, placer: Placer) {
        let bytes = self.rng.below(FULL_ROOM) as usize;
        let fails = !self.net.is_calm && self.rng.chance(self.plan.sync_error);
        let room = match self.node(node).is_full {
            true => Room::Until(bytes),
            false if fails => Room::FailsAt(bytes),
            false => Room::Endless,
        };
        let me = self.node(node);
        let before = me.disk.checkpoints.get(&group).cloned().unwrap_or_default();
        match before.begin(group, &plan, &placer, room) {
            Ok(writing) => {
                let has_failed = writing.has_failed;
                me.disk.writing = Some((group, writing));
                if has_failed {
                    self.coverage.hit("a write of a checkpoint failed");
                    return self.crash(node);
                }
            }
            Err(StorageError::NoSpace { .. }) => {
                me.process.unwritten.insert(group, (plan, placer));
                me.process.round = None;
                self.coverage.hit("no room for a checkpoint");
                return self.next_install(node);
            }
            Err(wrong) => {
                return self.find(format!("node {node}, checkpoint of group {group}: {wrong}"));
            }
        }
        let life = me.life;
        let slowness = me.slowness;
        let write_us = self.rng.latency(self.plan.sync_us * 3) * slowness;
        let at_us = self.now_us + write_us.min(WRITE_MAX_US);
        let event = Event::Checkpointed(life, group, Box::new(plan));
        self.queue.at(at_us, event);
    }

    /// A checkpoint is written.
    pub fn on_checkpointed(&mut self, node: u64, group: u32, plan: CheckpointPlan) {
        let hot_target = self.rng.pick(&[0, 100, 1 << 30]);
        self.coverage.hit("checkpoint written");
        self.look_at_packed(node, group);
        let me = self.node(node);
        let (_, writing) = me.disk.writing.take().expect("it was begun");
        let next = writing.end();
        let durable_pack = next.manifest.next_pack - 1;
        me.disk.checkpoints.insert(group, next);
        if let Some(hosted) = me.process.groups.get_mut(&group) {
            hosted
                .group
                .checkpointed(durable_pack, plan.position, &plan.membership, hot_target);
        }
        me.disk.release(group, plan.position.index);
        if hot_target == 0 {
            self.look_at_hot_bytes(node, group, plan.position.index);
        }
        if self.rng.chance(300_000) {
            match self.node(node).disk.checkpoints[&group].machine(group) {
                Ok(machine) => {
                    let hash = machine.state_hash();
                    self.ledger.hashed(node, group, plan.position.index, hash);
                }
                Err(wrong) => self.find(format!("node {node}, group {group}: {wrong}")),
            }
        }
        self.next_in_round(node);
    }

    /// It came, or did not.
    pub fn on_fetched(&mut self, node: u64, group: u32, checkpoint: Option<Box<Checkpoint>>) {
        let Some(checkpoint) = checkpoint else {
            self.coverage.hit("fetch failed");
            return self.step(node, group, Input::FetchFailed);
        };
        let fetched = match checkpoint.fetched(group) {
            Ok(fetched) => Box::new(fetched),
            Err(wrong) => {
                return self.find(format!("node {node}: group {group} as it came: {wrong}"));
            }
        };
        self.coverage.hit("checkpoint fetched");
        self.node(node).process.fetched.insert(group, *checkpoint);
        self.step(node, group, Input::Fetched(fetched));
    }

    /// Exchanges the next fetched checkpoint, if none is being written.
    pub fn next_install(&mut self, node: u64) {
        let life = self.node(node).life;
        let process = &mut self.node(node).process;
        if process.round.is_some() {
            return;
        }
        if let Some((group, _)) = process.installs.front() {
            let group = *group;
            process.round = Some(std::collections::VecDeque::new());
            let at_us = self.now_us + self.rng.latency(self.plan.sync_us * 2);
            self.queue.at(at_us, Event::Exchanged(life, group));
        }
    }

    /// The fetched checkpoint stands in the place of the group's files.
    pub fn on_exchanged(&mut self, node: u64, group: u32) {
        self.coverage.hit("checkpoint installed");
        let me = self.node(node);
        let Some((_, persist)) = me.process.installs.pop_front() else {
            return;
        };
        let fetched = me.process.fetched.remove(&group).expect("it was fetched");
        let index = fetched.manifest.index;
        let members = fetched.manifest.membership.clone();
        me.configs.insert(group, members.into_iter().collect());
        me.process.unwritten.remove(&group);
        me.disk.incoming.remove(&group);
        me.disk.checkpoints.insert(group, fetched);
        me.persist(group, persist);
        me.disk.release(group, index);
        me.process.round = None;
        self.turn_soon(node);
        self.next_install(node);
        if self.node(node).process.is_wanted {
            self.begin_round(node);
        }
    }

    /// Looks at a group after a step: what it wrote, what it applied, what its state is.
    pub fn observe(&mut self, node: u64, group: u32, effects: &[Effect]) {
        let mut truncates = false;
        let me = self.nodes.get_mut(node as usize - 1).expect("it runs");
        let Some(hosted) = me.process.groups.get_mut(&group) else {
            return;
        };
        let is_unchanged =
            hosted.group.applied() == hosted.applied && hosted.group.is_ready() == hosted.was_ready;
        if effects.is_empty() && is_unchanged {
            return;
        }
        for effect in effects {
            match effect {
                Effect::Persist(persist) => {
                    for entry in &persist.entries {
                        let last = hosted.log.last_key_value();
                        if last.is_some_and(|(last, _)| *last >= entry.index) {
                            truncates = true;
                            hosted.log.split_off(&entry.index);
                        }
                        let written = Written {
                            term: entry.term,
                            payload: entry.payload.clone(),
                            is_conf_change: entry.is_conf_change,
                        };
                        hosted.log.insert(entry.index, written);
                    }
                }
                Effect::Install(_) => {
                    hosted.log.clear();
                    let known = me.configs.entry(group).or_default();
                    known.push(hosted.group.membership());
                    hosted.applied = hosted.group.applied();
                    let hash = hosted.group.state_hash();
                    self.ledger.hashed(node, group, hosted.applied.index, hash);
                }
                _ => {}
            }
        }
        let applied = hosted.group.applied();
        let is_ready = hosted.group.is_ready();
        for index in hosted.applied.index + 1..=applied.index {
            match hosted.log.get(&index) {
                Some(written) => {
                    self.ledger.applied(node, group, index, written);
                    if written.is_conf_change {
                        let now = hosted.group.membership();
                        self.coverage.hit(match now.voters_outgoing.is_empty() {
                            false => "joint membership",
                            true if now.learners.is_empty() => "membership settled",
                            true => "learner",
                        });
                        let fewest = self.ledger.fewest_members().unwrap_or(usize::MAX);
                        let fewest = fewest.min(self.plan.nodes as usize);
                        if now.voters.len() < fewest {
                            self.ledger.findings.push(format!(
                                "group {group} has the voters {:?} after entry {index}, fewer than the cluster ever was to have",
                                now.voters
                            ));
                        }
                        let own = hosted.group.raft_id();
                        if hosted.group.is_leader() && !ids_of(&now).contains(&own) {
                            self.ledger.findings.push(format!(
                                "{own:#x} goes on to lead group {group}, of which it is no member after entry {index}"
                            ));
                        }
                        me.configs.entry(group).or_default().push(now.clone());
                        // What says that it is committed is written with it: a start must not go back behind it.
                        let written = effects.iter().find_map(|e| match e {
                            Effect::Persist(p) => {
                                p.hard_state.filter(|h| h.commit >= index).map(|_| p.number)
                            }
                            _ => None,
                        });
                        match written {
                            Some(number) => {
                                me.process.settling.insert((group, number), now);
                            }
                            None => self.ledger.findings.push(format!(
                                "node {node} changed the members of group {group} by entry {index} and did not write that it is committed"
                            )),
                        }
                    }
                }
                None => self.ledger.findings.push(format!(
                    "node {node} applied entry {index} of group {group}, which it never wrote"
                )),
            }
        }
        let has_applied = applied.index != hosted.applied.index;
        if has_applied {
            hosted.applied = applied;
            self.ledger.compare(node, group, &hosted.group);
            // A sample: each state costs its size, and that of group 0 has all slots.
            let each = if group == 0 { 16 } else { 4 };
            if applied.index.is_multiple_of(each) || effects.len() > 12 {
                let hash = hosted.group.state_hash();
                self.ledger.hashed(node, group, applied.index, hash);
            }
        }
        let has_changed = is_ready != std::mem::replace(&mut hosted.was_ready, is_ready);
        if has_changed && is_ready {
            let (term, raft_id) = (hosted.group.term(), hosted.group.raft_id());
            self.ledger
                .leads(group, term, raft_id, hosted.group.level());
        }
        if has_changed && !is_ready && World::is_building(&me.process, group) {
            self.coverage.hit("leader deposed while its pack is put");
        }
        if has_applied {
            self.look_at_published();
        }
        if has_changed {
            self.coverage.hit(if is_ready {
                "leader ready"
            } else {
                "leader deposed"
            });
        }
        if truncates {
            self.coverage.hit("conflicting entries replaced");
        }
    }
}
