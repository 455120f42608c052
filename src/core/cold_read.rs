//! Reads of the cold store: chunks that lie one behind the other come with one request, each is fetched once however many
//! ask for it, verified, and kept in memory as long as there is room.
//! All of it runs in a queue of its own with few shares, so that hot traffic goes first on the core.
//! Invariants: nothing is kept or answered that its checksum does not cover.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;

use ahash::AHashMap;
use bytes::Bytes;
use glommio::{Latency, Shares, TaskQueueHandle};
use storage::cache::DiskCache;
use storage::cold::ColdError;

use super::Core;
use super::cold_cache::{ChunkCache, ChunkId, location_of};
use super::packs::{Unsure, refusal_of};
use super::rescue::Rescue;
use super::signal::{Event, Slot};
use crate::group::ChunkVerdict;
use crate::ops::metrics::add;
use crate::protocol::{ColdChunk, Offset, PackName, Piece, Refusal};

/// Shares of the queue for the cold store; all else has 1000.
const SHARES: usize = 200;

/// Bytes of one request for chunks that follow each other.
const RUN_BYTES_MAX: u64 = 4 << 20;

/// How long a chunk is waited for that the local disk has, before the store is asked.
const DISK_PATIENCE: std::time::Duration = std::time::Duration::from_millis(500);

/// Requests for what a reader will want next; more are not begun.
const AHEAD_MAX: usize = 32;

/// A chunk that is being fetched.
#[derive(Default)]
struct Flight {
    done: Event,
    result: RefCell<Option<Result<Bytes, Refusal>>>,
}

/// What a core knows of its use of the cold store.
pub(super) struct Tier {
    pub(super) cache: RefCell<ChunkCache>,
    /// Behind it.
    pub(super) disk: Option<Rc<DiskCache>>,
    flights: RefCell<AHashMap<ChunkId, Rc<Flight>>>,
    ahead: Cell<usize>,
    queue: Option<TaskQueueHandle>,
    /// A pack is being built.
    is_building: Rc<Cell<bool>>,
    built: Rc<Event>,
    /// Packs that were put without an answer.
    pub(super) unsure: Unsure,
    /// What is done about damaged objects.
    pub(super) rescue: Rescue,
    /// Chunks that other cores were asked for.
    pub(super) asked: RefCell<AHashMap<u64, Slot<Option<Bytes>>>>,
    /// Chunks that other cores are to judge.
    pub(super) judging: RefCell<AHashMap<u64, Slot<ChunkVerdict>>>,
}

/// The right to build a pack.
pub(super) struct Turn {
    is_building: Rc<Cell<bool>>,
    built: Rc<Event>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.is_building.set(false);
        self.built.raise();
    }
}

impl Tier {
    /// On an executor.
    pub(super) fn new(cache_bytes: u64, disk: Option<Rc<DiskCache>>) -> Tier {
        let queue = glommio::executor().create_task_queue(
            Shares::Static(SHARES),
            Latency::NotImportant,
            "cold",
        );
        Tier {
            cache: RefCell::new(ChunkCache::new(cache_bytes)),
            disk,
            flights: RefCell::default(),
            ahead: Cell::new(0),
            queue: Some(queue),
            is_building: Rc::default(),
            built: Rc::default(),
            unsure: RefCell::default(),
            rescue: Rescue::default(),
            asked: RefCell::default(),
            judging: RefCell::default(),
        }
    }

    /// Waits until no other pack is being built.
    pub(super) async fn turn(&self) -> Turn {
        while self.is_building.replace(true) {
            let seen = self.built.raised();
            self.built.beyond(seen).await;
        }
        Turn {
            is_building: self.is_building.clone(),
            built: self.built.clone(),
        }
    }
}

/// A chunk to fetch.
pub(super) type Wanted = (ChunkId, ColdChunk);

/// Whether it is the object that is to blame. One that is not there may have been given up since the plan.
pub(super) fn is_damage(error: &ColdError) -> bool {
    matches!(
        error,
        ColdError::Corrupt { .. } | ColdError::NotFound { .. }
    )
}

