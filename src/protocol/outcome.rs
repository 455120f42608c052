//! What a group answers.

use bytes::Bytes;

use super::{BucketName, ContentType, Expiry, Incarnation, Offset, Refusal, Retention, StreamKey};

/// The answer to a [`super::Request`].
#[derive(Debug, Clone)]
pub enum Outcome {
    /// To `Create`.
    Created(Created),
    /// To `Append`.
    Appended {
        /// The tail after the append; for a duplicate, the tail now.
        tail: Offset,
        /// The stream is closed.
        closed: bool,
        /// Was applied earlier already (section 5.2.1), or closed an already closed stream.
        duplicate: bool,
        /// For a producer's append.
        producer: Option<ProducerAck>,
    },
    /// To `Delete`, `ConfirmHold`, `ReleaseHold`, `Settle`, `Unwatch`.
    Done,
    /// To `Head`.
    Head(Meta),
    /// To `Read` and `ReadInherited`.
    Read(ReadPlan),
    /// To `Watch`.
    Watched(Watched),
    /// To `Hold`.
    Held(Held),
    /// To `AbandonFork`: whether the fork stands.
    Abandoned {
        /// A fork with this hold exists.
        exists: bool,
    },
    /// To `FenceBucket`: streams of the bucket in this group.
    Fenced {
        /// How many.
        streams: u64,
    },
    /// To `Confirm`: what is applied up to this index of the group's log holds all that was acknowledged.
    Confirmed {
        /// Log index.
        index: u64,
    },
    /// To `List`.
    Listed(Listed),
    /// To `CreateBucket`, `GetBucket`, `BeginDeleteBucket`.
    Bucket(BucketInfo),
    /// To `FinishDeleteBucket`.
    Finished(BucketEnd),
    /// To `ChangeMembers`: the members that all groups shall have.
    Members(Vec<super::Member>),
    /// Not done; nothing changed.
    Refused(Refusal),
}

/// A stream stands as asked.
#[derive(Debug, Clone)]
pub struct Created {
    /// False: it stood already and matches.
    pub fresh: bool,
    /// The stream.
    pub meta: Meta,
}

/// What `HEAD` shows.
#[derive(Debug, Clone)]
pub struct Meta {
    /// Which stream at this key.
    pub incarnation: Incarnation,
    /// Its type.
    pub content_type: ContentType,
    /// One past its last byte.
    pub tail: Offset,
    /// No more appends.
    pub closed: bool,
    /// How long it lives.
    pub expiry: Expiry,
    /// What it keeps.
    pub retention: Retention,
}

/// What a producer is told on success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerAck {
    /// The epoch.
    pub epoch: u64,
    /// The highest accepted sequence.
    pub seq: u64,
}

/// Which bytes answer a read; to be materialized outside of the group.
#[derive(Debug, Clone)]
pub struct ReadPlan {
    /// The stream.
    pub meta: Meta,
    /// First byte that was asked for.
    pub start: Offset,
    /// One past the last planned byte.
    pub end: Offset,
    /// Lead bytes before `start` in the pieces (0 or 1): for JSON, the byte that must be a message's end.
    pub lead: u8,
    /// The bytes from `start - lead` to `end`, in order.
    pub pieces: Vec<Piece>,
    /// What of the bytes behind `end` lies in the cold store, if the plan's end does: whoever reads on will want it.
    /// Not sent to other nodes.
    pub ahead: Vec<Piece>,
}

/// A contiguous range of a plan.
#[derive(Debug, Clone)]
pub enum Piece {
    /// In memory.
    Hot(Bytes),
    /// A part of a chunk in a local pack.
    Cold {
        /// The whole chunk, which the checksum is of.
        chunk: ChunkRef,
        /// The group whose packs hold it.
        group: u32,
        /// First byte inside the chunk.
        from: u32,
        /// One past the last byte inside the chunk.
        to: u32,
    },
    /// A part of a chunk in the cold store.
    Stored {
        /// The whole chunk, which the checksum is of.
        chunk: ColdChunk,
        /// The group whose packs hold it.
        group: u32,
        /// The pack.
        pack: PackName,
        /// First byte inside the chunk.
        from: u32,
        /// One past the last byte inside the chunk.
        to: u32,
    },
    /// Bytes of a fork's source; to be asked of the source's group with `ReadInherited`.
    Inherited {
        /// The source.
        source: StreamKey,
        /// Which stream at that key.
        incarnation: Incarnation,
        /// First byte.
        from: Offset,
        /// One past the last byte.
        to: Offset,
    },
}

