//! A checkpoint's way from a replica that has it to one that lacks the log before it.
//!
//! The giver opens all files that its manifest names before it sends the first byte, so a later checkpoint cannot take them
//! away. The taker gathers them beside its own (`incoming/`), verifies each by its hash, loads the state, and only when
//! Raft has accepted it exchanges both directories in one step. A crash before leaves the old state, one after the new.
//! An attempt that broke off goes on where it was: neither files nor beginnings of files that are there are sent again.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use prost::Message as _;
use raftproto::checkpoint::GroupManifest;
use raftproto::peer::{CheckpointFile, CheckpointPart, FetchCheckpointRequest};
use storage::files::{Files, System};
use storage::{StorageError, blocking, framed, io_error};

use super::Core;
use super::checkpoint::{GroupFiles, group_dir, manifest_path, read_tables};
use super::give::{hash_of, hash_of_bytes, names};
use crate::group::{Fetched, Input, LogPosition, Machine, Persist};
use crate::peer::GrpcError;
use crate::protocol::StreamKey;

/// After an attempt that brought something and broke off.
const AGAIN: std::time::Duration = std::time::Duration::from_millis(100);

/// Such attempts, one after the other, before the leader is asked again where the checkpoint is.
const ATTEMPTS: usize = 100;

/// Why a checkpoint could not be had.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The disk.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The giver's checkpoint is older than what was asked for; it will write another.
    #[error("the checkpoint of group {group} stands at {found}, not yet at {wanted}")]
    TooOld {
        /// The group.
        group: u32,
        /// What is there.
        found: u64,
        /// What was asked for.
        wanted: u64,
    },
    /// A pack that is to be given is not what was written.
    #[error("pack {pack} of group {group} is damaged: {error}")]
    DamagedPack {
        /// The group.
        group: u32,
        /// Which.
        pack: u32,
        /// What is wrong with it.
        error: StorageError,
    },
    /// The other node said something impossible.
    #[error("the checkpoint of group {group} from node {node}: {what}")]
    Bad {
        /// The group.
        group: u32,
        /// Who sent it.
        node: u64,
        /// What is wrong.
        what: String,
    },
}

/// Where a checkpoint gathers: a data directory of its own.
fn incoming_dir(dir: &Path) -> PathBuf {
    dir.join("incoming")
}

/// The names of all that is there. Blocks.
fn gathered_names(root: &Path, group: u32) -> Vec<String> {
    let entries = std::fs::read_dir(group_dir(root, group));
    let names = entries.into_iter().flatten().flatten();
    names
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// What is there from an attempt before. Blocks.
fn gathered(root: &Path, group: u32) -> Vec<CheckpointFile> {
    let own = group_dir(root, group);
    let Ok(entries) = std::fs::read_dir(&own) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let hashed = File::open(&path)
            .map_err(|e| io_error(&path, "open", e))
            .and_then(|file| hash_of(&path, &file));
        if let Ok((length, hash)) = hashed
            && name != "manifest"
        {
            found.push(CheckpointFile { name, length, hash });
        }
    }
    found
}

/// Lets the files of the group's own checkpoint count as gathered: what is in them is not sent again, so that each attempt
/// under load is shorter than the one before, and the log that is kept reaches over it. Blocks.
fn link_own(dir: &Path, root: &Path, group: u32) {
    let Ok(entries) = std::fs::read_dir(group_dir(dir, group)) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_part = name
            .to_str()
            .is_some_and(|n| n.starts_with("table-") || n.starts_with("pack-"));
        if is_part {
            // One that is there already, or cannot be linked, is fetched.
            let _ = System.link(&entry.path(), &group_dir(root, group).join(name));
        }
    }
}

