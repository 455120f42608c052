//! By which other threads tell an executor that there is something for it.
//! A ring is one addition where the executor is awake, since its poller looks at the count in each of its rounds; only one that
//! sleeps is woken through an event descriptor in its epoll.
//! Invariant: a ring after the poller's last look at the count ends its sleep. Both sides write first and look then, in
//! sequentially consistent order, so that one of them sees the other.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::poller::Poller;

/// See the module's head.
pub struct Bell {
    rings: AtomicU64,
    is_asleep: AtomicBool,
    event: OwnedFd,
}

impl Bell {
    /// A bell of nobody yet; who rings it before it hangs will be heard then.
    ///
    /// # Errors
    /// The system's: no more descriptors.
    pub fn new() -> std::io::Result<Bell> {
        // SAFETY: the call takes no memory.
        let event = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if event < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(Bell {
            rings: AtomicU64::new(0),
            is_asleep: AtomicBool::new(false),
            // SAFETY: the descriptor is new and nobody else's.
            event: unsafe { OwnedFd::from_raw_fd(event) },
        })
    }

    /// Tells the bell's executor; what it is to find was put where it finds it before.
    pub fn ring(&self) {
        self.rings.fetch_add(1, Ordering::SeqCst);
        if self.is_asleep.swap(false, Ordering::SeqCst) {
            // SAFETY: the call takes no memory. It fails only where the count would overflow.
            unsafe { libc::eventfd_write(self.event.as_raw_fd(), 1) };
        }
    }

    /// Belongs to this executor from now on, where each look at the sockets that finds new rings calls `on_ring`.
    ///
    /// # Errors
    /// The system's, if the poller has to be started.
    pub fn hang(self: &Arc<Self>, on_ring: impl Fn() + 'static) -> std::io::Result<()> {
        let poller = Poller::of_executor()?;
        poller.watch_event(self.event.as_raw_fd())?;
        let mut hung = Hung {
            bell: self.clone(),
            heard: 0,
            on_ring: Box::new(on_ring),
        };
        // The poller may sleep already, and has told only the bells that hung by then.
        hung.set_asleep(true);
        hung.listen();
        poller.hang(hung);
        Ok(())
    }
}

/// A bell with its executor.
pub(super) struct Hung {
    bell: Arc<Bell>,
    heard: u64,
    on_ring: Box<dyn Fn()>,
}

impl Hung {
    /// Answers whether it was rung since the last time.
    pub fn listen(&mut self) -> bool {
        let rings = self.bell.rings.load(Ordering::SeqCst);
        let is_rung = rings != std::mem::replace(&mut self.heard, rings);
        if is_rung {
            (self.on_ring)();
        }
        is_rung
    }

    /// Says that the executor is about to sleep, or that it has slept. It must listen in between.
    pub fn set_asleep(&self, is_asleep: bool) {
        self.bell.is_asleep.store(is_asleep, Ordering::SeqCst);
    }
}
