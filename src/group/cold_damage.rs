//! Objects of the cold store that are damaged: what can be read of them is written again, and what cannot is left out, so that no
//! flush waits for it. What is found where is the shell's (`core/rescue.rs`).

use std::collections::BTreeMap;

use super::Group;
use super::cold::ColdSettings;
use crate::mutation;
use crate::protocol::PackName;

/// What is known of a chunk that its object does not hold any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkVerdict {
    /// No node has a copy.
    Lost,
    /// Copies are looked for.
    Sought,
    /// The streams have nothing in that object any more.
    Unneeded,
}

impl Group {
    /// An object is damaged: all of it that can be read is written again, and chunks at these places, of these lengths, are left
    /// where they are. `is_final`: all who may have a copy of those were asked. Only on a leader.
    pub fn write_again(&mut self, pack: u32, lost: BTreeMap<u64, u32>, is_final: bool) {
        if mutation::is_on("damaged-object-left") {
            return;
        }
        self.cold.damaged.insert(pack);
        self.cold.judged.remove(&pack);
        if is_final {
            let positions = lost.keys().copied().collect();
            self.cold.judged.insert(pack, positions);
        }
        if lost.is_empty() {
            self.cold.lost.remove(&pack);
        } else {
            self.cold.lost.insert(pack, lost);
        }
    }

    /// What a leader knows of a chunk that its object does not hold; `None`: it does not lead.
    pub fn judge_chunk(&self, pack: PackName, position: u64) -> Option<ChunkVerdict> {
        if !self.is_ready {
            return None;
        }
        let Some((number, _)) = self.cold_pack(pack) else {
            return Some(ChunkVerdict::Unneeded);
        };
        let judged = self.cold.judged.get(&number);
        Some(match judged.is_some_and(|lost| lost.contains(&position)) {
            true => ChunkVerdict::Lost,
            false => ChunkVerdict::Sought,
        })
    }

    /// A chunk at this place cannot be read: what is written again is so without it.
    pub fn leave_out(&mut self, pack: u32, position: u64, length: u32) {
        let lost = self.cold.lost.entry(pack).or_default();
        lost.insert(position, length);
    }

    /// A pack that counts, by its name: its number, and its size in bytes. Only on a leader.
    pub fn cold_pack(&self, name: PackName) -> Option<(u32, u64)> {
        self.known_pack(name).filter(|_| self.is_ready)
    }

    /// A pack that streams have bytes in, by its name, on any replica: its number, and its size in bytes.
    pub fn known_pack(&self, name: PackName) -> Option<(u32, u64)> {
        let mut packs = self.machine.cold.packs.iter();
        let found = packs.find(|(_, p)| p.name == name && p.live_bytes > 0);
        found.map(|(number, pack)| (*number, pack.object_bytes))
    }

    /// Bytes that streams have in a pack.
    pub fn live_bytes(&self, pack: u32) -> u64 {
        let known = self.machine.cold.packs.get(&pack);
        known.map_or(0, |p| p.live_bytes)
    }

    /// Sparse and damaged packs that have something which can be read.
    pub(super) fn to_write_again(&self, settings: &ColdSettings) -> impl Iterator<Item = u32> {
        let packs = &self.machine.cold.packs;
        let sparse = self.machine.cold.sparse(settings);
        let all = sparse.chain(self.cold.damaged.iter().copied());
        all.filter(|number| {
            let lost = self.cold.lost.get(number);
            let lost: u64 = lost.map_or(0, |l| l.values().map(|l| u64::from(*l)).sum());
            packs.get(number).is_some_and(|p| p.live_bytes > lost)
        })
    }
}
