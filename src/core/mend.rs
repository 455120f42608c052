//! A local pack that does not hold what was written is put right with the bytes that other replicas have: the state says which
//! bytes of which stream each chunk is that is still needed, bytes at an offset never change, and the chunk's checksum judges
//! what comes. The pack keeps its name and its places, so nothing else has to know.
//!
//! Bytes before a stream's floor are lost with the chunk that held them, since nobody has them any more: the rest of the chunk is
//! asked for, and the state names that rest from then on. The checkpoint that follows names what the pack holds now; whoever
//! starts from the one before finds chunks that are not in the pack's index, which is no damage, until the log says so too.
//!
//! Where nobody has the bytes, the others build all of the node's replicas anew, as soon as they can do without it (`damage.rs`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use raftproto::peer::FetchBytesRequest;
use storage::pack::{self, ChunkLocation};
use storage::{StorageError, blocking, io_error};

use super::files::{location_of, needed_of, pack_path};
use super::{Core, Message};
use crate::group::{Group, HeldChunk};
use crate::ops::metrics::add;
use crate::protocol::{ChunkRef, Incarnation, Offset, Op, Outcome, Refusal, Request, StreamKey};

/// Between two attempts while another node is away, and how many there are.
const AGAIN: Duration = Duration::from_secs(10);
const ATTEMPTS_MAX: u32 = 30;

/// The same where all nodes are up: the others may have given up what this replica will give up with its next entries.
const AGAIN_SOON: Duration = Duration::from_secs(1);
const ATTEMPTS_MIN: u32 = 3;

/// Longest range that is given at once; no chunk of a local pack is longer.
const BYTES_MAX: u64 = 1 << 20;

impl Core {
    /// A reader found a pack damaged, or without a chunk that its plan names: the group's core sees to it, and the reader is
    /// asked to come back.
    pub(super) fn found_damaged_pack(
        self: &Rc<Self>,
        group: u32,
        pack: u32,
        error: Option<StorageError>,
    ) -> Refusal {
        if self.identity.cluster_listen.is_none() {
            return Refusal::DataDamaged;
        }
        let owner = self.owner(group);
        if owner == self.id {
            self.see_to_pack(group, pack, error);
        } else {
            // If there is no room for it now, the next reader says it again.
            let _ = self.post(owner, Message::DamagedPack { group, pack, error });
        }
        Refusal::Unavailable
    }

    /// A reader's plan names a pack that is not there, or that has no such chunk: the plan is outdated, unless the pack is lost,
    /// or the state names what a mend that was interrupted did not find.
    pub(super) async fn look_for_pack(self: &Rc<Self>, group: u32, pack: u32, path: PathBuf) {
        let looked_for = path.clone();
        let is_gone = blocking::run(move || !looked_for.exists()).await;
        let gone = || std::io::Error::from_raw_os_error(libc::ENOENT);
        let error = is_gone.then(|| io_error(&path, "open", gone()));
        self.found_damaged_pack(group, pack, error);
    }

    /// Mends a pack of an own group, in a task of its own, unless that is under way.
    pub(super) fn see_to_pack(self: &Rc<Self>, group: u32, pack: u32, error: Option<StorageError>) {
        if !self.damage.mending.borrow_mut().insert((group, pack)) {
            return;
        }
        let core = self.clone();
        super::tasks::spawn(async move {
            match error {
                Some(error) => {
                    log::error!("event=pack_damaged group={group} pack={pack} {error}");
                    core.mend_or_rebuild(group, pack).await;
                }
                None if !core.has_what_is_needed(group, pack).await => {
                    log::error!("event=pack_damaged group={group} pack={pack} lacks a chunk");
                    core.mend_or_rebuild(group, pack).await;
                }
                None => {}
            }
            core.damage.mending.borrow_mut().remove(&(group, pack));
        })
        .detach();
    }

    /// Mends a pack; where the others do not give what is missing, all of the node's replicas are built anew. For some minutes
    /// it is asked again while one of the others cannot be reached, since that is dear. Answers whether the pack was mended,
    /// or is in good hands.
    pub(super) async fn mend_or_rebuild(self: &Rc<Self>, group: u32, pack: u32) -> bool {
        let mut attempts = 0;
        loop {
            match self.mend_pack(group, pack).await {
                Ok(is_mended) => return is_mended,
                // Of this damage, not of what hindered its mending: a full disk is no reason to build anew.
                Err(StorageError::Corrupt { .. })
                    if attempts < self.attempts_max() && self.stop.raised() == 0 =>
                {
                    attempts += 1;
                    let is_soon = attempts < ATTEMPTS_MIN;
                    self.sleep(if is_soon { AGAIN_SOON } else { AGAIN }).await;
                }
                Err(error) => return self.found_unmendable(&error).await,
            }
        }
    }

