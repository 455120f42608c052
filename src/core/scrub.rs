//! Reads slowly through all that the core has at rest, so that damage is found while a good copy exists elsewhere: manifests,
//! state tables, local packs, sealed segments of the log, the cache on disk, and the objects of the groups led here.
//!
//! A round begins once in `scrub_interval_ms`, also over restarts, and reads `scrub_bytes_per_second`; a file is read in one
//! go, an object with one request, and then the scrub rests for as long as that may take. What is damaged is logged and
//! counted, once as news and for as long as it is known (`damage.rs`). Repaired: a chunk of the cache is forgotten, so that it is
//! fetched anew; an object that arrived damaged is read again, and one that stays damaged is written again with the copies that are
//! elsewhere (`rescue.rs`); in a cluster, a local pack gets the same bytes from the others (`mend.rs`), and where that is not enough,
//! and for all other files, the node's replicas are built anew from them (`damage.rs`). Not repaired: bytes of an object of which
//! there is no copy, and the files of a node that is alone.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use storage::cold::{ColdError, ColdKey, ColdStore};
use storage::cold_pack::{self, Header, PackDamage};
use storage::{StorageError, blocking, framed, pack, table, wal};

use super::Core;
use super::checkpoint::{manifest_path, pack_path, table_path, tables};
use super::cold_read::is_damage;
use super::damage::Damaged;
use super::packs::pack_key;
use crate::ops::metrics::add;
use crate::protocol::PackName;

/// Bytes of an object that are asked for at once.
const OBJECT_BYTES_MAX: u64 = 64 << 20;

/// A scrub that waits for its next round looks at the clock so often: it may have been set.
const LOOK_MS: u64 = 60_000;

/// Objects that are known to be damaged are looked at so often: who puts one back need not wait for the next round.
const AGAIN_MS: u64 = 10 * 60_000;

/// What a look at something came to.
enum Found {
    /// So many bytes are as they were written.
    Sound(u64),
    /// It went meanwhile.
    Gone,
    /// Not as they were written.
    Damaged(StorageError),
}

impl Core {
    /// Runs rounds until the process ends.
    pub(super) async fn scrub(self: Rc<Self>) {
        let Some(disk) = &self.disk else {
            return;
        };
        if self.config.scrub_bytes_per_second == 0 {
            return;
        }
        let note = disk.dir.join(format!("scrub-{}.ursula", self.id));
        loop {
            let last_ms = last_round_ms(note.clone()).await;
            let due_ms = last_ms.saturating_add(self.config.scrub_interval_ms);
            let mut looked_ms = self.clock.now_ms();
            while let left_ms = due_ms.saturating_sub(self.clock.now_ms())
                && left_ms > 0
            {
                self.sleep(Duration::from_millis(left_ms.min(LOOK_MS)))
                    .await;
                if self.clock.now_ms().saturating_sub(looked_ms) >= AGAIN_MS {
                    self.scrub_damaged_objects().await;
                    looked_ms = self.clock.now_ms();
                }
            }
            let began_ms = self.clock.now_ms();
            self.scrub_files().await;
            self.scrub_segments().await;
            self.scrub_cache().await;
            self.scrub_objects().await;
            self.forget_damaged(|damaged| match damaged {
                Damaged::File(path) => !path.exists(),
                Damaged::Object(group, name) => self.size_of(*group, *name).is_none(),
            });
            let plain = &self.metrics.plain;
            add(&plain.scrub_rounds_total, 1);
            plain
                .scrub_last_round_timestamp_seconds
                .set(self.clock.now_ms() / 1000);
            let (path, text) = (note.clone(), began_ms.to_string());
            let noted = blocking::run(move || framed::write_atomic(&path, text.as_bytes()));
            if let Err(error) = noted.await {
                log::warn!("event=scrub_not_noted {error}");
                self.sleep(Duration::from_secs(60)).await;
            }
        }
    }

    /// So many bytes were read: rests for as long as they may take.
    async fn rest(&self, bytes: u64) {
        add(&self.metrics.plain.scrub_bytes_total, bytes);
        let millis = bytes.saturating_mul(1000) / self.config.scrub_bytes_per_second;
        self.sleep(Duration::from_millis(millis.max(1))).await;
    }

