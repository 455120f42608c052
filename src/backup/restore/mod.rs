//! `ursula restore`: makes the data directory of a node of a new cluster from a backup.
//!
//! Each group of the old cluster is built (`state.rs`), its streams are given to the groups that the new cluster has for their
//! slots, with their bytes (`place.rs`), and what spans groups is made whole (`settle.rs`), since each group is restored to a
//! moment of its own. What comes out depends on the backup and the settings alone, so every node that is restored from the
//! same point begins with the same state. A directory counts only when all is in it.

mod place;
mod settle;
mod write;

use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use raftproto::checkpoint::MetaState;
use storage::cold::{ColdError, ColdKey, ColdStore};
use storage::framed;
use storage::lock::DirLock;

use self::place::Placer;
use super::chain::Plan;
use super::state::build;
use super::{BackupError, Inventory, Source, objects_prefix, shipped_ms_of};
use crate::config::{ColdPlace, Config};
use crate::core::cold::open_cold;
use crate::node::{RESTORING, found_directory, unmake_directory};
use crate::protocol::{parse_rfc3339_ms, rfc3339_from_ms};

/// The clocks of the nodes, and the time from when a state is taken to when it is there, may differ by so much.
const MARGIN_MS: u64 = 15 * 60 * 1000;

/// What is restored.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Where the backup is.
    pub from: String,
    /// Its cluster; none: the only one there.
    pub cluster: Option<String>,
    /// Which of that name; none: the only one there.
    pub history: Option<String>,
    /// State at this time; none: the newest.
    pub at: Option<String>,
    /// Packs that are damaged or missing keep nobody from the rest.
    pub skip_damaged: bool,
}

/// What was restored.
#[derive(Debug, Default)]
pub struct Summary {
    /// The data directory.
    pub dir: PathBuf,
    /// The new cluster.
    pub cluster: String,
    /// The old one.
    pub from_cluster: String,
    /// Groups before.
    pub old_groups: u32,
    /// Groups now.
    pub groups: u32,
    /// Streams.
    pub streams: u64,
    /// Their own bytes.
    pub bytes: u64,
    /// Log entries that were applied.
    pub entries: u64,
    /// Holds of forks that do not stand.
    pub holds_released: u64,
    /// Forks whose source was not restored so far; named in the log.
    pub forks_dropped: u64,
    /// The newest entry of any group.
    pub newest_ms: u64,
    /// When the newest part that was used had been shipped.
    pub shipped_ms: u64,
    /// What was lost of streams, in words that name the pack, the streams and the bytes.
    pub lost: Vec<String>,
    /// How many bytes of them.
    pub lost_bytes: u64,
    /// Hash of all that was restored; the same on every node.
    pub hash: u64,
}

impl Summary {
    /// As lines for people.
    pub fn text(&self) -> String {
        format!(
            "restored {} from cluster {} into {}\ncluster {}\ngroups {} (before: {})\nstreams {}\nbytes {}\nlog_entries {}\nlost_bytes {}\n\
             holds_released {}\nforks_dropped {}\nnewest {}\nshipped {}\nstate {:016x} (the same on every node, or something is wrong)\n\
             next: restore the other nodes the same way, then start all of them with --cluster-id {} --raft-group-count {}\n",
            match (self.forks_dropped, self.lost_bytes) {
                (0, 0) => "all",
                (_, 0) => "all but some forks",
                _ => "all but what was damaged",
            },
            self.from_cluster,
            self.dir.display(),
            self.cluster,
            self.groups,
            self.old_groups,
            self.streams,
            self.bytes,
            self.entries,
            self.lost_bytes,
            self.holds_released,
            self.forks_dropped,
            rfc3339_from_ms(self.newest_ms),
            rfc3339_from_ms(self.shipped_ms),
            self.hash,
            self.cluster,
            self.groups,
        )
    }
}

