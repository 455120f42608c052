//! hyper's traits on glommio: tasks and timers of the own executor. Its sockets are in `net`.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Executor, Sleep, Timer};

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
