//! The life of a core: groups lead, clients come, clients go, the log is closed.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::rc::Rc;
use std::sync::Arc;

use futures_lite::AsyncReadExt;
use glommio::net::UnixStream;
use glommio::sync::Semaphore;
use storage::StorageError;
use storage::pack::PackReader;
use storage::wal::{Pin, Wal, WalConfig};

use super::backend::CoreBackend;
use super::checkpoint::GroupFiles;
use super::clock::Clock;
use super::cold::{open_cold, try_cold};
use super::cold_cache::open_cache;
use super::cold_read::Tier;
use super::listen::{ConnectionEvents, ConnectionLimits, accept_loop, listener};
use super::load::Loads;
use super::pulse::{Pulse, Stage};
use super::room::Room;
use super::signal::Event;
use super::timeouts::Timeouts;
use super::turn::hard_state_record;
use super::{Core, Disk, MeshEnds, Message, NodeIdentity};
use crate::config::Config;
use crate::group::{Group, Machine, RaftStart};
use crate::http::backend::HttpSettings;
use crate::ops::metrics::{CoreMetrics, add};
use crate::peer::{Caller, PeerSettings};
use crate::protocol::{GroupTarget, Op, Outcome, Request};

/// What a core starts with.
pub struct CoreStart {
    /// Its number.
    pub id: u16,
    /// How many there are.
    pub cores: u16,
    /// The settings.
    pub config: Config,
    /// Its groups.
    pub groups: Vec<GroupStart>,
    /// Its ends of the channels.
    pub mesh: MeshEnds<Message>,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Its log; `None`: in memory.
    pub wal: Option<WalStart>,
    /// Who the node is.
    pub identity: NodeIdentity,
    /// See [`crate::http::backend::HttpSettings::etag_nonce`].
    pub etag_nonce: u32,
    /// Receives `g` (listen), `s` (stop), `q` (quit).
    pub control: StdUnixStream,
    /// How much work each group of the node is.
    pub loads: Arc<Loads>,
    /// Raised with each tick, so that the node sees that the core lives.
    pub pulse: Arc<Pulse>,
    /// Tells the node how far it is.
    pub progress: Box<dyn Fn(Progress) + Send>,
}

/// One group of a core.
pub struct GroupStart {
    /// Its state, as the checkpoint has it.
    pub machine: Machine,
    /// Its log after the checkpoint.
    pub raft: RaftStart,
    /// The checkpoint's files.
    pub files: GroupFiles,
}

/// A core's log.
pub struct WalStart {
    /// How it is written.
    pub config: WalConfig,
    /// The data directory.
    pub dir: std::path::PathBuf,
    /// Segments of earlier starts that the core's groups need.
    pub pins: Vec<Pin>,
}

/// How far a core is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// All its groups take requests.
    Ready,
    /// It accepts connections.
    Listening,
    /// It has no connections any more.
    Drained,
    /// A write or sync of its log failed: its groups have stopped for good.
    LogFailed,
    /// It found damage that a new start mends.
    Damaged,
}

/// The node's end of a core's control.
pub type StopHandle = StdUnixStream;

/// A control and its other end.
///
/// # Errors
/// The system's.
pub fn stop_pair() -> std::io::Result<(StopHandle, StdUnixStream)> {
    StdUnixStream::pair()
}

/// Why a core ended.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// The disk.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The socket.
    #[error(transparent)]
    Listen(#[from] super::listen::ListenError),
    /// raft-rs refused a group.
    #[error("group {group}: {source}")]
    Raft {
        /// Which.
        group: u32,
        /// Why.
        source: raft::Error,
    },
    /// Its epoll or its doorbell.
    #[error("cannot wait for other cores: {0}")]
    Poller(std::io::Error),
    /// The node went away.
    #[error("the control of the core broke off")]
    Control,
}

