//! `Outcome` of wire.proto.

use bytes::Bytes;
use prost::Message;
use raftproto::wire::{self, Nothing, outcome, piece};

use super::fields::{
    bucket, check, content_type, expiry, expiry_message, key, offset, present, retention,
    retention_message,
};
use super::refusal::{refusal, refusal_message};
use super::{WireError, members};
use crate::protocol::{
    BucketEnd, BucketInfo, ChunkRef, ColdChunk, Created, Held, Incarnation, Listed, Meta, Outcome,
    PackName, Piece, ProducerAck, ReadPlan, Watched,
};

/// An outcome as the bytes for another node.
///
/// A `Cold` piece of a plan is sent as it is, but it means nothing to the other node: it names a pack of the node that
/// planned. Who answers another node fetches those bytes first and puts them into the plan as `Hot`.
pub fn encode_outcome(outcome: &Outcome) -> Bytes {
    let kind = match outcome {
        Outcome::Created(created) => outcome::Kind::Created(wire::Created {
            fresh: created.fresh,
            meta: Some(meta_message(&created.meta)),
        }),
        Outcome::Appended {
            tail,
            closed,
            duplicate,
            producer,
        } => outcome::Kind::Appended(wire::Appended {
            tail: tail.0,
            closed: *closed,
            duplicate: *duplicate,
            producer: producer.map(|p| wire::ProducerAck {
                epoch: p.epoch,
                seq: p.seq,
            }),
        }),
        Outcome::Done => outcome::Kind::Done(Nothing {}),
        Outcome::Head(meta) => outcome::Kind::Head(meta_message(meta)),
        Outcome::Read(plan) => outcome::Kind::Read(plan_message(plan)),
        Outcome::Watched(watched) => outcome::Kind::Watched(meta_message(&watched.meta)),
        Outcome::Held(held) => outcome::Kind::Held(wire::Held {
            source: Some(meta_message(&held.source)),
            offset: held.offset.0,
            floor: held.floor.0,
        }),
        Outcome::Abandoned { exists } => {
            outcome::Kind::Abandoned(wire::Abandoned { exists: *exists })
        }
        Outcome::Fenced { streams } => outcome::Kind::Fenced(wire::Fenced { streams: *streams }),
        Outcome::Confirmed { index } => outcome::Kind::Confirmed(wire::Confirmed { index: *index }),
        Outcome::Members(all) => outcome::Kind::Members(wire::Members {
            members: all.iter().map(members::message).collect(),
        }),
        Outcome::Listed(listed) => outcome::Kind::Listed(listed_message(listed)),
        Outcome::Bucket(info) => outcome::Kind::Bucket(wire::BucketInfo {
            name: info.name.as_str().to_owned(),
            generation: info.generation,
            created_ms: info.created_ms,
            deleting: info.deleting,
            fresh: info.fresh,
            retention: retention_message(info.retention),
        }),
        Outcome::Finished(end) => outcome::Kind::Finished(i32::from(match end {
            BucketEnd::Removed => wire::BucketEnd::Removed,
            BucketEnd::Reopened => wire::BucketEnd::Reopened,
            BucketEnd::Superseded => wire::BucketEnd::Superseded,
        })),
        Outcome::Refused(refusal) => outcome::Kind::Refused(refusal_message(refusal)),
    };
    let message = wire::Outcome { kind: Some(kind) };
    Bytes::from(message.encode_to_vec())
}

