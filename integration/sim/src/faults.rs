//! What strikes: crashes, pauses, partitions, clocks that jump, disks that are slow, orders to hand over.

use ursula::group::Input;

use crate::checkpoint::Spoil;
use crate::disk::{Crash, Damage};
use crate::event::Event;
use crate::node::Waiting;
use crate::saga::Task;
use crate::world::World;

impl World {
    /// One fault strikes, and the next is scheduled.
    pub fn fault(&mut self) {
        if self.net.is_calm {
            return;
        }
        let next_us = self.now_us + self.rng.latency(self.plan.fault_us);
        self.queue.at(next_us, Event::Fault);
        let total: u64 = self.plan.weights().iter().sum();
        if total == 0 {
            return;
        }
        let mut drawn = self.rng.below(total);
        let node = self.rng.range(1, self.nodes.len() as u64);
        for (kind, weight) in self.plan.weights().into_iter().enumerate() {
            if drawn < weight {
                return self.strike(kind, node);
            }
            drawn -= weight;
        }
    }

    fn strike(&mut self, kind: usize, node: u64) {
        match kind {
            0 => self.crash(node),
            1 => self.pause(node),
            2 => self.partition(node),
            3 => self.jump(node),
            4 if self.plan.stalls > 0 => self.stall(node),
            4 => self.slow_disk(node),
            5 => self.hand_over(node),
            6 if self.node(node).is_up && !self.node(node).is_paused => self.begin_round(node),
            6 => {}
            7 => self.crash_many(),
            8 => self.damage(node),
            9 => self.lose_disk(node),
            10 => self.fill_disk(node),
            _ => self.besiege(),
        }
    }

    /// The process ends at once, and starts again later.
    pub fn crash(&mut self, node: u64) {
        if !self.node(node).is_up {
            return;
        }
        let me = &mut self.nodes[node as usize - 1];
        let Crash {
            lost,
            stayed,
            is_torn,
            is_checkpoint_cut,
        } = me.disk.crash(&mut self.rng);
        me.is_up = false;
        me.is_paused = false;
        let process = std::mem::take(&mut me.process);
        let backlog = std::mem::take(&mut me.backlog);
        self.coverage.hit("crash");
        self.trace.show(self.now_us, || {
            format!("node {node} crashes: {lost} records lost, {stayed} unsynced ones stay")
        });
        if lost > 0 {
            self.coverage.hit("unsynced records lost");
        }
        if is_checkpoint_cut {
            self.coverage.hit("a crash while a checkpoint is written");
        }
        if is_torn {
            self.coverage.hit("torn frame");
        }
        if stayed > 0 {
            self.coverage.hit("unsynced records stay");
        }
        let mut operations: Vec<u64> = Vec::new();
        for waiting in process.waiting.into_values() {
            if let Waiting::Client(op) = waiting {
                operations.push(op);
            }
        }
        for task in process.tasks.into_values() {
            match task {
                Task::Fork(forking) => operations.push(forking.op.id),
                Task::Read(reading) => self.client_answered(&reading.op, None),
                _ => {}
            }
        }
        for event in backlog {
            if let Event::Asked(_, op) = event {
                operations.push(op);
            }
        }
        for op in operations {
            self.lose_operation(op);
        }
        for peer in self.all_nodes().filter(|p| *p != node) {
            let within_us = self.rng.pick(&[10_000, 300_000, 1_500_000]);
            self.lose_link(peer, node, within_us);
        }
        let down_us = self.rng.pick(&[10_000, 300_000, 3_000_000]);
        let at_us = self.now_us + self.rng.latency(down_us);
        self.queue.at(at_us, Event::Restart(node));
    }

    /// A node learns that the link to another one broke, which it always does when that one is silent.
    pub fn lose_link(&mut self, node: u64, peer: u64, within_us: u64) {
        let at_us = self.now_us + self.rng.below(within_us);
        let life = self.node(node).life;
        self.queue.at(at_us, Event::LinkLost(life, peer, true));
        self.queue.at(at_us, Event::LinkLost(life, peer, false));
    }

    /// All others learn that a node is silent, and it learns the same of them.
    pub fn lose_links_of(&mut self, node: u64, is_it_told: bool) {
        const SILENCE_US: u64 = 1_500_000;
        for peer in self.all_nodes().filter(|p| *p != node) {
            self.lose_link(peer, node, SILENCE_US);
            if is_it_told {
                self.lose_link(node, peer, SILENCE_US);
            }
        }
    }

