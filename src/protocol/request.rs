//! What is asked of a group: one message type for the own core, another core and another node.

use bytes::Bytes;

use super::{BucketName, ContentType, Expiry, Offset, ReadFrom, Retention, StreamKey};

/// Distinguishes the streams that stood at one key one after the other; unique within a group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

/// Largest producer epoch and sequence: 2^53 - 1, which JavaScript counts exactly (section 5.2.1).
pub const SEQ_MAX: u64 = (1 << 53) - 1;

/// An operation and the group that it is for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Which group answers.
    pub target: GroupTarget,
    /// What is asked.
    pub op: Op,
}

/// How a request finds its group.
#[derive(Debug, Clone)]
pub enum GroupTarget {
    /// The group of the key's slot.
    Key(StreamKey),
    /// Group 0, which keeps buckets and slots.
    Meta,
    /// This group, whatever it owns (fences, lists).
    Group(u32),
}

impl Request {
    /// A request to the group that owns `key`.
    pub fn on_key(key: StreamKey, op: Op) -> Request {
        Request {
            target: GroupTarget::Key(key),
            op,
        }
    }
}

/// The operations. Those on a stream take its key from [`GroupTarget::Key`].
#[derive(Debug, Clone)]
pub enum Op {
    /// PUT of a stream (section 5.1).
    Create(Create),
    /// POST: append, close, or both (sections 5.2, 5.3).
    Append(Append),
    /// DELETE (section 5.4).
    Delete,
    /// HEAD (section 5.5); does not slide a TTL.
    Head,
    /// GET (section 5.6); also each step of a live read.
    Read(Read),
    /// A core wants to be told of appends to this stream, closes and its end.
    Watch {
        /// Who asks.
        core: u16,
    },
    /// That core has no reader of this stream any more.
    Unwatch {
        /// Who asks.
        core: u16,
    },
    /// Reads bytes that a fork inherited; soft-deleted sources answer too.
    ReadInherited {
        /// The source stream that the fork was made from.
        incarnation: Incarnation,
        /// First byte.
        from: Offset,
        /// One past the last byte.
        to: Offset,
    },
    /// Step one of a fork: keep the source's bytes.
    Hold(Hold),
    /// Step three of a fork: it stands.
    ConfirmHold {
        /// The source stream that the hold is on.
        incarnation: Incarnation,
        /// Names the hold.
        hold_id: u64,
    },
    /// The fork is gone or was never made.
    ReleaseHold {
        /// The source stream that the hold is on.
        incarnation: Incarnation,
        /// Names the hold.
        hold_id: u64,
    },
    /// Sent to the fork's key: a create with this hold must never succeed later.
    AbandonFork {
        /// Names the hold.
        hold_id: u64,
    },
    /// An outbox message of the group was delivered.
    Settle {
        /// Names the message.
        outbox_id: u64,
    },
    /// Refuse later creates in the bucket's generation and count what is there.
    FenceBucket {
        /// The bucket.
        bucket: BucketName,
        /// The generation that ends.
        generation: u64,
    },
    /// Whether the fork that a PUT asks for stands already. Answered like `Create`, or
    /// [`super::Refusal::NotFound`] if the key is free.
    MatchFork {
        /// What the client gave.
        create: Create,
        /// The content type counts.
        has_content_type: bool,
        /// The expiry counts.
        has_expiry: bool,
    },
    /// Asked by a replica that does not lead, so that it can answer a linearizable read from its own state: the group
    /// leads, and a stream is there as its leader judges it. Without a key, only the former.
    Confirm {
        /// The stream must be visible: not deleted, and its time not over by the leader's knowledge.
        visible: bool,
        /// The read slides the stream's window.
        slides: bool,
    },
    /// Keys of one group in order.
    List {
        /// The bucket.
        bucket: BucketName,
        /// Only ids that start so.
        prefix: String,
        /// Only ids above this one.
        after: Option<String>,
        /// At most so many.
        limit: u32,
    },
    /// Bytes before this offset are not kept any more. Answered with `Done`, or as a read of the offset would be refused.
    Trim {
        /// First byte that readers may have.
        offset: Offset,
        /// The stream that the offset was found in.
        incarnation: Incarnation,
    },
    /// Fills an empty slot table, at the meta group.
    AssignSlots {
        /// Groups that get slots: 1 to this one.
        group_count: u32,
        /// Names the cluster's history from here on.
        history: u64,
    },
    /// Changes the members that all groups shall have, at the meta group.
    ChangeMembers {
        /// The members if none are recorded yet.
        base: Vec<Member>,
        /// What changes.
        change: MemberChange,
    },
    /// PUT of a bucket, at the meta group.
    CreateBucket {
        /// The bucket.
        bucket: BucketName,
        /// What streams keep that name nothing themselves; `None`: as it is, or all.
        retention: Option<Retention>,
    },
    /// GET of a bucket, at the meta group.
    GetBucket(BucketName),
    /// Marks a bucket; its generation takes no more creates once all groups have fenced it.
    BeginDeleteBucket(BucketName),
    /// Ends a deletion: removes the bucket, or unmarks it under a new generation.
    FinishDeleteBucket {
        /// The bucket.
        bucket: BucketName,
        /// The generation that was marked.
        generation: u64,
        /// No group holds a stream of it.
        empty: bool,
    },
}

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The raft id of its replicas; the lower 16 bits are the node's number.
    pub raft_id: u64,
    /// `host:port` where its peers connect.
    pub address: String,
    /// It leads no group.
    pub drained: bool,
}

