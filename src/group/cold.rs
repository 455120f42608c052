//! What goes into the cold store and when: which bytes of which streams the next pack takes, which packs are written
//! again, which objects can be deleted. Pure decisions of the leader; the shell carries them out (`core/flush.rs`).
//!
//! The log decides what counts. `BeginPack` says that an object of a name may be there from now on, so that no crash
//! leaves one that nobody knows of; `PublishPack` says that it is there, and every replica may then drop what it has of
//! those bytes (I6); `ForgetPacks` says that an object without a live byte was deleted. A name has the leader's term in
//! it: a deposed leader writes over nothing, and what it publishes late counts only where the stream still lacks it.
//! Owns the flush that is under way on a leader. Invariants: one flush at a time; a pack is named by chunks or dead.

use std::collections::{BTreeMap, BTreeSet};

use raftproto::command::{self, command::Kind};

use super::choose::{Chosen, Lost, PackSource, Search, is_lost};
use super::cold_state::ColdPack;
use super::{Effect, Group, packs};
use crate::mutation;
use crate::protocol::{ColdChunk, Incarnation, PackName, StreamKey};

/// A command that was not applied by then never will be.
const LOST_AFTER_MS: u64 = 60_000;

/// Packs of leaders before that are looked for at once; each is followed by a command.
const FINDING_MAX: usize = 16;

/// When a group flushes, rewrites and deletes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColdSettings {
    /// A pack of so many bytes is worth its request.
    pub pack_bytes: u64,
    /// Data that nobody added to for so long is flushed, whatever its size.
    pub flush_age_ms: u64,
    /// A pack with fewer live bytes than so many percent is written again.
    pub live_percent_min: u64,
    /// An object is deleted so long after nothing refers to it any more.
    pub grace_ms: u64,
    /// With a backup: how long ago a time may be that it can be restored to.
    pub backup_keep_ms: Option<u64>,
    /// Bytes of the group that stay in memory although the cold store has them.
    pub hot_bytes_target: u64,
}

/// A chunk as it lies in a pack; `pack` is not known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedChunk {
    /// The stream.
    pub key: StreamKey,
    /// Which stream at that key.
    pub incarnation: Incarnation,
    /// Where.
    pub chunk: ColdChunk,
}

/// What became of an order to the cold store.
#[derive(Debug, Clone)]
pub enum ColdAnswer {
    /// The pack is there: written, or found.
    There {
        /// Its name.
        name: PackName,
        /// Its size.
        object_bytes: u64,
        /// What it holds.
        chunks: Vec<PackedChunk>,
    },
    /// No object has this name; to [`Effect::FindPack`].
    Missing(PackName),
    /// An object with other content has this name: it is somebody else's.
    Conflict(PackName),
    /// It is not known whether it is there: ask again later.
    Failed(PackName),
    /// The objects of these packs are deleted.
    Deleted(Vec<u32>),
    /// Some may be there still.
    NotDeleted,
}

/// How far a flush is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Until the log has the intent.
    Begun,
    /// The shell has the order.
    Writing,
    /// The store did not take it.
    Waiting { until_ms: u64 },
    /// Until the log has it.
    Publishing,
}

#[derive(Debug)]
pub(super) struct Flush {
    name: PackName,
    chosen: Vec<Chosen>,
    pub(super) stage: Stage,
    /// When it came so far.
    since_ms: u64,
}

/// What a leader has under way. A new leadership begins with nothing.
#[derive(Debug, Default)]
pub(super) struct ColdWork {
    pub(super) settings: Option<ColdSettings>,
    pub(super) flush: Option<Flush>,
    search: Option<Search>,
    /// Intents that the shell looks for, and those that it found, until the log has them.
    finding: BTreeSet<PackName>,
    /// When an intent is looked for again.
    find_after_ms: BTreeMap<PackName, u64>,
    pub(super) is_deleting: bool,
    pub(super) delete_after_ms: u64,
    /// When something was learned last that had been proposed long before; `None`: nobody knows.
    pub(super) late_us: Option<u64>,
    /// Chunks that cannot be read, and packs that are written again although they are not sparse.
    pub(super) lost: Lost,
    /// Of those, by pack, what no node has a copy of.
    pub(super) judged: BTreeMap<u32, BTreeSet<u64>>,
    pub(super) damaged: BTreeSet<u32>,
    /// Packs whose end is on its way into the log, and when it must have been lost.
    pub(super) forgetting: BTreeMap<u32, u64>,
    term: u64,
    next_number: u32,
    pub(super) failures: u32,
    pub(super) retry_ms: u64,
    /// The shell wants room: flush what there is.
    is_pressed: bool,
    /// All before this time is in the backup, if there is to be one.
    pub(super) backed_up_ms: u64,
}

