//! What is to happen, and when.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bytes::Bytes;
use storage::cold::ColdKey;
use ursula::group::CheckpointPlan;

use crate::checkpoint::Checkpoint;
use crate::links::Trouble;
use crate::rot::{Awaited, Looked};
use crate::siege::Blow;
use crate::store::{Answered, Ask};
use crate::transfer::Transfer;

/// A node, and which start of its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Life {
    /// From 1.
    pub node: u64,
    /// From 1.
    pub life: u64,
}

/// What one node sends to another.
#[derive(Debug, Clone)]
pub enum Packet {
    /// An encoded `RaftMessage`.
    Raft(Bytes),
    /// A forwarded request: group, token, encoded.
    Ask(u32, u64, Bytes),
    /// An encoded `HibernateGroup`.
    Hibernate(Bytes),
    /// Its answer: group, token, encoded.
    Reply(u32, u64, Bytes),
}

/// See the module's head.
pub enum Event {
    /// Time passes for a node's groups.
    Tick(Life),
    /// A node proposes what has gathered, and syncs.
    Turn(Life),
    /// A sync is done.
    Synced(Life),
    /// A packet of a node arrives; one that is not Raft's only at the process that it was sent to.
    Arrive {
        /// The sender.
        from: Life,
        /// The receiver.
        to: Life,
        /// What.
        packet: Packet,
    },
    /// A forwarded request did not leave.
    NotSent(Life, u32, u64),
    /// A link broke: requests to, or answers from, that node are lost.
    LinkLost(Life, u64, bool),
    /// A client asks.
    Ask(usize),
    /// A client has waited long enough for an operation.
    GiveUp(usize, u64),
    /// A client's request reaches its node.
    Asked(Life, u64),
    /// A task of a node tries its step again.
    RetryTask(Life, u64),
    /// The last live reader of a stream may leave.
    Unfollow(Life, String),
    /// A round of checkpoints is due.
    CheckpointDue(Life),
    /// A checkpoint is on disk.
    Checkpointed(Life, u32, Box<CheckpointPlan>),
    /// A fetched checkpoint stands in the place of the group's files.
    Exchanged(Life, u32),
    /// A fetched checkpoint is there, or could not be had.
    Fetched(Life, u32, Option<Box<Checkpoint>>),
    /// A part of a checkpoint came, or another attempt is due.
    Transfer(Life, Box<Transfer>),
    /// A request of a task arrives at the store, whether or not its process is still there.
    StoreDoes(Life, u64, u64, Box<Ask>),
    /// The store's answer.
    StoreAnswers(Life, Box<Answered>),
    /// A put arrives that nobody waits for.
    LatePut(ColdKey, Bytes),
    /// The store is out for a while.
    StoreOut,
    /// An object is damaged where it lies.
    Rot,
    /// And put right by hand.
    Restore(ColdKey),
    /// A process looks at what it has to ship.
    Backup(Life),
    /// A process looks through its objects.
    Scrub(Life),
    /// A pack of a group is to be mended; and how often that was tried.
    Mend(Life, u32, u32, u32),
    /// The others have said whether they can do without a node, which nobody helps with that pack.
    GiveUpReplicas(Life, u32, u32, u32),
    /// A damaged object was looked through, and copies of what it lost are waited for.
    Looked(Life, u32, Box<Looked>),
    /// Is a damaged object written again?
    Rescued(Life, Box<Awaited>),
    /// Whoever leads a group ends.
    LeadersFall,
    /// A fault strikes.
    Fault,
    /// A stopped node starts.
    Restart(u64),
    /// A paused node goes on.
    Resume(u64),
    /// The operator looks.
    Operate,
    /// A node is to be of another version.
    Upgrade,
    /// A node is to be of the version before, if the level still allows it.
    TakeBack(u64),
    /// A node without a data directory asks what it is to be called.
    Join(u64),
    /// A node that joined a moment ago loses its disk.
    Newborn(Life),
    /// A node hears nothing for a while.
    Deafen(u64),
    /// A siege goes on.
    Siege(Blow),
    /// A link gets worse or better.
    Link(Trouble),
    /// Links work again.
    Reconnect,
    /// A disk is as fast as before.
    DiskWell(u64),
    /// Faults end.
    Heal,
    /// Every group must have a leader by now.
    LeadersDue,
    /// A client that came back asks again.
    Close(usize),
    /// Every request must be answered by now.
    AnswersDue,
    /// Do the replicas agree? Asked until this time.
    Agree(u64),
}

impl Event {
    /// Whose process it belongs to.
    pub fn life(&self) -> Option<Life> {
        match self {
            Event::Tick(l)
            | Event::Turn(l)
            | Event::Synced(l)
            | Event::NotSent(l, ..)
            | Event::LinkLost(l, ..)
            | Event::Asked(l, _)
            | Event::RetryTask(l, _)
            | Event::Unfollow(l, _)
            | Event::CheckpointDue(l)
            | Event::Checkpointed(l, ..)
            | Event::Exchanged(l, _)
            | Event::StoreAnswers(l, _)
            | Event::Scrub(l)
            | Event::Backup(l)
            | Event::Mend(l, ..)
            | Event::GiveUpReplicas(l, ..)
            | Event::Looked(l, ..)
            | Event::Rescued(l, _)
            | Event::Transfer(l, _)
            | Event::Fetched(l, ..) => Some(*l),
            Event::Arrive { to, .. } => Some(*to),
            _ => None,
        }
    }
}

/// Events in the order of their times; of one time, in the order they were added.
#[derive(Default)]
pub struct Queue {
    /// When, the event's number, and where it lies: events are large, and a heap moves what it holds.
    heap: BinaryHeap<Reverse<(u64, u64, usize)>>,
    events: Vec<Option<Event>>,
    free: Vec<usize>,
    number: u64,
}

impl Queue {
    /// Adds an event.
    pub fn at(&mut self, at_us: u64, event: Event) {
        self.number += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[place] = Some(event);
        self.heap.push(Reverse((at_us, self.number, place)));
    }

    /// Takes the next one.
    pub fn pop(&mut self) -> Option<(u64, Event)> {
        let Reverse((at_us, _, place)) = self.heap.pop()?;
        self.free.push(place);
        let event = self.events[place].take();
        event.map(|event| (at_us, event))
    }
}
