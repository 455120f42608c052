//! `Refusal` of wire.proto.

use raftproto::wire::{self, Nothing, refusal::Kind};

use super::WireError;
use super::fields::{offset, present};
use crate::protocol::{Incarnation, KeyError, Refusal};

/// What [`Refusal::ConfigMismatch`] may name.
const PARTS: [&str; 6] = [
    "fork origin",
    "content type",
    "expiry time",
    "TTL or expiry",
    "retention",
    "closure status",
];

/// What [`Refusal::Overloaded`] and [`Refusal::LimitReached`] may name; `tidy.rs` looks for those that are missing.
const BOUNDS: &[&str] = &[
    "abandoned_forks_max",
    "body_bytes_in_flight_max",
    "buckets_max",
    "cold_behind_bytes_max",
    "core_queue",
    "disk_space",
    "hot_bytes_max",
    "live_readers_max",
    "producers_per_stream_max",
    "requests_in_flight_max",
    "requests_without_leader",
    "streams_per_group_max",
    "unconfirmed_holds_max",
    "uncommitted_bytes_max",
];

/// What stands for a part that only a newer node knows.
const OTHER_PART: &str = "configuration";

/// What stands for a bound that only a newer node knows.
const OTHER_BOUND: &str = "another node's bound";

/// The static text that is equal; a network's text must not become one by leaking it.
fn known(texts: &[&'static str], text: &str, other: &'static str) -> &'static str {
    texts.iter().find(|t| **t == text).copied().unwrap_or(other)
}

/// The message of a refusal.
pub(super) fn refusal_message(refusal: &Refusal) -> wire::Refusal {
    let kind = match refusal {
        Refusal::NotFound => Kind::NotFound(Nothing {}),
        Refusal::Gone => Kind::Gone(Nothing {}),
        Refusal::SourceNotFound => Kind::SourceNotFound(Nothing {}),
        Refusal::SourceGone => Kind::SourceGone(Nothing {}),
        Refusal::ConfigMismatch { what } => Kind::ConfigMismatch((*what).to_owned()),
        Refusal::KeyBlocked => Kind::KeyBlocked(Nothing {}),
        Refusal::ContentTypeMismatch { expected } => Kind::ContentTypeMismatch(expected.clone()),
        Refusal::Closed { tail } => Kind::Closed(tail.0),
        Refusal::SeqRegression { last } => Kind::SeqRegression(last.clone()),
        Refusal::StaleEpoch { current } => Kind::StaleEpoch(*current),
        Refusal::EpochMustStartAtZero => Kind::EpochMustStartAtZero(Nothing {}),
        Refusal::ProducerGap { expected, received } => Kind::ProducerGap(wire::ProducerGap {
            expected: *expected,
            received: *received,
        }),
        Refusal::OffsetBeyondTail { tail } => Kind::OffsetBeyondTail(tail.0),
        Refusal::OffsetMisaligned => Kind::OffsetMisaligned(Nothing {}),
        Refusal::OffsetExpired { earliest } => Kind::OffsetExpired(earliest.0),
        Refusal::SubOffsetBeyondData => Kind::SubOffsetBeyondData(Nothing {}),
        Refusal::BucketNotFound => Kind::BucketNotFound(Nothing {}),
        Refusal::BucketStale => Kind::BucketStale(Nothing {}),
        Refusal::BucketDeleting => Kind::BucketDeleting(Nothing {}),
        Refusal::BucketNotEmpty { streams } => Kind::BucketNotEmpty(*streams),
        Refusal::HoldExpired => Kind::HoldExpired(Nothing {}),
        Refusal::BadKey(error) => Kind::BadKey(i32::from(key_error_message(*error))),
        Refusal::Bad(text) => Kind::Bad(text.clone()),
        Refusal::BodyTooLarge { limit } => Kind::BodyTooLarge(*limit),
        Refusal::BodyTimeout => Kind::BodyTimeout(Nothing {}),
        Refusal::Overloaded { bound } => Kind::Overloaded((*bound).to_owned()),
        Refusal::LimitReached { bound } => Kind::LimitReached((*bound).to_owned()),
        Refusal::Unavailable | Refusal::BytesSought { .. } => Kind::Unavailable(Nothing {}),
        Refusal::BadMembers(text) => Kind::BadMembers(text.clone()),
        Refusal::NotLeader { node } => Kind::NotLeader(*node),
        Refusal::BegunSince { incarnation } => Kind::BegunSince(incarnation.0),
        Refusal::OutcomeUnknown => Kind::OutcomeUnknown(Nothing {}),
        Refusal::DataDamaged | Refusal::BytesLost { .. } => Kind::DataDamaged(Nothing {}),
    };
    wire::Refusal { kind: Some(kind) }
}

