//! The files of the new groups: a state table and a manifest each. The same on every node.

use std::collections::BTreeMap;
use std::path::Path;

use prost::Message;
use raftproto::checkpoint::{
    GroupManifest, GroupState, HardState, Membership, MetaState, StreamState,
};
use storage::{StorageError, framed, table};
use xxhash_rust::xxh3::Xxh3;

use super::place::{NewGroup, Placer, group_of};
use crate::core::{group_dir, manifest_path, table_path};
use crate::protocol::StreamKey;

/// Where the log of every group begins: what is before is in the checkpoint.
const INDEX: u64 = 100;
const TERM: u64 = 1;

/// What was placed, in its final form: chunks in order, and the packs that nothing needs marked.
pub(super) struct Placed {
    streams: BTreeMap<String, StreamState>,
    groups: BTreeMap<u32, NewGroup>,
    last_stamp_ms: u64,
    next_incarnation: u64,
}

/// All has been flushed.
pub(super) fn finish(mut placer: Placer) -> Placed {
    let mut live: BTreeMap<(u32, u32), u64> = BTreeMap::new();
    let group_count = placer.groups.len() as u32;
    for (key, stream) in &mut placer.streams {
        stream.chunks.sort_by_key(|c| c.start);
        stream.cold.sort_by_key(|c| c.start);
        let group = group_of(&StreamKey::from_stored(key), group_count);
        for chunk in &stream.cold {
            *live.entry((group, chunk.pack)).or_default() += u64::from(chunk.length);
        }
    }
    let stamp_ms = placer.last_stamp_ms;
    for (group, place) in &mut placer.groups {
        for pack in &mut place.cold_packs {
            let is_dead = !live.contains_key(&(*group, pack.pack));
            pack.dead_since_ms = is_dead.then_some(stamp_ms);
        }
    }
    Placed {
        streams: placer.streams,
        groups: placer.groups,
        last_stamp_ms: placer.last_stamp_ms,
        next_incarnation: placer.next_incarnation,
    }
}

fn group_state(placed: &Placed, group: u32, meta: &MetaState) -> GroupState {
    let packs = placed.groups.get(&group);
    let cold_packs = packs.map(|p| p.cold_packs.clone()).unwrap_or_default();
    GroupState {
        last_stamp_ms: placed.last_stamp_ms,
        next_incarnation: placed.next_incarnation,
        next_outbox: 1,
        meta: (group == 0).then(|| meta.clone()),
        next_cold_pack: cold_packs.len() as u32,
        cold_packs,
        ..GroupState::default()
    }
}

/// Hash of all that the nodes must agree on.
pub(super) fn hash(placed: &Placed, meta: &MetaState, voters: &[u64]) -> u64 {
    let mut hash = Xxh3::new();
    for voter in voters {
        hash.update(&voter.to_le_bytes());
    }
    for group in 0..=placed.groups.len() as u32 {
        hash.update(&group_state(placed, group, meta).encode_to_vec());
    }
    for (key, stream) in &placed.streams {
        hash.update(key.as_bytes());
        hash.update(&stream.encode_to_vec());
    }
    hash.digest()
}

/// Writes all groups. Blocks.
///
/// # Errors
/// The disk's.
pub(super) fn write(
    root: &Path,
    mut placed: Placed,
    meta: &MetaState,
    voters: &[u64],
) -> Result<(), StorageError> {
    let group_count = placed.groups.len() as u32;
    let mut tables: BTreeMap<u32, Vec<(String, Vec<u8>)>> = BTreeMap::new();
    for (key, stream) in std::mem::take(&mut placed.streams) {
        let group = group_of(&StreamKey::from_stored(&key), group_count);
        let entries = tables.entry(group).or_default();
        entries.push((key, stream.encode_to_vec()));
    }
    let membership = Membership {
        voters: voters.to_vec(),
        ..Membership::default()
    };
    for group in 0..=group_count {
        framed::create_dir(&group_dir(root, group))?;
        let entries = tables.remove(&group).unwrap_or_default();
        let has_table = !entries.is_empty();
        if has_table {
            let entries = entries.iter();
            let entries = entries.map(|(key, value)| (key.as_bytes(), Some(value.as_slice())));
            table::write(&table_path(root, group, 1), entries)?;
        }
        let packs = placed.groups.get(&group);
        let packs = packs.map(|p| p.local_packs.clone()).unwrap_or_default();
        let manifest = GroupManifest {
            version: raftproto::version::checkpoint_at(meta.level),
            group,
            index: INDEX,
            term: TERM,
            voters: voters.to_vec(),
            membership: Some(membership.clone()),
            hard_state: Some(HardState {
                term: TERM,
                vote: 0,
                commit: INDEX,
            }),
            base: u64::from(has_table),
            deltas: Vec::new(),
            next_table: 2,
            next_pack: packs.last().map_or(1, |last| last + 1),
            packs,
            group_state: group_state(&placed, group, meta).encode_to_vec().into(),
        };
        framed::write_atomic(&manifest_path(root, group), &manifest.encode_to_vec())?;
    }
    Ok(())
}
