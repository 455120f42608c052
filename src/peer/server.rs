//! Accepts peers on one core and answers their calls.

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::{FutureExt, Stream, StreamExt, stream};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use prost::Message;
use raftproto::peer::{FetchBytesRequest, FetchCheckpointRequest, Hello, JudgeChunkRequest};

use super::connection::{
    FRAME_BYTES, HEADERS_BYTES_MAX, SEND_BUFFER_BYTES, WINDOW_BYTES, prepare, tasks, within,
};
use super::exchange::{Refused, exchange};
use super::grpc::{Code, GrpcError, ReplyBody, SERVICE, accepts_zstd, encoding, is_grpc, response};
use super::handshake::judge;
use super::life::{beat, unheard};
use super::message::{Encoder, Messages, Side, cause};
use super::{CheckpointParts, PeerEvents, Transport};
use crate::core::hyper_rt::{CoreTimer, LocalExec};
use crate::core::net::{Listener, Socket};

/// Calls that end have this long when the node stops.
const STOP_TIMEOUT: Duration = Duration::from_millis(200);

/// Of the requests of calls that end.
const REQUEST_BYTES_MAX: usize = 1 << 20;

/// Serves peers on `listener` (see [`crate::core::listen::listener`]) until the transport stops.
pub async fn serve<E: PeerEvents>(listener: Listener, transport: Transport<E>) {
    let (beats, silence) = (transport.beats.clone(), transport.settings.silence);
    let beats = async { match beat(&beats, silence).await {} };
    accept_all(listener, transport).or(beats).await;
}

