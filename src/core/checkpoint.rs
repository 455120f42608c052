//! Writes checkpoints, so that the log before them can go: a pack with the bytes that no pack has, a delta table
//! with the streams that changed, then the manifest that names both.
//!
//! A crash before the manifest is replaced leaves the old checkpoint and the log: nothing is lost.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use prost::Message;
use raftproto::checkpoint::{GroupManifest, HardState};
use storage::pack::PackPlan;
use storage::{StorageError, framed, table};

use super::Core;
use crate::group::{CheckpointPlan, PlaceChunk, combine_stream_states};
use crate::ops::metrics::add;
use crate::protocol::{ChunkRef, Incarnation, StreamKey};

/// Deltas after which a new base is written.
const DELTAS_MAX: usize = 16;

/// Segments after which groups that keep old ones alive are checkpointed, though they have changed little.
const SEGMENTS_MAX: usize = 8;

/// The files of one group's newest checkpoint.
#[derive(Debug, Clone, Default)]
pub struct GroupFiles {
    /// What the manifest says.
    pub manifest: GroupManifest,
}

/// A group's directory.
pub fn group_dir(dir: &Path, group: u32) -> PathBuf {
    dir.join("groups").join(format!("{group:05}"))
}

/// A pack's file.
pub fn pack_path(dir: &Path, group: u32, pack: u32) -> PathBuf {
    group_dir(dir, group).join(format!("pack-{pack}"))
}

/// A state table's file.
pub fn table_path(dir: &Path, group: u32, number: u64) -> PathBuf {
    group_dir(dir, group).join(format!("table-{number}"))
}

/// A group's manifest.
pub fn manifest_path(dir: &Path, group: u32) -> PathBuf {
    group_dir(dir, group).join("manifest")
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
        if disk.is_checkpointing.get()
            || !(grown >= self.config.checkpoint_bytes || is_hot || has_old)
        {
            return;
        }
        disk.is_checkpointing.set(true);
        disk.checkpointed_at.set(disk.wal_bytes.get());
        let core = self.clone();
        glommio::spawn_local(async move {
            core.checkpoint_all().await;
            if let Some(disk) = &core.disk {
                disk.is_checkpointing.set(false);
                disk.checkpoint_done.raise();
            }
        })
        .detach();
    }

    async fn checkpoint_all(self: &Rc<Self>) {
        let groups: Vec<u32> = self.groups.borrow().keys().copied().collect();
        for group in groups {
            if let Err(error) = self.checkpoint_group(group).await {
                // The log still has everything, but the group's state counts on the checkpoint's files now.
                self.fail(&error);
                return;
            }
        }
    }

    async fn checkpoint_group(self: &Rc<Self>, id: u32) -> Result<(), StorageError> {
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
        let pack = before.next_pack.max(1);
        let hot_target = self.hot_target();
        let (plan, packed) = {
            let mut groups = self.groups.borrow_mut();
            let Some(group) = groups.get_mut(&id) else {
                return Ok(());
            };
            if group.applied().index <= before.index {
                group.shed_hot_bytes(hot_target);
                return Ok(());
            }
            let mut placer = Placer(PackPlan::new(id, pack));
            let plan = group.checkpoint(&mut placer);
            (plan, placer.0)
        };
        let index = plan.position.index;
        let dir = disk.dir.clone();
        let (manifest, bytes) =
            storage::blocking::run(move || write(&dir, id, before, plan, packed)).await?;
        disk.files.borrow_mut().insert(id, GroupFiles { manifest });
        add(&self.metrics.plain.checkpoints_total, 1);
        add(&self.metrics.plain.checkpoint_bytes_total, bytes);
        if let Some(group) = self.groups.borrow_mut().get_mut(&id) {
            group.checkpointed(pack, hot_target);
        }
        disk.wal.release(id, index);
        Ok(())
    }

    /// What each group may keep in memory of what packs have.
    fn hot_target(&self) -> u64 {
        self.config.hot_bytes_max / 4 / (self.groups.borrow().len().max(1) as u64)
    }
}

