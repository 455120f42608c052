//! hyper's traits on glommio: sockets, tasks and timers of the own executor.

use std::future::Future;
use std::io::{ErrorKind, IoSlice};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_lite::{AsyncRead, AsyncWrite};
use hyper::rt::{Executor, Read, ReadBufCursor, Sleep, Timer, Write};

use super::timeouts::{Timeout, Timeouts};

/// Up to here, copying pieces together is cheaper than telling the kernel of each.
const SMALL_BYTES: usize = 1024;

/// A glommio socket as hyper reads and writes it.
pub struct GlommioIo<S>(pub S);

impl<S: AsyncRead + Unpin> Read for GlommioIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        // SAFETY: the bytes are only handed to recv(2), which writes and never reads them; `advance` below
        // counts exactly those that it wrote.
        let free = unsafe { buf.as_mut() };
        let len = free.len();
        // SAFETY: as above: same memory, same length, written before it is read.
        let free = unsafe { std::slice::from_raw_parts_mut(free.as_mut_ptr().cast::<u8>(), len) };
        let n = ready!(Pin::new(&mut self.0).poll_read(cx, free))?;
        // SAFETY: `n` bytes were initialized by the read above.
        unsafe { buf.advance(n) };
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + AsRawFd + Unpin> Write for GlommioIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// glommio writes one slice at a time; with this, hyper need not copy a body behind its headers, and many readers
    /// of the same event share its bytes down to the socket.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
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
            return Pin::new(&mut self.0).poll_write(cx, &small[..len]);
        }
        match send_vectored(self.0.as_raw_fd(), slices) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                // Tries once more and then waits until the socket takes bytes.
                let first = slices.iter().find(|s| !s.is_empty());
                let first = first.map_or(&[][..], |s| s);
                Pin::new(&mut self.0).poll_write(cx, first)
            }
            result => Poll::Ready(result),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}

fn send_vectored(fd: RawFd, slices: &[IoSlice<'_>]) -> std::io::Result<usize> {
    // SAFETY: all fields of a msghdr may be zero.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = slices.as_ptr().cast_mut().cast();
    message.msg_iovlen = slices.len().min(libc::UIO_MAXIOV as usize) as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: an `IoSlice` is an iovec by its documentation; the call only reads them, and they outlive it.
    let sent = unsafe { libc::sendmsg(fd, &raw const message, flags) };
    if sent < 0 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(sent as usize)
    }
}

/// Spawns hyper's tasks on the own executor.
#[derive(Clone, Copy)]
pub struct LocalExec;

impl<F> Executor<F> for LocalExec
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        // A request of HTTP/2 has a task of its own; its panic must cost no more than its stream.
        let guarded = std::panic::AssertUnwindSafe(future);
        glommio::spawn_local(futures_lite::FutureExt::catch_unwind(guarded)).detach();
    }
}

/// hyper's timers on the own executor: its time-outs of headers and idle connections.
#[derive(Clone)]
pub struct CoreTimer(pub Rc<Timeouts>);

// SAFETY: hyper asks for Send and Sync because its timers may move between threads; a connection here is
// spawned on one executor, and its timer is cloned, used and dropped there only.
unsafe impl Send for CoreTimer {}
// SAFETY: as above.
unsafe impl Sync for CoreTimer {}

struct LocalSleep(Timeout);

// SAFETY: as for `CoreTimer`: polled, reset and dropped on the connection's executor only.
unsafe impl Send for LocalSleep {}
// SAFETY: as above.
unsafe impl Sync for LocalSleep {}

impl Future for LocalSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx)
    }
}

impl Sleep for LocalSleep {}

impl Timer for CoreTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(LocalSleep(self.0.after(duration)))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(LocalSleep(self.0.at(deadline)))
    }
}
