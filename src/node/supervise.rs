//! The node's own thread while the cores run: it carries their starts and stops through together, sees whether they live,
//! and tells the service manager.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use super::NodeError;
use super::notify;
use super::pulse::{self, Pulses};
use crate::config::Config;
use crate::core::StopHandle;
use crate::core::clock::instant;
use crate::ops::metrics::node::{DISK_INTERVAL_S, DiskTrend};

/// What the node's thread hears.
pub(super) enum Event {
    Ready,
    Listening,
    Drained,
    /// A core found damage that a new start mends.
    Damaged,
    /// A write or sync of this core's log failed.
    LogFailed {
        core: u16,
    },
    Exited {
        core: u16,
        error: Option<NodeError>,
    },
    Signal,
}

/// How long a core that starts or stops may sleep beside work that is done.
const NUDGE_INTERVAL: Duration = Duration::from_millis(20);

/// A start that takes longer is logged, again and again.
const SLOW_START: Duration = Duration::from_secs(10);

/// Why a node stopped in good order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// By a signal.
    Told,
    /// It found damage that the next start mends.
    Damaged,
}

/// See the module's head.
pub(super) struct Supervisor<'a> {
    config: &'a Config,
    address: SocketAddr,
    controls: Vec<StopHandle>,
    pulses: Pulses,
    ready: usize,
    listening: usize,
    drained: usize,
    exited: usize,
    /// Cores whose log failed.
    failed: Vec<u16>,
    /// When the node stops because of that.
    ends_at: Option<Instant>,
    stopping_since: Option<Instant>,
    ended: Ended,
    began: Instant,
    disk: DiskTrend,
    next_look_s: u64,
    /// When a start that is not over is said to be slow.
    slow_at: Instant,
}

