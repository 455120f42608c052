//! What the commands about the cold store do to a group's state, the same on every replica: which packs count, which
//! chunks streams have in them, and what is before a stream's floor.
//! Assumes that commands are applied in log order. Invariants: a chunk refers to a pack that counts (I6).

use raftproto::command;

use super::cold::PackedChunk;
use super::cold_state::ColdPack;
use super::machine::{Machine, find};
use crate::mutation;
use crate::protocol::{ChunkRef, ColdChunk, Offset, Outcome, PackName, Refusal, StreamKey};

impl Machine {
    pub(super) fn begin_pack(&mut self, begin: &command::BeginPack) -> Outcome {
        let name = PackName::from_message(begin.name.as_ref());
        self.cold.intents.insert(name, self.last_stamp_ms);
        Outcome::Done
    }

    pub(super) fn cancel_pack(&mut self, cancel: &command::CancelPack) -> Outcome {
        let name = PackName::from_message(cancel.name.as_ref());
        self.cold.intents.remove(&name);
        Outcome::Done
    }

    pub(super) fn forget_packs(&mut self, forget: &command::ForgetPacks) -> Outcome {
        for pack in &forget.packs {
            let is_dead = |p: &ColdPack| p.dead_since_ms.is_some();
            if self.cold.packs.get(pack).is_some_and(is_dead) {
                self.cold.packs.remove(pack);
            }
        }
        Outcome::Done
    }

    /// The chunks of a pack count from here on: as the next bytes of their streams, or in the place of others that have
    /// the same bytes. What a stream has otherwise by now is dead in this pack.
    pub(super) fn publish_pack(&mut self, publish: command::PublishPack) -> Outcome {
        let name = PackName::from_message(publish.name.as_ref());
        if self.cold.intents.remove(&name).is_none() {
            // Published already, or given up.
            return Outcome::Done;
        }
        self.cold.next_pack += 1;
        let pack = self.cold.next_pack;
        let lengths = publish.chunks.iter().map(|c| u64::from(c.length));
        let known = ColdPack {
            name,
            object_bytes: publish.object_bytes,
            chunk_bytes: lengths.sum(),
            live_bytes: 0,
            dead_since_ms: None,
        };
        self.cold.packs.insert(pack, known);
        self.cold.has_published = true;
        for chunk in publish.chunks {
            self.publish_chunk(pack, &chunk);
        }
        if let Some(known) = self.cold.packs.get_mut(&pack)
            && known.live_bytes == 0
        {
            known.dead_since_ms = Some(self.last_stamp_ms);
            self.cold.has_ended = true;
        }
        Outcome::Done
    }

    fn publish_chunk(&mut self, pack: u32, published: &command::PackChunk) {
        let Some((key, stream)) = find(&mut self.streams, &published.key) else {
            return;
        };
        if stream.incarnation.0 != published.incarnation {
            return;
        }
        let chunk = ColdChunk {
            pack,
            position: published.position,
            start: published.start,
            length: published.length,
            stored: published.stored,
            crc32c: published.crc32c,
        };
        let packs = &mut self.packs;
        let mut gone = |local: &ChunkRef| {
            if let Some(live) = packs.get_mut(&local.pack) {
                *live -= u64::from(local.length);
            }
        };
        let was_packed_hot = stream.bytes.packed_hot();
        let mut is_moved = false;
        if stream.bytes.add_cold(chunk, &mut gone) {
            let (fewer, now_ms) = (u64::from(chunk.length), self.last_stamp_ms);
            self.cold.note_flushed(key, stream, fewer, now_ms);
        } else if let Some(before) = stream.bytes.move_cold(chunk) {
            is_moved = true;
            self.cold.remove_live(&before, self.last_stamp_ms);
        } else {
            return;
        }
        if let Some(pack) = was_packed_hot {
            self.packed_hot.remove(&(pack, key.clone()));
        }
        if let Some(pack) = stream.bytes.packed_hot() {
            self.packed_hot.insert((pack, key.clone()));
        }
        let key = key.clone();
        if !(is_moved && mutation::is_on("moved-chunk-not-counted")) {
            self.cold.add_live(&chunk);
        }
        self.mark_dirty(&key);
    }

    /// An explicit floor.
    pub(super) fn trim(&mut self, trim: &command::Trim) -> Outcome {
        let Some((key, stream)) = find(&mut self.streams, &trim.key) else {
            return Outcome::Refused(Refusal::NotFound);
        };
        if stream.soft_deleted {
            return Outcome::Refused(Refusal::Gone);
        }
        if trim.incarnation != 0 && stream.incarnation.0 != trim.incarnation {
            return Outcome::Refused(Refusal::NotFound);
        }
        if trim.offset > stream.tail {
            let tail = Offset(stream.tail);
            return Outcome::Refused(Refusal::OffsetBeyondTail { tail });
        }
        let key = key.clone();
        stream.floor = stream.floor.max(trim.offset);
        if let Some(kept) = &mut stream.retention {
            kept.trim(stream.floor, stream.tail);
        }
        self.mark_dirty(&key);
        self.look_at_kept(&key);
        self.drop_below_floor(&key);
        Outcome::Done
    }

    /// Bytes that no reader may have go, unless a fork holds them.
    pub(super) fn drop_below_floor(&mut self, key: &StreamKey) {
        let Some((key, stream)) = find(&mut self.streams, key.as_str()) else {
            return;
        };
        let is_held = !stream.holds.is_empty() && !mutation::is_on("trimmed-under-a-fork");
        if is_held || stream.floor <= stream.bytes.kept_from() {
            return;
        }
        if let Some(pack) = stream.bytes.packed_hot() {
            self.packed_hot.remove(&(pack, key.clone()));
        }
        let unflushed = stream.bytes.unflushed_len();
        let (packs, cold, stamp_ms) = (&mut self.packs, &mut self.cold, self.last_stamp_ms);
        let mut gone = |local: &ChunkRef| {
            if let Some(live) = packs.get_mut(&local.pack) {
                *live -= u64::from(local.length);
            }
        };
        self.hot_bytes -= stream.bytes.trim(stream.floor, &mut gone, &mut |chunk| {
            cold.remove_live(chunk, stamp_ms);
        });
        let fewer = unflushed - stream.bytes.unflushed_len();
        if fewer > 0 {
            let since_ms = stream.unflushed_since_ms;
            self.cold.note_flushed(key, stream, fewer, since_ms);
        }
        if let Some(pack) = stream.bytes.packed_hot() {
            self.packed_hot.insert((pack, key.clone()));
        }
    }
}

/// The command that makes these chunks count.
pub(super) fn publish_command(
    name: PackName,
    object_bytes: u64,
    chunks: &[PackedChunk],
) -> command::PublishPack {
    let chunk_of = |packed: &PackedChunk| command::PackChunk {
        key: packed.key.as_str().to_owned(),
        incarnation: packed.incarnation.0,
        start: packed.chunk.start,
        length: packed.chunk.length,
        position: packed.chunk.position,
        stored: packed.chunk.stored,
        crc32c: packed.chunk.crc32c,
    };
    command::PublishPack {
        name: Some(name.to_message()),
        object_bytes,
        chunks: chunks.iter().map(chunk_of).collect(),
    }
}
