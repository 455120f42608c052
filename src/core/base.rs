//! A group's whole state for the backup, read from its newest checkpoint: no core stops for it, and the group's logic knows
//! nothing of it. What the cold store has stays there; the bytes that it lacks come from the local packs.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use prost::Message;
use raftproto::backup::{Base, BaseStream};
use raftproto::checkpoint::{Chunk, GroupManifest, GroupState, StreamState};
use storage::pack::{self, ChunkLocation};
use storage::{StorageError, io_error};

use super::checkpoint::{pack_path, read_tables};
use crate::group::own_from;

/// Why there is no base.
#[derive(Debug, thiserror::Error)]
pub(super) enum BaseError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("the checkpoint of group {group} does not decode: {source}")]
    Decode {
        group: u32,
        source: prost::DecodeError,
    },
    /// A pack does not hold what was written.
    #[error("{error}")]
    Pack { error: StorageError, pack: u32 },
    /// A pack was mended, and the checkpoint names what nobody needed then.
    #[error("pack {pack} is newer than the checkpoint")]
    Outdated { pack: u32 },
    /// The cold store lacks so much that it must come first.
    #[error("the cold store lacks {bytes} bytes")]
    TooLong { bytes: u64 },
}

/// Reads the state and its last stamp; the bytes that the cold store lacks may be `bytes_max`. Blocks.
pub(super) fn read_base(
    dir: &Path,
    manifest: &GroupManifest,
    bytes_max: u64,
) -> Result<(Base, u64), BaseError> {
    let group = manifest.group;
    let decode = |source| BaseError::Decode { group, source };
    let mut packs = Packs {
        dir,
        group,
        open: BTreeMap::new(),
    };
    let mut base = Base {
        group_state: manifest.group_state.clone(),
        streams: Vec::new(),
    };
    let state = GroupState::decode(manifest.group_state.clone()).map_err(decode)?;
    let tables = read_tables(dir, manifest)?;
    // Before any chunk is read.
    let mut bytes = 0;
    for value in tables.values() {
        let state = StreamState::decode(value.as_slice()).map_err(decode)?;
        bytes += state.tail.saturating_sub(own_from(&state));
    }
    if bytes > bytes_max {
        return Err(BaseError::TooLong { bytes });
    }
    for (key, value) in tables {
        let mut state = StreamState::decode(value.as_slice()).map_err(decode)?;
        let own_from = own_from(&state);
        let mut own = Vec::new();
        for chunk in std::mem::take(&mut state.chunks) {
            let end = chunk.start + u64::from(chunk.length);
            if end > own_from {
                let from = own_from.saturating_sub(chunk.start) as usize;
                own.extend_from_slice(&packs.read(&chunk)?[from..]);
            }
        }
        base.streams.push(BaseStream {
            key,
            state: state.encode_to_vec().into(),
            own: own.into(),
        });
    }
    Ok((base, state.last_stamp_ms))
}

struct Packs<'a> {
    dir: &'a Path,
    group: u32,
    open: BTreeMap<u32, File>,
}

impl Packs<'_> {
    fn read(&mut self, chunk: &Chunk) -> Result<Bytes, BaseError> {
        let path = pack_path(self.dir, self.group, chunk.pack);
        let file = match self.open.entry(chunk.pack) {
            std::collections::btree_map::Entry::Occupied(open) => open.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(File::open(&path).map_err(|e| io_error(&path, "open", e))?)
            }
        };
        let mut bytes = vec![0; chunk.length as usize];
        let read = file.read_exact_at(&mut bytes, chunk.position);
        if read.is_ok() && crc32c::crc32c(&bytes) == chunk.crc32c {
            return Ok(bytes.into());
        }
        let location = ChunkLocation {
            position: chunk.position,
            length: chunk.length,
            crc32c: chunk.crc32c,
        };
        if pack::has_chunks(&path, &[location]).is_ok_and(|has| !has) {
            return Err(BaseError::Outdated { pack: chunk.pack });
        }
        let error = match read {
            Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => {
                return Err(io_error(&path, "read", error).into());
            }
            _ => StorageError::Corrupt {
                path,
                offset: chunk.position,
                what: "the checksum of a chunk is wrong".to_owned(),
            },
        };
        let pack = chunk.pack;
        Err(BaseError::Pack { error, pack })
    }
}
