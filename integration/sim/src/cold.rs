//! A node's part in the cold store, as the real shell has it: packs are built one at a time, looked for, deleted and read
//! by the code of `core/packs.rs`, whose futures are polled here whenever an answer of the store came.
//! What must hold of the store is in `cold_check.rs`.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use storage::cold::{ColdError, ColdKey};
use storage::cold_pack::Source;
use ursula::backup::collector::Collector;
use ursula::core::pack_key;
use ursula::core::packs::{AtOnce, FlushError, PackStore, Put, Unsure, refusal_of};
use ursula::group::{ColdAnswer, ColdSettings, Effect, Input, PackSource};
use ursula::protocol::{ColdChunk, Outcome, PackName, Piece, Refusal};

use crate::desk::SimStore;
use crate::event::Life;
use crate::node::Process;
use crate::plan::Plan;
use crate::rot::Looked;
use crate::saga::{Reading, Task};
use crate::store::Answered;
use crate::world::{World, life_of};

/// First word of the keys.
pub const CLUSTER: &str = "sim";

/// What comes of a task.
pub enum Came {
    /// For a group.
    Answer(ColdAnswer),
    /// A pack was put, or found; for its group. And a chunk that was to go into it and is damaged.
    Put(
        Result<Put, FlushError>,
        PackName,
        Option<(PackName, ColdChunk)>,
    ),
    /// Chunks for a read.
    Chunks(Result<Vec<Bytes>, ColdError>),
    /// A part of the backup was put.
    Shipped(Result<ColdKey, ColdError>),
    /// The backup was looked through: by whom, whether to the end, and how much was deleted.
    Collected(Box<Collector>, bool, u64),
    /// A damaged object was looked through.
    Looked(Result<Box<Looked>, ColdError>),
}

/// A read that waits for chunks of one object.
pub struct Fetch {
    task: u64,
    pack: PackName,
    run: Vec<ColdChunk>,
    /// What it wants of each.
    parts: Vec<(u32, u32)>,
}

/// Something that is under way with the store.
struct ColdTask {
    group: u32,
    /// The read that waits for it.
    reading: Option<Fetch>,
    work: Pin<Box<dyn Future<Output = Came>>>,
}

/// What a process has under way with the store.
#[derive(Default)]
pub struct ColdShell {
    store: Rc<SimStore>,
    unsure: Rc<Unsure>,
    tasks: BTreeMap<u64, ColdTask>,
    count: u64,
    /// Packs that wait for their turn.
    waiting: std::collections::VecDeque<(u32, PackName, Vec<PackSource>)>,
    /// The pack that is being built, and its group.
    building: Option<(u64, u32)>,
}

/// The packs as a process sees them.
pub fn packs<'a>(store: &'a SimStore, unsure: &'a Unsure) -> PackStore<'a, AtOnce> {
    PackStore {
        store,
        cluster_id: CLUSTER,
        unsure,
        aside: AtOnce,
    }
}

/// The object of a pack.
pub fn key_of(group: u32, name: PackName) -> ColdKey {
    pack_key(CLUSTER, group, name).expect("a plain word")
}

/// When groups flush; `None`: this world has no object store.
pub fn settings(plan: &Plan) -> Option<ColdSettings> {
    (plan.cold > 0).then_some(ColdSettings {
        pack_bytes: plan.cold_pack_bytes,
        flush_age_ms: plan.cold_flush_age_ms,
        live_percent_min: plan.cold_live_percent,
        grace_ms: plan.cold_grace_ms,
        backup_keep_ms: None,
        hot_bytes_target: plan.cold_hot_bytes,
    })
}

