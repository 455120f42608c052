//! A node's shell: takes what comes, steps groups, carries out their effects; what `core` does in the real one.

use prost::Message;
use raftproto::peer::{HibernateGroup, RaftMessage};
use ursula::group::{BadMessage, Effect, Input, Now};
use ursula::protocol::{Op as Asked, Outcome, Refusal};
use ursula::wire;

use crate::event::{Event, Life, Packet};
use crate::node::Waiting;
use crate::world::{World, life_of};

/// Ticks of Raft between two of time, once faults have ended.
const TICKS_PER_TICK: u64 = 5;

/// `MsgHeartbeat`; with a context, it asks whether its sender still leads.
const HEARTBEAT: u32 = 8;

/// `MsgTimeoutNow`.
const TIMEOUT_NOW: u32 = 14;

/// A disk without room is tried again after so much.
const FULL_RETRY_US: u64 = 50_000;

/// No sync takes longer.
const SYNC_MAX_US: u64 = 1_500_000;

impl World {
    /// Something that a running process gets.
    pub fn shell(&mut self, node: u64, event: Event) {
        match event {
            Event::Tick(_) => self.on_tick(node),
            Event::Turn(_) => {
                self.node(node).process.is_turning = false;
                self.turn(node);
            }
            Event::Synced(_) => self.on_synced(node),
            Event::Arrive { from, packet, .. } => self.on_packet(from, node, packet),
            Event::NotSent(_, group, token) => {
                self.coverage.hit("request not sent");
                self.step(node, group, Input::NotSent { token });
            }
            Event::LinkLost(_, peer, is_request) => {
                self.coverage.hit("link lost");
                let me = self.node(node);
                me.process.admitted.retain(|life| life.node != peer);
                for group in 0..=self.plan.groups as u32 {
                    let input = match is_request {
                        true => Input::LinkLost(peer),
                        false => Input::AnswersLost(peer),
                    };
                    self.step(node, group, input);
                }
            }
            Event::Asked(_, op) => self.on_asked(node, op),
            Event::RetryTask(_, task) => self.retry_task(node, task),
            Event::Unfollow(_, key) => self.unfollow(node, key),
            Event::CheckpointDue(life) => {
                let at_us = self.now_us + self.rng.range(500_000, 20_000_000);
                self.queue.at(at_us, Event::CheckpointDue(life));
                if self.plan.timed_checkpoints > 0 {
                    self.begin_round(node);
                }
            }
            Event::Checkpointed(_, group, planned) => self.on_checkpointed(node, group, *planned),
            Event::Exchanged(_, group) => self.on_exchanged(node, group),
            Event::Fetched(_, group, checkpoint) => self.on_fetched(node, group, checkpoint),
            Event::Transfer(_, transfer) => self.on_transfer(node, *transfer),
            Event::StoreAnswers(_, answered) => self.on_store_answer(node, *answered),
            Event::Scrub(life) => self.scrub(life),
            Event::Backup(life) => self.back_up(life),
            Event::Looked(life, group, looked) => self.looked(life, group, Ok(looked)),
            Event::Mend(life, group, pack, tried) => self.mend(life, group, pack, tried),
            Event::GiveUpReplicas(life, group, pack, tried) => {
                self.give_up_replicas(life, group, pack, tried)
            }
            Event::Rescued(life, awaited) => self.rescued(life, awaited),
            _ => unreachable!("the others belong to no process"),
        }
    }

    fn on_tick(&mut self, node: u64) {
        let life = self.node(node).life;
        self.node(node).process.ticks += 1;
        let ticks_per_tick = match self.net.is_calm {
            true => TICKS_PER_TICK,
            false => self.plan.time_ticks,
        };
        let ticks = self.node(node).process.ticks;
        let is_fifth = ticks.is_multiple_of(TICKS_PER_TICK);
        let has_time = ticks.is_multiple_of(ticks_per_tick);
        for group in 0..=self.plan.groups as u32 {
            let now_ms = self.now(node).wall_ms;
            let hosted = self.node(node).process.groups.get(&group);
            let is_asleep = hosted.is_some_and(|h| h.group.is_asleep());
            let is_timed = hosted.is_some_and(|h| h.group.has_timed_work(now_ms));
            if !is_asleep {
                self.step(node, group, Input::RaftTick);
            }
            if has_time && is_timed {
                self.step(node, group, Input::Tick);
            }
        }
        if is_fifth && self.node(node).life == life && self.node(node).is_up {
            self.look_at_accounts(node);
            self.watch_outage(node);
            self.learn_members(node);
            self.reconcile(node);
            self.raise_level(node);
        }
        if self.node(node).life == life && self.node(node).is_up {
            let tick_us = self.plan.settings(node, 0).tick_ms * 1000;
            let late_us = self.rng.below(1000);
            let at_us = self.now_us + self.node(node).clock.truly(tick_us) + late_us;
            self.queue.at(at_us, Event::Tick(life));
        }
    }