/// Writes one checkpoint. Blocks.
fn write(
    dir: &Path,
    group: u32,
    before: GroupManifest,
    plan: CheckpointPlan,
    pack: PackPlan,
) -> Result<(GroupManifest, u64), StorageError> {
    let own = group_dir(dir, group);
    std::fs::create_dir_all(&own).map_err(|e| storage::io_error(&own, "create", e))?;
    let mut bytes = 0;
    let mut manifest = GroupManifest {
        version: raftproto::version::CHECKPOINT,
        group,
        index: plan.position.index,
        term: plan.position.term,
        voters: plan.voters,
        hard_state: Some(HardState {
            term: plan.hard_state.term,
            vote: plan.hard_state.vote,
            commit: plan.hard_state.commit,
        }),
        base: before.base,
        deltas: before.deltas.clone(),
        next_table: before.next_table.max(1),
        next_pack: before.next_pack.max(1),
        packs: plan.packs,
        group_state: plan.group_state.into(),
    };
    if !pack.is_empty() {
        bytes += pack.write(&pack_path(dir, group, manifest.next_pack))?;
        manifest.next_pack += 1;
    }
    if !plan.delta.is_empty() {
        let entries = plan
            .delta
            .iter()
            .map(|(key, value)| (key.as_str().as_bytes(), value.as_deref()));
        bytes += table::write(&table_path(dir, group, manifest.next_table), entries)?;
        manifest.deltas.push(manifest.next_table);
        manifest.next_table += 1;
    }
    if manifest.deltas.len() > DELTAS_MAX {
        bytes += merge(dir, group, &mut manifest)?;
    }
    framed::write_atomic(&manifest_path(dir, group), &manifest.encode_to_vec())?;
    remove_unused(&before, &manifest, dir, group);
    Ok((manifest, bytes))
}

/// Joins the base and all deltas into a new base.
fn merge(dir: &Path, group: u32, manifest: &mut GroupManifest) -> Result<u64, StorageError> {
    let joined = read_tables(dir, manifest)?;
    let entries = joined
        .iter()
        .map(|(key, value)| (key.as_slice(), Some(value.as_slice())));
    let bytes = table::write(&table_path(dir, group, manifest.next_table), entries)?;
    manifest.base = manifest.next_table;
    manifest.next_table += 1;
    manifest.deltas.clear();
    Ok(bytes)
}

/// A group's streams as its tables have them. Blocks.
pub fn read_tables(
    dir: &Path,
    manifest: &GroupManifest,
) -> Result<std::collections::BTreeMap<Vec<u8>, Vec<u8>>, StorageError> {
    let mut joined = std::collections::BTreeMap::new();
    let base = (manifest.base > 0).then_some(manifest.base);
    for number in base.into_iter().chain(manifest.deltas.iter().copied()) {
        table::read(
            &table_path(dir, manifest.group, number),
            &mut |key, value| {
                match value {
                    Some(value) => {
                        let older = joined.get(key).map(Vec::as_slice);
                        let value = combine_stream_states(older, value);
                        joined.insert(key.to_vec(), value);
                    }
                    None => {
                        joined.remove(key);
                    }
                }
                Ok(())
            },
        )?;
    }
    Ok(joined)
}

/// Removes files that only the checkpoint before needed. What is left by a crash here costs space only.
fn remove_unused(before: &GroupManifest, now: &GroupManifest, dir: &Path, group: u32) {
    let tables = before
        .deltas
        .iter()
        .copied()
        .chain((before.base > 0).then_some(before.base));
    let unused_tables = tables.filter(|t| *t != now.base && !now.deltas.contains(t));
    let unused_packs = before.packs.iter().filter(|p| !now.packs.contains(p));
    let paths = unused_tables
        .map(|t| table_path(dir, group, t))
        .chain(unused_packs.map(|p| pack_path(dir, group, *p)));
    for path in paths {
        if let Err(error) = std::fs::remove_file(&path) {
            log::warn!(
                "event=file_not_removed path={} error=\"{error}\"",
                path.display()
            );
        }
    }
}
