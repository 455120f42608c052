//! What both ends of a connection need: its socket's options, its tasks, its time-outs.

use std::future::Future;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::FutureExt;
use hyper::body::Body;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::rt::Executor;
use socket2::{SockRef, TcpKeepalive};

use super::PeerSettings;
use super::grpc::{Code, GrpcError};
use super::message::cause;
use crate::core::hyper_rt::{CoreTimer, LocalExec};
use crate::core::net::Socket;
use crate::core::signal::Event;
use crate::core::timeouts::Timeouts;

/// Bytes that may be on their way on one connection: a batch, and the next.
pub(super) const WINDOW_BYTES: u32 = 8 << 20;
/// HTTP/2's frames; the default of 16 KiB makes 500 of a large append.
pub(super) const FRAME_BYTES: u32 = 256 << 10;
/// What the connection takes from a body before the socket takes it.
pub(super) const SEND_BUFFER_BYTES: usize = 1 << 20;
/// No call needs more.
pub(super) const HEADERS_BYTES_MAX: u32 = 16 << 10;

/// The tasks of one connection. hyper spawns several and ends them only when both sides are done; here all end at once.
#[derive(Clone)]
pub(super) struct Tasks(Rc<Event>);

/// Ends the tasks when it is dropped, and with them the socket.
pub(super) struct Connected(Rc<Event>);

pub(super) fn tasks() -> (Tasks, Connected) {
    let ended = Rc::new(Event::default());
    (Tasks(ended.clone()), Connected(ended))
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.raise();
    }
}

impl<F> Executor<F> for Tasks
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        let ended = self.0.clone();
        LocalExec.execute(async move {
            let guarded = async {
                if AssertUnwindSafe(future).catch_unwind().await.is_err() {
                    log::error!("event=peer_handler_panicked the call was closed");
                }
            };
            let cut = async {
                ended.beyond(0).await;
            };
            guarded.or(cut).await;
        });
    }
}

/// A peer that vanished without a word is noticed within about `silence`, whether something was sent to it or not.
pub(super) fn prepare(stream: &Socket, silence: Duration) -> std::io::Result<()> {
    stream.goes_first();
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(silence))?;
    let second = Duration::from_secs(1);
    let keepalive = TcpKeepalive::new()
        .with_time(second)
        .with_interval(second)
        .with_retries(2);
    socket.set_tcp_keepalive(&keepalive)
}

/// Connects and speaks HTTP/2, which asks for a sign of life after so long without one.
pub(super) async fn connect<B>(
    address: &str,
    settings: &PeerSettings,
    timeouts: &Rc<Timeouts>,
    unanswered: Duration,
) -> Result<(SendRequest<B>, Connected), GrpcError>
where
    B: Body + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let failed = |error: &dyn std::error::Error| {
        GrpcError::new(
            Code::Unavailable,
            format!("cannot connect to {address}: {}", cause(error)),
        )
    };
    let resolved = resolve(address).await.map_err(|error| failed(&error))?;
    let stream = within(settings.connect_timeout, "connecting", async {
        let connected = Socket::connect(resolved).await;
        connected.map_err(|error| failed(&error))
    })
    .await?;
    prepare(&stream, settings.silence).map_err(|error| failed(&error))?;
    let (tasks, connected) = tasks();
    let handshake = Builder::new(tasks.clone())
        .timer(CoreTimer(timeouts.clone()))
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        // TCP lives on when the process behind it stands still; this does not. It asks where no sign of life came.
        .keep_alive_interval(unanswered)
        .keep_alive_timeout(settings.silence / 2)
        .handshake(stream);
    let (sender, connection) = within(settings.connect_timeout, "its handshake", async {
        handshake.await.map_err(|error| failed(&error))
    })
    .await?;
    tasks.execute(async move {
        if let Err(error) = connection.await {
            log::debug!("event=peer_connection_ended error={:?}", cause(&error));
        }
    });
    Ok((sender, connected))
}

/// Names are looked up by the system, which blocks: on another thread.
async fn resolve(address: &str) -> std::io::Result<SocketAddr> {
    if let Ok(address) = address.parse() {
        return Ok(address);
    }
    let name = address.to_owned();
    let looked_up: std::io::Result<_> = glommio::executor()
        .spawn_blocking(move || {
            let mut found = std::net::ToSocketAddrs::to_socket_addrs(&name)?;
            std::io::Result::Ok(found.next())
        })
        .await;
    looked_up?.ok_or_else(|| std::io::Error::other("the name has no address"))
}

/// The result of `future`, or [`Code::DeadlineExceeded`].
pub(super) async fn within<T>(
    timeout: Duration,
    what: &str,
    future: impl Future<Output = Result<T, GrpcError>>,
) -> Result<T, GrpcError> {
    let late = async {
        glommio::timer::sleep(timeout).await;
        Err(GrpcError::new(
            Code::DeadlineExceeded,
            format!("{what} took more than {} ms", timeout.as_millis()),
        ))
    };
    future.or(late).await
}