    fn attempts_max(&self) -> u32 {
        match self.links.borrow().values().any(|l| !l.is_up()) {
            true => ATTEMPTS_MAX,
            false => ATTEMPTS_MIN,
        }
    }

    /// Whether there was something to mend.
    ///
    /// # Errors
    /// The pack is damaged, and stays so.
    pub(super) async fn mend_pack(
        self: &Rc<Self>,
        group: u32,
        pack: u32,
    ) -> Result<bool, StorageError> {
        let turn = self.damage.at_work.acquire_permit(1).await;
        let mended = self.try_mend(group, pack).await;
        drop(turn);
        match &mended {
            Ok(false) => {}
            Ok(true) => {
                log::warn!("event=pack_mended group={group} pack={pack}");
                add(&self.metrics.plain.packs_mended_total, 1);
            }
            Err(error) => {
                log::error!("event=pack_not_mended group={group} pack={pack} {error}");
            }
        }
        mended
    }

    async fn try_mend(self: &Rc<Self>, group: u32, pack: u32) -> Result<bool, StorageError> {
        let Some(disk) = &self.disk else {
            return Ok(false);
        };
        let path = pack_path(&disk.dir, group, pack);
        let needed = self.needed_chunks(group, pack).await;
        let (looked_at, wanted) = (path.clone(), locations(&needed));
        let is_sound = blocking::run(move || is_sound(&looked_at, group, pack, &wanted)).await;
        if is_sound || !self.is_pack_needed(group, pack) {
            return Ok(false);
        }
        let (read_at, wanted) = (path.clone(), locations(&needed));
        let kept = blocking::run(move || pack::read_sound(&read_at, &wanted)).await;
        let mut chunks = BTreeMap::new();
        for (held, kept) in needed.iter().zip(kept) {
            let found = match kept {
                Some(bytes) => Some((held.chunk, bytes)),
                None => self.chunk_of_others(&path, held).await,
            };
            let found = found.ok_or_else(|| StorageError::Corrupt {
                path: path.clone(),
                offset: held.chunk.position,
                what: "no other node gave the chunk".to_owned(),
            })?;
            chunks.insert(held.chunk.position, (held, found));
        }
        // No checkpoint takes the pack away, and no fetched one puts another in its place, while it is written.
        let turn = disk.checkpointing.acquire_permit(1).await;
        let written = self.write_mended(group, pack, &path, &chunks).await;
        drop(turn);
        // Readers of other cores find out by themselves.
        disk.packs.forget(&path);
        written
    }

    /// Writes the pack, and a checkpoint that names nothing else of it. Answers whether it was wanted.
    async fn write_mended(
        self: &Rc<Self>,
        group: u32,
        pack: u32,
        path: &Path,
        chunks: &BTreeMap<u64, (&HeldChunk, (ChunkRef, Bytes))>,
    ) -> Result<bool, StorageError> {
        // Chunks go meanwhile; others do not come, unless the state is another.
        let now = self.needed_chunks(group, pack).await;
        let is_same = now.iter().all(|held| {
            let known = chunks.get(&held.chunk.position);
            known.is_some_and(|(known, _)| {
                (&known.key, known.incarnation, known.chunk)
                    == (&held.key, held.incarnation, held.chunk)
            })
        });
        if !is_same || !self.is_pack_needed(group, pack) {
            return Ok(false);
        }
        let found = chunks
            .values()
            .map(|(held, (chunk, bytes))| (needed_of(held, chunk), bytes.clone()));
        let (written_to, found): (_, Vec<_>) = (path.to_owned(), found.collect());
        blocking::run(move || pack::rebuild(&written_to, group, pack, found)).await?;
        let cut = chunks
            .values()
            .filter(|(held, (chunk, _))| held.chunk != *chunk);
        let cuts: Vec<_> = cut
            .map(|(held, (chunk, _))| ((*held).clone(), *chunk))
            .collect();
        if let Some(state) = self.groups.borrow_mut().get_mut(&group) {
            state.cut_chunks(&cuts);
        }
        // The first may be one that was planned before.
        for _ in 0..2 {
            match self.checkpoint_group(group).await {
                Err(StorageError::NoSpace { .. }) => break,
                Err(error) => {
                    self.fail(&error);
                    break;
                }
                Ok(()) => {}
            }
        }
        Ok(true)
    }

    /// Whether the pack is sound, and holds what the state says of it.
    async fn has_what_is_needed(&self, group: u32, pack: u32) -> bool {
        let Some(disk) = &self.disk else {
            return true;
        };
        let path = pack_path(&disk.dir, group, pack);
        let wanted = locations(&self.needed_chunks(group, pack).await);
        blocking::run(move || is_sound(&path, group, pack, &wanted)).await
    }

