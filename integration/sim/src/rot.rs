//! Objects that are damaged where they lie, and what is done about it, as `core/rescue.rs`, `core/judge.rs` and `core/scrub.rs` have
//! it: readers are told, the leader looks for copies in memory and in local packs, on all nodes, has its group write again what is
//! sound or was found, and leaves out what is not. Some objects are restored by hand after a while.
//! Invariants: what is damaged is never an answer, and what a node has a copy of does not stay damaged.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use storage::cold::{ColdError, ColdKey};
use ursula::group::{ChunkVerdict, HeldColdChunk, node_of};
use ursula::protocol::{ColdChunk, Member, Offset, Outcome, PackName, Piece, Refusal};

use crate::backup::is_of_backup;
use crate::cold::{Came, key_of, packs};
use crate::event::{Event, Life};
use crate::mend::{CopyFound, Wanted};
use crate::saga::Reading;
use crate::world::World;

/// Readers have an object looked at again after so much.
const AGAIN_US: u64 = 60_000_000;

/// How long an object that is written again is waited for, and how often it is looked at.
const PATIENCE_US: u64 = 120_000_000;
const LOOK_US: u64 = 500_000;

/// What a process does about damaged objects.
#[derive(Default)]
pub struct Rescue {
    /// Copies that were found, until they are written.
    found: BTreeMap<(u32, PackName, u64), Bytes>,
    is_at_work: bool,
    seen_to: BTreeMap<(u32, PackName), u64>,
    /// Objects of which no copy was found of something.
    lost: BTreeSet<(u32, PackName)>,
}

impl Rescue {
    /// A copy that was found.
    pub fn get(&self, group: u32, pack: PackName, chunk: &ColdChunk) -> Option<&Bytes> {
        self.found.get(&(group, pack, chunk.position))
    }
}

/// An object that was looked through.
pub struct Looked {
    name: PackName,
    number: u32,
    held: Vec<HeldColdChunk>,
    /// Places of chunks that are not what was put.
    unsound: BTreeSet<u64>,
    /// It is known to be damaged, be it in what nobody refers to.
    is_damaged: bool,
}

/// An object that is being written again.
pub struct Awaited {
    group: u32,
    number: u32,
    lost_bytes: u64,
    until_us: u64,
}

impl World {
    /// The first damage, if there is to be any.
    pub fn schedule_rot(&mut self) {
        if self.plan.cold > 0 && self.plan.store_rot_us > 0 {
            let first_us = self.rng.latency(self.plan.store_rot_us);
            self.queue.at(first_us, Event::Rot);
        }
    }

    /// The first look of a process through its packs and its objects.
    pub fn schedule_scrub(&mut self, life: Life) {
        let has_rot = self.plan.cold > 0 && self.plan.store_rot_us > 0;
        if has_rot || self.plan.fault_damage > 0 {
            let at_us = self.now_us + self.rng.range(5_000_000, 60_000_000);
            self.queue.at(at_us, Event::Scrub(life));
        }
    }

    /// An object is not what was put any more.
    pub fn rot(&mut self) {
        if self.net.is_calm {
            return;
        }
        let next_us = self.now_us + self.rng.latency(self.plan.store_rot_us);
        self.queue.at(next_us, Event::Rot);
        let sound = self.store.keys().filter(|k| !self.store.is_spoilt(k));
        let sound = sound.filter(|k| !is_of_backup(k));
        let sound: Vec<ColdKey> = sound.cloned().collect();
        if sound.is_empty() {
            return;
        }
        let key = self.rng.choose(&sound).clone();
        let mut bytes = self.store.get(&key).map_or(Vec::new(), |b| b.to_vec());
        let at = self.rng.below(bytes.len().max(1) as u64) as usize;
        if self.rng.chance(300_000) || bytes.is_empty() {
            self.coverage.hit("an object cut at rest");
            bytes.truncate(at);
        } else {
            self.coverage.hit("a bit of an object flipped at rest");
            bytes[at] ^= 1 << self.rng.below(8);
        }
        self.trace
            .show(self.now_us, || format!("store: {key} is damaged at {at}"));
        self.store.spoil(&key, bytes.into());
        if self.rng.chance(300_000) {
            let at_us = self.now_us + self.rng.range(20_000_000, 200_000_000);
            self.queue.at(at_us, Event::Restore(key));
        }
    }

