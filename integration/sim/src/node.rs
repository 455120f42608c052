//! One node: its disk, its clocks, and what its process has in memory while it runs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use prost::Message;
use raftproto::checkpoint::Membership;
use raftproto::command::CommandBatch;
use raftproto::version::checkpoint_at;
use storage::wal::Record;
use ursula::core::learn::Learnt;
use ursula::core::record_kind;
use ursula::group::{CheckpointPlan, Group, LogPosition, Outage, Persist, RaftSettings, RaftStart};
use ursula::meta::Tables;
use ursula::meta::admission::Bound;
use ursula::node::replay::replay;

use crate::backup::BackupShell;
use crate::checkpoint::{Checkpoint, Placer};
use crate::clock::Clock;
use crate::cold::{self, ColdShell};
use crate::disk::Disk;
use crate::event::{Event, Life};
use crate::follow::Followed;
use crate::members::{Identity, Joining};
use crate::plan::Plan;
use crate::rot::Rescue;
use crate::saga::Task;

/// Who waits for an answer.
#[derive(Debug, Clone, Copy)]
pub enum Waiting {
    /// A client's operation.
    Client(u64),
    /// Another node: which process, group, token, and since when.
    Node(Life, u32, u64, u64),
    /// A task of the node's own.
    Task(u64),
}

/// An entry of a log.
#[derive(Debug, Clone)]
pub struct Written {
    /// Its term.
    pub term: u64,
    /// Its payload.
    pub payload: Bytes,
    /// A membership change.
    pub is_conf_change: bool,
}

/// A group and what it has on this node.
pub struct Hosted {
    /// The group.
    pub group: Group,
    /// Its log by what it wanted written: by index.
    pub log: BTreeMap<u64, Written>,
    /// Applied up to here when it was last looked at.
    pub applied: LogPosition,
    /// It was ready when it was last looked at.
    pub was_ready: bool,
}

/// What goes with the process.
#[derive(Default)]
pub struct Process {
    /// The groups by number.
    pub groups: BTreeMap<u32, Hosted>,
    /// Who waits for which answer.
    pub waiting: BTreeMap<u64, Waiting>,
    /// What waits for answers to requests of the node's own.
    pub tasks: BTreeMap<u64, Task>,
    /// The last task's number.
    pub task_count: u64,
    /// The last reply's number.
    pub replies: u64,
    /// Groups with commands to propose.
    pub to_flush: Vec<u32>,
    /// A turn is on its way.
    pub is_turning: bool,
    /// What the next sync persists.
    pub unsynced: Vec<(u32, u64)>,
    /// What the sync under way persists.
    pub syncing: Option<Vec<(u32, u64)>>,
    /// Groups that the round of checkpoints under way has still to do; `None`: there is no round.
    pub round: Option<VecDeque<u32>>,
    /// Checkpoints that were planned and had no room.
    pub unwritten: BTreeMap<u32, (CheckpointPlan, Placer)>,
    /// A replica wants a checkpoint.
    pub is_wanted: bool,
    /// Fetched checkpoints that wait for their exchange.
    pub installs: VecDeque<(u32, Persist)>,
    /// Fetched checkpoints.
    pub fetched: BTreeMap<u32, Checkpoint>,
    /// What is under way with the object store.
    pub cold: ColdShell,
    /// Whether the object store answers.
    pub outage: Outage,
    /// What it ships of its groups, and collects.
    pub backup: BackupShell,
    /// Packs that are being mended, by group.
    pub mending: BTreeSet<(u32, u32)>,
    /// The others are asked whether they can do without this node, or were, and can.
    pub gives_up: bool,
    /// What is done about damaged objects.
    pub rescue: Rescue,
    /// Ticks so far.
    pub ticks: u64,
    /// Streams that live readers follow.
    pub follows: BTreeMap<String, Followed>,
    /// The copy of group 0's tables.
    pub tables: Tables,
    /// Members that another node told of.
    pub learnt: Learnt,
    /// Memberships that are the only ones once a ready is on disk: group, its number.
    pub settling: BTreeMap<(u32, u64), Membership>,
    /// Processes of other nodes that are listened to.
    pub admitted: BTreeSet<Life>,
}

/// See the module's head.
pub struct Node {
    /// Its number, and that of its process, or of its last.
    pub life: Life,
    /// It runs.
    pub is_up: bool,
    /// It never runs again.
    pub is_broken: bool,
    /// Cores of its last start.
    pub cores: u32,
    /// Its disk has no room for another segment.
    pub is_full: bool,
    /// It runs and gets no time.
    pub is_paused: bool,
    /// What has come meanwhile.
    pub backlog: VecDeque<Event>,
    /// Its clocks.
    pub clock: Clock,
    /// Its disk.
    pub disk: Disk,
    /// Its data directory's identity; `None`: there is none that counts.
    pub identity: Option<Identity>,
    /// It waits for a name.
    pub joining: Option<Joining>,
    /// Which data directories the others have, on its disk.
    pub bound: Bound,
    /// For the fault atlas: the memberships of each group that a start may find.
    pub configs: BTreeMap<u32, Vec<Membership>>,
    /// A sync takes so many times as long.
    pub slowness: u64,
    /// Newest version of commands that its binary applies.
    pub version: u32,
    /// Since when it is that.
    pub version_since_us: u64,
    /// Its disk has what only a newer binary reads.
    pub needs_newer: bool,
    /// Its memory.
    pub process: Process,
}

