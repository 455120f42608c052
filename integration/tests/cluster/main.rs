//! One binary: several nodes as their users meet them, while they are killed, paused, cut off and restarted.
//! `URSULA_TEST_NODES=1` runs what makes sense with a single node against one without peers.

mod ahead;
mod balance;
mod bridge;
mod clocks;
mod conformance;
mod cores;
mod cut_off;
mod damage;
mod disks;
mod episodes;
mod failover;
mod faults;
mod formation;
mod grpc;
mod hand_over;
mod idle;
mod large;
mod lifetimes;
mod lossy;
mod members;
mod orders;
mod racing;
mod restart_all;
mod retention;
mod rolling;
mod slow_peer;
mod storm;
mod strangers;
mod taken_back;
mod transfer;
mod transfer_bad;
mod writers;

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// How many nodes a cluster has.
fn nodes() -> u32 {
    number("URSULA_TEST_NODES", 3)
}

/// A number from the environment.
fn number(name: &str, default: u32) -> u32 {
    let text = std::env::var(name).ok();
    text.map_or(default, |t| {
        t.parse()
            .unwrap_or_else(|e| panic!("{name} is no number: {e}"))
    })
}

static MACHINE: RwLock<()> = RwLock::new(());

/// Held by a test that measures times or makes load: it has the machine for itself.
fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

/// Held by a test that waits more than it works, and waits for what happens, not for a time: such tests run beside each other.
fn beside_others() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}
