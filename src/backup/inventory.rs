//! What is in a backup: the indexes of all objects of a cluster, read once, for the commands.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use raftproto::backup::{Index, Section};
use storage::cold::{ColdError, ColdKey, ColdObject, ColdStore};
use storage::cold_pack::PackDamage;

use super::chain::{Chains, Part, Plan};
use super::format::{self, Content, ObjectDamage};
use super::{objects_prefix, shipped_ms_of};
use crate::config::{Config, ConfigError, place_of};
use crate::core::cold::open_cold;
use crate::ops::exit;
use crate::protocol::rfc3339_from_ms;

/// Objects that one request lists.
const PAGE: usize = 1000;
/// Requests at once.
const AT_ONCE: usize = 16;
/// Bytes of an object's end that are read at once, in the hope that its index is among them.
const END_BYTES: u64 = 16 << 10;

/// Why a backup cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A setting.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What was given cannot be used.
    #[error("{0}")]
    Usage(String),
    /// The store.
    #[error(transparent)]
    Cold(#[from] ColdError),
    /// A shipped object.
    #[error("{key}: {damage}")]
    Damaged {
        /// Which.
        key: ColdKey,
        /// What is wrong.
        damage: ObjectDamage,
    },
    /// A pack.
    #[error("{key}: {damage}")]
    Pack {
        /// Which.
        key: ColdKey,
        /// What is wrong.
        damage: PackDamage,
    },
    /// A pack that streams need.
    #[error("{reason}; {needed}. --skip-damaged restores all the rest")]
    Lost {
        /// What is wrong with it.
        reason: String,
        /// What lies in it.
        needed: String,
    },
    /// What was read makes no state.
    #[error("group {group} of the backup: {what}")]
    State {
        /// The group.
        group: u32,
        /// What is wrong.
        what: String,
    },
    /// No state is that old, or there is none at all.
    #[error("{0}")]
    Nothing(String),
    /// The target's disk.
    #[error(transparent)]
    Storage(#[from] storage::StorageError),
    /// The target.
    #[error("{0}")]
    Target(String),
}

impl BackupError {
    /// The process's exit code.
    pub fn code(&self) -> u8 {
        match self {
            BackupError::Config(_) | BackupError::Usage(_) => exit::USAGE,
            BackupError::Nothing(_) => exit::NOT_FOUND,
            BackupError::Damaged { .. }
            | BackupError::Pack { .. }
            | BackupError::Lost { .. }
            | BackupError::State { .. } => exit::DAMAGED,
            BackupError::Target(_) => exit::CONFLICT,
            BackupError::Cold(_) | BackupError::Storage(_) => exit::FAILED,
        }
    }
}

/// Where a backup is.
pub struct Source {
    /// The store.
    pub store: Rc<dyn ColdStore>,
    /// The cluster.
    pub cluster: String,
}

impl Source {
    /// Opens the store at `from` (none: what the settings say), and finds the cluster there if none is named. On an executor.
    ///
    /// # Errors
    /// [`BackupError`].
    pub async fn open(
        config: &Config,
        from: Option<&str>,
        cluster: Option<&str>,
    ) -> Result<Source, BackupError> {
        let mut config = config.clone();
        if let Some(from) = from {
            let place = place_of(from).ok_or_else(|| {
                BackupError::Usage(format!(
                    "--from is {from:?}; allowed: a directory, or s3://bucket/prefix"
                ))
            })?;
            config.cold = Some(place);
        }
        if config.cold.is_none() {
            return Err(BackupError::Usage(
                "say where the backup is: --from s3://bucket/prefix, or --cold".to_owned(),
            ));
        }
        let store = open_cold(0, &config, Rc::default())
            .ok_or_else(|| BackupError::Usage("--from names nothing".to_owned()))?;
        let cluster = find_cluster(&*store, cluster).await?;
        Ok(Source { store, cluster })
    }

    /// All objects that were shipped, oldest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn objects(&self) -> Result<Vec<ColdObject>, ColdError> {
        let prefix = objects_prefix(&self.cluster);
        let mut all: Vec<ColdObject> = Vec::new();
        loop {
            let after = all.last().map(|o| o.key.clone());
            let page = self.store.list(&prefix, after.as_ref(), PAGE).await?;
            let is_last = page.len() < PAGE;
            all.extend(page);
            if is_last {
                all.retain(|object| {
                    let is_ours = shipped_ms_of(&object.key).is_some();
                    if !is_ours {
                        log::warn!("event=not_of_a_backup key={:?}", object.key);
                    }
                    is_ours
                });
                return Ok(all);
            }
        }
    }

    /// Reads an object's index.
    ///
    /// # Errors
    /// [`BackupError`].
    pub async fn index(&self, object: &ColdObject) -> Result<Index, BackupError> {
        let (key, size) = (&object.key, object.size);
        let damaged = |damage| BackupError::Damaged {
            key: key.clone(),
            damage,
        };
        let from = size.saturating_sub(END_BYTES);
        let end = self.store.get_range(key, from, size - from).await?;
        let position = format::index_position(&end, size).map_err(damaged)?;
        let end = match position.checked_sub(from) {
            Some(inside) => end.slice(inside as usize..),
            None => self.store.get_range(key, position, size - position).await?,
        };
        format::read_index(&end).map_err(damaged)
    }

    /// Reads one part.
    ///
    /// # Errors
    /// [`BackupError`].
    pub async fn content(&self, part: &Part) -> Result<Content, BackupError> {
        let section = part.section;
        let stored = self
            .store
            .get_range(&part.key, section.position, section.stored)
            .await?;
        open_section(&part.key, section, stored).await
    }
}

