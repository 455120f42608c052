//! The giver's side of a checkpoint's way to another replica (`transfer.rs`): all files that its manifest names are opened
//! before the first byte is sent, so a later checkpoint cannot take them away. All that a core gives goes through one
//! [`Throttle`], so that groups which lag together do not take the disk and the network from appends.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_lite::{Stream, StreamExt, stream};
use glommio::sync::{Semaphore, StaticPermit};
use glommio::{GlommioError, Task};
use prost::Message as _;
use raftproto::checkpoint::GroupManifest;
use raftproto::peer::{CheckpointFile, CheckpointPart, FetchCheckpointRequest};
use storage::{StorageError, blocking, framed, io_error, pack};
use xxhash_rust::xxh3::Xxh3;

use super::Core;
use super::checkpoint::{group_dir, manifest_path};
use super::clock;
use super::transfer::TransferError;

/// Bytes of a part.
const PART_BYTES: usize = 256 << 10;

/// Checkpoints that a core gives at once; who asks for another one waits before its first part. So few that each gets its
/// parts within a call's time-out, however slow all of them together may be.
const GIVEN_AT_ONCE: u64 = 4;

/// A taker that asks for nothing for so long (its disk may hang) loses its turn to others until it goes on.
const TAKER_PATIENCE: Duration = Duration::from_secs(10);

/// Attempts to find a manifest whose files are all still there.
const ATTEMPTS: usize = 5;

/// How fast a core gives checkpoints, all together.
pub(super) struct Throttle {
    turns: Rc<Semaphore>,
    bytes_per_second: u64,
    /// When the next part may leave, in monotonic microseconds.
    next_us: Cell<u64>,
}

impl Throttle {
    pub(super) fn new(bytes_per_second: u64) -> Throttle {
        Throttle {
            turns: Rc::new(Semaphore::new(GIVEN_AT_ONCE)),
            bytes_per_second,
            next_us: Cell::new(0),
        }
    }

    /// How long so many bytes must wait, from `now_us` on, in microseconds; their time is taken.
    fn wait_us(&self, now_us: u64, bytes: usize) -> u64 {
        let from_us = self.next_us.get().max(now_us);
        let takes_us = (bytes as u64).saturating_mul(1_000_000) / self.bytes_per_second.max(1);
        self.next_us.set(from_us + takes_us);
        from_us - now_us
    }
}

/// A place among those that a core gives to at once, held while the taker takes.
struct Turn {
    turns: Rc<Semaphore>,
    permit: Rc<RefCell<Option<StaticPermit>>>,
    /// What it was given last, it has not asked beyond yet.
    given_at: Rc<Cell<Option<Instant>>>,
    _watch: Task<()>,
}

impl Turn {
    /// Waits for one.
    async fn begin(turns: &Rc<Semaphore>, patience: Duration) -> Result<Turn, GlommioError<()>> {
        let permit = turns.acquire_static_permit(1).await?;
        let permit = Rc::new(RefCell::new(Some(permit)));
        let given_at = Rc::new(Cell::new(Some(clock::instant())));
        let (watched, given) = (permit.clone(), given_at.clone());
        let watch = super::tasks::spawn(async move {
            loop {
                glommio::timer::sleep(patience / 4).await;
                let now = clock::instant();
                let is_late = |at: Instant| now.duration_since(at) >= patience;
                if given.get().is_some_and(is_late) {
                    drop(watched.take());
                }
            }
        });
        Ok(Turn {
            turns: turns.clone(),
            permit,
            given_at,
            _watch: watch,
        })
    }

    /// The taker wants more.
    async fn asked(&self) -> Result<(), GlommioError<()>> {
        self.given_at.set(None);
        if self.permit.borrow().is_none() {
            let permit = self.turns.acquire_static_permit(1).await?;
            self.permit.replace(Some(permit));
        }
        Ok(())
    }

    /// It has something to take.
    fn gave(&self) {
        self.given_at.set(Some(clock::instant()));
    }
}

