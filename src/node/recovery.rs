//! What a start finds: identity, checkpoints, logs of all lanes, whatever the number of cores was.

use std::collections::BTreeMap;
use std::path::Path;

use prost::Message;
use raftproto::checkpoint::{GroupManifest, Membership};
use raftproto::version::of_batch;
use storage::lock::DirLock;
use storage::wal::{IoMode, Record, WalConfig};
use storage::{StorageError, framed, wal};

use super::cold_place;
use super::identity::{Identity, draw_store_id, identity_path};
use super::join;
use super::place::misfit;
use super::rebuild::{is_damage, rebuild, resume};
use super::replay::{is_needed, replay};
use super::{NodeError, notify};
use crate::config::Config;
use crate::core::owners::Owners;
use crate::core::{
    GroupFiles, GroupStart, WalStart, damage_note_path, manifest_path, read_tables, sweep,
};
use crate::group::{LogPosition, Machine, RaftStart};
use crate::protocol::StreamKey;

/// What the cores start with.
pub struct Start {
    /// Tells the tags of this store's answers from those of another that stood at the same address.
    pub etag_nonce: u32,
    /// The data directory; random where there is none.
    pub store_id: [u8; 16],
    /// Of this node's replicas.
    pub raft_id: u64,
    /// Held as long as the node runs: of the data directory and of the cache's.
    pub lock: Vec<DirLock>,
    /// One part per core.
    pub cores: Vec<CorePart>,
}

/// One core's groups and log.
pub struct CorePart {
    /// Its groups.
    pub groups: Vec<GroupStart>,
    /// Its log.
    pub wal: Option<WalStart>,
}

/// Recovers a node's state.
///
/// # Errors
/// [`NodeError`]: damage is named, never cut away.
pub fn recover(config: &Config) -> Result<Start, NodeError> {
    let Some(dir) = &config.wal_dir else {
        return read_all(config);
    };
    if let Some(text) = misfit(dir) {
        return Err(NodeError::Misfit(text));
    }
    match read_all(config) {
        Err(error) if is_damage(&error) => {
            // Held while files are moved.
            let lock = DirLock::acquire(dir)?;
            rebuild(dir, config, error)?;
            drop(lock);
            read_all(config)
        }
        read => read,
    }
}

/// The cache's directory is this node's alone, and fit for it.
fn cache_lock(config: &Config) -> Result<Option<DirLock>, NodeError> {
    let Some(dir) = config.cache_dir.as_ref().filter(|_| config.cold.is_some()) else {
        return Ok(None);
    };
    match storage::cache::prepare(dir, config.core_count as u16) {
        Ok(lock) => Ok(Some(lock)),
        // A cache is worth no outage: a disk that fails or is not there is done without.
        Err(storage::StorageError::Io { source, .. }) if is_of_the_disk(&source) => {
            log::error!(
                "event=cache_off dir={:?} {source}: reads go to the store",
                dir.display()
            );
            Ok(None)
        }
        Err(error) => Err(NodeError::Misfit(format!("cache_dir: {error}"))),
    }
}

/// Not a wrong setting.
fn is_of_the_disk(error: &std::io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EIO | libc::EROFS | libc::ENOSPC)
    )
}

/// A directory that joins speaks only once enough others have noted it: else it could be lost, and what it acknowledged be
/// forgotten, without anybody who knows.
fn noted_by_others(
    dir: &Path,
    config: &Config,
    mut identity: Identity,
) -> Result<Identity, NodeError> {
    // Nothing is acknowledged that was not written there.
    let has_log = std::fs::read_dir(dir.join("wal")).is_ok_and(|mut files| files.next().is_some());
    if !identity.voters.is_empty() || has_log {
        return Ok(identity);
    }
    while !join::await_claim(config, &identity)? {
        identity = Identity {
            store_id: draw_store_id()?,
            voters: Vec::new(),
            raft_id: join::await_membership(dir, config)?,
        };
        identity.write(&identity_path(dir), config)?;
    }
    Ok(identity)
}

