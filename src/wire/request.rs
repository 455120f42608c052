//! `Request` of wire.proto. What it shares with a command has the command's message; the key is the target's alone.

use bytes::Bytes;
use prost::Message;
use raftproto::command;
use raftproto::pieces::Pieces;
use raftproto::wire::{self, Nothing, read, request};

use super::fields::{
    bucket, check, content_type, expiry, expiry_message, key, offset, present, retention,
    retention_message,
};
use super::{WireError, members};
use crate::protocol::{
    Append, Create, ForkOrigin, GroupTarget, Hold, Incarnation, Offset, Op, Producer, Read,
    ReadFrom, Request, SEQ_MAX,
};

/// A request as the bytes for another node, in pieces: a long body is one of them, and is not copied.
///
/// # Errors
/// [`WireError::Local`] for `Watch` and `Unwatch`: they name a core of this node, which another one would take for one
/// of its own. The format has no message for them, so the mistake shows where it is made.
pub fn encode_request(request: &Request) -> Result<Vec<Bytes>, WireError> {
    let target = match &request.target {
        GroupTarget::Key(key) => request::Target::Key(key.as_str().to_owned()),
        GroupTarget::Meta => request::Target::Meta(Nothing {}),
        GroupTarget::Group(group) => request::Target::Group(*group),
    };
    let message = wire::Request {
        target: Some(target),
        op: Some(op_message(&request.op)?),
    };
    Ok(Pieces::of(&message).finish())
}

/// A request that another node sent. Bodies are slices of `bytes`.
///
/// # Errors
/// [`WireError`]; also for an operation on a stream whose target is no key.
pub fn decode_request(bytes: Bytes) -> Result<Request, WireError> {
    let message = wire::Request::decode(bytes)?;
    let target = match present(message.target, "Request.target")? {
        request::Target::Key(text) => GroupTarget::Key(key(&text, "Request.key")?),
        request::Target::Meta(Nothing {}) => GroupTarget::Meta,
        request::Target::Group(group) => GroupTarget::Group(group),
    };
    let op = op(present(message.op, "Request.op")?)?;
    let has_key = matches!(target, GroupTarget::Key(_));
    check(has_key || !is_on_stream(&op), "Request.target")?;
    Ok(Request { target, op })
}

/// Whether the operation takes a stream's key from its target and means nothing without one.
fn is_on_stream(op: &Op) -> bool {
    match op {
        Op::Create(_)
        | Op::Append(_)
        | Op::Delete
        | Op::Head
        | Op::Read(_)
        | Op::Watch { .. }
        | Op::Unwatch { .. }
        | Op::ReadInherited { .. }
        | Op::Hold(_)
        | Op::ConfirmHold { .. }
        | Op::ReleaseHold { .. }
        | Op::AbandonFork { .. }
        | Op::Trim { .. }
        | Op::MatchFork { .. } => true,
        Op::Settle { .. }
        | Op::FenceBucket { .. }
        | Op::Confirm { .. }
        | Op::List { .. }
        | Op::AssignSlots { .. }
        | Op::ChangeMembers { .. }
        | Op::CreateBucket { .. }
        | Op::GetBucket(_)
        | Op::BeginDeleteBucket(_)
        | Op::FinishDeleteBucket { .. } => false,
    }
}

