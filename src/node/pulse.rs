//! Sees whether each core's time goes on, and wakes one whose time stands still.
//!
//! An executor of glommio 0.9 can fall asleep beside a timer that is due, on a machine under load (seen in tests of nothing
//! but executors and timers); nothing but other I/O would wake it. An interrupted wait looks again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use signal_hook::consts::SIGUSR1;

/// How often cores are looked at; longer than a tick of any core.
pub const INTERVAL: Duration = Duration::from_millis(400);

/// Looks without a warning after one.
const QUIET_LOOKS: u32 = 150;

/// The cores of a node.
#[derive(Default)]
pub struct Pulses(Vec<Pulse>);

struct Pulse {
    ticks: Arc<AtomicU64>,
    seen: u64,
    thread: Option<i32>,
    quiet: u32,
}

impl Pulses {
    /// The next core; it raises what is answered with each of its ticks.
    pub fn add(&mut self) -> Arc<AtomicU64> {
        let ticks = Arc::<AtomicU64>::default();
        self.0.push(Pulse {
            ticks: ticks.clone(),
            seen: 0,
            thread: None,
            quiet: 0,
        });
        ticks
    }

    /// A core runs on the thread with this id.
    pub fn started(&mut self, core: u16, thread: i32) {
        if let Some(pulse) = self.0.get_mut(usize::from(core)) {
            pulse.thread = Some(thread);
        }
    }

    /// Wakes all cores: while they start and stop, their time need not go on.
    pub fn wake_all(&self) {
        self.0.iter().filter_map(|p| p.thread).for_each(nudge);
    }

    /// Wakes those whose time has not gone on since the last look.
    pub fn look(&mut self) {
        for (core, pulse) in self.0.iter_mut().enumerate() {
            let ticks = pulse.ticks.load(Ordering::Relaxed);
            pulse.quiet = pulse.quiet.saturating_sub(1);
            if ticks == pulse.seen
                && let Some(thread) = pulse.thread
            {
                nudge(thread);
                if pulse.quiet == 0 {
                    pulse.quiet = QUIET_LOOKS;
                    log::warn!(
                        "event=core_stood_still core={core} for {} ms or more; it is woken",
                        INTERVAL.as_millis()
                    );
                }
            }
            pulse.seen = ticks;
        }
    }
}

/// Interrupts a thread's wait.
fn nudge(thread: i32) {
    // SAFETY: the signal has a handler that only sets a flag; a thread that is gone is not found.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, SIGUSR1) };
}
