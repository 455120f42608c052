//! The HTTP client of one core, for storage's S3: hyper on glommio, connections kept for the next request.
//! A kept connection that turns out to be closed costs no attempt: its request goes out once more on a new one.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_lite::{AsyncRead, AsyncWrite, FutureExt};
use futures_rustls::TlsConnector;
use futures_rustls::rustls::pki_types::ServerName;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, SizeHint};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::rt::ReadBufCursor;
use hyper::{Request, Response};
use storage::cold::s3::{HttpClient, HttpFailure, HttpFuture, HttpReply, HttpRequest};

use super::clock;
use super::net::Socket;
use super::tasks;
use super::tls::{FuturesIo, TlsRoots, expires_s};

/// Servers close connections that were silent for some twenty seconds.
const IDLE: Duration = Duration::from_secs(10);
/// Connections kept for one server.
const IDLE_MAX: usize = 32;

/// See the module's head.
pub struct CoreHttp {
    roots: TlsRoots,
    connect_timeout: Duration,
    told_expiry: Box<dyn Fn(u64)>,
    idle: RefCell<BTreeMap<(bool, String), Vec<Idle>>>,
}

struct Idle {
    sender: SendRequest<Pieces>,
    since: Instant,
}

impl CoreHttp {
    /// A client without connections. With each new one that has TLS, `told_expiry` hears when the certificates that the server
    /// showed end, in seconds since 1970.
    pub fn new(
        roots: TlsRoots,
        connect_timeout: Duration,
        told_expiry: impl Fn(u64) + 'static,
    ) -> CoreHttp {
        CoreHttp {
            roots,
            connect_timeout,
            told_expiry: Box::new(told_expiry),
            idle: RefCell::default(),
        }
    }

    async fn exchange(&self, request: &HttpRequest) -> Result<HttpReply, HttpFailure> {
        let place = (request.is_tls, request.authority.clone());
        while let Some(mut sender) = self.take_idle(&place) {
            if sender.ready().await.is_err() {
                continue;
            }
            match self.send_on(&mut sender, request).await {
                Ok((reply, is_kept)) => {
                    self.keep(place, sender, is_kept);
                    return Ok(reply);
                }
                Err(HttpFailure::Broken(_)) => break,
                Err(failure) => return Err(failure),
            }
        }
        let mut sender = self.connect(request).await?;
        let (reply, is_kept) = self.send_on(&mut sender, request).await?;
        self.keep(place, sender, is_kept);
        Ok(reply)
    }

    fn take_idle(&self, place: &(bool, String)) -> Option<SendRequest<Pieces>> {
        let now = clock::instant();
        let mut all = self.idle.borrow_mut();
        let idle = all.get_mut(place)?;
        idle.retain(|kept| now - kept.since < IDLE && !kept.sender.is_closed());
        idle.pop().map(|kept| kept.sender)
    }

    fn keep(&self, place: (bool, String), sender: SendRequest<Pieces>, is_kept: bool) {
        let mut all = self.idle.borrow_mut();
        let idle = all.entry(place).or_default();
        if is_kept && !sender.is_closed() && idle.len() < IDLE_MAX {
            let since = clock::instant();
            idle.push(Idle { sender, since });
        }
    }

    async fn send_on(
        &self,
        sender: &mut SendRequest<Pieces>,
        request: &HttpRequest,
    ) -> Result<(HttpReply, bool), HttpFailure> {
        let mut head = Request::builder()
            .method(request.method)
            .uri(&request.target);
        for (name, value) in &request.headers {
            head = head.header(name, value);
        }
        let wrong = |e: hyper::http::Error| HttpFailure::Misconfigured(e.to_string());
        let body = Pieces::of(&request.body);
        let message = head.body(body).map_err(wrong)?;
        let answer = sender.send_request(message).await;
        let answer = answer.map_err(|error| match error.is_parse() && !request.is_tls {
            true => HttpFailure::Misconfigured(format!(
                "{} does not answer in HTTP ({error}): if it speaks TLS, `s3_endpoint` must begin with https://",
                request.authority
            )),
            false => broken(error),
        })?;
        read(answer, request.answer_bytes_max).await
    }

    async fn connect(&self, request: &HttpRequest) -> Result<SendRequest<Pieces>, HttpFailure> {
        let late = async {
            glommio::timer::sleep(self.connect_timeout).await;
            let millis = self.connect_timeout.as_millis();
            Err(HttpFailure::Connect(format!("not within {millis} ms")))
        };
        self.connect_now(request).or(late).await
    }

