//! One node: recovery, one executor per core, signals, an orderly end.

mod cold_place;
mod identity;
mod join;
mod notify;
pub(crate) mod place;
mod preflight;
mod pulse;
mod rebuild;
mod recovery;
pub mod replay;
pub mod scrub;
mod supervise;

use std::net::SocketAddr;
use std::sync::mpsc::{Sender, channel};

use glommio::{LocalExecutorBuilder, Placement, PoolPlacement};
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

pub use self::identity::{RESTORING, found_directory, unmake_directory};
pub use self::preflight::Denied;
pub(crate) use self::preflight::{has_io_uring, limit_of};
use self::pulse::Pulses;
use self::recovery::{Start, recover};
use self::supervise::{Ended, Event, Supervisor};
use crate::admin::AdminStart;
use crate::config::{ADMIN_LISTEN, AdminListen, Config, ConfigError, Origins};
use crate::core::executor::{self, Executor};
use crate::core::listen::ListenGuard;
use crate::core::owners::Owners;
use crate::core::{
    CoreError, CoreStart, Loads, MeshEnds, Message, NodeIdentity, StopHandle, mesh,
    run as run_core, stop_pair,
};
use crate::ops::exit;

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
    /// The data directory is another node's, or was made with other settings.
    #[error("{0}")]
    Misfit(String),
    /// The cluster could not be asked.
    #[error("cannot ask the cluster: {0}")]
    Join(String),
    /// A write or sync of the log failed while the node ran.
    #[error(
        "core {core}: a write or sync of its log failed; look at the disk and the kernel's log before a new start"
    )]
    DiskFailed {
        /// The first one.
        core: u16,
    },
    /// A core, because of the disk.
    #[error("core {core}: {error}")]
    CoreStorage {
        /// Which.
        core: u16,
        /// Why.
        error: storage::StorageError,
    },
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
    /// The executor of the operators' listener.
    #[error("the admin listener: {0}")]
    Admin(String),
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

impl NodeError {
    /// The process's exit code.
    pub fn code(&self) -> u8 {
        use storage::StorageError;
        match self {
            NodeError::Config(_) => exit::USAGE,
            NodeError::Misfit(_) => exit::MISFIT,
            // Locked memory of a process that has just ended is given back late: worth another try.
            NodeError::Denied(Denied::IoUring(error))
                if error.raw_os_error() == Some(libc::ENOMEM) =>
            {
                exit::FAILED
            }
            NodeError::Denied(_) => exit::MISFIT,
            NodeError::Storage(error) | NodeError::CoreStorage { error, .. } => match error {
                StorageError::Corrupt { .. }
                | StorageError::Foreign { .. }
                | StorageError::NewerVersion { .. } => exit::DAMAGED,
                StorageError::Poisoned => exit::DISK_FAILED,
                StorageError::Io { source, .. } => match source.raw_os_error() {
                    Some(libc::EIO) => exit::DISK_FAILED,
                    // The same at the next start.
                    Some(libc::EACCES | libc::EPERM | libc::ENOTDIR) => exit::MISFIT,
                    _ => exit::FAILED,
                },
                StorageError::NoSpace { .. } | StorageError::Locked { .. } => exit::FAILED,
            },
            NodeError::Data(_) | NodeError::Damaged(_) => exit::DAMAGED,
            NodeError::DiskFailed { .. } => exit::DISK_FAILED,
            NodeError::Listen(_)
            | NodeError::Cold(_)
            | NodeError::Join(_)
            | NodeError::Core { .. }
            | NodeError::Admin(_)
            | NodeError::Io(_)
            | NodeError::StopTimeout
            | NodeError::Interrupted => exit::FAILED,
        }
    }
}

/// Runs a node until a signal stops it.
///
/// # Errors
/// [`NodeError`]; its text says what to do.
pub fn run(config: &Config, origins: &Origins) -> Result<(), NodeError> {
    loop {
        if run_once(config, origins)? == Ended::Told {
            return Ok(());
        }
        log::warn!("event=starting_again damaged files are set aside");
    }
}

fn run_once(config: &Config, origins: &Origins) -> Result<Ended, NodeError> {
    log::info!("event=starting version={}", crate::ops::build::VERSION);
    preflight::raise_descriptor_limit(config.connections_max);
    preflight::check()?;
    let guard = crate::core::listen::guard(config.listen)?;
    let cluster_listen = config.cluster_listen.filter(|_| !config.peers.is_empty());
    let cluster_guard = cluster_listen.map(crate::core::listen::guard).transpose()?;
    let admin_guard = admin_guard(config.admin_listen)?;
    let token = admin_token(config)?;
    let start = recover(config)?;
    let cores = config.core_count as u16;
    log::info!("event=cores count={cores} pinned={}", !config.no_pin);
    log::info!("event=groups count={}", config.raft_group_count);
    match &config.wal_dir {
        Some(dir) => log::info!("event=data_directory path={:?}", dir.display()),
        None => log::warn!(
            "event=in_memory in-memory: nothing survives a restart (give --wal-dir to keep data)"
        ),
    }
    let (events, inbox) = channel();
    let signals = events.clone();
    // A file that may not grow is an error of the write, not the end of the process.
    signal_hook::flag::register(SIGXFSZ, std::sync::Arc::default())?;
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
    let mut ends = mesh::<Message>(usize::from(cores) + usize::from(admin_guard.is_some()))?;
    let mut admin_handle = None;
    if let Some(guard) = admin_guard
        && let Some(mesh) = ends.pop()
    {
        let admin = AdminStart {
            config: config.clone(),
            origins: origins.clone(),
            client_address: listen.0,
            token,
            guard,
            mesh,
            cores,
        };
        let admin = crate::admin::start(admin).map_err(NodeError::Admin)?;
        pulses.admin_started(admin.thread());
        admin_handle = Some(admin);
    }
    let controls = spawn(config, start, (ends, listen), &mut pulses, &events)?;
    let supervisor = Supervisor::new(config, guard.addr, controls, pulses);
    let result = supervisor.run(&inbox);
    if let (Some(admin), Ok(Ended::Damaged)) = (admin_handle, &result) {
        admin.stop();
    }
    drop(guard);
    drop(cluster_guard);
    result
}