/// Runs a core until it is told to quit.
///
/// # Errors
/// [`CoreError`].
pub async fn run(start: CoreStart) -> Result<(), CoreError> {
    super::slice::shorten();
    let progress: Rc<dyn Fn(Progress)> = Rc::from(start.progress as Box<dyn Fn(Progress)>);
    let mut control = control_stream(start.control);
    // Nothing else wakes this executor yet; see `storage::blocking`.
    let http = start.config.http_settings(start.etag_nonce);
    let built = build(
        (start.id, start.cores),
        start.config,
        start.identity,
        http,
        start.groups,
        start.wal,
        (progress.clone(), start.loads, start.pulse.clone()),
    );
    let core = storage::blocking::awake(built).await?;
    if let Some(cold) = core.cold.clone().filter(|_| core.id == 0) {
        super::tasks::spawn(try_cold(cold)).detach();
    }
    core.use_cold_store();
    if core.config.dr && core.cold.is_some() {
        core.spawn_cold(core.clone().ship_backups());
        core.spawn_cold(core.clone().prove_backups());
        if core.groups.borrow().contains_key(&0) {
            core.spawn_cold(core.clone().collect_backups());
        }
    }
    if let Some(cache) = core.tier.disk.clone() {
        core.spawn_cold(cache.load());
    }
    core.spawn_cold(core.clone().scrub());
    log::debug!("event=core_built core={}", core.id);
    let receiver = Rc::downgrade(&core);
    let mesh = start.mesh.connect(Rc::new(move |from, message| {
        if let Some(core) = receiver.upgrade() {
            core.on_message(from, message);
        }
    }));
    let mesh = mesh.map_err(CoreError::Poller)?;
    *core.mesh.borrow_mut() = Some(Rc::new(mesh));
    super::tasks::spawn(core.clone().turns()).detach();
    let pulse = start.pulse.clone();
    super::tasks::spawn(core.clone().ticks(start.pulse)).detach();
    if core.id == 0 && core.identity.cluster_listen.is_some() {
        super::tasks::spawn(core.clone().watch_clocks()).detach();
    }
    super::tasks::spawn(core.timeouts.clone().run()).detach();
    let alone: Vec<u32> = core
        .groups
        .borrow()
        .values()
        .filter(|group| group.is_alone())
        .map(Group::id)
        .collect();
    core.campaign(alone);
    core.share_tables();
    pulse.is_at(Stage::Peers);
    let peers = core.connect_peers()?;
    pulse.is_at(Stage::Groups);
    storage::blocking::awake(core.until_ready()).await?;
    pulse.is_at(Stage::Others);
    progress(Progress::Ready);
    expect(&mut control, b'g').await?;

    let socket = listener(start.listen)?;
    progress(Progress::Listening);
    let backend = Rc::new(CoreBackend(core.clone()));
    let watched = core.clone();
    let told = progress.clone();
    super::tasks::spawn(async move {
        watched.damage.found.beyond(0).await;
        told(Progress::Damaged);
    })
    .detach();
    let serving = {
        let timeouts = core.timeouts.clone();
        let stop = core.stop.clone();
        let events = Rc::new(Counted(core.clone()));
        let serve = move |request| crate::http::serve(backend.clone(), request);
        super::tasks::spawn(accept_loop(
            socket,
            limits(&core),
            timeouts,
            stop,
            events,
            serve,
        ))
    };
    expect(&mut control, b's').await?;
    let ships = core.ship_tail().await;
    core.hand_over().await;
    core.stop.raise();
    if core.room.get() == Room::None {
        // Nothing of what is under way will be answered before this ends.
        core.leave_in_doubt();
    }
    serving.await;
    // What came while clients were still served, of groups that nobody else leads.
    if ships {
        core.ship_tail().await;
    }
    // Others may have handed something to this node that knew nothing of its stop.
    core.hand_over().await;
    progress(Progress::Drained);
    expect(&mut control, b'q').await?;
    core.peers_stop.raise();
    core.close().await?;
    if let Some(peers) = peers {
        peers.await;
    }
    Ok(())
}