    async fn scrub_files(self: &Rc<Self>) {
        let Some(disk) = &self.disk else {
            return;
        };
        let groups: Vec<u32> = disk.files.borrow().keys().copied().collect();
        for group in groups {
            let manifest = disk.files.borrow().get(&group).map(|f| f.manifest.clone());
            let Some(manifest) = manifest.filter(|m| m.index > 0) else {
                continue;
            };
            let path = manifest_path(&disk.dir, group);
            let checked = check(path.clone(), |path| {
                let read = framed::read(path)?;
                Ok(read.map_or(0, |bytes| bytes.len() as u64))
            });
            self.judge(path, checked, None).await;
            for number in tables(&manifest) {
                let path = table_path(&disk.dir, group, number);
                let checked = check(path.clone(), |path| {
                    let mut bytes = 0;
                    table::read(path, &mut |key, value| {
                        bytes += (key.len() + value.map_or(0, <[u8]>::len)) as u64;
                        Ok(())
                    })?;
                    Ok(bytes)
                });
                self.judge(path, checked, None).await;
            }
            for number in manifest.packs.iter().copied() {
                let path = pack_path(&disk.dir, group, number);
                let checked = check(path.clone(), move |path| {
                    Ok(pack::verify_named(path, group, number)?.bytes)
                });
                self.judge(path, checked, Some((group, number))).await;
            }
        }
    }

    async fn scrub_segments(self: &Rc<Self>) {
        let Some(disk) = &self.disk else {
            return;
        };
        let dir = disk.dir.join("wal");
        let (cores, id) = (u32::from(self.cores), u32::from(self.id));
        let listed = dir.clone();
        let sealed = blocking::run(move || wal::sealed(&listed)).await;
        let own = sealed.unwrap_or_default();
        for segment in own.into_iter().filter(|s| s.lane % cores == id) {
            let (store_id, at) = (self.identity.store_id, dir.clone());
            let path = segment.path(&dir);
            let checked = check(path.clone(), move |_| wal::verify(&at, segment, store_id));
            self.judge(path, checked, None).await;
        }
    }

    /// Counts and reports what a file's check came to; `pack` is its group and number if it is one.
    async fn judge(
        self: &Rc<Self>,
        path: PathBuf,
        check: impl Future<Output = Found>,
        pack: Option<(u32, u32)>,
    ) {
        let file = Damaged::File(path);
        match check.await {
            Found::Sound(bytes) => {
                self.note_sound(&file);
                self.rest(bytes).await;
            }
            Found::Gone => {
                self.note_sound(&file);
                // Mostly a newer checkpoint has no use for it.
                if let Some((group, number)) = pack
                    && self.mend_or_rebuild(group, number).await
                {
                    add(&self.metrics.plain.scrub_damaged_total, 1);
                    add(&self.metrics.plain.scrub_repaired_total, 1);
                }
            }
            Found::Damaged(error) => {
                log::error!("event=scrub_damage {error}");
                self.note_damaged(file.clone());
                let is_repaired = match pack {
                    Some((group, number)) if self.identity.cluster_listen.is_some() => {
                        self.mend_or_rebuild(group, number).await
                    }
                    // As soon as the others can do without it, the node stops, and its next start has them build it anew.
                    _ => {
                        self.found_damage(&error);
                        false
                    }
                };
                if is_repaired {
                    self.note_sound(&file);
                }
                self.rest(0).await;
            }
        }
    }

    async fn scrub_cache(self: &Rc<Self>) {
        let Some(cache) = self.tier.disk.clone() else {
            return;
        };
        let mut region = 0;
        loop {
            let (keys, regions) = cache.keys_of(region);
            for key in keys {
                if let Some((bytes, is_sound)) = cache.verify(&key).await {
                    if !is_sound {
                        add(&self.metrics.plain.scrub_damaged_total, 1);
                        add(&self.metrics.plain.scrub_repaired_total, 1);
                    }
                    self.rest(bytes).await;
                }
            }
            region += 1;
            if region >= regions {
                return;
            }
        }
    }

    async fn scrub_objects(self: &Rc<Self>) {
        let Some(store) = self.cold.clone() else {
            return;
        };
        let groups: Vec<u32> = self.groups.borrow().keys().copied().collect();
        for group in groups {
            let packs = self.groups.borrow().get(&group).map(|g| g.cold_packs());
            for (name, length) in packs.unwrap_or_default() {
                self.scrub_object(&*store, group, name, length).await;
            }
        }
    }

    /// Looks whether what is known to be damaged is so still. What other nodes lead by now is their matter, but for that.
    async fn scrub_damaged_objects(self: &Rc<Self>) {
        let Some(store) = self.cold.clone() else {
            return;
        };
        for (group, name) in self.damaged_objects() {
            match self.size_of(group, name) {
                Some(length) => self.scrub_object(&*store, group, name, length).await,
                None => self.forget_damaged(|damaged| *damaged == Damaged::Object(group, name)),
            }
        }
    }