fn read_all(config: &Config) -> Result<Start, NodeError> {
    let owners = Owners::new(config.core_count as u16, config.raft_group_count as u32);
    let groups = 0..=config.raft_group_count as u32;
    let Some(dir) = &config.wal_dir else {
        let fresh = groups.map(|group| (group, fresh(config, group)));
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
        return Ok(Start {
            lock: Vec::new(),
            store_id: [0; 16],
            raft_id: config.node_id,
            etag_nonce: random as u32,
            cores: distribute(&owners, fresh, |_| None),
        });
    };
    let lock = DirLock::acquire(dir)?;
    notify::starting("recovering");
    resume(dir, config)?;
    let identity = Identity::of(dir, config)?;
    let identity = noted_by_others(dir, config, identity)?;
    if let Some(noted) = framed::read(&damage_note_path(dir))? {
        return Err(NodeError::Damaged(
            String::from_utf8_lossy(&noted).into_owned(),
        ));
    }
    let store_id = identity.store_id;
    let wal_dir = dir.join("wal");
    framed::create_dir(&wal_dir)?;
    framed::create_dir(&dir.join("groups"))?;
    framed::sync_dir(&dir.join("groups"))?;
    cold_place::check(dir, config)?;
    let is_direct = wal::has_direct_io(&wal_dir)?;
    if !is_direct {
        log::warn!(
            "event=buffered_io path={:?} its filesystem has no direct I/O: appends take longer and use the page cache",
            wal_dir.display()
        );
    }
    let io_mode = match (is_direct, config.wal_sync.as_str()) {
        (false, _) => IoMode::Buffered,
        (true, "dsync") => IoMode::DirectSync,
        (true, _) => IoMode::Direct,
    };
    let mut manifests = BTreeMap::new();
    for group in groups {
        manifests.insert(group, read_manifest(dir, group)?);
    }
    let index_of = |group: u32| manifests.get(&group).map_or(0, |m: &GroupManifest| m.index);
    let mut shown = 0;
    let mut recovered = wal::recover(
        &wal_dir,
        store_id,
        &|record| is_needed(record, index_of(record.group)),
        &mut |done, all| {
            notify::starting(&format!("recovering: {done} of {all} segments"));
            let percent = (done * 100).checked_div(all).unwrap_or(100);
            if percent >= shown + 10 {
                shown = percent;
                log::info!("event=recovering segments_done={done} segments={all}");
            }
        },
    )?;
    for torn in &recovered.torn {
        // Told apart by nobody: where others count on it, they say so, and the replicas are built anew.
        let level = match config.peers.is_empty() {
            true => log::Level::Info,
            false => log::Level::Warn,
        };
        log::log!(
            level,
            "event=torn_tail path={:?} offset={} the last record is not whole and is left out: a crash cut its write, or it was \
             damaged later",
            torn.path.display(),
            torn.offset
        );
    }
    let pins = recovered.take_pins(&|group, index| index > index_of(group));
    let generation = recovered.generation + 1;
    let mut starts = Vec::new();
    for (group, manifest) in &manifests {
        notify::starting("recovering: checkpoints");
        let records = recovered.groups.remove(group).unwrap_or_default();
        starts.push((
            *group,
            start_group(dir, config, &identity, manifest, records)?,
        ));
    }
    // Nothing is removed before all was read.
    for manifest in manifests.values() {
        sweep(dir, manifest)?;
    }
    let mut pins_by_core: BTreeMap<u16, Vec<wal::Pin>> = BTreeMap::new();
    for pin in pins {
        pins_by_core
            .entry(owners.of(pin.group))
            .or_default()
            .push(pin);
    }
    let wal_of = |core: u16| {
        Some(WalStart {
            config: WalConfig {
                dir: wal_dir.clone(),
                store_id,
                generation,
                lane: core.into(),
                segment_bytes: config.wal_segment_bytes,
                io_mode,
            },
            dir: dir.clone(),
            pins: pins_by_core.remove(&core).unwrap_or_default(),
        })
    };
    Ok(Start {
        lock: std::iter::once(lock).chain(cache_lock(config)?).collect(),
        store_id,
        raft_id: identity.raft_id,
        etag_nonce: etag_nonce(config, store_id),
        cores: distribute(&owners, starts.into_iter(), wal_of),
    })
}

