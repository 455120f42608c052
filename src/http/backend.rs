//! What the HTTP layer needs from the executor that it runs on; `core` implements it, tests may too.

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use crate::protocol::{
    BucketInfo, BucketName, BucketTerms, Create, Created, ForkRequest, Incarnation, Listed, Meta,
    Offset, Outcome, ReadPlan, Refusal, Request, Retention, StreamKey,
};

/// The executor as the HTTP layer sees it. Everything stays on one thread.
pub trait Backend: 'static {
    /// A live reader's view of a stream; detaches when dropped.
    type Tail: LiveTail;
    /// Holds its bytes of the core's body budget; gives them back when dropped.
    type BodyBudget: BodyBudget;

    /// Routes a request to its group and waits for the answer.
    fn submit(&self, request: Request) -> impl Future<Output = Outcome>;

    /// Fetches a plan's bytes, lead included, in order. Fails with [`Refusal::DataDamaged`] where a
    /// checksum is wrong, with [`Refusal::NotFound`] if the stream went meanwhile.
    fn materialize(&self, plan: &ReadPlan) -> impl Future<Output = Result<Vec<Bytes>, Refusal>>;

    /// Starts to follow a stream. The first reader of a stream on this core asks its group; later ones
    /// share. Refused with [`Refusal::Overloaded`] at the bound of live readers.
    fn watch(&self, key: &StreamKey) -> impl Future<Output = Result<Self::Tail, Refusal>>;

    /// Creates a fork: hold, create, confirm. The template carries what the client gave; `content_type`
    /// and `has_expiry` say what it did give. `frame` turns the raw body into stored bytes once the
    /// type is known.
    fn create_fork(
        &self,
        key: StreamKey,
        fork: ForkRequest,
        create: ForkCreate,
    ) -> impl Future<Output = Result<Created, Refusal>>;

    /// What a create in a bucket has to name; asks the meta group if this core does not know it, or knows a stale
    /// one.
    fn bucket_terms(
        &self,
        name: &BucketName,
        is_known_stale: bool,
    ) -> impl Future<Output = Result<BucketTerms, Refusal>>;

    /// Creates a bucket. Other cores hear of it at about the same time; those that have not ask.
    fn create_bucket(
        &self,
        name: BucketName,
        retention: Option<Retention>,
    ) -> impl Future<Output = Result<BucketInfo, Refusal>>;

    /// Removes an empty bucket, over all groups.
    fn delete_bucket(&self, name: BucketName) -> impl Future<Output = Result<(), Refusal>>;

    /// Lists a bucket's streams in order over all groups.
    fn list(
        &self,
        bucket: BucketName,
        prefix: String,
        after: Option<String>,
        limit: u32,
    ) -> impl Future<Output = Result<Listed, Refusal>>;

    /// Takes `bytes` of the in-flight body budget of this core, or refuses.
    fn take_body_budget(&self, bytes: u64) -> Result<Self::BodyBudget, Refusal>;

    /// Milliseconds since 1970.
    fn now_ms(&self) -> u64;

    /// Microseconds of a monotonic clock.
    fn monotonic_us(&self) -> u64;

    /// A number that nobody can guess a pattern in; for jitter.
    fn random(&self) -> u64;

    /// Waits.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()>;

    /// Resolves when live reads must end because the node stops.
    fn stopping(&self) -> impl Future<Output = ()>;

    /// Where the clients of the node that leads the stream's group connect, if that is another node.
    fn leader_elsewhere(&self, key: &StreamKey) -> Option<String>;

    /// The bounds and times of the HTTP layer.
    fn settings(&self) -> Rc<HttpSettings>;

    /// Counts an answered request: operation, status, microseconds, bytes in, bytes out.
    fn answered(&self, operation: Operation, status: u16, micros: u64, bytes_in: u64);

    /// Counts bytes sent to clients in bodies.
    fn sent(&self, bytes: u64);

    /// An update goes to a live reader: counts how long after it was heard of, in microseconds.
    fn delivered(&self, micros: u64);

    /// Text of `/metrics`.
    fn metrics(&self) -> impl Future<Output = String>;

    /// Whether every core answers within its time; the text says which does not.
    fn health(&self) -> impl Future<Output = Result<(), String>>;

    /// Whether requests can be served; the reasons if not.
    fn readiness(&self) -> impl Future<Output = Result<(), Vec<String>>>;
}

