//! Gives the streams of old groups to new ones, with their bytes: what was in the cold store goes into packs of the new
//! cluster there, or into local ones where it has no store; what was only in the log goes into local ones.
//! Chunks keep their bounds and checksums, which are verified on the way.
//! Owns what is under way to the packs. Invariants: it is bounded; a stream's chunks are noted when their pack is written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use raftproto::checkpoint::{self, StreamState};
use storage::cold::{ColdBody, ColdError, ColdStore};
use storage::cold_pack::{self, Header};
use storage::framed;
use storage::pack::PackPlan;

use crate::backup::lost::{Needed, needed_of};
use crate::backup::{BackupError, Source};
use crate::config::Config;
use crate::core::{group_dir, pack_key, pack_path};
use crate::group::Machine;
use crate::protocol::{PackName, StreamKey};

/// Longest local chunk.
const CHUNK_BYTES: usize = 256 << 10;

/// Bytes of a local pack.
const LOCAL_PACK_BYTES: u64 = 32 << 20;

/// Bytes that are under way in all groups together.
const PENDING_BYTES_MAX: u64 = 256 << 20;

/// What a pack has in the place of a lost chunk. No chunk is this: it would not have been lost.
const LOST: &[u8] = b"lost";

/// See the module's head.
pub(super) struct Placer {
    /// The streams of all new groups.
    pub(super) streams: BTreeMap<String, StreamState>,
    pub(super) groups: BTreeMap<u32, NewGroup>,
    /// Bytes that were given.
    pub(super) bytes: u64,
    pub(super) last_stamp_ms: u64,
    pub(super) next_incarnation: u64,
    /// What is damaged is left out.
    pub(super) skips_damaged: bool,
    /// What was left out, in words.
    pub(super) told: Vec<String>,
    /// Bytes of it.
    pub(super) lost_bytes: u64,
    lost: Vec<Needed>,
    group_count: u32,
    root: PathBuf,
    cluster: String,
    cold: Option<Rc<dyn ColdStore>>,
    pack_bytes: u64,
    seed: u64,
    pending_bytes: u64,
}

/// What a new group's packs are, and what is under way to the next ones.
#[derive(Default)]
pub(super) struct NewGroup {
    pub(super) local_packs: Vec<u32>,
    pub(super) cold_packs: Vec<checkpoint::ColdPack>,
    local: Option<PackPlan>,
    local_bytes: u64,
    cold: Vec<cold_pack::Source>,
    cold_bytes: u64,
}

/// The group of the new cluster that a key belongs to.
pub(super) fn group_of(key: &StreamKey, group_count: u32) -> u32 {
    1 + u32::from(key.slot().0) % group_count
}

impl Placer {
    pub(super) fn new(
        config: &Config,
        root: &Path,
        cold: Option<Rc<dyn ColdStore>>,
        seed: &str,
    ) -> Placer {
        let group_count = config.raft_group_count as u32;
        Placer {
            streams: BTreeMap::new(),
            groups: (1..=group_count)
                .map(|g| (g, NewGroup::default()))
                .collect(),
            bytes: 0,
            last_stamp_ms: 0,
            next_incarnation: 1,
            skips_damaged: false,
            told: Vec::new(),
            lost_bytes: 0,
            lost: Vec::new(),
            group_count,
            root: root.to_owned(),
            cluster: config.cluster_id.clone(),
            cold,
            pack_bytes: config.cold_pack_bytes,
            seed: xxhash_rust::xxh3::xxh3_64(seed.as_bytes()),
            pending_bytes: 0,
        }
    }

    pub(super) fn stream_count(&self) -> u64 {
        self.streams.len() as u64
    }

    /// Own bytes of all streams.
    pub(super) fn bytes_kept(&self) -> u64 {
        let own = |s: &StreamState| s.tail.saturating_sub(s.kept_from.max(s.start));
        self.streams.values().map(own).sum()
    }

    /// Takes all streams of an old group.
    pub(super) async fn take(
        &mut self,
        source: &Source,
        old_group: u32,
        machine: &Machine,
    ) -> Result<(), BackupError> {
        let mut packs: BTreeMap<PackName, Vec<Needed>> = BTreeMap::new();
        for exported in machine.export() {
            let (key, incarnation) = (exported.key, exported.state.incarnation);
            for (pack, chunk) in exported.cold {
                packs.entry(pack).or_default().push(Needed {
                    key: key.clone(),
                    incarnation,
                    chunk,
                });
            }
            self.streams.insert(key.as_str().to_owned(), exported.state);
            let mut start = exported.own_from;
            for mut piece in exported.own {
                while !piece.is_empty() {
                    let part = piece.split_to(piece.len().min(CHUNK_BYTES));
                    let length = part.len() as u64;
                    self.put_local(&key, incarnation, start, part).await?;
                    start += length;
                }
            }
        }
        for (pack, wanted) in packs {
            self.take_pack(source, (old_group, pack), wanted).await?;
        }
        Ok(())
    }

