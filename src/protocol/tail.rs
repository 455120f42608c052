//! What a group tells the cores that follow one of its streams.

use bytes::Bytes;

use super::{Incarnation, Offset, StreamKey};

/// One append to a followed stream, its closure, or its end.
#[derive(Debug, Clone)]
pub struct TailNews {
    /// The stream.
    pub key: StreamKey,
    /// Which stream at that key.
    pub incarnation: Incarnation,
    /// First byte of the append; equal to `end` if there was none.
    pub start: Offset,
    /// One past the last byte: the tail.
    pub end: Offset,
    /// The bytes from `start` to `end`.
    pub pieces: Vec<Bytes>,
    /// The stream takes no more appends.
    pub closed: bool,
    /// The stream was deleted or expired; nothing follows.
    pub ended: bool,
}

impl TailNews {
    /// Makes these news include later ones of the same stream, or of the one that took its place; without bytes.
    pub fn merge(&mut self, later: TailNews) {
        self.pieces = Vec::new();
        self.incarnation = later.incarnation;
        self.end = later.end;
        self.closed = later.closed;
        self.ended = later.ended;
    }
}
