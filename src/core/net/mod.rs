//! What one core waits for: its sockets, its log and the other cores, all in one epoll, and a doorbell by which an executor
//! that sleeps in glommio hears of it.
//!
//! glommio's own sockets put one poll into the ring for each wait. Each request that arrives then completes a poll of its
//! own, and the kernel interrupts the core to say so: with hundreds of busy connections the interrupts cost more than the
//! requests. Here the kernel only puts a ready socket on the epoll's list, and the executor takes the whole list once in
//! each of its rounds. Before it sleeps it asks to be woken, once for all sockets (`doorbell.rs`).

mod bell;
mod doorbell;
mod listener;
mod poller;
mod share;
mod socket;
#[cfg(test)]
mod tests;
mod turns;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use storage::wal::LogThread;

/// After which time an executor looks at disks, timers and sockets again though tasks are ready. Shorter, it would park
/// beside ready tasks more often (`poller.rs`); longer, a burst of deliveries would hold up the log.
pub const PREEMPT_TIMER: Duration = Duration::from_millis(10);

pub use self::bell::Bell;
pub use self::listener::Listener;
pub use self::socket::{Receipts, Socket};

/// A thread for this executor's log, of whose ends its poller hears.
///
/// # Errors
/// The system's: no more threads or descriptors.
pub fn log_thread(core: u16) -> std::io::Result<Rc<LogThread>> {
    let bell = Arc::new(Bell::new()?);
    let rung = bell.clone();
    let thread = Rc::new(LogThread::start(format!("log-{core}"), move || {
        rung.ring()
    })?);
    let heard = thread.clone();
    bell.hang(move || heard.on_event())?;
    poller::Poller::of_executor()?.set_log(thread.clone());
    Ok(thread)
}
