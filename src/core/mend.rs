//! A local pack that does not hold what was written is put right with the bytes that other replicas have: the state says which
//! bytes of which stream each chunk is that is still needed, bytes at an offset never change, and the chunk's checksum judges
//! what comes. The pack keeps its name and its places, so nothing else has to know.
//!
//! Where nobody has the bytes, the others build all of the node's replicas anew (`damage.rs`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use raftproto::peer::FetchBytesRequest;
use storage::pack::{self, ChunkLocation, NeededChunk};
use storage::{StorageError, blocking, io_error};

use super::checkpoint::pack_path;
use super::{Core, Message};
use crate::ops::metrics::add;
use crate::protocol::{Incarnation, Offset, Op, Outcome, Refusal, Request, StreamKey};

/// Between two attempts while another node is away, and how many there are.
const AGAIN: Duration = Duration::from_secs(10);
const ATTEMPTS_MAX: u32 = 30;

/// Longest range that is given at once; no chunk of a local pack is longer.
const BYTES_MAX: u64 = 1 << 20;

impl Core {
    /// A reader found a pack damaged: its group's core sees to it, and the reader is asked to come back.
    pub(super) fn found_damaged_pack(
        self: &Rc<Self>,
        group: u32,
        pack: u32,
        error: StorageError,
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

    /// A reader's plan names a pack that is not there, or has another of that name: the plan is outdated, unless it is lost.
    pub(super) async fn look_for_pack(self: &Rc<Self>, group: u32, pack: u32, path: PathBuf) {
        let looked_for = path.clone();
        if blocking::run(move || !looked_for.exists()).await {
            let gone = std::io::Error::from_raw_os_error(libc::ENOENT);
            self.found_damaged_pack(group, pack, io_error(&path, "open", gone));
        }
    }

    /// Mends a pack of an own group, in a task of its own, unless that is under way.
    pub(super) fn see_to_pack(self: &Rc<Self>, group: u32, pack: u32, error: StorageError) {
        if !self.damage.mending.borrow_mut().insert((group, pack)) {
            return;
        }
        let core = self.clone();
        glommio::spawn_local(async move {
            log::error!("event=pack_damaged group={group} pack={pack} {error}");
            core.mend_or_rebuild(group, pack).await;
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
                    if attempts < ATTEMPTS_MAX
                        && self.stop.raised() == 0
                        && self.links.borrow().values().any(|l| !l.is_up()) =>
                {
                    attempts += 1;
                    self.sleep(AGAIN).await;
                }
                Err(error) => return self.found_damage(&error).await == Refusal::Unavailable,
            }
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
        let looked_at = path.clone();
        let is_sound =
            blocking::run(move || pack::verify_named(&looked_at, group, pack).is_ok()).await;
        if is_sound || !self.is_pack_needed(group, pack) {
            return Ok(false);
        }
        let needed = self.needed_chunks(group, pack);
        let (read_at, wanted) = (path.clone(), needed.clone());
        let kept = blocking::run(move || pack::read_sound(&read_at, &wanted)).await;
        let mut chunks = Vec::with_capacity(needed.len());
        for (chunk, kept) in needed.iter().zip(kept) {
            let bytes = match kept {
                Some(bytes) => Some(bytes),
                None => self.bytes_of_others(chunk).await,
            };
            let bytes = bytes.ok_or_else(|| StorageError::Corrupt {
                path: path.clone(),
                offset: chunk.location.position,
                what: "no other node gave the chunk".to_owned(),
            })?;
            chunks.push((chunk.clone(), bytes));
        }
        // No checkpoint takes the pack away, and no fetched one puts another in its place, while it is written.
        let turn = disk.checkpointing.acquire_permit(1).await;
        // Chunks go meanwhile; others do not come, unless the state is another.
        let now = self.needed_chunks(group, pack);
        let known: BTreeMap<u64, &NeededChunk> =
            needed.iter().map(|c| (c.location.position, c)).collect();
        let is_same = now
            .iter()
            .all(|chunk| known.get(&chunk.location.position) == Some(&chunk));
        let is_wanted = is_same && self.is_pack_needed(group, pack);
        let written = if is_wanted {
            let path = path.clone();
            blocking::run(move || pack::rebuild(&path, group, pack, chunks)).await
        } else {
            Ok(())
        };
        drop(turn);
        written?;
        // Readers of other cores find out by themselves.
        disk.packs.forget(&path);
        Ok(is_wanted)
    }

    /// The newest checkpoint names the pack, and the state is that checkpoint's.
    fn is_pack_needed(&self, group: u32, pack: u32) -> bool {
        let groups = self.groups.borrow();
        let is_installing = groups.get(&group).is_none_or(|g| g.is_installing());
        let files = self.disk.as_ref().map(|disk| disk.files.borrow());
        let manifest = files.as_ref().and_then(|files| files.get(&group));
        !is_installing && manifest.is_some_and(|f| f.manifest.packs.contains(&pack))
    }

    fn needed_chunks(&self, group: u32, pack: u32) -> Vec<NeededChunk> {
        let groups = self.groups.borrow();
        let known = groups.get(&group).map(|g| g.chunks_of_pack(pack));
        let known = known.unwrap_or_default().into_iter();
        let needed = known.map(|(key, incarnation, chunk)| NeededChunk {
            key: key.as_str().to_owned(),
            incarnation: incarnation.0,
            start: chunk.start,
            location: ChunkLocation {
                position: chunk.position,
                length: chunk.length,
                crc32c: chunk.crc32c,
            },
        });
        needed.collect()
    }

    /// A chunk's bytes from any node that has them.
    async fn bytes_of_others(self: &Rc<Self>, chunk: &NeededChunk) -> Option<Bytes> {
        let addresses: Vec<String> = {
            let links = self.links.borrow();
            let up = links.values().filter(|link| link.is_up());
            up.map(|link| link.address().to_owned()).collect()
        };
        let at = chunk.location;
        for address in addresses {
            let request = FetchBytesRequest {
                from: Some(self.hello()),
                key: chunk.key.clone(),
                incarnation: chunk.incarnation,
                start: chunk.start,
                end: chunk.start + u64::from(at.length),
            };
            match self.caller.fetch_bytes(&address, request).await {
                Ok(reply) if crc32c::crc32c(&reply.data) == at.crc32c => return Some(reply.data),
                Ok(_) => log::warn!("event=bytes_not_the_same address={address}"),
                Err(error) => log::warn!("event=bytes_not_fetched address={address} {error}"),
            }
        }
        None
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
            Outcome::Read(plan) => self.materialize_plan(&plan).await?,
            Outcome::Refused(refusal) => return Err(refusal),
            _ => return Err(Refusal::Unavailable),
        };
        Ok(pieces.concat().into())
    }
}
