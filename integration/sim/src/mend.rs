//! Packs of a node that are damaged are put right with the bytes of the others, as `core/mend.rs` has it; where nobody gives them,
//! the node is built anew. Readers are asked to come back meanwhile.

use std::collections::BTreeMap;

use bytes::Bytes;
use storage::cold_pack;
use storage::pack::ChunkLocation;
use ursula::core::{location_of, needed_of};
use ursula::group::HeldChunk;
use ursula::meta::joining::are_sound;
use ursula::protocol::{
    ChunkRef, Incarnation, Offset, Op as Asked, Outcome, Piece, ReadPlan, Request, StreamKey,
};

use crate::cold::key_of;
use crate::event::{Event, Life};
use crate::saga::Task;
use crate::world::World;

/// Until the first attempt, and between two while checkpoints are written.
const SOON_US: u64 = 100_000;

/// Between two attempts, at first and later; and how many there are, if a node is down that may have the bytes.
const AGAIN_SOON_US: u64 = 1_000_000;
const AGAIN_US: u64 = 10_000_000;
const ATTEMPTS_MIN: u32 = 3;
const ATTEMPTS_MAX: u32 = 30;

/// Who has not answered by then is not waited for; how long counts that somebody has nothing, and what it has.
const ANSWER_WITHIN_US: u64 = 900_000;
const HAS_NONE_US: u64 = 2_000_000;
const HAS_SOME_US: u64 = 2 * AGAIN_US;

/// Bytes of a stream that a node is asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted {
    /// Who is asked.
    pub node: u64,
    /// The stream.
    pub key: StreamKey,
    /// Which at that key.
    pub incarnation: Incarnation,
    /// The first byte.
    pub from: u64,
    /// The one behind the last.
    pub to: u64,
}

/// When whom was asked, and the answer.
#[derive(Debug)]
pub struct CopyAsked {
    life: Life,
    at_us: u64,
    /// `None`: it comes later, or never.
    pub answer: Option<Outcome>,
}

/// What somebody has of wanted bytes.
#[derive(Debug)]
pub enum CopyFound<T> {
    /// All of them.
    Here(T),
    /// It does not have them.
    None,
    /// It has not answered yet.
    Pending,
}

impl World {
    /// Where a node has some bytes. One that answers later is looked at again by the next attempt.
    pub fn ask_for_copy(&mut self, wanted: Wanted) -> CopyFound<ReadPlan> {
        let life = self.node(wanted.node).life;
        let now_us = self.now_us;
        self.copies.retain(|_, asked| {
            let has_some = matches!(asked.answer, Some(Outcome::Read(_)));
            let counts_us = if has_some { HAS_SOME_US } else { HAS_NONE_US };
            asked.at_us + counts_us >= now_us
        });
        if self
            .copies
            .get(&wanted)
            .is_none_or(|asked| asked.life != life)
        {
            let asked = CopyAsked {
                life,
                at_us: now_us,
                answer: None,
            };
            self.copies.insert(wanted.clone(), asked);
            let op = Asked::ReadInherited {
                incarnation: wanted.incarnation,
                from: Offset(wanted.from),
                to: Offset(wanted.to),
            };
            let request = Request::on_key(wanted.key.clone(), op);
            self.ask_for(wanted.node, Task::Copy(Box::new(wanted.clone())), request);
        }
        match self.copies.get(&wanted) {
            Some(asked) => match &asked.answer {
                Some(Outcome::Read(plan)) => CopyFound::Here(plan.clone()),
                None if asked.at_us + ANSWER_WITHIN_US >= now_us => CopyFound::Pending,
                _ => CopyFound::None,
            },
            None => CopyFound::None,
        }
    }

    /// A piece is to be read from a pack that may be damaged.
    pub fn see_to_piece(&mut self, node: u64, piece: &Piece) {
        let Piece::Cold { chunk, group, .. } = piece else {
            return;
        };
        let found = self.node(node).disk.checkpoints.get(group);
        if found.is_some_and(|c| c.hurt.contains(&chunk.pack) && c.read_chunk(chunk, 0, 0).is_err())
        {
            self.see_to_pack(node, *group, chunk.pack);
        }
    }

    /// A pack is damaged, or lacks what is looked for.
    pub fn see_to_pack(&mut self, node: u64, group: u32, pack: u32) {
        let life = self.node(node).life;
        if self.node(node).process.mending.insert((group, pack)) {
            self.coverage.hit("a damaged pack found");
            self.queue
                .at(self.now_us + SOON_US, Event::Mend(life, group, pack, 0));
        }
    }

    /// Looks through the node's packs.
    pub fn scrub_packs(&mut self, node: u64) {
        for group in 0..=self.plan.groups as u32 {
            self.scrub_group(node, group);
        }
    }

