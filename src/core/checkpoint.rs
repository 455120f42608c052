//! Writes checkpoints, so that the log before them can go: a pack with the bytes that no pack has, a delta table
//! with the streams that changed, then the manifest that names both.
//!
//! A crash before the manifest is replaced leaves the old checkpoint and the log: nothing is lost. A full disk does the
//! same: what was planned is kept and written by a later round, since the group's state counts on the pack's places.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;

use prost::Message;
use raftproto::checkpoint::{GroupManifest, HardState};
use storage::files::{Files, System};
use storage::pack::PackPlan;
use storage::{StorageError, framed, table};

use super::Core;
pub use super::files::{group_dir, manifest_path, pack_path, table_path};
use crate::group::{CheckpointPlan, PlaceChunk, combine_stream_states};
use crate::ops::metrics::add;
use crate::protocol::{ChunkRef, Incarnation, StreamKey};

/// Deltas after which a new base is written.
const DELTAS_MAX: usize = 16;

/// Segments after which groups that keep old ones alive are checkpointed, though they have changed little.
const SEGMENTS_MAX: usize = 8;

/// How long no round is tried after one that found no room.
const NO_SPACE_WAIT_US: u64 = 1_000_000;

/// A checkpoint that was planned and is not on disk.
pub(super) type Planned = (CheckpointPlan, PackPlan);

/// The files of one group's newest checkpoint.
#[derive(Debug, Clone, Default)]
pub struct GroupFiles {
    /// What the manifest says.
    pub manifest: GroupManifest,
}

struct Placer(PackPlan);

impl PlaceChunk for Placer {
    fn place(
        &mut self,
        key: &StreamKey,
        incarnation: Incarnation,
        start: u64,
        pieces: Vec<bytes::Bytes>,
    ) -> ChunkRef {
        let location = self.0.add(key.as_str(), incarnation.0, start, pieces);
        ChunkRef {
            pack: self.0.number(),
            position: location.position,
            start,
            length: location.length,
            crc32c: location.crc32c,
        }
    }
}

impl Core {
    /// Starts a round of checkpoints if the log or the hot bytes have grown enough and none is under way.
    pub(super) fn checkpoint_if_due(self: &Rc<Self>) {
        let Some(disk) = &self.disk else {
            return;
        };
        let grown = disk.wal_bytes.get() - disk.checkpointed_at.get();
        let is_hot = self.hot_bytes.get() >= self.config.hot_bytes_max / 2 && grown > 0;
        let pinned = disk.wal.pinned();
        let has_old = pinned.segments > SEGMENTS_MAX && !pinned.oldest_needed_by.is_empty();
        let is_wanted = !disk.wanted.borrow().is_empty();
        if self.clock.monotonic_us() < disk.no_checkpoint_until_us.get()
            || !(grown >= self.config.checkpoint_bytes || is_hot || has_old || is_wanted)
        {
            return;
        }
        let Ok(turn) = disk.checkpointing.try_acquire_static_permit(1) else {
            return;
        };
        disk.wanted.borrow_mut().clear();
        disk.checkpointed_at.set(disk.wal_bytes.get());
        let core = self.clone();
        super::tasks::spawn(async move {
            core.checkpoint_all().await;
            drop(turn);
            core.checkpoint_if_due();
        })
        .detach();
    }

    async fn checkpoint_all(self: &Rc<Self>) {
        let groups: Vec<u32> = self.groups.borrow().keys().copied().collect();
        for group in groups {
            let result = self.checkpoint_group(group).await;
            if result.is_err() {
                add(&self.metrics.plain.checkpoint_failures_total, 1);
            }
            if let (Err(error @ StorageError::NoSpace { .. }), Some(disk)) = (&result, &self.disk) {
                log::warn!(
                    "event=checkpoint_failed group={group} the log keeps what it has: {error}"
                );
                let until_us = self.clock.monotonic_us() + NO_SPACE_WAIT_US;
                disk.no_checkpoint_until_us.set(until_us);
                return;
            }
            if let Err(error) = result {
                // The log still has everything, but the group's state counts on the checkpoint's files now.
                self.fail(&error);
                return;
            }
        }
    }

