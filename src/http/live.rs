//! Long-polls (protocol, section 5.7).

use std::time::Duration;

use futures_lite::FutureExt;
use hyper::StatusCode;
use hyper::header as std_header;

use super::backend::{Backend, LiveTail, TailState};
use super::body_out::ResponseBody;
use super::header;
use super::parse::ReadQuery;
use super::read::{body_of, cacheable, data, fetch, plan, plan_live};
use super::respond::Reply;
use crate::protocol::{Offset, Op, Outcome, ReadFrom, Refusal, Request, StreamKey, cursor::cursor};

/// Answers with what is beyond the offset, as soon as there is something, or with 204 in time.
pub async fn long_poll<B: Backend>(
    backend: &B,
    key: &StreamKey,
    query: &ReadQuery,
) -> Result<Reply, Refusal> {
    let settings = backend.settings();
    let first = plan_live(backend, key, query.from, settings.read_chunk_bytes).await?;
    if first.end > first.start {
        return answer(backend, key, query, first).await;
    }
    let position = first.start;
    let mut state = TailState {
        incarnation: first.meta.incarnation,
        tail: first.meta.tail,
        closed: first.meta.closed,
        ended: false,
    };
    if !state.closed {
        let tail = backend.watch(key).await?;
        let timeout = Duration::from_millis(settings.long_poll_ms);
        let waited = async { Some(tail.changed(position).await) };
        let too_long = async {
            backend.sleep(timeout).or(backend.stopping()).await;
            None
        };
        state = waited.or(too_long).await.unwrap_or_else(|| tail.state());
        if state.incarnation != first.meta.incarnation || state.ended {
            return Err(why_ended(backend, key).await);
        }
    }
    if state.tail > position {
        let now = plan(
            backend,
            key,
            ReadFrom::At(position),
            settings.read_chunk_bytes,
            true,
        )
        .await?;
        return answer(backend, key, query, now).await;
    }
    Ok(nothing_new(backend, query, position, state.closed))
}

/// What became of the stream that was waited on: a source with forks is gone, all else is not found.
async fn why_ended<B: Backend>(backend: &B, key: &StreamKey) -> Refusal {
    match backend.submit(Request::on_key(key.clone(), Op::Head)).await {
        Outcome::Refused(Refusal::Gone) => Refusal::Gone,
        _ => Refusal::NotFound,
    }
}

async fn answer<B: Backend>(
    backend: &B,
    key: &StreamKey,
    query: &ReadQuery,
    plan: crate::protocol::ReadPlan,
) -> Result<Reply, Refusal> {
    let fetched = fetch(backend, key, plan).await?;
    let mut reply = data(&fetched);
    reply.set(
        std_header::ETAG,
        &fetched.etag(backend.settings().etag_nonce, false),
    );
    put_cursor(backend, query, &mut reply);
    if query.from == ReadFrom::Now {
        reply.no_store();
    } else {
        cacheable(&mut reply, &backend.settings());
    }
    let body = body_of(&fetched.plan, fetched.pieces);
    Ok(reply.body(ResponseBody::row(body)))
}

fn nothing_new<B: Backend>(backend: &B, query: &ReadQuery, tail: Offset, closed: bool) -> Reply {
    let mut reply = Reply::new(StatusCode::NO_CONTENT);
    reply.set(header::STREAM_NEXT_OFFSET, &tail.to_string());
    reply.set_static(header::STREAM_UP_TO_DATE, "true");
    if closed {
        reply.set_static(header::STREAM_CLOSED, "true");
    } else {
        put_cursor(backend, query, &mut reply);
    }
    reply.no_store();
    reply
}

fn put_cursor<B: Backend>(backend: &B, query: &ReadQuery, reply: &mut Reply) {
    let value = cursor(backend.now_ms(), query.cursor, backend.random());
    reply.set_number(header::STREAM_CURSOR, value);
}