async fn accept_all<E: PeerEvents>(listener: Listener, transport: Transport<E>) {
    let open = Rc::new(Cell::new(0u64));
    let refused = Rc::new(Refused::default());
    loop {
        let stopped = async {
            transport.stop.beyond(0).await;
            None
        };
        let accepted = async { Some(listener.accept().await) };
        let stream = match accepted.or(stopped).await {
            None => return,
            Some(Ok(stream)) => stream,
            Some(Err(error)) => {
                log::warn!(
                    "event=peer_accept_failed error={error:?}",
                    error = error.to_string()
                );
                glommio::timer::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        if open.get() >= transport.settings.connections_max {
            log::warn!("event=peer_connection_refused open={}", open.get());
            continue;
        }
        let open = Open::new(open.clone(), transport.events.clone());
        let connection = connection(stream, transport.clone(), refused.clone());
        LocalExec.execute(async move {
            connection.await;
            drop(open);
        });
    }
}

/// Counts a connection, also one whose task panicked.
struct Open<E: PeerEvents> {
    count: Rc<Cell<u64>>,
    events: Rc<E>,
}

impl<E: PeerEvents> Open<E> {
    fn new(count: Rc<Cell<u64>>, events: Rc<E>) -> Open<E> {
        count.set(count.get() + 1);
        events.on_connections(count.get());
        Open { count, events }
    }
}

impl<E: PeerEvents> Drop for Open<E> {
    fn drop(&mut self) {
        self.count.set(self.count.get() - 1);
        self.events.on_connections(self.count.get());
    }
}

async fn connection<E: PeerEvents>(stream: Socket, transport: Transport<E>, refused: Rc<Refused>) {
    let settings = transport.settings.clone();
    if let Err(error) = prepare(&stream, settings.silence) {
        log::debug!(
            "event=socket_option_failed error={error:?}",
            error = error.to_string()
        );
    }
    let (tasks, _connected) = tasks();
    let stop = transport.stop.clone();
    let timer = CoreTimer(transport.timeouts.clone());
    let has_begun = Rc::new(Cell::new(false));
    let begun = has_begun.clone();
    let service = service_fn(move |request| {
        begun.set(true);
        let response = answer(&transport, &refused, request);
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let connection = Builder::new(tasks)
        .timer(timer)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .max_concurrent_streams(settings.calls_max)
        .max_pending_accept_reset_streams(32)
        .max_local_error_reset_streams(128)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .keep_alive_interval(unheard(settings.silence))
        .keep_alive_timeout(settings.silence - unheard(settings.silence))
        .serve_connection(stream, service);
    let mut connection = std::pin::pin!(connection);
    let stopped = async {
        stop.beyond(0).await;
        None
    };
    // hyper has no time-out for who connects and says nothing.
    let silent = async {
        glommio::timer::sleep(settings.silence).await;
        if has_begun.get() {
            std::future::pending().await
        } else {
            Some(Ok(()))
        }
    };
    let served = async { Some(connection.as_mut().await) };
    let result = match served.or(stopped).or(silent).await {
        Some(result) => result,
        None => {
            connection.as_mut().graceful_shutdown();
            let timeout = async {
                glommio::timer::sleep(STOP_TIMEOUT).await;
                Ok(())
            };
            connection.or(timeout).await
        }
    };
    if let Err(error) = result {
        log::debug!("event=peer_connection_ended error={:?}", cause(&error));
    }
}

/// Headers at once; the work is done as the body is pulled.
fn answer<E: PeerEvents>(
    transport: &Transport<E>,
    refused: &Rc<Refused>,
    request: Request<Incoming>,
) -> Response<ReplyBody> {
    let (head, body) = request.into_parts();
    if head.method != Method::POST || !is_grpc(&head.headers) {
        let mut response = Response::new(ReplyBody::empty());
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return response;
    }
    let encoding = match encoding(&head.headers) {
        Ok(encoding) => encoding,
        Err(error) => return response(false, ReplyBody::new(stream::once(Err(error)))),
    };
    let is_zstd = accepts_zstd(&head.headers);
    let compress_from = is_zstd.then_some(transport.settings.compress_from_bytes);
    let encoder = Encoder::new(compress_from);
    let messages = |bytes_max| Messages::new(body, Side::Caller, encoding, bytes_max);
    let own = transport.clone();
    let body = match head.uri.path().strip_prefix(SERVICE) {
        Some("Exchange") => {
            let messages = messages(transport.settings.message_bytes_max);
            ReplyBody::new(exchange(own, refused.clone(), messages))
        }
        Some("Status") => {
            let messages = messages(REQUEST_BYTES_MAX);
            unary(own, messages, encoder, async |events: &E, request| {
                Ok(events.status(request).await)
            })
        }
        Some("Administer") => {
            let messages = messages(REQUEST_BYTES_MAX);
            unary(own, messages, encoder, async |events: &E, request| {
                events.administer(request).await
            })
        }
        Some("FetchBytes") => {
            let messages = messages(REQUEST_BYTES_MAX);
            unary(own, messages, encoder, async |events: &E, request| {
                let request: FetchBytesRequest = request;
                introduce(events, request.from.as_ref())?;
                events.bytes(request).await
            })
        }
        Some("JudgeChunk") => {
            let messages = messages(REQUEST_BYTES_MAX);
            unary(own, messages, encoder, async |events: &E, request| {
                let request: JudgeChunkRequest = request;
                introduce(events, request.from.as_ref())?;
                Ok(events.judge_chunk(request).await)
            })
        }
        Some("FetchCheckpoint") => {
            ReplyBody::new(checkpoint(own, messages(REQUEST_BYTES_MAX), encoder))
        }
        _ => {
            let text = format!("{} is no method of this node", head.uri.path());
            let error = GrpcError::new(Code::Unimplemented, text);
            ReplyBody::new(stream::once(Err(error)))
        }
    };
    response(is_zstd, body)
}

fn unary<E, Q, A>(
    transport: Transport<E>,
    mut messages: Messages<Incoming>,
    mut encoder: Encoder,
    answer: impl AsyncFnOnce(&E, Q) -> Result<A, GrpcError> + 'static,
) -> ReplyBody
where
    E: PeerEvents,
    Q: Message + Default + 'static,
    A: Message + 'static,
{
    ReplyBody::new(stream::once_future(async move {
        let request = only(&transport, &mut messages).await?;
        let reply = answer(&transport.events, request).await?;
        Ok(encoder.encode(&reply))
    }))
}

async fn only<E, Q: Message + Default>(
    transport: &Transport<E>,
    messages: &mut Messages<Incoming>,
) -> Result<Q, GrpcError> {
    within(
        transport.settings.call_timeout,
        "the request",
        messages.only(),
    )
    .await
}

enum Sending {
    Asked(Messages<Incoming>),
    Parts(CheckpointParts),
    Ended,
}

/// The frames of a checkpoint's parts, each made when the one before it was taken.
fn checkpoint<E: PeerEvents>(
    transport: Transport<E>,
    messages: Messages<Incoming>,
    encoder: Encoder,
) -> impl Stream<Item = Result<Bytes, GrpcError>> {
    let first = (Sending::Asked(messages), encoder);
    stream::unfold(first, move |(state, mut encoder)| {
        let transport = transport.clone();
        async move {
            let mut parts = match state {
                Sending::Asked(messages) => match begin(&transport, messages).await {
                    Ok(parts) => parts,
                    Err(error) => return Some((Err(error), (Sending::Ended, encoder))),
                },
                Sending::Parts(parts) => parts,
                Sending::Ended => return None,
            };
            match parts.next().await? {
                Ok(part) => {
                    let frame = encoder.encode(&part);
                    Some((Ok(frame), (Sending::Parts(parts), encoder)))
                }
                Err(error) => Some((Err(error), (Sending::Ended, encoder))),
            }
        }
    })
}

async fn begin<E: PeerEvents>(
    transport: &Transport<E>,
    mut messages: Messages<Incoming>,
) -> Result<CheckpointParts, GrpcError> {
    let request: FetchCheckpointRequest = only(transport, &mut messages).await?;
    introduce(&*transport.events, request.from.as_ref())?;
    transport.events.checkpoint(request).await
}

/// Who asks for data is of the same cluster, and says so.
fn introduce<E: PeerEvents>(events: &E, from: Option<&Hello>) -> Result<(), GrpcError> {
    let nobody = || GrpcError::new(Code::InvalidArgument, "the request does not say who asks");
    let judged = judge(&events.hello(), from.ok_or_else(nobody)?, None);
    judged.map_err(|text| GrpcError::new(Code::FailedPrecondition, text))
}