    pub fn turn_soon(&mut self, node: u64) {
        let life = self.node(node).life;
        if !std::mem::replace(&mut self.node(node).process.is_turning, true) {
            let at_us = self.now_us + self.rng.below(100);
            self.queue.at(at_us, Event::Turn(life));
        }
    }

    fn turn(&mut self, node: u64) {
        if self.node(node).process.syncing.is_some() {
            return;
        }
        let life = self.node(node).life;
        for group in std::mem::take(&mut self.node(node).process.to_flush) {
            self.step(node, group, Input::Flush);
        }
        let sync_us = self.rng.latency(self.plan.sync_us);
        let now_us = self.now_us;
        let me = self.node(node);
        if !me.is_up || me.life != life || me.process.unsynced.is_empty() {
            return;
        }
        if me.is_full && me.disk.needs_room() {
            self.coverage.hit("no room for a segment");
            self.queue.at(now_us + FULL_RETRY_US, Event::Turn(life));
            self.node(node).process.is_turning = true;
            return;
        }
        me.process.syncing = Some(std::mem::take(&mut me.process.unsynced));
        me.disk.begin_sync();
        let at_us = now_us + (sync_us * me.slowness).min(SYNC_MAX_US);
        let at_us = at_us.max(self.stall.holds_until_us(node));
        if !self.net.is_calm && self.rng.chance(self.plan.sync_error) {
            // Fail-stop: what was under way is there or not, and the process ends.
            self.coverage.hit("sync failed");
            return self.crash(node);
        }
        self.queue.at(at_us, Event::Synced(life));
    }

    fn on_synced(&mut self, node: u64) {
        let me = self.node(node);
        me.disk.end_sync();
        for (group, number) in me.process.syncing.take().unwrap_or_default() {
            let me = self.node(node);
            if let Some(settled) = me.process.settling.remove(&(group, number)) {
                me.configs.insert(group, vec![settled]);
            }
            self.step(node, group, Input::Persisted(number));
        }
        self.turn_soon(node);
    }

    fn on_packet(&mut self, from: Life, node: u64, packet: Packet) {
        if !self.hears(node, from) || self.meets_unknown(node, &packet) {
            return;
        }
        let from = from.node;
        match packet {
            Packet::Raft(bytes) => {
                let message = RaftMessage::decode(bytes).unwrap();
                self.step(node, message.group, Input::Peer(message));
            }
            Packet::Ask(group, token, bytes) => {
                let request = wire::decode_request(bytes).unwrap();
                let asker = life_of(self, from);
                let waiting = Waiting::Node(asker, group, token, self.now_us);
                let reply_to = self.node(node).reply_to(waiting);
                self.coverage.hit("request forwarded");
                if let Some(refused) = self.refuse_growth(node, &request) {
                    return self.reply(node, reply_to, refused);
                }
                self.step(node, group, Input::Forwarded { request, reply_to });
            }
            Packet::Hibernate(bytes) => {
                let notice = HibernateGroup::decode(bytes).unwrap();
                let (group, from) = (notice.group, from);
                self.coverage.hit("let sleep");
                self.step(node, group, Input::Hibernate { node: from, notice });
            }
            Packet::Reply(group, token, bytes) => {
                let outcome = wire::decode_outcome(bytes).unwrap();
                self.step(node, group, Input::ForwardReply { token, outcome });
            }
        }
    }

    fn on_asked(&mut self, node: u64, op: u64) {
        let Some(asked) = self.operations.get(&op) else {
            return;
        };
        let group = asked.group;
        if !self.routes_to(node, group, &asked.key.clone()) {
            let refused = Outcome::Refused(Refusal::Unavailable);
            return self.reply_to_client(node, op, &refused);
        }
        let asked = &self.operations[&op];
        let Some(request) = asked.request() else {
            let op = asked.clone();
            return self.begin_fork(node, op);
        };
        if let Some(refused) = self.refuse_growth(node, &request) {
            return self.reply_to_client(node, op, &refused);
        }
        let reply_to = self.node(node).reply_to(Waiting::Client(op));
        self.step(node, group, Input::Request { request, reply_to });
    }

