//! The loop of a core: what gathered goes into entries, one WAL write and sync for all groups, then commits are
//! applied and answered. While a sync is under way, the next turn's commands gather; reads do not wait.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use futures_lite::FutureExt;
use storage::wal::Record;

use super::Core;
use super::room::Room;
use crate::group::{Effect, Group, Input, Persist, ReplyTo, SavedHardState};
use crate::protocol::{Outcome, Refusal};

/// Kinds of WAL records. From 128 on they are repeated at the start of each segment and pin none.
pub mod kind {
    /// A normal entry.
    pub const ENTRY: u8 = 1;
    /// A membership change.
    pub const CONF_CHANGE: u8 = 2;
    /// A hard state: term as the term, commit as the index, vote as the payload.
    pub const HARD_STATE: u8 = 128;
}

/// How often time passes for the groups.
const TICK_MS: u64 = 250;

/// Turns whose times are kept.
const TURNS_MAX: usize = 64;

/// When a turn's commands were proposed, and when they were synced (0: not yet), in monotonic microseconds.
pub(super) struct TurnTimes {
    flushed_us: u64,
    synced_us: u64,
}

impl Core {
    /// Runs turns until the core stops.
    pub(super) async fn turns(self: Rc<Self>) {
        let mut seen = 0;
        loop {
            seen = self.turn.beyond(seen).await;
            self.flush_all();
            if !self.to_flush.borrow().is_empty() {
                // An entry takes several turns; the core does other things in between.
                futures_lite::future::yield_now().await;
            }
            while !self.unsynced.borrow().is_empty() {
                if self.sync().await.is_err() {
                    return;
                }
                // Within the loop: under load there is always something that gathered meanwhile.
                self.update_hot_bytes();
                self.look_at_room();
                self.checkpoint_if_due();
                self.flush_all();
            }
        }
    }

    fn flush_all(self: &Rc<Self>) {
        let groups = std::mem::take(&mut *self.to_flush.borrow_mut());
        if !groups.is_empty() {
            self.note_flush();
        }
        for id in groups {
            self.step(id, Input::Flush);
        }
    }

    /// Steps an own group and carries out the effects.
    pub(super) fn step(self: &Rc<Self>, id: u32, input: Input) {
        let mut effects = Vec::new();
        if self.is_failed.get() {
            return;
        }
        let now = self.clock.now();
        self.stepped_us.set(now.monotonic_us);
        if let Some(group) = self.groups.borrow_mut().get_mut(&id) {
            let had_pending = group.has_pending() && !matches!(input, Input::Flush);
            self.step_group(group, now, input, &mut effects);
            if group.has_pending() && !had_pending {
                self.to_flush.borrow_mut().push(id);
                self.turn.raise();
            }
        }
        self.perform(id, effects);
        self.metrics
            .task(now.monotonic_us, self.clock.monotonic_us());
    }

    /// Steps a group, and notes whether that woke it or let it sleep.
    pub(super) fn step_group(
        &self,
        group: &mut Group,
        now: crate::group::Now,
        input: Input,
        effects: &mut Vec<Effect>,
    ) {
        let was_asleep = group.is_asleep();
        group.step(now, input, effects);
        if group.is_asleep() != was_asleep {
            let mut awake = self.awake.borrow_mut();
            if !was_asleep {
                awake.remove(&group.id());
            } else if awake.insert(group.id()) && awake.len() == 1 {
                self.woke_us.set(now.monotonic_us);
                self.woke.raise();
            }
        }
    }

    /// Takes a ready on its way to the disk.
    pub(super) fn persist(self: &Rc<Self>, group: u32, persist: Persist) {
        if let Some(disk) = &self.disk {
            let mut failure = None;
            if let Some(hard_state) = persist.hard_state {
                failure = disk.wal.buffer(&hard_state_record(group, hard_state)).err();
            }
            for entry in persist.entries {
                let record = Record {
                    kind: if entry.is_conf_change {
                        kind::CONF_CHANGE
                    } else {
                        kind::ENTRY
                    },
                    group,
                    index: entry.index,
                    term: entry.term,
                    payload: entry.payload,
                };
                failure = failure.or(disk.wal.buffer(&record).err());
            }
            if let Some(error) = failure {
                self.fail(&error);
                return;
            }
        }
        self.unsynced
            .borrow_mut()
            .push_back((group, persist.number));
        self.turn.raise();
    }