/// Puts a part in its place. Blocks.
fn take_part(root: &Path, group: u32, part: &CheckpointPart) -> Result<(), StorageError> {
    let path = group_dir(root, group).join(&part.name);
    let failed = |what: &'static str| {
        let path = path.clone();
        move |e: std::io::Error| io_error(&path, what, e)
    };
    if part.position == 0
        && let Err(error) = System.remove(&path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        // What stands here may be a file of the own checkpoint too: it is never written over.
        return Err(failed("remove")(error));
    }
    if part.position > 0 && std::fs::metadata(&path).map_err(failed("stat"))?.nlink() > 1 {
        // The own file is the beginning of the other: it goes on in a copy.
        let copy = path.with_extension("copy");
        System.copy(&path, &copy).map_err(failed("copy"))?;
        System.rename(&copy, &path).map_err(failed("rename"))?;
    }
    let written = System.write_at(&path, &part.data, part.position);
    written.map_err(failed("write"))
}

/// The manifest is the one that was sent, for all that is said of it: who gives it may be older than the hash.
fn is_as_given(first: &CheckpointPart) -> bool {
    first.manifest_hash.is_empty() || hash_of_bytes(&first.manifest) == first.manifest_hash
}

/// Verifies and syncs what was gathered, and loads its state. Blocks.
fn load(
    root: &Path,
    group: u32,
    node: u64,
    manifest_bytes: &bytes::Bytes,
    files: &[CheckpointFile],
) -> Result<(GroupManifest, Fetched), TransferError> {
    let bad = |what: String| TransferError::Bad { group, node, what };
    let manifest = GroupManifest::decode(manifest_bytes.clone()).map_err(|e| bad(e.to_string()))?;
    raftproto::version::check(
        "a checkpoint",
        manifest.version,
        raftproto::version::CHECKPOINT,
    )
    .map_err(|e| bad(e.to_string()))?;
    if manifest.group != group || names(&manifest).len() != files.len() {
        return Err(bad("its manifest names other files".to_owned()));
    }
    for expected in files {
        let path = group_dir(root, group).join(&expected.name);
        let file = File::open(&path).map_err(|e| io_error(&path, "open", e))?;
        let (length, hash) = hash_of(&path, &file)?;
        if (length, &hash) != (expected.length, &expected.hash) {
            // The next attempt gets it anew.
            let _ = System.remove(&path);
            return Err(bad(format!("{} did not arrive as it was", expected.name)));
        }
        let synced = System.sync(&file);
        synced.map_err(|e| io_error(&path, "sync", e))?;
    }
    for left in gathered_names(root, group) {
        if !files.iter().any(|f| f.name == left) {
            // Of an earlier attempt, or of the own checkpoint.
            let _ = System.remove(&group_dir(root, group).join(left));
        }
    }
    framed::write_atomic(&manifest_path(root, group), manifest_bytes)?;
    let tables = read_tables(root, &manifest)?;
    let streams = tables
        .into_iter()
        .map(|(key, value)| (StreamKey::from_stored(&key), value));
    let machine =
        Machine::load(group, &manifest.group_state, streams).map_err(|e| bad(e.to_string()))?;
    let membership = manifest.membership.clone().unwrap_or_default();
    let fetched = Fetched {
        machine,
        position: LogPosition {
            index: manifest.index,
            term: manifest.term,
        },
        membership,
        durable_pack: manifest.next_pack.saturating_sub(1),
    };
    Ok((manifest, fetched))
}

/// Exchanges the gathered checkpoint with the group's directory, in one step. Blocks.
fn exchange(dir: &Path, group: u32) -> Result<(), StorageError> {
    let root = incoming_dir(dir);
    let (new, own) = (group_dir(&root, group), group_dir(dir, group));
    if !own.is_dir() {
        framed::create_dir(&own)?;
    }
    let exchanged = System.exchange(&new, &own);
    exchanged.map_err(|e| io_error(&own, "exchange", e))?;
    framed::sync_dir(&dir.join("groups"))?;
    framed::sync_dir(&root.join("groups"))?;
    // What stood there before is of no use any more.
    if let Err(error) = System.remove_dir(&new) {
        log::warn!(
            "event=old_checkpoint_not_removed path={:?} error={error:?}",
            new.display(),
            error = error.to_string()
        );
    }
    Ok(())
}

