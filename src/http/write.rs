//! PUT, POST and DELETE of streams: a request becomes one question to the group of its key.

use bytes::Bytes;
use hyper::StatusCode;
use hyper::body::Body;
use hyper::header::HeaderMap;

use super::backend::{Backend, ForkCreate};
use super::body::collect;
use super::respond::{self, Reply};
use super::{parse, status};
use crate::protocol::{
    Append, BucketName, ContentType, Create, Expiry, ForkOrigin, Incarnation, Offset, Op, Outcome,
    Refusal, Request, Retention, StreamKey, json,
};

/// PUT: 201, or 200 if it stands as asked.
pub async fn put<B, T>(
    backend: &B,
    key: StreamKey,
    headers: &HeaderMap,
    url: String,
    body: T,
) -> Result<Reply, Refusal>
where
    B: Backend,
    T: Body<Data = Bytes> + Unpin,
{
    let given_type = parse::content_type(headers)?;
    let expiry = parse::expiry(headers)?;
    let retention = parse::retention(headers)?;
    let fork = parse::fork(headers)?;
    let closed = parse::closed(headers)?;
    let (raw_body, _budget) = collect(backend, body).await?;
    let mut create = Create {
        content_type: given_type.clone().unwrap_or_else(ContentType::default_type),
        expiry: expiry.unwrap_or(Expiry::Never),
        closed,
        body: Bytes::new(),
        bucket_generation: 0,
        retention: retention.unwrap_or_default(),
        is_bucket_retention: false,
        fork: None,
    };

    if let Some(fork) = fork {
        enter_bucket(backend, &key, &mut create, retention, false).await?;
        create.fork = Some(ForkOrigin {
            source: fork.source.clone(),
            incarnation: Incarnation(0),
            offset: fork.offset.unwrap_or(Offset::ZERO),
            hold_id: 0,
            requested_offset: fork.offset,
            requested_sub_offset: fork.sub_offset,
            floor: Offset::ZERO,
        });
        let fork_create = ForkCreate {
            create,
            has_content_type: given_type.is_some(),
            has_expiry: expiry.is_some(),
            raw_body,
        };
        let created = backend.create_fork(key, fork, fork_create).await?;
        return Ok(respond::created(&created, &url));
    }
    create.body = stored(&create.content_type, raw_body, true)?;
    // The second try is for a bucket that was made anew while this core still knew the old one.
    for is_known_stale in [false, true] {
        enter_bucket(backend, &key, &mut create, retention, is_known_stale).await?;
        match backend
            .submit(Request::on_key(key.clone(), Op::Create(create.clone())))
            .await
        {
            Outcome::Created(created) => return Ok(respond::created(&created, &url)),
            Outcome::Refused(Refusal::BucketStale) => {}
            Outcome::Refused(refusal) => return Err(refusal),
            _ => return Err(Refusal::Unavailable),
        }
    }
    Err(Refusal::BucketNotFound)
}

/// Names the generation of the key's bucket, and takes over what the bucket keeps where the client asked for nothing.
async fn enter_bucket<B: Backend>(
    backend: &B,
    key: &StreamKey,
    create: &mut Create,
    asked: Option<Retention>,
    is_known_stale: bool,
) -> Result<(), Refusal> {
    if key.bucket().is_empty() {
        return Ok(());
    }
    let bucket = BucketName::from_stored(key.bucket());
    let terms = backend.bucket_terms(&bucket, is_known_stale).await?;
    create.bucket_generation = terms.generation;
    create.is_bucket_retention = asked.is_none();
    if asked.is_none() {
        create.retention = terms.retention;
    }
    Ok(())
}

/// A body as it is stored: JSON in messages, all else as it is.
///
/// # Errors
/// [`Refusal::Bad`] for what is not JSON, or an empty array in an append.
pub fn stored(content_type: &ContentType, raw: Bytes, is_create: bool) -> Result<Bytes, Refusal> {
    if !content_type.is_json() || raw.is_empty() {
        return Ok(raw);
    }
    json::frame(&raw, is_create).map_err(|error| match error {
        json::JsonError::Invalid(reason) => {
            Refusal::Bad(format!("the body is not valid JSON: {reason}"))
        }
        json::JsonError::EmptyArray => {
            Refusal::Bad("an empty JSON array appends nothing".to_owned())
        }
    })
}

