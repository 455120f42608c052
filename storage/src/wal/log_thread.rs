//! A thread of the log's own, which writes a frame and syncs it with two plain system calls.
//!
//! A ring needs a worker of the kernel for the same sync, and one more hand for each direct write: the kernel (6.18, ext4) ends
//! it on the CPU that the disk interrupted, behind whatever runs there, and then on the core's own thread, before the sync can
//! begin. A write that a thread waits for ends in that thread.
//! Whoever owns it is told by `notify` that a frame ended, and calls [`LogThread::on_event`] then.
//! Invariants: one frame is on its way at a time; its buffer and its file outlive the thread's use of them.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{Error, ErrorKind};
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize};
use std::task::{Poll, Waker};
use std::thread::Thread;
use std::time::Duration;

use glommio::io::DmaBuffer;

/// How often a write is tried again for which the kernel has no means at the moment.
const TRIES: u32 = 1000;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(2);

const STACK_BYTES: usize = 128 << 10;

/// See the module's head.
pub struct LogThread {
    shared: Arc<Shared>,
    thread: Thread,
    /// What the thread uses: the frame's bytes, and what keeps its file open.
    flight: RefCell<Option<(DmaBuffer, Rc<dyn Any>)>>,
    waiter: Cell<Option<Waker>>,
}

/// Where the frame is.
const NONE: u8 = 0;
const ORDERED: u8 = 1;
const ENDED: u8 = 2;

/// How it ended.
const DONE: u8 = 0;
const WRITE_FAILED: u8 = 1;
const SYNC_FAILED: u8 = 2;

/// What both sides know. Whoever may change the phase has all other fields for itself, so there is no lock for which a core
/// would wait while the thread that has it does not run.
#[derive(Default)]
struct Shared {
    phase: AtomicU8,
    is_closed: AtomicBool,
    fd: AtomicI32,
    bytes: AtomicPtr<u8>,
    total: AtomicUsize,
    position: AtomicU64,
    has_sync: AtomicBool,
    outcome: AtomicU8,
    /// The system's, where it failed.
    code: AtomicI32,
}

/// What failed.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) op: &'static str,
    pub(super) source: Error,
}

impl LogThread {
    /// Starts it. `notify` is called on it each time that a frame ended.
    ///
    /// # Errors
    /// The system's: no more threads.
    pub fn start(name: String, notify: impl Fn() + Send + 'static) -> Result<LogThread, Error> {
        let shared = Arc::new(Shared::default());
        let orders = shared.clone();
        let builder = std::thread::Builder::new().name(name);
        let handle = builder
            .stack_size(STACK_BYTES)
            .spawn(move || orders.serve(&notify))?;
        Ok(LogThread {
            shared,
            thread: handle.thread().clone(),
            flight: RefCell::new(None),
            waiter: Cell::new(None),
        })
    }

    /// Whether a frame is on its way.
    pub fn is_busy(&self) -> bool {
        self.shared.phase.load(Relaxed) == ORDERED
    }

    /// Wakes who waits for a frame, if it ended.
    pub fn on_event(&self) {
        if self.shared.phase.load(Acquire) == ENDED
            && let Some(waiter) = self.waiter.take()
        {
            waiter.wake();
        }
    }

    /// Writes the first `total` bytes of a buffer at `position`, and then syncs the file's data if it `has_sync`. The descriptor
    /// is open for as long as `file` is kept.
    pub(super) async fn write(
        &self,
        (fd, file): (RawFd, Rc<dyn Any>),
        buffer: DmaBuffer,
        (total, position): (usize, u64),
        has_sync: bool,
    ) -> Result<(), Failed> {
        assert!(total <= buffer.len());
        // One that nobody waited for to its end; after a failure nothing may follow.
        self.landed().await?;
        let shared = &self.shared;
        shared.fd.store(fd, Relaxed);
        shared.bytes.store(buffer.as_ptr().cast_mut(), Relaxed);
        shared.total.store(total, Relaxed);
        shared.position.store(position, Relaxed);
        shared.has_sync.store(has_sync, Relaxed);
        *self.flight.borrow_mut() = Some((buffer, file));
        shared.phase.store(ORDERED, Release);
        self.thread.unpark();
        self.landed().await
    }

    /// Resolves when nothing is under way, with how the last one ended.
    async fn landed(&self) -> Result<(), Failed> {
        poll_fn(|cx| match self.shared.phase.load(Acquire) {
            ORDERED => {
                self.waiter.set(Some(cx.waker().clone()));
                // It may have ended in between, and nobody was there to be woken.
                match self.shared.phase.load(Acquire) {
                    ORDERED => Poll::Pending,
                    _ => Poll::Ready(()),
                }
            }
            _ => Poll::Ready(()),
        })
        .await;
        self.flight.take();
        if self.shared.phase.swap(NONE, Acquire) == NONE {
            return Ok(());
        }
        let op = match self.shared.outcome.load(Relaxed) {
            DONE => return Ok(()),
            WRITE_FAILED => "write",
            _ => "sync",
        };
        let source = Error::from_raw_os_error(self.shared.code.load(Relaxed));
        Err(Failed { op, source })
    }
}

