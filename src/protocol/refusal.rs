//! Why a request was not done. `http/status.rs` alone turns a refusal into a status.

use super::{Incarnation, KeyError, Offset};

/// Nothing was changed, and why; [`Refusal::OutcomeUnknown`] alone cannot promise that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// No stream at this key.
    NotFound,
    /// Deleted, but forks still hold its bytes (section 4.2).
    Gone,
    /// The source of a fork does not exist.
    SourceNotFound,
    /// The source of a fork is soft-deleted.
    SourceGone,
    /// A stream with another configuration stands at this key.
    ConfigMismatch {
        /// Which part differs, for the text.
        what: &'static str,
    },
    /// The key is blocked by a soft-deleted stream.
    KeyBlocked,
    /// The append's content type is not the stream's.
    ContentTypeMismatch {
        /// The stream's.
        expected: String,
    },
    /// The stream takes no more appends.
    Closed {
        /// Its final offset.
        tail: Offset,
    },
    /// `Stream-Seq` is not above the last one.
    SeqRegression {
        /// The last one.
        last: String,
    },
    /// The producer's epoch is over (a newer instance took its id).
    StaleEpoch {
        /// The epoch now.
        current: u64,
    },
    /// A new epoch must start at sequence 0.
    EpochMustStartAtZero,
    /// A producer's sequence has a gap.
    ProducerGap {
        /// The next one.
        expected: u64,
        /// What came.
        received: u64,
    },
    /// A read or fork offset beyond the tail.
    OffsetBeyondTail {
        /// The tail.
        tail: Offset,
    },
    /// An offset inside of a message, which the server never minted.
    OffsetMisaligned,
    /// An offset before the first retained byte.
    OffsetExpired {
        /// The first retained byte.
        earliest: Offset,
    },
    /// The fork sub-offset goes past the source's data.
    SubOffsetBeyondData,
    /// The bucket does not exist.
    BucketNotFound,
    /// The bucket's generation is not the one that the request was made for; ask the meta group again.
    BucketStale,
    /// The bucket is being deleted.
    BucketDeleting,
    /// The bucket still holds streams.
    BucketNotEmpty {
        /// How many.
        streams: u64,
    },
    /// The fork's hold was given up before it was created; try again.
    HoldExpired,
    /// The path or name is not one.
    BadKey(KeyError),
    /// A header, parameter or body is wrong; the text says which and what is allowed.
    Bad(String),
    /// The body is larger than the limit.
    BodyTooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The body did not arrive in time.
    BodyTimeout,
    /// A bound is reached.
    Overloaded {
        /// Which one: the name of its setting.
        bound: &'static str,
    },
    /// A limit that time does not lift is reached.
    LimitReached {
        /// Which one.
        bound: &'static str,
    },
    /// The change of the members is impossible; the text says why.
    BadMembers(String),
    /// The group has no leader yet, or the node is stopping; certainly not done.
    Unavailable,
    /// Another node leads the group; certainly not done. Between nodes only: a client is never told.
    NotLeader {
        /// The leader's node; 0: not known.
        node: u64,
    },
    /// The stream at the key is none of those that an append was for ([`super::Append::incarnation_below`]); this time certainly not
    /// done. Between nodes only: a client is never told.
    BegunSince {
        /// The stream's.
        incarnation: Incarnation,
    },
    /// It was proposed, and whether it is done is not known.
    OutcomeUnknown,
    /// Bytes on disk are damaged; the log names file and offset.
    DataDamaged,
    /// The object that had these bytes of the stream is damaged, and whether there is a copy is not known yet. Only where they
    /// are read, as the next one.
    BytesSought {
        /// First of them.
        from: Offset,
        /// One past the last.
        to: Offset,
    },
    /// The object that had these bytes of the stream is damaged, and no node has a copy.
    BytesLost {
        /// First of them.
        from: Offset,
        /// One past the last.
        to: Offset,
    },
}