/// An outcome that another node sent. Hot bytes are slices of `bytes`.
///
/// # Errors
/// [`WireError`]; also for a plan whose pieces are not as long as it says.
pub fn decode_outcome(bytes: Bytes) -> Result<Outcome, WireError> {
    let message = wire::Outcome::decode(bytes)?;
    Ok(match present(message.kind, "Outcome.kind")? {
        outcome::Kind::Created(created) => Outcome::Created(Created {
            fresh: created.fresh,
            meta: meta(created.meta, "Created.meta")?,
        }),
        outcome::Kind::Appended(appended) => Outcome::Appended {
            tail: offset(appended.tail, "Appended.tail")?,
            closed: appended.closed,
            duplicate: appended.duplicate,
            producer: appended.producer.map(|p| ProducerAck {
                epoch: p.epoch,
                seq: p.seq,
            }),
        },
        outcome::Kind::Done(Nothing {}) => Outcome::Done,
        outcome::Kind::Head(head) => Outcome::Head(meta(Some(head), "Outcome.head")?),
        outcome::Kind::Read(read) => Outcome::Read(plan(read)?),
        outcome::Kind::Watched(watched) => Outcome::Watched(Watched {
            meta: meta(Some(watched), "Outcome.watched")?,
        }),
        outcome::Kind::Held(held) => Outcome::Held(Held {
            source: meta(held.source, "Held.source")?,
            offset: offset(held.offset, "Held.offset")?,
            floor: offset(held.floor, "Held.floor")?,
        }),
        outcome::Kind::Abandoned(abandoned) => Outcome::Abandoned {
            exists: abandoned.exists,
        },
        outcome::Kind::Fenced(fenced) => Outcome::Fenced {
            streams: fenced.streams,
        },
        outcome::Kind::Confirmed(confirmed) => Outcome::Confirmed {
            index: confirmed.index,
        },
        outcome::Kind::Members(message) => Outcome::Members(members::all(message.members)?),
        outcome::Kind::Listed(listed) => Outcome::Listed(streams(listed)?),
        outcome::Kind::Bucket(info) => Outcome::Bucket(BucketInfo {
            name: bucket(&info.name, "BucketInfo.name")?,
            generation: info.generation,
            created_ms: info.created_ms,
            deleting: info.deleting,
            fresh: info.fresh,
            retention: retention(info.retention, "BucketInfo.retention")?,
        }),
        outcome::Kind::Finished(end) => Outcome::Finished(bucket_end(end)?),
        outcome::Kind::Refused(message) => Outcome::Refused(refusal(message)?),
    })
}

fn meta_message(meta: &Meta) -> wire::Meta {
    wire::Meta {
        incarnation: meta.incarnation.0,
        content_type: meta.content_type.as_str().to_owned(),
        tail: meta.tail.0,
        closed: meta.closed,
        expiry: expiry_message(meta.expiry),
        retention: retention_message(meta.retention),
    }
}

fn meta(message: Option<wire::Meta>, field: &'static str) -> Result<Meta, WireError> {
    let message = present(message, field)?;
    Ok(Meta {
        incarnation: Incarnation(message.incarnation),
        content_type: content_type(&message.content_type, "Meta.content_type")?,
        tail: offset(message.tail, "Meta.tail")?,
        closed: message.closed,
        expiry: expiry(message.expiry, "Meta.expiry")?,
        retention: retention(message.retention, "Meta.retention")?,
    })
}

fn plan_message(plan: &ReadPlan) -> wire::ReadPlan {
    wire::ReadPlan {
        meta: Some(meta_message(&plan.meta)),
        start: plan.start.0,
        end: plan.end.0,
        lead: u32::from(plan.lead),
        pieces: plan.pieces.iter().map(piece_message).collect(),
    }
}

fn plan(message: wire::ReadPlan) -> Result<ReadPlan, WireError> {
    let start = offset(message.start, "ReadPlan.start")?;
    let end = offset(message.end, "ReadPlan.end")?;
    check(start <= end, "ReadPlan.end")?;
    let lead = match message.lead {
        0 => 0,
        1 if start.0 > 0 => 1,
        _ => {
            return Err(WireError::Invalid {
                field: "ReadPlan.lead",
            });
        }
    };
    let pieces: Vec<Piece> = message
        .pieces
        .into_iter()
        .map(piece)
        .collect::<Result<_, _>>()?;
    // A plan that is shorter or longer than it says would shift all bytes behind it (I2).
    let planned: u128 = pieces.iter().map(|p| u128::from(piece_len(p))).sum();
    let asked = u128::from(end.0 - start.0) + u128::from(lead);
    check(planned == asked, "ReadPlan.pieces")?;
    Ok(ReadPlan {
        meta: meta(message.meta, "ReadPlan.meta")?,
        start,
        end,
        lead,
        pieces,
        ahead: Vec::new(),
    })
}

fn piece_len(piece: &Piece) -> u64 {
    match piece {
        Piece::Hot(bytes) => bytes.len() as u64,
        Piece::Cold { from, to, .. } | Piece::Stored { from, to, .. } => u64::from(to - from),
        Piece::Inherited { from, to, .. } => to.0 - from.0,
    }
}