    async fn scrub_object(
        self: &Rc<Self>,
        store: &dyn ColdStore,
        group: u32,
        name: PackName,
        length: u64,
    ) {
        let Some(key) = pack_key(&self.config.cluster_id, group, name) else {
            return;
        };
        let header = header_of(group, name);
        let read = match check_object(store, &key, header, length).await {
            Err(ColdError::Corrupt { key, what }) => {
                log::warn!("event=scrub_again key={key} what={what:?}");
                let second = check_object(store, &key, header, length).await;
                if second.is_ok() {
                    add(&self.metrics.plain.scrub_repaired_total, 1);
                    add(&self.metrics.plain.scrub_damaged_total, 1);
                }
                second
            }
            first => first,
        };
        match read {
            Ok(()) => {
                self.found_sound(group, name);
                self.note_sound(&Damaged::Object(group, name));
            }
            Err(error) if self.is_needed(group, name) => {
                log::error!("event=scrub_damage {error}");
                if is_damage(&error) {
                    self.note_damaged(Damaged::Object(group, name));
                    self.rescue(group, name, true).await;
                }
            }
            Err(_) => {}
        }
        self.count_lost();
        self.rest(length).await;
    }

    /// The size of a pack that streams have bytes in, whoever leads its group.
    fn size_of(&self, group: u32, name: PackName) -> Option<u64> {
        let groups = self.groups.borrow();
        let (_, length) = groups.get(&group)?.known_pack(name)?;
        Some(length)
    }

    /// The pack still counts, and it is this node that says so.
    pub(super) fn is_needed(&self, group: u32, name: PackName) -> bool {
        let groups = self.groups.borrow();
        let group = groups.get(&group);
        group.is_some_and(|g| g.cold_packs().iter().any(|(known, _)| *known == name))
    }
}

fn header_of(group: u32, name: PackName) -> Header {
    Header {
        group,
        term: name.term,
        number: name.number,
        nonce: name.nonce,
    }
}

async fn last_round_ms(path: PathBuf) -> u64 {
    let read = blocking::run(move || framed::read(&path)).await;
    let text = read.ok().flatten().unwrap_or_default();
    String::from_utf8_lossy(&text).parse().unwrap_or(0)
}

/// Checks a file; what does not stand under its name any more is no damage.
async fn check(
    path: PathBuf,
    look: impl FnOnce(&Path) -> Result<u64, StorageError> + Send + 'static,
) -> Found {
    blocking::run(move || match look(&path) {
        Ok(bytes) => Found::Sound(bytes),
        Err(_) if !path.exists() => Found::Gone,
        Err(error) => Found::Damaged(error),
    })
    .await
}

/// Reads an object through, verifying header, index and each chunk.
async fn check_object(
    store: &dyn ColdStore,
    key: &ColdKey,
    header: Header,
    length: u64,
) -> Result<(), ColdError> {
    let corrupt = |damage: PackDamage| ColdError::Corrupt {
        key: key.clone(),
        what: damage.to_string(),
    };
    if length <= OBJECT_BYTES_MAX {
        let object = store.get_range(key, 0, length).await?;
        let checked = blocking::run(move || cold_pack::verify(&object, header));
        return checked.await.map(|_| ()).map_err(corrupt);
    }
    let end = store
        .get_range(
            key,
            length - cold_pack::TRAILER_BYTES,
            cold_pack::TRAILER_BYTES,
        )
        .await?;
    let index = cold_pack::index_position(&end, length).map_err(corrupt)?;
    let index = store.get_range(key, index, length - index).await?;
    let entries = cold_pack::read_index(&index).map_err(corrupt)?;
    let mut rest = &entries[..];
    while let Some(first) = rest.first() {
        let from = first.location.position;
        let end_of =
            |entry: &cold_pack::Entry| entry.location.position + u64::from(entry.location.stored);
        let count = rest.partition_point(|e| end_of(e) <= from + OBJECT_BYTES_MAX);
        let (run, after) = rest.split_at(count.max(1));
        let bytes = store
            .get_range(key, from, end_of(&run[run.len() - 1]) - from)
            .await?;
        let locations: Vec<cold_pack::Location> = run.iter().map(|e| e.location).collect();
        let checked = blocking::run(move || {
            locations
                .iter()
                .try_for_each(|at| open_at(&bytes, from, at))
        });
        checked.await.map_err(corrupt)?;
        rest = after;
    }
    Ok(())
}

/// A chunk among the bytes of an object from `from` on.
fn open_at(bytes: &Bytes, from: u64, at: &cold_pack::Location) -> Result<(), PackDamage> {
    let begin = at.position.saturating_sub(from) as usize;
    let end = begin.saturating_add(at.stored as usize);
    let stored = bytes.get(begin..end).unwrap_or_default();
    cold_pack::open(Bytes::copy_from_slice(stored), at).map(|_| ())
}