/// How a group stands with the cold store, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ColdFigures {
    /// Bytes that the cold store lacks.
    pub behind_bytes: u64,
    /// Since when it lacks some, in milliseconds.
    pub behind_ms: u64,
    /// Objects.
    pub packs: u64,
    /// Their size.
    pub object_bytes: u64,
    /// Bytes of all their chunks.
    pub chunk_bytes: u64,
    /// Those that streams refer to.
    pub live_bytes: u64,
    /// Objects that may be there unpublished.
    pub intents: u64,
}

impl ColdWork {
    /// A leader came or went: what was under way is found by the intents in the log.
    pub(super) fn reset(&mut self) {
        *self = ColdWork {
            settings: self.settings,
            late_us: self.late_us,
            term: self.term,
            next_number: self.next_number,
            ..ColdWork::default()
        };
    }

    /// The next name. `seed` is another one at each start of each process.
    fn name(&mut self, seed: u64, group: u32, term: u64) -> PackName {
        if self.term != term {
            (self.term, self.next_number) = (term, 0);
        }
        self.next_number += 1;
        let parts = [seed, u64::from(group), term, u64::from(self.next_number)];
        let parts: Vec<u8> = parts.iter().flat_map(|p| p.to_le_bytes()).collect();
        PackName {
            term,
            number: self.next_number,
            nonce: xxhash_rust::xxh3::xxh3_64(&parts),
        }
    }
}

impl Group {
    /// There is a cold store from now on.
    pub fn use_cold_store(&mut self, settings: ColdSettings) {
        self.cold.settings = Some(settings);
        self.machine.turn_cold_on();
    }

    /// The cold store is used, and the machine is another one.
    pub(super) fn keep_cold_on(&mut self) {
        self.cold.is_another();
        if self.cold.settings.is_some() {
            self.machine.turn_cold_on();
        }
    }

    /// The shell wants room: what there is shall be flushed, whatever its size.
    pub fn press_to_flush(&mut self) {
        self.cold.is_pressed = true;
    }

    /// How the group stands with the cold store.
    pub fn cold_figures(&self, now_ms: u64) -> ColdFigures {
        let state = &self.machine.cold;
        let sum = |of: fn(&ColdPack) -> u64| state.packs.values().map(of).sum();
        let oldest_ms = state.oldest_ms();
        ColdFigures {
            behind_bytes: state.unflushed_bytes,
            behind_ms: oldest_ms.map_or(0, |since_ms| now_ms.saturating_sub(since_ms)),
            packs: state.packs.len() as u64,
            object_bytes: sum(|p| p.object_bytes),
            chunk_bytes: sum(|p| p.chunk_bytes),
            live_bytes: sum(|p| p.live_bytes),
            intents: state.intents.len() as u64,
        }
    }

    /// Bytes that the cold store lacks.
    pub fn unflushed_bytes(&self) -> u64 {
        self.machine.cold.unflushed_bytes
    }

    /// The group has something to do with the cold store at `now_ms`.
    pub(super) fn has_cold_work(&self, now_ms: u64) -> bool {
        let Some(settings) = &self.cold.settings else {
            return false;
        };
        if !self.is_ready {
            return false;
        }
        let state = &self.machine.cold;
        let dead_before_ms = self.cold.dead_before_ms(settings, now_ms);
        let is_over = |since_ms: u64| dead_before_ms.is_some_and(|before_ms| since_ms <= before_ms);
        self.cold.flush.is_some()
            || self.cold.search.is_some()
            || !state.intents.is_empty()
            || state.is_due(settings, now_ms)
            || (self.cold.is_pressed && state.unflushed_bytes > 0)
            || state
                .packs
                .values()
                .any(|p| p.dead_since_ms.is_some_and(is_over))
            || self.to_write_again(settings).next().is_some()
    }