impl Core {
    /// Runs something in the queue for the cold store.
    pub(super) fn spawn_cold(&self, work: impl Future<Output = ()> + 'static) {
        let spawned = match self.tier.queue {
            Some(queue) => super::tasks::spawn_into(work, queue).map(|task| task.detach()),
            None => Ok(super::tasks::spawn(work).detach()),
        };
        if let Err(error) = spawned {
            log::error!(
                "event=cold_task_lost error={error:?}",
                error = error.to_string()
            );
        }
    }

    /// Begins to fetch the chunks of these pieces that are neither here nor on their way.
    pub(super) fn begin_cold(self: &Rc<Self>, pieces: &[Piece]) {
        let mut run: Vec<Wanted> = Vec::new();
        let mut run_bytes = 0;
        for piece in pieces {
            let Piece::Stored {
                chunk, group, pack, ..
            } = piece
            else {
                continue;
            };
            let id = ChunkId::of(*group, *pack, chunk);
            if self.tier.flights.borrow().contains_key(&id)
                || self.tier.rescue.has(&id)
                || self.tier.cache.borrow_mut().get(&id).is_some()
            {
                add(&self.metrics.plain.cold_cache_hits_total, 1);
                continue;
            }
            add(&self.metrics.plain.cold_cache_misses_total, 1);
            if let Some(disk) = &self.tier.disk {
                if disk.contains(&id.on_disk(), &location_of(chunk)) {
                    self.fetch_kept(disk.clone(), id, *chunk);
                    continue;
                }
                add(&self.metrics.plain.cache_misses_total, 1);
            }
            let follows = run.last().is_some_and(|(last, before)| {
                (last.group, last.pack) == (id.group, id.pack)
                    && before.position + u64::from(before.stored) == id.position
            });
            if !follows || run_bytes + u64::from(chunk.stored) > RUN_BYTES_MAX {
                self.fetch_run(std::mem::take(&mut run));
                run_bytes = 0;
            }
            run_bytes += u64::from(chunk.stored);
            self.tier.flights.borrow_mut().insert(id, Rc::default());
            run.push((id, *chunk));
        }
        self.fetch_run(run);
    }

    /// The same for what a reader will want next, unless there is much of that already.
    pub(super) fn begin_ahead(self: &Rc<Self>, pieces: &[Piece]) {
        if self.tier.ahead.get() < AHEAD_MAX && !pieces.is_empty() {
            self.begin_cold(pieces);
        }
    }

    fn fetch_run(self: &Rc<Self>, run: Vec<Wanted>) {
        if run.is_empty() {
            return;
        }
        let core = self.clone();
        self.tier.ahead.set(self.tier.ahead.get() + 1);
        self.spawn_cold(async move {
            let fetched = core.read_run(&run).await;
            core.tier.ahead.set(core.tier.ahead.get() - 1);
            for ((id, _), result) in run.iter().zip(fetched) {
                core.land(id, result);
            }
        });
    }

    /// What all wait for that asked for a chunk.
    fn land(&self, id: &ChunkId, result: Result<Bytes, Refusal>) {
        if let Ok(bytes) = &result {
            self.tier.cache.borrow_mut().put(*id, bytes.clone());
        }
        let flight = self.tier.flights.borrow_mut().remove(id);
        if let Some(flight) = flight {
            *flight.result.borrow_mut() = Some(result);
            flight.done.raise();
        }
    }

    /// A chunk that the local disk has; if it proves not to, the store has it.
    fn fetch_kept(self: &Rc<Self>, disk: Rc<DiskCache>, id: ChunkId, chunk: ColdChunk) {
        self.tier.flights.borrow_mut().insert(id, Rc::default());
        let core = self.clone();
        self.tier.ahead.set(self.tier.ahead.get() + 1);
        self.spawn_cold(async move {
            // A disk that stands still must not hold up what the store has.
            let late = async {
                core.sleep(DISK_PATIENCE).await;
                None
            };
            let (name, location) = (id.on_disk(), location_of(&chunk));
            let kept = disk.get(&name, &location);
            let kept = futures_lite::FutureExt::or(kept, late).await;
            core.tier.ahead.set(core.tier.ahead.get() - 1);
            let result = match kept {
                Some(bytes) => Ok(bytes),
                None => {
                    add(&core.metrics.plain.cache_misses_total, 1);
                    core.read_one(id, chunk).await
                }
            };
            core.land(&id, result);
        });
    }

