//! Names of the protocol's headers (section 13.2).

use hyper::header::HeaderName;

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$doc])* pub const $name: HeaderName = HeaderName::from_static($text);)*
    };
}

names! {
    /// Sliding window in seconds.
    STREAM_TTL = "stream-ttl";
    /// Absolute expiry, RFC 3339.
    STREAM_EXPIRES_AT = "stream-expires-at";
    /// Seconds: older bytes are not kept.
    STREAM_MAX_AGE = "stream-max-age";
    /// More bytes than so many are not kept.
    STREAM_MAX_BYTES = "stream-max-bytes";
    /// A writer's sequence.
    STREAM_SEQ = "stream-seq";
    /// For caches.
    STREAM_CURSOR = "stream-cursor";
    /// Where to read on.
    STREAM_NEXT_OFFSET = "stream-next-offset";
    /// The answer reaches the tail.
    STREAM_UP_TO_DATE = "stream-up-to-date";
    /// The stream takes no more appends.
    STREAM_CLOSED = "stream-closed";
    /// A fork's source.
    STREAM_FORKED_FROM = "stream-forked-from";
    /// A fork's position.
    STREAM_FORK_OFFSET = "stream-fork-offset";
    /// A fork's position past that offset.
    STREAM_FORK_SUB_OFFSET = "stream-fork-sub-offset";
    /// `base64` for binary streams.
    STREAM_SSE_DATA_ENCODING = "stream-sse-data-encoding";
    /// First retained offset, on 410.
    STREAM_EARLIEST_OFFSET = "stream-earliest-offset";
    /// `unknown`: the request may or may not have been done.
    STREAM_OUTCOME = "stream-outcome";
    /// `host:port` of the node that leads the stream's group, where that is another one: the shorter way.
    STREAM_LEADER_HINT = "stream-leader-hint";
    /// RFC 7240; `redirect` is understood.
    PREFER = "prefer";
    /// An idempotent producer's id.
    PRODUCER_ID = "producer-id";
    /// Its epoch.
    PRODUCER_EPOCH = "producer-epoch";
    /// Its sequence.
    PRODUCER_SEQ = "producer-seq";
    /// On a gap: the next one.
    PRODUCER_EXPECTED_SEQ = "producer-expected-seq";
    /// On a gap: what came.
    PRODUCER_RECEIVED_SEQ = "producer-received-seq";
    /// See the Fetch standard.
    CROSS_ORIGIN_RESOURCE_POLICY = "cross-origin-resource-policy";
}

/// Request headers that a browser may send.
pub const ALLOWED: &str = "content-type, authorization, if-none-match, stream-seq, stream-ttl, \
    stream-expires-at, stream-max-age, stream-max-bytes, stream-closed, stream-forked-from, stream-fork-offset, stream-fork-sub-offset, \
    producer-id, producer-epoch, producer-seq, last-event-id, accept, cache-control, prefer";

/// Response headers that a browser's script may see.
pub const EXPOSED: &str = "etag, location, retry-after, stream-next-offset, stream-cursor, \
    stream-up-to-date, stream-closed, stream-ttl, stream-expires-at, stream-max-age, stream-max-bytes, stream-sse-data-encoding, \
    stream-earliest-offset, stream-outcome, stream-leader-hint, producer-epoch, producer-seq, producer-expected-seq, \
    producer-received-seq";