    /// One write and one sync for everything that was buffered; then it counts as persisted.
    async fn sync(self: &Rc<Self>) -> Result<(), ()> {
        let batch = std::mem::take(&mut *self.unsynced.borrow_mut());
        self.sync_began_us.set(self.clock.monotonic_us());
        if let Some(disk) = &self.disk {
            let began_us = self.clock.monotonic_us();
            self.pace.begin(began_us);
            let committed = self.commit_when_there_is_room(&disk.wal).await;
            self.pace.end();
            match committed {
                Ok(committed) => {
                    let micros = self.clock.monotonic_us() - began_us;
                    disk.wal_bytes.set(disk.wal_bytes.get() + committed.bytes);
                    self.metrics
                        .wal_committed(committed.bytes, committed.records, micros);
                }
                Err(error) => {
                    self.fail(&error);
                    return Err(());
                }
            }
        }
        self.note_sync();
        for (group, number) in batch {
            self.step(group, Input::Persisted(number));
        }
        Ok(())
    }

    /// A write or sync failed: this core's groups stop for good. Nothing is retried, since after a failed sync
    /// nobody knows what is on disk.
    pub(super) fn fail(self: &Rc<Self>, error: &storage::StorageError) {
        if !self.is_failed.replace(true) {
            log::error!(
                "event=wal_failed core={} its groups stop for good: {error}",
                self.id
            );
            (self.progress)(super::Progress::LogFailed);
        }
        self.ready_changed.raise();
        self.leave_in_doubt();
    }

    /// Tells all who wait that nobody knows what became of it.
    pub(super) fn leave_in_doubt(&self) {
        let waiting: Vec<u64> = self.waiting.borrow().keys().copied().collect();
        for id in waiting {
            self.answer(ReplyTo(id), Outcome::Refused(Refusal::OutcomeUnknown));
        }
    }

    fn note_flush(&self) {
        let mut turns = self.turns.borrow_mut();
        if turns.len() >= TURNS_MAX {
            turns.pop_front();
        }
        turns.push_back(TurnTimes {
            flushed_us: self.clock.monotonic_us(),
            synced_us: 0,
        });
    }

    /// What was flushed and not synced before is synced now: a sync takes all that gathered.
    fn note_sync(&self) {
        let now_us = self.clock.monotonic_us();
        let mut turns = self.turns.borrow_mut();
        let unsynced = turns.iter_mut().rev().take_while(|t| t.synced_us == 0);
        let began_us = self.sync_began_us.get();
        for turn in unsynced.filter(|t| t.flushed_us <= began_us) {
            turn.synced_us = now_us;
        }
    }

    /// A write is about to be answered: how long was it in each stage? Refused before its turn, or of a turn that is
    /// forgotten, it has none.
    pub(super) fn metrics_of_write(&self, since_us: u64) {
        let turns = self.turns.borrow();
        let place = turns.partition_point(|turn| turn.flushed_us < since_us);
        // With a turn before it, or else one that was forgotten could be meant.
        let Some(turn) = turns.get(place) else {
            return;
        };
        if place == 0 && turns.len() >= TURNS_MAX {
            return;
        }
        let now_us = self.clock.monotonic_us();
        let stepped_us = self.stepped_us.get().max(turn.flushed_us);
        // A majority can have it before the own disk has.
        let synced_us = match turn.synced_us {
            0 => stepped_us,
            synced_us => synced_us.min(stepped_us),
        };
        self.metrics.committed([
            turn.flushed_us - since_us,
            synced_us.saturating_sub(turn.flushed_us),
            stepped_us.saturating_sub(synced_us),
            now_us.saturating_sub(stepped_us),
        ]);
    }

    fn update_hot_bytes(&self) {
        let hot = self
            .groups
            .borrow()
            .values()
            .map(crate::group::Group::hot_bytes)
            .sum();
        self.hot_bytes.set(hot);
        if self.config.cold.is_some() {
            self.update_unflushed();
        }
    }

