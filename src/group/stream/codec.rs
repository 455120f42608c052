//! A stream's state as the value of a state table. In a delta, the chunks are those added since the table
//! before; [`combine`] joins an older value with a newer one.

use prost::Message;
use raftproto::checkpoint::{self, StreamState};

use super::cold::ColdRanges;
use super::producer::ProducerPosition;
use super::retention::Span;
use super::{HOLD_UNCONFIRMED_MS, HeldFor, Holds, Kept, Stream, StreamBytes};
use crate::mutation;
use crate::protocol::{
    ChunkRef, ColdChunk, ContentType, Expiry, ForkOrigin, Incarnation, Offset, Retention, StreamKey,
};

/// Writes a stream with the chunks that no table has yet.
pub(crate) fn encode(stream: &mut Stream) -> Vec<u8> {
    let cold = stream.bytes.take_unsaved_cold();
    let chunks = stream
        .bytes
        .take_unsaved_chunks()
        .iter()
        .map(chunk_to)
        .collect();
    let mut state = state(stream, chunks, &cold);
    state.chunks_from = stream.bytes.chunks_from();
    state.encode_to_vec()
}

/// Writes what all replicas agree on: everything but where the bytes are on this one. For the state hash (I5).
pub(crate) fn encode_replicated(stream: &Stream) -> Vec<u8> {
    state(stream, Vec::new(), stream.bytes.cold_chunks()).encode_to_vec()
}

/// Everything but where the bytes are.
pub(crate) fn describe(stream: &Stream) -> StreamState {
    state(stream, Vec::new(), &[])
}

fn state(stream: &Stream, chunks: Vec<checkpoint::Chunk>, cold: &[ColdChunk]) -> StreamState {
    let (ttl_seconds, expires_at_ms) = match stream.expiry {
        Expiry::Never => (None, None),
        Expiry::Ttl(seconds) => (Some(seconds), None),
        Expiry::At(at_ms) => (None, Some(at_ms)),
    };
    let producers = stream.producers.iter().flat_map(|p| p.iter());
    StreamState {
        incarnation: stream.incarnation.0,
        content_type: stream.content_type.as_str().to_owned(),
        tail: stream.tail,
        closed: stream.closed,
        soft_deleted: stream.soft_deleted,
        ttl_seconds,
        expires_at_ms,
        touched_ms: stream.touched_ms,
        created_ms: stream.created_ms,
        stream_seq: stream.stream_seq.as_deref().map(str::to_owned),
        producers: producers
            .map(|(id, position)| checkpoint::ProducerState {
                id: id.to_owned(),
                epoch: position.epoch,
                last_seq: position.last_seq,
                tail: position.tail,
            })
            .collect(),
        fork: stream.fork.as_ref().map(|f| checkpoint::ForkState {
            source_key: f.source.as_str().to_owned(),
            source_incarnation: f.incarnation.0,
            offset: f.offset.0,
            hold_id: f.hold_id,
            requested_offset: f.requested_offset.map(|o| o.0),
            requested_sub_offset: f.requested_sub_offset,
            floor: f.floor.0,
        }),
        holds: stream
            .holds
            .iter()
            .map(|h| checkpoint::HoldState {
                fork_key: h.fork_key.as_str().to_owned(),
                hold_id: h.hold_id,
                offset: h.offset,
                since_ms: h.since_ms,
                confirmed: h.confirmed,
            })
            .collect(),
        start: stream.own_start(),
        chunks,
        cold: cold.iter().map(cold_to).collect(),
        chunks_from: 0,
        cold_from: stream.bytes.cold_from(),
        floor: stream.floor,
        kept_from: stream.bytes.kept_from(),
        retention: stream.retention.as_deref().map(kept_to),
    }
}

fn kept_to(kept: &Kept) -> checkpoint::RetentionState {
    checkpoint::RetentionState {
        retention: Some(kept.policy.to_message()),
        spans: kept
            .spans()
            .map(|span| checkpoint::RetainedSpan {
                start: span.start,
                first_ms: span.first_ms,
                last_ms: span.last_ms,
            })
            .collect(),
    }
}

fn kept_from(state: &checkpoint::RetentionState) -> Kept {
    let mut kept = Kept::new(
        state
            .retention
            .map(Retention::from_message)
            .unwrap_or_default(),
    );
    kept.restore(state.spans.iter().map(|span| Span {
        start: span.start,
        first_ms: span.first_ms,
        last_ms: span.last_ms,
    }));
    kept
}

