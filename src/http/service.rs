//! The single entry of a request: route, parse, ask, answer.

use std::rc::Rc;

use bytes::Bytes;
use hyper::body::Body;
use hyper::header::{ALLOW, HOST, HeaderMap, ORIGIN};
use hyper::{Method, Request as HttpRequest, Response, StatusCode};

use super::backend::{Backend, ForkCreate, Operation};
use super::body::collect;
use super::body_out::ResponseBody;
use super::parse::{self, LiveMode};
use super::path::{PathError, Route, path_of, route};
use super::respond::{self, Reply};
use super::{buckets, live, read, sse, status};
use crate::protocol::{
    Append, BucketName, ContentType, Create, Expiry, ForkOrigin, Incarnation, KeyError, Offset, Op,
    Outcome, Refusal, Request, StreamKey, json,
};

/// Serves one request.
pub async fn serve<B, T>(backend: Rc<B>, request: HttpRequest<T>) -> Response<ResponseBody>
where
    B: Backend,
    T: Body<Data = Bytes> + Unpin,
{
    let began_us = backend.monotonic_us();
    let settings = backend.settings();
    let is_head = request.method() == Method::HEAD;
    // No cache keeps the answer to a write, so that one without an origin can go without the long headers of CORS.
    let is_write = matches!(
        *request.method(),
        Method::POST | Method::PUT | Method::DELETE
    );
    let is_cors = !is_write || request.headers().contains_key(ORIGIN);
    let bytes_in = request.body().size_hint().lower();
    let mut operation = Operation::Unknown;
    let reply = match answer(backend.clone(), request, &mut operation).await {
        Ok(reply) => reply,
        Err(refusal) => status::refused(&refusal, settings.retry_after_s),
    };
    let micros = backend.monotonic_us() - began_us;
    backend.answered(operation, reply.status().as_u16(), micros, bytes_in);
    let response = reply.finish(&settings, is_head, is_cors);
    if let Some(bytes) = response.body().known_len() {
        backend.sent(bytes);
    }
    response
}

async fn answer<B, T>(
    backend: Rc<B>,
    request: HttpRequest<T>,
    operation: &mut Operation,
) -> Result<Reply, Refusal>
where
    B: Backend,
    T: Body<Data = Bytes> + Unpin,
{
    let (head, body) = request.into_parts();
    let target = route(head.uri.path()).map_err(path_refusal)?;
    if head.method == Method::OPTIONS {
        *operation = Operation::Preflight;
        return Ok(respond::preflight(&backend.settings()));
    }
    // All but the append are boxed: this future is moved about as a whole, and the append is what there is most of.
    match target {
        Route::Stream(key) => {
            let query = head.uri.query();
            match head.method {
                Method::PUT => {
                    *operation = Operation::Create;
                    Box::pin(put(&*backend, key, &head.headers, body)).await
                }
                Method::POST => {
                    *operation = Operation::Append;
                    post(&*backend, key, &head.headers, body).await
                }
                Method::GET => Box::pin(get(backend, key, &head.headers, query, operation)).await,
                Method::HEAD => {
                    *operation = Operation::Head;
                    Box::pin(head_of(&*backend, key)).await
                }
                Method::DELETE => {
                    *operation = Operation::Delete;
                    Box::pin(delete(&*backend, key)).await
                }
                _ => Ok(not_allowed("GET, HEAD, POST, PUT, DELETE, OPTIONS")),
            }
        }
        Route::Bucket(name) => {
            *operation = Operation::Bucket;
            match head.method {
                Method::PUT => Box::pin(buckets::create(&*backend, name)).await,
                Method::GET | Method::HEAD => Box::pin(buckets::get(&*backend, name)).await,
                Method::DELETE => Box::pin(buckets::delete(&*backend, name)).await,
                _ => Ok(not_allowed("GET, HEAD, PUT, DELETE, OPTIONS")),
            }
        }
        Route::List(bucket) => {
            *operation = Operation::List;
            match head.method {
                Method::GET | Method::HEAD => {
                    let query = parse::list_query(head.uri.query())?;
                    Box::pin(buckets::list(&*backend, bucket, query)).await
                }
                _ => Ok(not_allowed("GET, HEAD, OPTIONS")),
            }
        }
        Route::Health | Route::Ready | Route::Metrics => {
            *operation = Operation::Ops;
            if head.method != Method::GET && head.method != Method::HEAD {
                return Ok(not_allowed("GET, HEAD, OPTIONS"));
            }
            Ok(Box::pin(ops(&*backend, &target)).await)
        }
        Route::Nowhere => {
            let text = "nothing is here: streams are at /v1/stream/{path} and /{bucket}/{stream}\n";
            Ok(Reply::new(StatusCode::NOT_FOUND).body_text(text.to_owned()))
        }
    }
}

fn path_refusal(error: PathError) -> Refusal {
    match error {
        PathError::BadPercent => Refusal::Bad("the path has a % without two hex digits".to_owned()),
        PathError::NotUtf8 => Refusal::Bad("the percent-decoded path is not UTF-8".to_owned()),
        PathError::Key(key) => Refusal::BadKey(key),
    }
}

fn not_allowed(methods: &'static str) -> Reply {
    let mut reply = Reply::new(StatusCode::METHOD_NOT_ALLOWED);
    reply.set_static(ALLOW, methods);
    reply
}

