//! Live reads as server-sent events (protocol, section 5.8).
//!
//! The body is pulled by the connection: a reader that does not read holds one event and no more. It catches
//! up by reads, then follows the updates that all readers of the stream on this core share.

use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::{FutureExt, stream};
use hyper::StatusCode;
use hyper::header as std_header;

use super::backend::{Backend, LiveTail, LiveUpdate, TailState};
use super::body_out::ResponseBody;
use super::header;
use super::parse::ReadQuery;
use super::read::{fetch, plan, plan_live};
use super::respond::Reply;
use super::sse_text::{self, Control, Representation};
use crate::protocol::{Incarnation, Offset, ReadFrom, Refusal, StreamKey, cursor::cursor};

/// Bytes of an event of a reader that catches up. It is rendered for that reader alone, who may stop reading.
const CATCH_UP_BYTES: u64 = 64 << 10;

/// Between these times, each at its own, those come back whose node died: not all at once. Browsers left alone wait for 3 to 5 s.
const RETRY_MS: std::ops::Range<u64> = 500..3500;

/// Starts to follow a stream.
pub async fn follow<B: Backend>(
    backend: Rc<B>,
    key: StreamKey,
    query: &ReadQuery,
) -> Result<Reply, Refusal> {
    let settings = backend.settings();
    let bytes_max = settings.read_chunk_bytes.min(CATCH_UP_BYTES);
    let first = plan_live(&*backend, &key, query.from, bytes_max).await?;
    // A wrong offset is told by a status, not by an event stream that breaks off.
    let first = fetch(&*backend, &key, first).await?;
    let tail = backend.watch(&key).await?;
    let representation = Representation::of(&first.plan.meta.content_type);
    let life = settings.sse_rotate_ms;
    let jitter = backend.random() % (life / 3).max(1);
    let ends_at_us = backend.monotonic_us() + (life - life / 6 + jitter) * 1000;
    let retry_ms = RETRY_MS.start + backend.random() % (RETRY_MS.end - RETRY_MS.start);
    let mut reader = Reader {
        key,
        representation,
        incarnation: first.plan.meta.incarnation,
        position: first.plan.start,
        client_cursor: query.cursor,
        held_back: Vec::new(),
        ready: VecDeque::from([sse_text::retry(retry_ms)]),
        has_spoken: false,
        is_over: false,
        ends_at_us,
        tail,
        backend,
    };
    let state = reader.tail.state();
    let up_to_date = first.is_up_to_date() && first.end >= state.tail;
    reader.take(first.end, first.pieces, up_to_date, first.plan.meta.closed);
    let mut reply = Reply::new(StatusCode::OK);
    reply.set_static(std_header::CONTENT_TYPE, "text/event-stream");
    // Not stored, but a shared edge may collapse readers onto one connection (section 10.2).
    reply.set_static(std_header::CACHE_CONTROL, "no-cache");
    if representation == Representation::Binary {
        reply.set_static(header::STREAM_SSE_DATA_ENCODING, "base64");
    }
    let events = stream::unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        reader.backend.sent(event.len() as u64);
        Some((event, reader))
    });
    Ok(reply.body(ResponseBody::Events(Box::pin(events))))
}

struct Reader<B: Backend> {
    backend: Rc<B>,
    key: StreamKey,
    representation: Representation,
    incarnation: Incarnation,
    position: Offset,
    client_cursor: Option<u64>,
    /// The start of a character whose rest has not come yet.
    held_back: Vec<Bytes>,
    ready: VecDeque<Bytes>,
    has_spoken: bool,
    is_over: bool,
    ends_at_us: u64,
    tail: B::Tail,
}