/// Restores. On an executor.
///
/// # Errors
/// [`BackupError`]: nothing that a node would start from is left behind.
pub async fn restore(config: &Config, wanted: &Wanted) -> Result<Summary, BackupError> {
    let usage = |text: &str| BackupError::Usage(text.to_owned());
    let dir = config
        .wal_dir
        .clone()
        .ok_or_else(|| usage("say where the new data directory is: --wal-dir DIR"))?;
    let at_ms = match &wanted.at {
        None => u64::MAX,
        Some(text) => parse_rfc3339_ms(text)
            .ok_or_else(|| usage("--at is no time; write it as 2027-01-01T00:00:00Z"))?,
    };
    let source = Source::open(config, Some(&wanted.from), wanted.cluster.as_deref()).await?;
    if source.cluster == config.cluster_id {
        return Err(BackupError::Usage(format!(
            "the backup is of cluster {0}, and so is the new one: nodes of the old cluster that come back must be told apart; \
             give another --cluster-id, such as {0}-2",
            source.cluster
        )));
    }
    expect_empty(&dir)?;
    let objects = source.objects().await?;
    let inventory = Inventory::read(&source, &objects, wanted.history.as_deref()).await?;
    let plans = match inventory.plans(at_ms) {
        Ok(plans) => plans,
        Err(error) => {
            // What is missing may be why.
            refuse_damaged(&inventory, 0, u64::MAX)?;
            return Err(error);
        }
    };
    let used_ms = plans.values().map(Plan::shipped_ms).max().unwrap_or(0);
    let from_ms = plans.values().map(Plan::first_shipped_ms).min();
    let from_ms = from_ms.unwrap_or(0).saturating_sub(MARGIN_MS);
    refuse_damaged(&inventory, from_ms, used_ms)?;

    let (cold, note) = target_store(config).await?;
    let _lock = DirLock::acquire(&dir)?;
    let root = dir.join(RESTORING);
    framed::create_dir(&root.join("groups"))?;
    let seed = format!("{} {} {used_ms}", source.cluster, config.cluster_id);
    let mut placer = Placer::new(config, &root, cold.clone(), &seed);
    placer.skips_damaged = wanted.skip_damaged;
    let mut summary = Summary {
        dir: dir.clone(),
        cluster: config.cluster_id.clone(),
        from_cluster: source.cluster.clone(),
        old_groups: inventory.group_count,
        groups: config.raft_group_count as u32,
        shipped_ms: used_ms,
        ..Summary::default()
    };
    let mut meta = MetaState::default();
    for (group, plan) in &plans {
        let built = build(&source, *group, plan, at_ms).await?;
        let state = built.machine.exported_state();
        summary.entries += built.entries;
        summary.newest_ms = summary.newest_ms.max(state.last_stamp_ms);
        placer.last_stamp_ms = placer.last_stamp_ms.max(state.last_stamp_ms);
        placer.next_incarnation = placer.next_incarnation.max(state.next_incarnation);
        if let Some(found) = state.meta {
            meta = found;
        }
        placer.take(&source, *group, &built.machine).await?;
        log::info!(
            "event=restoring group={group} groups={} streams={} bytes={}",
            inventory.group_count,
            placer.stream_count(),
            placer.bytes
        );
    }
    placer.flush_all().await?;
    placer.place_lost().await?;
    (summary.lost, summary.lost_bytes) = (placer.told.clone(), placer.lost_bytes);
    let settled = settle::settle(&mut placer.streams, &mut meta);
    (summary.holds_released, summary.forks_dropped) =
        (settled.holds_released, settled.forks_dropped);
    // The first leader gives slots by the same rule as `place::group_of`, and names the new history.
    meta.slots.clear();
    meta.history = 0;
    meta.members.clear();
    meta.removed_raft_ids.clear();
    summary.streams = placer.stream_count();
    summary.bytes = placer.bytes_kept();
    let cluster = config.cluster_id.clone();
    let voters = match config.peers.is_empty() {
        true => vec![config.node_id],
        false => config.peers.iter().map(|p| p.id).collect(),
    };
    let placed = write::finish(placer);
    summary.hash = write::hash(&placed, &meta, &voters);
    if let Some(note) = note
        && note != note_of(summary.hash)
    {
        return Err(other_state(&cluster));
    }
    let node_id = config.node_id;
    let config = config.clone();
    storage::blocking::run(move || {
        write::write(&root, placed, &meta, &voters)?;
        found_directory(&dir, &config)
    })
    .await
    .map_err(|e| BackupError::Target(e.to_string()))?;
    // Not before the directory is there: a restore that failed binds nobody.
    if let Some(store) = cold.filter(|store| !store.is_local())
        && let Err(error) = note_restored(&*store, &cluster, node_id, summary.hash).await
    {
        let made = summary.dir.clone();
        storage::blocking::run(move || unmake_directory(&made))
            .await
            .map_err(|e| BackupError::Target(e.to_string()))?;
        return Err(error);
    }
    Ok(summary)
}

/// The directory is not there, or has nothing in it.
fn expect_empty(dir: &Path) -> Result<(), BackupError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(storage::io_error(dir, "list", error).into()),
    };
    // What a file system puts into its own root is nobody's.
    let is_own = |name: &std::ffi::OsStr| name != "lost+found";
    match entries.flatten().find(|e| is_own(&e.file_name())) {
        None => Ok(()),
        Some(_) if dir.join(RESTORING).is_dir() => Err(BackupError::Target(format!(
            "a restore into {0} was broken off: {0}/{RESTORING} is what it had written, and counts for nothing. Remove all that is in \
             {0}, and restore again",
            dir.display()
        ))),
        Some(entry) => Err(BackupError::Target(format!(
            "{} is not empty (there is {}): a restore takes an empty directory",
            dir.display(),
            entry.file_name().to_string_lossy()
        ))),
    }
}

