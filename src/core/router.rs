//! Where a request goes: stream key, slot, group, core. One way for all: the own core is a call, another one a
//! message.

use std::rc::Rc;

use super::message::CoreReport;
use super::signal::slot;
use super::{Core, Message, Waiting};
use crate::group::{Effect, Group, Input, ReplyTo};
use crate::ops::metrics::add;
use crate::protocol::{GroupTarget, Op, Outcome, Refusal, Request, StreamKey, TailNews};

/// What frees something is never refused at a bound.
fn gives_back(request: &Request) -> bool {
    matches!(request.op, Op::Unwatch { .. })
}

impl Core {
    /// Asks the group that a request is for, wherever it lives.
    pub(super) async fn ask(self: &Rc<Self>, request: Request) -> Outcome {
        let Some(group) = self.group_of(&request) else {
            return Outcome::Refused(Refusal::Unavailable);
        };
        if let Some(refusal) = self.refuse_at_bound(&request) {
            return Outcome::Refused(refusal);
        }
        let owner = self.owner(group);
        let (slot, filled) = slot();
        if owner == self.id {
            let since_us = self.clock.monotonic_us();
            let is_write = matches!(request.op, Op::Append(_) | Op::Create(_) | Op::Delete);
            let reply_to = self.reply_to(Waiting::Here {
                slot,
                since_us,
                is_write,
            });
            self.give(group, request, reply_to);
        } else {
            let id = self.next_id();
            self.asked.borrow_mut().insert(id, slot);
            add(&self.metrics.plain.core_hops_total, 1);
            let must_arrive = gives_back(&request);
            let message = Message::Request { id, request };
            if must_arrive {
                self.post_answer(owner, message);
            } else if self.post(owner, message).is_err() {
                self.asked.borrow_mut().remove(&id);
                return Outcome::Refused(self.overloaded("core_queue"));
            }
        }
        filled
            .await
            .unwrap_or(Outcome::Refused(Refusal::OutcomeUnknown))
    }

    pub(super) fn group_of(&self, request: &Request) -> Option<u32> {
        match &request.target {
            GroupTarget::Key(key) => self.tables.borrow().group_of(key.slot()),
            GroupTarget::Meta => Some(0),
            GroupTarget::Group(group) => Some(*group),
        }
    }

    fn refuse_at_bound(&self, request: &Request) -> Option<Refusal> {
        let waiting = self.waiting.borrow().len() + self.asked.borrow().len();
        let is_full = waiting as u64 >= self.config.requests_in_flight_max;
        (is_full && !gives_back(request)).then(|| self.overloaded("requests_in_flight_max"))
    }

    fn overloaded(&self, bound: &'static str) -> Refusal {
        self.metrics.refused(bound);
        Refusal::Overloaded { bound }
    }

    /// At the core that owns the group, whose memory it is.
    fn refuse_growth(&self, group: u32, request: &Request) -> Option<Refusal> {
        let grows = matches!(&request.op, Op::Append(a) if !a.body.is_empty())
            || matches!(request.op, Op::Create(_));
        if !grows {
            return None;
        }
        if self.room.is_full() && !self.is_led_elsewhere(group) {
            return Some(self.overloaded("disk_space"));
        }
        if self.unflushed_bytes.get() >= self.config.cold_behind_bytes_max {
            return Some(self.overloaded("cold_behind_bytes_max"));
        }
        let is_full = self.hot_bytes.get() >= self.config.hot_bytes_max;
        is_full.then(|| self.overloaded("hot_bytes_max"))
    }

    /// Another node leads the group, and this one only sends on what is asked of it.
    fn is_led_elsewhere(&self, group: u32) -> bool {
        let groups = self.groups.borrow();
        let group = groups.get(&group);
        group.is_some_and(|g| g.leader() != 0 && !g.is_leader())
    }

    /// Gives a request to an own group.
    fn give(self: &Rc<Self>, group: u32, request: Request, reply_to: ReplyTo) {
        self.give_input(group, Input::Request { request, reply_to }, reply_to);
    }

