//! Links between nodes: gRPC over HTTP/2, one connection for each core and peer. Knows bytes and `raftproto`, nothing of
//! groups, disks or Raft.
//!
//! `server.rs` listens and hands over what arrives; `client.rs` keeps a [`Link`] to each peer; `calls.rs` asks
//! once; `question.rs` and `parts.rs` are what is long; `handshake.rs` says who may speak, `life.rs` who lives; `grpc.rs` and `message.rs` are the format.

mod calls;
mod client;
mod connection;
mod exchange;
pub mod grpc;
pub mod handshake;
mod life;
pub mod message;
mod outbox;
mod parts;
mod question;
mod server;
#[cfg(test)]
mod tests;

pub use calls::{Caller, Parts};
pub use client::Link;
pub use grpc::{Code, GrpcError};
pub use outbox::{BatchItem, LinkStats};
pub use question::Question;
pub use server::serve;

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::Stream;
use raftproto::peer::{
    AdminReply, AdminRequest, Batch, CheckpointPart, FetchBytesReply, FetchBytesRequest,
    FetchCheckpointRequest, Hello, JudgeChunkReply, JudgeChunkRequest, StatusReply, StatusRequest,
};

use crate::core::signal::Event;
use crate::core::timeouts::Timeouts;

/// Parts of a checkpoint, pulled one at a time.
pub type CheckpointParts = Pin<Box<dyn Stream<Item = Result<CheckpointPart, GrpcError>>>>;

/// What the transport tells the core, and asks of it; all on the core's own thread. No method is called from
/// inside [`Link::post`].
pub trait PeerEvents: 'static {
    /// This node as it introduces itself, with its wall clock of this moment.
    fn hello(&self) -> Hello;
    /// For jitter.
    fn random(&self) -> u64;
    /// Says whether this peer may speak, after [`handshake::judge`] passed; e.g. refuses a node whose data
    /// directory is another one than before. The text goes to the other side and into both logs.
    fn admit(&self, hello: &Hello) -> impl Future<Output = Result<(), String>>;
    /// A batch came from a node, over any connection. Its bytes are slices of the received message.
    fn on_batch(&self, from_node: u64, batch: Batch);
    /// The own outgoing link to the node works from now on (its introduction) or has broken (none): what was
    /// posted and not yet delivered may be lost.
    fn on_link(&self, node: u64, hello: Option<&Hello>);
    /// A core of another node has begun to speak to this one, or has ended: it closed, broke off, or was silent for
    /// [`PeerSettings::silence`].
    fn on_incoming(&self, hello: &Hello, is_open: bool);
    /// Connections from other nodes and from operators that are open; at most [`PeerSettings::connections_max`].
    fn on_connections(&self, open: u64);
    /// How the node is.
    fn status(&self, request: StatusRequest) -> impl Future<Output = StatusReply>;
    /// Takes an order.
    fn administer(
        &self,
        request: AdminRequest,
    ) -> impl Future<Output = Result<AdminReply, GrpcError>>;
    /// A range of a stream; who asks has passed [`handshake::judge`].
    fn bytes(
        &self,
        request: FetchBytesRequest,
    ) -> impl Future<Output = Result<FetchBytesReply, GrpcError>>;
    /// What is known of a damaged chunk of a group that is led here; who asks has passed [`handshake::judge`].
    fn judge_chunk(&self, request: JudgeChunkRequest) -> impl Future<Output = JudgeChunkReply>;
    /// A group's checkpoint; who asks has passed [`handshake::judge`].
    fn checkpoint(
        &self,
        request: FetchCheckpointRequest,
    ) -> impl Future<Output = Result<CheckpointParts, GrpcError>>;
}

/// Bounds and times of the transport of one core.
#[derive(Debug, Clone)]
pub struct PeerSettings {
    /// Of a message, also after decompression. Both sides of a link must agree.
    pub message_bytes_max: usize,
    /// Of what may wait in a [`Link`].
    pub queue_bytes_max: u64,
    /// A batch above it is sent as several.
    pub batch_bytes_max: usize,
    /// Messages from this size on are compressed, but for the longest.
    pub compress_from_bytes: usize,
    /// A node from which nothing came for so long is down; one that has nothing to say says within half of it that it lives.
    pub silence: Duration,
    /// For a connection to be made, and for its introduction to be answered.
    pub connect_timeout: Duration,
    /// Before the first attempt to connect again; doubles.
    pub backoff_min: Duration,
    /// Between two attempts at most.
    pub backoff_max: Duration,
    /// For a single call, or between two parts of a checkpoint.
    pub call_timeout: Duration,
    /// Incoming connections at once.
    pub connections_max: u64,
    /// Calls at once on a connection.
    pub calls_max: u32,
}

impl Default for PeerSettings {
    fn default() -> PeerSettings {
        PeerSettings {
            message_bytes_max: 64 << 20,
            queue_bytes_max: 32 << 20,
            batch_bytes_max: 2 << 20,
            compress_from_bytes: 64 << 10,
            silence: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(1),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
            call_timeout: Duration::from_secs(10),
            connections_max: 1024,
            calls_max: 64,
        }
    }
}

/// What all links and the listener of one core share.
pub struct Transport<E> {
    /// Its bounds.
    pub settings: Rc<PeerSettings>,
    /// The core's time-outs.
    pub timeouts: Rc<Timeouts>,
    /// By which links count time; raised while [`serve`] runs.
    pub beats: Rc<Event>,
    /// Ends everything once it is raised.
    pub stop: Rc<Event>,
    /// Who is told.
    pub events: Rc<E>,
}

impl<E> Clone for Transport<E> {
    fn clone(&self) -> Transport<E> {
        Transport {
            settings: self.settings.clone(),
            timeouts: self.timeouts.clone(),
            beats: self.beats.clone(),
            stop: self.stop.clone(),
            events: self.events.clone(),
        }
    }
}