impl<B: Backend> Reader<B> {
    /// The next text to send; `None`: the connection ends.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.is_over {
                return None;
            }
            let state = self.tail.state();
            if state.ended || state.incarnation != self.incarnation {
                return None;
            }
            if state.tail > self.position {
                self.advance().await.ok()?;
            } else if state.closed {
                // Closed without data; or the reader came when it was closed already.
                if self.held_back.is_empty() {
                    let control = self.control(true, true);
                    self.ready.push_back(sse_text::control(&control));
                    self.is_over = true;
                } else {
                    // The rest of that character will never come.
                    self.take(self.position, Vec::new(), true, true);
                }
            } else if !self.has_spoken {
                self.has_spoken = true;
                let control = self.control(self.held_back.is_empty(), false);
                self.ready.push_back(sse_text::control(&control));
            } else {
                match self.wait().await {
                    Waited::Changed => {}
                    Waited::Idle => return Some(sse_text::HEARTBEAT),
                    Waited::Over => return None,
                }
            }
        }
    }

    async fn advance(&mut self) -> Result<(), Refusal> {
        if let Some(update) = self.tail.update_at(self.position) {
            let state = self.tail.state();
            let waited_us = self.backend.monotonic_us().saturating_sub(update.heard_us);
            self.backend.delivered(waited_us);
            self.follow_update(&update, state);
            return Ok(());
        }
        let bytes_max = self.backend.settings().read_chunk_bytes.min(CATCH_UP_BYTES);
        let now = plan(
            &*self.backend,
            &self.key,
            ReadFrom::At(self.position),
            bytes_max,
            true,
        )
        .await?;
        if now.meta.incarnation != self.incarnation {
            return Err(Refusal::NotFound);
        }
        let fetched = fetch(&*self.backend, &self.key, now).await?;
        let up_to_date = fetched.is_up_to_date();
        self.take(
            fetched.end,
            fetched.pieces,
            up_to_date,
            fetched.plan.meta.closed,
        );
        Ok(())
    }

    /// Sends an update in the form that is rendered once for all readers of this core.
    fn follow_update(&mut self, update: &LiveUpdate, state: TailState) {
        let up_to_date = state.tail == update.end;
        let is_shared = self.held_back.is_empty()
            && self
                .client_cursor
                .is_none_or(|c| c < cursor(self.backend.now_ms(), None, 0))
            && (self.representation != Representation::Text
                || sse_text::open_character_len(&update.pieces) == 0);
        if !is_shared {
            self.take(update.end, update.pieces.clone(), up_to_date, update.closed);
            return;
        }
        let cursor_now = cursor(self.backend.now_ms(), None, 0);
        let mut rendered = update.rendered.borrow_mut();
        let text = match &*rendered {
            Some((cursor, text)) if *cursor == cursor_now => text.clone(),
            _ => {
                let control = Control {
                    next: update.end,
                    cursor: cursor_now,
                    up_to_date,
                    closed: update.closed && up_to_date,
                };
                let text = sse_text::data(self.representation, &update.pieces, &control);
                *rendered = Some((cursor_now, text.clone()));
                text
            }
        };
        self.position = update.end;
        self.has_spoken = true;
        self.is_over = update.closed && up_to_date;
        self.ready.push_back(text);
    }

    /// Queues an event for these bytes, which start at the position.
    fn take(&mut self, end: Offset, pieces: Vec<Bytes>, up_to_date: bool, closed: bool) {
        let is_last = closed && up_to_date;
        let mut pieces = if self.held_back.is_empty() {
            pieces
        } else {
            let mut all = std::mem::take(&mut self.held_back);
            all.extend(pieces);
            all
        };
        if self.representation == Representation::Text && !is_last {
            let open = sse_text::open_character_len(&pieces) as u64;
            if open > 0 {
                let total: u64 = pieces.iter().map(|p| p.len() as u64).sum();
                let all = pieces.concat();
                crate::protocol::json::truncate(&mut pieces, total - open);
                self.held_back = vec![Bytes::copy_from_slice(&all[(total - open) as usize..])];
            }
        }
        self.position = end;
        if pieces.is_empty() {
            return;
        }
        let control = self.control(up_to_date && self.held_back.is_empty(), is_last);
        self.has_spoken = true;
        self.is_over = is_last;
        self.ready
            .push_back(sse_text::data(self.representation, &pieces, &control));
    }

    fn control(&mut self, up_to_date: bool, closed: bool) -> Control {
        let value = cursor(
            self.backend.now_ms(),
            self.client_cursor,
            self.backend.random(),
        );
        // Never backwards on one connection: the jitter is applied once.
        if self.client_cursor.is_some_and(|c| value > c) {
            self.client_cursor = Some(value - 1);
        }
        // A client that comes back must get a character whole.
        let held: usize = self.held_back.iter().map(Bytes::len).sum();
        Control {
            next: Offset(self.position.0 - held as u64),
            cursor: value,
            up_to_date,
            closed,
        }
    }

    async fn wait(&self) -> Waited {
        let now_us = self.backend.monotonic_us();
        if now_us >= self.ends_at_us {
            return Waited::Over;
        }
        let heartbeat_us = self.backend.settings().sse_heartbeat_ms * 1000;
        let left_us = self.ends_at_us - now_us;
        let changed: Pin<Box<dyn Future<Output = Waited> + '_>> = Box::pin(async {
            self.tail.changed(self.position).await;
            Waited::Changed
        });
        let timed = async {
            self.backend
                .sleep(Duration::from_micros(left_us.min(heartbeat_us)))
                .await;
            if left_us <= heartbeat_us {
                Waited::Over
            } else {
                Waited::Idle
            }
        };
        let stopping = async {
            self.backend.stopping().await;
            Waited::Over
        };
        changed.or(timed).or(stopping).await
    }
}

enum Waited {
    Changed,
    Idle,
    Over,
}
