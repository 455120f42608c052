//! One value of every kind that is sent, and those that their fields may also be.

use bytes::Bytes;

use crate::protocol::{
    Append, BucketEnd, BucketInfo, BucketName, ChunkRef, ColdChunk, ContentType, Create, Created,
    Expiry, ForkOrigin, GroupTarget, Held, Hold, Incarnation, KeyError, Listed, Member,
    MemberChange, Meta, Offset, Op, Outcome, PackName, Piece, Producer, ProducerAck, Read,
    ReadFrom, ReadPlan, Refusal, Request, Retention, SEQ_MAX, StreamKey, Watched,
};

pub(super) fn key(text: &str) -> StreamKey {
    StreamKey::from_stored(text)
}

fn member() -> Member {
    Member {
        raft_id: (1 << 16) + 2,
        address: "node-2:4447".into(),
        drained: true,
    }
}

fn bucket() -> BucketName {
    BucketName::parse("demo").unwrap()
}

pub(super) fn create() -> Create {
    Create {
        content_type: ContentType::parse("Text/plain; charset=utf-8").unwrap(),
        expiry: Expiry::Ttl(3600),
        closed: true,
        body: Bytes::from_static(b"first"),
        bucket_generation: 7,
        retention: Retention {
            max_age_ms: Some(60_000),
            max_bytes: None,
        },
        is_bucket_retention: true,
        fork: Some(ForkOrigin {
            source: key("demo/a/b"),
            incarnation: Incarnation(3),
            offset: Offset(17),
            hold_id: u64::MAX,
            requested_offset: Some(Offset(0)),
            requested_sub_offset: 17,
            floor: Offset(2),
        }),
    }
}

pub(super) fn append(body: Bytes) -> Append {
    Append {
        content_type: Some(ContentType::default_type()),
        body,
        close: true,
        stream_seq: Some(String::new()),
        producer: Some(Producer {
            id: "p".into(),
            epoch: SEQ_MAX,
            seq: 0,
        }),
        incarnation_below: Some(Incarnation(u64::MAX)),
    }
}

pub(super) fn meta() -> Meta {
    Meta {
        incarnation: Incarnation(9),
        content_type: ContentType::parse("application/json").unwrap(),
        tail: Offset::MAX,
        closed: false,
        expiry: Expiry::At(1_800_000_000_000),
        retention: Retention {
            max_age_ms: None,
            max_bytes: Some(1 << 40),
        },
    }
}

pub(super) fn plan() -> ReadPlan {
    let chunk = ChunkRef {
        pack: 1,
        position: 4096,
        start: 10,
        length: 100,
        crc32c: u32::MAX,
    };
    ReadPlan {
        meta: meta(),
        start: Offset(11),
        end: Offset(40),
        lead: 1,
        pieces: vec![
            Piece::Inherited {
                source: key("/source"),
                incarnation: Incarnation(4),
                from: Offset(10),
                to: Offset(20),
            },
            Piece::Cold {
                chunk,
                group: 5,
                from: 10,
                to: 20,
            },
            Piece::Stored {
                chunk: ColdChunk {
                    pack: 9,
                    stored: 4,
                    position: 1 << 33,
                    start: 20,
                    length: 10,
                    crc32c: 7,
                },
                group: 5,
                pack: PackName {
                    term: 3,
                    number: 2,
                    nonce: u64::MAX,
                },
                from: 0,
                to: 5,
            },
            Piece::Hot(Bytes::from_static(b"bytes")),
        ],
        ahead: Vec::new(),
    }
}