    /// Looks through a group's packs, as also who gives its checkpoint to another node does.
    pub fn scrub_group(&mut self, node: u64, group: u32) {
        let me = self.node(node);
        let Some(found) = me.disk.checkpoints.get(&group).filter(|_| me.is_up) else {
            return;
        };
        let hurt = found
            .hurt
            .iter()
            .filter(|pack| !found.is_sound(**pack, &[]));
        for pack in hurt.copied().collect::<Vec<_>>() {
            self.see_to_pack(node, group, pack);
        }
    }

    /// What the streams have in a pack that the newest checkpoint names; `None`: it is not needed.
    fn needed(&self, node: u64, group: u32, pack: u32) -> Option<Vec<HeldChunk>> {
        let me = &self.nodes[node as usize - 1];
        let hosted = me.process.groups.get(&group)?;
        let found = me.disk.checkpoints.get(&group)?;
        if hosted.group.is_installing() || !found.manifest.packs.contains(&pack) {
            return None;
        }
        let (mut held, mut after) = (Vec::new(), None);
        loop {
            let (some, next) = hosted.group.chunks_of_pack(pack, after.as_ref());
            held.extend(some);
            after = next;
            if after.is_none() {
                return Some(held);
            }
        }
    }

    /// Mends a pack, or tries again later.
    pub fn mend(&mut self, life: Life, group: u32, pack: u32, tried: u32) {
        let node = life.node;
        if self.node(node).process.round.is_some() {
            // No checkpoint takes the pack away meanwhile.
            let again = Event::Mend(life, group, pack, tried);
            return self.queue.at(self.now_us + SOON_US, again);
        }
        let done = self.try_mend(life, group, pack);
        if self.node(node).life != life || !self.node(node).is_up {
            return;
        }
        if done {
            self.node(node).process.mending.remove(&(group, pack));
            return;
        }
        let members = self.members_known_to(node);
        let is_up = |n: u64| self.nodes[n as usize - 1].is_up;
        let attempts = match members.iter().all(|m| is_up(m.node())) {
            true => ATTEMPTS_MIN,
            false => ATTEMPTS_MAX,
        };
        if tried >= attempts {
            // It says so from when it asks until it knows the answers.
            if !std::mem::replace(&mut self.node(node).process.gives_up, true) {
                let asked_us = self.now_us + self.rng.latency(self.plan.delay_us);
                let give_up = Event::GiveUpReplicas(life, group, pack, tried);
                return self.queue.at(asked_us, give_up);
            }
            let again = Event::Mend(life, group, pack, tried);
            return self.queue.at(self.now_us + AGAIN_US, again);
        }
        let pause_us = [AGAIN_US, AGAIN_SOON_US][usize::from(tried < ATTEMPTS_MIN)];
        let again = Event::Mend(life, group, pack, tried + 1);
        self.queue.at(self.now_us + pause_us, again);
    }

    /// The others were asked whether they can do without this node.
    pub fn give_up_replicas(&mut self, life: Life, group: u32, pack: u32, tried: u32) {
        let node = life.node;
        let others: Vec<u64> = self.all_nodes().filter(|n| *n != node).collect();
        let (_, replies) = self.ask_some(node, &others, None);
        if let Err(reason) = are_sound(node, self.plan.nodes as usize, &replies) {
            self.coverage.hit("a rebuild waits for the others");
            self.trace.show(self.now_us, || {
                format!("node {node}: pack {pack} of group {group} stays damaged: {reason}")
            });
            self.node(node).process.gives_up = false;
            let again = Event::Mend(life, group, pack, tried);
            return self.queue.at(self.now_us + AGAIN_US, again);
        }
        self.coverage.hit("a pack that nobody can mend");
        self.trace.show(self.now_us, || {
            format!("node {node}: nobody can mend pack {pack} of group {group}")
        });
        self.wipe(node, true);
    }

