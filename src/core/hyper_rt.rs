//! hyper's traits on glommio: tasks and timers of the own executor. Its sockets are in `net`.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Executor, Sleep, Timer};

use super::net::Receipts;
use super::timeouts::{Timeout, Timeouts};

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
        super::tasks::spawn(futures_lite::FutureExt::catch_unwind(guarded)).detach();
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

/// The timer of a connection that takes requests of HTTP/1. hyper has one time-out for a request that does not begin and for
/// headers that do not end: it is to be the patience with an idle connection, and each sleep is cut short to the patience
/// with headers as soon as their first bytes are there.
#[derive(Clone)]
pub struct RequestTimer {
    /// The core's.
    pub timeouts: Rc<Timeouts>,
    /// Of the connection's socket.
    pub receipts: Receipts,
    /// Time for a request's headers, from their first bytes.
    pub headers: Duration,
}

// SAFETY: as for `CoreTimer`: cloned, used and dropped on the connection's executor only.
unsafe impl Send for RequestTimer {}
// SAFETY: as above.
unsafe impl Sync for RequestTimer {}

struct RequestSleep {
    timeout: Timeout,
    timer: RequestTimer,
    /// Receipts before the request began; none once it has.
    idle_since: Option<u32>,
}

// SAFETY: as for `CoreTimer`: polled and dropped on the connection's executor only.
unsafe impl Send for RequestSleep {}
// SAFETY: as above.
unsafe impl Sync for RequestSleep {}

impl Future for RequestSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // hyper looks at its time-out whenever what has arrived is not yet the whole of a request's headers.
        if self
            .idle_since
            .is_some_and(|seen| seen != self.timer.receipts.count())
        {
            self.idle_since = None;
            self.timeout = self.timer.timeouts.after(self.timer.headers);
        }
        Pin::new(&mut self.timeout).poll(cx)
    }
}

impl Sleep for RequestSleep {}

impl Timer for RequestTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(super::clock::instant() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(RequestSleep {
            timeout: self.timeouts.at(deadline),
            timer: self.clone(),
            idle_since: Some(self.receipts.count()),
        })
    }
}