    pub(super) async fn checkpoint_group(self: &Rc<Self>, id: u32) -> Result<(), StorageError> {
        let Some(disk) = &self.disk else {
            return Ok(());
        };
        let before = disk
            .files
            .borrow()
            .get(&id)
            .cloned()
            .unwrap_or_default()
            .manifest;
        let hot_target = self.hot_target();
        let unwritten = disk.unwritten.borrow_mut().remove(&id);
        let (plan, packed) = match unwritten {
            Some(planned) => planned,
            None => {
                let mut groups = self.groups.borrow_mut();
                let Some(group) = groups.get_mut(&id) else {
                    return Ok(());
                };
                if group.is_installing() {
                    return Ok(());
                }
                // A mend changes where bytes are, and adds nothing to the log.
                if group.applied().index <= before.index && group.dirty_count() == 0 {
                    group.shed_hot_bytes(hot_target);
                    return Ok(());
                }
                let mut placer = Placer(PackPlan::new(id, before.next_pack.max(1)));
                let began_us = self.clock.monotonic_us();
                let plan = group.checkpoint(&mut placer);
                self.metrics.task(began_us, self.clock.monotonic_us());
                (plan, placer.0)
            }
        };
        let (position, membership) = (plan.position, plan.membership.clone());
        let dir = disk.dir.clone();
        let (written, planned) = storage::blocking::run(move || {
            let written = write(&System, &dir, id, before, &plan, &packed);
            (written, (plan, packed))
        })
        .await;
        let (manifest, bytes) = match written {
            Ok(written) => written,
            Err(error) => {
                disk.unwritten.borrow_mut().insert(id, planned);
                return Err(error);
            }
        };
        let durable_pack = manifest.next_pack - 1;
        disk.files.borrow_mut().insert(id, GroupFiles { manifest });
        add(&self.metrics.plain.checkpoints_total, 1);
        let now_s = self.clock.now_ms() / 1000;
        self.metrics
            .plain
            .last_checkpoint_timestamp_seconds
            .set(now_s);
        add(&self.metrics.plain.checkpoint_bytes_total, bytes);
        if let Some(group) = self.groups.borrow_mut().get_mut(&id) {
            group.checkpointed(durable_pack, position, &membership, hot_target);
        }
        disk.wal.release(id, position.index);
        Ok(())
    }

    /// What each group may keep in memory of what packs have.
    pub(super) fn hot_target(&self) -> u64 {
        let kept = self
            .config
            .hot_bytes_kept
            .min(self.config.hot_bytes_max / 4);
        kept / (self.groups.borrow().len().max(1) as u64)
    }
}

/// Writes one checkpoint that follows another; answers its manifest, and the bytes that were written. Blocks.
///
/// # Errors
/// [`StorageError::NoSpace`] if the checkpoint before stands as it was, and the same can be written again.
pub fn write(
    files: &dyn Files,
    dir: &Path,
    group: u32,
    before: GroupManifest,
    plan: &CheckpointPlan,
    pack: &PackPlan,
) -> Result<(GroupManifest, u64), StorageError> {
    let own = group_dir(dir, group);
    if !files.is_dir(&own) {
        files.create_dir(&own)?;
    }
    let mut manifest = GroupManifest {
        version: plan.version,
        group,
        index: plan.position.index,
        term: plan.position.term,
        voters: plan.membership.voters.clone(),
        membership: Some(plan.membership.clone()),
        hard_state: Some(HardState {
            term: plan.hard_state.term,
            vote: plan.hard_state.vote,
            commit: plan.hard_state.commit,
        }),
        base: before.base,
        deltas: before.deltas.clone(),
        next_table: before.next_table.max(1),
        next_pack: before.next_pack.max(1),
        packs: plan.packs.clone(),
        group_state: plan.group_state.clone().into(),
    };
    let written = write_files(files, dir, &mut manifest, plan, pack);
    if matches!(written, Err(StorageError::NoSpace { .. })) {
        // What there was room for is in the way of others until it is written again.
        remove_unused(files, dir, &before, &manifest, &before);
    }
    let bytes = written?;
    remove_unused(files, dir, &before, &manifest, &manifest);
    Ok((manifest, bytes))
}

fn write_files(
    files: &dyn Files,
    dir: &Path,
    manifest: &mut GroupManifest,
    plan: &CheckpointPlan,
    pack: &PackPlan,
) -> Result<u64, StorageError> {
    let group = manifest.group;
    let mut bytes = 0;
    if !pack.is_empty() {
        assert_eq!(
            pack.number(),
            manifest.next_pack,
            "the state names this pack"
        );
        bytes += pack.write_to(files, &pack_path(dir, group, manifest.next_pack))?;
        manifest.next_pack += 1;
    }
    if !plan.delta.is_empty() {
        let entries = plan
            .delta
            .iter()
            .map(|(key, value)| (key.as_str().as_bytes(), value.as_deref()));
        let path = table_path(dir, group, manifest.next_table);
        bytes += table::write_to(files, &path, entries)?;
        manifest.deltas.push(manifest.next_table);
        manifest.next_table += 1;
    }
    if manifest.deltas.len() > DELTAS_MAX {
        bytes += merge(files, dir, manifest)?;
    }
    let path = manifest_path(dir, group);
    framed::write_atomic_to(files, &path, &manifest.encode_to_vec())?;
    Ok(bytes)
}