impl<'a> Supervisor<'a> {
    pub(super) fn new(
        config: &'a Config,
        address: SocketAddr,
        controls: Vec<StopHandle>,
        pulses: Pulses,
    ) -> Supervisor<'a> {
        Supervisor {
            config,
            address,
            controls,
            pulses,
            ready: 0,
            listening: 0,
            drained: 0,
            exited: 0,
            failed: Vec::new(),
            ends_at: None,
            stopping_since: None,
            ended: Ended::Told,
            began: instant(),
            disk: DiskTrend::default(),
            next_look_s: 0,
            slow_at: instant() + SLOW_START,
        }
    }

    /// Until all cores have ended.
    ///
    /// # Errors
    /// What ended the node.
    pub(super) fn run(mut self, inbox: &Receiver<Event>) -> Result<Ended, NodeError> {
        let cores = self.controls.len();
        let limit =
            Duration::from_millis(self.config.shutdown_timeout_ms) * 2 + Duration::from_secs(5);
        let mut waited = Duration::ZERO;
        while self.exited < cores {
            let is_stopping = self.stopping_since.is_some();
            let is_serving = !is_stopping && self.listening == cores;
            let pause = if is_serving {
                pulse::INTERVAL
            } else {
                NUDGE_INTERVAL
            };
            match inbox.recv_timeout(pause) {
                Ok(event) => {
                    waited = Duration::ZERO;
                    self.on_event(event)?;
                }
                Err(_) if is_stopping && waited >= limit => return Err(NodeError::StopTimeout),
                Err(_) if is_serving => self.look(),
                Err(_) => {
                    waited += NUDGE_INTERVAL;
                    self.pulses.wake_all();
                    self.tell_progress();
                }
            }
            if !is_stopping && self.ends_at.is_some_and(|at| instant() >= at) {
                log::error!(
                    "event=stopping_failed the log of this node failed; it ends and must not be started again before its disk is looked at"
                );
                self.stop();
            }
        }
        log::info!("event=stopped");
        match self.failed.first() {
            Some(core) => Err(NodeError::DiskFailed { core: *core }),
            None => Ok(self.ended),
        }
    }

    /// The cores serve: are they alive?
    fn look(&mut self) {
        self.look_at_disk();
        self.pulses.look();
        if self.pulses.all_went_on() && notify::shared().alive() {
            self.pulses.fed();
        }
        let status = self.status();
        notify::shared().status(&status);
    }

    fn look_at_disk(&mut self) {
        let now_s = self.began.elapsed().as_secs();
        if let Some(dir) = &self.config.wal_dir
            && now_s >= self.next_look_s
        {
            self.next_look_s = now_s + DISK_INTERVAL_S;
            self.disk.look(dir, now_s);
        }
    }

    fn status(&self) -> String {
        let groups = self.pulses.groups();
        let mut status = format!(
            "serving on http://{}: {} groups led here, {} without a leader",
            self.address, groups.led, groups.without_leader
        );
        if !self.failed.is_empty() {
            status.push_str("; the disk failed, this node will end");
        }
        status
    }

    fn tell_progress(&mut self) {
        let cores = self.controls.len();
        match self.stopping_since {
            None => {
                let status = format!("starting: {} of {cores} cores are ready", self.ready);
                notify::shared().starting(&status);
                if instant() >= self.slow_at {
                    self.slow_at = instant() + SLOW_START;
                    let doing = self.pulses.doing().join(", ");
                    log::warn!(
                        "event=start_slow after_s={} cores={doing:?}",
                        self.began.elapsed().as_secs()
                    );
                }
            }
            Some(_) => {
                let status = format!(
                    "stopping: {} of {cores} cores have no connections",
                    self.drained
                );
                notify::shared().draining(&status);
            }
        }
    }

    fn on_event(&mut self, event: Event) -> Result<(), NodeError> {
        let cores = self.controls.len();
        match event {
            Event::Ready => {
                self.ready += 1;
                if self.ready == cores {
                    self.tell_all(b'g');
                }
            }
            Event::Listening => {
                self.listening += 1;
                if self.listening == cores {
                    log::info!("event=listening listening on http://{}", self.address);
                    self.look_at_disk();
                    let status = self.status();
                    notify::shared().ready(&status);
                    if self.stopping_since.is_some() {
                        self.tell_all(b's');
                    }
                }
            }
            Event::Drained => {
                self.drained += 1;
                if self.drained == cores {
                    self.tell_all(b'q');
                }
            }
            Event::LogFailed { core } => self.on_log_failed(core),
            // A stop that is under way may have been told, and then is final.
            Event::Damaged if self.stopping_since.is_some() => {}
            Event::Damaged => {
                self.ended = Ended::Damaged;
                log::info!("event=stopping");
                self.drain();
            }
            Event::Signal if self.ended == Ended::Damaged => {
                self.ended = Ended::Told;
                notify::shared().stopping();
            }
            // Supervisors and terminals may send a signal twice; a later one is meant.
            Event::Signal
                if self
                    .stopping_since
                    .is_some_and(|s| s.elapsed() < Duration::from_secs(1)) => {}
            Event::Signal if self.stopping_since.is_some() => return Err(NodeError::Interrupted),
            Event::Signal => {
                log::info!("event=stopping");
                self.stop();
            }
            Event::Exited {
                error: Some(error), ..
            } => {
                return Err(match self.failed.first() {
                    Some(core) => NodeError::DiskFailed { core: *core },
                    None => error,
                });
            }
            Event::Exited { core, error: None } => {
                log::debug!("event=core_ended core={core}");
                self.exited += 1;
            }
        }
        Ok(())
    }

    fn stop(&mut self) {
        notify::shared().stopping();
        self.drain();
    }

    fn drain(&mut self) {
        self.stopping_since = Some(instant());
        if self.listening == self.controls.len() {
            self.tell_all(b's');
        }
    }

    /// A member of a cluster ends after the first such failure: the others lead what it led, and half a node hides a bad
    /// disk. A node that is alone goes on while any core's log works, since nobody else has its streams. Either ends only
    /// after a while, so that clients get their answers and a scrape sees why.
    fn on_log_failed(&mut self, core: u16) {
        self.failed.push(core);
        let is_clustered = !self.config.peers.is_empty();
        if self.ends_at.is_none() && (is_clustered || self.failed.len() == self.controls.len()) {
            let linger = Duration::from_millis(self.config.failed_linger_ms);
            self.ends_at = Some(instant() + linger);
            log::error!(
                "event=disk_failed core={core} this node ends in {} s with exit code {}",
                linger.as_secs(),
                crate::ops::exit::DISK_FAILED
            );
        }
    }

    fn tell_all(&mut self, byte: u8) {
        for control in &mut self.controls {
            // A core that is gone reports itself.
            let _ = control.write_all(&[byte]);
        }
    }
}
