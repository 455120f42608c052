//! A TCP connection as hyper reads and writes it.

use std::io::{ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use futures_lite::{AsyncRead, AsyncWrite};
use hyper::rt::ReadBufCursor;
use socket2::{Domain, Protocol, Socket as RawSocket, Type};

use super::poller::{Poller, Readiness};
use super::turns::TURN_BYTES;

/// Up to here, copying pieces together is cheaper than telling the kernel of each.
const SMALL_BYTES: usize = 1024;

/// See the module's head.
pub struct Socket {
    fd: OwnedFd,
    place: usize,
    readiness: Rc<Readiness>,
    poller: Rc<Poller>,
}

/// Tells whether a socket has received something, also when somebody else owns the socket.
#[derive(Clone)]
pub struct Receipts(Rc<Readiness>);

impl Receipts {
    /// How many times something was received; wraps.
    pub fn count(&self) -> u32 {
        self.0.receipts.get()
    }
}

impl Socket {
    /// See [`Receipts`].
    pub fn receipts(&self) -> Receipts {
        Receipts(self.readiness.clone())
    }

    /// A socket that does not block, from now on this executor's.
    pub(super) fn new(fd: OwnedFd) -> std::io::Result<Socket> {
        let poller = Poller::of_executor()?;
        let (place, readiness) = poller.watch(fd.as_raw_fd())?;
        Ok(Socket {
            fd,
            place,
            readiness,
            poller,
        })
    }

    /// What is sent here never stands in line behind others that have much to send: many wait for it.
    pub fn goes_first(&self) {
        self.readiness.turn.is_free.set(true);
    }

    /// Connects.
    ///
    /// # Errors
    /// The system's. There is no time-out of its own.
    pub async fn connect(addr: SocketAddr) -> std::io::Result<Socket> {
        let raw = RawSocket::new(
            Domain::for_address(addr),
            Type::STREAM.nonblocking(),
            Some(Protocol::TCP),
        )?;
        match raw.connect(&addr.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let socket = Socket::new(raw.into())?;
        socket.readiness.writable.set(false);
        futures_lite::future::poll_fn(|cx| {
            if socket.readiness.writable.get() {
                return Poll::Ready(());
            }
            *socket.readiness.writer.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
        match socket2::SockRef::from(&socket.fd).take_error()? {
            Some(error) => Err(error),
            None => Ok(socket),
        }
    }

    /// Sends no more.
    ///
    /// # Errors
    /// The system's.
    pub fn shutdown(&self) -> std::io::Result<()> {
        socket2::SockRef::from(&self.fd).shutdown(std::net::Shutdown::Write)
    }

    fn receive(
        &self,
        cx: &mut Context<'_>,
        free: *mut u8,
        len: usize,
    ) -> Poll<std::io::Result<usize>> {
        let received = &self.readiness.turn.received;
        if received.get() >= TURN_BYTES {
            // Who has as much again to read goes on behind all others.
            received.set(0);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            if !self.readiness.readable.get() {
                received.set(0);
                set(&self.readiness.reader, cx);
                return Poll::Pending;
            }
            // SAFETY: the caller's memory is valid for `len` bytes; recv(2) writes it and does not read it.
            let n =
                unsafe { libc::recv(self.fd.as_raw_fd(), free.cast(), len, libc::MSG_DONTWAIT) };
            if n >= 0 {
                let receipts = &self.readiness.receipts;
                receipts.set(receipts.get().wrapping_add(1));
                received.set(received.get() + n as usize);
                // What did not fill the buffer was all there was; what comes later, the end included, is told anew.
                if (n as usize) < len && !self.readiness.ended.get() {
                    self.readiness.readable.set(false);
                }
                return Poll::Ready(Ok(n as usize));
            }
            match last_error() {
                None => self.readiness.readable.set(false),
                Some(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// What may still be sent in this turn.
    fn room(&self) -> usize {
        self.poller.turns.room(&self.readiness.turn)
    }

    fn send(
        &self,
        cx: &mut Context<'_>,
        send: impl Fn(RawFd, i32) -> isize,
    ) -> Poll<std::io::Result<usize>> {
        let sent = &self.readiness.turn.sent;
        if self.readiness.writable.get() && self.room() == 0 {
            set(&self.readiness.turn.waiter, cx);
            self.poller.turns.wait(&self.readiness);
            return Poll::Pending;
        }
        loop {
            if !self.readiness.writable.get() {
                set(&self.readiness.writer, cx);
                return Poll::Pending;
            }
            let n = send(self.fd.as_raw_fd(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
            if n >= 0 {
                sent.set(sent.get() + n as usize);
                return Poll::Ready(Ok(n as usize));
            }
            match last_error() {
                None => self.readiness.writable.set(false),
                Some(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

/// `None`: it would have had to wait.
fn last_error() -> Option<std::io::Error> {
    let error = std::io::Error::last_os_error();
    match error.kind() {
        ErrorKind::WouldBlock => None,
        _ => Some(error),
    }
}

fn set(waiting: &std::cell::RefCell<Option<std::task::Waker>>, cx: &Context<'_>) {
    let mut waiting = waiting.borrow_mut();
    match &*waiting {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *waiting = Some(cx.waker().clone()),
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.readiness.turn.waiter.take();
        self.poller.forget(self.place);
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl std::os::fd::AsFd for Socket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl hyper::rt::Read for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        // SAFETY: the bytes are only handed to recv(2), which writes and never reads them; `advance` below
        // counts exactly those that it wrote.
        let free = unsafe { buf.as_mut() };
        let (start, len) = (free.as_mut_ptr().cast::<u8>(), free.len());
        let n = ready!(self.receive(cx, start, len))?;
        // SAFETY: `n` bytes were initialized by the read above.
        unsafe { buf.advance(n) };
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.send(cx, |fd, flags| {
            // SAFETY: the slice is valid for its length, and the call only reads it.
            unsafe { libc::send(fd, buf.as_ptr().cast(), buf.len().min(self.room()), flags) }
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// With this, hyper need not copy a body behind its headers, and many readers of the same event share its bytes down to
    /// the socket.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let total: usize = slices.iter().map(|s| s.len()).sum();
        if total <= SMALL_BYTES {
            let mut small = [0; SMALL_BYTES];
            let mut len = 0;
            for slice in slices {
                small[len..len + slice.len()].copy_from_slice(slice);
                len += slice.len();
            }
            return hyper::rt::Write::poll_write(self, cx, &small[..len]);
        }
        let room = self.room();
        let first = slices.iter().find(|s| !s.is_empty());
        if let Some(first) = first.filter(|s| s.len() >= room) {
            return hyper::rt::Write::poll_write(self, cx, first);
        }
        // As much as this turn takes: a long body that stands behind its headers is cut.
        let mut cut = Vec::new();
        let mut slices = slices;
        if total > room {
            let mut left = room;
            for slice in slices {
                cut.push(IoSlice::new(&slice[..slice.len().min(left)]));
                left -= slice.len().min(left);
                if left == 0 {
                    break;
                }
            }
            slices = &cut;
        }
        self.send(cx, |fd, flags| {
            // SAFETY: all fields of a msghdr may be zero.
            let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
            message.msg_iov = slices.as_ptr().cast_mut().cast();
            message.msg_iovlen = slices.len().min(libc::UIO_MAXIOV as usize) as _;
            // SAFETY: an `IoSlice` is an iovec by its documentation; the call only reads them, and they outlive it.
            unsafe { libc::sendmsg(fd, &raw const message, flags) }
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(self.shutdown())
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<std::io::Result<usize>> {
        self.receive(cx, buf.as_mut_ptr(), buf.len())
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        hyper::rt::Write::poll_write(self, cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(self.shutdown())
    }
}
