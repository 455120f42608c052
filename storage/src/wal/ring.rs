//! A ring of the log's own: a frame's write and its sync go to the kernel as one linked submission, with one system call.
//!
//! glommio's rings would do the same in two rounds of its reactor, which costs several times as much CPU where little is to do.
//! Who owns the ring watches [`Ring::event_fd`] and calls [`Ring::on_event`] each time that it is signalled.
//! Invariants: one frame is on its way at a time; its buffer outlives the kernel's use of it.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{Error, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::task::{Poll, Waker};
use std::time::Duration;

use glommio::io::DmaBuffer;
use io_uring::squeue::{Entry, Flags};
use io_uring::{IoUring, opcode, types};

/// Entries: two requests are in the ring at most, and a completion or two of a frame before.
const ENTRIES: u32 = 8;

/// How often a frame that the kernel has no means for at the moment is handed to it again, each time by the system call and by
/// the request itself.
const TRIES: u32 = 1000;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(2);

/// See the module's head.
pub struct Ring {
    uring: RefCell<IoUring>,
    event: OwnedFd,
    /// Successful writes that a sync follows leave no completion, which would only wake the core once more.
    can_skip: bool,
    flight: RefCell<Option<Flight>>,
    /// Of flights; a completion bears that of its own.
    counter: Cell<u64>,
    waiter: Cell<Option<Waker>>,
}

/// A frame on its way.
struct Flight {
    number: u64,
    /// For the kernel.
    buffer: DmaBuffer,
    total: usize,
    has_sync: bool,
    ended: Option<Result<(), Failed>>,
}

/// What failed.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) op: &'static str,
    pub(super) source: Error,
}

impl Failed {
    /// After a sync that failed nobody knows what is on disk.
    fn is_worth_another_try(&self) -> bool {
        self.op == "write" && is_passing(&self.source)
    }
}

/// Which of a frame's requests: the lowest bit of what a completion bears.
const WRITE: u64 = 0;
const SYNC: u64 = 1;