    async fn read_one(self: &Rc<Self>, id: ChunkId, chunk: ColdChunk) -> Result<Bytes, Refusal> {
        let error = match self.read_object(&[(id, chunk)]).await {
            Ok(chunks) => return chunks.into_iter().next().ok_or(Refusal::DataDamaged),
            Err(error) => error,
        };
        if !is_damage(&error) {
            return Err(self.read_failed(&id, &error));
        }
        if let Some(bytes) = self.chunk_of_cores(id, chunk).await {
            let core = self.clone();
            // So that it is seen to.
            self.spawn_cold(async move {
                core.judge_chunk(id, true).await;
            });
            return Ok(bytes);
        }
        let (from, to) = (Offset(chunk.start), Offset(chunk.end()));
        let refusal = match self.judge_chunk(id, true).await {
            // A plan from before it was given up: whoever comes back has a new one.
            ChunkVerdict::Unneeded => return Err(Refusal::Unavailable),
            ChunkVerdict::Sought => Refusal::BytesSought { from, to },
            ChunkVerdict::Lost => Refusal::BytesLost { from, to },
        };
        self.read_failed(&id, &error);
        Err(refusal)
    }

    fn read_failed(&self, id: &ChunkId, error: &ColdError) -> Refusal {
        let (group, pack) = (id.group, id.pack);
        if let ColdError::NotFound { .. } = error {
            log::error!("event=cold_pack_missing group={group} pack={pack} {error}");
        } else {
            log::error!("event=cold_read_failed group={group} pack={pack} {error}");
        }
        add(&self.metrics.plain.cold_read_failures_total, 1);
        refusal_of(error)
    }

    /// Reads chunks that follow each other, and verifies them. Where one is damaged, each is read by itself: the others are
    /// sound.
    async fn read_run(self: &Rc<Self>, run: &[Wanted]) -> Vec<Result<Bytes, Refusal>> {
        match self.read_object(run).await {
            Ok(chunks) => chunks.into_iter().map(Ok).collect(),
            Err(error) if is_damage(&error) => {
                let mut each = Vec::with_capacity(run.len());
                for (id, chunk) in run {
                    each.push(self.read_one(*id, *chunk).await);
                }
                each
            }
            Err(error) => {
                let refusal = self.read_failed(&run[0].0, &error);
                vec![Err(refusal); run.len()]
            }
        }
    }

    pub(super) async fn read_object(
        self: &Rc<Self>,
        run: &[Wanted],
    ) -> Result<Vec<Bytes>, ColdError> {
        let Some((id, _)) = run.first() else {
            return Ok(Vec::new());
        };
        let no_store = |_| ColdError::Misconfigured {
            what: "data is in a cold store, and this node has none: set --cold".to_owned(),
        };
        let chunks: Vec<ColdChunk> = run.iter().map(|(_, chunk)| *chunk).collect();
        let keep = |chunk: &ColdChunk, stored: &[u8]| {
            if let Some(disk) = &self.tier.disk {
                let id = ChunkId::of(id.group, id.pack, chunk);
                disk.put(id.on_disk(), &location_of(chunk), stored);
            }
        };
        let packs = self.packs().map_err(no_store)?;
        packs.read(id.group, id.pack, &chunks, &keep).await
    }

    /// A chunk that was begun to be fetched, or is here.
    pub(super) async fn cold_chunk(
        self: &Rc<Self>,
        group: u32,
        pack: PackName,
        chunk: &ColdChunk,
    ) -> Result<Bytes, Refusal> {
        let id = ChunkId::of(group, pack, chunk);
        if let Some(rescued) = self.tier.rescue.get(&id) {
            return Ok(rescued);
        }
        loop {
            let flight = self.tier.flights.borrow().get(&id).cloned();
            if let Some(flight) = flight {
                let seen = flight.done.raised();
                if flight.result.borrow().is_none() {
                    flight.done.beyond(seen).await;
                }
                let result = flight.result.borrow().clone();
                if let Some(result) = result {
                    return result;
                }
                continue;
            }
            if let Some(bytes) = self.tier.cache.borrow_mut().get(&id) {
                return Ok(bytes);
            }
            // It left the cache between its fetch and now.
            if let Some(disk) = self.tier.disk.clone()
                && let Some(kept) = disk.get(&id.on_disk(), &location_of(chunk)).await
            {
                return Ok(kept);
            }
            return self.read_one(id, *chunk).await;
        }
    }
}