    /// Lets time pass for the groups.
    pub(super) async fn ticks(self: Rc<Self>, pulse: std::sync::Arc<super::Pulse>) {
        let raft_tick_ms = self.config.raft_settings().tick_ms;
        // A node that is alone now may get company.
        let is_clustered = self.identity.cluster_listen.is_some();
        let tick_ms = if is_clustered { raft_tick_ms } else { TICK_MS };
        let (tick_us, look_us) = (tick_ms * 1000, TICK_MS * 1000);
        let mut looked_us = self.clock.monotonic_us();
        loop {
            // Never two ticks in a shorter time than one: a follower that counts too fast breaks its leader's lease.
            let tick_due_us = self.clock.monotonic_us() + tick_us;
            let due_us = self.until_tick(tick_due_us, looked_us + look_us).await;
            let ticked_us = self.clock.monotonic_us();
            self.metrics.ticked(ticked_us.saturating_sub(due_us));
            pulse.ticks.fetch_add(1, Ordering::Relaxed);
            if self.is_failed.get() {
                // The core lives on to say so.
                continue;
            }
            if is_clustered && self.room.get() != Room::None {
                self.raft_ticks();
            }
            if ticked_us < looked_us + look_us {
                continue;
            }
            looked_us = ticked_us;
            self.show_pulse(&pulse);
            if is_clustered {
                self.watch_lag();
            }
            self.watch_disk();
            self.watch_room();
            self.watch_load();
            self.watch_outage();
            self.post_late_news();
            self.balance();
            self.learn_members();
            self.reconcile();
            self.raise_level();
            if self.room.get() == Room::None {
                // Nothing that a tick proposes can be written, but nobody waits without end.
                let ids: Vec<u32> = self.groups.borrow().keys().copied().collect();
                for id in ids {
                    self.step(id, Input::GiveUpLate);
                }
                continue;
            }
            let now_ms = self.clock.now_ms();
            let groups = self.groups.borrow();
            let timed = groups.values().filter(|group| group.has_timed_work(now_ms));
            let ids: Vec<u32> = timed.map(Group::id).collect();
            debug_assert!(
                groups
                    .iter()
                    .all(|(id, g)| g.is_asleep() != self.awake.borrow().contains(id)),
                "who is awake is counted time for"
            );
            drop(groups);
            for id in ids {
                self.step(id, Input::Tick);
            }
        }
    }

    /// Waits for the next tick, or for the next look if that is later and all groups sleep until then: one that wakes is counted
    /// time for at once. Answers when it was due.
    async fn until_tick(&self, tick_us: u64, look_us: u64) -> u64 {
        let mut woken_us = 0;
        loop {
            let seen = self.woke.raised();
            let is_any_awake = !self.awake.borrow().is_empty();
            let due_us = match is_any_awake {
                true => tick_us.max(woken_us),
                false => tick_us.max(look_us),
            };
            let left_us = due_us.saturating_sub(self.clock.monotonic_us());
            if left_us == 0 {
                return due_us;
            }
            let slept = self.sleep(std::time::Duration::from_micros(left_us));
            if is_any_awake {
                slept.await;
                return due_us;
            }
            let woken = async {
                self.woke.beyond(seen).await;
                true
            };
            let slept = async {
                slept.await;
                false
            };
            if !slept.or(woken).await {
                return due_us;
            }
            woken_us = self.woke_us.get();
        }
    }

    fn show_pulse(&self, pulse: &super::Pulse) {
        let (mut led, mut without) = (0, 0);
        for group in self.groups.borrow().values() {
            led += u64::from(group.is_ready());
            without += u64::from(!group.has_leader());
        }
        pulse.groups_led.store(led, Ordering::Relaxed);
        pulse
            .groups_without_leader
            .store(without, Ordering::Relaxed);
    }

    fn raft_ticks(self: &Rc<Self>) {
        let ids: Vec<u32> = self.awake.borrow().iter().copied().collect();
        for id in ids {
            self.step(id, Input::RaftTick);
        }
    }

    /// Starts elections; with one voter each is won once its first entry is on disk.
    pub(super) fn campaign(self: &Rc<Self>, ids: Vec<u32>) {
        for id in ids {
            let mut effects: Vec<Effect> = Vec::new();
            let now = self.clock.now();
            if let Some(group) = self.groups.borrow_mut().get_mut(&id)
                && let Err(error) = group.campaign(now, &mut effects)
            {
                log::error!(
                    "event=campaign_failed group={id} error={error:?}",
                    error = error.to_string()
                );
            }
            self.perform(id, effects);
        }
    }
}

/// A hard state as a WAL record.
pub(super) fn hard_state_record(group: u32, hard_state: SavedHardState) -> Record {
    Record {
        kind: kind::HARD_STATE,
        group,
        index: hard_state.commit,
        term: hard_state.term,
        payload: hard_state.vote.to_le_bytes().to_vec().into(),
    }
}
