//! Buckets: create, describe, delete, list.

use hyper::StatusCode;
use hyper::header::HeaderMap;
use serde_json::json;

use super::backend::Backend;
use super::parse::{self, ListQuery};
use super::path::path_of;
use super::respond::Reply;
use crate::protocol::{
    BucketInfo, BucketName, GroupTarget, Op, Outcome, Refusal, Request, rfc3339_from_ms,
};

/// PUT: 201, or 200 if it stands.
/// A bucket that stands gets the retention that this one names, for streams created from then on.
pub async fn create<B: Backend>(
    backend: &B,
    name: BucketName,
    headers: &HeaderMap,
) -> Result<Reply, Refusal> {
    let retention = parse::retention(headers)?;
    let info = backend.create_bucket(name, retention).await?;
    let status = if info.fresh {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let mut reply = describe(status, &info);
    if info.fresh {
        reply.set(hyper::header::LOCATION, &format!("/{}", info.name));
    }
    Ok(reply)
}

/// GET.
pub async fn get<B: Backend>(backend: &B, name: BucketName) -> Result<Reply, Refusal> {
    let request = Request {
        target: GroupTarget::Meta,
        op: Op::GetBucket(name),
    };
    match backend.submit(request).await {
        Outcome::Bucket(info) => Ok(describe(StatusCode::OK, &info)),
        Outcome::Refused(refusal) => Err(refusal),
        _ => Err(Refusal::Unavailable),
    }
}

/// DELETE: 204, or 409 while it holds streams.
pub async fn delete<B: Backend>(backend: &B, name: BucketName) -> Result<Reply, Refusal> {
    backend.delete_bucket(name).await?;
    Ok(Reply::new(StatusCode::NO_CONTENT))
}

/// GET of the streams, in the order of their ids.
pub async fn list<B: Backend>(
    backend: &B,
    bucket: BucketName,
    query: ListQuery,
) -> Result<Reply, Refusal> {
    let request = Request {
        target: GroupTarget::Meta,
        op: Op::GetBucket(bucket.clone()),
    };
    if let Outcome::Refused(refusal) = backend.submit(request).await {
        return Err(refusal);
    }
    let limit = query.limit as usize;
    let listed = backend
        .list(bucket, query.prefix, query.after, query.limit)
        .await?;
    let next = (listed.streams.len() == limit)
        .then(|| listed.streams.last())
        .flatten();
    let next = next.map(|(key, _)| key.id().to_owned());
    let streams = listed.streams.iter().map(|(key, meta)| {
        json!({
            "id": key.id(),
            "path": path_of(key),
            "content_type": meta.content_type.as_str(),
            "next_offset": meta.tail.to_string(),
            "closed": meta.closed,
        })
    });
    let text = json!({ "streams": streams.collect::<Vec<_>>(), "next": next }).to_string();
    let mut reply = Reply::new(StatusCode::OK).body_json(text);
    reply.no_store();
    Ok(reply)
}

fn describe(status: StatusCode, info: &BucketInfo) -> Reply {
    let text = json!({
        "name": info.name.as_str(),
        "created_at": rfc3339_from_ms(info.created_ms),
        "deleting": info.deleting,
        "max_age_seconds": info.retention.max_age_ms.map(|ms| ms / 1000),
        "max_bytes": info.retention.max_bytes,
    });
    let mut reply = Reply::new(status).body_json(text.to_string());
    reply.no_store();
    reply
}