    async fn connect_now(&self, request: &HttpRequest) -> Result<SendRequest<Pieces>, HttpFailure> {
        let failed = |e: &dyn std::fmt::Display| HttpFailure::Connect(e.to_string());
        let default_port = if request.is_tls { 443 } else { 80 };
        let (host, port) = host_and_port(&request.authority, default_port).ok_or_else(|| {
            HttpFailure::Misconfigured(format!("{:?} is no host", request.authority))
        })?;
        let mut reason = HttpFailure::Connect(format!("{host} has no address"));
        for address in resolve(host.clone(), port).await.map_err(|e| failed(&e))? {
            let stream = match Socket::connect(address).await {
                Ok(stream) => stream,
                Err(error) => {
                    reason = failed(&error);
                    continue;
                }
            };
            let nodelay = socket2::SockRef::from(&stream).set_tcp_nodelay(true);
            nodelay.map_err(|e| failed(&e))?;
            limit_window(&stream);
            let stream = Acknowledging(stream);
            if !request.is_tls {
                return handshake(stream).await;
            }
            let config = self.roots.config().await?;
            let name = ServerName::try_from(host)
                .map_err(|e| HttpFailure::Misconfigured(e.to_string()))?;
            let stream = TlsConnector::from(config).connect(name, stream).await;
            let stream = stream.map_err(tls_failed)?;
            let (_, session) = stream.get_ref();
            if let Some(expires_s) = session.peer_certificates().and_then(expires_s) {
                (self.told_expiry)(expires_s);
            }
            return handshake(FuturesIo(stream)).await;
        }
        Err(reason)
    }
}

/// Bytes that a server may send before they are acknowledged. As many come in one piece, which the kernel takes in while the
/// executor waits: where the server is on the same machine it takes 0.1 ms or so for these, and some milliseconds without a limit.
/// At a distance of 5 ms it is 100 MB/s for each connection.
const WINDOW_BYTES: libc::c_int = 512 << 10;

fn limit_window(stream: &Socket) {
    // SAFETY: the descriptor is open, and the value and its size are those of the option. Where it fails there is no limit.
    unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_WINDOW_CLAMP,
            std::ptr::from_ref(&WINDOW_BYTES).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}

/// A stream that acknowledges at once what came, instead of some 40 ms later in the hope of something to send along. A server
/// that sends its headers and its body apart, with Nagle's algorithm on, sends the body only then. The kernel forgets this
/// with each answer, so it is said with each.
struct Acknowledging(Socket);

impl Acknowledging {
    fn acknowledge(&self) {
        // Where it fails, the other side waits a while longer.
        let _ = socket2::SockRef::from(&self.0).set_tcp_quickack(true);
    }
}

impl hyper::rt::Read for Acknowledging {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        let had = buf.remaining();
        // SAFETY: the bytes are only lent on, to a socket that writes and never reads them.
        let lent = unsafe { buf.as_mut() };
        let mut lent = hyper::rt::ReadBuf::uninit(lent);
        ready!(hyper::rt::Read::poll_read(
            Pin::new(&mut self.0),
            cx,
            lent.unfilled()
        ))?;
        let n = lent.filled().len();
        // SAFETY: the read above filled so many.
        unsafe { buf.advance(n) };
        // What filled the buffer has more behind it.
        if n < had {
            self.acknowledge();
        }
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Acknowledging {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        hyper::rt::Write::poll_write(Pin::new(&mut self.0), cx, buf)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        hyper::rt::Write::poll_write_vectored(Pin::new(&mut self.0), cx, slices)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        hyper::rt::Write::poll_flush(Pin::new(&mut self.0), cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        hyper::rt::Write::poll_shutdown(Pin::new(&mut self.0), cx)
    }
}

impl AsyncRead for Acknowledging {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<std::io::Result<usize>> {
        let n = ready!(AsyncRead::poll_read(Pin::new(&mut self.0), cx, buf))?;
        // As above.
        if n < buf.len() {
            self.acknowledge();
        }
        Poll::Ready(Ok(n))
    }
}

impl AsyncWrite for Acknowledging {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.0), cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.0), cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        AsyncWrite::poll_close(Pin::new(&mut self.0), cx)
    }
}

