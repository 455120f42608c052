//! Calls that end: each on a connection of its own, so that none waits behind a link's batches.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use hyper::StatusCode;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http2::SendRequest;
use prost::Message;
use raftproto::peer::{
    AdminReply, AdminRequest, CheckpointPart, FetchBytesReply, FetchBytesRequest,
    FetchCheckpointRequest, JudgeChunkReply, JudgeChunkRequest, StatusReply, StatusRequest,
};

use super::PeerSettings;
use super::connection::{Connected, connect, within};
use super::grpc::{Code, GrpcError, encoding, is_grpc, read_status, request};
use super::message::{Encoder, Messages, Side, cause};
use crate::core::timeouts::Timeouts;

/// The giver of a checkpoint reads and hashes all its files before it sends anything. If it goes away meanwhile, the
/// connection's own signs of life tell.
const FIRST_PART_PATIENCE: Duration = Duration::from_secs(600);

/// Asks other nodes once.
#[derive(Clone)]
pub struct Caller {
    settings: Rc<PeerSettings>,
    timeouts: Rc<Timeouts>,
}

impl Caller {
    /// With the bounds and time-outs of the core.
    pub fn new(settings: Rc<PeerSettings>, timeouts: Rc<Timeouts>) -> Caller {
        Caller { settings, timeouts }
    }

    /// How the node at `address` is.
    ///
    /// # Errors
    /// The call's.
    pub async fn status(
        &self,
        address: &str,
        request: StatusRequest,
    ) -> Result<StatusReply, GrpcError> {
        self.unary(address, "Status", &request).await
    }

    /// A connection on which the node at `address` can be asked several times.
    ///
    /// # Errors
    /// The connection's.
    pub async fn open(&self, address: &str) -> Result<Asking, GrpcError> {
        let (sender, connected) = self.connect(address).await?;
        Ok(Asking {
            address: address.to_owned(),
            settings: self.settings.clone(),
            sender,
            _connected: connected,
        })
    }

    /// Gives the node at `address` an order.
    ///
    /// # Errors
    /// The call's, or the node's refusal.
    pub async fn administer(
        &self,
        address: &str,
        request: AdminRequest,
    ) -> Result<AdminReply, GrpcError> {
        self.unary(address, "Administer", &request).await
    }

    /// A range of a stream as the node at `address` has it.
    ///
    /// # Errors
    /// The call's, or the node's refusal.
    pub async fn fetch_bytes(
        &self,
        address: &str,
        request: FetchBytesRequest,
    ) -> Result<FetchBytesReply, GrpcError> {
        self.unary(address, "FetchBytes", &request).await
    }

    /// What the node at `address`, which leads the group, knows of a chunk that its object does not hold.
    ///
    /// # Errors
    /// The call's, or the node's refusal.
    pub async fn judge_chunk(
        &self,
        address: &str,
        request: JudgeChunkRequest,
    ) -> Result<JudgeChunkReply, GrpcError> {
        self.unary(address, "JudgeChunk", &request).await
    }

    /// Begins to fetch a checkpoint from the node at `address`.
    ///
    /// # Errors
    /// The call's, or the node's refusal; it may also come from [`Parts::next`].
    pub async fn fetch_checkpoint(
        &self,
        address: &str,
        request: FetchCheckpointRequest,
    ) -> Result<Parts, GrpcError> {
        let call = self.call(address, "FetchCheckpoint", &request);
        let (sender, connected, messages) =
            within(self.settings.call_timeout, "FetchCheckpoint", call).await?;
        Ok(Parts {
            messages,
            settings: self.settings.clone(),
            has_begun: false,
            _sender: sender,
            _connected: connected,
        })
    }