    /// Reads an old pack, and gives its chunks to the groups that they belong to.
    async fn take_pack(
        &mut self,
        source: &Source,
        (group, pack): (u32, PackName),
        wanted: Vec<Needed>,
    ) -> Result<(), BackupError> {
        let key = pack_key(&source.cluster, group, pack).ok_or_else(|| BackupError::State {
            group,
            what: format!("{pack:?} makes no key"),
        })?;
        let object = match source.store.get(&key).await {
            Ok(object) => object,
            Err(error @ (ColdError::NotFound { .. } | ColdError::Corrupt { .. })) => {
                return self.lose(&error.to_string(), wanted);
            }
            Err(error) => return Err(error.into()),
        };
        let (opened, damaged) = storage::blocking::run(move || {
            let (mut opened, mut damaged) = (Vec::new(), Vec::new());
            for needed in wanted {
                match needed.open(&object) {
                    Ok(bytes) => opened.push((needed, bytes)),
                    Err(_) => damaged.push(needed),
                }
            }
            (opened, damaged)
        })
        .await;
        if let Some(first) = damaged.first() {
            self.lose(&format!("{key}: {}", first.damage()), damaged.clone())?;
        }
        for (wanted, bytes) in opened {
            let (key, incarnation) = (&wanted.key, wanted.incarnation);
            let start = wanted.chunk.start;
            match self.cold.is_some() {
                true => self.put_cold(key, incarnation, start, bytes).await?,
                false => self.put_local(key, incarnation, start, bytes).await?,
            }
        }
        Ok(())
    }

    /// These chunks are nowhere any more.
    fn lose(&mut self, reason: &str, lost: Vec<Needed>) -> Result<(), BackupError> {
        let needed = needed_of(lost.iter());
        if !self.skips_damaged {
            return Err(BackupError::Lost {
                reason: reason.to_owned(),
                needed,
            });
        }
        if self.cold.is_none() {
            return Err(BackupError::Target(format!(
                "{reason}; {needed}. It can be left out only where the new cluster has a `cold` that all its nodes share: there it is \
                 noted as damaged"
            )));
        }
        log::warn!("event=not_restored {reason}; {needed}");
        self.told.push(format!("lost: {reason}; {needed}"));
        let lengths = lost.iter().map(|l| u64::from(l.chunk.length));
        self.lost_bytes += lengths.sum::<u64>();
        self.lost.extend(lost);
        Ok(())
    }

    /// The streams name what is lost like all the rest, so that reads of it are refused by its checksum and nothing else is moved.
    /// Where the bytes should be, a pack has a word in their place.
    pub(super) async fn place_lost(&mut self) -> Result<(), BackupError> {
        let mut by_group: BTreeMap<u32, Vec<Needed>> = BTreeMap::new();
        for lost in std::mem::take(&mut self.lost) {
            let group = group_of(&lost.key, self.group_count);
            by_group.entry(group).or_default().push(lost);
        }
        for (group, lost) in by_group {
            let sources = lost.iter().map(|lost| cold_pack::Source {
                key: lost.key.as_str().to_owned(),
                incarnation: lost.incarnation,
                start: lost.chunk.start,
                pieces: vec![Bytes::from_static(LOST)],
            });
            let lengths = lost.iter().map(|lost| lost.chunk.length);
            let meant = lost.iter().map(|lost| lost.chunk.crc32c);
            let meant: Vec<(u32, u32)> = lengths.zip(meant).collect();
            self.put_pack(group, sources.collect(), Some(meant)).await?;
        }
        Ok(())
    }

    async fn put_local(
        &mut self,
        key: &StreamKey,
        incarnation: u64,
        start: u64,
        bytes: Bytes,
    ) -> Result<(), BackupError> {
        let group = group_of(key, self.group_count);
        let place = self.groups.entry(group).or_default();
        let next = place.local_packs.last().map_or(1, |last| last + 1);
        let plan = place
            .local
            .get_or_insert_with(|| PackPlan::new(group, next));
        let length = bytes.len() as u64;
        let location = plan.add(key.as_str(), incarnation, start, vec![bytes]);
        place.local_bytes += length;
        (self.bytes, self.pending_bytes) = (self.bytes + length, self.pending_bytes + length);
        if let Some(stream) = self.streams.get_mut(key.as_str()) {
            stream.chunks.push(checkpoint::Chunk {
                pack: plan.number(),
                position: location.position,
                start,
                length: location.length,
                crc32c: location.crc32c,
            });
        }
        if place.local_bytes >= LOCAL_PACK_BYTES {
            self.flush_local(group).await?;
        }
        self.keep_within().await
    }

