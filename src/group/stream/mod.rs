//! One stream's state, and what each command does to it.

mod append;
mod bytes;
mod codec;
mod cold;
mod create;
mod fork;
mod lifetime;
mod producer;
mod retention;

pub use self::bytes::{ALONE_BYTES_MIN, StreamBytes};
pub(super) use self::codec::{combine, decode, describe, encode, encode_replicated};
pub use self::cold::Places;
pub(super) use self::fork::{HOLD_UNCONFIRMED_MS, UNCONFIRMED_MAX};
pub use self::fork::{HeldFor, Holds};
pub use self::producer::{Producers, Verdict};
pub use self::retention::Kept;

use crate::protocol::{ContentType, Expiry, ForkOrigin, Incarnation, Meta, Offset};

/// The replicated state of one stream, and where its bytes are on this replica.
#[derive(Debug)]
pub struct Stream {
    /// Which stream at its key.
    pub incarnation: Incarnation,
    /// Its type; shared by the group's streams of the same type.
    pub content_type: ContentType,
    /// One past its last byte.
    pub tail: u64,
    /// No more appends.
    pub closed: bool,
    /// Deleted, but held by forks.
    pub soft_deleted: bool,
    /// How long it lives.
    pub expiry: Expiry,
    /// Last write or logged read, by the group's clock.
    pub touched_ms: u64,
    /// When it was created, by the group's clock.
    pub created_ms: u64,
    /// Last read that this leader served; not replicated, logged coarsely as a touch.
    pub read_ms: u64,
    /// Last touch that this leader proposed; not replicated.
    pub touch_proposed_ms: u64,
    /// Where it stands in its group's queue of deadlines; not replicated.
    pub due_ms: Option<u64>,
    /// Last `Stream-Seq`.
    pub stream_seq: Option<Box<str>>,
    /// Idempotent producers, if there are any.
    pub producers: Option<Box<Producers>>,
    /// Where its inherited bytes come from.
    pub fork: Option<Box<ForkOrigin>>,
    /// Forks that keep its bytes.
    pub holds: Holds,
    /// What it keeps, if that is not all.
    pub retention: Option<Box<Kept>>,
    /// Where its own bytes are.
    pub bytes: StreamBytes,
    /// First byte that readers may have.
    pub floor: u64,
    /// Since when it has bytes that the cold store lacks, by the group's clock, and its place in the group's queue of
    /// such streams; `u64::MAX`: it has none. Not replicated.
    pub unflushed_since_ms: u64,
    /// Changed since the last checkpoint.
    pub is_dirty: bool,
}

impl Stream {
    /// What `HEAD` shows.
    pub fn meta(&self) -> Meta {
        Meta {
            incarnation: self.incarnation,
            content_type: self.content_type.clone(),
            tail: Offset(self.tail),
            closed: self.closed,
            expiry: self.expiry,
            retention: self
                .retention
                .as_ref()
                .map(|k| k.policy)
                .unwrap_or_default(),
        }
    }

    /// First byte that the stream stores itself; what is before lies in the fork's source.
    pub fn own_start(&self) -> u64 {
        self.fork.as_ref().map_or(0, |f| f.offset.0)
    }
}