    /// Somebody puts an object right by hand.
    pub fn restore(&mut self, key: &ColdKey) {
        if self.store.restore(key) {
            self.coverage.hit("an object restored by hand");
            self.trace
                .show(self.now_us, || format!("store: {key} is restored"));
        }
    }

    /// A process looks through its packs, and the objects of the groups that it leads.
    pub fn scrub(&mut self, life: Life) {
        let node = life.node;
        let longest_us = [90_000_000, 20_000_000][usize::from(self.net.is_calm)];
        let at_us = self.now_us + self.rng.range(10_000_000, longest_us);
        self.queue.at(at_us, Event::Scrub(life));
        self.scrub_packs(node);
        if self.plan.cold == 0 || self.store.is_out(self.now_us) {
            return;
        }
        let mut damaged = Vec::new();
        let mut sound_again = Vec::new();
        let process = &self.nodes[node as usize - 1].process;
        for (group, hosted) in &process.groups {
            for (name, _) in hosted.group.cold_packs() {
                if self.store.is_spoilt(&key_of(*group, name)) {
                    damaged.push((*group, name));
                } else if process.rescue.lost.contains(&(*group, name)) {
                    sound_again.push((*group, name));
                }
            }
        }
        for (group, name) in sound_again {
            self.coverage.hit("an object found sound again");
            let process = &mut self.node(node).process;
            process.rescue.lost.remove(&(group, name));
            if let Some(hosted) = process.groups.get_mut(&group)
                && let Some((number, _)) = hosted.group.cold_pack(name)
            {
                hosted.group.write_again(number, BTreeMap::new(), true);
            }
        }
        if !damaged.is_empty() {
            let (group, name) = self.rng.pick(&damaged);
            self.rescue(node, group, name, true);
        }
    }

    /// A run of chunks was not what was put, twice: the reader is told what is known.
    pub fn damage_read(
        &mut self,
        node: u64,
        reading: &Reading,
        group: u32,
        pack: PackName,
        run: &[ColdChunk],
    ) {
        let key = key_of(group, pack);
        let chunk = run.iter().find(|c| self.store.is_chunk_spoilt(&key, c));
        let refusal = match chunk.copied() {
            // What came was judged, and it was damaged when it was sent.
            None if self.store.was_spoilt(&key) => Refusal::Unavailable,
            None => Refusal::DataDamaged,
            Some(chunk) => {
                let (from, to) = (Offset(chunk.start), Offset(chunk.end()));
                match self.judge_chunk(node, group, pack, chunk.position) {
                    ChunkVerdict::Unneeded => Refusal::Unavailable,
                    ChunkVerdict::Sought => Refusal::BytesSought { from, to },
                    ChunkVerdict::Lost => Refusal::BytesLost { from, to },
                }
            }
        };
        self.answer_client(&reading.op, &Outcome::Refused(refusal), None);
    }

    /// What is known of a chunk, and has it seen to; another node asks the group's leader.
    pub fn judge_chunk(
        &mut self,
        node: u64,
        group: u32,
        pack: PackName,
        position: u64,
    ) -> ChunkVerdict {
        let own = self.verdict(node, group, pack, position);
        if let Some(verdict) = own {
            return verdict;
        }
        let hosted = self.node(node).process.groups.get(&group);
        let leader = node_of(hosted.map_or(0, |h| h.group.leader()));
        if leader == 0 || leader == node || !self.answers(node, leader) {
            return ChunkVerdict::Sought;
        }
        let told = self.verdict(leader, group, pack, position);
        told.unwrap_or(ChunkVerdict::Sought)
    }

    fn verdict(
        &mut self,
        node: u64,
        group: u32,
        pack: PackName,
        position: u64,
    ) -> Option<ChunkVerdict> {
        let now_us = self.now_us;
        let process = &mut self.node(node).process;
        let verdict = process.groups.get(&group)?;
        let verdict = verdict.group.judge_chunk(pack, position)?;
        let rescue = &mut process.rescue;
        if verdict != ChunkVerdict::Unneeded && !rescue.is_at_work {
            rescue.seen_to.retain(|_, at| now_us - *at < AGAIN_US);
            if rescue.seen_to.insert((group, pack), now_us).is_none() {
                self.rescue(node, group, pack, false);
            }
        }
        Some(verdict)
    }

