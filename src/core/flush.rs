//! Carries out what `group/cold.rs` decides: packs are built and put, looked for, and deleted. Appends wait for none of it.
//!
//! A core builds one pack at a time, which bounds its memory; the others wait. What became of a put is not always known: a
//! pack that may be there is looked for before it is put again, and never paid for twice.

use std::rc::Rc;

use storage::StorageError;
use storage::cold::{ColdBody, ColdError, ColdKey, ColdStore};
use storage::cold_pack::{self, Header, PackDamage};

use super::Core;
use super::cold_read::refusal_of;
use crate::config::Config;
use crate::group::{ColdAnswer, ColdSettings, Group, Input, PackSource, PackedChunk};
use crate::ops::metrics::add;
use crate::protocol::{ColdChunk, Incarnation, PackName, Refusal, StreamKey};

/// Bytes of an object's end that are read at once, in the hope that its index is among them.
const END_BYTES: u64 = 64 << 10;

/// The key of a pack.
pub fn pack_key(cluster_id: &str, group: u32, name: PackName) -> Option<ColdKey> {
    let (term, number, nonce) = (name.term, name.number, name.nonce);
    ColdKey::new(format!(
        "{cluster_id}/packs/{group:05}/{term:010}-{number:06}-{nonce:016x}"
    ))
}

/// Why a pack was not put.
#[derive(Debug, thiserror::Error)]
enum FlushError {
    #[error(transparent)]
    Cold(#[from] ColdError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("bytes of {0} could not be read: {1:?}")]
    Source(StreamKey, Refusal),
    #[error("{0}: {1}")]
    Damaged(ColdKey, PackDamage),
    #[error("there is no cold store")]
    NoStore,
}

impl Config {
    /// When groups flush; `None`: local packs are all the cold store there is.
    pub fn cold_settings(&self) -> Option<ColdSettings> {
        self.cold.as_ref()?;
        Some(ColdSettings {
            pack_bytes: self.cold_pack_bytes,
            flush_age_ms: self.cold_flush_age_ms,
            live_percent_min: self.cold_live_percent_min,
            grace_ms: self.cold_grace_ms,
            backup_keep_ms: self.dr.then_some(self.dr_keep_ms),
            hot_bytes_target: 0,
        })
    }
}

impl Core {
    /// Lets the groups flush, if there is a store that all replicas share.
    pub(super) fn use_cold_store(&self) {
        let (Some(mut settings), Some(store)) = (self.config.cold_settings(), &self.cold) else {
            return;
        };
        settings.hot_bytes_target = self.hot_target();
        if store.is_local() && self.identity.cluster_listen.is_some() {
            if self.id == 0 {
                log::warn!(
                    "event=cold_store_not_shared the nodes of a cluster do not share a directory: each keeps its old data below wal_dir"
                );
            }
            return;
        }
        for group in self.groups.borrow_mut().values_mut() {
            // Group 0 has no streams.
            if group.id() > 0 {
                group.use_cold_store(settings);
            }
        }
    }

    /// Builds a pack and puts it, in a task of its own.
    pub(super) fn write_pack(self: &Rc<Self>, group: u32, name: PackName, chunks: Vec<PackSource>) {
        let core = self.clone();
        self.spawn_cold(async move {
            let turn = core.tier.turn().await;
            let answer = match core.put_pack(group, name, chunks).await {
                Ok(answer) => answer,
                Err(error) => {
                    log::warn!("event=flush_failed group={group} pack={name:?} {error}");
                    add(&core.metrics.plain.cold_flush_failures_total, 1);
                    ColdAnswer::Failed(name)
                }
            };
            drop(turn);
            core.step(group, Input::Cold(Box::new(answer)));
        });
    }

    async fn put_pack(
        self: &Rc<Self>,
        group: u32,
        name: PackName,
        chunks: Vec<PackSource>,
    ) -> Result<ColdAnswer, FlushError> {
        let store = self.cold.clone().ok_or(FlushError::NoStore)?;
        let is_unsure = self.tier.unsure.borrow().contains(&(group, name));
        if is_unsure && let Some(there) = self.look_for(&*store, group, name).await? {
            self.tier.unsure.borrow_mut().remove(&(group, name));
            return Ok(there);
        }
        let mut sources = Vec::with_capacity(chunks.len());
        for chunk in &chunks {
            let pieces = self.materialize_pieces(&chunk.pieces).await;
            let pieces = pieces.map_err(|r| FlushError::Source(chunk.key.clone(), r))?;
            sources.push(cold_pack::Source {
                key: chunk.key.as_str().to_owned(),
                incarnation: chunk.incarnation.0,
                start: chunk.start,
                pieces,
            });
        }
        let header = Header {
            group,
            term: name.term,
            number: name.number,
            nonce: name.nonce,
        };
        let built = storage::blocking::run(move || cold_pack::build(header, &sources)).await;
        let key = pack_key(&self.config.cluster_id, group, name).ok_or(FlushError::NoStore)?;
        // From here on it may be there, whatever the answer is.
        self.tier.unsure.borrow_mut().insert((group, name));
        match store.put(&key, ColdBody::new(built.pieces)).await {
            Ok(()) => {}
            Err(ColdError::Conflict { .. }) => {
                return match self.look_for(&*store, group, name).await? {
                    Some(there) => Ok(there),
                    None => Ok(ColdAnswer::Conflict(name)),
                };
            }
            Err(error) => return Err(error.into()),
        }
        self.tier.unsure.borrow_mut().remove(&(group, name));
        let plain = &self.metrics.plain;
        add(&plain.cold_packs_written_total, 1);
        add(&plain.cold_pack_bytes_total, built.length);
        let chunks = chunks.iter().zip(&built.locations);
        Ok(ColdAnswer::There {
            name,
            object_bytes: built.length,
            chunks: chunks
                .map(|(source, at)| PackedChunk {
                    key: source.key.clone(),
                    incarnation: source.incarnation,
                    chunk: chunk_at(source.start, at),
                })
                .collect(),
        })
    }

