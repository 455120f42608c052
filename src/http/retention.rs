//! A stream's floor: what is before it is not kept any more.

use hyper::StatusCode;

use super::backend::Backend;
use super::header;
use super::read;
use super::respond::Reply;
use crate::protocol::{Offset, Op, Outcome, ReadFrom, Refusal, Request, StreamKey};

/// PUT of a floor: 204. The offset must be one that the server minted, as for a read; 410 if the floor is higher already.
pub async fn put<B: Backend>(
    backend: &B,
    key: StreamKey,
    offset: Offset,
) -> Result<Reply, Refusal> {
    // A read of it finds out whether it lies inside of a message.
    let plan = read::plan(backend, &key, ReadFrom::At(offset), 1, false).await?;
    let incarnation = plan.meta.incarnation;
    if plan.lead > 0 {
        read::fetch(backend, &key, plan).await?;
    }
    let trim = Op::Trim {
        offset,
        incarnation,
    };
    match backend.submit(Request::on_key(key, trim)).await {
        Outcome::Done => {
            let mut reply = Reply::new(StatusCode::NO_CONTENT);
            reply.set(header::STREAM_EARLIEST_OFFSET, &offset.to_string());
            reply.no_store();
            Ok(reply)
        }
        Outcome::Refused(refusal) => Err(refusal),
        _ => Err(Refusal::Unavailable),
    }
}