impl World {
    /// Carries out what a group decided about the store.
    pub fn begin_cold(&mut self, node: u64, group: u32, effect: Effect) {
        match effect {
            Effect::WritePack { name, chunks } => {
                let is_rewritten = |source: &PackSource| {
                    let mut pieces = source.pieces.iter();
                    pieces.any(|p| matches!(p, Piece::Stored { .. }))
                };
                if chunks.iter().any(is_rewritten) {
                    self.coverage.hit("pack rewritten");
                }
                let shell = &mut self.node(node).process.cold;
                shell.waiting.push_back((group, name, chunks));
                self.next_pack(node);
            }
            Effect::FindPack(name) => {
                self.spawn_cold(node, group, None, |store, unsure| {
                    Box::pin(async move {
                        let found = packs(&store, &unsure).find(group, name).await;
                        Came::Answer(match found {
                            Ok(Some(there)) => there,
                            Ok(None) => ColdAnswer::Missing(name),
                            Err(_) => ColdAnswer::Failed(name),
                        })
                    })
                });
            }
            Effect::DeletePacks(dead) => {
                self.spawn_cold(node, group, None, |store, unsure| {
                    Box::pin(async move {
                        let deleted = packs(&store, &unsure).delete(group, &dead).await;
                        Came::Answer(deleted.unwrap_or(ColdAnswer::NotDeleted))
                    })
                });
            }
            _ => {}
        }
    }

    /// Builds the next pack that waits, if none is being built.
    fn next_pack(&mut self, node: u64) {
        let shell = &mut self.node(node).process.cold;
        if shell.building.is_some() {
            return;
        }
        let Some((group, name, chunks)) = shell.waiting.pop_front() else {
            return;
        };
        for piece in chunks.iter().flat_map(|chunk| &chunk.pieces) {
            self.see_to_piece(node, piece);
        }
        let sources: Result<Vec<_>, Refusal> = chunks
            .into_iter()
            .map(|chunk| Ok((self.on_disk(node, &chunk.pieces)?, chunk)))
            .collect();
        let id = self.node(node).process.cold.count + 1;
        self.node(node).process.cold.building = Some((id, group));
        self.spawn_cold(node, group, None, move |store, unsure| {
            Box::pin(async move {
                let packs = packs(&store, &unsure);
                let damaged = std::cell::Cell::new(None);
                let gather = async {
                    let first = sources.as_ref().ok().and_then(|s| s.first());
                    let key = first.map(|(_, chunk)| chunk.key.clone());
                    let sources = sources.map_err(|refusal| {
                        let key = key.unwrap_or(ursula::protocol::StreamKey::from_stored("/?"));
                        FlushError::Source(key, refusal)
                    })?;
                    let mut all = Vec::new();
                    for (found, chunk) in sources {
                        let mut pieces = Vec::new();
                        for piece in found {
                            match piece {
                                Found::Here(bytes) => pieces.push(bytes),
                                Found::Stored(pack, stored, from, to) => {
                                    let run = [stored];
                                    let read = packs.read(group, pack, &run, &|_, _| {}).await;
                                    if let Err(ColdError::Corrupt { .. }) = &read {
                                        damaged.set(Some((pack, stored)));
                                    }
                                    pieces.push(read?[0].slice(from as usize..to as usize));
                                }
                            }
                        }
                        all.push(Source {
                            key: chunk.key.as_str().to_owned(),
                            incarnation: chunk.incarnation.0,
                            start: chunk.start,
                            pieces,
                        });
                    }
                    Ok(all)
                };
                let put = packs.put(group, name, gather).await;
                Came::Put(put, name, damaged.take())
            })
        });
    }

    /// Pieces with what is in memory or on the node's disk; what was there when they were planned may be gone.
    fn on_disk(&self, node: u64, pieces: &[Piece]) -> Result<Vec<Found>, Refusal> {
        let rescue = &self.nodes[node as usize - 1].process.rescue;
        let checkpoints = &self.nodes[node as usize - 1].disk.checkpoints;
        let here = |piece: &Piece| match piece {
            Piece::Hot(bytes) => Ok(Found::Here(bytes.clone())),
            Piece::Cold {
                chunk,
                group,
                from,
                to,
            } => {
                let found = checkpoints.get(group).ok_or(Refusal::Unavailable)?;
                match found.read_chunk(chunk, *from, *to) {
                    Ok(Some(bytes)) => Ok(Found::Here(bytes)),
                    Ok(None) | Err(_) => Err(Refusal::Unavailable),
                }
            }
            Piece::Stored {
                chunk,
                pack,
                group,
                from,
                to,
            } => Ok(match rescue.get(*group, *pack, chunk) {
                Some(copy) => Found::Here(copy.slice(*from as usize..*to as usize)),
                None => Found::Stored(*pack, *chunk, *from, *to),
            }),
            Piece::Inherited { .. } => Err(Refusal::DataDamaged),
        };
        pieces.iter().map(here).collect()
    }