/// Decodes a section, elsewhere than on the executor.
pub(super) async fn open_section(
    key: &ColdKey,
    section: Section,
    stored: Bytes,
) -> Result<Content, BackupError> {
    let opened = storage::blocking::run(move || format::open(&section, &stored)).await;
    opened.map_err(|damage| BackupError::Damaged {
        key: key.clone(),
        damage,
    })
}

/// The wanted cluster, or the one that has shipped something to a store.
async fn find_cluster(store: &dyn ColdStore, wanted: Option<&str>) -> Result<String, BackupError> {
    if let Some(wanted) = wanted {
        let shipped = store.list(&objects_prefix(wanted), None, 1).await?;
        if !shipped.is_empty() {
            return Ok(wanted.to_owned());
        }
    }
    let found = clusters(store).await?;
    match (&found[..], wanted) {
        ([], _) => Err(BackupError::Nothing(
            "there is no backup: no cluster with --dr has shipped anything here".to_owned(),
        )),
        (found, Some(wanted)) => Err(BackupError::Nothing(format!(
            "--from-cluster is {wanted:?}, and no such cluster has a backup here; there is: {}",
            found.join(", ")
        ))),
        ([one], None) => Ok(one.clone()),
        (several, None) => Err(BackupError::Usage(format!(
            "several clusters have a backup here ({}): say which with --from-cluster",
            several.join(", ")
        ))),
    }
}

/// The clusters that have shipped something to a store.
async fn clusters(store: &dyn ColdStore) -> Result<Vec<String>, BackupError> {
    let mut found: Vec<String> = Vec::new();
    let mut after: Option<ColdKey> = None;
    loop {
        let page = store.list("", after.as_ref(), 1).await?;
        let Some(first) = page.first() else {
            break;
        };
        let cluster = first.key.as_str().split('/').next().unwrap_or_default();
        let shipped = store.list(&objects_prefix(cluster), None, 1).await?;
        if !shipped.is_empty() {
            found.push(cluster.to_owned());
        }
        // `0` follows the slash.
        after = ColdKey::new(format!("{cluster}0"));
        if after.is_none() {
            break;
        }
    }
    Ok(found)
}

/// The wanted history, or the only one.
fn choose(
    cluster: &str,
    mut all: BTreeMap<u64, Inventory>,
    wanted: Option<&str>,
) -> Result<Inventory, BackupError> {
    let spans: Vec<String> = all
        .values()
        .map(|own| {
            format!(
                "{} from {} to {}",
                history_name(own.history),
                rfc3339_from_ms(own.oldest_ms),
                rfc3339_from_ms(own.newest_ms)
            )
        })
        .collect();
    let spans = spans.join(", ");
    let Some(wanted) = wanted else {
        let first = all.pop_first();
        return match first {
            None => Ok(Inventory::new(0)),
            Some((_, only)) if all.is_empty() => Ok(only),
            Some(_) => Err(BackupError::Usage(format!(
                "several clusters of the name {cluster} have shipped to here, one after the other, and have nothing in common; \
                 say which with --history: {spans}"
            ))),
        };
    };
    let found = u64::from_str_radix(wanted, 16);
    let found = found.ok().and_then(|history| all.remove(&history));
    found.ok_or_else(|| {
        BackupError::Usage(format!(
            "--history is {wanted:?}, and cluster {cluster} has no such one here; there is: {spans}"
        ))
    })
}

/// All that was shipped of one history, by group.
pub struct Inventory {
    /// Which cluster of the name it is.
    pub history: u64,
    /// The parts of each group.
    pub groups: BTreeMap<u32, Chains>,
    /// Groups of the cluster, group 0 not counted.
    pub group_count: u32,
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects whose index could not be read.
    pub unreadable: Vec<BackupError>,
    /// Keys that another object names as the one before it.
    named: BTreeSet<String>,
    present: BTreeSet<String>,
    /// When the newest object was shipped.
    pub newest_ms: u64,
    /// When the oldest one was.
    pub oldest_ms: u64,
    /// What was shipped before may have been collected, and so may the packs that only times before need.
    pub kept_from_ms: u64,
}

