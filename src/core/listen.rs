//! Accepts connections on one core and serves them with hyper: HTTP/1.1 and HTTP/2 on one port.

use std::cell::Cell;
use std::future::Future;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::rc::Rc;
use std::time::Duration;

use futures_lite::{AsyncWriteExt, FutureExt};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::server::conn::auto;
use socket2::{Domain, Protocol, Socket, Type};

use super::hyper_rt::{CoreTimer, LocalExec, RequestTimer};
use super::net::{Listener, Socket as CoreSocket};
use super::signal::Event;
use super::timeouts::Timeouts;
use crate::http::ResponseBody;

/// How long a client that keeps its connection may begin one more request when the server stops.
const FAREWELL: Duration = Duration::from_millis(250);

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody else does.
    #[error(
        "{addr} is in use by another process; stop it, or give another address with --listen, --admin-listen or --cluster-listen"
    )]
    InUse {
        /// The address.
        addr: SocketAddr,
    },
    /// The system's reason.
    #[error("cannot listen on {addr}: {source}")]
    Io {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// Keeps other servers off an address, which SO_REUSEPORT alone would share with them.
#[derive(Debug)]
pub struct ListenGuard {
    /// The address with its real port.
    pub addr: SocketAddr,
    _lock: Option<UnixListener>,
}

/// How long a server that was killed may keep its sockets: the kernel ends its io_uring requests first.
const LINGER: Duration = Duration::from_secs(1);

/// Takes an address for this process. Port 0 gets a free one.
///
/// # Errors
/// [`ListenError::InUse`] if another process listens there, also a second later.
pub fn guard(addr: SocketAddr) -> Result<ListenGuard, ListenError> {
    let began = super::clock::instant();
    loop {
        match try_guard(addr) {
            Err(ListenError::InUse { .. }) if began.elapsed() < LINGER => {
                std::thread::park_timeout(Duration::from_millis(20));
            }
            result => return result,
        }
    }
}

/// The same without waiting for a server that ends.
///
/// # Errors
/// [`ListenError`].
pub fn try_guard(addr: SocketAddr) -> Result<ListenGuard, ListenError> {
    let io = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AddrInUse => ListenError::InUse { addr },
        _ => ListenError::Io { addr, source },
    };
    let probe =
        Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP)).map_err(io)?;
    probe.set_reuse_address(true).map_err(io)?;
    // Without SO_REUSEPORT this fails beside any listener on the address. It must not listen itself: whom it let in would be
    // cut off, and whom it had no room for would try again a second later.
    probe.bind(&addr.into()).map_err(io)?;
    let real = StdListener::from(probe).local_addr().map_err(io)?;
    // Two servers that start at the same moment both pass the probe; this name only one can have.
    let name = format!("ursula-listen-{real}");
    let lock = UnixAddr::from_abstract_name(name).and_then(|name| UnixListener::bind_addr(&name));
    match lock {
        Ok(lock) => Ok(ListenGuard {
            addr: real,
            _lock: Some(lock),
        }),
        Err(error) => Err(io(error)),
    }
}

/// One core's listener on the guarded address.
///
/// # Errors
/// The system's.
pub fn listener(addr: SocketAddr) -> Result<Listener, ListenError> {
    let io = |source| ListenError::Io { addr, source };
    let socket =
        Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP)).map_err(io)?;
    socket.set_reuse_address(true).map_err(io)?;
    socket.set_reuse_port(true).map_err(io)?;
    socket.bind(&addr.into()).map_err(io)?;
    socket.listen(BACKLOG).map_err(io)?;
    Listener::new(socket.into()).map_err(io)
}

/// Bounds of the connections of one core; each is a setting of the same name.
#[derive(Debug, Clone)]
pub struct ConnectionLimits {
    /// Connections at once.
    pub connections_max: u64,
    /// Time for a request's headers to arrive, from their first bytes; a connection's first ones from its beginning.
    pub header_timeout_ms: u64,
    /// Time that a connection of HTTP/1 may stay open between two requests.
    pub idle_timeout_ms: u64,
    /// Bytes of a request's headers.
    pub header_bytes_max: u64,
    /// Requests at once on an HTTP/2 connection.
    pub h2_streams_max: u64,
    /// Time that open requests have at the end.
    pub shutdown_timeout_ms: u64,
    /// `Retry-After` of a refused connection, in seconds.
    pub retry_after_s: u64,
}

/// What the accept loop tells.
pub trait ConnectionEvents {
    /// A connection was accepted, or has ended.
    fn connections(&self, open: u64);
    /// A connection was refused at the bound.
    fn refused(&self);
    /// A handler panicked.
    fn panicked(&self);
}