impl Node {
    /// A node that never ran.
    pub fn new(node: u64, clock: Clock, identity: Option<Identity>, version: u32) -> Node {
        Node {
            life: Life { node, life: 0 },
            is_up: false,
            is_broken: false,
            cores: 1,
            is_full: false,
            is_paused: false,
            backlog: VecDeque::new(),
            clock,
            disk: Disk::default(),
            joining: identity.is_none().then(Joining::default),
            identity,
            bound: Bound::default(),
            configs: BTreeMap::new(),
            slowness: 1,
            version,
            version_since_us: 0,
            needs_newer: false,
            process: Process::default(),
        }
    }

    /// Recovers the groups from the disk, as a start does.
    ///
    /// # Errors
    /// What the disk lacks.
    pub fn start(&mut self, plan: &Plan, cores: u32) -> Result<(), String> {
        let identity = self
            .identity
            .clone()
            .expect("a node that joins does not start");
        let mut records = self.disk.start(cores)?;
        self.cores = cores;
        self.life.life += 1;
        self.is_up = true;
        self.process = Process::default();
        self.needs_newer = false;
        for group in 0..=plan.groups as u32 {
            let checkpoint = self
                .disk
                .checkpoints
                .get(&group)
                .cloned()
                .unwrap_or_default();
            let manifest = &checkpoint.manifest;
            let (hard_state, entries) =
                replay(group, manifest, records.remove(&group).unwrap_or_default())?;
            self.needs_newer |= manifest.version > checkpoint_at(self.version)
                || entries.iter().any(|e| self.is_too_new(&e.payload));
            if self.needs_newer {
                return Err("a newer version is needed".to_owned());
            }
            let everybody = || Membership {
                voters: identity.voters.clone(),
                ..Membership::default()
            };
            let applied = LogPosition {
                index: manifest.index,
                term: manifest.term,
            };
            let log = entries.iter().map(|e| {
                let written = Written {
                    term: e.term,
                    payload: e.payload.clone(),
                    is_conf_change: e.is_conf_change,
                };
                (e.index, written)
            });
            let log = log.collect();
            let start = RaftStart {
                node_id: identity.raft_id,
                membership: manifest.membership.clone().unwrap_or_else(everybody),
                checkpoint: applied,
                hard_state,
                entries,
                settings: RaftSettings {
                    commands_version: self.version,
                    ..plan.settings(self.life.node, self.life.life)
                },
            };
            let durable_pack = manifest.next_pack.saturating_sub(1);
            let made = Group::new(checkpoint.machine(group)?, start, durable_pack);
            let mut made = made.map_err(|e| format!("raft refuses to start: {e}"))?;
            if let Some(settings) = cold::settings(plan) {
                made.use_cold_store(settings);
            }
            let hosted = Hosted {
                group: made,
                log,
                applied,
                was_ready: false,
            };
            // A start knows no newer one than its checkpoint; the log has what was applied before.
            self.configs
                .entry(group)
                .or_insert_with(|| vec![hosted.group.membership()]);
            self.process.tables = hosted
                .group
                .tables()
                .unwrap_or(std::mem::take(&mut self.process.tables));
            self.process.groups.insert(group, hosted);
        }
        self.share_level();
        Ok(())
    }

    /// Tells the groups which commands they may propose.
    pub fn share_level(&mut self) {
        let level = self.process.tables.level;
        let groups = self.process.groups.values_mut();
        groups.for_each(|hosted| hosted.group.note_level(level));
    }

    fn is_too_new(&self, payload: &Bytes) -> bool {
        let is_newest = self.version == raftproto::version::COMMANDS;
        let batch = || CommandBatch::decode(payload.clone()).ok();
        !is_newest && batch().is_some_and(|b| b.version > self.version)
    }

    /// A number for an answer.
    pub fn reply_to(&mut self, waiting: Waiting) -> ursula::group::ReplyTo {
        self.process.replies += 1;
        self.process.waiting.insert(self.process.replies, waiting);
        ursula::group::ReplyTo(self.process.replies)
    }

    /// Takes a ready on its way to the disk.
    pub fn persist(&mut self, group: u32, persist: Persist) {
        if let Some(hard_state) = persist.hard_state {
            self.disk.buffer(Record {
                kind: record_kind::HARD_STATE,
                group,
                index: hard_state.commit,
                term: hard_state.term,
                payload: hard_state.vote.to_le_bytes().to_vec().into(),
            });
        }
        for entry in persist.entries {
            self.disk.buffer(Record {
                kind: if entry.is_conf_change {
                    record_kind::CONF_CHANGE
                } else {
                    record_kind::ENTRY
                },
                group,
                index: entry.index,
                term: entry.term,
                payload: entry.payload,
            });
        }
        self.process.unsynced.push((group, persist.number));
    }

    /// Groups of which nobody ever led.
    pub fn untouched(&self) -> BTreeSet<u32> {
        let groups = self.process.groups.iter();
        let is_turn = |group: &u32, h: &Hosted| {
            let voters = h.group.membership().voters;
            let turn = *group as usize % voters.len().max(1);
            voters.get(turn) == Some(&h.group.raft_id())
        };
        let is_new = |h: &Hosted| h.group.last_index() == 0 && h.group.term() == 0;
        groups
            .filter(|(id, h)| is_new(h) && is_turn(id, h))
            .map(|(id, _)| *id)
            .collect()
    }
}