    /// The newest checkpoint names the pack, and the state is that checkpoint's.
    fn is_pack_needed(&self, group: u32, pack: u32) -> bool {
        let groups = self.groups.borrow();
        let is_installing = groups.get(&group).is_none_or(|g| g.is_installing());
        let files = self.disk.as_ref().map(|disk| disk.files.borrow());
        let manifest = files.as_ref().and_then(|files| files.get(&group));
        !is_installing && manifest.is_some_and(|f| f.manifest.packs.contains(&pack))
    }

    /// What the streams have in a pack.
    async fn needed_chunks(&self, group: u32, pack: u32) -> Vec<HeldChunk> {
        self.by_shares(group, |g, after| g.chunks_of_pack(pack, after))
            .await
    }

    /// All that a look at a group's streams finds, in steps that others come between.
    pub(super) async fn by_shares<T>(
        &self,
        group: u32,
        look: impl Fn(&Group, Option<&StreamKey>) -> (Vec<T>, Option<StreamKey>),
    ) -> Vec<T> {
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let share = {
                let groups = self.groups.borrow();
                groups.get(&group).map(|g| look(g, after.as_ref()))
            };
            let Some((found, next)) = share else {
                return all;
            };
            all.extend(found);
            if next.is_none() {
                return all;
            }
            after = next;
            glommio::executor().yield_task_queue_now().await;
        }
    }

    /// A chunk from any node that has it, or what is needed of it; where that lies then, and what it is.
    async fn chunk_of_others(
        self: &Rc<Self>,
        path: &Path,
        held: &HeldChunk,
    ) -> Option<(ChunkRef, Bytes)> {
        let chunk = held.chunk;
        let lost = (held.needed_from() - chunk.start) as u32;
        let before = match lost {
            0 => Some(Bytes::new()),
            _ => {
                let (path, position) = (path.to_owned(), chunk.position);
                blocking::run(move || pack::read_unverified(&path, position, lost)).await
            }
        };
        for address in self.others_up() {
            let request = FetchBytesRequest {
                from: Some(self.hello()),
                key: held.key.as_str().to_owned(),
                incarnation: held.incarnation.0,
                start: held.needed_from(),
                end: chunk.end(),
                only_copies: false,
            };
            let reply = match self.caller.fetch_bytes(&address, request).await {
                Ok(reply) => reply,
                Err(error) => {
                    log::warn!("event=bytes_not_fetched address={address} {error}");
                    continue;
                }
            };
            let crc32c = crc32c::crc32c(&reply.data);
            // With what is left here of the part before, the chunk's own checksum judges.
            if let Some(before) = &before
                && crc32c::crc32c_combine(crc32c::crc32c(before), crc32c, reply.data.len())
                    == chunk.crc32c
            {
                return Some((chunk, [&before[..], &reply.data].concat().into()));
            }
            if lost > 0
                && crc32c == reply.crc32c
                && reply.data.len() as u64 == chunk.end() - held.needed_from()
            {
                let kept = ChunkRef {
                    position: chunk.position + u64::from(lost),
                    start: held.needed_from(),
                    length: chunk.length - lost,
                    crc32c,
                    ..chunk
                };
                return Some((kept, reply.data));
            }
            log::warn!("event=bytes_not_the_same address={address}");
        }
        None
    }

    /// The addresses of the nodes that are up.
    pub(super) fn others_up(&self) -> Vec<String> {
        let links = self.links.borrow();
        let up = links.values().filter(|link| link.is_up());
        up.map(|link| link.address().to_owned()).collect()
    }

    /// Bytes of a stream as this replica has them, for another one.
    pub(super) async fn bytes_for_other(
        self: &Rc<Self>,
        request: &FetchBytesRequest,
    ) -> Result<Bytes, Refusal> {
        let length = request.end.checked_sub(request.start);
        if length.is_none_or(|length| length > BYTES_MAX) {
            return Err(Refusal::OffsetMisaligned);
        }
        let op = Op::ReadInherited {
            incarnation: Incarnation(request.incarnation),
            from: Offset(request.start),
            to: Offset(request.end),
        };
        let key = StreamKey::from_stored(&request.key);
        let pieces = match self.ask(Request::on_key(key, op)).await {
            Outcome::Read(plan) if request.only_copies => {
                let copies = self.copies_of(&plan.pieces).await;
                return copies.ok_or(Refusal::NotFound);
            }
            Outcome::Read(plan) => self.materialize_plan(&plan).await?,
            Outcome::Refused(refusal) => return Err(refusal),
            _ => return Err(Refusal::Unavailable),
        };
        Ok(pieces.concat().into())
    }
}

/// Whether the pack holds what was written, and these chunks. Blocks.
fn is_sound(path: &Path, group: u32, pack: u32, needed: &[ChunkLocation]) -> bool {
    let verified = pack::verify_named(path, group, pack);
    verified.is_ok() && pack::has_chunks(path, needed).unwrap_or(false)
}

fn locations(held: &[HeldChunk]) -> Vec<ChunkLocation> {
    held.iter().map(|held| location_of(&held.chunk)).collect()
}