/// POST: an append, a closure, or both.
pub async fn post<B, T>(
    backend: &B,
    key: StreamKey,
    headers: &HeaderMap,
    body: T,
) -> Result<Reply, Refusal>
where
    B: Backend,
    T: Body<Data = Bytes> + Unpin,
{
    let producer = parse::producer(headers)?;
    let stream_seq = parse::stream_seq(headers)?;
    let close = parse::closed(headers)?;
    let (raw, _budget) = collect(backend, body).await?;
    if raw.is_empty() && !close {
        return Err(Refusal::Bad(
            "an append needs a body, or Stream-Closed: true to close".to_owned(),
        ));
    }
    let (content_type, body) = match content(headers, raw) {
        Ok(content) => content,
        Err((given_type, fault)) => {
            return Err(first_fault(backend, key, given_type, fault).await);
        }
    };
    let has_data = !body.is_empty();
    let append = Append {
        content_type,
        body,
        close,
        stream_seq,
        producer,
        incarnation_below: None,
    };
    let request = Request::on_key(key.clone(), Op::Append(append));
    match backend.submit(request).await {
        Outcome::Appended {
            tail,
            closed,
            duplicate,
            producer,
        } => Ok(respond::appended(
            tail,
            closed,
            has_data && !duplicate,
            producer,
        )),
        Outcome::Refused(refusal @ Refusal::StaleEpoch { .. }) => {
            Ok(stale_epoch(backend, key, &refusal).await)
        }
        Outcome::Refused(refusal) => Err(refusal),
        _ => Err(Refusal::Unavailable),
    }
}

/// The type and the stored bytes of an append; or what is wrong with them, and the type if that is not it.
fn content(
    headers: &HeaderMap,
    raw: Bytes,
) -> Result<(Option<ContentType>, Bytes), (Option<ContentType>, Refusal)> {
    if raw.is_empty() {
        // The type of an empty body does not count (section 5.2).
        return Ok((None, raw));
    }
    let given = parse::content_type(headers).map_err(|refusal| (None, refusal))?;
    let given = given.ok_or_else(|| {
        let text = "an append with a body needs a Content-Type";
        (None, Refusal::Bad(text.to_owned()))
    })?;
    match stored(&given, raw, false) {
        Ok(body) => Ok((Some(given), body)),
        Err(refusal) => Err((Some(given), refusal)),
    }
}

/// What to say of an append with bad content. The stream's state comes first (section 5.2, error precedence);
/// it is asked for here only, so that a good append is one question to its group.
async fn first_fault<B: Backend>(
    backend: &B,
    key: StreamKey,
    given_type: Option<ContentType>,
    fault: Refusal,
) -> Refusal {
    match backend.submit(Request::on_key(key, Op::Head)).await {
        Outcome::Refused(refusal @ (Refusal::NotFound | Refusal::Gone)) => refusal,
        Outcome::Head(meta) if meta.closed => Refusal::Closed { tail: meta.tail },
        Outcome::Head(meta) if given_type.is_some_and(|t| !t.matches(&meta.content_type)) => {
            let expected = meta.content_type.as_str().to_owned();
            Refusal::ContentTypeMismatch { expected }
        }
        _ => fault,
    }
}

/// To a producer whose epoch is over: if the stream is closed, that too, since a higher epoch would not help.
async fn stale_epoch<B: Backend>(backend: &B, key: StreamKey, refusal: &Refusal) -> Reply {
    let mut reply = status::refused(refusal, backend.settings().retry_after_s);
    if let Outcome::Head(meta) = backend.submit(Request::on_key(key, Op::Head)).await
        && meta.closed
    {
        respond::put_closed(&mut reply, meta.tail);
    }
    reply
}

/// DELETE: 204.
pub async fn delete<B: Backend>(backend: &B, key: StreamKey) -> Result<Reply, Refusal> {
    match backend.submit(Request::on_key(key, Op::Delete)).await {
        Outcome::Done => Ok(Reply::new(StatusCode::NO_CONTENT)),
        Outcome::Refused(refusal) => Err(refusal),
        _ => Err(Refusal::Unavailable),
    }
}