    /// The node leads a group of streams.
    fn leads(&self, node: u64) -> bool {
        let mut groups = self.nodes[node as usize - 1].process.groups.values();
        groups.any(|h| h.group.is_ready() && h.group.id() > 0)
    }

    /// Whoever leads a group ends.
    pub fn leaders_fall(&mut self) {
        let leaders = self.all_nodes().filter(|n| self.leads(*n));
        for node in leaders.collect::<Vec<_>>() {
            if !self.net.is_calm {
                self.coverage.hit("a leader ends with an outage");
                self.crash(node);
            }
        }
    }

    fn crash_many(&mut self) {
        self.coverage.hit("several crash at once");
        for node in self.all_nodes() {
            if self.rng.chance(700_000) {
                self.crash(node);
            }
        }
    }

    fn pause(&mut self, node: u64) {
        if self.node(node).is_up && !self.node(node).is_paused {
            self.coverage.hit("pause");
            self.trace
                .show(self.now_us, || format!("node {node} is paused"));
            self.node(node).is_paused = true;
            self.lose_links_of(node, true);
            // Where there is an object store, a pause is short beside its grace.
            let longest_us = [20_000_000, 2_000_000][usize::from(self.plan.cold > 0)];
            let typical_us = self.rng.pick(&[20_000, 400_000, 2_000_000, longest_us]);
            let at_us = self.now_us + self.rng.latency(typical_us);
            self.queue.at(at_us, Event::Resume(node));
        }
    }

    fn partition(&mut self, node: u64) {
        let others: Vec<u64> = self.all_nodes().filter(|n| *n != node).collect();
        if others.is_empty() {
            return;
        }
        let bridge = self.rng.pick(&others);
        let kind = self.rng.below(6);
        let (from_it, to_it) = (kind != 1, kind != 0);
        for other in &others {
            let is_cut = match kind {
                0..=2 => true,
                // Only by one bridge the node is reached.
                3 => *other != bridge,
                // A node and some others, or a pair.
                4 => self.rng.chance(500_000),
                _ => *other == bridge,
            };
            if is_cut && from_it {
                self.net.cut.insert((node, *other));
            }
            if is_cut && to_it {
                self.net.cut.insert((*other, node));
            }
        }
        self.lose_links_of(node, true);
        self.coverage.hit(match kind {
            0 | 1 => "one-way partition",
            3 => "bridge partition",
            _ => "partition",
        });
        self.trace
            .show(self.now_us, || format!("cut: {:?}", self.net.cut));
        let typical_us = self.rng.pick(&[100_000, 1_000_000, 5_000_000]);
        let at_us = self.now_us + self.rng.latency(typical_us);
        self.queue.at(at_us, Event::Reconnect);
    }

    /// Nothing reaches the node for a while.
    pub fn deafen(&mut self, node: u64) {
        if !self.net.is_calm {
            self.coverage.hit("a former leader hears nothing");
            let others = self.all_nodes().filter(|n| *n != node);
            let ways: Vec<_> = others.map(|n| (n, node)).collect();
            self.net.cut.extend(ways);
            let at_us = self.now_us + self.rng.range(100_000, 600_000);
            self.queue.at(at_us, Event::Reconnect);
        }
    }