/// The next variant in the order of [`Op`]: a new one does not compile until it has its place here.
fn op_after(op: Option<&Op>) -> Option<Op> {
    let incarnation = Incarnation(2);
    let hold_id = 1 << 63;
    let Some(op) = op else {
        return Some(Op::Create(create()));
    };
    Some(match op {
        Op::Create(_) => Op::Append(append(Bytes::from_static(b"body"))),
        Op::Append(_) => Op::Delete,
        Op::Delete => Op::Head,
        Op::Head => Op::Read(Read {
            from: ReadFrom::At(Offset::MAX),
            bytes_max: u64::MAX,
            is_live: true,
        }),
        Op::Read(_) => Op::Watch { core: 1 },
        Op::Watch { .. } => Op::Unwatch { core: 1 },
        Op::Unwatch { .. } => Op::ReadInherited {
            incarnation,
            from: Offset(1),
            to: Offset(2),
        },
        Op::ReadInherited { .. } => Op::Hold(Hold {
            fork_key: key("/fork"),
            hold_id,
            offset: Some(Offset(0)),
            incarnation,
        }),
        Op::Hold(_) => Op::ConfirmHold {
            incarnation,
            hold_id,
        },
        Op::ConfirmHold { .. } => Op::ReleaseHold {
            incarnation,
            hold_id,
        },
        Op::ReleaseHold { .. } => Op::AbandonFork { hold_id },
        Op::AbandonFork { .. } => Op::Settle { outbox_id: 3 },
        Op::Settle { .. } => Op::Trim {
            offset: Offset(9),
            incarnation,
        },
        Op::Trim { .. } => Op::FenceBucket {
            bucket: bucket(),
            generation: 4,
        },
        Op::FenceBucket { .. } => Op::MatchFork {
            create: create(),
            has_content_type: true,
            has_expiry: false,
        },
        Op::MatchFork { .. } => Op::Confirm {
            visible: true,
            slides: false,
        },
        Op::Confirm { .. } => Op::List {
            bucket: bucket(),
            prefix: "a/".into(),
            after: Some("a/b".into()),
            limit: 1000,
        },
        Op::List { .. } => Op::AssignSlots {
            group_count: 64,
            history: 7,
        },
        Op::AssignSlots { .. } => Op::ChangeMembers {
            base: vec![member()],
            change: MemberChange::Add(member()),
        },
        Op::ChangeMembers { .. } => Op::CreateBucket {
            bucket: bucket(),
            retention: Some(Retention::default()),
        },
        Op::CreateBucket { .. } => Op::GetBucket(bucket()),
        Op::GetBucket(_) => Op::BeginDeleteBucket(bucket()),
        Op::BeginDeleteBucket(_) => Op::FinishDeleteBucket {
            bucket: bucket(),
            generation: 5,
            empty: true,
        },
        Op::FinishDeleteBucket { .. } => return None,
    })
}

/// As [`op_after`], for outcomes.
fn outcome_after(outcome: Option<&Outcome>) -> Option<Outcome> {
    let Some(outcome) = outcome else {
        return Some(Outcome::Created(Created {
            fresh: true,
            meta: meta(),
        }));
    };
    Some(match outcome {
        Outcome::Created(_) => Outcome::Appended {
            tail: Offset(5),
            closed: true,
            duplicate: true,
            producer: Some(ProducerAck { epoch: 1, seq: 2 }),
        },
        Outcome::Appended { .. } => Outcome::Done,
        Outcome::Done => Outcome::Head(meta()),
        Outcome::Head(_) => Outcome::Read(plan()),
        Outcome::Read(_) => Outcome::Watched(Watched { meta: meta() }),
        Outcome::Watched(_) => Outcome::Held(Held {
            source: meta(),
            offset: Offset(6),
            floor: Offset(2),
        }),
        Outcome::Held(_) => Outcome::Abandoned { exists: true },
        Outcome::Abandoned { .. } => Outcome::Fenced { streams: 3 },
        Outcome::Fenced { .. } => Outcome::Confirmed { index: 4 },
        Outcome::Confirmed { .. } => Outcome::Listed(Listed {
            streams: vec![(key("demo/a"), meta()), (key("/b/c"), meta())],
        }),
        Outcome::Listed(_) => Outcome::Bucket(BucketInfo {
            name: bucket(),
            generation: 1,
            created_ms: 2,
            deleting: true,
            fresh: true,
            retention: Retention {
                max_age_ms: Some(1),
                max_bytes: Some(2),
            },
        }),
        Outcome::Bucket(_) => Outcome::Finished(BucketEnd::Superseded),
        Outcome::Finished(_) => Outcome::Members(vec![member()]),
        Outcome::Members(_) => Outcome::Refused(Refusal::NotFound),
        Outcome::Refused(_) => return None,
    })
}