async fn ops<B: Backend>(backend: &B, target: &Route) -> Reply {
    let mut reply = match target {
        Route::Metrics => {
            let mut reply = Reply::new(StatusCode::OK).body_text(backend.metrics().await);
            reply.set_static(
                hyper::header::CONTENT_TYPE,
                "text/plain; version=0.0.4; charset=utf-8",
            );
            reply
        }
        Route::Ready => match backend.readiness().await {
            Ok(()) => Reply::new(StatusCode::OK).body_json("{\"ready\":true}".to_owned()),
            Err(reasons) => {
                let text = serde_json::json!({ "ready": false, "reasons": reasons }).to_string();
                Reply::new(StatusCode::SERVICE_UNAVAILABLE).body_json(text)
            }
        },
        _ => match backend.health().await {
            Ok(()) => Reply::new(StatusCode::OK).body_text("ok\n".to_owned()),
            Err(text) => Reply::new(StatusCode::SERVICE_UNAVAILABLE).body_text(text),
        },
    };
    reply.no_store();
    reply
}

async fn put<B, T>(
    backend: &B,
    key: StreamKey,
    headers: &HeaderMap,
    body: T,
) -> Result<Reply, Refusal>
where
    B: Backend,
    T: Body<Data = Bytes> + Unpin,
{
    let given_type = parse::content_type(headers)?;
    let expiry = parse::expiry(headers)?;
    let fork = parse::fork(headers)?;
    let (raw_body, _budget) = collect(backend, body).await?;
    let url = url_of(headers, &key);
    let mut create = Create {
        content_type: given_type.clone().unwrap_or_else(ContentType::default_type),
        expiry: expiry.unwrap_or(Expiry::Never),
        closed: parse::closed(headers),
        body: Bytes::new(),
        bucket_generation: 0,
        fork: None,
    };
    if let Some(fork) = fork {
        create.bucket_generation = generation(backend, &key).await?;
        create.fork = Some(ForkOrigin {
            source: fork.source.clone(),
            incarnation: Incarnation(0),
            offset: fork.offset.unwrap_or(Offset::ZERO),
            hold_id: 0,
            requested_offset: fork.offset,
            requested_sub_offset: fork.sub_offset,
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
    for _ in 0..2 {
        create.bucket_generation = generation(backend, &key).await?;
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

/// The generation of the key's bucket; 0 in the root namespace.
async fn generation<B: Backend>(backend: &B, key: &StreamKey) -> Result<u64, Refusal> {
    if key.bucket().is_empty() {
        return Ok(0);
    }
    backend
        .bucket_generation(&BucketName::from_stored(key.bucket()))
        .await
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

/// `Location`: the URL that the client used, as far as it is known.
fn url_of(headers: &HeaderMap, key: &StreamKey) -> String {
    let path = path_of(key);
    match headers.get(HOST).and_then(|h| h.to_str().ok()) {
        Some(host) if !host.is_empty() => format!("http://{host}{path}"),
        _ => path,
    }
}

async fn post<B, T>(
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
    let close = parse::closed(headers);
    let (raw, _budget) = collect(backend, body).await?;
    let content_type = match parse::content_type(headers) {
        // The type of an empty body does not count (section 5.2).
        _ if raw.is_empty() => None,
        Ok(None) => {
            return Err(Refusal::Bad(
                "an append with a body needs a Content-Type".to_owned(),
            ));
        }
        Ok(given) => given,
        Err(refusal) => return Err(refusal),
    };
    if raw.is_empty() && !close {
        return Err(Refusal::Bad(
            "an append needs a body, or Stream-Closed: true to close".to_owned(),
        ));
    }
    let body = match &content_type {
        Some(content_type) => stored(content_type, raw, false)?,
        None => raw,
    };
    let has_data = !body.is_empty();
    let append = Append {
        content_type,
        body,
        close,
        stream_seq,
        producer,
    };
    match backend
        .submit(Request::on_key(key, Op::Append(append)))
        .await
    {
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
        Outcome::Refused(refusal) => Err(refusal),
        _ => Err(Refusal::Unavailable),
    }
}

async fn get<B: Backend>(
    backend: Rc<B>,
    key: StreamKey,
    headers: &HeaderMap,
    query: Option<&str>,
    operation: &mut Operation,
) -> Result<Reply, Refusal> {
    *operation = Operation::Read;
    let query = parse::read_query(query)?;
    match query.mode {
        LiveMode::CatchUp => read::catch_up(&*backend, &key, &query, headers).await,
        LiveMode::LongPoll => {
            *operation = Operation::LongPoll;
            live::long_poll(&*backend, &key, &query).await
        }
        LiveMode::Sse => {
            *operation = Operation::Sse;
            sse::follow(backend, key, &query).await
        }
    }
}

async fn head_of<B: Backend>(backend: &B, key: StreamKey) -> Result<Reply, Refusal> {
    match backend.submit(Request::on_key(key, Op::Head)).await {
        Outcome::Head(meta) => Ok(respond::head(&meta)),
        Outcome::Refused(refusal) => Err(refusal),
        _ => Err(Refusal::Unavailable),
    }
}

async fn delete<B: Backend>(backend: &B, key: StreamKey) -> Result<Reply, Refusal> {
    match backend.submit(Request::on_key(key, Op::Delete)).await {
        Outcome::Done => Ok(Reply::new(StatusCode::NO_CONTENT)),
        Outcome::Refused(refusal) => Err(refusal),
        _ => Err(Refusal::Unavailable),
    }
}

/// A key error as a refusal, for callers outside of a path.
impl From<KeyError> for Refusal {
    fn from(error: KeyError) -> Refusal {
        Refusal::BadKey(error)
    }
}
