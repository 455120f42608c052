//! The protocol's words as types: requests, outcomes, offsets, refusals. Pure: no I/O, no clock.
//!
//! A [`Request`] goes to the own core, another core or another node unchanged and is answered with an
//! [`Outcome`]; there is no second message type and no second path.

mod content_type;
pub mod cursor;
mod expiry;
pub mod json;
mod key;
mod offset;
mod outcome;
mod refusal;
mod request;
mod retention;
mod tail;

pub use content_type::ContentType;
pub use expiry::{
    Expiry, TTL_SECONDS_MAX, TtlError, TtlSeconds, parse_rfc3339_ms, parse_ttl, rfc3339_from_ms,
};
pub use key::{BucketName, KeyError, SLOT_COUNT, Slot, StreamKey};
pub use offset::{Offset, OffsetError, ReadFrom};
pub use outcome::{
    BucketEnd, BucketInfo, BucketTerms, ChunkRef, ColdChunk, ColdRange, Created, Held, Listed,
    Meta, Outcome, PackName, Piece, ProducerAck, ReadPlan, Watched,
};
pub use refusal::Refusal;
pub use request::{
    Append, Create, ForkOrigin, ForkRequest, GroupTarget, Hold, Incarnation, Member, MemberChange,
    Op, Producer, Read, Request, SEQ_MAX,
};
pub use retention::{MAX_AGE_SECONDS_MAX, Retention};
pub use tail::TailNews;