    /// The members by a node's tables, or as the cluster was founded.
    pub fn members_known_to(&self, node: u64) -> Vec<Member> {
        let known = &self.nodes[node as usize - 1].process.tables.members;
        match known.is_empty() {
            true => self.founders(),
            false => known.clone(),
        }
    }

    /// Another node is asked something, and answers.
    pub fn answers(&mut self, node: u64, other: u64) -> bool {
        let ways = [(node, other), (other, node)].map(|(from, to)| {
            self.net
                .link(&self.plan, &mut self.rng, from, to, self.now_us)
        });
        let there = &self.nodes[other as usize - 1];
        ways.iter().all(Option::is_some) && there.is_up && !there.is_paused
    }

    /// Looks through an object and has what is left of it written again.
    fn rescue(&mut self, node: u64, group: u32, name: PackName, is_damaged: bool) {
        let process = &mut self.node(node).process;
        let Some(hosted) = process.groups.get(&group) else {
            return;
        };
        let Some((number, _)) = hosted.group.cold_pack(name) else {
            return;
        };
        if std::mem::replace(&mut process.rescue.is_at_work, true) {
            return;
        }
        let (mut held, mut after) = (Vec::new(), None);
        loop {
            let (some, next) = hosted.group.chunks_of_cold_pack(number, after.as_ref());
            held.extend(some);
            after = next;
            if after.is_none() {
                break;
            }
        }
        held.sort_by_key(|held| held.chunk.position);
        self.spawn_cold(node, group, None, move |store, unsure| {
            Box::pin(async move {
                let packs = packs(&store, &unsure);
                let mut unsound = BTreeSet::new();
                for held in &held {
                    match packs.read(group, name, &[held.chunk], &|_, _| {}).await {
                        Ok(_) => {}
                        Err(ColdError::Corrupt { .. } | ColdError::NotFound { .. }) => {
                            unsound.insert(held.chunk.position);
                        }
                        Err(error) => return Came::Looked(Err(error)),
                    }
                }
                Came::Looked(Ok(Box::new(Looked {
                    name,
                    number,
                    held,
                    unsound,
                    is_damaged,
                })))
            })
        });
    }

    /// An object was looked through.
    pub fn looked(&mut self, life: Life, group: u32, looked: Result<Box<Looked>, ColdError>) {
        let node = life.node;
        let looked = match looked {
            Ok(looked) if looked.is_damaged || !looked.unsound.is_empty() => *looked,
            _ => {
                self.node(node).process.rescue.is_at_work = false;
                return;
            }
        };
        let others: Vec<u64> = self.all_nodes().filter(|n| *n != node).collect();
        let mut asked = vec![node];
        for other in others {
            if self.answers(node, other) {
                asked.push(other);
            }
        }
        let members = self.members_known_to(node);
        let is_final = members.iter().all(|m| asked.contains(&m.node()));
        let is_unsound = |held: &&HeldColdChunk| looked.unsound.contains(&held.chunk.position);
        let unsound = looked.held.iter().filter(is_unsound);
        let copies: Vec<_> = unsound
            .map(|held| (held, self.copy_of(&asked, held)))
            .collect();
        if copies
            .iter()
            .any(|(_, copy)| matches!(copy, CopyFound::Pending))
        {
            let again = Event::Looked(life, group, Box::new(looked));
            return self.queue.at(self.now_us + LOOK_US, again);
        }
        let mut lost = BTreeMap::new();
        for (held, copy) in copies {
            let position = held.chunk.position;
            match copy {
                CopyFound::Here(bytes) => {
                    self.coverage.hit("a copy of a damaged chunk");
                    let found = &mut self.node(node).process.rescue.found;
                    found.insert((group, looked.name, position), bytes);
                }
                CopyFound::None | CopyFound::Pending => {
                    self.coverage.hit("no copy of a damaged chunk");
                    lost.insert(position, held.chunk.length);
                }
            }
        }
        if self.node(node).life != life || !self.node(node).is_up {
            return;
        }
        let lost_bytes = lost.values().map(|length| u64::from(*length)).sum();
        let process = &mut self.node(node).process;
        if lost_bytes > 0 {
            process.rescue.lost.insert((group, looked.name));
        }
        if let Some(hosted) = process.groups.get_mut(&group) {
            hosted.group.write_again(looked.number, lost, is_final);
        }
        let awaited = Awaited {
            group,
            number: looked.number,
            lost_bytes,
            until_us: self.now_us + PATIENCE_US,
        };
        self.queue.at(
            self.now_us + LOOK_US,
            Event::Rescued(life, Box::new(awaited)),
        );
    }