impl Core {
    /// Gets a checkpoint from another node, in a task of its own. An attempt that brought something is followed by another
    /// one: the leader would ask for it only after a while.
    pub(super) fn fetch_checkpoint(self: &Rc<Self>, group: u32, node: u64, index: u64) {
        let core = self.clone();
        super::tasks::spawn(async move {
            for _ in 0..ATTEMPTS {
                let mut bytes = 0;
                match core.gather(group, node, index, &mut bytes).await {
                    Ok(fetched) => return core.step(group, Input::Fetched(Box::new(fetched))),
                    Err(error) => {
                        log::warn!(
                            "event=checkpoint_not_fetched group={group} node={node} bytes={bytes} {error}"
                        );
                    }
                }
                if bytes == 0 || core.stop.raised() > 0 {
                    break;
                }
                core.sleep(AGAIN).await;
            }
            core.step(group, Input::FetchFailed);
        })
        .detach();
    }

    async fn gather(
        self: &Rc<Self>,
        group: u32,
        node: u64,
        index: u64,
        bytes: &mut usize,
    ) -> Result<Fetched, TransferError> {
        let bad = |what: String| TransferError::Bad { group, node, what };
        let Some(disk) = &self.disk else {
            return Err(bad("this node has no disk".to_owned()));
        };
        let root = incoming_dir(&disk.dir);
        let own = group_dir(&root, group);
        let (listed, place, dir) = (root.clone(), own.clone(), disk.dir.clone());
        let have = blocking::run(move || {
            std::fs::create_dir_all(&place).map_err(|e| io_error(&place, "create", e))?;
            link_own(&dir, &listed, group);
            Ok::<_, StorageError>(gathered(&listed, group))
        })
        .await?;
        log::info!(
            "event=checkpoint_fetch group={group} node={node} index={index} files_there={}",
            have.len()
        );
        let request = FetchCheckpointRequest {
            from: Some(self.hello()),
            group,
            index,
            have,
        };
        let address = self
            .links
            .borrow()
            .get(&node)
            .map(|l| l.address().to_owned());
        let address = address.ok_or_else(|| bad("its address is not known".to_owned()))?;
        let broken = |error: GrpcError| bad(error.to_string());
        let parts = self.caller.fetch_checkpoint(&address, request).await;
        let mut parts = parts.map_err(broken)?;
        let first = parts.next().await.map_err(broken)?;
        let first = first.ok_or_else(|| bad("it ended at once".to_owned()))?;
        let is_name = |name: &str| {
            let number = name.strip_prefix("table-").or(name.strip_prefix("pack-"));
            number.is_some_and(|n| n.parse::<u64>().is_ok())
        };
        if let Some(file) = first.files.iter().find(|f| !is_name(&f.name)) {
            return Err(bad(format!("{:?} is not a file's name", file.name)));
        }
        if !is_as_given(&first) {
            return Err(bad("its manifest did not arrive as it was".to_owned()));
        }
        while let Some(part) = parts.next().await.map_err(broken)? {
            let is_listed = |f: &CheckpointFile| {
                f.name == part.name && part.position + part.data.len() as u64 <= f.length
            };
            if !first.files.iter().any(is_listed) {
                return Err(bad(format!(
                    "{:?} has bytes that it was not to have",
                    part.name
                )));
            }
            let (root, count) = (root.clone(), part.data.len());
            blocking::run(move || take_part(&root, group, &part)).await?;
            *bytes += count;
        }
        log::info!("event=checkpoint_fetched group={group} node={node} bytes={bytes}");
        let (manifest, fetched) =
            blocking::run(move || load(&root, group, node, &first.manifest, &first.files)).await?;
        let files = GroupFiles { manifest };
        disk.fetched.borrow_mut().insert(group, files);
        Ok(fetched)
    }