    fn damage(&mut self, node: u64) {
        let how = self.rng.pick(&[
            Damage::Flip,
            Damage::Flip,
            Damage::Misdirected,
            Damage::Unreadable,
            Damage::Cut,
            Damage::Exchanged,
            Damage::Missing,
            Damage::Foreign,
            Damage::Misread,
            Damage::Checkpoint(Spoil::Content),
            Damage::Checkpoint(Spoil::Unreadable),
            Damage::Checkpoint(Spoil::Misread),
            Damage::Pack(Spoil::Content),
            Damage::Pack(Spoil::Content),
            Damage::Pack(Spoil::Unreadable),
            Damage::Pack(Spoil::Misread),
        ]);
        let how = match self.plan.damage_packs {
            0 => how,
            _ => Damage::Pack(Spoil::Content),
        };
        let is_pack = matches!(how, Damage::Pack(_));
        let may = match is_pack {
            true => self.may_damage_pack(node),
            false => self.may_break(node),
        };
        if !may {
            return;
        }
        if how.is_at_rest() {
            self.crash(node);
        }
        let me = &mut self.nodes[node as usize - 1];
        if !me.disk.damage(how, &mut self.rng) {
            return;
        }
        let raft_id = me.identity.as_ref().map(|i| i.raft_id);
        self.lost.extend(raft_id.filter(|_| !is_pack));
        self.coverage.hit(match how {
            Damage::Flip => "a bit flipped",
            Damage::Unreadable => "a sector unreadable",
            Damage::Misdirected => "a write misdirected",
            Damage::Cut => "a segment cut",
            Damage::Exchanged => "two segments exchanged",
            Damage::Missing => "a segment missing",
            Damage::Foreign => "a segment of another store",
            Damage::Misread => "a sector of a segment misread",
            Damage::Checkpoint(Spoil::Content) => "a checkpoint damaged",
            Damage::Checkpoint(Spoil::Unreadable) => "a sector of a checkpoint unreadable",
            Damage::Checkpoint(Spoil::Misread) => "a sector of a checkpoint misread",
            Damage::Pack(Spoil::Content) => "a pack damaged",
            Damage::Pack(Spoil::Unreadable) => "a sector of a pack unreadable",
            Damage::Pack(Spoil::Misread) => "a sector of a pack misread",
        });
        self.trace
            .show(self.now_us, || format!("node {node}: {how:?}"));
        if how != Damage::Misdirected && self.rng.chance(700_000) {
            self.crash(node);
        }
    }

    /// The node never comes back under its name.
    pub fn give_up_node(&mut self, node: u64) {
        self.crash(node);
        self.node(node).is_broken = true;
    }

    fn lose_disk(&mut self, node: u64) {
        if self.may_break(node) {
            self.coverage.hit("disk lost");
            self.trace
                .show(self.now_us, || format!("node {node} loses its disk"));
            self.wipe(node, false);
        }
    }

    fn fill_disk(&mut self, node: u64) {
        self.coverage.hit("disk full");
        self.node(node).is_full = true;
        let at_us = self.now_us + self.rng.latency(2_000_000);
        self.queue.at(at_us, Event::DiskWell(node));
    }

    fn jump(&mut self, node: u64) {
        let span_ms = self.rng.pick(&[100, 5_000, 3_600_000]);
        let by_ms = self.rng.range(0, 2 * span_ms) as i64 - span_ms as i64;
        let most_ms = match self.plan.cold {
            0 => i64::MAX,
            _ => crate::plan::WRONG_MS_MAX as i64,
        };
        let offset_ms = &mut self.node(node).clock.wall_offset_ms;
        *offset_ms = (*offset_ms + by_ms).clamp(-most_ms, most_ms);
        self.coverage.hit("wall clock jumped");
        self.trace.show(self.now_us, || {
            format!("node {node}: the wall clock jumps by {by_ms} ms")
        });
    }

    fn slow_disk(&mut self, mut node: u64) {
        self.coverage.hit("slow disk");
        let leaders: Vec<u64> = self.all_nodes().filter(|n| self.leads(*n)).collect();
        if !leaders.is_empty() && self.rng.chance(500_000) {
            self.coverage.hit("slow disk of a leader");
            node = self.rng.pick(&leaders);
        }
        self.node(node).slowness = self.rng.pick(&[10, 100, 1000]);
        let typical_us = self.rng.pick(&[300_000, 3_000_000]);
        let at_us = self.now_us + self.rng.latency(typical_us);
        self.queue.at(at_us, Event::DiskWell(node));
    }

    fn hand_over(&mut self, node: u64) {
        let to = self.rng.range(1, self.nodes.len() as u64);
        let to = self.rng.chance(500_000).then_some(to);
        for group in 0..=self.plan.groups as u32 {
            let hosted = &self.nodes[node as usize - 1].process.groups;
            let is_leader = hosted.get(&group).is_some_and(|h| h.group.is_leader());
            if is_leader && !self.node(node).is_paused {
                self.coverage.hit("leadership handed over");
                self.trace.show(self.now_us, || {
                    format!("node {node} hands over group {group}")
                });
                self.step(node, group, Input::TransferLeader(to));
            }
        }
    }
}
