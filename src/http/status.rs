//! The one place that turns a refusal into a status, its headers and its text.

use hyper::StatusCode;

use super::header;
use super::respond::{Reply, put_closed};
use crate::protocol::{KeyError, Refusal};

/// An error answer: a status, a code for programs, a text for people.
pub fn refused(refusal: &Refusal, retry_after_s: u64) -> Reply {
    let (status, code, message) = describe(refusal);
    let mut error = serde_json::json!({ "code": code, "message": message });
    if let Refusal::BytesSought { from, to } | Refusal::BytesLost { from, to } = refusal {
        error["from"] = from.to_string().into();
        error["to"] = to.to_string().into();
    }
    let text = serde_json::json!({ "error": error }).to_string();
    let mut reply = Reply::new(status).body_json(text);
    reply.no_store();
    match refusal {
        Refusal::Closed { tail } => put_closed(&mut reply, *tail),
        Refusal::StaleEpoch { current } => reply.set_number(header::PRODUCER_EPOCH, *current),
        Refusal::ProducerGap { expected, received } => {
            reply.set_number(header::PRODUCER_EXPECTED_SEQ, *expected);
            reply.set_number(header::PRODUCER_RECEIVED_SEQ, *received);
        }
        Refusal::OffsetExpired { earliest } => {
            reply.set(header::STREAM_EARLIEST_OFFSET, &earliest.to_string());
        }
        Refusal::Overloaded { .. }
        | Refusal::Unavailable
        | Refusal::NotLeader { .. }
        | Refusal::BegunSince { .. }
        | Refusal::BytesSought { .. }
        | Refusal::BucketStale
        | Refusal::HoldExpired => {
            reply.set_number(hyper::header::RETRY_AFTER, retry_after_s);
        }
        Refusal::OutcomeUnknown => {
            reply.set_number(hyper::header::RETRY_AFTER, retry_after_s);
            reply.set_static(header::STREAM_OUTCOME, "unknown");
        }
        _ => {}
    }
    reply
}