    fn try_mend(&mut self, life: Life, group: u32, pack: u32) -> bool {
        let node = life.node;
        let Some(needed) = self.needed(node, group, pack) else {
            return true;
        };
        let places: Vec<ChunkLocation> = needed.iter().map(|h| location_of(&h.chunk)).collect();
        let found = &self.node(node).disk.checkpoints[&group];
        if found.is_sound(pack, &places) {
            return true;
        }
        let kept = found.read_sound(pack, &places);
        let mut chunks: BTreeMap<u64, (HeldChunk, ChunkRef, Bytes)> = BTreeMap::new();
        for (held, kept) in needed.into_iter().zip(kept) {
            let given = match kept {
                Some(bytes) => Some((held.chunk, bytes)),
                None => self.chunk_of_others(node, group, &held),
            };
            let Some((chunk, bytes)) = given else {
                return false;
            };
            chunks.insert(held.chunk.position, (held, chunk, bytes));
        }
        let me = self.node(node);
        if me.life != life || !me.is_up {
            return true;
        }
        let parts = chunks
            .values()
            .map(|(held, chunk, bytes)| (needed_of(held, chunk), bytes.clone()));
        let parts = parts.collect();
        let found = me.disk.checkpoints.get_mut(&group).expect("it was there");
        if let Err(wrong) = found.rebuild(pack, parts) {
            self.find(format!(
                "node {node}: pack {pack} of group {group}: {wrong}"
            ));
            return true;
        }
        let cut = chunks
            .values()
            .filter(|(held, chunk, _)| held.chunk != *chunk);
        let cuts: Vec<_> = cut.map(|(held, chunk, _)| (held.clone(), *chunk)).collect();
        if !cuts.is_empty() {
            self.coverage.hit("a chunk cut at its stream's floor");
        }
        self.coverage.hit("a pack mended");
        let hosted = self.node(node).process.groups.get_mut(&group);
        hosted.expect("it has the pack").group.cut_chunks(&cuts);
        self.begin_round(node);
        true
    }

    /// A chunk from any node that has it, or what is needed of it; where that lies then.
    fn chunk_of_others(
        &mut self,
        node: u64,
        group: u32,
        held: &HeldChunk,
    ) -> Option<(ChunkRef, Bytes)> {
        let chunk = held.chunk;
        let lost = (held.needed_from() - chunk.start) as u32;
        let own = &self.node(node).disk.checkpoints[&group];
        let before = match lost {
            0 => Some(Bytes::new()),
            _ => own.read_unverified(chunk.pack, chunk.position, lost),
        };
        for other in self.all_nodes().filter(|n| *n != node) {
            if !self.answers(node, other) {
                continue;
            }
            let wanted = Wanted {
                node: other,
                key: held.key.clone(),
                incarnation: held.incarnation,
                from: held.needed_from(),
                to: chunk.end(),
            };
            let CopyFound::Here(plan) = self.ask_for_copy(wanted) else {
                continue;
            };
            let Some(data) = self.bytes_anywhere(other, &plan.pieces) else {
                continue;
            };
            let crc32c = crc32c::crc32c(&data);
            if let Some(before) = &before {
                let all = crc32c::crc32c_combine(crc32c::crc32c(before), crc32c, data.len());
                if all == chunk.crc32c {
                    return Some((chunk, [&before[..], &data].concat().into()));
                }
            }
            if lost > 0 && data.len() as u64 == chunk.end() - held.needed_from() {
                let kept = ChunkRef {
                    position: chunk.position + u64::from(lost),
                    start: held.needed_from(),
                    length: chunk.length - lost,
                    crc32c,
                    ..chunk
                };
                return Some((kept, data));
            }
        }
        None
    }

    /// Bytes of a node's memory and packs, and of the store.
    fn bytes_anywhere(&self, node: u64, pieces: &[Piece]) -> Option<Bytes> {
        let mut all = Vec::new();
        for piece in pieces {
            let Piece::Stored {
                chunk,
                group,
                pack,
                from,
                to,
            } = piece
            else {
                all.extend(self.bytes_here(node, std::slice::from_ref(piece))?);
                continue;
            };
            if self.store.is_out(self.now_us) {
                return None;
            }
            let object = self.store.get(&key_of(*group, *pack))?;
            let begin = chunk.position as usize;
            let stored = object.get(begin..begin + chunk.stored as usize)?;
            let location = cold_pack::Location {
                position: chunk.position,
                length: chunk.length,
                stored: chunk.stored,
                crc32c: chunk.crc32c,
            };
            let opened = cold_pack::open(Bytes::copy_from_slice(stored), &location).ok()?;
            all.extend_from_slice(&opened[*from as usize..*to as usize]);
        }
        Some(all.into())
    }

    /// At the end, every pack that is needed is what was written.
    pub fn unmended(&self) -> Option<String> {
        let members = self.members();
        let is_member = |raft_id: u64| members.iter().any(|m| m.raft_id == raft_id);
        let reached = self.nodes.iter().filter(|n| self.is_reached(n));
        // What others have in place of who was replaced is looked at, and they need not be able to do without it.
        let counted = reached.filter(|n| n.identity.as_ref().is_some_and(|i| is_member(i.raft_id)));
        for node in counted {
            for (group, found) in &node.disk.checkpoints {
                for pack in &found.hurt {
                    let needed = self.needed(node.life.node, *group, *pack);
                    let Some(needed) = needed else {
                        continue;
                    };
                    let places = needed.iter().map(|held| location_of(&held.chunk));
                    if !found.is_sound(*pack, &places.collect::<Vec<_>>()) {
                        let node = node.life.node;
                        return Some(format!(
                            "pack {pack} of group {group} on node {node} is damaged"
                        ));
                    }
                }
            }
        }
        None
    }
}