    /// Pieces that are in memory or on the node's disk.
    pub fn bytes_here(&self, node: u64, pieces: &[Piece]) -> Option<Vec<u8>> {
        let mut all = Vec::new();
        for found in self.on_disk(node, pieces).ok()? {
            match found {
                Found::Here(bytes) => all.extend_from_slice(&bytes),
                Found::Stored(..) => return None,
            }
        }
        Some(all)
    }

    /// Begins a task of a process and polls it for the first time.
    pub fn spawn_cold(
        &mut self,
        node: u64,
        group: u32,
        reading: Option<Fetch>,
        make: impl FnOnce(Rc<SimStore>, Rc<Unsure>) -> Pin<Box<dyn Future<Output = Came>>>,
    ) {
        let shell = &mut self.node(node).process.cold;
        shell.count += 1;
        let id = shell.count;
        let work = make(shell.store.clone(), shell.unsure.clone());
        let task = ColdTask {
            group,
            reading,
            work,
        };
        shell.tasks.insert(id, task);
        self.poll_cold(node, id);
    }

    /// An answer of the store came to a process.
    pub fn on_store_answer(&mut self, node: u64, answered: Answered) {
        let Answered { task, ask, result } = answered;
        self.node(node).process.cold.store.answer(ask, result);
        self.poll_cold(node, task);
    }

    fn poll_cold(&mut self, node: u64, id: u64) {
        let life = life_of(self, node);
        let shell = &mut self.node(node).process.cold;
        let Some(mut task) = shell.tasks.remove(&id) else {
            return;
        };
        let polled = task
            .work
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        let asks = shell.store.fresh();
        self.send_asks(life, id, asks);
        match polled {
            Poll::Pending => {
                self.node(node).process.cold.tasks.insert(id, task);
            }
            Poll::Ready(came) => self.cold_came(life, id, task.group, task.reading, came),
        }
    }

    fn cold_came(&mut self, life: Life, id: u64, group: u32, reading: Option<Fetch>, came: Came) {
        let node = life.node;
        let answer = match came {
            Came::Chunks(result) => {
                if let Some(fetch) = reading {
                    self.chunks_came(node, group, &fetch, result);
                }
                return;
            }
            Came::Shipped(put) => return self.shipped(node, put),
            Came::Collected(collector, is_done, count) => {
                return self.collected(node, *collector, is_done, count);
            }
            Came::Looked(looked) => return self.looked(life, group, looked),
            Came::Put(Ok(put), ..) => {
                self.note_outage(node, false);
                if put.put_bytes.is_none() && matches!(put.answer, ColdAnswer::There { .. }) {
                    self.coverage.hit("pack found instead of put again");
                }
                put.answer
            }
            Came::Put(Err(error), name, damaged) => {
                if error.is_outage() {
                    self.note_outage(node, true);
                }
                if let Some((pack, chunk)) = damaged {
                    self.leave_out(node, group, pack, &chunk);
                }
                if let FlushError::Source(_, Refusal::DataDamaged) = error {
                    self.find(format!("node {node}: {error}"));
                }
                ColdAnswer::Failed(name)
            }
            Came::Answer(answer) => {
                match answer {
                    ColdAnswer::There { .. } => self.coverage.hit("orphan reconciled"),
                    ColdAnswer::Missing(_) => self.coverage.hit("intent without its object"),
                    _ => {}
                }
                answer
            }
        };
        if matches!(&answer, ColdAnswer::There { chunks, .. } if chunks.is_empty()) {
            self.coverage
                .hit("an unreadable object counts with nothing in it");
        }
        self.step(node, group, Input::Cold(Box::new(answer)));
        if life_of(self, node) != life {
            return;
        }
        let building = &mut self.node(node).process.cold.building;
        if building.is_some_and(|(task, _)| task == id) {
            *building = None;
            self.next_pack(node);
        }
    }

