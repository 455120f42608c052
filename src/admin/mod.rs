//! The listener for operators, on an executor of its own: what hangs a core does not hang it. It asks the cores by message,
//! with a deadline.

mod console;
mod gather;
mod service;
mod streams;

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_lite::AsyncReadExt;

pub use self::gather::Gatherer;
use self::service::Service;
use crate::config::{Config, Origins};
use crate::core::executor::{self, Executor};
use crate::core::listen::{ConnectionEvents, ConnectionLimits, ListenGuard, accept_loop, listener};
use crate::core::owners::Owners;
use crate::core::signal::Event;
use crate::core::timeouts::Timeouts;
use crate::core::{MeshEnds, Message, StopHandle, control_stream, stop_pair};
use crate::peer::Caller;

/// Connections at once.
const CONNECTIONS_MAX: u64 = 256;

static OPEN: AtomicU64 = AtomicU64::new(0);

/// How many of the connections are open, from 0 to 1.
pub fn saturation() -> f64 {
    OPEN.load(Ordering::Relaxed) as f64 / CONNECTIONS_MAX as f64
}

/// What the listener starts with.
pub struct AdminStart {
    /// The settings, and where each comes from.
    pub config: Config,
    /// See `config`.
    pub origins: Origins,
    /// Where clients connect.
    pub client_address: std::net::SocketAddr,
    /// What changes need; `None`: nothing can be changed.
    pub token: Option<String>,
    /// Where it listens.
    pub guard: ListenGuard,
    /// Its ends of the channels; the cores are 0 to `cores`, it is the one after them.
    pub mesh: MeshEnds<Message>,
    /// How many cores there are.
    pub cores: u16,
}

/// A listener that runs.
pub struct Admin {
    stop: StopHandle,
    handle: Executor<()>,
}

impl Admin {
    /// Its thread, for [`executor::nudge`].
    pub fn thread(&self) -> i32 {
        self.handle.thread()
    }

    /// Ends it and waits for that. One that nobody stops ends with the process.
    pub fn stop(self) {
        drop(self.stop);
        if let Err(error) = self.handle.join() {
            log::warn!(
                "event=admin_failed error={error:?}",
                error = error.to_string()
            );
        }
    }
}

/// Starts the listener.
///
/// # Errors
/// The executor's, as a text.
pub fn start(start: AdminStart) -> Result<Admin, String> {
    let (stop, stopped) = stop_pair().map_err(|e| e.to_string())?;
    let socket_address = start.guard.addr;
    let spawned = executor::spawn_beside("admin", move || async move {
        let timeouts: Rc<Timeouts> = Rc::default();
        crate::core::tasks::spawn(timeouts.clone().run()).detach();
        let owners = Owners::new(start.cores, start.config.raft_group_count as u32);
        let gatherer = match Gatherer::connect(start.mesh, owners) {
            Ok(gatherer) => gatherer,
            Err(error) => {
                log::error!("event=admin_failed {error}");
                return;
            }
        };
        let socket = match listener(socket_address) {
            Ok(socket) => socket,
            Err(error) => {
                log::error!("event=admin_failed {error}");
                return;
            }
        };
        log::info!("event=admin_listening address={socket_address}");
        let service = Rc::new(Service {
            client_address: start.client_address,
            caller: Caller::new(Rc::default(), timeouts.clone()),
            token: start.token,
            config: start.config,
            origins: start.origins,
            gatherer,
        });
        let limits = ConnectionLimits {
            connections_max: CONNECTIONS_MAX,
            header_timeout_ms: 10_000,
            idle_timeout_ms: 75_000,
            header_bytes_max: 32 << 10,
            h2_streams_max: 64,
            shutdown_timeout_ms: 0,
            retry_after_s: 1,
        };
        let serve = move |request| {
            let service = service.clone();
            async move { service.serve(request).await }
        };
        let end: Rc<Event> = Rc::default();
        let raised = end.clone();
        crate::core::tasks::spawn(async move {
            // Nothing is ever written there: this is the end of it.
            let mut stopped = control_stream(stopped);
            let _ = stopped.read(&mut [0]).await;
            raised.raise();
        })
        .detach();
        accept_loop(socket, limits, timeouts, end, Rc::new(Quiet), serve).await;
        drop(start.guard);
    });
    spawned
        .map(|handle| Admin { stop, handle })
        .map_err(|error| error.to_string())
}

struct Quiet;

impl ConnectionEvents for Quiet {
    fn connections(&self, open: u64) {
        OPEN.store(open, Ordering::Relaxed);
    }

    fn refused(&self) {
        log::warn!("event=admin_connection_refused connections_max={CONNECTIONS_MAX}");
    }

    fn panicked(&self) {}
}

/// How long a core may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
