//! The epoll of one core, the task that looks at it, and one that keeps the executor from oversleeping.
//!
//! glommio's way to sleep is dear: two rings of timers are cancelled and armed again, a barrier interrupts the other cores, and
//! the epoll is heard of through a ring of its own (`doorbell.rs`). So where a core runs dry, its poller first naps: it waits
//! in the epoll itself, as a server without glommio would, for a moment that timers can wait too. Sockets, the log's own thread,
//! and messages of other cores end the nap, since all are in the epoll. It is not taken while another task can run, or while
//! something is under way of which only glommio's reactor hears (`storage::blocking`).
//!
//! What takes long goes on behind each look, one piece at a time: who has much to send (`turns.rs`), and the queues beside the
//! executor's own (`core/tasks.rs`). So a request, or the end of a sync, waits for one piece at most.
//!
//! glommio 0.9 can fall asleep beside tasks that are ready to run: if its preemption timer fires after it was armed and
//! before the first task runs (the thread lost its CPU just then, as on a loaded machine it does all the time), it takes the
//! round for one without work and parks. Only a timer or a file wakes it then: a bell does not, since the poller, which is
//! ready, is awake for it. So `watchman` always has a timer, which is due soon while sockets are busy; and `node.rs` asks for a
//! preemption timer that is not short.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use futures_lite::FutureExt;
use storage::wal::LogThread;

use super::bell::Hung;
use super::doorbell::Doorbell;
use super::share::Share;
use super::turns::{Turn, Turns};
use crate::core::signal::Event;
use crate::core::{clock, tasks};

/// Events that one look takes.
const EVENTS: usize = 256;

/// While something is under way of which only glommio's reactor hears, it has its round after so many looks that found
/// something. A round is three system calls or more.
const LOOKS_PER_ROUND: u32 = 4;

/// Otherwise it has its round after this time: so late can a timer be, and a nap takes as long again.
const ROUND: Duration = Duration::from_millis(1);

/// The longest nap.
const NAP: Duration = Duration::from_millis(1);

/// A rest of the core while somebody waits for a piece (`share.rs`): so late can it hear of a blocking thread.
const REST: Duration = Duration::from_micros(100);

/// How often one is begun again that was interrupted, as by the kernel, which ends work of glommio's rings on this thread.
const INTERRUPTIONS: u32 = 4;

/// How long an executor can oversleep while its sockets are busy.
const WATCH: Duration = Duration::from_millis(2);

/// How long it can while they are not, one after the other: the longer nothing has come, the less there is to be late for.
const CALM_WATCHES: [Duration; 3] = [
    Duration::from_millis(8),
    Duration::from_millis(32),
    Duration::from_millis(50),
];

/// Watches after the last of many events.
const WATCHES: u32 = 50;

/// And after a single one, such as a sign of life: what it makes ready is ready soon, and each watch is a wake.
const WATCHES_PER_LOOK: u32 = 3;

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
    bells: RefCell<Vec<Hung>>,
    watches: Cell<u32>,
    is_busy: Event,
    pub(super) turns: Turns,
    log: RefCell<Option<Rc<LogThread>>>,
}

#[derive(Default)]
struct Places {
    all: Vec<Option<Watched>>,
    free: Vec<usize>,
}

/// What a descriptor in the epoll is.
enum Watched {
    Socket(Rc<Readiness>),
    /// It only ends a wait: what it is about is found elsewhere.
    Event,
}

thread_local! {
    /// As glommio's own sockets find their executor's reactor. A thread may run one executor after another (tests do).
    static OF_EXECUTOR: RefCell<Option<(usize, Rc<Poller>)>> = const { RefCell::new(None) };
}

/// A poller at work; another executor of its thread may have none.
struct Governing;