    /// Is all that is left of an object in another one by now?
    pub fn rescued(&mut self, life: Life, awaited: Box<Awaited>) {
        let process = &mut self.nodes[life.node as usize - 1].process;
        let hosted = process.groups.get(&awaited.group);
        let left = hosted.map_or(0, |h| h.group.live_bytes(awaited.number));
        let leads = hosted.is_some_and(|h| h.group.is_ready());
        if left > awaited.lost_bytes && leads && self.now_us < awaited.until_us {
            let again = Event::Rescued(life, awaited);
            return self.queue.at(self.now_us + LOOK_US, again);
        }
        process.rescue.found.clear();
        process.rescue.is_at_work = false;
        if left <= awaited.lost_bytes {
            self.coverage.hit(match awaited.lost_bytes {
                0 => "a damaged object written again",
                _ => "a damaged object written again in part",
            });
        }
    }

    /// A chunk from the memory or the packs of one of these nodes.
    fn copy_of(&mut self, nodes: &[u64], held: &HeldColdChunk) -> CopyFound<Bytes> {
        let chunk = held.chunk;
        let mut is_pending = false;
        for node in nodes.iter().copied() {
            let wanted = Wanted {
                node,
                key: held.key.clone(),
                incarnation: held.incarnation,
                from: chunk.start,
                to: chunk.end(),
            };
            let asked = self.ask_for_copy(wanted);
            is_pending |= matches!(asked, CopyFound::Pending);
            let CopyFound::Here(plan) = asked else {
                continue;
            };
            let is_here = |p: &Piece| !matches!(p, Piece::Stored { .. } | Piece::Inherited { .. });
            if !plan.pieces.iter().all(is_here) {
                continue;
            }
            let bytes = self.bytes_here(node, &plan.pieces).unwrap_or_default();
            if bytes.len() == chunk.length as usize && crc32c::crc32c(&bytes) == chunk.crc32c {
                return CopyFound::Here(bytes.into());
            }
        }
        match is_pending {
            true => CopyFound::Pending,
            false => CopyFound::None,
        }
    }

    /// At the end: whoever runs the store restores what no node has, as soon as nothing else waits for it.
    pub fn restore_what_has_no_copy(&mut self) {
        let reached = self.nodes.iter().filter(|n| self.is_reached(n));
        let reached: Vec<u64> = reached.map(|n| n.life.node).collect();
        for group in 1..=self.plan.groups as u32 {
            let mut held = Vec::new();
            for node in &self.nodes {
                let hosted = node.process.groups.get(&group);
                let Some(leader) = hosted.map(|h| &h.group).filter(|g| g.is_ready()) else {
                    continue;
                };
                let figures = leader.cold_figures(0);
                if figures.intents > 0 || figures.behind_bytes > 0 {
                    continue;
                }
                for (key, incarnation, chunk, name) in leader.stored_chunks() {
                    let object = key_of(group, name);
                    if self.store.is_chunk_spoilt(&object, chunk) {
                        let held_chunk = HeldColdChunk {
                            key: key.clone(),
                            incarnation,
                            chunk: *chunk,
                            kept_from: 0,
                        };
                        held.push((object, held_chunk));
                    }
                }
            }
            for (object, held) in held {
                if matches!(self.copy_of(&reached, &held), CopyFound::None) {
                    self.restore(&object);
                }
            }
        }
    }
}
