//! The single entry of a request: route, parse, ask, answer.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use hyper::body::Body;
use hyper::header::{ALLOW, HeaderMap, ORIGIN};
use hyper::http::request::Parts;
use hyper::{Method, Request as HttpRequest, Response, StatusCode};

use super::backend::{Backend, Operation};
use super::body::Counted;
use super::body_out::ResponseBody;
use super::header;
use super::host::{authority, location};
use super::parse::{self, LiveMode};
use super::path::{PathError, Route, is_floor_without_offset, route};
use super::respond::{self, Reply};
use super::{buckets, live, read, retention, sse, status, write};
use crate::protocol::{KeyError, Op, Outcome, Refusal, Request, StreamKey};

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
    let received = Cell::new(0);
    let request = request.map(|body| Counted::new(body, &received));
    let mut operation = Operation::Unknown;
    let reply = match answer(backend.clone(), request, &mut operation).await {
        Ok(reply) => reply,
        Err(refusal) => status::refused(&refusal, settings.retry_after_s),
    };
    let micros = backend.monotonic_us() - began_us;
    backend.answered(operation, reply.status().as_u16(), micros, received.get());
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
    let retry_after_s = backend.settings().retry_after_s;
    let authority = authority(&head)?;
    parse::transfer_encoding(&head.headers)?;
    if head.method == Method::OPTIONS {
        *operation = Operation::Preflight;
        return Ok(respond::preflight(&backend.settings()));
    }
    let target = route(head.uri.path()).map_err(path_refusal)?;
    // All but the append are boxed: this future is moved about as a whole, and the append is what there is most of.
    match target {
        Route::Stream(key) => {
            let query = head.uri.query();
            let leader = backend.leader_elsewhere(&key);
            if let Some(redirect) = redirect(leader.as_deref(), &head) {
                return Ok(redirect);
            }
            let answered = match head.method {
                Method::PUT => {
                    *operation = Operation::Create;
                    if is_floor_without_offset(head.uri.path()) {
                        return Err(Refusal::Bad(
                            "a floor is put at STREAM/retention/OFFSET, with an offset that the server has given; \
                             no stream can be made there"
                                .to_owned(),
                        ));
                    }
                    let url = location(authority, &key);
                    Box::pin(write::put(&*backend, key, &head.headers, url, body)).await
                }
                Method::POST => {
                    *operation = Operation::Append;
                    write::post(&*backend, key, &head.headers, body).await
                }
                Method::GET => Box::pin(get(backend, key, &head.headers, query, operation)).await,
                Method::HEAD => {
                    *operation = Operation::Head;
                    Box::pin(head_of(&*backend, key)).await
                }
                Method::DELETE => {
                    *operation = Operation::Delete;
                    Box::pin(write::delete(&*backend, key)).await
                }
                _ => Ok(not_allowed("GET, HEAD, POST, PUT, DELETE, OPTIONS")),
            };
            hinted(answered, leader, retry_after_s)
        }
        Route::Retention(key, offset) => {
            *operation = Operation::Retention;
            let leader = backend.leader_elsewhere(&key);
            if let Some(redirect) = redirect(leader.as_deref(), &head) {
                return Ok(redirect);
            }
            let answered = match head.method {
                Method::PUT => Box::pin(retention::put(&*backend, key, offset)).await,
                _ => Ok(not_allowed("PUT, OPTIONS")),
            };
            hinted(answered, leader, retry_after_s)
        }
        Route::Bucket(name) => {
            *operation = Operation::Bucket;
            match head.method {
                Method::PUT => Box::pin(buckets::create(&*backend, name, &head.headers)).await,
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
        Route::Health | Route::Ready | Route::Metrics if backend.settings().client_port_ops => {
            *operation = Operation::Ops;
            if head.method != Method::GET && head.method != Method::HEAD {
                return Ok(not_allowed("GET, HEAD, OPTIONS"));
            }
            Ok(Box::pin(ops(&*backend, &target)).await)
        }
        Route::Nowhere | Route::Health | Route::Ready | Route::Metrics => {
            let text = "nothing is here: streams are at /v1/stream/{path} and /{bucket}/{stream}\n";
            Ok(Reply::new(StatusCode::NOT_FOUND).body_text(text.to_owned()))
        }
    }
}

/// `Prefer: redirect`, among others (RFC 7240).
fn prefers_redirect(headers: &HeaderMap) -> bool {
    let given = headers.get_all(header::PREFER);
    let texts = given.iter().filter_map(|value| value.to_str().ok());
    texts
        .flat_map(|text| text.split(','))
        .any(|one| one.trim().eq_ignore_ascii_case("redirect"))
}

/// The same answer, with the node that leads, if that is another one.
fn hinted(
    answered: Result<Reply, Refusal>,
    leader: Option<String>,
    retry_after_s: u64,
) -> Result<Reply, Refusal> {
    let Some(leader) = leader else {
        return answered;
    };
    let mut reply = answered.unwrap_or_else(|refusal| status::refused(&refusal, retry_after_s));
    reply.set(header::STREAM_LEADER_HINT, &leader);
    Ok(reply)
}

/// To the node that leads, if that is another one, for clients that want to know.
fn redirect(leader: Option<&str>, head: &Parts) -> Option<Reply> {
    let leader = leader.filter(|_| prefers_redirect(&head.headers))?;
    let path = head.uri.path_and_query().map_or("/", |p| p.as_str());
    let mut reply = Reply::new(StatusCode::TEMPORARY_REDIRECT);
    reply.set(hyper::header::LOCATION, &format!("http://{leader}{path}"));
    reply.set(header::STREAM_LEADER_HINT, leader);
    reply.no_store();
    Some(reply)
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

/// A key error as a refusal, for callers outside of a path.
impl From<KeyError> for Refusal {
    fn from(error: KeyError) -> Refusal {
        Refusal::BadKey(error)
    }
}