/// The refusal in a message. A part or bound without a name here gets a general one: why a request was refused is
/// worth more than which number did it.
pub(super) fn refusal(message: wire::Refusal) -> Result<Refusal, WireError> {
    Ok(match present(message.kind, "Refusal.kind")? {
        Kind::NotFound(Nothing {}) => Refusal::NotFound,
        Kind::Gone(Nothing {}) => Refusal::Gone,
        Kind::SourceNotFound(Nothing {}) => Refusal::SourceNotFound,
        Kind::SourceGone(Nothing {}) => Refusal::SourceGone,
        Kind::ConfigMismatch(text) => Refusal::ConfigMismatch {
            what: known(&PARTS, &text, OTHER_PART),
        },
        Kind::KeyBlocked(Nothing {}) => Refusal::KeyBlocked,
        Kind::ContentTypeMismatch(expected) => Refusal::ContentTypeMismatch { expected },
        Kind::Closed(tail) => Refusal::Closed {
            tail: offset(tail, "Refusal.closed")?,
        },
        Kind::SeqRegression(last) => Refusal::SeqRegression { last },
        Kind::StaleEpoch(current) => Refusal::StaleEpoch { current },
        Kind::EpochMustStartAtZero(Nothing {}) => Refusal::EpochMustStartAtZero,
        Kind::ProducerGap(gap) => Refusal::ProducerGap {
            expected: gap.expected,
            received: gap.received,
        },
        Kind::OffsetBeyondTail(tail) => Refusal::OffsetBeyondTail {
            tail: offset(tail, "Refusal.offset_beyond_tail")?,
        },
        Kind::OffsetMisaligned(Nothing {}) => Refusal::OffsetMisaligned,
        Kind::OffsetExpired(earliest) => Refusal::OffsetExpired {
            earliest: offset(earliest, "Refusal.offset_expired")?,
        },
        Kind::SubOffsetBeyondData(Nothing {}) => Refusal::SubOffsetBeyondData,
        Kind::BucketNotFound(Nothing {}) => Refusal::BucketNotFound,
        Kind::BucketStale(Nothing {}) => Refusal::BucketStale,
        Kind::BucketDeleting(Nothing {}) => Refusal::BucketDeleting,
        Kind::BucketNotEmpty(streams) => Refusal::BucketNotEmpty { streams },
        Kind::HoldExpired(Nothing {}) => Refusal::HoldExpired,
        Kind::BadKey(number) => Refusal::BadKey(key_error(number)?),
        Kind::Bad(text) => Refusal::Bad(text),
        Kind::BodyTooLarge(limit) => Refusal::BodyTooLarge { limit },
        Kind::BodyTimeout(Nothing {}) => Refusal::BodyTimeout,
        Kind::Overloaded(text) => Refusal::Overloaded {
            bound: known(BOUNDS, &text, OTHER_BOUND),
        },
        Kind::LimitReached(text) => Refusal::LimitReached {
            bound: known(BOUNDS, &text, OTHER_BOUND),
        },
        Kind::Unavailable(Nothing {}) => Refusal::Unavailable,
        Kind::BadMembers(text) => Refusal::BadMembers(text),
        Kind::NotLeader(node) => Refusal::NotLeader { node },
        Kind::BegunSince(incarnation) => Refusal::BegunSince {
            incarnation: Incarnation(incarnation),
        },
        Kind::OutcomeUnknown(Nothing {}) => Refusal::OutcomeUnknown,
        Kind::DataDamaged(Nothing {}) => Refusal::DataDamaged,
    })
}

fn key_error_message(error: KeyError) -> wire::KeyError {
    match error {
        KeyError::Empty => wire::KeyError::Empty,
        KeyError::TooLong => wire::KeyError::TooLong,
        KeyError::Control => wire::KeyError::Control,
        KeyError::BadSegment => wire::KeyError::BadSegment,
        KeyError::Reserved => wire::KeyError::Reserved,
        KeyError::ListReserved => wire::KeyError::ListReserved,
        KeyError::BucketName => wire::KeyError::BucketName,
        KeyError::BucketReserved => wire::KeyError::BucketReserved,
    }
}

fn key_error(number: i32) -> Result<KeyError, WireError> {
    match wire::KeyError::try_from(number) {
        Ok(wire::KeyError::Empty) => Ok(KeyError::Empty),
        Ok(wire::KeyError::TooLong) => Ok(KeyError::TooLong),
        Ok(wire::KeyError::Control) => Ok(KeyError::Control),
        Ok(wire::KeyError::BadSegment) => Ok(KeyError::BadSegment),
        Ok(wire::KeyError::Reserved) => Ok(KeyError::Reserved),
        Ok(wire::KeyError::ListReserved) => Ok(KeyError::ListReserved),
        Ok(wire::KeyError::BucketName) => Ok(KeyError::BucketName),
        Ok(wire::KeyError::BucketReserved) => Ok(KeyError::BucketReserved),
        Ok(wire::KeyError::Unspecified) | Err(_) => Err(WireError::Missing {
            field: "Refusal.bad_key",
        }),
    }
}