    /// The same for a request of whatever origin.
    pub(super) fn give_input(self: &Rc<Self>, group: u32, input: Input, reply_to: ReplyTo) {
        if self.is_failed.get() {
            self.answer(reply_to, Outcome::Refused(Refusal::Unavailable));
            return;
        }
        if let Input::Request { request, .. } | Input::Forwarded { request, .. } = &input
            && let Some(refusal) = self.refuse_growth(group, request)
        {
            self.answer(reply_to, Outcome::Refused(refusal));
            return;
        }
        let mut effects = Vec::new();
        let now = self.clock.now();
        let began_us = now.monotonic_us;
        self.stepped_us.set(began_us);
        {
            let mut groups = self.groups.borrow_mut();
            let Some(group) = groups.get_mut(&group) else {
                drop(groups);
                self.answer(reply_to, Outcome::Refused(Refusal::Unavailable));
                return;
            };
            let had_pending = group.has_pending();
            self.step_group(group, now, input, &mut effects);
            if group.has_pending() && !had_pending {
                self.to_flush.borrow_mut().push(group.id());
                self.turn.raise();
            }
        }
        self.perform(group, effects);
        self.metrics.task(began_us, self.clock.monotonic_us());
    }

    /// Carries out what a group wants done.
    pub(super) fn perform(self: &Rc<Self>, group: u32, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Persist(persist) => self.persist(group, persist),
                Effect::Reply { reply_to, outcome } => {
                    self.count_refusal(group, &outcome);
                    self.answer(reply_to, outcome);
                }
                Effect::Tail { cores, news } => self.tell(&cores, &news),
                Effect::TablesChanged => self.share_tables(),
                Effect::LeaderChanged => self.leader_changed(group),
                Effect::Send(message) => self.send_to_peer(message),
                Effect::Forward {
                    node,
                    token,
                    request,
                } => self.forward(group, node, token, &request),
                Effect::Hibernate { node, notice } => self.tell_of_sleep(node, notice),
                Effect::Trouble(bad) => self.trouble(group, bad),
                Effect::CheckpointWanted => self.checkpoint_wanted(group),
                Effect::FetchCheckpoint { node, index } => {
                    self.fetch_checkpoint(group, node, index)
                }
                Effect::Install(persist) => self.install(group, persist),
                Effect::WritePack { name, chunks } => self.write_pack(group, name, chunks),
                Effect::FindPack(name) => self.find_pack(group, name),
                Effect::DeletePacks(packs) => self.delete_packs(group, packs),
                saga @ (Effect::Deliver { .. }
                | Effect::CheckHold { .. }
                | Effect::ResumeBucketDeletion(_)) => {
                    self.spawn_saga(group, saga);
                }
            }
        }
    }

    /// Counts what the group's own logic refused at a bound; not what another node's leader did, which counts it.
    fn count_refusal(&self, group: u32, outcome: &Outcome) {
        let Outcome::Refused(Refusal::Overloaded { bound }) = outcome else {
            return;
        };
        let groups = self.groups.borrow();
        if *bound == "requests_without_leader" || groups.get(&group).is_some_and(Group::is_ready) {
            self.metrics.refused(bound);
        }
    }

    pub(super) fn answer(&self, reply_to: ReplyTo, outcome: Outcome) {
        let waiting = self.waiting.borrow_mut().remove(&reply_to.0);
        match waiting {
            None => {}
            Some(Waiting::Here {
                slot,
                since_us,
                is_write,
            }) => {
                if is_write {
                    self.metrics_of_write(since_us);
                }
                slot.fill(outcome);
            }
            Some(Waiting::There { core, id, since_us }) => {
                self.metrics_of_write(since_us);
                self.post_answer(core, Message::Reply { id, outcome });
            }
            Some(Waiting::OtherNode {
                node,
                group,
                token,
                since_us,
            }) => {
                self.metrics_of_write(since_us);
                self.reply_to_peer(node, group, token, &outcome);
            }
        }
    }

    fn tell(self: &Rc<Self>, cores: &[u16], news: &TailNews) {
        for core in cores {
            if *core == self.id {
                self.on_news(news.clone());
            } else {
                self.post_news(*core, news.clone());
            }
        }
    }

    /// Posts news; where too much waits for that core already, only the newest state of each stream is kept, without
    /// bytes: its readers read what they missed.
    fn post_news(&self, core: u16, news: TailNews) {
        let mut late = self.late_news.borrow_mut();
        let place = (core, news.key.clone());
        let news = match late.get_mut(&place) {
            Some(known) => {
                known.merge(news);
                return;
            }
            None => news,
        };
        if let Err(Message::News(mut news)) = self.post(core, Message::News(news)) {
            news.pieces = Vec::new();
            late.insert(place, news);
        }
    }

    /// Tries again to post what had to wait.
    pub(super) fn post_late_news(&self) {
        let late = std::mem::take(&mut *self.late_news.borrow_mut());
        for ((core, _), news) in late {
            self.post_news(core, news);
        }
    }

    fn on_news(self: &Rc<Self>, news: TailNews) {
        if self.hub.on_news(&news, self.clock.monotonic_us()) || news.ended {
            return;
        }
        // Nobody here follows the stream any more, and the group does not know.
        self.unwatch(news.key);
    }

    /// Tells a stream's group that this core has no reader of it, unless one has come meanwhile.
    pub(super) fn unwatch(self: &Rc<Self>, key: StreamKey) {
        let core = self.clone();
        super::tasks::spawn(async move {
            if core.hub.follows(&key) {
                return;
            }
            let op = Op::Unwatch { core: core.id };
            core.ask(Request::on_key(key, op)).await;
        })
        .detach();
    }

    pub(super) fn share_tables(self: &Rc<Self>) {
        let Some(mut tables) = self
            .groups
            .borrow()
            .get(&0)
            .and_then(crate::group::Group::tables)
        else {
            return;
        };
        self.learnt.add_to(&mut tables);
        let tables = std::sync::Arc::new(tables);
        *self.tables.borrow_mut() = tables.clone();
        self.share_level();
        self.follow_members();
        self.ready_changed.raise();
        for core in (0..self.cores).filter(|c| *c != self.id) {
            self.post_answer(core, Message::Tables(tables.clone()));
        }
    }

    #[expect(
        clippy::result_large_err,
        reason = "the message goes back to the caller whole"
    )]
    pub(super) fn post(&self, core: u16, message: Message) -> Result<(), Message> {
        match &*self.mesh.borrow() {
            Some(mesh) => mesh.post(core, message),
            None => Err(message),
        }
    }

    /// Posts what the other core waits for; see [`super::mesh::Mesh::deliver`].
    pub(super) fn post_answer(&self, core: u16, message: Message) {
        if let Some(mesh) = &*self.mesh.borrow() {
            mesh.deliver(core, message);
        }
    }

    /// Takes a message of another core.
    pub(super) fn on_message(self: &Rc<Self>, from: u16, message: Message) {
        match message {
            Message::Request { id, request } => {
                let since_us = self.clock.monotonic_us();
                let reply_to = self.reply_to(Waiting::There {
                    core: from,
                    id,
                    since_us,
                });
                match self.group_of(&request) {
                    Some(group) => self.give(group, request, reply_to),
                    None => self.answer(reply_to, Outcome::Refused(Refusal::Unavailable)),
                }
            }
            Message::Reply { id, outcome } => {
                let slot = self.asked.borrow_mut().remove(&id);
                if let Some(slot) = slot {
                    slot.fill(outcome);
                }
            }
            Message::News(news) => self.on_news(news),
            Message::Tables(tables) => {
                *self.tables.borrow_mut() = tables;
                self.share_level();
                self.follow_members();
                self.ready_changed.raise();
            }
            Message::FromPeer { node, batch } => self.on_peer_batch(node, *batch),
            Message::Guest {
                node,
                address,
                core,
                is_open,
            } => self.note_guest(node, address, core, is_open),
            Message::Speaks { node } => self.hurry_link(node),
            Message::PeerRoom { node, has_room } => {
                self.pace.note_room(node, has_room);
            }
            Message::TransferLeaders { group, to_node } => self.transfer_leaders(group, to_node),
            Message::Leader { group, node } => self.note_leader(group, node),
            Message::DamagedPack { group, pack, error } => self.see_to_pack(group, pack, error),
            Message::JudgeChunk { id, chunk, may_ask } => {
                self.judge_for_core(from, id, chunk, may_ask);
            }
            Message::ChunkJudged { id, verdict } => {
                let judging = self.tier.judging.borrow_mut().remove(&id);
                if let Some(slot) = judging {
                    slot.fill(verdict);
                }
            }
            Message::WantChunk { id, chunk, is } => self.give_chunk(from, id, chunk, is),
            Message::Chunk { id, bytes } => {
                let slot = self.tier.asked.borrow_mut().remove(&id);
                if let Some(slot) = slot {
                    slot.fill(bytes);
                }
            }
            Message::Probe { id, with_hashes } => {
                let report = Box::new(self.report(with_hashes));
                if self.post(from, Message::Probed { id, report }).is_err() {
                    log::warn!("event=probe_lost core={from}");
                }
            }
            Message::Probed { id, report } => {
                let slot = self.probed.borrow_mut().remove(&id);
                if let Some(slot) = slot {
                    slot.fill(*report);
                }
            }
        }
    }

    /// How this core is.
    pub(super) fn report(&self, with_hashes: bool) -> CoreReport {
        let plain = &self.metrics.plain;
        let groups = self.groups.borrow();
        plain
            .streams
            .set(groups.values().map(|g| g.stream_count() as u64).sum());
        plain.hot_bytes.set(self.hot_bytes.get());
        plain.live_readers.set(self.hub.readers());
        plain.body_bytes_in_flight.set(self.body_bytes.get());
        plain
            .groups_ready
            .set(groups.values().filter(|g| g.has_leader()).count() as u64);
        self.report_cluster(&groups);
        self.report_cold();
        if self.config.dr {
            self.report_backup();
        }
        if let Some(disk) = &self.disk {
            plain.wal_segments.set(disk.wal.pinned().segments as u64);
            let written = disk.wal_bytes.get();
            let since = written.saturating_sub(disk.checkpointed_at.get());
            plain.wal_uncheckpointed_bytes.set(since);
        }
        CoreReport {
            snapshot: self.metrics.snapshot(self.id, self.gauges(&groups)),
            groups: groups
                .values()
                .map(|group| self.group_status(group, with_hashes))
                .collect(),
            live_readers: self.hub.readers(),
            reactor_stalls: plain.reactor_stalls_total.get(),
            groups_waiting: groups.values().filter(|g| !g.has_leader()).count() as u32,
            failed: self.is_failed.get(),
            disk_full: self.room.is_full(),
            is_stopping: self.stop.raised() > 0,
            standing: self.standing(),
            has_slots: !self.tables.borrow().slots.is_empty(),
            gives_up_replicas: self.damage.gives_up.get(),
        }
    }

    /// Asks all cores how they are; `None` for those that do not answer within a second.
    pub(super) async fn probe_all(self: &Rc<Self>, with_hashes: bool) -> Vec<Option<CoreReport>> {
        let mut waits = Vec::new();
        let mut asked = Vec::new();
        for core in 0..self.cores {
            let (slot, filled) = slot();
            if core == self.id {
                slot.fill(self.report(with_hashes));
            } else {
                let id = self.next_id();
                asked.push(id);
                self.probed.borrow_mut().insert(id, slot);
                if self.post(core, Message::Probe { id, with_hashes }).is_err() {
                    self.probed.borrow_mut().remove(&id);
                }
            }
            waits.push(filled);
        }
        let deadline_us = self.clock.monotonic_us() + 1_000_000;
        let mut reports = Vec::new();
        for filled in waits {
            let left_us = deadline_us.saturating_sub(self.clock.monotonic_us());
            let timeout = async {
                self.sleep(std::time::Duration::from_micros(left_us)).await;
                None
            };
            reports.push(futures_lite::FutureExt::or(filled, timeout).await);
        }
        // An answer that comes later finds nobody.
        for id in asked {
            self.probed.borrow_mut().remove(&id);
        }
        reports
    }
}
