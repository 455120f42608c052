//! Tells the service manager how the node is (sd_notify(3)): a datagram of `KEY=value` lines to the socket that
//! NOTIFY_SOCKET names. Without one, nothing is sent.
//!
//! `WATCHDOG=1` is sent only after every core's time has gone on since the one before: a core that hangs takes the node
//! down, and the manager starts it again.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::core::clock::instant;

/// Between two texts or extensions.
const PAUSE: Duration = Duration::from_millis(500);

/// What a step of a recovery or of a stop may take before the next one is told.
const EXTENSION: Duration = Duration::from_secs(90);

/// The process has one manager.
static SHARED: OnceLock<Mutex<Notifier>> = OnceLock::new();

/// The one of this process. No core asks for it.
pub fn shared() -> MutexGuard<'static, Notifier> {
    let shared = SHARED.get_or_init(|| Mutex::new(Notifier::from_environment()));
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// See [`Notifier::starting`].
pub fn starting(status: &str) {
    shared().starting(status);
}

/// See the module's head.
pub struct Notifier {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
    fed: Option<Instant>,
    extended: Option<Instant>,
    status: String,
}

impl Notifier {
    /// As the environment says.
    fn from_environment() -> Notifier {
        let address = std::env::var_os("NOTIFY_SOCKET").and_then(|name| match name.as_bytes() {
            [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest).ok(),
            [b'/', ..] => SocketAddr::from_pathname(&name).ok(),
            _ => None,
        });
        let socket = address.and_then(|address| Some((UnixDatagram::unbound().ok()?, address)));
        if let Some((socket, _)) = &socket
            && let Err(error) = socket.set_nonblocking(true)
        {
            log::debug!(
                "event=notify_socket error={error:?}",
                error = error.to_string()
            );
        }
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        let is_meant =
            number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let interval = number("WATCHDOG_USEC").filter(|usec| *usec > 0 && is_meant);
        Notifier {
            socket,
            watchdog: interval.map(Duration::from_micros),
            fed: None,
            extended: None,
            status: String::new(),
        }
    }

    fn send(&self, text: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(text.as_bytes(), address)
        {
            log::debug!(
                "event=notify_failed error={error:?}",
                error = error.to_string()
            );
        }
    }

    /// The start goes on, or waits for an order: it may take longer.
    pub fn starting(&mut self, status: &str) {
        self.extend(status);
    }

    /// It serves.
    pub fn ready(&mut self, status: &str) {
        status.clone_into(&mut self.status);
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// It still serves, and this is how.
    pub fn status(&mut self, status: &str) {
        if self.status != status {
            status.clone_into(&mut self.status);
            self.send(&format!("STATUS={status}"));
        }
    }

    /// It was told to stop.
    pub fn stopping(&mut self) {
        self.send("STOPPING=1");
    }

    /// The stop goes on: it may take longer.
    pub fn draining(&mut self, status: &str) {
        self.extend(status);
    }

    fn extend(&mut self, status: &str) {
        let now = instant();
        if self.extended.is_some_and(|at| now - at < PAUSE) && self.status == status {
            return;
        }
        self.extended = Some(now);
        status.clone_into(&mut self.status);
        let micros = EXTENSION.as_micros();
        // A node that starts again within its process has a watchdog that runs.
        let watchdog = if self.watchdog.is_some() {
            "\nWATCHDOG=1"
        } else {
            ""
        };
        self.send(&format!(
            "EXTEND_TIMEOUT_USEC={micros}\nSTATUS={status}{watchdog}"
        ));
    }

    /// Every core's time has gone on since the last call that was answered true. Feeds the watchdog when it is time to, and
    /// says so.
    pub fn alive(&mut self) -> bool {
        let Some(interval) = self.watchdog else {
            return false;
        };
        let now = instant();
        let is_due = self.fed.is_none_or(|at| now - at >= interval / 4);
        if is_due {
            self.fed = Some(now);
            self.send("WATCHDOG=1");
        }
        is_due
    }
}
