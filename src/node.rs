//! One node: recovery, one executor per core, signals, an orderly end.

mod identity;
mod join;
mod preflight;
mod pulse;
mod rebuild;
mod recovery;
pub mod replay;
pub mod scrub;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use glommio::{LocalExecutorBuilder, Placement, PoolPlacement};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::iterator::Signals;

pub use self::preflight::Denied;
use self::pulse::Pulses;
use self::recovery::{Start, recover};
use crate::config::{Config, ConfigError};
use crate::core::{CoreStart, Message, NodeIdentity, StopHandle, mesh, run as run_core, stop_pair};

/// Why a node ended.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A setting.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The disk.
    #[error(transparent)]
    Storage(#[from] storage::StorageError),
    /// The cold store.
    #[error(transparent)]
    Cold(#[from] storage::cold::ColdError),
    /// Something that is not readable for this version.
    #[error("{0}")]
    Data(String),
    /// Something is not there, or not what was written.
    #[error("{0}")]
    Damaged(String),
    /// The machine.
    #[error(transparent)]
    Denied(#[from] preflight::Denied),
    /// The address.
    #[error(transparent)]
    Listen(#[from] crate::core::listen::ListenError),
    /// A core.
    #[error("core {core}: {text}")]
    Core {
        /// Which.
        core: u16,
        /// Why.
        text: String,
    },
    /// The system's.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Not everything ended in time.
    #[error("not all cores stopped in time; what was acknowledged is on disk")]
    StopTimeout,
    /// Told to stop a second time.
    #[error("a second signal cut the stop short; what was acknowledged is on disk")]
    Interrupted,
}

enum Event {
    Started { core: u16, thread: i32 },
    Ready,
    Listening,
    Drained,
    Damaged,
    Exited { core: u16, error: Option<String> },
    Signal,
}

/// Runs a node until a signal stops it.
///
/// # Errors
/// [`NodeError`]; its text says what to do.
pub fn run(config: Config) -> Result<(), NodeError> {
    loop {
        if run_once(&config)? == Ended::Told {
            return Ok(());
        }
        log::warn!("event=starting_again damaged files are set aside");
    }
}

/// Why a node stopped in good order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// By a signal.
    Told,
    /// It found damage that the next start mends.
    Damaged,
}

fn run_once(config: &Config) -> Result<Ended, NodeError> {
    log::info!("event=starting version={}", env!("CARGO_PKG_VERSION"));
    preflight::raise_descriptor_limit(config.connections_max);
    preflight::check()?;
    let guard = crate::core::listen::guard(config.listen)?;
    let cluster_listen = config.cluster_listen.filter(|_| !config.peers.is_empty());
    let cluster_guard = cluster_listen.map(crate::core::listen::guard).transpose()?;
    let start = recover(config)?;
    let cores = config.core_count as u16;
    log::info!("event=cores count={cores} pinned={}", !config.no_pin);
    log::info!("event=groups count={}", config.raft_group_count);
    match &config.wal_dir {
        Some(dir) => log::info!("event=data_directory path={}", dir.display()),
        None => log::warn!(
            "event=in_memory in-memory: nothing survives a restart (give --wal-dir to keep data)"
        ),
    }
    let (events, inbox) = channel();
    let signals = events.clone();
    // A file that may not grow is an error of the write, not the end of the process.
    signal_hook::flag::register(SIGXFSZ, std::sync::Arc::default())?;
    // Only interrupts what a thread waits for; see `nudge`.
    signal_hook::flag::register(SIGUSR1, std::sync::Arc::default())?;
    let mut wanted = Signals::new([SIGTERM, SIGINT])?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for _ in wanted.forever() {
                if signals.send(Event::Signal).is_err() {
                    return;
                }
            }
        })?;
    let cluster_address = cluster_guard.as_ref().map(|guard| guard.addr);
    if let Some(address) = cluster_address {
        log::info!(
            "event=cluster_listening address={address} node={}",
            config.node_id
        );
    }
    let mut pulses = Pulses::default();
    let listen = (guard.addr, cluster_address);
    let mut controls = spawn(config, start, listen, &mut pulses, &events)?;
    let result = supervise(config, &inbox, &mut controls, &mut pulses, guard.addr);
    drop(guard);
    drop(cluster_guard);
    result
}