/// What is missing or damaged between the oldest and the newest part that are used could hold what belongs there. All that is
/// older is in the states that the plans begin with.
fn refuse_damaged(inventory: &Inventory, from_ms: u64, used_ms: u64) -> Result<(), BackupError> {
    let is_needed = |key: &ColdKey| {
        let shipped_ms = shipped_ms_of(key);
        shipped_ms.is_some_and(|ms| (from_ms..=used_ms).contains(&ms))
    };
    for missing in inventory.missing() {
        if ColdKey::new(missing).is_some_and(|key| is_needed(&key)) {
            return Err(BackupError::Nothing(format!(
                "{missing} is missing, and later objects follow it; --at a time before it, or `ursula backup verify` for all \
                 that is wrong"
            )));
        }
    }
    for error in &inventory.unreadable {
        let key = match error {
            BackupError::Damaged { key, .. }
            | BackupError::Cold(ColdError::Corrupt { key, .. } | ColdError::NotFound { key }) => {
                key
            }
            _ => continue,
        };
        if is_needed(key) {
            return Err(BackupError::Nothing(error.to_string()));
        }
    }
    Ok(())
}

/// Where the new cluster keeps old data, if that is shared by its nodes or it has only one; and, if a node of it has been
/// started already, what the first restored node noted.
async fn target_store(
    config: &Config,
) -> Result<(Option<Rc<dyn ColdStore>>, Option<Bytes>), BackupError> {
    match &config.cold {
        None => return Ok((None, None)),
        Some(ColdPlace::Dir(_)) if !config.peers.is_empty() => return Ok((None, None)),
        Some(ColdPlace::Dir(dir)) => storage::cold::prepare(dir)?,
        Some(ColdPlace::S3 { .. }) => {}
    }
    let Some(store) = open_cold(0, config, Rc::default()) else {
        return Ok((None, None));
    };
    let cluster = &config.cluster_id;
    let shipped = store.list(&objects_prefix(cluster), None, 1).await?;
    let Some(object) = shipped.first() else {
        return Ok((Some(store), None));
    };
    let known = match cluster_note(cluster) {
        Some(key) => read_note(&*store, &key).await?,
        None => None,
    };
    let Some(known) = known else {
        return Err(BackupError::Target(format!(
            "a cluster {cluster} has been at this place before (there is {}): give another --cluster-id",
            object.key
        )));
    };
    let own = match node_note(cluster, config.node_id) {
        Some(key) => read_note(&*store, &key).await?,
        None => None,
    };
    match own {
        None => Ok((Some(store), Some(known))),
        // It may have voted and acknowledged since, which the backup knows nothing of.
        Some(_) => Err(BackupError::Target(format!(
            "node {0} of cluster {cluster} was restored before, and the cluster has run since: if its nodes still run, replace \
             this one with `ursula cluster --at HOST:PORT replace {0}`; otherwise give another --cluster-id",
            config.node_id
        ))),
    }
}

fn cluster_note(cluster: &str) -> Option<ColdKey> {
    ColdKey::new(format!("{cluster}/restored"))
}

fn node_note(cluster: &str, node_id: u64) -> Option<ColdKey> {
    ColdKey::new(format!("{cluster}/restored-{node_id}"))
}

fn note_of(hash: u64) -> Bytes {
    Bytes::from(format!("{hash:016x}\n"))
}

async fn read_note(store: &dyn ColdStore, key: &ColdKey) -> Result<Option<Bytes>, BackupError> {
    match store.get(key).await {
        Ok(note) => Ok(Some(note)),
        Err(ColdError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn other_state(cluster: &str) -> BackupError {
    BackupError::Target(format!(
        "another node of cluster {cluster} was restored to another state, as {cluster}/restored says: give all nodes the same \
         --at, or all another --cluster-id"
    ))
}

/// The first node that is restored says what its state is; another one with another state is refused by that. Each one says
/// that it was.
async fn note_restored(
    store: &dyn ColdStore,
    cluster: &str,
    node_id: u64,
    hash: u64,
) -> Result<(), BackupError> {
    let notes = [cluster_note(cluster), node_note(cluster, node_id)];
    for key in notes.into_iter().flatten() {
        match store.put(&key, note_of(hash).into()).await {
            Err(ColdError::Conflict { .. }) => return Err(other_state(cluster)),
            result => result?,
        }
    }
    Ok(())
}
