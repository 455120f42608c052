//! Which bytes the next pack takes: of the streams that have waited longest, or of packs that are mostly dead.

use std::collections::{BTreeMap, BTreeSet};

use super::machine::Machine;
use super::stream::Places;
use crate::mutation;
use crate::protocol::{ColdChunk, ColdRange, Incarnation, Piece, StreamKey};

/// Chunks of which no copy was found, by pack and place, with their lengths.
pub(super) type Lost = BTreeMap<u32, BTreeMap<u64, u32>>;

/// Whether a chunk is among them.
pub(super) fn is_lost(lost: &Lost, chunk: &ColdChunk) -> bool {
    let pack = lost.get(&chunk.pack);
    pack.is_some_and(|lost| lost.contains_key(&chunk.position))
        && !mutation::is_on("unreadable-chunk-waited-for")
}

/// Largest chunk; a read of any byte of it reads all, since the checksum is of the whole.
pub(super) const CHUNK_BYTES_MAX: u64 = 256 << 10;

/// Chunks of one pack: publishing it is one command, which is applied at once.
const CHUNKS_MAX: usize = 8192;

/// Streams that one tick looks at for chunks of packs that are to be written again.
const LOOKS_PER_TICK: usize = 10_000;

/// A range of a stream that goes into a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) key: StreamKey,
    pub(super) incarnation: Incarnation,
    pub(super) range: ColdRange,
}

/// A chunk that the shell puts into a pack.
#[derive(Debug, Clone)]
pub struct PackSource {
    /// The stream.
    pub key: StreamKey,
    /// Which stream at that key.
    pub incarnation: Incarnation,
    /// First stream byte.
    pub start: u64,
    /// Where its bytes are now.
    pub pieces: Vec<Piece>,
}

/// A look for live chunks of sparse packs, in shares.
#[derive(Debug)]
pub(super) struct Search {
    pub(super) packs: BTreeSet<u32>,
    /// Packs of which chunks that were trimmed in part are moved too, since the objects are damaged.
    pub(super) damaged: BTreeSet<u32>,
    pub(super) next: Option<StreamKey>,
    pub(super) found: Vec<Chosen>,
    pub(super) bytes: u64,
}

impl Search {
    /// From the first stream on.
    pub(super) fn of(packs: BTreeSet<u32>, damaged: BTreeSet<u32>) -> Search {
        Search {
            packs,
            damaged,
            next: None,
            found: Vec::new(),
            bytes: 0,
        }
    }
}

impl Machine {
    /// Streams are queued for the cold store from now on.
    pub(super) fn turn_cold_on(&mut self) {
        self.cold.is_on = true;
        let stamp_ms = self.last_stamp_ms;
        for (key, stream) in &mut self.streams {
            if stream.unflushed_since_ms == u64::MAX {
                self.cold.note_append(key, stream, 0, stamp_ms);
            }
        }
    }

    /// What the next pack takes: the streams that have waited longest.
    pub(super) fn choose(&self, bytes_max: u64) -> Vec<Chosen> {
        let mut chosen = Vec::new();
        let mut bytes = 0;
        for (_, key) in &self.cold.queue {
            let Some(stream) = self.streams.get(key) else {
                continue;
            };
            let ranges = stream.bytes.unflushed(CHUNK_BYTES_MAX, bytes_max - bytes);
            for range in ranges {
                bytes += range.end - range.start;
                chosen.push(Chosen {
                    key: key.clone(),
                    incarnation: stream.incarnation,
                    range,
                });
            }
            if bytes >= bytes_max || chosen.len() >= CHUNKS_MAX {
                break;
            }
        }
        chosen
    }

    /// The bytes of a range, if the stream still has it.
    pub(super) fn source_of(&self, chosen: &Chosen) -> Option<PackSource> {
        let stream = self.streams.get(&chosen.key)?;
        let ColdRange { start, end } = chosen.range;
        let is_kept = start >= stream.bytes.kept_from()
            || stream
                .bytes
                .cold_chunk_at(start)
                .is_some_and(|c| c.end() == end);
        if stream.incarnation != chosen.incarnation || !is_kept {
            return None;
        }
        let name_of = |pack| self.cold.name_of(pack);
        let at = Places {
            group: self.group,
            name_of: &name_of,
        };
        let mut pieces = Vec::new();
        stream.bytes.plan(at, start, end, &mut pieces);
        Some(PackSource {
            key: chosen.key.clone(),
            incarnation: chosen.incarnation,
            start,
            pieces,
        })
    }

    /// Looks at a share of the streams. `Ok`: all were seen, or enough was found.
    pub(super) fn search(
        &self,
        mut search: Search,
        lost: &Lost,
        bytes_max: u64,
    ) -> Result<Vec<Chosen>, Search> {
        use std::ops::Bound;
        let from = match &search.next {
            Some(key) => Bound::Included(key.clone()),
            None => Bound::Unbounded,
        };
        for (looked, (key, stream)) in self.streams.range((from, Bound::Unbounded)).enumerate() {
            if search.bytes >= bytes_max || search.found.len() >= CHUNKS_MAX {
                return Ok(search.found);
            }
            if looked == LOOKS_PER_TICK {
                search.next = Some(key.clone());
                return Err(search);
            }
            let kept_from = stream.bytes.kept_from();
            let chunks = stream.bytes.cold_chunks().iter();
            // A chunk of which a part was trimmed stays where it is until the rest goes too.
            let is_whole = |c: &&ColdChunk| {
                let is_wanted = search.packs.contains(&c.pack) && !is_lost(lost, c);
                is_wanted && (c.start >= kept_from || search.damaged.contains(&c.pack))
            };
            let wanted: Vec<ColdChunk> = chunks.filter(is_whole).copied().collect();
            for chunk in wanted {
                search.bytes += u64::from(chunk.length);
                search.found.push(Chosen {
                    key: key.clone(),
                    incarnation: stream.incarnation,
                    range: ColdRange {
                        start: chunk.start,
                        end: chunk.end(),
                    },
                });
            }
        }
        Ok(search.found)
    }
}