impl Member {
    /// The node's number.
    pub fn node(&self) -> u64 {
        self.raft_id & 0xffff
    }
}

/// A change of the members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberChange {
    /// A node, or its new address.
    Add(Member),
    /// The node with this number goes.
    Remove(u64),
    /// The node with this number has lost its disk.
    Replace(u64),
    /// The node with this number leads no group, or may again.
    Drain(u64, bool),
}

/// What a PUT of a stream asks for.
#[derive(Debug, Clone)]
pub struct Create {
    /// Always resolved: the edge fills in the default, or the source's type for a fork.
    pub content_type: ContentType,
    /// Always resolved: for a fork without one, the source's.
    pub expiry: Expiry,
    /// Create it closed.
    pub closed: bool,
    /// First content; JSON is framed already.
    pub body: Bytes,
    /// Generation of the bucket, 0 in the root namespace.
    pub bucket_generation: u64,
    /// What it keeps.
    pub retention: Retention,
    /// That is the bucket's, not asked for by the client: it does not count for a stream that stands.
    pub is_bucket_retention: bool,
    /// The fork's origin, after its hold was granted.
    pub fork: Option<ForkOrigin>,
}

/// A fork as the client asked for it.
#[derive(Debug, Clone)]
pub struct ForkRequest {
    /// `Stream-Forked-From`.
    pub source: StreamKey,
    /// `Stream-Fork-Offset`; `None`: the tail.
    pub offset: Option<Offset>,
    /// `Stream-Fork-Sub-Offset`, messages for JSON, else bytes.
    pub sub_offset: u64,
}

/// A fork with its precise origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForkOrigin {
    /// The source stream.
    pub source: StreamKey,
    /// Which stream at that key.
    pub incarnation: Incarnation,
    /// One past the last inherited byte.
    pub offset: Offset,
    /// The hold that keeps those bytes.
    pub hold_id: u64,
    /// What the client named.
    pub requested_offset: Option<Offset>,
    /// What the client named.
    pub requested_sub_offset: u64,
    /// First byte that the source's readers could have.
    pub floor: Offset,
}

/// A POST.
#[derive(Debug, Clone)]
pub struct Append {
    /// `None` only when the body is empty.
    pub content_type: Option<ContentType>,
    /// JSON is framed already. Empty: close only.
    pub body: Bytes,
    /// `Stream-Closed: true`.
    pub close: bool,
    /// `Stream-Seq`; scope: the stream.
    pub stream_seq: Option<String>,
    /// The idempotent producer, if any.
    pub producer: Option<Producer>,
    /// It may be asked for more than once, and be done in a stream at this key that has ended since, whose producers nobody knows
    /// any more: only a stream with an incarnation below this one takes it. `None`: any.
    pub incarnation_below: Option<Incarnation>,
}

/// An idempotent producer's position (section 5.2.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Producer {
    /// Not empty.
    pub id: String,
    /// At most [`SEQ_MAX`].
    pub epoch: u64,
    /// At most [`SEQ_MAX`].
    pub seq: u64,
}

/// One step of a read.
#[derive(Debug, Clone)]
pub struct Read {
    /// Where to start.
    pub from: ReadFrom,
    /// At most so many bytes; at least one is planned if there is one.
    pub bytes_max: u64,
    /// A step of a live read: any replica may answer it from what it has applied, if it knows the offset.
    pub is_live: bool,
}

/// Asks a source stream to keep its bytes for a fork.
#[derive(Debug, Clone)]
pub struct Hold {
    /// The fork to come.
    pub fork_key: StreamKey,
    /// Chosen at random by the asking core.
    pub hold_id: u64,
    /// The precise byte position; `None`: the tail.
    pub offset: Option<Offset>,
    /// The stream that the offset was found in; `Incarnation(0)`: whichever stands at the key.
    pub incarnation: Incarnation,
}