    /// Starts an election.
    pub fn campaign(&mut self, node: u64, group: u32) {
        let now = self.now(node);
        let mut effects = Vec::new();
        if let Some(hosted) = self.node(node).process.groups.get_mut(&group) {
            hosted.group.campaign(now, &mut effects).unwrap();
        }
        self.coverage.hit("first leader by turn");
        self.observe(node, group, &effects);
        self.perform(node, group, effects);
    }

    pub fn now(&mut self, node: u64) -> Now {
        let now_us = self.now_us;
        let now = self.node(node).clock.at(now_us);
        self.ledger.newest_ms = self.ledger.newest_ms.max(now.wall_ms);
        now
    }

    /// Steps a group and carries out what it wants.
    pub fn step(&mut self, node: u64, group: u32, input: Input) {
        if !self.node(node).is_up || !self.ledger.findings.is_empty() {
            return;
        }
        let now = self.now(node);
        let kind = kind_of(&input);
        let line = self.trace.is_shown().then(|| format!("{input:?}"));
        let mut effects = Vec::new();
        let Some(hosted) = self.node(node).process.groups.get_mut(&group) else {
            return;
        };
        let had_pending = hosted.group.has_pending() && !matches!(input, Input::Flush);
        hosted.group.step(now, input, &mut effects);
        let is_new_pending = hosted.group.has_pending() && !had_pending;
        let (term, applied) = (hosted.group.term(), hosted.group.applied().index);
        let commit = hosted.group.commit();
        let judges_ms = hosted
            .group
            .is_leader()
            .then(|| hosted.group.judges_at_ms());
        if let Some(ms) = judges_ms {
            self.ledger.judges(group, self.now_us, ms);
        }
        self.steps += 1;
        let count = effects.len() as u64;
        let noted = [
            self.now_us,
            node,
            group.into(),
            kind,
            count,
            term,
            commit,
            applied,
        ];
        self.trace.note(noted);
        if let Some(line) = line.filter(|_| kind != 0) {
            let now_us = self.now_us;
            self.trace.show(now_us, || {
                format!("  n{node} g{group} t{term} a{applied} {line:.300}")
            });
        }
        if is_new_pending {
            self.node(node).process.to_flush.push(group);
            self.turn_soon(node);
        }
        self.observe(node, group, &effects);
        let is_more_than_time = kind != 0 || !effects.is_empty();
        self.depth += 1;
        self.perform(node, group, effects);
        self.depth -= 1;
        if is_more_than_time {
            self.look_at_bounds(node, group);
        }
        if is_more_than_time && self.depth == 0 {
            self.look_at_follows(node, group);
        }
    }

    fn perform(&mut self, node: u64, group: u32, effects: Vec<Effect>) {
        if effects.is_empty() {
            return;
        }
        let chance = if self.net.is_calm {
            0
        } else {
            self.plan.crash_in_step
        };
        let mut crash_after = None;
        if self.rng.chance(chance) {
            crash_after = Some(self.rng.below(effects.len() as u64) as usize);
        }
        let life = life_of(self, node);
        for (done, effect) in effects.into_iter().enumerate() {
            if life_of(self, node) != life || !self.node(node).is_up {
                // What an effect led to has ended the process.
                return;
            }
            if crash_after == Some(done) {
                self.coverage.hit("crash between effects");
                return self.crash(node);
            }
            self.trace.show(self.now_us, || {
                format!("    n{node} g{group} -> {effect:.300?}")
            });
            self.carry_out(node, group, effect);
        }
    }

    fn carry_out(&mut self, node: u64, group: u32, effect: Effect) {
        match effect {
            Effect::Persist(persist) => {
                self.node(node).persist(group, persist);
                self.turn_soon(node);
            }
            Effect::Install(persist) => {
                self.node(node).process.installs.push_back((group, persist));
                self.next_install(node);
            }
            Effect::Send(message) => self.send(node, &message),
            Effect::Hibernate { node: to, notice } => {
                let bytes = notice.encode_to_vec().into();
                self.by_link(node, to, Packet::Hibernate(bytes));
            }
            Effect::Forward {
                node: to,
                token,
                request,
            } => {
                let bytes = wire::encode_request(&request).unwrap().concat().into();
                self.forward(node, to, group, token, bytes);
            }
            Effect::CheckpointWanted => {
                self.coverage.hit("checkpoint wanted");
                self.node(node).process.is_wanted = true;
                self.begin_round(node);
            }
            Effect::FetchCheckpoint { node: giver, index } => {
                self.fetch(node, giver, group, index);
            }
            Effect::Trouble(bad) => {
                if bad != BadMessage::NotForUs {
                    self.find(format!("node {node} group {group} is in trouble: {bad}"));
                }
            }
            Effect::Reply { reply_to, outcome } => self.reply(node, reply_to, outcome),
            Effect::LeaderChanged => {
                self.coverage.hit("leader changed");
                self.assign_slots(node, group);
            }
            Effect::TablesChanged => self.share_tables(node),
            effect @ (Effect::WritePack { .. } | Effect::FindPack(_) | Effect::DeletePacks(_)) => {
                self.begin_cold(node, group, effect);
            }
            effect @ (Effect::Deliver { .. } | Effect::CheckHold { .. }) => {
                self.begin_saga(node, group, effect);
            }
            Effect::Tail { news, .. } => self.on_news(node, &news),
            Effect::ResumeBucketDeletion(_) => {}
        }
    }

