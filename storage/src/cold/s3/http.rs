//! What the store wants of an HTTP client. Who runs the store hands one in: nothing here knows sockets or TLS.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

/// An answer on its way.
pub type HttpFuture<'a> = Pin<Box<dyn Future<Output = Result<HttpReply, HttpFailure>> + 'a>>;

/// Sends one request and reads the whole answer. All requests of a store may be sent twice.
pub trait HttpClient {
    /// Gives up after `request.timeout_ms`.
    fn send(&self, request: HttpRequest) -> HttpFuture<'_>;
}

/// One request.
#[derive(Debug, Clone)]
pub struct HttpRequest {
    /// The method.
    pub method: &'static str,
    /// By TLS.
    pub is_tls: bool,
    /// Host, with a port unless it is the scheme's own.
    pub authority: String,
    /// Path and query, encoded.
    pub target: String,
    /// Headers; `host` and `content-length` are among them.
    pub headers: Vec<(String, String)>,
    /// The body's pieces.
    pub body: Vec<Bytes>,
    /// Longest answer.
    pub answer_bytes_max: u64,
    /// How long all of it may take.
    pub timeout_ms: u64,
}

/// An answer, whole.
#[derive(Debug)]
pub struct HttpReply {
    /// Status code.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

/// Why there is no answer, or none that counts.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HttpFailure {
    /// No connection.
    #[error("no connection: {0}")]
    Connect(String),
    /// Not in time.
    #[error("no answer within {0} ms")]
    Timeout(u64),
    /// The connection broke off, or what came was no HTTP.
    #[error("the connection broke off: {0}")]
    Broken(String),
    /// More than was asked for.
    #[error("the answer is longer than {0} bytes")]
    TooLong(u64),
    /// The other side is not who it should be, or the name is none.
    #[error("{0}")]
    Misconfigured(String),
}

impl HttpFailure {
    /// One word for the metrics.
    pub fn word(&self) -> &'static str {
        match self {
            HttpFailure::Connect(_) => "connect",
            HttpFailure::Timeout(_) => "timeout",
            HttpFailure::Broken(_) => "broken",
            HttpFailure::TooLong(_) => "too_long",
            HttpFailure::Misconfigured(_) => "misconfigured",
        }
    }
}