/// How a history is written.
pub fn history_name(history: u64) -> String {
    format!("{history:016x}")
}

impl Inventory {
    /// Reads the indexes of these objects, and takes those of the history that is wanted, or of the only one there is.
    ///
    /// # Errors
    /// The store's, or that there are several histories. An object that is damaged is no error here: others may do without
    /// it.
    pub async fn read(
        source: &Source,
        objects: &[ColdObject],
        wanted: Option<&str>,
    ) -> Result<Inventory, BackupError> {
        let mut all: BTreeMap<u64, Inventory> = BTreeMap::new();
        let mut unreadable = Vec::new();
        let mut indexes = stream::iter(objects)
            .map(|object| async move { (object, source.index(object).await) })
            .buffered(AT_ONCE);
        while let Some((object, index)) = indexes.next().await {
            match index {
                Ok(index) => {
                    let own = all.entry(index.history);
                    let own = own.or_insert_with(|| Inventory::new(index.history));
                    own.add(object, index);
                }
                Err(
                    error @ (BackupError::Damaged { .. }
                    | BackupError::Cold(
                        ColdError::Corrupt { .. } | ColdError::NotFound { .. },
                    )),
                ) => {
                    unreadable.push(error);
                }
                Err(error) => return Err(error),
            }
        }
        let mut inventory = choose(&source.cluster, all, wanted)?;
        // Whose it was cannot be known.
        inventory.unreadable = unreadable;
        // What was too old to be needed may have gone while the others were read.
        let kept_from_ms = inventory.kept_from_ms;
        inventory.unreadable.retain(|error| match error {
            BackupError::Cold(ColdError::NotFound { key }) => {
                shipped_ms_of(key) >= Some(kept_from_ms)
            }
            _ => true,
        });
        let names = objects.iter().map(|o| o.key.as_str().to_owned());
        inventory.present = names.collect();
        Ok(inventory)
    }

    fn new(history: u64) -> Inventory {
        Inventory {
            history,
            groups: BTreeMap::new(),
            group_count: 0,
            objects: 0,
            bytes: 0,
            unreadable: Vec::new(),
            named: BTreeSet::new(),
            present: BTreeSet::new(),
            newest_ms: 0,
            oldest_ms: u64::MAX,
            kept_from_ms: 0,
        }
    }

    fn add(&mut self, object: &ColdObject, index: Index) {
        let key = &object.key;
        self.objects += 1;
        self.bytes += object.size;
        self.group_count = self.group_count.max(index.group_count);
        self.newest_ms = self.newest_ms.max(index.shipped_ms);
        self.oldest_ms = self.oldest_ms.min(index.shipped_ms);
        // Whoever keeps more from now on cannot bring back what went before.
        let kept_from_ms = index.shipped_ms.saturating_sub(index.keep_ms);
        self.kept_from_ms = self.kept_from_ms.max(kept_from_ms);
        if !index.previous.is_empty() {
            self.named.insert(index.previous);
        }
        for section in index.sections {
            let part = Part {
                key: key.clone(),
                shipped_ms: shipped_ms_of(key).unwrap_or(index.shipped_ms),
                section,
            };
            let chains = self.groups.entry(part.section.group).or_default();
            chains.add(part);
        }
    }

    /// Objects that another one names and that are not there, though nobody may have deleted them yet. What is older may
    /// have been collected.
    pub fn missing(&self) -> impl Iterator<Item = &str> {
        let kept_from_ms = self.kept_from_ms;
        let named = self.named.difference(&self.present);
        let is_kept = move |key: &&str| {
            let key = ColdKey::new(*key);
            key.and_then(|k| shipped_ms_of(&k)) >= Some(kept_from_ms)
        };
        named.map(String::as_str).filter(is_kept)
    }

    /// What each group's state at a time is built from.
    ///
    /// # Errors
    /// [`BackupError::Nothing`]: a group has no state that is old enough.
    pub fn plans(&self, at_ms: u64) -> Result<BTreeMap<u32, Plan>, BackupError> {
        if self.groups.is_empty() {
            return Err(BackupError::Nothing("the backup is empty".to_owned()));
        }
        let mut plans = BTreeMap::new();
        for group in 0..=self.group_count {
            let plan = self.groups.get(&group).and_then(|c| c.plan(at_ms));
            let plan = plan.ok_or_else(|| {
                BackupError::Nothing(format!(
                    "group {group} has no state in the backup that is old enough; `ursula backup list` shows what there is"
                ))
            })?;
            plans.insert(group, plan);
        }
        Ok(plans)
    }
}
