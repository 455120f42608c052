//! Wakes a sleeping executor when its epoll has something.
//!
//! glommio can wait for sockets, files and timers, but not for an epoll. So a ring of our own holds a chain of two
//! requests: wait until the epoll has something, then send a byte to a socket pair, whose other end glommio waits for. The
//! thread that sleeps in glommio's ring runs this chain too, as it does all work that the kernel has for it.

use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::os::unix::net::UnixStream as StdUnixStream;

use futures_lite::AsyncReadExt;
use glommio::net::UnixStream;
use io_uring::{IoUring, opcode, squeue, types};

/// What is sent; static, since the kernel reads it when the bell rings.
static RING: [u8; 1] = [1];

/// Entries of the own ring: one chain is in it at most, and a few of its completions.
const ENTRIES: u32 = 8;

/// See the module's head.
pub(super) struct Doorbell {
    ring: IoUring,
    watched: i32,
    /// Kept open for the chain.
    button: StdUnixStream,
    bell: UnixStream,
    is_armed: bool,
}

impl Doorbell {
    /// A bell that rings for what the descriptor `watched` has to read. The executor must own both for as long as it runs.
    ///
    /// # Errors
    /// The system's.
    pub fn new(watched: i32) -> std::io::Result<Doorbell> {
        // Who runs already need not be interrupted; kernels before 5.19 do not know that they may be asked for it.
        let ring = IoUring::builder()
            .setup_coop_taskrun()
            .build(ENTRIES)
            .or_else(|_| IoUring::new(ENTRIES))?;
        let (button, bell) = StdUnixStream::pair()?;
        button.set_nonblocking(true)?;
        // SAFETY: the descriptor was just taken out of its owner.
        let bell = unsafe { UnixStream::from_raw_fd(bell.into_raw_fd()) };
        Ok(Doorbell {
            ring,
            watched,
            button,
            bell,
            is_armed: false,
        })
    }

    /// Rings once as soon as there is something, also if there is already.
    ///
    /// # Errors
    /// The system's.
    pub fn arm(&mut self) -> std::io::Result<()> {
        if self.is_armed {
            return Ok(());
        }
        // The completions tell nothing that the bell does not.
        self.ring.completion().for_each(drop);
        let wait = opcode::PollAdd::new(types::Fd(self.watched), libc::POLLIN as u32)
            .build()
            .flags(squeue::Flags::IO_LINK);
        let button = types::Fd(self.button.as_raw_fd());
        let ring = opcode::Send::new(button, RING.as_ptr(), RING.len() as u32)
            .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
            .build();
        // SAFETY: both descriptors and the byte live as long as the ring, or longer.
        unsafe { self.ring.submission().push_multiple(&[wait, ring]) }
            .map_err(std::io::Error::other)?;
        self.ring.submit()?;
        self.is_armed = true;
        Ok(())
    }

    /// Waits until it rings.
    ///
    /// # Errors
    /// The system's.
    pub async fn rung(&mut self) -> std::io::Result<()> {
        let mut bytes = [0; 8];
        self.bell.read(&mut bytes).await?;
        self.is_armed = false;
        Ok(())
    }
}
