//! What clients ask.

use bytes::Bytes;
use ursula::protocol::{
    Append, ContentType, Create, Expiry, GroupTarget, Incarnation, Member, MemberChange, Offset,
    Op as Asked, Producer, Read, ReadFrom, Request, Retention, StreamKey,
};

/// An operation under way.
#[derive(Debug, Clone)]
pub struct Op {
    /// Its number.
    pub id: u64,
    /// Who asks.
    pub client: usize,
    /// Whom.
    pub node: u64,
    /// The key's group.
    pub group: u32,
    /// The stream.
    pub key: String,
    /// What.
    pub what: What,
    /// When.
    pub call_us: u64,
    /// What clients knew of the group's log then.
    pub known: u64,
}

/// See [`Op`].
#[derive(Debug, Clone)]
pub enum What {
    /// Of a stream with one body, which no other operation has.
    Create {
        /// How long it lives.
        expiry: Expiry,
        /// What of it is kept.
        retention: Retention,
        /// Its first bytes.
        body: Bytes,
        /// Closed from the beginning.
        closed: bool,
    },
    /// Of a body that no other operation has, but those of the same producer and sequence.
    Append {
        /// Who appends.
        producer: Option<Producer>,
        /// The bytes.
        body: Bytes,
        /// And close.
        close: bool,
        /// Its `Stream-Seq`: it is taken only if that is above the last one.
        seq: Option<String>,
    },
    /// Of a stream, from another one's bytes up to an offset; none: its tail.
    Fork {
        /// The other one.
        source: String,
        /// Bytes of it.
        offset: Option<u64>,
        /// What follows them.
        body: Bytes,
    },
    /// Of a stream.
    Delete,
    /// Of a stream: what is before the offset is not kept.
    Trim {
        /// First byte that readers may have.
        offset: u64,
    },
    /// Of a stream.
    Head,
    /// Of a stream: to be told from now on.
    Follow,
    /// Of a stream.
    Read {
        /// First byte.
        from: u64,
        /// At most so many.
        bytes_max: u64,
        /// A step of a live read.
        is_live: bool,
    },
    /// Of the cluster: an operator's order.
    Members {
        /// The members as it was founded.
        base: Vec<Member>,
        /// What.
        change: MemberChange,
    },
}

impl What {
    /// It goes through the log.
    pub fn is_write(&self) -> bool {
        !matches!(self, What::Head | What::Follow | What::Read { .. })
    }

    /// The body of a write that is never asked again.
    pub fn body_asked_once(&self) -> Option<Vec<u8>> {
        match self {
            What::Create { body, .. }
            | What::Fork { body, .. }
            | What::Append {
                body,
                producer: None,
                ..
            } => Some(body.to_vec()),
            _ => None,
        }
    }
}

impl Op {
    /// As the group is asked.
    /// `None` for what is more than one request.
    pub fn request(&self) -> Option<Request> {
        let text = || ContentType::from_stored("text/plain");
        let op = match &self.what {
            What::Create {
                expiry,
                retention,
                body,
                closed,
            } => Asked::Create(Create {
                content_type: text(),
                expiry: *expiry,
                closed: *closed,
                body: body.clone(),
                bucket_generation: 0,
                retention: *retention,
                is_bucket_retention: false,
                fork: None,
            }),
            What::Append {
                producer,
                body,
                close,
                seq,
            } => Asked::Append(Append {
                content_type: Some(text()),
                body: body.clone(),
                close: *close,
                stream_seq: seq.clone(),
                producer: producer.clone(),
                incarnation_below: None,
            }),
            What::Fork { .. } => return None,
            What::Members { base, change } => {
                return Some(Request {
                    target: GroupTarget::Meta,
                    op: Asked::ChangeMembers {
                        base: base.clone(),
                        change: change.clone(),
                    },
                });
            }
            What::Delete => Asked::Delete,
            What::Trim { offset } => Asked::Trim {
                offset: Offset(*offset),
                incarnation: Incarnation(0),
            },
            What::Head => Asked::Head,
            What::Follow => Asked::Watch {
                core: crate::follow::CORE,
            },
            What::Read {
                from,
                bytes_max,
                is_live,
            } => Asked::Read(Read {
                from: match from {
                    0 => ReadFrom::Start,
                    from => ReadFrom::At(Offset(*from)),
                },
                bytes_max: *bytes_max,
                is_live: *is_live,
            }),
        };
        Some(Request::on_key(StreamKey::from_stored(&self.key), op))
    }
}