/// Joins the base and all deltas into a new base.
fn merge(files: &dyn Files, dir: &Path, manifest: &mut GroupManifest) -> Result<u64, StorageError> {
    let joined = read_tables_of(files, dir, manifest)?;
    let entries = joined
        .iter()
        .map(|(key, value)| (key.as_bytes(), Some(value.as_slice())));
    let path = table_path(dir, manifest.group, manifest.next_table);
    let bytes = table::write_to(files, &path, entries)?;
    manifest.base = manifest.next_table;
    manifest.next_table += 1;
    manifest.deltas.clear();
    Ok(bytes)
}

/// A group's streams as its tables have them. Blocks.
pub fn read_tables(
    dir: &Path,
    manifest: &GroupManifest,
) -> Result<BTreeMap<String, Vec<u8>>, StorageError> {
    read_tables_of(&System, dir, manifest)
}

/// [`read_tables`], of these files.
///
/// # Errors
/// [`StorageError`].
pub fn read_tables_of(
    files: &dyn Files,
    dir: &Path,
    manifest: &GroupManifest,
) -> Result<BTreeMap<String, Vec<u8>>, StorageError> {
    let mut joined = BTreeMap::new();
    for number in tables(manifest) {
        let path = table_path(dir, manifest.group, number);
        table::read_of(files, &path, &mut |key, value| {
            let key = std::str::from_utf8(key).map_err(|_| "a stream's key is not text")?;
            match value {
                Some(value) => {
                    let older = joined.get(key).map(Vec::as_slice);
                    let value = combine_stream_states(older, value);
                    joined.insert(key.to_owned(), value);
                }
                None => {
                    joined.remove(key);
                }
            }
            Ok(())
        })?;
    }
    Ok(joined)
}

/// The base and the deltas, oldest first.
pub fn tables(manifest: &GroupManifest) -> impl Iterator<Item = u64> {
    let base = (manifest.base > 0).then_some(manifest.base);
    base.into_iter().chain(manifest.deltas.iter().copied())
}

/// Removes files of two checkpoints in a row, and those written on the way from one to the other, that `kept` does not
/// name. What a crash leaves here goes at the next start.
fn remove_unused(
    files: &dyn Files,
    dir: &Path,
    before: &GroupManifest,
    after: &GroupManifest,
    kept: &GroupManifest,
) {
    let new_tables = before.next_table.max(1)..after.next_table;
    let new_packs = before.next_pack.max(1)..after.next_pack;
    let kept_tables: BTreeSet<u64> = tables(kept).collect();
    let unused_tables = tables(before)
        .chain(new_tables)
        .filter(|t| !kept_tables.contains(t));
    let packs = before.packs.iter().copied().chain(new_packs);
    let unused_packs = packs.filter(|p| !kept.packs.contains(p));
    let group = after.group;
    for table in unused_tables {
        remove(files, &table_path(dir, group, table));
    }
    for pack in unused_packs {
        remove(files, &pack_path(dir, group, pack));
    }
}

/// Removes what a crash left in a group's directory: files that its manifest does not name. Blocks. Without a manifest
/// nothing is touched: what the first checkpoint left is written over, and a manifest that was lost can be restored.
///
/// # Errors
/// The system's, if the directory cannot be read.
pub fn sweep(dir: &Path, manifest: &GroupManifest) -> Result<(), StorageError> {
    sweep_of(&System, dir, manifest)
}

/// [`sweep`], of these files.
///
/// # Errors
/// As [`sweep`].
pub fn sweep_of(
    files: &dyn Files,
    dir: &Path,
    manifest: &GroupManifest,
) -> Result<(), StorageError> {
    if manifest.index == 0 {
        return Ok(());
    }
    let own = group_dir(dir, manifest.group);
    let names = match files.names(&own) {
        Ok(names) => names,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(storage::io_error(&own, "list", error)),
    };
    let kept: BTreeSet<u64> = tables(manifest).collect();
    for name in names {
        let number = |prefix: &str| name.strip_prefix(prefix).map(str::parse);
        let is_unused = match (number("table-"), number("pack-")) {
            (Some(Ok(table)), _) => !kept.contains(&table),
            (_, Some(Ok(pack))) => !manifest.packs.iter().any(|p| u64::from(*p) == pack),
            _ => name.ends_with(".tmp"),
        };
        if is_unused {
            let path = own.join(&name);
            log::info!("event=unused_file_removed path={:?}", path.display());
            remove(files, &path);
        }
    }
    Ok(())
}

fn remove(files: &dyn Files, path: &Path) {
    if let Err(error) = files.remove(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        log::warn!(
            "event=file_not_removed path={:?} error={error:?}",
            path.display(),
            error = error.to_string()
        );
    }
}

#[cfg(test)]
mod crash;

#[cfg(test)]
mod crash_log;

#[cfg(test)]
pub(super) mod cut;

#[cfg(test)]
mod tests;