/// A control as its executor reads it.
pub fn control_stream(control: StdUnixStream) -> UnixStream {
    let fd = control.into_raw_fd();
    // SAFETY: the descriptor was just taken out of its owner.
    unsafe { UnixStream::from_raw_fd(fd) }
}

async fn expect(control: &mut UnixStream, wanted: u8) -> Result<(), CoreError> {
    let mut byte = [0];
    control
        .read_exact(&mut byte)
        .await
        .map_err(|_| CoreError::Control)?;
    if byte[0] == wanted {
        Ok(())
    } else {
        Err(CoreError::Control)
    }
}

fn limits(core: &Core) -> ConnectionLimits {
    let config = &core.config;
    ConnectionLimits {
        connections_max: config.connections_max.div_ceil(u64::from(core.cores)),
        header_timeout_ms: config.header_timeout_ms,
        idle_timeout_ms: config.idle_timeout_ms,
        header_bytes_max: config.header_bytes_max,
        h2_streams_max: config.h2_streams_max,
        shutdown_timeout_ms: config.shutdown_timeout_ms,
        retry_after_s: config.retry_after_s,
    }
}

/// What binds a core to its node.
type Ties = (Rc<dyn Fn(Progress)>, Arc<Loads>, Arc<Pulse>);

async fn build(
    (id, cores): (u16, u16),
    config: Config,
    identity: NodeIdentity,
    http: HttpSettings,
    starts: Vec<GroupStart>,
    wal: Option<WalStart>,
    (progress, loads, pulse): Ties,
) -> Result<Rc<Core>, CoreError> {
    let mut groups = std::collections::BTreeMap::new();
    let mut files = std::collections::BTreeMap::new();
    for start in starts {
        let group = start.raft_group();
        let durable_pack = start.files.manifest.next_pack.saturating_sub(1);
        let built = Group::new(start.machine, start.raft, durable_pack)
            .map_err(|source| CoreError::Raft { group, source })?;
        files.insert(group, start.files);
        groups.insert(group, built);
    }
    pulse.is_at(Stage::Log);
    let disk = match wal {
        None => None,
        Some(start) => {
            let hard_states = groups
                .iter()
                .map(|(id, group): (&u32, &Group)| hard_state_record(*id, group.hard_state()));
            let wal = Wal::open(start.config, &hard_states.collect::<Vec<_>>()).await?;
            wal.adopt(start.pins);
            match super::net::log_thread(id) {
                Ok(thread) => wal.set_thread(thread),
                Err(error) => {
                    log::warn!("event=no_log_thread the log is written through glommio's: {error}");
                }
            }
            Some(Disk {
                dir: start.dir,
                wal: Rc::new(wal),
                packs: PackReader::default(),
                checkpointed_at: Cell::new(0),
                wal_bytes: Cell::new(0),
                checkpointing: Rc::new(Semaphore::new(1)),
                files: RefCell::new(files),
                unwritten: RefCell::default(),
                no_checkpoint_until_us: Cell::new(0),
                fetched: RefCell::default(),
                wanted: RefCell::default(),
            })
        }
    };
    let metrics: Rc<CoreMetrics> = Rc::default();
    let cold = open_cold(id, &config, metrics.clone());
    pulse.is_at(Stage::Cache);
    let tier = Tier::new(
        config.cold_cache_bytes,
        open_cache(&config, id, cores).await,
    );
    let timeouts: Rc<Timeouts> = Rc::default();
    let peer_settings: Rc<PeerSettings> = Rc::default();
    let giving = super::give::Throttle::new(config.transfer_bytes_per_second);
    let core = Rc::new(Core {
        id,
        cores,
        http: Rc::new(http),
        config,
        clock: Clock::start(),
        timeouts: timeouts.clone(),
        awake: RefCell::new(groups.keys().copied().collect()),
        woke: Event::default(),
        woke_us: Cell::new(0),
        groups: RefCell::new(groups),
        tables: RefCell::default(),
        waiting: RefCell::default(),
        asked: RefCell::default(),
        probed: RefCell::default(),
        next_id: Cell::new(1),
        late_news: RefCell::default(),
        mesh: RefCell::new(None),
        links: RefCell::default(),
        guests: RefCell::default(),
        learnt: super::learn::Learnt::default(),
        damage: Default::default(),
        is_standing_told: Cell::new(false),
        leaving: RefCell::default(),
        client_addresses: RefCell::default(),
        versions: RefCell::default(),
        caller: Caller::new(peer_settings, timeouts),
        peers_beats: Rc::default(),
        peers_stop: Rc::default(),
        identity,
        leaders: RefCell::default(),
        hub: Rc::default(),
        turn: Event::default(),
        to_flush: RefCell::default(),
        unsynced: RefCell::default(),
        turns: RefCell::default(),
        stepped_us: Cell::new(0),
        sync_began_us: Cell::new(0),
        pace: super::pace::Pace::default(),
        others_keep_ms: Cell::new(0),
        other_places: RefCell::default(),
        loads,
        balancing: super::balance::Balancing::default(),
        giving,
        disk,
        metrics,
        lag: super::status::Lag::default(),
        clock_offsets: RefCell::default(),
        cold,
        tier,
        shipping: super::ship::Shipping::default(),
        outage: RefCell::default(),
        unflushed_bytes: Cell::new(0),
        body_bytes: Rc::default(),
        hot_bytes: Cell::new(0),
        stop: Rc::default(),
        is_failed: Cell::new(false),
        progress,
        room: super::room::LogRoom::default(),
        ready_changed: Event::default(),
    });
    if let Some(disk) = &core.disk {
        if id == 0 {
            let count = super::set_aside_count(&disk.dir);
            core.metrics.plain.damaged_directories.set(count);
        }
        let weak = Rc::downgrade(&core);
        disk.wal.set_carry(Box::new(move || {
            let Some(core) = weak.upgrade() else {
                return Vec::new();
            };
            let groups = core.groups.borrow();
            groups
                .iter()
                .map(|(id, group)| hard_state_record(*id, group.hard_state()))
                .collect()
        }));
    }
    Ok(core)
}

