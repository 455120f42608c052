//! One node: its disk, its clocks, and what its process has in memory while it runs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use raftproto::checkpoint::Membership;
use storage::wal::Record;
use ursula::core::record_kind;
use ursula::group::{Group, LogPosition, Persist, RaftStart};
use ursula::node::replay::replay;

use crate::checkpoint::Checkpoint;
use crate::clock::Clock;
use crate::cold::{self, ColdShell};
use crate::disk::Disk;
use crate::event::{Event, Life};
use crate::plan::Plan;
use crate::saga::Task;

/// Who waits for an answer.
#[derive(Debug, Clone, Copy)]
pub enum Waiting {
    /// A client's operation.
    Client(u64),
    /// Another node: which process, group, token.
    Node(Life, u32, u64),
    /// A task of the node's own.
    Task(u64),
}

/// A group and what it has on this node.
pub struct Hosted {
    /// The group.
    pub group: Group,
    /// Its log by what it wanted written: term and payload by index.
    pub log: BTreeMap<u64, (u64, Bytes)>,
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
    /// A replica wants a checkpoint.
    pub is_wanted: bool,
    /// Fetched checkpoints that wait for their exchange.
    pub installs: VecDeque<(u32, Persist)>,
    /// Fetched checkpoints.
    pub fetched: BTreeMap<u32, Checkpoint>,
    /// What is under way with the object store.
    pub cold: ColdShell,
    /// Ticks so far.
    pub ticks: u64,
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
    /// A sync takes so many times as long.
    pub slowness: u64,
    /// Its memory.
    pub process: Process,
}

impl Node {
    /// A node that never ran.
    pub fn new(node: u64, clock: Clock) -> Node {
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
            slowness: 1,
            process: Process::default(),
        }
    }

    /// Recovers the groups from the disk, as a start does.
    ///
    /// # Errors
    /// What the disk lacks.
    pub fn start(&mut self, plan: &Plan, cores: u32) -> Result<(), String> {
        let mut records = self.disk.start(cores)?;
        self.cores = cores;
        self.life.life += 1;
        self.is_up = true;
        self.process = Process::default();
        for group in 1..=plan.groups as u32 {
            let checkpoint = self
                .disk
                .checkpoints
                .get(&group)
                .cloned()
                .unwrap_or_default();
            let manifest = &checkpoint.manifest;
            let (hard_state, entries) =
                replay(group, manifest, records.remove(&group).unwrap_or_default())?;
            let everybody = || Membership {
                voters: (1..=plan.nodes).collect(),
                ..Membership::default()
            };
            let applied = LogPosition {
                index: manifest.index,
                term: manifest.term,
            };
            let log = entries
                .iter()
                .map(|e| (e.index, (e.term, e.payload.clone())));
            let log = log.collect();
            let start = RaftStart {
                node_id: self.life.node,
                membership: manifest.membership.clone().unwrap_or_else(everybody),
                checkpoint: applied,
                hard_state,
                entries,
                settings: plan.settings(self.life.node, self.life.life),
            };
            let durable_pack = manifest.next_pack.saturating_sub(1);
            let made = Group::new(checkpoint.machine(group), start, durable_pack);
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
            self.process.groups.insert(group, hosted);
        }
        Ok(())
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
    pub fn untouched(&self, voters: u64) -> BTreeSet<u32> {
        let groups = self.process.groups.iter();
        let turn = |group: &u32| u64::from(*group) % voters + 1 == self.life.node;
        let is_new = |h: &Hosted| h.group.last_index() == 0 && h.group.term() == 0;
        groups
            .filter(|(id, h)| turn(id) && is_new(h))
            .map(|(id, _)| *id)
            .collect()
    }
}