    /// Looks whether a pack is there, in a task of its own.
    pub(super) fn find_pack(self: &Rc<Self>, group: u32, name: PackName) {
        let core = self.clone();
        self.spawn_cold(async move {
            let found = match core.cold.clone() {
                Some(store) => core.look_for(&*store, group, name).await,
                None => Err(FlushError::NoStore),
            };
            let answer = match found {
                Ok(Some(there)) => {
                    log::info!("event=pack_found group={group} pack={name:?}");
                    there
                }
                Ok(None) => ColdAnswer::Missing(name),
                Err(error) => {
                    log::warn!("event=pack_not_looked_for group={group} pack={name:?} {error}");
                    ColdAnswer::Failed(name)
                }
            };
            core.step(group, Input::Cold(Box::new(answer)));
        });
    }

    /// What is in a pack by its own index; `None`: it is not there.
    async fn look_for(
        &self,
        store: &dyn ColdStore,
        group: u32,
        name: PackName,
    ) -> Result<Option<ColdAnswer>, FlushError> {
        let key = pack_key(&self.config.cluster_id, group, name).ok_or(FlushError::NoStore)?;
        let length = match store.head(&key).await {
            Ok(length) => length,
            Err(ColdError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let damaged = |damage| FlushError::Damaged(key.clone(), damage);
        let from = length.saturating_sub(END_BYTES);
        let mut end = store.get_range(&key, from, length - from).await?;
        let index = cold_pack::index_position(&end, length).map_err(damaged)?;
        if index < from {
            end = store.get_range(&key, index, length - index).await?;
        } else {
            end = end.slice((index - from) as usize..);
        }
        let entries = cold_pack::read_index(&end).map_err(damaged)?;
        let chunk_of = |entry: cold_pack::Entry| PackedChunk {
            key: StreamKey::from_stored(&entry.key),
            incarnation: Incarnation(entry.incarnation),
            chunk: chunk_at(entry.start, &entry.location),
        };
        Ok(Some(ColdAnswer::There {
            name,
            object_bytes: length,
            chunks: entries.into_iter().map(chunk_of).collect(),
        }))
    }

    /// Deletes objects, in a task of its own.
    pub(super) fn delete_packs(self: &Rc<Self>, group: u32, packs: Vec<(u32, PackName)>) {
        let core = self.clone();
        self.spawn_cold(async move {
            let id = &core.config.cluster_id;
            let names = packs.iter().map(|(_, name)| *name);
            let keys: Vec<ColdKey> = names.filter_map(|n| pack_key(id, group, n)).collect();
            let deleted = match &core.cold {
                Some(store) => store.delete(&keys).await.map_err(FlushError::from),
                None => Err(FlushError::NoStore),
            };
            let answer = match deleted {
                Ok(()) => {
                    add(
                        &core.metrics.plain.cold_packs_deleted_total,
                        keys.len() as u64,
                    );
                    ColdAnswer::Deleted(packs.iter().map(|(number, _)| *number).collect())
                }
                Err(error) => {
                    log::warn!("event=packs_not_deleted group={group} {error}");
                    ColdAnswer::NotDeleted
                }
            };
            core.step(group, Input::Cold(Box::new(answer)));
        });
    }

    /// How far the cold store is behind; asks the groups to flush when that becomes too much.
    pub(super) fn update_unflushed(&self) {
        let groups = self.groups.borrow();
        let unflushed = groups.values().map(Group::unflushed_bytes).sum();
        drop(groups);
        self.unflushed_bytes.set(unflushed);
        if unflushed > self.config.cold_behind_bytes_max / 2 {
            for group in self.groups.borrow_mut().values_mut() {
                group.press_to_flush();
            }
        }
    }

    /// The gauges of the cold store.
    pub(super) fn report_cold(&self) {
        let now_ms = self.clock.now_ms();
        let plain = &self.metrics.plain;
        let mut packs = [0; 6];
        let mut behind_ms = 0;
        for group in self.groups.borrow().values().filter(|g| g.is_ready()) {
            let figures = group.cold_figures(now_ms);
            let own = [
                figures.behind_bytes,
                figures.packs,
                figures.object_bytes,
                figures.chunk_bytes,
                figures.live_bytes,
                figures.intents,
            ];
            packs.iter_mut().zip(own).for_each(|(sum, one)| *sum += one);
            behind_ms = figures.behind_ms.max(behind_ms);
        }
        plain.cold_behind_bytes.set(packs[0]);
        plain.cold_behind_seconds.set(behind_ms / 1000);
        plain.cold_packs.set(packs[1]);
        plain.cold_object_bytes.set(packs[2]);
        plain.cold_chunk_bytes.set(packs[3]);
        plain.cold_live_bytes.set(packs[4]);
        plain.cold_unpublished_packs.set(packs[5]);
        self.count_caches();
    }

    /// What a chunk's place in the cold store has to do with a failed read.
    pub(super) fn note_cold_failure(&self, key: &ColdKey, error: &ColdError) -> Refusal {
        log::error!("event=cold_read_failed key={key} {error}");
        add(&self.metrics.plain.cold_read_failures_total, 1);
        refusal_of(error)
    }
}

fn chunk_at(start: u64, at: &cold_pack::Location) -> ColdChunk {
    ColdChunk {
        pack: 0,
        stored: at.stored,
        position: at.position,
        start,
        length: at.length,
        crc32c: at.crc32c,
    }
}