impl Drop for Turn {
    /// At once, also while the watch has not been ended yet.
    fn drop(&mut self) {
        drop(self.permit.take());
    }
}

/// An open checkpoint.
struct Source {
    manifest: bytes::Bytes,
    files: Vec<CheckpointFile>,
    /// Those that are wanted, each from this position on; the first is the last.
    wanted: Vec<Wanted>,
}

struct Wanted {
    file: CheckpointFile,
    source: Arc<File>,
    from: u64,
}

/// Opens all files of a group's newest checkpoint. Blocks.
fn open_source(dir: &Path, request: &FetchCheckpointRequest) -> Result<Source, TransferError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        match try_open(dir, request) {
            // A newer checkpoint took a file away meanwhile: its manifest names others.
            Err(TransferError::Storage(StorageError::Io { source, .. }))
                if source.kind() == std::io::ErrorKind::NotFound && attempt < ATTEMPTS => {}
            result => return result,
        }
    }
}

fn try_open(dir: &Path, request: &FetchCheckpointRequest) -> Result<Source, TransferError> {
    let (group, wanted) = (request.group, request.index);
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
    let mut wanted = Vec::new();
    for name in names(&manifest) {
        let path = group_dir(dir, group).join(&name);
        let source = File::open(&path).map_err(|e| io_error(&path, "open", e))?;
        let (length, hash) = hash_of(&path, &source)?;
        let file = CheckpointFile { name, length, hash };
        let from = already_there(&path, &source, &file, &request.have)?;
        if from < length || !request.have.contains(&file) {
            look_at_pack(&path, group, &file.name)?;
            let (file, source) = (file.clone(), Arc::new(source));
            wanted.push(Wanted { file, source, from });
        }
        files.push(file);
    }
    wanted.reverse();
    Ok(Source {
        manifest: bytes,
        files,
        wanted,
    })
}

/// Damage must not spread: whoever takes a checkpoint gives up its own copies for it.
fn look_at_pack(path: &Path, group: u32, name: &str) -> Result<(), TransferError> {
    let number = name.strip_prefix("pack-").and_then(|n| n.parse().ok());
    let Some(pack) = number else {
        return Ok(());
    };
    match pack::verify_named(path, group, pack) {
        Ok(_) => Ok(()),
        Err(error @ StorageError::Corrupt { .. }) => {
            Err(TransferError::DamagedPack { group, pack, error })
        }
        Err(error) => Err(error.into()),
    }
}

/// How many bytes of a file the other side has, from its beginning on: what it says to have is compared by its hash.
fn already_there(
    path: &Path,
    source: &File,
    file: &CheckpointFile,
    have: &[CheckpointFile],
) -> Result<u64, StorageError> {
    let Some(there) = have.iter().find(|h| h.name == file.name) else {
        return Ok(0);
    };
    if there.length == 0 || there.length > file.length {
        return Ok(0);
    }
    let (_, hash) = hash_to(path, source, there.length)?;
    Ok(if hash == there.hash { there.length } else { 0 })
}

/// The files that a manifest names.
pub(super) fn names(manifest: &GroupManifest) -> Vec<String> {
    let base = (manifest.base > 0).then_some(manifest.base);
    let tables = base.into_iter().chain(manifest.deltas.iter().copied());
    let tables = tables.map(|number| format!("table-{number}"));
    let packs = manifest.packs.iter().map(|number| format!("pack-{number}"));
    tables.chain(packs).collect()
}

/// A file's length and hash.
pub(super) fn hash_of(path: &Path, file: &File) -> Result<(u64, bytes::Bytes), StorageError> {
    hash_to(path, file, u64::MAX)
}

