//! gRPC's messages in a body: one byte says whether it is compressed, four its length, then the message.
//!
//! ```text
//! | 0 or 1 | length, big endian | protobuf, or one zstd frame of it |
//! ```
//!
//! Invariant: no peer makes this side hold more than `bytes_max` of a message, nor more after decompression; of one in parts as
//! much again (`parts.rs`).

use std::cell::Cell;
use std::io::Read;
use std::rc::Rc;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;
use prost::Message;
use zstd::bulk::Compressor;
use zstd::stream::read::Decoder;

use super::grpc::{Code, Encoding, GrpcError, read_status};

const HEADER_BYTES: usize = 5;
/// The fastest of the ordinary ones.
const LEVEL: i32 = 1;
/// Longer messages are not compressed: a core does nothing else meanwhile, for some ten milliseconds with this many.
pub(super) const COMPRESS_BYTES_MAX: usize = 2 << 20;
/// So much of a long message is here before room is made for all of it.
const TRUSTED_BYTES: usize = 64 << 10;
/// The largest window that a peer may make this side allocate: 64 MiB.
const WINDOW_LOG_MAX: u32 = 26;

/// Frames messages for one call.
pub struct Encoder {
    /// Messages of at least so many bytes are compressed; none: never.
    compress_from: Option<usize>,
    /// Its tables are large, so they are made once, and only if needed.
    compressor: Option<Compressor<'static>>,
}

impl Encoder {
    /// `compress_from` in bytes; only for a receiver that reads zstd.
    pub fn new(compress_from: Option<usize>) -> Encoder {
        Encoder {
            compress_from,
            compressor: None,
        }
    }

    /// The message with its header.
    pub fn encode<M: Message>(&mut self, message: &M) -> Bytes {
        let length = message.encoded_len();
        let mut out = BytesMut::with_capacity(HEADER_BYTES + length);
        put_header(&mut out, length);
        message.encode_raw(&mut out);
        let is_short = length <= COMPRESS_BYTES_MAX;
        if self
            .compress_from
            .is_some_and(|from| length >= from && is_short)
            && let Some(compressed) = self.compress(&out[HEADER_BYTES..])
        {
            out.clear();
            out.put_u8(1);
            out.put_u32(compressed.len() as u32);
            out.extend_from_slice(&compressed);
        }
        out.freeze()
    }

    /// None if it became no smaller.
    fn compress(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        if self.compressor.is_none() {
            self.compressor = Compressor::new(LEVEL).ok();
        }
        let compressed = self.compressor.as_mut()?.compress(message).ok()?;
        (compressed.len() < message.len()).then_some(compressed)
    }
}

fn put_header(out: &mut BytesMut, length: usize) {
    out.put_u8(0);
    // A longer message than 4 GiB is refused where it is posted.
    out.put_u32(length as u32);
}

/// In front of an uncompressed message of this length.
pub(super) fn header(length: usize) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER_BYTES);
    put_header(&mut out, length);
    out.freeze()
}

/// Who sends the messages, which decides how they may end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Ends with the body.
    Caller,
    /// Ends with a status in trailers.
    Server,
}

/// The messages of a body.
pub struct Messages<B> {
    body: B,
    side: Side,
    encoding: Encoding,
    bytes_max: usize,
    arrived: BytesMut,
    arrived_bytes: Rc<Cell<u64>>,
    is_ended: bool,
}

impl<B> Messages<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error,
{
    /// `bytes_max` bounds a message as it comes and after decompression.
    pub fn new(body: B, side: Side, encoding: Encoding, bytes_max: usize) -> Messages<B> {
        Messages {
            body,
            side,
            encoding,
            bytes_max,
            arrived: BytesMut::new(),
            arrived_bytes: Rc::default(),
            is_ended: false,
        }
    }

    /// Counts what arrives, so that silence is seen from outside.
    pub fn arrived_bytes(&self) -> Rc<Cell<u64>> {
        self.arrived_bytes.clone()
    }