    /// Time has passed, or something was done: begins what is due. Only on a leader.
    pub(super) fn tend_cold_store(&mut self, effects: &mut Vec<Effect>) {
        let Some(settings) = self.cold.settings else {
            return;
        };
        self.find_intents(effects);
        self.delete_dead(&settings, effects);
        if let Some(flush) = &self.cold.flush {
            let is_lost = flush.since_ms.saturating_add(LOST_AFTER_MS) <= self.now_ms;
            match flush.stage {
                Stage::Waiting { until_ms } if until_ms <= self.now_ms => self.order_pack(effects),
                // Its command was not taken. If it is in the store, it is found by the log's intent.
                Stage::Begun | Stage::Publishing if is_lost => self.cold.flush = None,
                _ => {}
            }
            return;
        }
        // What a leader before may have flushed is found first, so that it is not paid for twice.
        if !self.cold.finding.is_empty() {
            return;
        }
        let is_pressed = std::mem::take(&mut self.cold.is_pressed);
        let is_due = self.machine.cold.is_due(&settings, self.now_ms) || is_pressed;
        let mut chosen = if is_due {
            self.machine.choose(settings.pack_bytes)
        } else {
            Vec::new()
        };
        if chosen.is_empty() {
            chosen = self.search_sparse(&settings);
        }
        if chosen.is_empty() {
            return;
        }
        let seed = self.raft.settings().seed;
        let name = self.cold.name(seed, self.id(), self.raft.term());
        let begin = command::BeginPack {
            name: Some(name.to_message()),
        };
        self.pending.push(Kind::BeginPack(begin), None);
        self.cold.flush = Some(Flush {
            name,
            chosen,
            stage: Stage::Begun,
            since_ms: self.now_ms,
        });
        if mutation::is_on("put-before-the-intent") {
            self.order_pack(effects);
        }
    }

    /// Commands were applied: the log may have the intent of the flush now, or its pack.
    pub(super) fn flush_on(&mut self, effects: &mut Vec<Effect>) {
        let Some(flush) = &self.cold.flush else {
            return;
        };
        let is_intended = self.machine.cold.intents.contains_key(&flush.name);
        match flush.stage {
            Stage::Begun if is_intended => self.order_pack(effects),
            Stage::Publishing if !is_intended => {
                self.cold.flush = None;
                self.tend_cold_store(effects);
            }
            _ => {}
        }
    }

    fn order_pack(&mut self, effects: &mut Vec<Effect>) {
        let now_ms = self.now_ms;
        let Some(flush) = &mut self.cold.flush else {
            return;
        };
        let (machine, lost) = (&self.machine, &self.cold.lost);
        let chunks: Vec<PackSource> = flush
            .chosen
            .iter()
            .filter(|chosen| {
                let stream = machine.streams.get(&chosen.key);
                let chunk = stream.and_then(|s| s.bytes.cold_chunk_at(chosen.range.start));
                chunk.is_none_or(|chunk| !is_lost(lost, chunk))
            })
            .filter_map(|chosen| machine.source_of(chosen))
            .collect();
        let name = flush.name;
        let was_put = flush.stage != Stage::Begun && !mutation::is_on("unsure-pack-cancelled");
        if chunks.is_empty() && was_put {
            // All its streams are gone, and an earlier put may have been done or may still arrive: it is looked for, as
            // one of a leader before.
            self.cold.flush = None;
            return self.find_intents(effects);
        }
        if chunks.is_empty() {
            // All its streams are gone before anything was put.
            (flush.stage, flush.since_ms) = (Stage::Publishing, now_ms);
            return self.cancel(name);
        }
        flush.stage = Stage::Writing;
        effects.push(Effect::WritePack { name, chunks });
    }