/// The same of its first bytes.
fn hash_to(path: &Path, file: &File, end: u64) -> Result<(u64, bytes::Bytes), StorageError> {
    let mut hash = Xxh3::new();
    let mut buffer = vec![0; PART_BYTES];
    let mut length = 0;
    loop {
        let room = (end - length).min(PART_BYTES as u64) as usize;
        let began = clock::instant();
        let read = file
            .read_at(&mut buffer[..room], length)
            .map_err(|e| io_error(path, "read", e))?;
        // Half of the disk's time is left to appends: a bound in bytes would make long checkpoints wait for longer than the
        // taker does.
        std::thread::sleep(clock::instant().duration_since(began));
        if read == 0 {
            return Ok((length, digest(&hash)));
        }
        hash.update(&buffer[..read]);
        length += read as u64;
    }
}

/// The hash of bytes that are in memory.
pub(super) fn hash_of_bytes(bytes: &[u8]) -> bytes::Bytes {
    let mut hash = Xxh3::new();
    hash.update(bytes);
    digest(&hash)
}

fn digest(hash: &Xxh3) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(&hash.digest128().to_be_bytes())
}

/// A checkpoint under way.
struct Giving {
    core: Rc<Core>,
    group: u32,
    wanted: Vec<Wanted>,
    open: Option<Wanted>,
    turn: Turn,
}

impl Giving {
    /// The next part, when it may leave.
    async fn next(&mut self) -> Result<Option<CheckpointPart>, TransferError> {
        let asked = self.turn.asked().await;
        asked.map_err(|e| no_turn(&self.core, self.group, &e))?;
        let is_read = |w: &Wanted| w.from >= w.file.length;
        if self.open.as_ref().is_none_or(is_read) {
            self.open = self.wanted.pop();
        }
        let Some(open) = &mut self.open else {
            return Ok(None);
        };
        let (name, position) = (open.file.name.clone(), open.from);
        let length = (open.file.length - position).min(PART_BYTES as u64) as usize;
        let clock = &self.core.clock;
        let wait_us = self.core.giving.wait_us(clock.monotonic_us(), length);
        if wait_us > 0 {
            glommio::timer::sleep(Duration::from_micros(wait_us)).await;
        }
        let source = open.source.clone();
        let read = blocking::run(move || {
            let mut data = vec![0; length];
            source.read_exact_at(&mut data, position).map(|()| data)
        });
        let data = read
            .await
            .map_err(|e| io_error(Path::new(&name), "read", e))?;
        open.from += length as u64;
        self.turn.gave();
        Ok(Some(CheckpointPart {
            name,
            position,
            data: data.into(),
            ..CheckpointPart::default()
        }))
    }
}

fn no_turn(core: &Core, group: u32, error: &GlommioError<()>) -> TransferError {
    TransferError::Bad {
        group,
        node: core.config.node_id,
        what: format!("no turn: {error}"),
    }
}

