//! Sees whether each core's time goes on, and wakes one whose time stands still.
//!
//! An executor of glommio 0.9 can fall asleep beside tasks that are ready (why: `core/net/poller.rs`), on a machine under load;
//! nothing but other I/O or a timer would wake it. An interrupted wait looks again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::core::Pulse;
use crate::core::executor::nudge;

/// How often cores are looked at; longer than a tick of any core.
pub const INTERVAL: Duration = Duration::from_millis(500);

/// Looks without a warning after one.
const QUIET_LOOKS: u32 = 150;

/// The cores of a node.
#[derive(Default)]
pub struct Pulses {
    cores: Vec<Watched>,
    /// The thread of the operators' listener: it counts no ticks, and is woken with each look.
    admin: Option<i32>,
}

struct Watched {
    pulse: Arc<Pulse>,
    seen: u64,
    /// What it was when the watchdog was last fed.
    seen_by_watchdog: u64,
    thread: Option<i32>,
    quiet: u32,
}

/// What the cores say of their groups.
#[derive(Default)]
pub struct Groups {
    /// Led by this node.
    pub led: u64,
    /// Without a leader, as far as this node knows.
    pub without_leader: u64,
}

impl Pulses {
    /// The next core; it raises what is answered with each of its ticks.
    pub fn add(&mut self) -> Arc<Pulse> {
        let pulse = Arc::<Pulse>::default();
        self.cores.push(Watched {
            pulse: pulse.clone(),
            seen: 0,
            seen_by_watchdog: 0,
            thread: None,
            quiet: 0,
        });
        pulse
    }

    /// A core runs on the thread with this id.
    pub fn started(&mut self, core: u16, thread: i32) {
        if let Some(watched) = self.cores.get_mut(usize::from(core)) {
            watched.thread = Some(thread);
        }
    }

    /// The operators' listener runs on this thread.
    pub fn admin_started(&mut self, thread: i32) {
        self.admin = Some(thread);
    }

    /// Wakes all cores: while they start and stop, their time need not go on.
    pub fn wake_all(&self) {
        let threads = self.cores.iter().filter_map(|p| p.thread);
        threads.chain(self.admin).for_each(nudge);
    }

    /// Wakes those whose time has not gone on since the last look.
    pub fn look(&mut self) {
        self.admin.into_iter().for_each(nudge);
        for (core, watched) in self.cores.iter_mut().enumerate() {
            let ticks = watched.pulse.ticks.load(Ordering::Relaxed);
            watched.quiet = watched.quiet.saturating_sub(1);
            if ticks == watched.seen
                && let Some(thread) = watched.thread
            {
                nudge(thread);
                if watched.quiet == 0 {
                    watched.quiet = QUIET_LOOKS;
                    log::warn!(
                        "event=core_stood_still core={core} for {} ms or more; it is woken",
                        INTERVAL.as_millis()
                    );
                }
            }
            watched.seen = ticks;
        }
    }

    /// What each core of a node that starts does.
    pub fn doing(&self) -> Vec<&'static str> {
        self.cores.iter().map(|w| w.pulse.doing()).collect()
    }

    /// Whether every core's time has gone on since the watchdog was last fed.
    pub fn all_went_on(&self) -> bool {
        let went_on = |w: &Watched| w.pulse.ticks.load(Ordering::Relaxed) != w.seen_by_watchdog;
        self.cores.iter().all(went_on)
    }

    /// The watchdog was fed.
    pub fn fed(&mut self) {
        for watched in &mut self.cores {
            watched.seen_by_watchdog = watched.pulse.ticks.load(Ordering::Relaxed);
        }
    }

    /// Over all cores.
    pub fn groups(&self) -> Groups {
        let mut groups = Groups::default();
        for watched in &self.cores {
            groups.led += watched.pulse.groups_led.load(Ordering::Relaxed);
            groups.without_leader += watched.pulse.groups_without_leader.load(Ordering::Relaxed);
        }
        groups
    }
}