/// All nodes of a cluster give the same tags.
fn etag_nonce(config: &Config, store_id: [u8; 16]) -> u32 {
    match config.peers.is_empty() {
        true => u32::from_le_bytes([store_id[0], store_id[1], store_id[2], store_id[3]]),
        false => xxhash_rust::xxh3::xxh3_64(config.cluster_id.as_bytes()) as u32,
    }
}

fn distribute(
    owners: &Owners,
    groups: impl Iterator<Item = (u32, GroupStart)>,
    mut wal_of: impl FnMut(u16) -> Option<WalStart>,
) -> Vec<CorePart> {
    let mut parts: Vec<CorePart> = (0..owners.cores())
        .map(|core| CorePart {
            groups: Vec::new(),
            wal: wal_of(core),
        })
        .collect();
    for (group, start) in groups {
        parts[usize::from(owners.of(group))].groups.push(start);
    }
    parts
}

fn fresh(config: &Config, group: u32) -> GroupStart {
    GroupStart {
        machine: Machine::new(group),
        raft: RaftStart {
            node_id: config.node_id,
            membership: bootstrap(&[config.node_id]),
            settings: config.raft_settings(),
            ..RaftStart::default()
        },
        files: GroupFiles::default(),
    }
}

/// A group's manifest; an empty one if there is none.
///
/// # Errors
/// [`NodeError`]: it is damaged, newer, or another group's.
pub(super) fn read_manifest(dir: &Path, group: u32) -> Result<GroupManifest, NodeError> {
    let path = manifest_path(dir, group);
    let Some(bytes) = framed::read(&path)? else {
        return Ok(GroupManifest {
            group,
            ..GroupManifest::default()
        });
    };
    let manifest = GroupManifest::decode(bytes)
        .map_err(|e| NodeError::Data(format!("{}: {e}", path.display())))?;
    raftproto::version::check(
        "a checkpoint",
        manifest.version,
        raftproto::version::CHECKPOINT,
    )
    .map_err(|e| NodeError::Data(format!("{}: {e}", path.display())))?;
    if manifest.group != group {
        return Err(StorageError::Foreign { path }.into());
    }
    Ok(manifest)
}

fn start_group(
    dir: &Path,
    config: &Config,
    identity: &Identity,
    manifest: &GroupManifest,
    records: Vec<Record>,
) -> Result<GroupStart, NodeError> {
    let group = manifest.group;
    let tables = read_tables(dir, manifest).map_err(missing_is_damage)?;
    let streams = tables
        .into_iter()
        .map(|(key, value)| (StreamKey::from_stored(&key), value));
    let machine = Machine::load(group, &manifest.group_state, streams).map_err(|e| {
        NodeError::Damaged(format!(
            "the checkpoint of group {group} does not decode: {e}"
        ))
    })?;
    let checkpoint = LogPosition {
        index: manifest.index,
        term: manifest.term,
    };
    let (hard_state, entries) = replay(group, manifest, records).map_err(NodeError::Damaged)?;
    // Before any of them is applied: a node that went back to an older ursula too late says so at once.
    let batches = entries.iter().filter(|e| !e.is_conf_change);
    for version in batches.map(|e| of_batch(&e.payload)).filter(|v| *v > 0) {
        raftproto::version::check("a log entry", version, raftproto::version::COMMANDS)
            .map_err(|e| NodeError::Data(format!("the log of group {group}: {e}")))?;
    }
    let membership = match &manifest.membership {
        Some(membership) => membership.clone(),
        None if manifest.voters.is_empty() => bootstrap(&identity.voters),
        None => bootstrap(&manifest.voters),
    };
    Ok(GroupStart {
        machine,
        raft: RaftStart {
            node_id: identity.raft_id,
            membership,
            checkpoint,
            hard_state,
            entries,
            settings: config.raft_settings(),
        },
        files: GroupFiles {
            manifest: manifest.clone(),
        },
    })
}

/// A file that a manifest names must be there.
fn missing_is_damage(error: StorageError) -> NodeError {
    match error {
        StorageError::Io { path, source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            NodeError::Damaged(format!("{} is missing", path.display()))
        }
        error => error.into(),
    }
}

/// The members of a group that has no checkpoint yet.
fn bootstrap(voters: &[u64]) -> Membership {
    Membership {
        voters: voters.to_vec(),
        ..Membership::default()
    }
}
