//! What of the streams lies in a pack, and how it is named where the pack is damaged or gone. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use storage::cold_pack::{self, Location, PackDamage};

use crate::protocol::{ColdChunk, StreamKey};

/// Streams and ranges that one text names; of more, how many there are.
const NAMED_MAX: usize = 50;

/// A chunk of a stream that lies in a pack.
#[derive(Debug, Clone)]
pub struct Needed {
    /// The stream.
    pub key: StreamKey,
    /// Which at that key.
    pub incarnation: u64,
    /// Where it lies, and which bytes of the stream it is.
    pub chunk: ColdChunk,
}

impl Needed {
    fn location(&self) -> Location {
        Location {
            position: self.chunk.position,
            length: self.chunk.length,
            stored: self.chunk.stored,
            crc32c: self.chunk.crc32c,
        }
    }

    /// Its bytes, out of the whole pack. Takes the time that decompression takes.
    ///
    /// # Errors
    /// They are not what was put.
    pub fn open(&self, object: &Bytes) -> Result<Bytes, PackDamage> {
        let at = self.location();
        let end = at.position.saturating_add(u64::from(at.stored));
        let stored = match end <= object.len() as u64 {
            // A copy: what is under way would keep the whole object in memory.
            true => Bytes::copy_from_slice(&object[at.position as usize..end as usize]),
            false => Bytes::new(),
        };
        cold_pack::open(stored, &at)
    }

    /// What is said of it where it cannot be opened.
    pub fn damage(&self) -> PackDamage {
        PackDamage::Chunk {
            position: self.chunk.position,
            length: self.chunk.length,
        }
    }
}

/// The bytes of streams that these chunks are, ranges that meet taken together.
pub fn ranges<'a>(
    needed: impl Iterator<Item = &'a Needed>,
) -> BTreeMap<&'a StreamKey, Vec<(u64, u64)>> {
    joined(needed.map(|needed| (&needed.key, needed.chunk.start, needed.chunk.end())))
}

/// Ranges by what they are of, in order, those that meet taken together.
pub fn joined<K: Ord>(ranges: impl Iterator<Item = (K, u64, u64)>) -> BTreeMap<K, Vec<(u64, u64)>> {
    let mut all: BTreeMap<K, Vec<(u64, u64)>> = BTreeMap::new();
    for (of, from, to) in ranges {
        all.entry(of).or_default().push((from, to));
    }
    for own in all.values_mut() {
        own.sort_unstable();
        let mut joined: Vec<(u64, u64)> = Vec::new();
        for (from, to) in own.drain(..) {
            match joined.last_mut() {
                Some(last) if last.1 >= from => last.1 = to.max(last.1),
                _ => joined.push((from, to)),
            }
        }
        *own = joined;
    }
    all
}

/// Names the streams and bytes.
pub fn needed_of<'a>(needed: impl Iterator<Item = &'a Needed>) -> String {
    let all = ranges(needed);
    let each = all.iter().flat_map(|(key, ranges)| {
        let text = move |(from, to): &(u64, u64)| format!("{key} bytes {from} to {to}");
        ranges.iter().map(text)
    });
    let mut texts: Vec<String> = each.collect();
    let more = texts.len().saturating_sub(NAMED_MAX);
    texts.truncate(NAMED_MAX);
    let more = match more {
        0 => String::new(),
        _ => format!(", and {more} more"),
    };
    format!("it has of streams: {}{more}", texts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_meet_are_named_as_one() {
        let needed = |key: &str, start: u64, length: u32| Needed {
            key: StreamKey::from_stored(key),
            incarnation: 1,
            chunk: ColdChunk {
                pack: 1,
                position: 0,
                start,
                length,
                stored: length,
                crc32c: 0,
            },
        };
        let all = [
            needed("/b", 5, 5),
            needed("/a", 10, 5),
            needed("/a", 0, 10),
            needed("/a", 20, 1),
        ];
        assert_eq!(
            needed_of(all.iter()),
            "it has of streams: /a bytes 0 to 15, /a bytes 20 to 21, /b bytes 5 to 10"
        );
    }
}