/// Where a contiguous byte range of one stream lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRef {
    /// Number of the pack within its group.
    pub pack: u32,
    /// Byte position in the pack.
    pub position: u64,
    /// First stream byte.
    pub start: u64,
    /// Bytes.
    pub length: u32,
    /// CRC32C of the chunk.
    pub crc32c: u32,
}

impl ChunkRef {
    /// One past the last stream byte.
    pub fn end(&self) -> u64 {
        self.start + u64::from(self.length)
    }
}

/// Where a contiguous byte range of one stream lies in the cold store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColdChunk {
    /// The number that the group's log gave the pack.
    pub pack: u32,
    /// Bytes in the object; fewer than `length`: compressed.
    pub stored: u32,
    /// First byte in the object.
    pub position: u64,
    /// First stream byte.
    pub start: u64,
    /// Bytes.
    pub length: u32,
    /// CRC32C of the chunk's own bytes.
    pub crc32c: u32,
}

impl ColdChunk {
    /// One past the last stream byte.
    pub fn end(&self) -> u64 {
        self.start + u64::from(self.length)
    }
}

/// A contiguous byte range of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColdRange {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

/// The name of a pack in the cold store. No two leaderships share one, nor do two clusters in one bucket, so none writes
/// over another's or takes it for its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackName {
    /// The term of the leader that made it.
    pub term: u64,
    /// Which of that leadership.
    pub number: u32,
    /// Drawn by that leader.
    pub nonce: u64,
}

impl std::fmt::Display for PackName {
    /// As the last part of its key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (term, number, nonce) = (self.term, self.number, self.nonce);
        write!(f, "{term:010}-{number:06}-{nonce:016x}")
    }
}

impl PackName {
    /// As a message.
    pub fn to_message(self) -> raftproto::command::PackName {
        raftproto::command::PackName {
            term: self.term,
            number: self.number,
            nonce: self.nonce,
        }
    }

    /// From a message; one without a name is that of no pack.
    pub fn from_message(name: Option<&raftproto::command::PackName>) -> PackName {
        let name = name.copied().unwrap_or_default();
        PackName {
            term: name.term,
            number: name.number,
            nonce: name.nonce,
        }
    }
}

/// State of a stream at the moment it was first watched.
#[derive(Debug, Clone)]
pub struct Watched {
    /// The stream.
    pub meta: Meta,
}

/// A hold was granted.
#[derive(Debug, Clone)]
pub struct Held {
    /// The source.
    pub source: Meta,
    /// One past the last inherited byte.
    pub offset: Offset,
    /// First byte that the source's readers may have.
    pub floor: Offset,
}

/// Keys of one group in order.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Stream keys with their state.
    pub streams: Vec<(StreamKey, Meta)>,
}

/// A bucket as the meta group knows it.
#[derive(Debug, Clone)]
pub struct BucketInfo {
    /// The name.
    pub name: BucketName,
    /// Which bucket of that name.
    pub generation: u64,
    /// When it was created, in milliseconds since 1970.
    pub created_ms: u64,
    /// A deletion is under way.
    pub deleting: bool,
    /// Created by this request.
    pub fresh: bool,
    /// What its streams keep that name nothing themselves.
    pub retention: Retention,
}

/// What a create in a bucket names and takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketTerms {
    /// Which bucket of that name.
    pub generation: u64,
    /// What a stream keeps that names nothing itself.
    pub retention: Retention,
}

/// What the end of a bucket's deletion came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BucketEnd {
    /// The bucket is gone.
    Removed,
    /// It takes creates again, under a new generation.
    Reopened,
    /// Another deletion ended first and the bucket stands: what was counted says nothing about it.
    Superseded,
}
