//! What a group is told, and what it wants done.

use raftproto::checkpoint::Membership;
use raftproto::command::Command;
use raftproto::peer::{HibernateGroup, RaftMessage};

use super::choose::PackSource;
use super::cold::ColdAnswer;
use super::log::LogPosition;
use super::machine::Machine;
use super::peer::BadMessage;
use super::raft::Persist;
use crate::protocol::{BucketName, Incarnation, Outcome, PackName, Request, StreamKey, TailNews};

/// Whom an outcome goes to; the shell's own number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReplyTo(pub u64);

impl std::fmt::Debug for Fetched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetched")
            .field("position", &self.position)
            .field("membership", &self.membership)
            .finish_non_exhaustive()
    }
}

/// What a group is told.
#[derive(Debug)]
pub enum Input {
    /// A client, another core or another group asks.
    Request {
        /// What.
        request: Request,
        /// Who gets the outcome.
        reply_to: ReplyTo,
    },
    /// Another node asks, since it believes that this one leads.
    Forwarded {
        /// What.
        request: Request,
        /// Who gets the outcome.
        reply_to: ReplyTo,
    },
    /// The answer to an [`Effect::Forward`].
    ForwardReply {
        /// Its token.
        token: u64,
        /// The answer.
        outcome: Outcome,
    },
    /// An [`Effect::Forward`] did not leave this node.
    NotSent {
        /// Its token.
        token: u64,
    },
    /// The group's leader on this node lets it sleep.
    Hibernate {
        /// The node.
        node: u64,
        /// What it knows.
        notice: HibernateGroup,
    },
    /// A message of another replica.
    Peer(RaftMessage),
    /// The link to a node broke: what was sent and not answered may have arrived or not.
    LinkLost(u64),
    /// The way by which a node answers broke: what it has not answered may be done or not.
    AnswersLost(u64),
    /// The files that [`Effect::FetchCheckpoint`] asked for are there, and this is their state.
    Fetched(Box<Fetched>),
    /// They could not be had.
    FetchFailed,
    /// Hand leadership over: to the replica on this node, or to whichever has most of the log.
    TransferLeader(Option<u64>),
    /// The members that the group shall have, by raft id: propose the next step towards them.
    Reconcile(Vec<u64>),
    /// Every member can apply commands of the next version: note it, in group 0.
    RaiseLevel(raftproto::command::RaiseLevel),
    /// One tick of [`RaftSettings::tick_ms`] has passed.
    RaftTick,
    /// The log stands still, since there is no room, and ticks do not pass: refuse what is not proposed, and tell those who have
    /// waited for too long that nobody knows.
    GiveUpLate,
    /// The WAL is free: propose what has gathered.
    Flush,
    /// The ready with this number, and all before it, are on disk.
    Persisted(u64),
    /// What became of an order to the cold store.
    Cold(Box<ColdAnswer>),
    /// Time has passed.
    Tick,
}

/// What a group wants done.
#[derive(Debug)]
pub enum Effect {
    /// Write to the WAL and sync, then answer [`Input::Persisted`].
    Persist(Persist),
    /// The checkpoint that was fetched takes the place of the group's files; then as for `Persist`.
    Install(Persist),
    /// Send a message to the node of its receiver; it may be lost.
    Send(RaftMessage),
    /// Tell a node that the group sleeps.
    Hibernate {
        /// The node.
        node: u64,
        /// What this leader knows.
        notice: HibernateGroup,
    },
    /// Ask the group on another node; answer [`Input::ForwardReply`] or [`Input::NotSent`].
    Forward {
        /// The node.
        node: u64,
        /// Names the question.
        token: u64,
        /// What.
        request: Request,
    },
    /// Write a checkpoint soon: a replica needs it.
    CheckpointWanted,
    /// Get the files of a checkpoint from a node, of this log index or a later one.
    FetchCheckpoint {
        /// The node.
        node: u64,
        /// The log index.
        index: u64,
    },
    /// Put a pack of these chunks into the cold store; answer [`Input::Cold`]. Once it is there, doing it again is no
    /// error.
    WritePack {
        /// Its name.
        name: PackName,
        /// What goes into it.
        chunks: Vec<PackSource>,
    },
    /// Look whether a pack is in the cold store, and what it holds; answer [`Input::Cold`].
    FindPack(PackName),
    /// Delete the objects of packs that nothing refers to; answer [`Input::Cold`].
    DeletePacks(Vec<(u32, PackName)>),
    /// A peer's message was refused; the replica is not sound if its log was lost or has parted.
    Trouble(BadMessage),
    /// Answer a request.
    Reply {
        /// Who asked.
        reply_to: ReplyTo,
        /// The answer.
        outcome: Outcome,
    },
    /// Tell the cores that follow a stream.
    Tail {
        /// Which cores.
        cores: Vec<u16>,
        /// What.
        news: TailNews,
    },
    /// Send a command to the group that it is for, and settle the outbox message once it is done.
    Deliver {
        /// Names the message in this group's outbox.
        outbox_id: u64,
        /// The command.
        command: Command,
    },
    /// A hold was not confirmed for long: ask the fork's group and confirm or release it.
    CheckHold {
        /// The source stream, of this group.
        source: StreamKey,
        /// Which stream at that key.
        incarnation: Incarnation,
        /// The hold.
        hold_id: u64,
        /// The fork, of any group.
        fork_key: StreamKey,
    },
    /// A bucket's deletion was found under way: finish it.
    ResumeBucketDeletion(BucketName),
    /// The tables of group 0 changed: give every core a copy.
    TablesChanged,
    /// Another replica leads, or none is known to.
    LeaderChanged,
}

/// A point in time, as the shell knows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Now {
    /// The wall clock in milliseconds since 1970.
    pub wall_ms: u64,
    /// A monotonic clock in microseconds, since any point.
    pub monotonic_us: u64,
}

/// A checkpoint that came from another replica, loaded.
pub struct Fetched {
    /// Its state.
    pub machine: Machine,
    /// What it holds.
    pub position: LogPosition,
    /// The membership there.
    pub membership: Membership,
    /// Its newest pack.
    pub durable_pack: u32,
}