    /// The next message; none at a good end. Its bytes fields are slices of what arrived: who keeps a small one for
    /// long copies it. May be dropped and called again without loss.
    ///
    /// # Errors
    /// The status of the call; [`Code::ResourceExhausted`] for a message above the bound, [`Code::Internal`] for
    /// bytes that are no message.
    pub async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, GrpcError> {
        loop {
            if let Some(bytes) = self.take()? {
                let message = M::decode(bytes).map_err(|error| {
                    GrpcError::new(Code::Internal, format!("a message cannot be read: {error}"))
                })?;
                return Ok(Some(message));
            }
            if self.is_ended {
                return self.end(None);
            }
            match self.body.frame().await {
                None => self.is_ended = true,
                Some(Err(error)) => {
                    self.is_ended = true;
                    return Err(GrpcError::new(
                        Code::Unavailable,
                        format!("the call broke off: {}", cause(&error)),
                    ));
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        let count = self.arrived_bytes.get() + data.len() as u64;
                        self.arrived_bytes.set(count);
                        self.arrived.extend_from_slice(&data);
                    }
                    Err(frame) => {
                        self.is_ended = true;
                        let trailers = frame.into_trailers().ok();
                        return self.end(trailers.as_ref().and_then(read_status));
                    }
                },
            }
        }
    }

    /// The only message of the body.
    ///
    /// # Errors
    /// As [`Messages::next`]; also if there is none or a second one.
    pub async fn only<M: Message + Default>(&mut self) -> Result<M, GrpcError> {
        let none = || GrpcError::new(Code::Internal, "the call has no message");
        let message = self.next().await?.ok_or_else(none)?;
        match self.next::<M>().await? {
            None => Ok(message),
            Some(_) => Err(GrpcError::new(
                Code::Internal,
                "the call has more than one message",
            )),
        }
    }

    fn end<M>(&self, status: Option<Result<(), GrpcError>>) -> Result<Option<M>, GrpcError> {
        if let Some(Err(error)) = status {
            return Err(error);
        }
        if !self.arrived.is_empty() {
            return Err(GrpcError::new(
                Code::Internal,
                "the call ended inside a message",
            ));
        }
        match (self.side, status) {
            (Side::Server, None) => Err(GrpcError::new(
                Code::Unavailable,
                "the call ended without a status",
            )),
            _ => Ok(None),
        }
    }

    /// The next message's protobuf, if all of it is here.
    fn take(&mut self) -> Result<Option<Bytes>, GrpcError> {
        let &[flag, a, b, c, d, ..] = &self.arrived[..] else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let is_compressed = match (flag, self.encoding) {
            (0, _) => false,
            (1, Encoding::Zstd) => true,
            (1, Encoding::Identity) => {
                return Err(GrpcError::new(
                    Code::Internal,
                    "a message is compressed without a grpc-encoding",
                ));
            }
            (other, _) => {
                return Err(GrpcError::new(
                    Code::Internal,
                    format!("a message begins with byte {other} instead of 0 or 1"),
                ));
            }
        };
        if length > self.bytes_max {
            return Err(too_long(length, self.bytes_max));
        }
        if self.arrived.len() < HEADER_BYTES + length {
            // Once, instead of moving what is here each time that it has outgrown its room.
            if self.arrived.len() >= TRUSTED_BYTES {
                let lacking = HEADER_BYTES + length - self.arrived.len();
                self.arrived.reserve(lacking);
            }
            return Ok(None);
        }
        let mut message = self.arrived.split_to(HEADER_BYTES + length);
        let message = message.split_off(HEADER_BYTES).freeze();
        if is_compressed {
            decompress(&message, self.bytes_max).map(Some)
        } else {
            Ok(Some(message))
        }
    }
}

fn too_long(length: usize, bytes_max: usize) -> GrpcError {
    GrpcError::new(
        Code::ResourceExhausted,
        format!("a message of {length} bytes is above the bound of {bytes_max}"),
    )
}

fn decompress(compressed: &[u8], bytes_max: usize) -> Result<Bytes, GrpcError> {
    let broken = |error: std::io::Error| {
        GrpcError::new(Code::Internal, format!("a message is no zstd: {error}"))
    };
    let mut decoder = Decoder::with_buffer(compressed).map_err(broken)?;
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(broken)?;
    let mut out = Vec::with_capacity((compressed.len() * 4).min(bytes_max));
    let limit = bytes_max as u64 + 1;
    decoder.take(limit).read_to_end(&mut out).map_err(broken)?;
    if out.len() > bytes_max {
        return Err(GrpcError::new(
            Code::ResourceExhausted,
            format!("a message of more than {bytes_max} bytes after decompression"),
        ));
    }
    Ok(out.into())
}

/// hyper's errors name the cause only in their source.
pub(super) fn cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}