    fn send(&mut self, node: u64, message: &RaftMessage) {
        let to = ursula::group::node_of(message.to);
        let bytes = bytes::Bytes::from(message.encode_to_vec());
        let late_order = [300_000, 800_000][usize::from(self.siege().is_some())];
        let mut arrivals = self
            .net
            .raft(&self.plan, &mut self.rng, node, to, self.now_us);
        self.net.note(node, to, &arrivals, &mut self.coverage);
        if message.r#type == TIMEOUT_NOW && !self.net.is_calm && self.rng.chance(late_order) {
            // The order to take over comes when its sender has long given it up, and cannot be told of what follows.
            self.coverage.hit("late order to take over");
            let late_us = self.rng.range(200_000, 1_500_000);
            let all = arrivals.iter_mut().flatten();
            all.for_each(|at_us| *at_us += late_us);
            self.queue.at(self.now_us + late_us, Event::Deafen(node));
        }
        if message.r#type == HEARTBEAT && message.context.is_some() {
            self.is_asking(node, message.group);
        }
        // Whatever process is there then: a message of Raft may outlive the one that it was meant for.
        let (from, life) = (life_of(self, node), life_of(self, to));
        let mut arrivals = arrivals.into_iter().flatten();
        let first = arrivals.next();
        let mut arrive = |at_us, bytes| {
            let event = Event::Arrive {
                from,
                to: life,
                packet: Packet::Raft(bytes),
            };
            self.queue.at(at_us, event);
        };
        for at_us in arrivals {
            arrive(at_us, bytes.clone());
        }
        if let Some(at_us) = first {
            arrive(at_us, bytes);
        }
    }

    fn forward(&mut self, node: u64, to: u64, group: u32, token: u64, bytes: bytes::Bytes) {
        let life = life_of(self, node);
        let is_linked = self.node(to).is_up && self.hears(to, life);
        if !is_linked || self.rng.chance(self.plan.link_loss / 4) {
            self.queue
                .at(self.now_us, Event::NotSent(life, group, token));
            return;
        }
        self.by_link(node, to, Packet::Ask(group, token, bytes));
    }

    /// Sends what is lost only if the link breaks, which both ends learn sooner, later or not at all.
    pub fn by_link(&mut self, from: u64, to: u64, packet: Packet) {
        let receiver = life_of(self, to);
        let arrival = self
            .net
            .link(&self.plan, &mut self.rng, from, to, self.now_us);
        if let Some(at_us) = arrival.filter(|_| self.node(to).is_up) {
            let event = Event::Arrive {
                from: life_of(self, from),
                to: receiver,
                packet,
            };
            return self.queue.at(at_us, event);
        }
        if self.rng.chance(500_000) {
            let (at_us, from_life) = (self.now_us + self.rng.below(500_000), life_of(self, from));
            let event = match packet {
                Packet::Reply(..) => Event::LinkLost(receiver, from, false),
                _ => Event::LinkLost(from_life, to, true),
            };
            self.queue.at(at_us, event);
        }
    }
}

fn kind_of(input: &Input) -> u64 {
    match input {
        Input::RaftTick | Input::GiveUpLate | Input::Tick => 0,
        Input::Request { request, .. } => match request.op {
            Asked::Create(_) => 1,
            Asked::Append(_) => 2,
            _ => 3,
        },
        Input::Forwarded { .. } => 4,
        Input::ForwardReply { .. } => 5,
        Input::NotSent { .. } => 6,
        Input::Peer(m) => 100 + u64::from(m.r#type),
        Input::LinkLost(_) => 7,
        Input::AnswersLost(_) => 8,
        Input::Fetched(_) => 9,
        Input::FetchFailed => 10,
        Input::TransferLeader(_) => 11,
        Input::Reconcile(_) => 12,
        Input::Hibernate { .. } => 15,
        Input::Flush => 13,
        Input::Persisted(_) => 14,
        Input::Cold(_) => 16,
        Input::RaiseLevel(_) => 17,
    }
}