impl HttpClient for CoreHttp {
    fn send(&self, request: HttpRequest) -> HttpFuture<'_> {
        Box::pin(async move {
            // It runs in a queue of its own, of which the poller does not know whether it has something to do.
            let _under_way = storage::blocking::under_way();
            let late = async {
                glommio::timer::sleep(Duration::from_millis(request.timeout_ms)).await;
                Err(HttpFailure::Timeout(request.timeout_ms))
            };
            self.exchange(&request).or(late).await
        })
    }
}

async fn handshake<S>(io: S) -> Result<SendRequest<Pieces>, HttpFailure>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
{
    let (sender, connection) = Builder::new().handshake(io).await.map_err(broken)?;
    let run = tasks::sliced(async move {
        if let Err(error) = connection.await {
            log::debug!(
                "event=cold_connection_ended error={error:?}",
                error = error.to_string()
            );
        }
    });
    tasks::spawn(run).detach();
    Ok(sender)
}

/// The whole answer, and whether the connection can be used again.
async fn read(
    answer: Response<hyper::body::Incoming>,
    bytes_max: u64,
) -> Result<(HttpReply, bool), HttpFailure> {
    let (head, mut body) = answer.into_parts();
    let length = body.size_hint().lower();
    if length > bytes_max {
        return Err(HttpFailure::TooLong(bytes_max));
    }
    let mut all = BytesMut::with_capacity(length as usize);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(broken)?.into_data() else {
            continue;
        };
        if (all.len() + data.len()) as u64 > bytes_max {
            return Err(HttpFailure::TooLong(bytes_max));
        }
        all.extend_from_slice(&data);
    }
    let text =
        |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers: Vec<(String, String)> = head
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), text(value)))
        .collect();
    let is_kept = !headers
        .iter()
        .any(|(n, v)| n == "connection" && v.eq_ignore_ascii_case("close"));
    let reply = HttpReply {
        status: head.status.as_u16(),
        headers,
        body: all.freeze(),
    };
    Ok((reply, is_kept))
}

fn broken(error: hyper::Error) -> HttpFailure {
    let source = std::error::Error::source(&error).map(|s| format!(": {s}"));
    HttpFailure::Broken(format!("{error}{}", source.unwrap_or_default()))
}

/// A certificate that is not believed is nobody's passing trouble.
fn tls_failed(error: std::io::Error) -> HttpFailure {
    match error.kind() {
        std::io::ErrorKind::InvalidData => {
            let text = error.to_string();
            HttpFailure::Misconfigured(format!(
                "TLS with the cold store fails: {text} ({})",
                tls_hint(&text)
            ))
        }
        _ => HttpFailure::Connect(error.to_string()),
    }
}

/// What to do, by what rustls says: it has no types for all of it.
fn tls_hint(text: &str) -> &'static str {
    if text.contains("CaUsedAsEndEntity") {
        "the server shows an authority's own certificate, as `openssl req -x509` makes them: it needs one that an authority has \
         signed, and `s3_ca_file` names that authority's"
    } else if text.contains("InvalidContentType") {
        "it does not speak TLS: `s3_endpoint` must begin with http:// then"
    } else {
        "a private authority is named by `s3_ca_file`"
    }
}

fn host_and_port(authority: &str, default_port: u16) -> Option<(String, u16)> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
        _ => (authority, default_port),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

/// Names are looked up by the system, which blocks: on another thread.
async fn resolve(host: String, port: u16) -> std::io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = host.parse() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    storage::blocking::run(move || {
        let found = std::net::ToSocketAddrs::to_socket_addrs(&(host.as_str(), port))?;
        Ok(found.collect())
    })
    .await
}

/// A body of pieces, none of which is copied.
struct Pieces {
    rest: VecDeque<Bytes>,
    length: u64,
}

impl Pieces {
    fn of(pieces: &[Bytes]) -> Pieces {
        Pieces {
            rest: pieces.iter().cloned().collect(),
            length: pieces.iter().map(|p| p.len() as u64).sum(),
        }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.rest.pop_front();
        self.length -= piece.as_ref().map_or(0, |p| p.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_a_host_and_a_port() {
        let table = [
            ("a.example", Some(("a.example", 443))),
            ("a:1", Some(("a", 1))),
            ("[::1]:2", Some(("::1", 2))),
            ("[::1]", Some(("::1", 443))),
            ("a:x", None),
            ("", None),
        ];
        for (authority, expected) in table {
            let expected = expected.map(|(h, p)| (h.to_owned(), p));
            assert_eq!(host_and_port(authority, 443), expected, "{authority}");
        }
    }
}
