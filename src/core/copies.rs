//! Copies of a chunk of the cold store: in the caches of the node's cores, in memory and in local packs, on the other nodes.
//! Whoever wants one says what it is by length and checksum.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use raftproto::peer::FetchBytesRequest;

use super::cold_cache::{ChunkId, location_of};
use super::signal::slot;
use super::{Core, Message};
use crate::group::HeldColdChunk;
use crate::protocol::{ColdChunk, Offset, Op, Outcome, Piece, Request};

/// How long another core is waited for.
const CORE_PATIENCE: Duration = Duration::from_secs(1);

impl Core {
    /// A chunk from anywhere but its object.
    pub(super) async fn copy_of(
        self: &Rc<Self>,
        id: ChunkId,
        held: &HeldColdChunk,
    ) -> Option<Bytes> {
        let chunk = held.chunk;
        let is_it = |bytes: &Bytes| {
            bytes.len() == chunk.length as usize && crc32c::crc32c(bytes) == chunk.crc32c
        };
        if let Some(bytes) = self.chunk_of_cores(id, chunk).await.filter(is_it) {
            return Some(bytes);
        }
        if let Some(bytes) = self.chunk_of_replica(held).await.filter(is_it) {
            return Some(bytes);
        }
        for address in self.others_up() {
            let request = self.request_of(held);
            match self.caller.fetch_bytes(&address, request).await {
                Ok(reply) if is_it(&reply.data) => return Some(reply.data),
                Ok(_) => log::warn!("event=bytes_not_the_same address={address}"),
                Err(error) => log::info!("event=bytes_not_fetched address={address} {error}"),
            }
        }
        None
    }

    fn request_of(&self, held: &HeldColdChunk) -> FetchBytesRequest {
        FetchBytesRequest {
            from: Some(self.hello()),
            key: held.key.as_str().to_owned(),
            incarnation: held.incarnation.0,
            start: held.chunk.start,
            end: held.chunk.end(),
            only_copies: true,
        }
    }

    /// What this replica has in memory and in local packs.
    async fn chunk_of_replica(self: &Rc<Self>, held: &HeldColdChunk) -> Option<Bytes> {
        let op = Op::ReadInherited {
            incarnation: held.incarnation,
            from: Offset(held.chunk.start),
            to: Offset(held.chunk.end()),
        };
        let Outcome::Read(plan) = self.ask(Request::on_key(held.key.clone(), op)).await else {
            return None;
        };
        self.copies_of(&plan.pieces).await
    }

    /// The bytes of pieces, if all of them are on this node: in memory, in local packs, in the caches.
    pub(super) async fn copies_of(self: &Rc<Self>, pieces: &[Piece]) -> Option<Bytes> {
        let mut all: Vec<Bytes> = Vec::with_capacity(pieces.len());
        for piece in pieces {
            match piece {
                Piece::Hot(_) | Piece::Cold { .. } => {
                    let one = self.materialize_pieces(std::slice::from_ref(piece)).await;
                    all.extend(one.ok()?);
                }
                Piece::Stored {
                    chunk,
                    group,
                    pack,
                    from,
                    to,
                } => {
                    let id = ChunkId::of(*group, *pack, chunk);
                    let whole = self.chunk_of_cores(id, *chunk).await?;
                    all.push(whole.slice(*from as usize..*to as usize));
                }
                Piece::Inherited { .. } => return None,
            }
        }
        Some(all.concat().into())
    }

    /// A chunk from the caches of the node's cores.
    pub(super) async fn chunk_of_cores(
        self: &Rc<Self>,
        id: ChunkId,
        chunk: ColdChunk,
    ) -> Option<Bytes> {
        if let Some(bytes) = self.cached(&id, &chunk).await {
            return Some(bytes);
        }
        for core in (0..self.cores).filter(|core| *core != self.id) {
            let number = self.next_id();
            let (answer, filled) = slot();
            self.tier.asked.borrow_mut().insert(number, answer);
            let message = Message::WantChunk {
                id: number,
                chunk: id,
                is: chunk,
            };
            let bytes = match self.post(core, message) {
                Ok(()) => {
                    let late = async {
                        self.sleep(CORE_PATIENCE).await;
                        None
                    };
                    futures_lite::FutureExt::or(filled, late).await.flatten()
                }
                Err(_) => None,
            };
            // An answer that comes later finds nobody.
            self.tier.asked.borrow_mut().remove(&number);
            if bytes.is_some() {
                return bytes;
            }
        }
        None
    }

    /// Another core asks for a chunk.
    pub(super) fn give_chunk(self: &Rc<Self>, to: u16, id: u64, chunk: ChunkId, is: ColdChunk) {
        let core = self.clone();
        self.spawn_cold(async move {
            let bytes = core.cached(&chunk, &is).await;
            core.post_answer(to, Message::Chunk { id, bytes });
        });
    }

    async fn cached(&self, id: &ChunkId, chunk: &ColdChunk) -> Option<Bytes> {
        if let Some(bytes) = self.tier.rescue.get(id) {
            return Some(bytes);
        }
        let kept = self.tier.cache.borrow_mut().get(id);
        match (kept, &self.tier.disk) {
            (Some(bytes), _) => Some(bytes),
            (None, Some(disk)) => disk.get(&id.on_disk(), &location_of(chunk)).await,
            (None, None) => None,
        }
    }
}