impl Drop for Governing {
    fn drop(&mut self) {
        tasks::forget_held();
    }
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
            bells: RefCell::default(),
            watches: Cell::new(0),
            is_busy: Event::default(),
            turns: Turns::default(),
            log: RefCell::new(None),
        });
        let doorbell = Doorbell::new(poller.epoll.as_raw_fd())?;
        glommio::spawn_local(poller.clone().run(doorbell)).detach();
        tasks::spawn(poller.clone().watchman()).detach();
        Ok(poller)
    }

    async fn run(self: Rc<Self>, mut doorbell: Doorbell) {
        let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        let _governing = Governing;
        tasks::govern(true);
        let mut looks = 0;
        let mut round = clock::instant();
        let mut share = Share::new(round);
        loop {
            let is_found = self.look(&mut events, Duration::ZERO);
            // Behind all whom the look woke.
            let now = clock::instant();
            self.turns.tell_time(Some(now));
            share.tell(now, self.is_committing());
            let may_give = share.may_give();
            let is_given = may_give && self.turns.give(now);
            let is_released = may_give && tasks::release();
            if is_given || is_released {
                share.given();
            }
            looks += u32::from(is_found || is_given);
            let is_any_under_way = storage::blocking::is_any_under_way();
            // Another queue has its slice when this one has nothing to do.
            if is_released || is_round_due(now - round, looks, is_any_under_way) {
                end_round().await;
                (looks, round) = (0, clock::instant());
                continue;
            }
            if is_found || is_given {
                futures_lite::future::yield_now().await;
                continue;
            }
            if self.turns.is_any() || tasks::is_any_held() {
                if is_alone().await && !self.nap(&mut events, REST) {
                    // So that who gets a turn now is behind other queues.
                    end_round().await;
                }
                continue;
            }
            if !is_any_under_way && !is_alone().await {
                continue;
            }
            // Falling asleep is dear. Where a client or a proxy runs on the same CPU, letting it run first makes more
            // requests arrive at once; where nobody else wants the CPU, this costs a fraction of a microsecond.
            std::thread::yield_now();
            // Without an await between `is_alone` and the nap, nobody else can become ready beside those that a look wakes.
            if self.look(&mut events, Duration::ZERO)
                || (!is_any_under_way && self.nap(&mut events, NAP))
            {
                futures_lite::future::yield_now().await;
                continue;
            }
            if self.fall_asleep() {
                // What happens while it sleeps, such as the end of a blocking thread's work, it does not see.
                self.turns.tell_time(None);
                tasks::govern(false);
                park(&mut doorbell).await;
                tasks::govern(true);
                (looks, round) = (0, clock::instant());
            }
            self.awake();
        }
    }

    /// A frame of the log is on its way.
    fn is_committing(&self) -> bool {
        let log = self.log.borrow();
        log.as_ref().is_some_and(|log| log.is_busy())
    }

    /// Whose frames those wait for who take long.
    pub(super) fn set_log(&self, log: Rc<LogThread>) {
        *self.log.borrow_mut() = Some(log);
    }

    /// Waits for a moment in the epoll; answers whether something came.
    fn nap(&self, events: &mut [libc::epoll_event], longest: Duration) -> bool {
        let is_found = !self.fall_asleep() || self.look(events, longest);
        self.awake();
        is_found
    }

    /// From now on bells wake the epoll. Answers whether it may wait: no bell was rung before.
    fn fall_asleep(&self) -> bool {
        let mut bells = self.bells.borrow_mut();
        bells.iter().for_each(|bell| bell.set_asleep(true));
        bells.iter_mut().all(|bell| !bell.listen())
    }

    fn awake(&self) {
        let bells = self.bells.borrow();
        bells.iter().for_each(|bell| bell.set_asleep(false));
    }

    /// See the module's head.
    async fn watchman(self: Rc<Self>) {
        let mut calm = 0;
        loop {
            let seen = self.is_busy.raised();
            // Who waits for the log is waited for by a client.
            if self.watches.get() > 0 || self.is_committing() {
                calm = 0;
                self.watches.set(self.watches.get().saturating_sub(1));
                glommio::timer::sleep(WATCH).await;
            } else {
                let watch = CALM_WATCHES[calm.min(CALM_WATCHES.len() - 1)];
                calm += 1;
                let is_busy = async {
                    self.is_busy.beyond(seen).await;
                };
                is_busy.or(glommio::timer::sleep(watch)).await;
            }
        }
    }

    /// Takes what is ready, waking who waits for it; answers whether there was anything. Waits for it in the kernel if asked
    /// to.
    fn look(&self, events: &mut [libc::epoll_event], longest: Duration) -> bool {
        let count = self.wait(events, longest);
        let places = self.places.borrow();
        for event in &events[..count] {
            let (flags, place) = (event.events as i32, event.u64 as usize);
            match places.all.get(place).and_then(Option::as_ref) {
                Some(Watched::Socket(readiness)) => readiness.note(flags),
                Some(Watched::Event) | None => {}
            }
        }
        let mut bells = self.bells.borrow_mut();
        let rung = bells.iter_mut().filter_map(|b| b.listen().then_some(()));
        let is_found = rung.count() + count > 0;
        if is_found {
            let watches = self.watches.get();
            self.watches.set(WATCHES.min(watches + WATCHES_PER_LOOK));
            if watches == 0 {
                self.is_busy.raise();
            }
        }
        is_found
    }

    /// How many events there are.
    fn wait(&self, events: &mut [libc::epoll_event], longest: Duration) -> usize {
        for _ in 0..=INTERRUPTIONS {
            let count = epoll_wait(self.epoll.as_raw_fd(), events, longest);
            let is_interrupted =
                || std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted;
            if count >= 0 || !is_interrupted() {
                return usize::try_from(count).unwrap_or(0);
            }
        }
        0
    }

    /// Listens to a bell, from now on.
    pub(super) fn hang(&self, bell: Hung) {
        self.bells.borrow_mut().push(bell);
    }

    /// Watches a socket, from now until it is closed.
    pub(super) fn watch(&self, fd: i32) -> std::io::Result<(usize, Rc<Readiness>)> {
        let readiness = Rc::new(Readiness::default());
        readiness.readable.set(true);
        readiness.writable.set(true);
        let flags = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP;
        let place = self.add(fd, flags, Watched::Socket(readiness.clone()))?;
        Ok((place, readiness))
    }

    /// Ends waits each time that a descriptor becomes readable, which is this executor's for as long as it runs.
    pub(super) fn watch_event(&self, fd: i32) -> std::io::Result<()> {
        self.add(fd, libc::EPOLLIN, Watched::Event)?;
        Ok(())
    }

    fn add(&self, fd: i32, flags: i32, watched: Watched) -> std::io::Result<usize> {
        let mut places = self.places.borrow_mut();
        let place = places.free.pop().unwrap_or_else(|| {
            places.all.push(None);
            places.all.len() - 1
        });
        let mut event = libc::epoll_event {
            events: (flags | libc::EPOLLET) as u32,
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
        places.all[place] = Some(watched);
        Ok(place)
    }

    /// Forgets a descriptor that is about to be closed, which takes it out of the epoll.
    pub(super) fn forget(&self, place: usize) {
        let mut places = self.places.borrow_mut();
        places.all[place] = None;
        places.free.push(place);
    }
}