fn describe(refusal: &Refusal) -> (StatusCode, &'static str, String) {
    use StatusCode as S;
    match refusal {
        Refusal::NotFound => (
            S::NOT_FOUND,
            "not_found",
            "no stream at this URL; create it with PUT".into(),
        ),
        Refusal::Gone => (
            S::GONE,
            "gone",
            "the stream was deleted; forks still read its data".into(),
        ),
        Refusal::SourceNotFound => (
            S::NOT_FOUND,
            "source_not_found",
            "the stream named by Stream-Forked-From does not exist".into(),
        ),
        Refusal::SourceGone => (
            S::CONFLICT,
            "source_gone",
            "the stream named by Stream-Forked-From was deleted; fork one of its forks".into(),
        ),
        Refusal::ConfigMismatch { what } => (
            S::CONFLICT,
            "config_mismatch",
            format!(
                "a stream with another {what} stands at this URL; use another URL or delete it first"
            ),
        ),
        Refusal::KeyBlocked => (
            S::CONFLICT,
            "key_blocked",
            "a deleted stream at this URL still has forks; delete them or use another URL".into(),
        ),
        Refusal::ContentTypeMismatch { expected } => (
            S::CONFLICT,
            "content_type_mismatch",
            format!("the stream's content type is {expected}; send that one"),
        ),
        Refusal::Closed { .. } => (
            S::CONFLICT,
            "stream_closed",
            "the stream is closed and takes no more appends".into(),
        ),
        Refusal::SeqRegression { last } => (
            S::CONFLICT,
            "seq_regression",
            format!("Stream-Seq must sort after {last:?}, the last one accepted"),
        ),
        Refusal::StaleEpoch { current } => (
            S::FORBIDDEN,
            "stale_epoch",
            format!(
                "a newer instance of this producer runs with epoch {current}; claim it with a higher one"
            ),
        ),
        Refusal::EpochMustStartAtZero => (
            S::BAD_REQUEST,
            "epoch_must_start_at_zero",
            "a new Producer-Epoch starts at Producer-Seq 0".into(),
        ),
        Refusal::ProducerGap { expected, received } => (
            S::CONFLICT,
            "producer_gap",
            format!(
                "expected Producer-Seq {expected}, received {received}; send the missing ones first"
            ),
        ),
        Refusal::OffsetBeyondTail { tail } => (
            S::BAD_REQUEST,
            "offset_beyond_tail",
            format!(
                "the offset is beyond the stream's end, {tail}; it may stem from a deleted stream of this name"
            ),
        ),
        Refusal::OffsetMisaligned => (
            S::BAD_REQUEST,
            "offset_misaligned",
            "the offset lies inside of a message; use one from Stream-Next-Offset".into(),
        ),
        Refusal::OffsetExpired { earliest } => (
            S::GONE,
            "offset_expired",
            format!("data before {earliest} is no longer kept; read from there"),
        ),
        Refusal::SubOffsetBeyondData => (
            S::BAD_REQUEST,
            "sub_offset_beyond_data",
            "Stream-Fork-Sub-Offset goes beyond the source's data".into(),
        ),
        Refusal::BucketNotFound => (
            S::NOT_FOUND,
            "bucket_not_found",
            "the bucket does not exist; create it with PUT".into(),
        ),
        Refusal::BucketStale => (
            S::SERVICE_UNAVAILABLE,
            "bucket_changing",
            "the bucket was deleted or created anew at this moment; try again".into(),
        ),
        Refusal::BucketDeleting => (
            S::CONFLICT,
            "bucket_deleting",
            "the bucket is being deleted; try again later".into(),
        ),
        Refusal::BucketNotEmpty { streams } => (
            S::CONFLICT,
            "bucket_not_empty",
            format!("the bucket holds {streams} streams; delete them first"),
        ),
        Refusal::HoldExpired => (
            S::SERVICE_UNAVAILABLE,
            "fork_timed_out",
            "creating the fork took too long and was given up; try again".into(),
        ),
        Refusal::BadKey(key) => (S::BAD_REQUEST, "bad_path", key_text(*key).into()),
        Refusal::Bad(text) => (S::BAD_REQUEST, "bad_request", text.clone()),
        Refusal::BodyTooLarge { limit } => (
            S::PAYLOAD_TOO_LARGE,
            "body_too_large",
            format!("a body may have {limit} bytes; split it into several appends"),
        ),
        Refusal::BodyTimeout => (
            S::REQUEST_TIMEOUT,
            "body_timeout",
            "the body did not arrive in time".into(),
        ),
        Refusal::Overloaded { bound } => (
            S::SERVICE_UNAVAILABLE,
            "overloaded",
            format!("a bound of this server is reached ({bound}); try again later"),
        ),
        Refusal::LimitReached { bound } => (
            S::CONFLICT,
            "limit_reached",
            format!(
                "a limit is reached ({bound}); delete something or use another stream or bucket"
            ),
        ),
        Refusal::BadMembers(text) => (S::CONFLICT, "bad_members", text.clone()),
        Refusal::Unavailable | Refusal::NotLeader { .. } | Refusal::BegunSince { .. } => (
            S::SERVICE_UNAVAILABLE,
            "unavailable",
            "not served at this moment; nothing was done, try again".into(),
        ),
        Refusal::OutcomeUnknown => (
            S::SERVICE_UNAVAILABLE,
            "outcome_unknown",
            "it is not known whether this was done; a producer's append can be sent again safely"
                .into(),
        ),
        Refusal::DataDamaged => (
            S::INTERNAL_SERVER_ERROR,
            "data_damaged",
            "stored data of this stream is damaged; the server's log names the file".into(),
        ),
        Refusal::BytesSought { from, to } => (
            S::SERVICE_UNAVAILABLE,
            "data_sought",
            format!(
                "the bytes of this stream from offset {from} up to {to} are damaged in the cold store, and copies of them are looked \
                 for; try again"
            ),
        ),
        Refusal::BytesLost { from, to } => (
            S::INTERNAL_SERVER_ERROR,
            "data_damaged",
            format!(
                "the bytes of this stream from offset {from} up to {to} are damaged in the cold store, and no copy of them was \
                 found; what is before and after them can be read"
            ),
        ),
    }
}

/// What is wrong with a path or name.
fn key_text(error: KeyError) -> &'static str {
    match error {
        KeyError::Empty => "the path names no stream",
        KeyError::TooLong => "a stream id may have 1024 bytes",
        KeyError::Control => "a stream id must not have control characters",
        KeyError::BadSegment => "a stream path must not have empty, `.` or `..` segments",
        KeyError::Reserved => "paths below __ds are reserved by the protocol",
        KeyError::ListReserved => {
            "the stream id `streams` is reserved: /{bucket}/streams lists the bucket"
        }
        KeyError::BucketName => "a bucket name matches ^[a-z0-9_-]{4,64}$",
        KeyError::BucketReserved => "this bucket name is reserved by the server",
    }
}
