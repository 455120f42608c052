//! A message encoded without copying its long fields: what is short gathers in pieces of its own, and a long field of bytes
//! is a piece that shares the field's memory.

use bytes::buf::UninitSlice;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

/// Fields of at least so many bytes are not copied.
const SHARED_BYTES_MIN: usize = 16 << 10;

/// See the module's head. The encoding is all pieces, one after the other.
#[derive(Debug, Default)]
pub struct Pieces {
    done: Vec<Bytes>,
    open: BytesMut,
}

impl Pieces {
    /// A message's encoding.
    pub fn of(message: &impl Message) -> Pieces {
        let mut pieces = Pieces::default();
        message.encode_raw(&mut pieces);
        pieces
    }

    /// Puts these behind what is there.
    pub fn extend(&mut self, pieces: impl IntoIterator<Item = Bytes>) {
        for piece in pieces {
            self.put(piece);
        }
    }

    /// The pieces, none of them empty.
    pub fn finish(mut self) -> Vec<Bytes> {
        self.close();
        self.done
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.done.push(self.open.split().freeze());
        }
    }
}

/// Bytes of all of them.
pub fn length(pieces: &[Bytes]) -> usize {
    pieces.iter().map(Bytes::len).sum()
}

// SAFETY: room and written length are those of `open`, whose own implementation is sound; nothing is moved between the two
// calls that a caller makes to fill it.
unsafe impl BufMut for Pieces {
    fn remaining_mut(&self) -> usize {
        self.open.remaining_mut()
    }

    unsafe fn advance_mut(&mut self, count: usize) {
        // SAFETY: the caller promises for this what it promises for `open`.
        unsafe { self.open.advance_mut(count) }
    }

    fn chunk_mut(&mut self) -> &mut UninitSlice {
        self.open.chunk_mut()
    }

    fn put<T: Buf>(&mut self, mut src: T)
    where
        Self: Sized,
    {
        if src.remaining() < SHARED_BYTES_MIN {
            return self.open.put(src);
        }
        self.close();
        // Of `Bytes` this is a share.
        self.done.push(src.copy_to_bytes(src.remaining()));
    }

    fn put_slice(&mut self, src: &[u8]) {
        self.open.extend_from_slice(src);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::{Batch, Envelope, ForwardedRequest, LogEntry, RaftMessage, envelope::Kind};

    #[test]
    fn pieces_are_the_encoding_and_share_what_is_long() {
        for len in [0, 1, SHARED_BYTES_MIN - 1, SHARED_BYTES_MIN, 1 << 20] {
            let body = Bytes::from(vec![7u8; len]);
            let entry = |index| LogEntry {
                index,
                payload: body.clone(),
                crc32c: 1,
                ..LogEntry::default()
            };
            let message = Envelope {
                kind: Some(Kind::Batch(Batch {
                    raft: vec![RaftMessage {
                        entries: vec![entry(1), entry(2)],
                        commit: 9,
                        ..RaftMessage::default()
                    }],
                    requests: vec![ForwardedRequest {
                        request: body.clone(),
                        ..ForwardedRequest::default()
                    }],
                    has_no_room: true,
                    ..Batch::default()
                })),
            };
            let pieces = Pieces::of(&message).finish();
            assert!(pieces.iter().all(|piece| !piece.is_empty()));
            assert_eq!(length(&pieces), message.encoded_len());
            let shared = pieces.iter().filter(|p| p.as_ptr() == body.as_ptr());
            let expected = if len < SHARED_BYTES_MIN { 0 } else { 3 };
            assert_eq!(shared.count(), expected, "{len}");
            assert_eq!(pieces.concat(), message.encode_to_vec());
        }
    }
}