impl Shared {
    fn serve(&self, notify: &dyn Fn()) {
        take_no_signals();
        go_first();
        loop {
            if self.phase.load(Acquire) == ORDERED {
                let (outcome, code) = match self.carry_out() {
                    Ok(()) => (DONE, 0),
                    Err((outcome, error)) => (outcome, error.raw_os_error().unwrap_or(libc::EIO)),
                };
                self.outcome.store(outcome, Relaxed);
                self.code.store(code, Relaxed);
                self.phase.store(ENDED, Release);
                notify();
            } else if self.is_closed.load(Acquire) {
                return;
            } else {
                std::thread::park();
            }
        }
    }

    fn carry_out(&self) -> Result<(), (u8, Error)> {
        let fd = self.fd.load(Relaxed);
        let (mut bytes, mut left) = (self.bytes.load(Relaxed), self.total.load(Relaxed));
        let mut position = self.position.load(Relaxed);
        let (mut tries, mut is_cut) = (0, false);
        while left > 0 {
            // SAFETY: `flight` keeps the buffer, of which this much is left, and the file until the phase says that this ended;
            // the call only reads the bytes.
            let n = unsafe { libc::pwrite(fd, bytes.cast(), left, position as libc::off_t) };
            if n < 0 {
                let error = Error::last_os_error();
                tries += 1;
                if !is_passing(&error) || tries > TRIES {
                    // Behind a part of a block, direct I/O cannot go on.
                    let is_full = is_cut && error.raw_os_error() == Some(libc::EINVAL);
                    let told = match is_full {
                        true => Error::from_raw_os_error(libc::ENOSPC),
                        false => error,
                    };
                    return Err((WRITE_FAILED, told));
                }
                std::thread::sleep(PAUSE);
                continue;
            }
            if n == 0 {
                let full = Error::from_raw_os_error(libc::ENOSPC);
                return Err((WRITE_FAILED, full));
            }
            // What is written in part is where the disk is full, which the next call says.
            let n = n as usize;
            #[cfg(any(test, feature = "tape"))]
            {
                // SAFETY: as above; so much of it was written.
                let written = unsafe { std::slice::from_raw_parts(bytes, n) };
                crate::tape::note_write(fd, position, written);
            }
            is_cut = n < left;
            bytes = bytes.wrapping_add(n);
            (left, position) = (left - n, position + n as u64);
        }
        if self.has_sync.load(Relaxed) {
            // SAFETY: the call takes no memory, and the file is open as above. After one that failed nobody knows what is on
            // disk, so it is not tried again.
            if unsafe { libc::fdatasync(fd) } != 0 {
                return Err((SYNC_FAILED, Error::last_os_error()));
            }
            #[cfg(any(test, feature = "tape"))]
            crate::tape::note_sync(fd);
        }
        Ok(())
    }
}

/// How much more of a CPU than others it may take, as a difference of niceness. It is awake for some microseconds a frame.
const HASTE: i32 = 10;

/// A frame that ended is what clients wait for, while whoever has the CPU goes on for a slice. Where it is not allowed
/// (`RLIMIT_NICE`), the thread has its turn as all others, which is said once.
fn go_first() {
    static WAS_SAID: AtomicBool = AtomicBool::new(false);
    // SAFETY: the calls take no pointers. On Linux they are of the calling thread alone.
    let (nice, result) = unsafe {
        let nice = libc::getpriority(libc::PRIO_PROCESS, 0);
        let result = libc::setpriority(libc::PRIO_PROCESS, 0, nice - HASTE);
        (nice, result)
    };
    let wanted = nice - HASTE;
    if result != 0 && !WAS_SAID.swap(true, Relaxed) {
        let error = Error::last_os_error();
        log::warn!(
            "event=log_thread_not_first nice={nice} wanted={wanted} beside others appends wait longer; LimitNICE={wanted:+} of \
             the unit, `ulimit -e {}` or CAP_SYS_NICE allows it: {error}",
            20 - wanted
        );
    }
}

/// On a filesystem of another program or machine one could end a sync, after which nothing may be written any more.
fn take_no_signals() {
    // SAFETY: a set of signals is plain memory, which the first call fills and the second one reads.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
    }
}

/// Tried again, it may go well.
fn is_passing(error: &Error) -> bool {
    error.kind() == ErrorKind::Interrupted
        || matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY))
}

impl Drop for LogThread {
    /// Does not wait: a disk may stand still.
    fn drop(&mut self) {
        self.shared.is_closed.store(true, Release);
        self.thread.unpark();
        if self.shared.phase.load(Acquire) == ORDERED {
            // The thread still uses them.
            std::mem::forget(self.flight.take());
        }
    }
}