    /// What is written again is so without a chunk that cannot be read.
    fn leave_out(&mut self, node: u64, group: u32, pack: PackName, chunk: &ColdChunk) {
        self.coverage.hit("a damaged chunk left out of a pack");
        let groups = &mut self.node(node).process.groups;
        if let Some(hosted) = groups.get_mut(&group)
            && let Some((number, _)) = hosted.group.cold_pack(pack)
        {
            hosted.group.leave_out(number, chunk.position, chunk.length);
        }
        self.judge_chunk(node, group, pack, chunk.position);
    }

    /// A pack of the group is being put.
    pub fn is_building(process: &Process, group: u32) -> bool {
        process.cold.building.is_some_and(|(_, of)| of == group)
    }

    /// Fetches chunks that lie one behind the other: the first of these pieces, and what follows it there.
    pub fn fetch_stored(&mut self, node: u64, mut reading: Reading, first: Piece) {
        let Piece::Stored { group, pack, .. } = first else {
            return;
        };
        let mut run: Vec<ColdChunk> = Vec::new();
        let mut parts = Vec::new();
        let mut next = Some(first);
        while let Some(Piece::Stored {
            chunk, from, to, ..
        }) = next
        {
            run.push(chunk);
            parts.push((from, to));
            next = reading.next_if(|piece| match piece {
                Piece::Stored {
                    chunk: other,
                    group: other_group,
                    pack: other_pack,
                    ..
                } => {
                    (*other_group, *other_pack) == (group, pack)
                        && chunk.position + u64::from(chunk.stored) == other.position
                }
                _ => false,
            });
        }
        self.coverage.hit(match run.len() {
            1 => "cold read",
            _ => "cold read of several chunks at once",
        });
        let process = &mut self.node(node).process;
        process.task_count += 1;
        let task = process.task_count;
        process.tasks.insert(task, Task::Read(Box::new(reading)));
        let fetch = Fetch {
            task,
            pack,
            run: run.clone(),
            parts,
        };
        self.spawn_cold(node, group, Some(fetch), move |store, unsure| {
            Box::pin(async move {
                Came::Chunks(
                    packs(&store, &unsure)
                        .read(group, pack, &run, &|_, _| {})
                        .await,
                )
            })
        });
    }

    fn chunks_came(
        &mut self,
        node: u64,
        group: u32,
        fetch: &Fetch,
        result: Result<Vec<Bytes>, ColdError>,
    ) {
        let Some(Task::Read(reading)) = self.node(node).process.tasks.remove(&fetch.task) else {
            return;
        };
        match result {
            Ok(chunks) => {
                let parts = fetch.parts.iter().zip(&chunks);
                let parts = parts.map(|((from, to), c)| c.slice(*from as usize..*to as usize));
                self.read_more(node, *reading, parts.collect());
            }
            Err(ColdError::Corrupt { .. }) => {
                self.damage_read(node, &reading, group, fetch.pack, &fetch.run);
            }
            Err(error) => {
                if let ColdError::NotFound { key } = &error {
                    self.coverage.hit("cold read of a deleted object");
                    self.judge_missing(node, &reading, key);
                }
                let refused = Outcome::Refused(refusal_of(&error));
                self.answer_client(&reading.op, &refused, None);
            }
        }
    }

    /// An object was not there any more. What the newest state named was to stay for the grace.
    fn judge_missing(&mut self, node: u64, reading: &Reading, key: &ColdKey) {
        let age_us = self.now_us - reading.planned_us;
        let is_young = age_us * 2 < self.plan.cold_grace_ms * 1000;
        if is_young && reading.was_newest {
            self.find(format!(
                "node {node}: {key} was deleted {age_us} us after a read of it was planned"
            ));
        }
    }
}

/// Where a piece was found.
enum Found {
    Here(Bytes),
    Stored(PackName, ColdChunk, u32, u32),
}
