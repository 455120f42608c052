//! Carries out what `group/cold.rs` decides: packs are built and put, looked for, and deleted. Appends wait for none of it.
//!
//! A core builds one pack at a time, which bounds its memory; the others wait. What became of a put is not always known: a
//! pack that may be there is looked for before it is put again, and never paid for twice.

use std::rc::Rc;

use raftproto::peer::Hello;
use storage::cold_pack::Source;

use super::Core;
use super::packs::{BlockingThreads, FlushError, PackStore};
use crate::config::Config;
use crate::group::{ColdAnswer, ColdSettings, Group, Input, PackSource};
use crate::ops::metrics::add;
use crate::peer::handshake::places_differ;
use crate::protocol::{PackName, Piece, Refusal};

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
        // What the others' backups need stays, whoever leads.
        let others_ms = Some(self.others_keep_ms.get()).filter(|ms| *ms > 0);
        settings.backup_keep_ms = settings.backup_keep_ms.max(others_ms);
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

    /// Another node makes backups, which keep what is deleted for so long: objects that they need must outlive this node's
    /// leadership too.
    pub(super) fn keep_backup_of(&self, node: u64, keep_ms: u64) {
        if self.cold.is_none() {
            return;
        }
        if (keep_ms > 0) != self.config.dr && self.id == 0 {
            log::warn!(
                "event=backup_on_some_nodes node={node} dr is set at one of this node and that one: what the other leads is not in the backup"
            );
        }
        if keep_ms > self.others_keep_ms.get() {
            self.others_keep_ms.set(keep_ms);
            self.use_cold_store();
        }
    }

    /// Notes whether another node has its old data elsewhere, as its introduction says. While one does, nothing is put into the
    /// cold store and nothing looked for: that node would not find what the others drop.
    pub(super) fn compare_places(&self, node: u64, hello: &Hello) {
        let own = self.hello();
        let mut places = self.other_places.borrow_mut();
        if !places_differ(&own, hello) {
            places.remove(&node);
            return;
        }
        let news =
            places.insert(node, hello.cold_place.clone()).as_ref() != Some(&hello.cold_place);
        if news && self.id == 0 {
            log::error!(
                "event=cold_places_differ node={node} its_cold={:?} own_cold={:?} give all nodes the same `cold`: until then nothing \
                 goes to the store",
                hello.cold_place,
                own.cold_place
            );
        }
    }

    /// A member whose old data is elsewhere, and where.
    pub(super) fn other_place(&self) -> Option<(u64, String)> {
        let (places, links) = (self.other_places.borrow(), self.links.borrow());
        let mut known = places.iter().filter(|(node, _)| links.contains_key(node));
        known.next().map(|(node, place)| (*node, place.clone()))
    }

    /// Builds a pack and puts it, in a task of its own.
    pub(super) fn write_pack(self: &Rc<Self>, group: u32, name: PackName, chunks: Vec<PackSource>) {
        let core = self.clone();
        self.spawn_cold(async move {
            let turn = core.tier.turn().await;
            let put = core.put_pack(group, name, chunks).await;
            core.note_outage(put.as_ref().err());
            let answer = match put {
                Ok(answer) => answer,
                Err(error) => {
                    log::warn!("event=flush_failed group={group} pack={name} {error}");
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
        if let Some((node, place)) = self.other_place() {
            return Err(FlushError::PlacesDiffer { node, place });
        }
        let packs = self.packs()?;
        let put = packs.put(group, name, self.sources_of(&chunks)).await?;
        if let Some(bytes) = put.put_bytes {
            let plain = &self.metrics.plain;
            add(&plain.cold_packs_written_total, 1);
            add(&plain.cold_pack_bytes_total, bytes);
        }
        Ok(put.answer)
    }

    /// The bytes that go into a pack.
    async fn sources_of(self: &Rc<Self>, chunks: &[PackSource]) -> Result<Vec<Source>, FlushError> {
        let mut sources = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            let pieces = self.materialize_pieces(&chunk.pieces).await;
            if let Err(Refusal::BytesSought { .. } | Refusal::BytesLost { .. }) = &pieces {
                self.leave_out(chunk);
            }
            let pieces = pieces.map_err(|r| FlushError::Source(chunk.key.clone(), r))?;
            sources.push(Source {
                key: chunk.key.as_str().to_owned(),
                incarnation: chunk.incarnation.0,
                start: chunk.start,
                pieces,
            });
        }
        Ok(sources)
    }

    /// What is written again is so without a chunk that cannot be read: else nothing of the group would go to the store any more.
    fn leave_out(&self, source: &PackSource) {
        for piece in &source.pieces {
            if let Piece::Stored {
                chunk,
                group,
                pack: name,
                ..
            } = piece
                && let Some(group) = self.groups.borrow_mut().get_mut(group)
                && let Some((pack, _)) = group.cold_pack(*name)
            {
                group.leave_out(pack, chunk.position, chunk.length);
            }
        }
    }

    /// The packs of the cold store.
    pub(super) fn packs(&self) -> Result<PackStore<'_, BlockingThreads>, FlushError> {
        Ok(PackStore {
            store: self.cold.as_deref().ok_or(FlushError::NoStore)?,
            cluster_id: &self.config.cluster_id,
            unsure: &self.tier.unsure,
            aside: BlockingThreads,
        })
    }

    /// Looks whether a pack is there, in a task of its own.
    pub(super) fn find_pack(self: &Rc<Self>, group: u32, name: PackName) {
        let core = self.clone();
        self.spawn_cold(async move {
            let found = match core.packs() {
                Ok(packs) => packs.find(group, name).await,
                Err(error) => Err(error),
            };
            let answer = match found {
                Ok(Some(there)) => {
                    log::info!("event=pack_found group={group} pack={name}");
                    there
                }
                Ok(None) => ColdAnswer::Missing(name),
                Err(error) => {
                    log::warn!("event=pack_not_looked_for group={group} pack={name} {error}");
                    ColdAnswer::Failed(name)
                }
            };
            core.step(group, Input::Cold(Box::new(answer)));
        });
    }

    /// Deletes objects, in a task of its own.
    pub(super) fn delete_packs(self: &Rc<Self>, group: u32, packs: Vec<(u32, PackName)>) {
        let core = self.clone();
        self.spawn_cold(async move {
            let deleted = match core.packs() {
                Ok(stored) => stored.delete(group, &packs).await,
                Err(error) => Err(error),
            };
            let answer = match deleted {
                Ok(answer) => {
                    let count = packs.len() as u64;
                    add(&core.metrics.plain.cold_packs_deleted_total, count);
                    answer
                }
                Err(error) => {
                    log::warn!("event=packs_not_deleted group={group} {error}");
                    ColdAnswer::NotDeleted
                }
            };
            core.step(group, Input::Cold(Box::new(answer)));
        });
    }

    /// The store took a pack; or it did not, or something else went wrong.
    fn note_outage(&self, error: Option<&FlushError>) {
        let now_ms = self.clock.monotonic_us() / 1000;
        match error {
            None => self.outage.borrow_mut().taken(now_ms),
            Some(error) if error.is_outage() => self.outage.borrow_mut().failed(now_ms),
            Some(_) => {}
        }
    }

    /// Before appends are refused for what the store lacks, groups that wait since it failed try sooner than they meant to.
    pub(super) fn watch_outage(&self) {
        if !self.is_far_behind(self.unflushed_bytes.get()) {
            return;
        }
        let now_ms = self.clock.monotonic_us() / 1000;
        let mut groups = self.groups.borrow_mut();
        let mut outage = self.outage.borrow_mut();
        outage.hasten(now_ms, groups.values_mut());
    }

    /// Half of what the store may lack is reached.
    fn is_far_behind(&self, unflushed_bytes: u64) -> bool {
        unflushed_bytes > self.config.cold_behind_bytes_max / 2
    }

    /// How far the cold store is behind; asks the groups to flush when that becomes too much.
    pub(super) fn update_unflushed(&self) {
        let groups = self.groups.borrow();
        let unflushed = groups.values().map(Group::unflushed_bytes).sum();
        drop(groups);
        self.unflushed_bytes.set(unflushed);
        if self.is_far_behind(unflushed) {
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
}
