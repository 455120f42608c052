//! Writes a pack anew, in its own place, from the chunks that are still needed; others of it become zeros.
//! Needs nothing of the old file but the chunks that are sound: it may be cut, or gone.

use std::path::Path;

use bytes::Bytes;

use super::{ChunkLocation, PackPlan, read_verified};
use crate::StorageError;
use crate::files::{Files, System};

/// Zeros are written as chunks of at most so many bytes.
const ZEROS_MAX: usize = 64 << 10;
static ZEROS: [u8; ZEROS_MAX] = [0; ZEROS_MAX];

/// A chunk that is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeededChunk {
    /// Its stream.
    pub key: String,
    /// Which stream at the key.
    pub incarnation: u64,
    /// First byte within the stream.
    pub start: u64,
    /// Where it lies.
    pub location: ChunkLocation,
}

/// The bytes of chunks; `None` where they are not what was written, or cannot be read. Blocks.
pub fn read_sound(path: &Path, chunks: &[ChunkLocation]) -> Vec<Option<Bytes>> {
    read_sound_of(&System, path, chunks)
}

/// [`read_sound`], of these files.
pub fn read_sound_of(
    files: &dyn Files,
    path: &Path,
    chunks: &[ChunkLocation],
) -> Vec<Option<Bytes>> {
    let file = files.open(path).ok();
    let read = |chunk: &ChunkLocation| read_verified(&**file.as_ref()?, path, *chunk).ok();
    chunks.iter().map(read).collect()
}

/// Bytes as they are there, whatever they are. Blocks.
pub fn read_unverified(path: &Path, position: u64, length: u32) -> Option<Bytes> {
    read_unverified_of(&System, path, position, length)
}

/// [`read_unverified`], of these files.
pub fn read_unverified_of(
    files: &dyn Files,
    path: &Path,
    position: u64,
    length: u32,
) -> Option<Bytes> {
    let mut bytes = vec![0; length as usize];
    let file = files.open(path).ok()?;
    file.read_exact_at(&mut bytes, position).ok()?;
    Some(bytes.into())
}

/// Writes the pack with these chunks, each where it lay. Blocks.
///
/// # Errors
/// [`StorageError::Corrupt`] if chunks overlap or have other bytes, [`StorageError::NoSpace`], or the system's; what stood there
/// stands then.
pub fn rebuild(
    path: &Path,
    group: u32,
    number: u32,
    chunks: Vec<(NeededChunk, Bytes)>,
) -> Result<(), StorageError> {
    rebuild_of(&System, path, (group, number), chunks)
}

/// [`rebuild`], of these files; the pack is named by its group and its number.
///
/// # Errors
/// As [`rebuild`].
pub fn rebuild_of(
    files: &dyn Files,
    path: &Path,
    (group, number): (u32, u32),
    mut chunks: Vec<(NeededChunk, Bytes)>,
) -> Result<(), StorageError> {
    chunks.sort_by_key(|(chunk, _)| chunk.location.position);
    let mut plan = PackPlan::new(group, number);
    for (chunk, bytes) in chunks {
        let at = chunk.location;
        while plan.end < at.position {
            let zeros = (at.position - plan.end).min(ZEROS_MAX as u64) as usize;
            plan.add("", 0, 0, vec![Bytes::from_static(&ZEROS[..zeros])]);
        }
        let placed = plan.add(&chunk.key, chunk.incarnation, chunk.start, vec![bytes]);
        if placed != at {
            return Err(StorageError::Corrupt {
                path: path.to_owned(),
                offset: at.position,
                what: "what is to be written is not the chunk that was here".to_owned(),
            });
        }
    }
    plan.write_to(files, path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{has_chunks, read_chunk, verify_named};
    use super::*;

    #[test]
    fn a_pack_is_rebuilt_from_what_is_sound_and_what_others_have() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pack-1");
        let bodies = ["hello", "to the", "whole", "world"];
        let write = || {
            let mut plan = PackPlan::new(3, 1);
            let chunks = bodies.map(|body| NeededChunk {
                key: format!("/{body}"),
                incarnation: 1,
                start: 7,
                location: plan.add(&format!("/{body}"), 1, 7, vec![Bytes::from(body)]),
            });
            plan.write(&path).unwrap();
            chunks
        };
        let damages: [fn(&Path, &[NeededChunk]); 4] = [
            |path, chunks| {
                let mut bytes = std::fs::read(path).unwrap();
                bytes[chunks[0].location.position as usize] ^= 1;
                std::fs::write(path, bytes).unwrap();
            },
            |path, _| {
                let bytes = std::fs::read(path).unwrap();
                std::fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
            },
            |path, chunks| {
                let bytes = std::fs::read(path).unwrap();
                std::fs::write(path, &bytes[..chunks[1].location.position as usize]).unwrap();
            },
            |path, _| std::fs::remove_file(path).unwrap(),
        ];
        for (number, damage) in damages.into_iter().enumerate() {
            let mut needed = write().to_vec();
            damage(&path, &needed);
            // Nobody needs the second one any more.
            let given_up = needed.remove(1).location;
            let places: Vec<ChunkLocation> = needed.iter().map(|c| c.location).collect();
            let kept = read_sound(&path, &places);
            let others = [bodies[0], bodies[2], bodies[3]].map(Bytes::from);
            let sound = kept.into_iter().zip(others);
            let sound = sound.map(|(kept, other)| kept.unwrap_or(other));
            let all: Vec<_> = needed.clone().into_iter().zip(sound).collect();
            rebuild(&path, 3, 1, all.clone()).unwrap();
            assert!(has_chunks(&path, &places).unwrap());
            assert!(
                !has_chunks(&path, &[given_up]).unwrap(),
                "zeros are no chunk"
            );
            assert_eq!(verify_named(&path, 3, 1).unwrap().chunks, 4, "{number}");
            for (chunk, bytes) in &all {
                let read = read_chunk(None, &path, chunk.location).unwrap();
                assert_eq!(read.unwrap().1, *bytes, "{number}");
            }
            let mut wrong = all;
            wrong[2].1 = Bytes::from("other");
            assert!(rebuild(&path, 3, 1, wrong).is_err());
            assert!(verify_named(&path, 3, 1).is_ok());
        }
    }
}
