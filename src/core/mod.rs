//! The shell: what one executor owns. Only here tasks are spawned and clocks are read.

mod backend;
mod balance;
mod base;
mod checkpoint;
pub mod clock;
mod clocks;
pub mod cold;
mod cold_cache;
mod cold_read;
mod collect;
mod copies;
mod damage;
pub mod executor;
mod files;
mod flush;
mod fork;
mod give;
mod guests;
mod hand_over;
mod http_client;
pub mod hyper_rt;
mod judge;
pub mod learn;
mod level;
pub mod listen;
mod load;
mod materialize;
mod members;
mod mend;
mod mesh;
mod message;
pub mod net;
pub mod owners;
mod pace;
pub mod packs;
mod peer_events;
mod peers;
mod pulse;
mod rescue;
mod room;
mod router;
mod saga;
mod scrub;
mod ship;
mod ship_chain;
mod ship_lag;
mod ship_proof;
pub(crate) mod signal;
mod slice;
mod start;
mod status;
mod tails;
pub(crate) mod tasks;
pub(crate) mod timeouts;
pub mod tls;
mod transfer;
mod turn;

pub use checkpoint::{
    GroupFiles, group_dir, manifest_path, pack_path, read_tables, read_tables_of, sweep, sweep_of,
    table_path, tables, write as write_checkpoint,
};
pub use damage::{SET_ASIDE_MAX, damage_note_path, set_aside_count};
pub use files::{location_of, needed_of};
pub use load::Loads;
pub use mesh::{Mesh, MeshEnds, mesh};
pub use message::{CoreReport, Message};
pub use packs::pack_key;
pub use peer_events::bound_path;
pub use pulse::Pulse;
pub use start::{
    CoreError, CoreStart, GroupStart, Progress, StopHandle, WalStart, control_stream, run,
    stop_pair,
};
pub use status::{core_statuses, not_ready, silent_cores};
pub use turn::kind as record_kind;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;

use ahash::AHashMap;
use glommio::sync::Semaphore;
use storage::cold::ColdStore;
use storage::pack::PackReader;
use storage::wal::Wal;

use self::clock::Clock;

use self::signal::{Event, Slot};
use self::tails::TailHub;
use self::timeouts::Timeouts;
use crate::config::Config;
use crate::group::{Group, Outage, ReplyTo};
use crate::http::backend::HttpSettings;
use crate::meta::Tables;
use crate::ops::metrics::CoreMetrics;
use crate::peer::{Caller, Link};
use crate::protocol::{Outcome, StreamKey, TailNews};