impl Core {
    /// The parts of a group's checkpoint, read one at a time as they are asked for.
    ///
    /// # Errors
    /// [`TransferError`].
    pub(super) async fn give_checkpoint(
        self: &Rc<Self>,
        dir: PathBuf,
        request: FetchCheckpointRequest,
    ) -> Result<impl Stream<Item = Result<CheckpointPart, TransferError>> + use<>, TransferError>
    {
        let group = request.group;
        let turn = Turn::begin(&self.giving.turns, TAKER_PATIENCE).await;
        let turn = turn.map_err(|e| no_turn(self, group, &e))?;
        // Reading the files through is the giver's own time.
        turn.asked().await.map_err(|e| no_turn(self, group, &e))?;
        let opened = blocking::run(move || open_source(&dir, &request)).await;
        let source = match opened {
            Err(TransferError::DamagedPack { group, pack, error }) => {
                let what = format!("pack {pack} is damaged, and is seen to");
                let _ = self.found_damaged_pack(group, pack, Some(error));
                let node = self.config.node_id;
                return Err(TransferError::Bad { group, node, what });
            }
            opened => opened?,
        };
        let first = CheckpointPart {
            manifest_hash: hash_of_bytes(&source.manifest),
            manifest: source.manifest,
            files: source.files,
            ..CheckpointPart::default()
        };
        turn.gave();
        let giving = Giving {
            core: self.clone(),
            group,
            wanted: source.wanted,
            open: None,
            turn,
        };
        let rest = stream::try_unfold(giving, |mut giving| async move {
            Ok(giving.next().await?.map(|part| (part, giving)))
        });
        Ok(stream::once(Ok(first)).chain(rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_given_together_is_as_fast_as_was_set() {
        let throttle = Throttle::new(1000);
        assert_eq!(throttle.wait_us(5_000_000, 500), 0);
        assert_eq!(throttle.wait_us(5_000_000, 500), 500_000);
        assert_eq!(throttle.wait_us(5_250_000, 250), 750_000);
        // What was not used is not saved up.
        assert_eq!(throttle.wait_us(60_000_000, 500), 0);
        assert_eq!(throttle.wait_us(60_000_000, 1), 500_000);
    }

    #[test]
    fn a_taker_that_takes_nothing_keeps_no_turn_from_others() {
        let executor = glommio::LocalExecutorBuilder::default().make().unwrap();
        executor.run(async {
            let turns = Rc::new(Semaphore::new(1));
            let patience = Duration::from_millis(20);
            let stuck = Turn::begin(&turns, patience).await.unwrap();
            stuck.asked().await.unwrap();
            stuck.gave();
            // It takes nothing.
            let other = Turn::begin(&turns, Duration::from_secs(600)).await.unwrap();
            assert!(stuck.permit.borrow().is_none());
            drop(other);
            stuck.asked().await.unwrap();
            assert!(stuck.permit.borrow().is_some(), "it goes on");
            assert_eq!(turns.available(), 0);
            drop(stuck);
            assert_eq!(turns.available(), 1, "what ended holds nothing");
        });
    }

    #[test]
    fn a_damaged_pack_is_not_given() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(group_dir(dir.path(), 7)).unwrap();
        let path = group_dir(dir.path(), 7).join("pack-3");
        let mut plan = pack::PackPlan::new(7, 3);
        plan.add("/a", 1, 0, vec![bytes::Bytes::from_static(b"hello")]);
        plan.write(&path).unwrap();
        let manifest = GroupManifest {
            group: 7,
            index: 9,
            packs: vec![3],
            ..GroupManifest::default()
        };
        let text = manifest.encode_to_vec();
        framed::write_atomic(&manifest_path(dir.path(), 7), &text).unwrap();
        let request = FetchCheckpointRequest {
            group: 7,
            index: 9,
            ..FetchCheckpointRequest::default()
        };
        assert_eq!(open_source(dir.path(), &request).unwrap().wanted.len(), 1);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[16] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let refused = open_source(dir.path(), &request).err();
        let is_named = matches!(
            refused,
            Some(TransferError::DamagedPack {
                group: 7,
                pack: 3,
                ..
            })
        );
        assert!(is_named, "{refused:?}");
    }

    #[test]
    fn only_a_true_beginning_of_a_file_is_not_sent_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pack-1");
        let bytes: Vec<u8> = (0..600_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let source = File::open(&path).unwrap();
        let (length, hash) = hash_of(&path, &source).unwrap();
        assert_eq!((length, &hash), (600_000, &hash_of_bytes(&bytes)));
        let name = "pack-1".to_owned();
        let file = CheckpointFile { name, length, hash };
        let mut wrong = bytes[..300_000].to_vec();
        wrong[7] ^= 1;
        for (there, from) in [
            (&bytes[..300_000], 300_000),
            (&bytes[..], 600_000),
            (&bytes[..0], 0),
            (&wrong[..], 0),
            (&[&bytes[..], b"more"].concat()[..], 0),
        ] {
            let have = CheckpointFile {
                name: "pack-1".to_owned(),
                length: there.len() as u64,
                hash: hash_of_bytes(there),
            };
            let found = already_there(&path, &source, &file, &[have]).unwrap();
            assert_eq!(found, from, "{} bytes", there.len());
        }
    }
}
