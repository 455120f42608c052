//! The giver's side of a checkpoint's way to another replica (`transfer.rs`): all files that its manifest names are opened
//! before the first byte is sent, so a later checkpoint cannot take them away.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_lite::{Stream, StreamExt, stream};
use prost::Message as _;
use raftproto::checkpoint::GroupManifest;
use raftproto::peer::{CheckpointFile, CheckpointPart, FetchCheckpointRequest};
use storage::{StorageError, blocking, framed, io_error};
use xxhash_rust::xxh3::Xxh3;

use super::checkpoint::{group_dir, manifest_path};
use super::transfer::TransferError;

/// Bytes of a part.
const PART_BYTES: usize = 256 << 10;

/// Pause after each part: a transfer takes 64 MiB a second at most, and the disk has room for others.
const PART_PAUSE: Duration = Duration::from_millis(4);

/// Attempts to find a manifest whose files are all still there.
const ATTEMPTS: usize = 5;

/// An open checkpoint.
struct Source {
    manifest: bytes::Bytes,
    files: Vec<(CheckpointFile, File)>,
}

/// Opens all files of a group's newest checkpoint. Blocks.
fn open_source(dir: &Path, group: u32, index: u64) -> Result<Source, TransferError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        match try_open(dir, group, index) {
            // A newer checkpoint took a file away meanwhile: its manifest names others.
            Err(TransferError::Storage(StorageError::Io { source, .. }))
                if source.kind() == std::io::ErrorKind::NotFound && attempt < ATTEMPTS => {}
            result => return result,
        }
    }
}

fn try_open(dir: &Path, group: u32, wanted: u64) -> Result<Source, TransferError> {
    let path = manifest_path(dir, group);
    let bytes = framed::read(&path)?.unwrap_or_default();
    let manifest = GroupManifest::decode(bytes.clone()).map_err(|e| TransferError::Bad {
        group,
        node: 0,
        what: format!("{}: {e}", path.display()),
    })?;
    if manifest.index < wanted || manifest.index == 0 {
        return Err(TransferError::TooOld {
            group,
            found: manifest.index,
            wanted,
        });
    }
    let mut files = Vec::new();
    for name in names(&manifest) {
        let path = group_dir(dir, group).join(&name);
        let file = File::open(&path).map_err(|e| io_error(&path, "open", e))?;
        let (length, hash) = hash_of(&path, &file)?;
        files.push((CheckpointFile { name, length, hash }, file));
    }
    Ok(Source {
        manifest: bytes,
        files,
    })
}

/// The files that a manifest names.
pub(super) fn names(manifest: &GroupManifest) -> Vec<String> {
    let base = (manifest.base > 0).then_some(manifest.base);
    let tables = base.into_iter().chain(manifest.deltas.iter().copied());
    let tables = tables.map(|number| format!("table-{number}"));
    let packs = manifest.packs.iter().map(|number| format!("pack-{number}"));
    tables.chain(packs).collect()
}

pub(super) fn hash_of(path: &Path, file: &File) -> Result<(u64, bytes::Bytes), StorageError> {
    let mut hash = Xxh3::new();
    let mut buffer = vec![0; PART_BYTES];
    let mut length = 0;
    loop {
        let read = file
            .read_at(&mut buffer, length)
            .map_err(|e| io_error(path, "read", e))?;
        if read == 0 {
            let digest = hash.digest128().to_be_bytes();
            return Ok((length, bytes::Bytes::copy_from_slice(&digest)));
        }
        hash.update(&buffer[..read]);
        length += read as u64;
    }
}

/// The parts of a group's checkpoint, read one at a time as they are asked for.
///
/// # Errors
/// [`TransferError`].
pub async fn give(
    dir: PathBuf,
    request: FetchCheckpointRequest,
) -> Result<impl Stream<Item = Result<CheckpointPart, TransferError>>, TransferError> {
    let (group, index) = (request.group, request.index);
    let source = blocking::run(move || open_source(&dir, group, index)).await?;
    let first = CheckpointPart {
        manifest: source.manifest,
        files: source.files.iter().map(|(f, _)| f.clone()).collect(),
        ..CheckpointPart::default()
    };
    let mut wanted = source.files;
    wanted.retain(|(file, _)| !request.have.contains(file));
    wanted.reverse();
    let state = (wanted, None::<(CheckpointFile, std::sync::Arc<File>)>, 0u64);
    let rest = stream::try_unfold(state, |(mut wanted, mut open, mut position)| async move {
        if open
            .as_ref()
            .is_none_or(|(file, _)| position >= file.length)
        {
            open = wanted.pop().map(|(f, file)| (f, std::sync::Arc::new(file)));
            position = 0;
        }
        let Some((file, source)) = open else {
            return Ok(None);
        };
        let length = (file.length - position).min(PART_BYTES as u64) as usize;
        let reader = source.clone();
        let data = blocking::run(move || {
            let mut data = vec![0; length];
            reader.read_exact_at(&mut data, position).map(|()| data)
        })
        .await
        .map_err(|e| io_error(Path::new(&file.name), "read", e))?;
        glommio::timer::sleep(PART_PAUSE).await;
        let part = CheckpointPart {
            name: file.name.clone(),
            position,
            data: data.into(),
            ..CheckpointPart::default()
        };
        let position = position + length as u64;
        Ok(Some((part, (wanted, Some((file, source)), position))))
    });
    Ok(stream::once(Ok(first)).chain(rest))
}