fn op_message(op: &Op) -> Result<request::Op, WireError> {
    let key = String::new;
    Ok(match op {
        Op::Create(create) => request::Op::Create(create_message(create)),
        Op::Append(append) => request::Op::Append(append_message(append)),
        Op::Delete => request::Op::Delete(Nothing {}),
        Op::Head => request::Op::Head(Nothing {}),
        Op::Read(read) => request::Op::Read(read_message(read)),
        Op::Watch { .. } => return Err(WireError::Local { op: "Watch" }),
        Op::Unwatch { .. } => return Err(WireError::Local { op: "Unwatch" }),
        Op::ReadInherited {
            incarnation,
            from,
            to,
        } => request::Op::ReadInherited(wire::ReadInherited {
            incarnation: incarnation.0,
            from: from.0,
            to: to.0,
        }),
        Op::Hold(hold) => request::Op::Hold(command::Hold {
            key: key(),
            fork_key: hold.fork_key.as_str().to_owned(),
            hold_id: hold.hold_id,
            offset: hold.offset.map(|o| o.0),
            incarnation: hold.incarnation.0,
        }),
        Op::ConfirmHold {
            incarnation,
            hold_id,
        } => request::Op::ConfirmHold(command::ConfirmHold {
            key: key(),
            incarnation: incarnation.0,
            hold_id: *hold_id,
        }),
        Op::ReleaseHold {
            incarnation,
            hold_id,
        } => request::Op::ReleaseHold(command::ReleaseHold {
            key: key(),
            incarnation: incarnation.0,
            hold_id: *hold_id,
        }),
        Op::AbandonFork { hold_id } => request::Op::AbandonFork(command::AbandonFork {
            fork_key: key(),
            hold_id: *hold_id,
        }),
        Op::Trim {
            offset,
            incarnation,
        } => request::Op::Trim(command::Trim {
            key: key(),
            incarnation: incarnation.0,
            offset: offset.0,
        }),
        Op::Settle { outbox_id } => request::Op::Settle(command::Settle {
            outbox_id: *outbox_id,
        }),
        Op::MatchFork {
            create,
            has_content_type,
            has_expiry,
        } => request::Op::MatchFork(wire::MatchFork {
            create: Some(create_message(create)),
            has_content_type: *has_content_type,
            has_expiry: *has_expiry,
        }),
        Op::Confirm { visible, slides } => request::Op::Confirm(wire::Confirm {
            visible: *visible,
            slides: *slides,
        }),
        Op::AssignSlots {
            group_count,
            history,
        } => request::Op::AssignSlots(command::AssignSlots {
            group_count: *group_count,
            history: *history,
        }),
        Op::FenceBucket { bucket, generation } => request::Op::FenceBucket(command::FenceBucket {
            bucket: bucket.as_str().to_owned(),
            generation: *generation,
        }),
        Op::List {
            bucket,
            prefix,
            after,
            limit,
        } => request::Op::List(wire::List {
            bucket: bucket.as_str().to_owned(),
            prefix: prefix.clone(),
            after: after.clone(),
            limit: *limit,
        }),
        Op::ChangeMembers { base, change } => {
            request::Op::ChangeMembers(members::change_message(base, change))
        }
        Op::CreateBucket { bucket, retention } => {
            request::Op::CreateBucket(command::CreateBucket {
                bucket: bucket.as_str().to_owned(),
                // None and unlimited differ: the one keeps what is set.
                retention: retention.map(|r| retention_message(r).unwrap_or_default()),
            })
        }
        Op::GetBucket(name) => request::Op::GetBucket(wire::GetBucket {
            bucket: name.as_str().to_owned(),
        }),
        Op::BeginDeleteBucket(name) => request::Op::BeginDeleteBucket(command::BeginDeleteBucket {
            bucket: name.as_str().to_owned(),
        }),
        Op::FinishDeleteBucket {
            bucket,
            generation,
            empty,
        } => request::Op::FinishDeleteBucket(command::FinishDeleteBucket {
            bucket: bucket.as_str().to_owned(),
            generation: *generation,
            empty: *empty,
        }),
    })
}

fn op(message: request::Op) -> Result<Op, WireError> {
    Ok(match message {
        request::Op::Create(message) => Op::Create(create(message)?),
        request::Op::Append(message) => Op::Append(append(message)?),
        request::Op::Delete(Nothing {}) => Op::Delete,
        request::Op::Head(Nothing {}) => Op::Head,
        request::Op::Read(message) => Op::Read(read(message)?),
        request::Op::ReadInherited(message) => {
            check(message.from <= message.to, "ReadInherited.from")?;
            Op::ReadInherited {
                incarnation: Incarnation(message.incarnation),
                from: offset(message.from, "ReadInherited.from")?,
                to: offset(message.to, "ReadInherited.to")?,
            }
        }
        request::Op::Hold(message) => Op::Hold(Hold {
            fork_key: key(&message.fork_key, "Hold.fork_key")?,
            hold_id: message.hold_id,
            offset: optional_offset(message.offset, "Hold.offset")?,
            incarnation: Incarnation(message.incarnation),
        }),
        request::Op::ConfirmHold(message) => Op::ConfirmHold {
            incarnation: Incarnation(message.incarnation),
            hold_id: message.hold_id,
        },
        request::Op::ReleaseHold(message) => Op::ReleaseHold {
            incarnation: Incarnation(message.incarnation),
            hold_id: message.hold_id,
        },
        request::Op::AbandonFork(message) => Op::AbandonFork {
            hold_id: message.hold_id,
        },
        request::Op::Trim(message) => Op::Trim {
            offset: offset(message.offset, "Trim.offset")?,
            incarnation: Incarnation(message.incarnation),
        },
        request::Op::Settle(message) => Op::Settle {
            outbox_id: message.outbox_id,
        },
        request::Op::FenceBucket(message) => Op::FenceBucket {
            bucket: bucket(&message.bucket, "FenceBucket.bucket")?,
            generation: message.generation,
        },
        request::Op::MatchFork(message) => Op::MatchFork {
            create: create(present(message.create, "MatchFork.create")?)?,
            has_content_type: message.has_content_type,
            has_expiry: message.has_expiry,
        },
        request::Op::Confirm(message) => Op::Confirm {
            visible: message.visible,
            slides: message.slides,
        },
        request::Op::List(message) => Op::List {
            bucket: bucket(&message.bucket, "List.bucket")?,
            prefix: message.prefix,
            after: message.after,
            limit: message.limit,
        },
        request::Op::AssignSlots(message) => Op::AssignSlots {
            group_count: message.group_count,
            history: message.history,
        },
        request::Op::ChangeMembers(message) => members::change(message)?,
        request::Op::CreateBucket(message) => Op::CreateBucket {
            bucket: bucket(&message.bucket, "CreateBucket.bucket")?,
            retention: message
                .retention
                .map(|r| retention(Some(r), "CreateBucket.retention"))
                .transpose()?,
        },
        request::Op::GetBucket(message) => {
            Op::GetBucket(bucket(&message.bucket, "GetBucket.bucket")?)
        }
        request::Op::BeginDeleteBucket(message) => {
            Op::BeginDeleteBucket(bucket(&message.bucket, "BeginDeleteBucket.bucket")?)
        }
        request::Op::FinishDeleteBucket(message) => Op::FinishDeleteBucket {
            bucket: bucket(&message.bucket, "FinishDeleteBucket.bucket")?,
            generation: message.generation,
            empty: message.empty,
        },
    })
}

