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
mod socket;
#[cfg(test)]
mod tests;
mod turns;

use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;

use storage::wal::Ring;

/// After which time an executor looks at disks, timers and sockets again though tasks are ready. Shorter, it would park
/// beside ready tasks more often (`poller.rs`); longer, a burst of deliveries would hold up the log.
pub const PREEMPT_TIMER: Duration = Duration::from_millis(10);

pub use self::bell::Bell;
pub use self::listener::Listener;
pub use self::socket::{Receipts, Socket};

/// A ring for this executor's log, whose completions its poller hears of.
///
/// # Errors
/// The system's: no more descriptors or locked memory.
pub fn log_ring() -> std::io::Result<Rc<Ring>> {
    let ring = Rc::new(Ring::new()?);
    let watched = ring.clone();
    poller::Poller::of_executor()?.watch_event(
        ring.event_fd().as_raw_fd(),
        Rc::new(move || watched.on_event()),
    )?;
    Ok(ring)
}