/// Reads a stream back; its bytes must all be in chunks.
pub(crate) fn decode(value: &[u8]) -> Result<Stream, prost::DecodeError> {
    let state = StreamState::decode(value)?;
    let mut producers = super::Producers::default();
    for p in &state.producers {
        let position = ProducerPosition {
            epoch: p.epoch,
            last_seq: p.last_seq,
            tail: p.tail,
        };
        producers.restore(&p.id, position);
    }
    let expiry = match (state.ttl_seconds, state.expires_at_ms) {
        (Some(seconds), _) => Expiry::Ttl(seconds),
        (None, Some(at_ms)) => Expiry::At(at_ms),
        (None, None) => Expiry::Never,
    };
    let chunks = state.chunks.iter().map(chunk_from).collect();
    let cold = ColdRanges::loaded(state.cold.iter().map(cold_from).collect());
    let mut holds = Holds::default();
    for h in state.holds {
        holds.insert(HeldFor {
            fork_key: StreamKey::from_stored(&h.fork_key),
            hold_id: h.hold_id,
            offset: h.offset,
            since_ms: h.since_ms,
            confirmed: h.confirmed,
            check_ms: h.since_ms.saturating_add(HOLD_UNCONFIRMED_MS),
        });
    }
    Ok(Stream {
        incarnation: Incarnation(state.incarnation),
        content_type: ContentType::from_stored(&state.content_type),
        tail: state.tail,
        closed: state.closed,
        soft_deleted: state.soft_deleted,
        expiry,
        touched_ms: state.touched_ms,
        created_ms: state.created_ms,
        read_ms: 0,
        touch_proposed_ms: 0,
        due_ms: None,
        stream_seq: state.stream_seq.map(Into::into),
        producers: (!state.producers.is_empty()
            && !mutation::is_on("checkpoint-without-producers"))
        .then(|| Box::new(producers)),
        fork: state.fork.map(|f| {
            Box::new(ForkOrigin {
                source: StreamKey::from_stored(&f.source_key),
                incarnation: Incarnation(f.source_incarnation),
                offset: Offset(f.offset),
                hold_id: f.hold_id,
                requested_offset: f.requested_offset.map(Offset),
                requested_sub_offset: f.requested_sub_offset,
                floor: Offset(f.floor),
            })
        }),
        retention: state.retention.map(|kept| Box::new(kept_from(&kept))),
        holds: if mutation::is_on("checkpoint-without-holds") {
            Holds::default()
        } else {
            holds
        },
        bytes: StreamBytes::loaded(state.start.max(state.kept_from), chunks, cold),
        floor: state.floor,
        unflushed_since_ms: u64::MAX,
        is_dirty: false,
    })
}

/// Joins the value of an older table with that of a newer one: the newer state, with the chunks of both.
/// A value that does not decode is passed on as it is; [`decode`] reports it at the start.
pub(crate) fn combine(older: Option<&[u8]>, newer: &[u8]) -> Vec<u8> {
    let joined = older.and_then(|older| {
        let older = StreamState::decode(older).ok()?;
        let mut newer = StreamState::decode(newer).ok()?;
        if older.incarnation == newer.incarnation || mutation::is_on("chunks-of-another-stream") {
            let added = std::mem::replace(&mut newer.chunks, older.chunks);
            // After one was cut, the newer table has all of them.
            let until = added.first().map_or(u64::MAX, |c| c.start);
            let from = newer.chunks_from;
            newer.chunks.retain(|c| (from..until).contains(&c.start));
            newer.chunks.extend(added);
            let added = std::mem::replace(&mut newer.cold, older.cold);
            newer.cold = join_cold(&newer.cold, added, newer.cold_from);
        }
        Some(newer.encode_to_vec())
    });
    joined.unwrap_or_else(|| newer.to_vec())
}

/// Those of an older table from `from` on, with what a newer one adds or moves.
fn join_cold(
    older: &[checkpoint::ColdChunk],
    newer: Vec<checkpoint::ColdChunk>,
    from: u64,
) -> Vec<checkpoint::ColdChunk> {
    let kept = older.iter().filter(|c| c.start >= from).copied();
    let mut joined: std::collections::BTreeMap<u64, checkpoint::ColdChunk> =
        kept.map(|c| (c.start, c)).collect();
    joined.extend(newer.into_iter().map(|c| (c.start, c)));
    joined.into_values().collect()
}

/// A cold chunk as it is written.
pub(crate) fn cold_to(chunk: &ColdChunk) -> checkpoint::ColdChunk {
    checkpoint::ColdChunk {
        pack: chunk.pack,
        position: chunk.position,
        start: chunk.start,
        length: chunk.length,
        stored: chunk.stored,
        crc32c: chunk.crc32c,
    }
}

/// The same, read.
pub(crate) fn cold_from(chunk: &checkpoint::ColdChunk) -> ColdChunk {
    ColdChunk {
        pack: chunk.pack,
        position: chunk.position,
        start: chunk.start,
        length: chunk.length,
        stored: chunk.stored,
        crc32c: chunk.crc32c,
    }
}

fn chunk_to(chunk: &ChunkRef) -> checkpoint::Chunk {
    checkpoint::Chunk {
        pack: chunk.pack,
        position: chunk.position,
        start: chunk.start,
        length: chunk.length,
        crc32c: chunk.crc32c,
    }
}

fn chunk_from(chunk: &checkpoint::Chunk) -> ChunkRef {
    ChunkRef {
        pack: chunk.pack,
        position: chunk.position,
        start: chunk.start,
        length: chunk.length,
        crc32c: chunk.crc32c,
    }
}
