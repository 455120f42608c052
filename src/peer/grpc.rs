//! The parts of gRPC that are headers: status codes, how a call ends, which encodings a caller reads.
//! Source: "gRPC over HTTP2" of the gRPC project. Messages are in `message.rs`.

use std::fmt::Write;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_lite::Stream;
use hyper::body::{Body, Frame};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response};

/// The path of the service; a method's name follows.
pub const SERVICE: &str = "/ursula.peer.v1.Peer/";

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const ZSTD: HeaderValue = HeaderValue::from_static("zstd");
const ACCEPTED: HeaderValue = HeaderValue::from_static("identity,zstd");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// The status codes of gRPC that are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// The caller went away.
    Cancelled = 1,
    /// A code that is not in this list.
    Unknown = 2,
    /// The request makes no sense.
    InvalidArgument = 3,
    /// No answer in time.
    DeadlineExceeded = 4,
    /// What was asked for is not there.
    NotFound = 5,
    /// A message above the bound.
    ResourceExhausted = 8,
    /// Both sides must agree on something first.
    FailedPrecondition = 9,
    /// A method or an encoding that nobody here knows.
    Unimplemented = 12,
    /// Bytes that break the protocol.
    Internal = 13,
    /// Not now, or not reachable.
    Unavailable = 14,
}

impl Code {
    fn from_number(number: u64) -> Code {
        match number {
            1 => Code::Cancelled,
            3 => Code::InvalidArgument,
            4 => Code::DeadlineExceeded,
            5 => Code::NotFound,
            8 => Code::ResourceExhausted,
            9 => Code::FailedPrecondition,
            12 => Code::Unimplemented,
            13 => Code::Internal,
            14 => Code::Unavailable,
            _ => Code::Unknown,
        }
    }
}

/// A call that did not end well.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code:?})")]
pub struct GrpcError {
    /// What kind of end.
    pub code: Code,
    /// For a human.
    pub message: String,
}

impl GrpcError {
    /// An end with this code and text.
    pub fn new(code: Code, message: impl Into<String>) -> GrpcError {
        GrpcError {
            code,
            message: message.into(),
        }
    }
}

/// The status of a call in headers or trailers; none if there is no status.
pub(super) fn read_status(headers: &HeaderMap) -> Option<Result<(), GrpcError>> {
    let number = headers.get(STATUS)?.to_str().ok()?.parse().ok()?;
    if number == 0 {
        return Some(Ok(()));
    }
    let message = headers
        .get(MESSAGE)
        .map(|m| percent_decode(m.as_bytes()))
        .unwrap_or_default();
    Some(Err(GrpcError::new(Code::from_number(number), message)))
}

/// The end of a call as trailers.
pub(super) fn write_status(status: &Result<(), GrpcError>) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    let number = match status {
        Ok(()) => 0,
        Err(error) => error.code as u16,
    };
    trailers.insert(STATUS, HeaderValue::from(number));
    if let Err(error) = status
        && let Ok(message) = HeaderValue::from_str(&percent_encode(&error.message))
    {
        trailers.insert(MESSAGE, message);
    }
    trailers
}