fn create_message(create: &Create) -> command::Create {
    let fork = create.fork.as_ref().map(|fork| command::ForkOrigin {
        source_key: fork.source.as_str().to_owned(),
        source_incarnation: fork.incarnation.0,
        offset: fork.offset.0,
        hold_id: fork.hold_id,
        requested_offset: fork.requested_offset.map(|o| o.0),
        requested_sub_offset: fork.requested_sub_offset,
        floor: fork.floor.0,
    });
    command::Create {
        key: String::new(),
        content_type: create.content_type.as_str().to_owned(),
        expiry: expiry_message(create.expiry),
        closed: create.closed,
        body: create.body.clone(),
        bucket_generation: create.bucket_generation,
        retention: retention_message(create.retention),
        is_bucket_retention: create.is_bucket_retention,
        fork,
    }
}

fn create(message: command::Create) -> Result<Create, WireError> {
    Ok(Create {
        content_type: content_type(&message.content_type, "Create.content_type")?,
        expiry: expiry(message.expiry, "Create.expiry")?,
        closed: message.closed,
        body: message.body,
        bucket_generation: message.bucket_generation,
        retention: retention(message.retention, "Create.retention")?,
        is_bucket_retention: message.is_bucket_retention,
        fork: message.fork.map(fork_origin).transpose()?,
    })
}

fn fork_origin(message: command::ForkOrigin) -> Result<ForkOrigin, WireError> {
    let requested = message.requested_offset;
    Ok(ForkOrigin {
        source: key(&message.source_key, "ForkOrigin.source_key")?,
        incarnation: Incarnation(message.source_incarnation),
        offset: offset(message.offset, "ForkOrigin.offset")?,
        hold_id: message.hold_id,
        requested_offset: optional_offset(requested, "ForkOrigin.requested_offset")?,
        requested_sub_offset: message.requested_sub_offset,
        floor: offset(message.floor, "ForkOrigin.floor")?,
    })
}

fn append_message(append: &Append) -> command::Append {
    let content_type = append.content_type.as_ref();
    command::Append {
        key: String::new(),
        content_type: content_type.map_or_else(String::new, |t| t.as_str().to_owned()),
        body: append.body.clone(),
        close: append.close,
        stream_seq: append.stream_seq.clone(),
        producer: append.producer.as_ref().map(|p| command::Producer {
            id: p.id.clone(),
            epoch: p.epoch,
            seq: p.seq,
        }),
        incarnation_below: append.incarnation_below.map_or(0, |i| i.0),
    }
}

fn append(message: command::Append) -> Result<Append, WireError> {
    let is_typed = !message.content_type.is_empty();
    check(is_typed || message.body.is_empty(), "Append.content_type")?;
    let typed = is_typed.then(|| content_type(&message.content_type, "Append.content_type"));
    Ok(Append {
        content_type: typed.transpose()?,
        body: message.body,
        close: message.close,
        stream_seq: message.stream_seq,
        producer: message.producer.map(producer).transpose()?,
        incarnation_below: (message.incarnation_below != 0)
            .then_some(Incarnation(message.incarnation_below)),
    })
}

fn producer(message: command::Producer) -> Result<Producer, WireError> {
    check(!message.id.is_empty(), "Producer.id")?;
    check(message.epoch <= SEQ_MAX, "Producer.epoch")?;
    check(message.seq <= SEQ_MAX, "Producer.seq")?;
    Ok(Producer {
        id: message.id,
        epoch: message.epoch,
        seq: message.seq,
    })
}

fn read_message(read: &Read) -> wire::Read {
    let from = match read.from {
        ReadFrom::Start => read::From::Start(Nothing {}),
        ReadFrom::Now => read::From::Now(Nothing {}),
        ReadFrom::At(offset) => read::From::At(offset.0),
    };
    wire::Read {
        from: Some(from),
        bytes_max: read.bytes_max,
        is_live: read.is_live,
    }
}

fn read(message: wire::Read) -> Result<Read, WireError> {
    let from = match present(message.from, "Read.from")? {
        read::From::Start(Nothing {}) => ReadFrom::Start,
        read::From::Now(Nothing {}) => ReadFrom::Now,
        read::From::At(position) => ReadFrom::At(offset(position, "Read.at")?),
    };
    Ok(Read {
        from,
        bytes_max: message.bytes_max,
        is_live: message.is_live,
    })
}

fn optional_offset(
    position: Option<u64>,
    field: &'static str,
) -> Result<Option<Offset>, WireError> {
    position.map(|p| offset(p, field)).transpose()
}