    /// Puts a fetched checkpoint in the place of the group's files; then as any other ready.
    pub(super) fn install(self: &Rc<Self>, group: u32, persist: Persist) {
        let core = self.clone();
        super::tasks::spawn(async move {
            let Some(disk) = &core.disk else {
                return;
            };
            // A checkpoint of its own that is under way would write into the new directory.
            let turn = disk.checkpointing.acquire_static_permit(1).await;
            let dir = disk.dir.clone();
            let exchanged = blocking::run(move || exchange(&dir, group)).await;
            disk.packs.forget(&group_dir(&disk.dir, group));
            disk.unwritten.borrow_mut().remove(&group);
            let files = disk.fetched.borrow_mut().remove(&group);
            drop(turn);
            match (exchanged, files) {
                (Ok(()), Some(files)) => {
                    let index = files.manifest.index;
                    log::info!("event=checkpoint_installed group={group} index={index}");
                    disk.files.borrow_mut().insert(group, files);
                    core.persist(group, persist);
                    disk.wal.release(group, index);
                }
                (Err(error), _) => core.fail(&error),
                (Ok(()), None) => core.fail(&StorageError::Poisoned),
            }
        })
        .detach();
    }

    /// Another node needs a checkpoint of a group.
    pub(super) fn checkpoint_wanted(self: &Rc<Self>, group: u32) {
        if let Some(disk) = &self.disk {
            disk.wanted.borrow_mut().insert(group);
            self.checkpoint_if_due();
        }
    }
}

#[cfg(test)]
mod crash;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_counts_only_as_it_was_given() {
        let part = |hashed: &'static [u8], hash: Option<&[u8]>| CheckpointPart {
            manifest: bytes::Bytes::from_static(hashed),
            manifest_hash: hash.map(hash_of_bytes).unwrap_or_default(),
            ..CheckpointPart::default()
        };
        assert!(is_as_given(&part(b"as it was", Some(b"as it was"))));
        assert!(!is_as_given(&part(b"as it was", Some(b"as it is not"))));
        assert!(is_as_given(&part(b"of an older node", None)));
        let mut cut = part(b"as it was", Some(b"as it was"));
        cut.manifest_hash.truncate(8);
        assert!(!is_as_given(&cut));
    }

    #[test]
    fn own_files_are_not_fetched_again_nor_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let root = incoming_dir(dir.path());
        let (own, new) = (group_dir(dir.path(), 3), group_dir(&root, 3));
        std::fs::create_dir_all(&own).unwrap();
        std::fs::create_dir_all(&new).unwrap();
        std::fs::write(own.join("pack-1"), b"same").unwrap();
        std::fs::write(own.join("table-1"), b"own, and longer").unwrap();
        std::fs::write(own.join("manifest"), b"own").unwrap();
        link_own(dir.path(), &root, 3);
        let mut names: Vec<String> = gathered(&root, 3).into_iter().map(|f| f.name).collect();
        names.sort();
        assert_eq!(names, ["pack-1", "table-1"]);
        let part = CheckpointPart {
            name: "table-1".to_owned(),
            data: bytes::Bytes::from_static(b"theirs"),
            ..CheckpointPart::default()
        };
        take_part(&root, 3, &part).unwrap();
        assert_eq!(std::fs::read(new.join("table-1")).unwrap(), b"theirs");
        let kept = std::fs::read(own.join("table-1")).unwrap();
        assert_eq!(kept, b"own, and longer");
    }

    #[test]
    fn an_own_file_that_is_the_beginning_of_another_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let root = incoming_dir(dir.path());
        let (own, new) = (group_dir(dir.path(), 3), group_dir(&root, 3));
        std::fs::create_dir_all(&own).unwrap();
        std::fs::create_dir_all(&new).unwrap();
        std::fs::write(own.join("pack-1"), b"begins").unwrap();
        link_own(dir.path(), &root, 3);
        for (position, data) in [(6, &b" and"[..]), (10, b" ends")] {
            let part = CheckpointPart {
                name: "pack-1".to_owned(),
                position,
                data: bytes::Bytes::from_static(data),
                ..CheckpointPart::default()
            };
            take_part(&root, 3, &part).unwrap();
        }
        assert_eq!(
            std::fs::read(new.join("pack-1")).unwrap(),
            b"begins and ends"
        );
        assert_eq!(std::fs::read(own.join("pack-1")).unwrap(), b"begins");
    }
}