/// `grpc-message`: printable ASCII but `%` stands for itself.
pub fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (0x20..=0x7e).contains(&byte) && byte != b'%' {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// The reverse; what is not well encoded stays as it is.
pub fn percent_decode(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let escaped = after
            .get(..2)
            .filter(|_| first == b'%')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escaped {
            Some(byte) => {
                out.push(byte);
                rest = &after[2..];
            }
            None => {
                out.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Whether the sender of these headers reads zstd.
pub(super) fn accepts_zstd(headers: &HeaderMap) -> bool {
    headers
        .get_all(ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|name| name.trim() == "zstd")
}

/// How compressed messages under these headers are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Not at all.
    Identity,
    /// zstd.
    Zstd,
}

/// The encoding that headers name.
///
/// # Errors
/// [`Code::Unimplemented`] for one that is not known here.
pub(super) fn encoding(headers: &HeaderMap) -> Result<Encoding, GrpcError> {
    match headers.get(ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(Encoding::Identity),
        Some(b"zstd") => Ok(Encoding::Zstd),
        Some(other) => Err(GrpcError::new(
            Code::Unimplemented,
            format!(
                "grpc-encoding {:?} is not known here: identity and zstd are",
                String::from_utf8_lossy(other)
            ),
        )),
    }
}

pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return false;
    };
    // Also application/grpc+proto and parameters.
    value
        .as_bytes()
        .strip_prefix(GRPC.as_bytes())
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// A call to one of the peer's methods.
///
/// # Errors
/// [`Code::InvalidArgument`] for an address that no URI can hold.
pub(super) fn request<B>(
    address: &str,
    method: &str,
    is_zstd: bool,
    body: B,
) -> Result<Request<B>, GrpcError> {
    let mut request = Request::post(format!("http://{address}{SERVICE}{method}"))
        .header("te", "trailers")
        .header(CONTENT_TYPE, GRPC)
        .header(ACCEPT_ENCODING, ACCEPTED);
    if is_zstd {
        request = request.header(ENCODING, ZSTD);
    }
    request.body(body).map_err(|error| {
        GrpcError::new(Code::InvalidArgument, format!("address {address}: {error}"))
    })
}

/// The headers of an answer in front of its messages.
pub(super) fn response<B>(is_zstd: bool, body: B) -> Response<B> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, GRPC);
    headers.insert(ACCEPT_ENCODING, ACCEPTED);
    if is_zstd {
        headers.insert(ENCODING, ZSTD);
    }
    response
}

type Frames = Pin<Box<dyn Stream<Item = Result<Bytes, GrpcError>>>>;

/// Framed messages as they come; then the status as trailers.
pub struct ReplyBody {
    frames: Option<Frames>,
}

impl ReplyBody {
    /// Pulled one at a time as the connection takes them. Ends with the stream, or with its first error.
    pub fn new(frames: impl Stream<Item = Result<Bytes, GrpcError>> + 'static) -> ReplyBody {
        ReplyBody {
            frames: Some(Box::pin(frames)),
        }
    }

    /// Nothing, not even a status: for who does not speak gRPC.
    pub fn empty() -> ReplyBody {
        ReplyBody { frames: None }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(frames) = &mut self.frames else {
            return Poll::Ready(None);
        };
        let status = match std::task::ready!(frames.as_mut().poll_next(cx)) {
            Some(Ok(frame)) => return Poll::Ready(Some(Ok(Frame::data(frame)))),
            Some(Err(error)) => Err(error),
            None => Ok(()),
        };
        self.frames = None;
        Poll::Ready(Some(Ok(Frame::trailers(write_status(&status)))))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_with_any_characters_comes_back() {
        for text in ["plain", "50 % of\nit", "größer", "%41", "", "\u{0}\u{7f}"] {
            let encoded = percent_encode(text);
            assert!(encoded.bytes().all(|b| (0x20..=0x7e).contains(&b)));
            assert_eq!(percent_decode(encoded.as_bytes()), text);
        }
        for broken in ["%", "%4", "%zz", "a%"] {
            assert_eq!(percent_decode(broken.as_bytes()), broken);
        }
    }

    #[test]
    fn a_status_comes_back_from_its_trailers() {
        let error = GrpcError::new(Code::FailedPrecondition, "cluster_id is \"ä\" here");
        assert_eq!(read_status(&write_status(&Ok(()))), Some(Ok(())));
        let trailers = write_status(&Err(error.clone()));
        assert_eq!(read_status(&trailers), Some(Err(error)));
        assert_eq!(read_status(&HeaderMap::new()), None);
    }

    #[test]
    fn content_types_and_encodings_are_told_apart() {
        let headers = |name: HeaderName, value: &'static str| {
            HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
        };
        for (value, is) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x=1", true),
            ("application/grpc-web", false),
            ("text/plain", false),
        ] {
            assert_eq!(is_grpc(&headers(CONTENT_TYPE, value)), is, "{value}");
        }
        assert!(accepts_zstd(&headers(
            ACCEPT_ENCODING,
            "identity, gzip , zstd"
        )));
        assert!(!accepts_zstd(&headers(ACCEPT_ENCODING, "identity,gzip")));
        let gzip = encoding(&headers(ENCODING, "gzip")).unwrap_err();
        assert_eq!(gzip.code, Code::Unimplemented);
    }
}