impl Readiness {
    fn note(&self, flags: i32) {
        let both = libc::EPOLLHUP | libc::EPOLLERR;
        if flags & (libc::EPOLLIN | libc::EPOLLRDHUP | both) != 0 {
            let ended = libc::EPOLLRDHUP | both;
            self.ended.set(self.ended.get() || flags & ended != 0);
            self.readable.set(true);
            self.reader.take().into_iter().for_each(Waker::wake);
        }
        if flags & (libc::EPOLLOUT | both) != 0 {
            self.writable.set(true);
            self.writer.take().into_iter().for_each(Waker::wake);
        }
    }
}

/// As the system call. Kernels before 5.11 can only wait for whole milliseconds.
fn epoll_wait(epoll: RawFd, events: &mut [libc::epoll_event], longest: Duration) -> i32 {
    let (start, len) = (events.as_mut_ptr(), events.len() as i32);
    if !longest.subsec_nanos().is_multiple_of(1_000_000) {
        let timeout = libc::timespec {
            tv_sec: 0,
            tv_nsec: longest.subsec_nanos().into(),
        };
        let no_signals = std::ptr::null::<libc::sigset_t>();
        // By its number, since older C libraries have no name for it.
        // SAFETY: the kernel writes at most as many events as the slice has, and only reads the time-out.
        let count = unsafe {
            let (call, timeout) = (libc::SYS_epoll_pwait2, &raw const timeout);
            libc::syscall(call, epoll, start, len, timeout, no_signals, 0)
        };
        // EPERM: filters of containers that do not know it.
        let error = std::io::Error::last_os_error().raw_os_error();
        if count >= 0 || !matches!(error, Some(libc::ENOSYS | libc::EPERM)) {
            return count as i32;
        }
    }
    let wait_ms = longest.as_micros().div_ceil(1000) as i32;
    // SAFETY: the kernel writes at most as many events as the slice has.
    unsafe { libc::epoll_wait(epoll, start, len, wait_ms) }
}

/// Whether glommio's reactor is to look at timers, disks and blocking threads now.
fn is_round_due(ago: Duration, looks: u32, is_any_under_way: bool) -> bool {
    (is_any_under_way && looks >= LOOKS_PER_ROUND) || ago >= ROUND
}

/// Resolves when glommio's reactor has had a round. A timer of no time at all would be over at once, without one.
async fn end_round() {
    glommio::timer::sleep(Duration::from_micros(1)).await;
}

/// Lets all tasks run that are ready; answers whether there was none, and is none now. Those of other queues do not count.
async fn is_alone() -> bool {
    let runs = tasks::runs();
    // Taken, they count anew.
    glommio::executor().executor_stats();
    futures_lite::future::yield_now().await;
    // Tasks run in the order in which they became ready, so who was ready has run by now. Only the reactor makes others ready
    // while nobody runs, and its rounds end that of the queue.
    let is_same_turn = glommio::executor().executor_stats().scheduler_runs() == 0;
    is_same_turn && runs == tasks::runs()
}

/// Sleeps as glommio does, until the epoll has something.
async fn park(doorbell: &mut Doorbell) {
    let rung = match doorbell.arm() {
        Ok(()) => doorbell.rung().await,
        Err(error) => Err(error),
    };
    if let Err(error) = rung {
        log::error!(
            "event=doorbell_failed error={error:?}",
            error = error.to_string()
        );
        glommio::timer::sleep(Duration::from_millis(1)).await;
    }
}