/// The token that the operators' listener wants for changes.
fn admin_token(config: &Config) -> Result<Option<String>, NodeError> {
    let Some(path) = &config.admin_token_file else {
        return Ok(None);
    };
    let bad = |reason: String| {
        NodeError::Misfit(format!("admin_token_file {}: {reason}", path.display()))
    };
    let text = std::fs::read_to_string(path).map_err(|e| bad(e.to_string()))?;
    let token = text.trim();
    if token.len() < 16 || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(bad(
            "a token is one line of 16 or more printable characters".to_owned(),
        ));
    }
    Ok(Some(token.to_owned()))
}

/// A default keeps no node from starting; an address that was given does.
fn admin_guard(listen: AdminListen) -> Result<Option<ListenGuard>, NodeError> {
    use crate::core::listen::{guard, try_guard};
    let address = match listen {
        AdminListen::Off => return Ok(None),
        AdminListen::At(address) => return Ok(Some(guard(address)?)),
        AdminListen::Auto => ADMIN_LISTEN.parse().map_err(std::io::Error::other)?,
    };
    match try_guard(address) {
        Ok(guard) => Ok(Some(guard)),
        Err(error) => {
            log::warn!("event=no_admin_listener {error}; give --admin-listen to have one");
            Ok(None)
        }
    }
}

fn spawn(
    config: &Config,
    start: Start,
    (ends, (listen, cluster_listen)): (Vec<MeshEnds<Message>>, (SocketAddr, Option<SocketAddr>)),
    pulses: &mut Pulses,
    events: &Sender<Event>,
) -> Result<Vec<StopHandle>, NodeError> {
    let cores = config.core_count as u16;
    let cpus = crate::config::allowed_cpus();
    let mut controls = Vec::new();
    let lock = std::sync::Arc::new(start.lock);
    let loads = std::sync::Arc::new(Loads::new(Owners::new(
        cores,
        config.raft_group_count as u32,
    )));
    for ((id, mesh), part) in (0..cores).zip(ends).zip(start.cores) {
        let (handle, control) = stop_pair()?;
        controls.push(handle);
        let progress = events.clone();
        let pulse = pulses.add();
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
            loads: loads.clone(),
            pulse,
            progress: Box::new(move |step| {
                use crate::core::Progress;
                let event = match step {
                    Progress::Ready => Event::Ready,
                    Progress::Listening => Event::Listening,
                    Progress::Drained => Event::Drained,
                    Progress::LogFailed => Event::LogFailed { core: id },
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
        let builder = LocalExecutorBuilder::new(placement)
            .io_memory(config.io_memory as usize)
            .preempt_timer(crate::core::net::PREEMPT_TIMER)
            .blocking_thread_pool_placement(PoolPlacement::Unbound(2));
        let spawned = executor::spawn(builder, &format!("core-{id}"), move || {
            // Made here: the error of an executor that cannot start is that of spawning it.
            let exit = Exit {
                core: id,
                events: ended,
                error: Some(NodeError::Core {
                    core: id,
                    text: "it panicked".to_owned(),
                }),
            };
            async move {
                let mut exit = exit;
                exit.error = run_core(core).await.err().map(|e| core_error(id, e));
                drop(lock);
            }
        });
        let running = spawned.map_err(|e| NodeError::Core {
            core: id,
            text: e.to_string(),
        })?;
        pulses.started(id, running.thread());
        watch(id, running, events.clone());
    }
    Ok(controls)
}

/// Reports an executor whose thread panicked: that comes only from joining it.
fn watch(core: u16, handle: Executor<()>, events: Sender<Event>) {
    let watcher = std::thread::Builder::new().name(format!("join-{core}"));
    let spawned = watcher.spawn(move || {
        if let Err(error) = handle.join() {
            let text = error.to_string();
            let error = Some(NodeError::Core { core, text });
            let _ = events.send(Event::Exited { core, error });
        }
    });
    if let Err(error) = spawned {
        log::warn!(
            "event=thread_not_started error={error:?}",
            error = error.to_string()
        );
    }
}

fn core_error(core: u16, error: CoreError) -> NodeError {
    match error {
        CoreError::Storage(error) => NodeError::CoreStorage { core, error },
        other => NodeError::Core {
            core,
            text: other.to_string(),
        },
    }
}

struct Exit {
    core: u16,
    events: Sender<Event>,
    error: Option<NodeError>,
}

impl Drop for Exit {
    fn drop(&mut self) {
        let _ = self.events.send(Event::Exited {
            core: self.core,
            error: self.error.take(),
        });
    }
}