fn piece_message(piece: &Piece) -> wire::Piece {
    let kind = match piece {
        Piece::Hot(bytes) => piece::Kind::Hot(bytes.clone()),
        Piece::Cold {
            chunk,
            group,
            from,
            to,
        } => piece::Kind::Cold(wire::ColdPiece {
            chunk: Some(wire::ChunkRef {
                pack: chunk.pack,
                position: chunk.position,
                start: chunk.start,
                length: chunk.length,
                crc32c: chunk.crc32c,
            }),
            group: *group,
            from: *from,
            to: *to,
        }),
        Piece::Stored {
            chunk,
            group,
            pack,
            from,
            to,
        } => piece::Kind::Stored(wire::StoredPiece {
            group: *group,
            pack: Some(pack.to_message()),
            chunk: Some(raftproto::checkpoint::ColdChunk {
                pack: chunk.pack,
                position: chunk.position,
                start: chunk.start,
                length: chunk.length,
                stored: chunk.stored,
                crc32c: chunk.crc32c,
            }),
            from: *from,
            to: *to,
        }),
        Piece::Inherited {
            source,
            incarnation,
            from,
            to,
        } => piece::Kind::Inherited(wire::InheritedPiece {
            source: source.as_str().to_owned(),
            incarnation: incarnation.0,
            from: from.0,
            to: to.0,
        }),
    };
    wire::Piece { kind: Some(kind) }
}

fn piece(message: wire::Piece) -> Result<Piece, WireError> {
    Ok(match present(message.kind, "Piece.kind")? {
        piece::Kind::Hot(bytes) => Piece::Hot(bytes),
        piece::Kind::Cold(cold) => {
            let chunk = present(cold.chunk, "ColdPiece.chunk")?;
            check(cold.from <= cold.to, "ColdPiece.from")?;
            check(cold.to <= chunk.length, "ColdPiece.to")?;
            Piece::Cold {
                chunk: ChunkRef {
                    pack: chunk.pack,
                    position: chunk.position,
                    start: chunk.start,
                    length: chunk.length,
                    crc32c: chunk.crc32c,
                },
                group: cold.group,
                from: cold.from,
                to: cold.to,
            }
        }
        piece::Kind::Stored(stored) => {
            let chunk = present(stored.chunk, "StoredPiece.chunk")?;
            let pack = present(stored.pack, "StoredPiece.pack")?;
            check(stored.from <= stored.to, "StoredPiece.from")?;
            check(stored.to <= chunk.length, "StoredPiece.to")?;
            check(chunk.stored <= chunk.length, "StoredPiece.stored")?;
            Piece::Stored {
                chunk: ColdChunk {
                    pack: chunk.pack,
                    stored: chunk.stored,
                    position: chunk.position,
                    start: chunk.start,
                    length: chunk.length,
                    crc32c: chunk.crc32c,
                },
                group: stored.group,
                pack: PackName::from_message(Some(&pack)),
                from: stored.from,
                to: stored.to,
            }
        }
        piece::Kind::Inherited(inherited) => {
            check(inherited.from <= inherited.to, "InheritedPiece.from")?;
            Piece::Inherited {
                source: key(&inherited.source, "InheritedPiece.source")?,
                incarnation: Incarnation(inherited.incarnation),
                from: offset(inherited.from, "InheritedPiece.from")?,
                to: offset(inherited.to, "InheritedPiece.to")?,
            }
        }
    })
}

fn listed_message(listed: &Listed) -> wire::Listed {
    let streams = listed.streams.iter().map(|(key, meta)| wire::ListedStream {
        key: key.as_str().to_owned(),
        meta: Some(meta_message(meta)),
    });
    wire::Listed {
        streams: streams.collect(),
    }
}

fn streams(message: wire::Listed) -> Result<Listed, WireError> {
    let streams = message.streams.into_iter().map(|stream| {
        let key = key(&stream.key, "ListedStream.key")?;
        Ok((key, meta(stream.meta, "ListedStream.meta")?))
    });
    Ok(Listed {
        streams: streams.collect::<Result<_, WireError>>()?,
    })
}

fn bucket_end(number: i32) -> Result<BucketEnd, WireError> {
    match wire::BucketEnd::try_from(number) {
        Ok(wire::BucketEnd::Removed) => Ok(BucketEnd::Removed),
        Ok(wire::BucketEnd::Reopened) => Ok(BucketEnd::Reopened),
        Ok(wire::BucketEnd::Superseded) => Ok(BucketEnd::Superseded),
        Ok(wire::BucketEnd::Unspecified) | Err(_) => Err(WireError::Missing {
            field: "Outcome.finished",
        }),
    }
}
