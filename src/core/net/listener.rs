//! Accepts connections.

use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::task::Poll;

use super::poller::{Poller, Readiness};
use super::socket::Socket;

/// A listening socket of one core.
pub struct Listener {
    inner: TcpListener,
    place: usize,
    readiness: Rc<Readiness>,
    poller: Rc<Poller>,
}

impl Listener {
    /// Accepts on `inner` from now on.
    ///
    /// # Errors
    /// The system's.
    pub fn new(inner: TcpListener) -> std::io::Result<Listener> {
        let poller = Poller::of_executor()?;
        inner.set_nonblocking(true)?;
        let (place, readiness) = poller.watch(inner.as_raw_fd())?;
        Ok(Listener {
            inner,
            place,
            readiness,
            poller,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> std::io::Result<std::net::SocketAddr> {
        self.inner.local_addr()
    }

    /// Waits for a connection.
    ///
    /// # Errors
    /// The system's.
    pub async fn accept(&self) -> std::io::Result<Socket> {
        let fd = futures_lite::future::poll_fn(|cx| {
            loop {
                if !self.readiness.readable.get() {
                    *self.readiness.reader.borrow_mut() = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
                let none = std::ptr::null_mut();
                // SAFETY: no address is asked for, so that nothing is written.
                let fd = unsafe {
                    libc::accept4(self.inner.as_raw_fd(), none, std::ptr::null_mut(), flags)
                };
                if fd >= 0 {
                    return Poll::Ready(Ok(fd));
                }
                let error = std::io::Error::last_os_error();
                if error.kind() != std::io::ErrorKind::WouldBlock {
                    return Poll::Ready(Err(error));
                }
                self.readiness.readable.set(false);
            }
        })
        .await?;
        // SAFETY: the descriptor is new and nobody else's.
        Socket::new(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.poller.forget(self.place);
    }
}