/// One executor and all that it owns.
pub struct Core {
    id: u16,
    cores: u16,
    config: Config,
    http: Rc<HttpSettings>,
    clock: Clock,
    timeouts: Rc<Timeouts>,
    groups: RefCell<BTreeMap<u32, Group>>,
    /// Those that do not sleep: with many that do, to look at all of them with each tick would be most of what an idle node does.
    awake: RefCell<BTreeSet<u32>>,
    /// Raised when the first of them wakes.
    woke: Event,
    /// When it was, in monotonic microseconds.
    woke_us: Cell<u64>,
    tables: RefCell<std::sync::Arc<Tables>>,
    /// Who waits for which reply of an own group.
    waiting: RefCell<AHashMap<u64, Waiting>>,
    /// Who waits for an answer of another core.
    asked: RefCell<AHashMap<u64, Slot<Outcome>>>,
    probed: RefCell<AHashMap<u64, Slot<CoreReport>>>,
    next_id: Cell<u64>,
    /// News that found the other core's queue full.
    late_news: RefCell<BTreeMap<(u16, StreamKey), TailNews>>,
    mesh: RefCell<Option<Rc<Mesh<Message>>>>,
    /// To each of the other nodes.
    links: RefCell<BTreeMap<u64, Rc<Link>>>,
    /// Nodes that speak to this one and may have become members while it was away, with their addresses.
    guests: RefCell<guests::Guests>,
    /// Of the members, what other nodes say while nobody leads the meta group here.
    learnt: learn::Learnt,
    /// Those that are no members any more, and until when they are spoken to, in monotonic microseconds.
    leaving: RefCell<BTreeMap<u64, u64>>,
    /// Where the clients of the other nodes connect, as far as they said so.
    client_addresses: RefCell<BTreeMap<u64, String>>,
    /// Of the nodes that are linked to: raft id, and the newest version of commands that each applies.
    versions: RefCell<BTreeMap<u64, (u64, u32)>>,
    /// Asks other nodes once.
    caller: Caller,
    damage: damage::Damage,
    /// The log says that this node is no member any more.
    is_standing_told: Cell<bool>,
    /// By which the links count time.
    peers_beats: Rc<Event>,
    /// Ends the links.
    peers_stop: Rc<Event>,
    identity: NodeIdentity,
    /// The node that leads each group; 0: nobody.
    leaders: RefCell<Vec<u64>>,
    hub: Rc<TailHub>,
    /// Raised when a group has something for the next turn.
    turn: Event,
    /// Groups with commands for the next turn.
    to_flush: RefCell<Vec<u32>>,
    /// Readies that wait for the next sync.
    unsynced: RefCell<VecDeque<(u32, u64)>>,
    /// The newest turns.
    turns: RefCell<VecDeque<turn::TurnTimes>>,
    /// When the last step of a group began, in monotonic microseconds.
    stepped_us: Cell<u64>,
    /// When the last sync began.
    sync_began_us: Cell<u64>,
    disk: Option<Disk>,
    metrics: Rc<CoreMetrics>,
    lag: status::Lag,
    pace: pace::Pace,
    /// The longest time for which another node's backup keeps what is deleted.
    others_keep_ms: Cell<u64>,
    /// Nodes that have their old data in another place, and where.
    other_places: RefCell<BTreeMap<u64, String>>,
    /// Of all groups of the node.
    loads: std::sync::Arc<load::Loads>,
    /// What spreads leadership.
    balancing: balance::Balancing,
    /// How fast checkpoints go to other nodes.
    giving: give::Throttle,
    /// The other nodes' clocks against this one's, in milliseconds; asked by the first core.
    clock_offsets: RefCell<BTreeMap<u64, f64>>,
    /// Where old data is kept; `None` for a node in memory.
    cold: Option<Rc<dyn ColdStore>>,
    tier: cold_read::Tier,
    shipping: ship::Shipping,
    /// Of the cold store.
    outage: RefCell<Outage>,
    /// Bytes of the groups that the cold store lacks.
    unflushed_bytes: Cell<u64>,
    body_bytes: Rc<Cell<u64>>,
    hot_bytes: Cell<u64>,
    stop: Rc<Event>,
    /// The WAL failed: nothing is served any more.
    is_failed: Cell<bool>,
    /// Tells the node's thread.
    progress: Rc<dyn Fn(Progress)>,
    /// How much the disk has for the log.
    room: room::LogRoom,
    ready_changed: Event,
}

/// Who this node is, as it introduces itself.
#[derive(Debug, Clone)]
pub struct NodeIdentity {
    /// Its data directory.
    pub store_id: [u8; 16],
    /// Of its replicas.
    pub raft_id: u64,
    /// Where clients connect.
    pub client_address: std::net::SocketAddr,
    /// Where the other nodes connect, if it is not alone.
    pub cluster_listen: Option<std::net::SocketAddr>,
}

/// What a durable core has on disk.
struct Disk {
    dir: PathBuf,
    wal: Rc<Wal>,
    packs: PackReader,
    /// WAL bytes at the end of the last round of checkpoints.
    checkpointed_at: Cell<u64>,
    wal_bytes: Cell<u64>,
    /// Held by a round of checkpoints, and by what must not meet one.
    checkpointing: Rc<Semaphore>,
    files: RefCell<BTreeMap<u32, checkpoint::GroupFiles>>,
    /// Checkpoints that found no room; the next round writes them before it plans others.
    unwritten: RefCell<BTreeMap<u32, checkpoint::Planned>>,
    /// In monotonic microseconds.
    no_checkpoint_until_us: Cell<u64>,
    /// Checkpoints that were fetched and are not in their place yet.
    fetched: RefCell<BTreeMap<u32, checkpoint::GroupFiles>>,
    /// Groups of which another node needs a checkpoint.
    wanted: RefCell<BTreeSet<u32>>,
}

enum Waiting {
    Here {
        slot: Slot<Outcome>,
        since_us: u64,
        is_write: bool,
    },
    There {
        core: u16,
        id: u64,
        since_us: u64,
    },
    OtherNode {
        node: u64,
        group: u32,
        token: u64,
        since_us: u64,
    },
}

impl Core {
    fn next_id(&self) -> u64 {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        id
    }

    fn reply_to(&self, waiting: Waiting) -> ReplyTo {
        let id = self.next_id();
        self.waiting.borrow_mut().insert(id, waiting);
        ReplyTo(id)
    }

    /// The core that has a group.
    fn owner(&self, group: u32) -> u16 {
        self.loads.owners.of(group)
    }
}
