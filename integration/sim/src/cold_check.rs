//! What must hold of the object store: I6, no object that is needed is deleted, none is forgotten.

use std::collections::BTreeSet;

use bytes::Bytes;
use storage::cold::ColdKey;
use storage::cold_pack;
use ursula::protocol::{ColdChunk, PackName};

use crate::backup::is_of_backup;
use crate::cold::key_of;
use crate::event::Event;
use crate::store::Ask;
use crate::world::World;

/// Within so much after the end of faults, everything is in the store that should be, and nothing else.
pub const SETTLED_WITHIN_US: u64 = 600_000_000;

impl World {
    /// A deletion arrives at the store: no replica that is as far as any may need what goes.
    pub fn look_at_deletion(&mut self, what: &Ask) {
        let Ask::Delete(keys) = what else {
            return;
        };
        let keys: BTreeSet<&ColdKey> = keys.iter().collect();
        self.look_at_backup(&keys);
        let mut needed = Vec::new();
        for group in 1..=self.plan.groups as u32 {
            let end = self.ledger.end(group);
            let newest = self.nodes.iter().find_map(|n| {
                let hosted = n.process.groups.get(&group).filter(|_| n.is_up);
                hosted.filter(|h| h.group.applied().index == end)
            });
            let Some(newest) = newest else {
                continue;
            };
            for (key, _, chunk, name) in newest.group.stored_chunks() {
                if keys.contains(&key_of(group, name)) {
                    needed.push(format!("{key} needs {chunk:?} of {name:?}"));
                }
            }
        }
        if let Some(first) = needed.first() {
            self.find(format!("an object is deleted that is needed: {first}"));
        }
    }

    /// Packs that count since this was called last are in the store.
    pub fn look_at_published(&mut self) {
        for (group, name) in self.ledger.take_published() {
            self.coverage.hit("pack published");
            if self.store.get(&key_of(group, name)).is_none() {
                self.find(format!(
                    "the log of group {group} counts {name:?}, which is not in the store"
                ));
            }
        }
    }

    /// Everything that should be in the store is there, whole (I6), and nothing else. `Some`: what is not so yet.
    pub fn unsettled(&self) -> Option<String> {
        if self.plan.cold == 0 {
            return None;
        }
        let mut known = BTreeSet::new();
        for group in 1..=self.plan.groups as u32 {
            let reached = self.nodes.iter().filter(|n| self.is_reached(n));
            let mut ready = reached.map(|n| &n.process.groups[&group].group);
            let Some(leader) = ready.find(|g| g.is_ready()) else {
                return Some(format!("group {group} has no leader"));
            };
            let figures = leader.cold_figures(0);
            if figures.intents > 0 || figures.behind_bytes > 0 {
                return Some(format!("group {group} has work to do: {figures:?}"));
            }
            let mut live = BTreeSet::new();
            for (key, incarnation, chunk, name) in leader.stored_chunks() {
                live.insert(key_of(group, name));
                if let Err(wrong) = self.check_chunk(group, incarnation.0, chunk, name) {
                    return Some(format!("{key} of group {group}: {wrong}"));
                }
            }
            for name in leader.cold_names() {
                let key = key_of(group, name);
                if !live.contains(&key) {
                    return Some(format!("group {group} keeps {key} for nothing"));
                }
                known.insert(key);
            }
        }
        let mut packs = self.store.keys().filter(|key| !is_of_backup(key));
        match packs.find(|key| !known.contains(*key)) {
            Some(key) => Some(format!("{key} is in the store and nobody knows of it")),
            None => self.uncollected(),
        }
    }

    fn check_chunk(
        &self,
        group: u32,
        incarnation: u64,
        chunk: &ColdChunk,
        name: PackName,
    ) -> Result<(), String> {
        let key = key_of(group, name);
        let object = self.store.get(&key).ok_or(format!("{key} is not there"))?;
        let range = chunk.position as usize..(chunk.position + u64::from(chunk.stored)) as usize;
        let stored = object.get(range).ok_or(format!("{key} ends early"))?;
        let location = cold_pack::Location {
            position: chunk.position,
            length: chunk.length,
            stored: chunk.stored,
            crc32c: chunk.crc32c,
        };
        let opened = cold_pack::open(Bytes::copy_from_slice(stored), &location);
        let opened = opened.map_err(|e| format!("{key}: {e}"))?;
        let content = self.ledger.content(group, incarnation);
        let range = chunk.start as usize..chunk.end() as usize;
        match content.get(range) == Some(&opened[..]) {
            true => Ok(()),
            false => Err(format!(
                "{chunk:?} of {key} is not what the stream has there"
            )),
        }
    }

    /// The time of a group never goes back: where a clock was ahead for a while, ages and graces wait until all are there
    /// again, which takes too long to be waited for.
    pub fn set_clocks_right(&mut self) {
        let (now_us, newest_ms) = (self.now_us, self.ledger.newest_ms);
        for node in &mut self.nodes {
            let behind_ms = newest_ms.saturating_sub(node.clock.at(now_us).wall_ms);
            node.clock.wall_offset_ms += behind_ms as i64;
        }
    }

    /// The first outage of the store.
    pub fn schedule_outages(&mut self) {
        if self.plan.cold > 0 && self.plan.store_out_us > 0 {
            let first_us = self.rng.latency(self.plan.store_out_us);
            self.queue.at(first_us, Event::StoreOut);
        }
    }
}