impl Ring {
    /// A ring with nothing in it.
    ///
    /// # Errors
    /// The system's: no more descriptors or locked memory.
    pub fn new() -> Result<Ring, Error> {
        let uring = IoUring::new(ENTRIES)?;
        // SAFETY: the call takes no memory.
        let event = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if event < 0 {
            return Err(Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let event = unsafe { OwnedFd::from_raw_fd(event) };
        uring.submitter().register_eventfd(event.as_raw_fd())?;
        Ok(Ring {
            can_skip: uring.params().is_feature_skip_cqe_on_success(),
            uring: RefCell::new(uring),
            event,
            flight: RefCell::new(None),
            counter: Cell::new(0),
            waiter: Cell::new(None),
        })
    }

    /// Is signalled when something ended. Its count is of no use and may be left unread: watch its edges.
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Takes what ended, and wakes who waits for it.
    pub fn on_event(&self) {
        if self.take_completions()
            && let Some(waiter) = self.waiter.take()
        {
            waiter.wake();
        }
    }

    /// Writes the first `total` bytes of a buffer at `position`, and then syncs the file's data if it `has_sync`.
    pub(super) async fn write(
        &self,
        fd: RawFd,
        buffer: DmaBuffer,
        (total, position): (usize, u64),
        has_sync: bool,
    ) -> Result<(), Failed> {
        assert!(total <= buffer.len());
        // One that nobody waited for to its end; after a failure nothing may follow.
        self.landed().await;
        let left = self.flight.take().and_then(|flight| flight.ended);
        left.unwrap_or(Ok(()))?;
        let mut buffer = buffer;
        let mut tries = 0;
        loop {
            self.begin(fd, buffer, (total, position), has_sync).await?;
            self.landed().await;
            let flight = self.flight.take().expect("it has just landed");
            tries += 1;
            match flight.ended.expect("it has just landed") {
                // The write, and so its sync, was not done.
                Err(failed) if failed.is_worth_another_try() && tries < TRIES => {
                    buffer = flight.buffer;
                    glommio::timer::sleep(PAUSE).await;
                }
                ended => return ended,
            }
        }
    }

    /// Resolves when nothing is under way.
    async fn landed(&self) {
        poll_fn(|cx| {
            self.take_completions();
            let flight = self.flight.borrow();
            if flight.as_ref().is_none_or(|f| f.ended.is_some()) {
                return Poll::Ready(());
            }
            self.waiter.set(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    async fn begin(
        &self,
        fd: RawFd,
        buffer: DmaBuffer,
        (total, position): (usize, u64),
        has_sync: bool,
    ) -> Result<(), Failed> {
        self.counter.set(self.counter.get() + 1);
        let number = self.counter.get();
        // Without ASYNC the kernel tries in this very call, and on some disks (FUSE) it waits in there: the core would stand
        // still with its disk.
        let mut flags = Flags::ASYNC;
        if has_sync {
            flags |= Flags::IO_LINK;
        }
        if has_sync && self.can_skip {
            flags |= Flags::SKIP_SUCCESS;
        }
        let write = opcode::Write::new(types::Fd(fd), buffer.as_ptr(), total as u32)
            .offset(position)
            .build()
            .flags(flags)
            .user_data(number << 1 | WRITE);
        let sync = opcode::Fsync::new(types::Fd(fd))
            .flags(types::FsyncFlags::DATASYNC)
            .build()
            .user_data(number << 1 | SYNC);
        // From here on the buffer is the kernel's, also if something fails: what it took of a chain cannot be taken back.
        *self.flight.borrow_mut() = Some(Flight {
            number,
            buffer,
            total,
            has_sync,
            ended: None,
        });
        let both = [write, sync];
        let submitted = self.submit(&both[..1 + usize::from(has_sync)]).await;
        submitted.map_err(|source| Failed {
            op: "submit a write of",
            source,
        })
    }

    async fn submit(&self, requests: &[Entry]) -> Result<(), Error> {
        // SAFETY: the buffer is kept until the write's completion, and for good if there is none (see `Drop`). That the
        // descriptor stays open is the caller's to see to; where it does not, the sync fails or is another file's.
        unsafe { self.uring.borrow_mut().submission().push_multiple(requests) }
            .map_err(Error::other)?;
        for _ in 0..TRIES {
            // Bound before the match, which would keep the ring borrowed over its pause.
            let submitted = self.uring.borrow().submit();
            match submitted {
                Ok(taken) if taken == requests.len() => return Ok(()),
                Ok(0) => {}
                // The sync would not be linked to the write, and may end before it.
                Ok(_) => return Err(Error::other("the kernel took a part of it")),
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
            glommio::timer::sleep(PAUSE).await;
        }
        Err(Error::from_raw_os_error(libc::EAGAIN))
    }

    /// Answers whether the flight ended.
    fn take_completions(&self) -> bool {
        let mut flight = self.flight.borrow_mut();
        let mut uring = self.uring.borrow_mut();
        for completion in uring.completion() {
            let (number, request) = (completion.user_data() >> 1, completion.user_data() & 1);
            // A sync that was cancelled can be told after its write failed.
            if let Some(flight) = flight.as_mut().filter(|f| f.number == number) {
                flight.on_completion(request, completion.result());
            }
        }
        flight.as_ref().is_some_and(|f| f.ended.is_some())
    }
}

impl Flight {
    fn on_completion(&mut self, request: u64, result: i32) {
        if self.ended.is_some() {
            return;
        }
        let failed = |op, code: i32| {
            let source = Error::from_raw_os_error(code);
            Some(Err(Failed { op, source }))
        };
        self.ended = match (request, result) {
            (WRITE, ..0) => failed("write", -result),
            // A regular file takes a write whole unless the disk is full, which the next write would say.
            (WRITE, _) if result as usize != self.total => failed("write", libc::ENOSPC),
            (WRITE, _) if self.has_sync => None,
            (WRITE, _) => Some(Ok(())),
            (_, ..0) => failed("sync", -result),
            _ => Some(Ok(())),
        };
    }
}

/// Tried again, it may go well.
fn is_passing(error: &Error) -> bool {
    error.kind() == ErrorKind::Interrupted
        || matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY))
}

impl Drop for Ring {
    fn drop(&mut self) {
        let flight = self.flight.take();
        if let Some(flight) = flight.filter(|f| f.ended.is_none()) {
            // The kernel may still read it.
            std::mem::forget(flight.buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(has_sync: bool) -> Flight {
        Flight {
            number: 1,
            buffer: glommio::allocate_dma_buffer_global(512),
            total: 512,
            has_sync,
            ended: None,
        }
    }

    #[test]
    fn what_completions_say_of_a_frame() {
        let again = -libc::EAGAIN;
        let cancelled = -libc::ECANCELED;
        type Row = (
            bool,
            Vec<(u64, i32)>,
            Option<Result<(), (&'static str, i32, bool)>>,
        );
        let rows: Vec<Row> = vec![
            (true, vec![], None),
            (true, vec![(WRITE, 512)], None),
            (true, vec![(WRITE, 512), (SYNC, 0)], Some(Ok(()))),
            // The write's was skipped.
            (true, vec![(SYNC, 0)], Some(Ok(()))),
            (false, vec![(WRITE, 512)], Some(Ok(()))),
            // Cut short, which breaks the chain.
            (
                true,
                vec![(WRITE, 100), (SYNC, cancelled)],
                Some(Err(("write", libc::ENOSPC, false))),
            ),
            (
                false,
                vec![(WRITE, 0)],
                Some(Err(("write", libc::ENOSPC, false))),
            ),
            (
                true,
                vec![(WRITE, -libc::EIO), (SYNC, cancelled)],
                Some(Err(("write", libc::EIO, false))),
            ),
            (
                true,
                vec![(WRITE, again)],
                Some(Err(("write", libc::EAGAIN, true))),
            ),
            (
                true,
                vec![(WRITE, 512), (SYNC, -libc::EIO)],
                Some(Err(("sync", libc::EIO, false))),
            ),
            // Nobody knows what a sync did that failed.
            (
                true,
                vec![(SYNC, again)],
                Some(Err(("sync", libc::EAGAIN, false))),
            ),
            (
                true,
                vec![(SYNC, cancelled)],
                Some(Err(("sync", libc::ECANCELED, false))),
            ),
        ];
        for (has_sync, completions, expected) in rows {
            let mut flight = flight(has_sync);
            for (request, result) in &completions {
                flight.on_completion(*request, *result);
            }
            let ended = flight.ended.map(|ended| {
                ended.map_err(|failed| {
                    let code = failed.source.raw_os_error().unwrap();
                    (failed.op, code, failed.is_worth_another_try())
                })
            });
            assert_eq!(ended, expected, "{completions:?}");
        }
    }
}