    pub(super) async fn connect<B>(
        &self,
        address: &str,
    ) -> Result<(SendRequest<B>, Connected), GrpcError>
    where
        B: Body + Unpin + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let patience = self.settings.silence / 2;
        connect(address, &self.settings, &self.timeouts, patience).await
    }

    async fn unary<M: Message + Default>(
        &self,
        address: &str,
        method: &str,
        message: &impl Message,
    ) -> Result<M, GrpcError> {
        within(self.settings.call_timeout, method, async {
            let (_sender, _connected, mut messages) = self.call(address, method, message).await?;
            messages.only().await
        })
        .await
    }

    async fn call(
        &self,
        address: &str,
        method: &str,
        message: &impl Message,
    ) -> Result<(Sender, Connected, Messages<Incoming>), GrpcError> {
        let (mut sender, connected) = self.connect(address).await?;
        let messages = send(&mut sender, address, method, message, &self.settings).await?;
        Ok((sender, connected, messages))
    }
}

async fn send(
    sender: &mut Sender,
    address: &str,
    method: &str,
    message: &impl Message,
    settings: &PeerSettings,
) -> Result<Messages<Incoming>, GrpcError> {
    let body = Full::new(Encoder::new(None).encode(message));
    let request = request(address, method, false, body)?;
    let reply = sender.send_request(request).await.map_err(broken)?;
    read_reply(reply, settings.message_bytes_max)
}

/// See [`Caller::open`]. The connection ends when this is dropped.
pub struct Asking {
    address: String,
    settings: Rc<PeerSettings>,
    sender: Sender,
    _connected: Connected,
}

impl Asking {
    /// How the node is.
    ///
    /// # Errors
    /// The call's.
    pub async fn status(&mut self, message: &StatusRequest) -> Result<StatusReply, GrpcError> {
        self.unary("Status", message).await
    }

    /// Gives the node an order.
    ///
    /// # Errors
    /// The call's, or the node's refusal.
    pub async fn administer(&mut self, message: &AdminRequest) -> Result<AdminReply, GrpcError> {
        self.unary("Administer", message).await
    }

    async fn unary<M: Message + Default>(
        &mut self,
        method: &str,
        message: &impl Message,
    ) -> Result<M, GrpcError> {
        within(self.settings.call_timeout, method, async {
            let (sender, address) = (&mut self.sender, &self.address);
            let mut messages = send(sender, address, method, message, &self.settings).await?;
            messages.only().await
        })
        .await
    }
}

type Sender = SendRequest<Full<Bytes>>;

/// A checkpoint on its way. The connection ends when this is dropped.
pub struct Parts {
    messages: Messages<Incoming>,
    settings: Rc<PeerSettings>,
    has_begun: bool,
    _sender: Sender,
    _connected: Connected,
}

impl Parts {
    /// The next part; none at the end. The sender goes on as parts are taken.
    ///
    /// # Errors
    /// The sender's refusal, or a connection that broke off or stood still.
    pub async fn next(&mut self) -> Result<Option<CheckpointPart>, GrpcError> {
        let patience = match std::mem::replace(&mut self.has_begun, true) {
            true => self.settings.call_timeout,
            false => FIRST_PART_PATIENCE,
        };
        let part = self.messages.next();
        within(patience, "a part of a checkpoint", part).await
    }
}

pub(super) fn broken(error: hyper::Error) -> GrpcError {
    GrpcError::new(
        Code::Unavailable,
        format!("the call broke off: {}", cause(&error)),
    )
}

/// The messages of an answer.
pub(super) fn read_reply<B>(
    reply: Response<B>,
    message_bytes_max: usize,
) -> Result<Messages<B>, GrpcError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error,
{
    if let Some(Err(error)) = read_status(reply.headers()) {
        return Err(error);
    }
    if reply.status() != StatusCode::OK || !is_grpc(reply.headers()) {
        // As gRPC maps the status of who stands between, and knows nothing of it.
        let code = match reply.status().as_u16() {
            429 | 502..=504 => Code::Unavailable,
            _ => Code::Unimplemented,
        };
        return Err(GrpcError::new(
            code,
            format!("HTTP status {} without gRPC", reply.status()),
        ));
    }
    let encoding = encoding(reply.headers())?;
    Ok(Messages::new(
        reply.into_body(),
        Side::Server,
        encoding,
        message_bytes_max,
    ))
}