    /// The shell's answer.
    pub(super) fn on_cold(&mut self, answer: ColdAnswer, effects: &mut Vec<Effect>) {
        if !self.is_ready {
            return;
        }
        let now_ms = self.now_ms;
        match answer {
            ColdAnswer::There {
                name,
                object_bytes,
                chunks,
            } => {
                self.cold.forget_failures();
                if let Some(flush) = self.cold.flush.as_mut().filter(|f| f.name == name) {
                    (flush.stage, flush.since_ms) = (Stage::Publishing, now_ms);
                }
                if self.machine.cold.intents.contains_key(&name) {
                    // It stays among what is looked for: the log may stand still, and meanwhile it is neither proposed
                    // again nor put once more under another name.
                    self.cold.find_after_ms.insert(name, now_ms + LOST_AFTER_MS);
                    let publish = packs::publish_command(name, object_bytes, &chunks);
                    self.pending.push(Kind::PublishPack(publish), None);
                }
            }
            ColdAnswer::Failed(name) => {
                let until_ms = self.cold.retry_after_ms(now_ms);
                if self.cold.finding.remove(&name) {
                    self.cold.find_after_ms.insert(name, until_ms);
                }
                if let Some(flush) = self.cold.flush.as_mut().filter(|f| f.name == name) {
                    flush.stage = Stage::Waiting { until_ms };
                }
            }
            ColdAnswer::Missing(name) => {
                self.cold.finding.remove(&name);
                let settings = self.cold.settings;
                let grace_ms = settings.map_or(0, |s| s.grace_ms);
                let since_ms = self.machine.cold.intents.get(&name).copied();
                // A leader repeats its put for as long as it leads: what it put last may be younger than its intent.
                let since_ms = match mutation::is_on("grace-from-the-intent") {
                    true => since_ms,
                    false => since_ms.map(|since_ms| since_ms.max(self.leader_since_ms)),
                };
                let over_ms = since_ms.map_or(0, |since_ms| since_ms.saturating_add(grace_ms));
                if over_ms <= now_ms || mutation::is_on("intent-given-up-at-once") {
                    self.cancel(name);
                } else {
                    // A put of the leader before may still arrive.
                    self.cold.find_after_ms.insert(name, over_ms);
                }
            }
            ColdAnswer::Conflict(name) => {
                self.cold.finding.remove(&name);
                if let Some(flush) = self.cold.flush.as_mut().filter(|f| f.name == name) {
                    (flush.stage, flush.since_ms) = (Stage::Publishing, now_ms);
                }
                self.cancel(name);
            }
            ColdAnswer::Deleted(packs) => {
                self.cold.is_deleting = false;
                let lost_ms = now_ms + LOST_AFTER_MS;
                self.cold
                    .forgetting
                    .extend(packs.iter().map(|pack| (*pack, lost_ms)));
                let forget = command::ForgetPacks { packs };
                self.pending.push(Kind::ForgetPacks(forget), None);
            }
            ColdAnswer::NotDeleted => {
                self.cold.is_deleting = false;
                self.cold.delete_after_ms = self.cold.retry_after_ms(now_ms);
            }
        }
        self.tend_cold_store(effects);
    }

    fn cancel(&mut self, name: PackName) {
        let lost_ms = self.now_ms + LOST_AFTER_MS;
        self.cold.find_after_ms.insert(name, lost_ms);
        let cancel = command::CancelPack {
            name: Some(name.to_message()),
        };
        self.pending.push(Kind::CancelPack(cancel), None);
    }

    /// Looks for the packs that leaders before began and did not publish, as many as there is room for what follows.
    fn find_intents(&mut self, effects: &mut Vec<Effect>) {
        let own = self.cold.flush.as_ref().map(|f| f.name);
        let has_room = !self.is_above_uncommitted_max();
        for name in self.machine.cold.intents.keys() {
            let is_one_more = !self.cold.finding.contains(name);
            if is_one_more && (!has_room || self.cold.finding.len() >= FINDING_MAX) {
                continue;
            }
            let after_ms = self.cold.find_after_ms.get(name).copied();
            let is_late = after_ms.is_some_and(|after_ms| after_ms > self.now_ms);
            if Some(*name) == own || is_late {
                continue;
            }
            // Whether it is looked for, or was found so long ago that its command is lost.
            let is_again = self.cold.find_after_ms.remove(name).is_some();
            if self.cold.finding.insert(*name) || is_again {
                effects.push(Effect::FindPack(*name));
            }
        }
        let intents = &self.machine.cold.intents;
        self.cold.finding.retain(|name| intents.contains_key(name));
        let after_ms = &mut self.cold.find_after_ms;
        after_ms.retain(|name, _| intents.contains_key(name));
    }

    /// One share of the look for live chunks of packs that are mostly dead; answers them once all streams were seen.
    fn search_sparse(&mut self, settings: &ColdSettings) -> Vec<Chosen> {
        let search = match self.cold.search.take() {
            Some(search) => search,
            None => {
                let packs: BTreeSet<u32> = self.to_write_again(settings).collect();
                if packs.is_empty() {
                    self.cold.damaged.clear();
                    return Vec::new();
                }
                Search::of(packs, self.cold.damaged.clone())
            }
        };
        let searched = search.damaged.clone();
        match self
            .machine
            .search(search, &self.cold.lost, settings.pack_bytes)
        {
            Ok(found) => {
                // What was told of meanwhile is looked for next.
                if found.is_empty() {
                    self.cold.damaged.retain(|pack| !searched.contains(pack));
                }
                found
            }
            Err(unfinished) => {
                self.cold.search = Some(unfinished);
                Vec::new()
            }
        }
    }
}