    async fn put_cold(
        &mut self,
        key: &StreamKey,
        incarnation: u64,
        start: u64,
        bytes: Bytes,
    ) -> Result<(), BackupError> {
        let group = group_of(key, self.group_count);
        let place = self.groups.entry(group).or_default();
        let length = bytes.len() as u64;
        place.cold_bytes += length;
        place.cold.push(cold_pack::Source {
            key: key.as_str().to_owned(),
            incarnation,
            start,
            pieces: vec![bytes],
        });
        (self.bytes, self.pending_bytes) = (self.bytes + length, self.pending_bytes + length);
        if place.cold_bytes >= self.pack_bytes {
            self.flush_cold(group).await?;
        }
        self.keep_within().await
    }

    /// Writes what is under way, where that has become too much.
    async fn keep_within(&mut self) -> Result<(), BackupError> {
        if self.pending_bytes > PENDING_BYTES_MAX {
            self.flush_all().await?;
        }
        Ok(())
    }

    /// Writes all that is under way.
    pub(super) async fn flush_all(&mut self) -> Result<(), BackupError> {
        for group in 1..=self.group_count {
            self.flush_local(group).await?;
            self.flush_cold(group).await?;
        }
        Ok(())
    }

    async fn flush_local(&mut self, group: u32) -> Result<(), BackupError> {
        let Some(place) = self.groups.get_mut(&group) else {
            return Ok(());
        };
        let Some(plan) = place.local.take() else {
            return Ok(());
        };
        self.pending_bytes -= std::mem::take(&mut place.local_bytes);
        place.local_packs.push(plan.number());
        let root = self.root.clone();
        storage::blocking::run(move || {
            framed::create_dir(&group_dir(&root, group))?;
            plan.write(&pack_path(&root, group, plan.number()))
        })
        .await?;
        Ok(())
    }

    async fn flush_cold(&mut self, group: u32) -> Result<(), BackupError> {
        let Some(place) = self.groups.get_mut(&group).filter(|_| self.cold.is_some()) else {
            return Ok(());
        };
        let sources = std::mem::take(&mut place.cold);
        if sources.is_empty() {
            return Ok(());
        }
        self.pending_bytes -= std::mem::take(&mut place.cold_bytes);
        self.put_pack(group, sources, None).await
    }

    /// Puts a pack and notes its chunks; `meant`: lengths and checksums that they should have and have not.
    async fn put_pack(
        &mut self,
        group: u32,
        sources: Vec<cold_pack::Source>,
        meant: Option<Vec<(u32, u32)>>,
    ) -> Result<(), BackupError> {
        let (Some(place), Some(store)) = (self.groups.get_mut(&group), self.cold.clone()) else {
            return Ok(());
        };
        let pack = place.cold_packs.len() as u32 + 1;
        let parts = [self.seed, u64::from(group), u64::from(pack)];
        let parts: Vec<u8> = parts.iter().flat_map(|p| p.to_le_bytes()).collect();
        // No leader has term 0. Every node that is restored makes the same name and the same object.
        let name = PackName {
            term: 0,
            number: pack,
            nonce: xxhash_rust::xxh3::xxh3_64(&parts),
        };
        let header = Header {
            group,
            term: name.term,
            number: name.number,
            nonce: name.nonce,
        };
        let (mut built, sources) = storage::blocking::run(move || {
            let built = cold_pack::build(header, &sources);
            (built, sources)
        })
        .await;
        let key = pack_key(&self.cluster, group, name).ok_or_else(|| {
            BackupError::Target(format!("{} makes no key of the store", self.cluster))
        })?;
        store.put(&key, ColdBody::new(built.pieces)).await?;
        for (location, (length, crc32c)) in
            built.locations.iter_mut().zip(meant.into_iter().flatten())
        {
            (location.length, location.crc32c) = (length, crc32c);
        }
        let lengths = built.locations.iter().map(|l| u64::from(l.length));
        place.cold_packs.push(checkpoint::ColdPack {
            pack,
            name: Some(name.to_message()),
            object_bytes: built.length,
            chunk_bytes: lengths.sum(),
            dead_since_ms: None,
        });
        for (source, at) in sources.iter().zip(&built.locations) {
            if let Some(stream) = self.streams.get_mut(&source.key) {
                stream.cold.push(checkpoint::ColdChunk {
                    pack,
                    position: at.position,
                    start: source.start,
                    length: at.length,
                    stored: at.stored,
                    crc32c: at.crc32c,
                });
            }
        }
        Ok(())
    }
}