impl GroupStart {
    fn raft_group(&self) -> u32 {
        self.machine.group()
    }
}

impl Core {
    /// Waits until all own groups without other members lead and the slots are known. A node of a cluster serves at once:
    /// what needs a leader waits for one.
    async fn until_ready(self: &Rc<Self>) -> Result<(), CoreError> {
        loop {
            let seen = self.ready_changed.raised();
            let is_ready = |group: &Group| !group.is_alone() || group.is_ready();
            let are_ready = self.groups.borrow().values().all(is_ready);
            let is_clustered = !self.groups.borrow().values().all(Group::is_alone);
            if are_ready && (is_clustered || !self.tables.borrow().slots.is_empty()) {
                return Ok(());
            }
            self.ready_changed.beyond(seen).await;
            if self.is_failed.get() {
                // The log has the reason.
                return Err(StorageError::Poisoned.into());
            }
        }
    }

    /// Fills the slots' table of a new or restored cluster, and names its history.
    pub(super) async fn assign_slots(self: &Rc<Self>) {
        let group_count = self.config.raft_group_count as u32;
        let history = self.clock.random();
        let request = Request {
            target: GroupTarget::Meta,
            op: Op::AssignSlots {
                group_count,
                history,
            },
        };
        match self.ask(request).await {
            // Where it was not done, another leader does it.
            Outcome::Done | Outcome::Refused(_) => {}
            outcome => log::error!("event=slots_not_assigned {outcome:?}"),
        }
    }

    /// Waits.
    pub(super) async fn sleep(&self, duration: std::time::Duration) {
        glommio::timer::sleep(duration).await;
    }
}

struct Counted(Rc<Core>);

impl ConnectionEvents for Counted {
    fn connections(&self, open: u64) {
        self.0.metrics.plain.connections.set(open);
    }

    fn refused(&self) {
        self.0.metrics.refused("connections_max");
    }

    fn panicked(&self) {
        add(&self.0.metrics.plain.handler_panics_total, 1);
    }
}
