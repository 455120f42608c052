//! The epoll of one core, the task that looks at it, and one that keeps the executor from oversleeping.
//!
//! glommio 0.9 can fall asleep beside tasks that are ready to run: if its preemption timer fires after it was armed and
//! before the first task runs (the thread lost its CPU just then, as on a loaded machine it does all the time), it takes the
//! round for one without work and parks. Only a timer, a file or another core wakes it then. While sockets are busy,
//! `watchman` therefore keeps a timer that is due soon; and `node.rs` asks for a preemption timer that is not short.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use super::doorbell::Doorbell;
use super::turns::{Turn, Turns};
use crate::core::signal::Event;

/// Events that one look takes.
const EVENTS: usize = 256;

/// After so many looks in a row that found something, disks, timers and other cores are served too. A round of glommio's
/// reactor is three system calls or more.
const LOOKS_PER_ROUND: u32 = 4;

/// How long an executor can oversleep while its sockets are busy.
const WATCH: Duration = Duration::from_millis(2);

/// Watches after the last event.
const WATCHES: u32 = 50;

/// What is known of one socket's readiness, and who waits for more.
#[derive(Default)]
pub(super) struct Readiness {
    pub readable: Cell<bool>,
    pub writable: Cell<bool>,
    /// The other side sends no more: that is told once, and stays so.
    pub ended: Cell<bool>,
    /// Times that something was received: wraps, and is only compared.
    pub receipts: Cell<u32>,
    pub reader: RefCell<Option<Waker>>,
    pub writer: RefCell<Option<Waker>>,
    pub turn: Turn,
}

/// All sockets of one core.
pub(super) struct Poller {
    epoll: OwnedFd,
    places: RefCell<Places>,
    watches: Cell<u32>,
    is_busy: Event,
    pub(super) turns: Rc<Turns>,
}

#[derive(Default)]
struct Places {
    all: Vec<Option<Rc<Readiness>>>,
    free: Vec<usize>,
}

thread_local! {
    /// As glommio's own sockets find their executor's reactor. A thread may run one executor after another (tests do).
    static OF_EXECUTOR: RefCell<Option<(usize, Rc<Poller>)>> = const { RefCell::new(None) };
}

impl Poller {
    /// This executor's poller.
    ///
    /// # Errors
    /// The system's, if it has to be started: no more descriptors or locked memory.
    pub(super) fn of_executor() -> std::io::Result<Rc<Poller>> {
        let executor = glommio::executor().id();
        let known = OF_EXECUTOR.with_borrow(|known| match known {
            Some((id, poller)) if *id == executor => Some(poller.clone()),
            _ => None,
        });
        if let Some(poller) = known {
            return Ok(poller);
        }
        let poller = Poller::start()?;
        OF_EXECUTOR.set(Some((executor, poller.clone())));
        Ok(poller)
    }

    fn start() -> std::io::Result<Rc<Poller>> {
        // SAFETY: the call takes no memory.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if epoll < 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
        let poller = Rc::new(Poller {
            epoll,
            places: RefCell::default(),
            watches: Cell::new(0),
            is_busy: Event::default(),
            turns: Rc::default(),
        });
        let doorbell = Doorbell::new(poller.epoll.as_raw_fd())?;
        glommio::spawn_local(poller.clone().run(doorbell)).detach();
        glommio::spawn_local(poller.clone().watchman()).detach();
        glommio::spawn_local(poller.turns.clone().run()).detach();
        Ok(poller)
    }

    async fn run(self: Rc<Self>, mut doorbell: Doorbell) {
        let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        loop {
            let mut looks = 0;
            while self.look(&mut events) > 0 {
                looks += 1;
                if looks % LOOKS_PER_ROUND == 0 {
                    glommio::timer::sleep(Duration::ZERO).await;
                } else {
                    futures_lite::future::yield_now().await;
                }
            }
            // Falling asleep is dear. Where a client or a proxy runs on the same CPU, letting it run first makes more
            // requests arrive at once; where nobody else wants the CPU, this costs a fraction of a microsecond.
            std::thread::yield_now();
            if self.look(&mut events) > 0 {
                futures_lite::future::yield_now().await;
                continue;
            }
            if let Err(error) = doorbell.arm() {
                log::error!(
                    "event=doorbell_failed error={error:?}",
                    error = error.to_string()
                );
                glommio::timer::sleep(Duration::from_millis(1)).await;
                continue;
            }
            if let Err(error) = doorbell.rung().await {
                log::error!(
                    "event=doorbell_failed error={error:?}",
                    error = error.to_string()
                );
                glommio::timer::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    /// See the module's head.
    async fn watchman(self: Rc<Self>) {
        let mut seen = 0;
        loop {
            seen = self.is_busy.beyond(seen).await;
            while self.watches.get() > 0 {
                self.watches.set(self.watches.get() - 1);
                glommio::timer::sleep(WATCH).await;
            }
        }
    }

    /// Takes what is ready and wakes who waits for it.
    fn look(&self, events: &mut [libc::epoll_event]) -> usize {
        // SAFETY: the kernel writes at most as many events as the slice has.
        let count = unsafe {
            libc::epoll_wait(
                self.epoll.as_raw_fd(),
                events.as_mut_ptr(),
                events.len() as i32,
                0,
            )
        };
        let count = usize::try_from(count).unwrap_or(0);
        if count > 0 && self.watches.replace(WATCHES) == 0 {
            self.is_busy.raise();
        }
        let places = self.places.borrow();
        for event in &events[..count] {
            let (flags, place) = (event.events as i32, event.u64 as usize);
            let Some(readiness) = places.all.get(place).and_then(Option::as_ref) else {
                continue;
            };
            let both = libc::EPOLLHUP | libc::EPOLLERR;
            if flags & (libc::EPOLLIN | libc::EPOLLRDHUP | both) != 0 {
                let ended = libc::EPOLLRDHUP | both;
                readiness
                    .ended
                    .set(readiness.ended.get() || flags & ended != 0);
                readiness.readable.set(true);
                readiness.reader.take().into_iter().for_each(Waker::wake);
            }
            if flags & (libc::EPOLLOUT | both) != 0 {
                readiness.writable.set(true);
                readiness.writer.take().into_iter().for_each(Waker::wake);
            }
        }
        count
    }

    /// Watches a descriptor, from now until it is closed.
    pub(super) fn watch(&self, fd: i32) -> std::io::Result<(usize, Rc<Readiness>)> {
        let readiness = Rc::new(Readiness::default());
        readiness.readable.set(true);
        readiness.writable.set(true);
        let mut places = self.places.borrow_mut();
        let place = places.free.pop().unwrap_or_else(|| {
            places.all.push(None);
            places.all.len() - 1
        });
        let flags = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        let mut event = libc::epoll_event {
            events: flags as u32,
            u64: place as u64,
        };
        // SAFETY: both descriptors are open, and the call only reads the event.
        let result = unsafe {
            libc::epoll_ctl(
                self.epoll.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                fd,
                &raw mut event,
            )
        };
        if result < 0 {
            places.free.push(place);
            return Err(std::io::Error::last_os_error());
        }
        places.all[place] = Some(readiness.clone());
        Ok((place, readiness))
    }

    /// Forgets a descriptor that is about to be closed, which takes it out of the epoll.
    pub(super) fn forget(&self, place: usize) {
        let mut places = self.places.borrow_mut();
        places.all[place] = None;
        places.free.push(place);
    }
}