/// Accepts until `stop` is raised, then lets connections end and cuts what is left in time.
pub async fn accept_loop<E, S, F>(
    listener: Listener,
    limits: ConnectionLimits,
    timeouts: Rc<Timeouts>,
    stop: Rc<Event>,
    events: Rc<E>,
    serve: S,
) where
    E: ConnectionEvents + 'static,
    S: Fn(Request<Incoming>) -> F + Clone + 'static,
    F: Future<Output = Response<ResponseBody>> + 'static,
{
    let open = Rc::new(Cell::new(0u64));
    let ended = Rc::new(Event::default());
    let limits = Rc::new(limits);
    loop {
        let stopped = async {
            stop.beyond(0).await;
            None
        };
        let accepted = async { Some(listener.accept().await) };
        let stream = match accepted.or(stopped).await {
            None => break,
            Some(Ok(stream)) => stream,
            Some(Err(error)) => {
                log::warn!(
                    "event=accept_failed error={error:?}",
                    error = error.to_string()
                );
                // Out of descriptors, most likely: some connection has to end first.
                glommio::timer::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        if open.get() >= limits.connections_max {
            events.refused();
            super::tasks::spawn(refuse(stream, limits.retry_after_s)).detach();
            continue;
        }
        open.set(open.get() + 1);
        events.connections(open.get());
        let (open, ended, events) = (open.clone(), ended.clone(), events.clone());
        let timer = CoreTimer(timeouts.clone());
        let connection = connection(stream, limits.clone(), timer, stop.clone(), serve.clone());
        super::tasks::spawn(async move {
            if futures_lite::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(connection))
                .await
                .is_err()
            {
                log::error!("event=handler_panicked the connection was closed");
                events.panicked();
            }
            open.set(open.get() - 1);
            events.connections(open.get());
            ended.raise();
        })
        .detach();
    }
    drop(listener);
    let all_ended = async {
        while open.get() > 0 {
            let seen = ended.raised();
            ended.beyond(seen).await;
        }
    };
    let timeout = glommio::timer::sleep(Duration::from_millis(limits.shutdown_timeout_ms));
    all_ended.or(timeout).await;
    if open.get() > 0 {
        log::warn!("event=connections_cut count={}", open.get());
    }
}

async fn refuse(mut stream: CoreSocket, retry_after_s: u64) {
    let text = format!(
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: {retry_after_s}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    );
    if stream.write_all(text.as_bytes()).await.is_ok() {
        // What the client had sent already must not turn the close into a reset that eats the answer.
        let _ = stream.shutdown();
    }
}

/// hyper with the bounds of what a client may send. Its time-outs are for whoever has a timer.
pub fn bounded<E>(executor: E, limits: &ConnectionLimits) -> auto::Builder<E> {
    let mut builder = auto::Builder::new(executor);
    builder
        .http1()
        .max_buf_size((limits.header_bytes_max as usize).max(8192))
        .max_headers(128);
    builder
        .http2()
        .max_concurrent_streams(limits.h2_streams_max as u32)
        .max_header_list_size(limits.header_bytes_max as u32)
        .max_pending_accept_reset_streams(32)
        .max_local_error_reset_streams(128)
        .max_send_buf_size(256 << 10);
    builder
}

async fn connection<S, F>(
    stream: CoreSocket,
    limits: Rc<ConnectionLimits>,
    timer: CoreTimer,
    stop: Rc<Event>,
    serve: S,
) where
    S: Fn(Request<Incoming>) -> F + 'static,
    F: Future<Output = Response<ResponseBody>> + 'static,
{
    if let Err(error) = prepare(&stream) {
        log::debug!(
            "event=socket_option_failed error={error:?}",
            error = error.to_string()
        );
    }
    let has_begun = Rc::new(Cell::new(false));
    let begun = has_begun.clone();
    let is_last = Rc::new(Cell::new(false));
    let (last, is_h2) = (is_last.clone(), Rc::new(Cell::new(false)));
    let h2 = is_h2.clone();
    let too_long = timer
        .0
        .after(Duration::from_millis(limits.header_timeout_ms));
    let service = service_fn(move |request| {
        begun.set(true);
        h2.set(request.version() == Version::HTTP_2);
        let response = serve(request);
        let (last, h2) = (last.clone(), h2.clone());
        async move {
            let mut response = response.await;
            if last.get() && !h2.get() {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let request_timer = RequestTimer {
        timeouts: timer.0.clone(),
        receipts: stream.receipts(),
        headers: Duration::from_millis(limits.header_timeout_ms),
    };
    let mut builder = bounded(LocalExec, &limits);
    builder
        .http1()
        .timer(request_timer)
        .header_read_timeout(Duration::from_millis(limits.idle_timeout_ms));
    builder
        .http2()
        .timer(timer)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    let connection = builder.serve_connection(stream, service);
    let mut connection = std::pin::pin!(connection);
    let stopped = async {
        stop.beyond(0).await;
        None
    };
    // hyper's own time-out begins once it knows the version of HTTP; this one is for who never says a whole request.
    let silent = async {
        too_long.await;
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
            // A connection that is closed while a request is on its way loses it, and the client cannot know whether it was
            // served. HTTP/2 says so in good time; in HTTP/1.1 a client in the middle of its work gets its answer with
            // `Connection: close`, and only who is idle after that is cut (RFC 9112, section 9.6).
            is_last.set(true);
            let ended = if is_h2.get() {
                None
            } else {
                let farewell = async {
                    glommio::timer::sleep(FAREWELL).await;
                    None
                };
                async { Some(connection.as_mut().await) }.or(farewell).await
            };
            if let Some(result) = ended {
                return log_end(result);
            }
            connection.as_mut().graceful_shutdown();
            let timeout = async {
                glommio::timer::sleep(Duration::from_millis(limits.shutdown_timeout_ms)).await;
                Ok(())
            };
            connection.or(timeout).await
        }
    };
    log_end(result);
}

fn log_end<E: std::fmt::Display>(result: Result<(), E>) {
    if let Err(error) = result {
        log::debug!(
            "event=connection_ended error={error:?}",
            error = error.to_string()
        );
    }
}

fn prepare(stream: &CoreSocket) -> std::io::Result<()> {
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    // A client that vanished without a word is noticed within a minute, not after the system's 15 minutes.
    socket.set_tcp_user_timeout(Some(Duration::from_secs(60)))
}