/// As [`op_after`], for refusals.
fn refusal_after(refusal: Option<&Refusal>) -> Option<Refusal> {
    use Refusal as R;
    let Some(refusal) = refusal else {
        return Some(R::NotFound);
    };
    let (expected, last) = ("text/plain".to_owned(), "s".to_owned());
    let offset = Offset(8);
    Some(match refusal {
        R::NotFound => R::Gone,
        R::Gone => R::SourceNotFound,
        R::SourceNotFound => R::SourceGone,
        R::SourceGone => R::ConfigMismatch {
            what: "TTL or expiry",
        },
        R::ConfigMismatch { .. } => R::KeyBlocked,
        R::KeyBlocked => R::ContentTypeMismatch { expected },
        R::ContentTypeMismatch { .. } => R::Closed { tail: offset },
        R::Closed { .. } => R::SeqRegression { last },
        R::SeqRegression { .. } => R::StaleEpoch { current: 9 },
        R::StaleEpoch { .. } => R::EpochMustStartAtZero,
        R::EpochMustStartAtZero => R::ProducerGap {
            expected: 1,
            received: 3,
        },
        R::ProducerGap { .. } => R::OffsetBeyondTail { tail: offset },
        R::OffsetBeyondTail { .. } => R::OffsetMisaligned,
        R::OffsetMisaligned => R::OffsetExpired { earliest: offset },
        R::OffsetExpired { .. } => R::SubOffsetBeyondData,
        R::SubOffsetBeyondData => R::BucketNotFound,
        R::BucketNotFound => R::BucketStale,
        R::BucketStale => R::BucketDeleting,
        R::BucketDeleting => R::BucketNotEmpty { streams: 2 },
        R::BucketNotEmpty { .. } => R::HoldExpired,
        R::HoldExpired => R::BadKey(KeyError::Empty),
        R::BadKey(_) => R::Bad("Stream-TTL is not a number".into()),
        R::Bad(_) => R::BodyTooLarge { limit: 1 << 20 },
        R::BodyTooLarge { .. } => R::BodyTimeout,
        R::BodyTimeout => R::Overloaded {
            bound: "hot_bytes_max",
        },
        R::Overloaded { .. } => R::LimitReached {
            bound: "buckets_max",
        },
        R::LimitReached { .. } => R::BadMembers("node 4 is not a member".into()),
        R::BadMembers(_) => R::Unavailable,
        R::Unavailable => R::NotLeader { node: 3 },
        R::NotLeader { .. } => R::BegunSince {
            incarnation: Incarnation(7),
        },
        R::BegunSince { .. } => R::OutcomeUnknown,
        R::OutcomeUnknown => R::DataDamaged,
        // Never on the wire.
        R::DataDamaged | R::BytesSought { .. } | R::BytesLost { .. } => return None,
    })
}

/// As [`op_after`], for errors of keys.
fn key_error_after(error: Option<&KeyError>) -> Option<KeyError> {
    let Some(error) = error else {
        return Some(KeyError::Empty);
    };
    Some(match error {
        KeyError::Empty => KeyError::TooLong,
        KeyError::TooLong => KeyError::Control,
        KeyError::Control => KeyError::BadSegment,
        KeyError::BadSegment => KeyError::Reserved,
        KeyError::Reserved => KeyError::ListReserved,
        KeyError::ListReserved => KeyError::BucketName,
        KeyError::BucketName => KeyError::BucketReserved,
        KeyError::BucketReserved => return None,
    })
}

fn all<T: Clone>(after: impl Fn(Option<&T>) -> Option<T>) -> Vec<T> {
    std::iter::successors(after(None), |last| after(Some(last))).collect()
}

/// Every operation that is sent, to a key, and then the rest of what their fields may be.
pub(super) fn requests() -> Vec<Request> {
    let mut ops = all(op_after);
    ops.retain(|op| !matches!(op, Op::Watch { .. } | Op::Unwatch { .. }));
    for from in [ReadFrom::Start, ReadFrom::Now, ReadFrom::At(Offset(0))] {
        ops.push(Op::Read(Read {
            from,
            bytes_max: 0,
            is_live: false,
        }));
    }
    for expiry in [Expiry::Never, Expiry::Ttl(0), Expiry::At(0)] {
        ops.push(Op::Create(Create {
            expiry,
            fork: None,
            body: Bytes::new(),
            ..create()
        }));
    }
    ops.push(Op::Append(Append {
        content_type: None,
        body: Bytes::new(),
        close: true,
        stream_seq: None,
        producer: None,
        incarnation_below: None,
    }));
    let mut requests: Vec<Request> = ops
        .into_iter()
        .map(|op| Request::on_key(key("demo/a b/ü"), op))
        .collect();
    for target in [GroupTarget::Meta, GroupTarget::Group(0)] {
        let op = Op::Settle { outbox_id: 0 };
        requests.push(Request { target, op });
    }
    requests
}

pub(super) fn outcomes() -> Vec<Outcome> {
    let mut outcomes = all(outcome_after);
    outcomes.extend(all(refusal_after).into_iter().map(Outcome::Refused));
    let errors = all(key_error_after).into_iter().map(Refusal::BadKey);
    outcomes.extend(errors.map(Outcome::Refused));
    outcomes.extend([BucketEnd::Removed, BucketEnd::Reopened].map(Outcome::Finished));
    outcomes.push(Outcome::Appended {
        tail: Offset(0),
        closed: false,
        duplicate: false,
        producer: None,
    });
    outcomes
}