fn spawn(
    config: &Config,
    start: Start,
    (listen, cluster_listen): (SocketAddr, Option<SocketAddr>),
    pulses: &mut Pulses,
    events: &Sender<Event>,
) -> Result<Vec<StopHandle>, NodeError> {
    let cores = config.core_count as u16;
    let cpus = crate::config::allowed_cpus();
    let mut controls = Vec::new();
    let ends = mesh::<Message>(usize::from(cores));
    let lock = std::sync::Arc::new(start.lock);
    for ((id, mesh), part) in (0..cores).zip(ends).zip(start.cores) {
        let (handle, control) = stop_pair()?;
        controls.push(handle);
        let progress = events.clone();
        let ticks = pulses.add();
        let core = CoreStart {
            id,
            cores,
            config: config.clone(),
            groups: part.groups,
            mesh,
            listen,
            wal: part.wal,
            etag_nonce: start.etag_nonce,
            identity: NodeIdentity {
                store_id: start.store_id,
                raft_id: start.raft_id,
                client_address: listen,
                cluster_listen,
            },
            control,
            ticks,
            progress: Box::new(move |step| {
                use crate::core::Progress;
                let event = match step {
                    Progress::Started(thread) => Event::Started { core: id, thread },
                    Progress::Ready => Event::Ready,
                    Progress::Listening => Event::Listening,
                    Progress::Drained => Event::Drained,
                    Progress::Damaged => Event::Damaged,
                };
                // The node is gone if nobody listens; then this core ends soon too.
                let _ = progress.send(event);
            }),
        };
        let placement = if config.no_pin || cpus.is_empty() {
            Placement::Unbound
        } else {
            Placement::Fixed(cpus[usize::from(id) % cpus.len()])
        };
        let ended = events.clone();
        let lock = lock.clone();
        LocalExecutorBuilder::new(placement)
            .name(&format!("core-{id}"))
            .io_memory(config.io_memory as usize)
            .preempt_timer(crate::core::net::PREEMPT_TIMER)
            .blocking_thread_pool_placement(PoolPlacement::Unbound(2))
            .spawn(move || {
                // Made here: an executor that cannot start reports itself, see `watch`.
                let exit = Exit {
                    core: id,
                    events: ended,
                    error: Some("it panicked".to_owned()),
                };
                async move {
                    let mut exit = exit;
                    exit.error = run_core(core).await.err().map(|e| e.to_string());
                    drop(lock);
                }
            })
            .map_err(|e| NodeError::Core {
                core: id,
                text: e.to_string(),
            })
            .map(|handle| watch(id, handle, events.clone()))?;
    }
    Ok(controls)
}

/// Reports an executor that could not start: its error comes only from joining it.
fn watch(core: u16, handle: glommio::ExecutorJoinHandle<()>, events: Sender<Event>) {
    let watcher = std::thread::Builder::new().name(format!("join-{core}"));
    let spawned = watcher.spawn(move || {
        if let Err(error) = handle.join() {
            let error = Some(error.to_string());
            let _ = events.send(Event::Exited { core, error });
        }
    });
    if let Err(error) = spawned {
        log::warn!("event=thread_not_started error=\"{error}\"");
    }
}

struct Exit {
    core: u16,
    events: Sender<Event>,
    error: Option<String>,
}

impl Drop for Exit {
    fn drop(&mut self) {
        let _ = self.events.send(Event::Exited {
            core: self.core,
            error: self.error.take(),
        });
    }
}

fn tell_all(controls: &mut [StopHandle], byte: u8) {
    for control in controls {
        // A core that is gone reports itself.
        let _ = control.write_all(&[byte]);
    }
}

/// How long a core that starts or stops may sleep beside work that is done.
const NUDGE_INTERVAL: Duration = Duration::from_millis(20);

fn supervise(
    config: &Config,
    inbox: &Receiver<Event>,
    controls: &mut [StopHandle],
    pulses: &mut Pulses,
    addr: std::net::SocketAddr,
) -> Result<Ended, NodeError> {
    let cores = controls.len();
    let mut ended = Ended::Told;
    let (mut ready, mut listening, mut drained, mut exited) = (0, 0, 0, 0);
    let mut stopping_since: Option<std::time::Instant> = None;
    let limit = Duration::from_millis(config.shutdown_timeout_ms) * 2 + Duration::from_secs(5);
    let mut waited = Duration::ZERO;
    while exited < cores {
        let is_stopping = stopping_since.is_some();
        let event = if is_stopping || listening < cores {
            match inbox.recv_timeout(NUDGE_INTERVAL) {
                Ok(event) => event,
                Err(_) if is_stopping && waited >= limit => return Err(NodeError::StopTimeout),
                Err(_) => {
                    waited += NUDGE_INTERVAL;
                    pulses.wake_all();
                    continue;
                }
            }
        } else {
            match inbox.recv_timeout(pulse::INTERVAL) {
                Ok(event) => event,
                Err(_) => {
                    pulses.look();
                    continue;
                }
            }
        };
        waited = Duration::ZERO;
        match event {
            Event::Started { core, thread } => pulses.started(core, thread),
            Event::Ready => {
                ready += 1;
                if ready == cores {
                    tell_all(controls, b'g');
                }
            }
            Event::Listening => {
                listening += 1;
                if listening == cores {
                    log::info!("event=listening listening on http://{addr}");
                    if stopping_since.is_some() {
                        tell_all(controls, b's');
                    }
                }
            }
            Event::Drained => {
                drained += 1;
                if drained == cores {
                    tell_all(controls, b'q');
                }
            }
            // A stop that is under way may have been told, and then is final.
            Event::Damaged if stopping_since.is_some() => {}
            Event::Damaged => {
                stopping_since = Some(crate::core::clock::instant());
                ended = Ended::Damaged;
                log::info!("event=stopping");
                if listening == cores {
                    tell_all(controls, b's');
                }
            }
            Event::Signal if ended == Ended::Damaged => ended = Ended::Told,
            // Supervisors and terminals may send a signal twice; a later one is meant.
            Event::Signal
                if stopping_since.is_some_and(|s| s.elapsed() < Duration::from_secs(1)) => {}
            Event::Signal if stopping_since.is_some() => return Err(NodeError::Interrupted),
            Event::Signal => {
                stopping_since = Some(crate::core::clock::instant());
                log::info!("event=stopping");
                if listening == cores {
                    tell_all(controls, b's');
                }
            }
            Event::Exited {
                core,
                error: Some(text),
            } => return Err(NodeError::Core { core, text }),
            Event::Exited { error: None, .. } => exited += 1,
        }
    }
    log::info!("event=stopped");
    Ok(ended)
}
