//! TCP of one core: sockets that an epoll watches, and a doorbell by which a sleeping executor hears of it.
//!
//! glommio's own sockets put one poll into the ring for each wait. Each request that arrives then completes a poll of its
//! own, and the kernel interrupts the core to say so: with hundreds of busy connections the interrupts cost more than the
//! requests. Here the kernel only puts a ready socket on the epoll's list, and the executor takes the whole list once in
//! each of its rounds. Before it sleeps it asks to be woken, once for all sockets (`doorbell.rs`).

mod doorbell;
mod listener;
mod poller;
mod socket;
mod turns;

use std::time::Duration;

/// After which time an executor looks at disks, timers and sockets again though tasks are ready. Shorter, it would park
/// beside ready tasks more often (`poller.rs`); longer, a burst of deliveries would hold up the log.
pub const PREEMPT_TIMER: Duration = Duration::from_millis(10);

pub use self::listener::Listener;
pub use self::socket::{Receipts, Socket};