/// What a client gave with a fork's PUT.
#[derive(Debug, Clone)]
pub struct ForkCreate {
    /// `bucket_generation`, `closed` are final; `content_type` and `expiry` count only if given.
    pub create: Create,
    /// The client sent a `Content-Type`.
    pub has_content_type: bool,
    /// The client sent a TTL or an expiry.
    pub has_expiry: bool,
    /// The raw body; framed once the type is known.
    pub raw_body: Bytes,
}

/// A share of the in-flight body budget.
pub trait BodyBudget {
    /// Takes more, for a body of unknown length.
    ///
    /// # Errors
    /// [`Refusal::Overloaded`] at the bound.
    fn grow(&mut self, bytes: u64) -> Result<(), Refusal>;
}

/// What a live reader sees of its stream.
pub trait LiveTail {
    /// The newest known state.
    fn state(&self) -> TailState;

    /// Resolves when the tail is beyond `seen`, or the stream is closed or ended.
    fn changed(&self, seen: Offset) -> impl Future<Output = TailState>;

    /// The update that starts exactly at `position`, if it is still kept. `None`: read it.
    fn update_at(&self, position: Offset) -> Option<Rc<LiveUpdate>>;
}

/// The newest known state of a followed stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TailState {
    /// Which stream at the key.
    pub incarnation: Incarnation,
    /// One past the last byte.
    pub tail: Offset,
    /// No more appends.
    pub closed: bool,
    /// Deleted or expired.
    pub ended: bool,
}

/// What one turn appended to a followed stream; shared by all its readers on a core.
#[derive(Debug)]
pub struct LiveUpdate {
    /// First byte.
    pub start: Offset,
    /// One past the last byte.
    pub end: Offset,
    /// The bytes.
    pub pieces: Vec<Bytes>,
    /// The stream was closed with or right after these bytes.
    pub closed: bool,
    /// When this core heard of it, in monotonic microseconds.
    pub heard_us: u64,
    /// The SSE text of this update and the cursor that it was rendered with; rendered once, by the first
    /// reader that needs it.
    pub rendered: RefCell<Option<(u64, Bytes)>>,
}

/// Bounds and times of the HTTP layer; each is a setting of the same name.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// A part of every tag: a store that was made anew counts its streams from the start again, and its tags must not
    /// be taken for those of the old one.
    pub etag_nonce: u32,
    /// Largest request body in bytes.
    pub body_bytes_max: u64,
    /// Time for a whole body to arrive.
    pub body_timeout_ms: u64,
    /// Longest finite answer in bytes (a single JSON message may exceed it).
    pub read_chunk_bytes: u64,
    /// How long a long-poll waits.
    pub long_poll_ms: u64,
    /// Middle of an SSE connection's life; each gets a jitter of a sixth.
    pub sse_rotate_ms: u64,
    /// A comment is sent after so long without an event.
    pub sse_heartbeat_ms: u64,
    /// `public` or `private` in `Cache-Control`.
    pub cache_private: bool,
    /// Value of `Access-Control-Allow-Origin`; empty: no CORS headers.
    pub cors_allow_origin: String,
    /// Value of `Cross-Origin-Resource-Policy`.
    pub cross_origin_resource_policy: String,
    /// Smallest finite answer that is compressed when the client asks.
    pub gzip_bytes_min: u64,
    /// `Retry-After` of a 503, in seconds.
    pub retry_after_s: u64,
    /// Health and metrics are also where clients connect.
    pub client_port_ops: bool,
}

/// What a request was, for the metrics; a closed list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// PUT of a stream.
    Create,
    /// POST.
    Append,
    /// GET without `live`.
    Read,
    /// GET with `live=long-poll`.
    LongPoll,
    /// GET with `live=sse`.
    Sse,
    /// HEAD.
    Head,
    /// DELETE of a stream.
    Delete,
    /// Anything on a bucket.
    Bucket,
    /// GET of a bucket's streams.
    List,
    /// PUT of a stream's floor.
    Retention,
    /// OPTIONS.
    Preflight,
    /// Health and metrics.
    Ops,
    /// What was none of these.
    Unknown,
}

/// A stream's state as a live reader starts.
pub fn tail_state(meta: &Meta) -> TailState {
    TailState {
        incarnation: meta.incarnation,
        tail: meta.tail,
        closed: meta.closed,
        ended: false,
    }
}
