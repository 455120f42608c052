//! An entry that is about to be proposed. The pieces of a long one are put together a slice at a time, so that other groups
//! of the core have their turns in between.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use raftproto::command::CommandBatch;
use raftproto::pieces::{Pieces, length};

use super::asker::Asker;

/// Bytes that one step puts together at most: a millisecond or two.
pub(super) const STEP_BYTES: usize = 4 << 20;

/// See the module's head.
pub(super) struct Making {
    pieces: VecDeque<Bytes>,
    payload: BytesMut,
    crc32c: u32,
    bytes: usize,
    askers: Vec<Option<Asker>>,
}

/// A payload with its checksum and those who wait for its commands.
pub(super) struct Made {
    pub(super) payload: Bytes,
    pub(super) crc32c: u32,
    pub(super) askers: Vec<Option<Asker>>,
}

impl Making {
    pub(super) fn new(batch: &CommandBatch, askers: Vec<Option<Asker>>) -> Making {
        let pieces = Pieces::of(batch).finish();
        let bytes = length(&pieces);
        Making {
            pieces: pieces.into(),
            payload: BytesMut::with_capacity(bytes),
            crc32c: 0,
            bytes,
            askers,
        }
    }

    /// Does what is left of a step; answers whether all is done.
    pub(super) fn step(&mut self, left: &mut usize) -> bool {
        while *left > 0
            && let Some(mut piece) = self.pieces.pop_front()
        {
            let slice = piece.split_to(piece.len().min(*left));
            self.crc32c = crc32c::crc32c_append(self.crc32c, &slice);
            self.payload.extend_from_slice(&slice);
            *left -= slice.len();
            if !piece.is_empty() {
                self.pieces.push_front(piece);
            }
        }
        self.pieces.is_empty()
    }

    pub(super) fn finish(self) -> Made {
        assert!(self.pieces.is_empty(), "only after all steps");
        Made {
            payload: self.payload.freeze(),
            crc32c: self.crc32c,
            askers: self.askers,
        }
    }

    /// Of the whole payload.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    pub(super) fn askers(&self) -> &[Option<Asker>] {
        &self.askers
    }

    /// Gives it up.
    pub(super) fn into_askers(self) -> Vec<Option<Asker>> {
        self.askers
    }
}
