//! A long message in slices, so that what others have to say overtakes it: heartbeats, and the messages of other groups.
//! Invariant: what is said of one group arrives in the order in which it was posted, but for what may overtake.

use std::collections::{BTreeSet, VecDeque};

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use raftproto::peer::{Envelope, Part, envelope::Kind};
use raftproto::pieces::{Pieces, length};

use super::grpc::{Code, GrpcError};
use super::message::header;
use super::outbox::BatchItem;

/// Bytes of a slice.
const PART_BYTES: usize = 1 << 20;

/// An item of so many bytes goes by itself; in slices, if it is more than is compressed.
pub(super) fn is_long(bytes: u64) -> bool {
    bytes > PART_BYTES as u64
}

/// Which entries a message of Raft has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EntriesId {
    group: u32,
    term: u64,
    index: u64,
    count: usize,
}

impl EntriesId {
    pub(super) fn of(item: &BatchItem) -> Option<EntriesId> {
        let BatchItem::Raft(message) = item else {
            return None;
        };
        Some(EntriesId {
            group: message.group,
            term: message.term,
            index: message.index,
            count: message.entries.len(),
        })
    }
}

/// A message that is being sent.
pub(super) struct Sliced {
    pieces: VecDeque<Bytes>,
    length: u64,
    /// What it is, if it is of a group's Raft.
    entries: Option<EntriesId>,
    /// Whose messages must not overtake it.
    groups: BTreeSet<u32>,
    /// A slice went last: it is the turn of others.
    pub(super) is_others_turn: bool,
}

impl Sliced {
    /// `pieces` are an envelope, without the header that gRPC puts in front.
    pub(super) fn new(
        pieces: Vec<Bytes>,
        entries: Option<EntriesId>,
        groups: BTreeSet<u32>,
    ) -> Sliced {
        Sliced {
            length: length(&pieces) as u64,
            pieces: pieces.into(),
            entries,
            groups,
            is_others_turn: false,
        }
    }

    /// It is the same as this one.
    pub(super) fn is(&self, entries: EntriesId) -> bool {
        self.entries == Some(entries)
    }

    /// The frame of the next slice; `None`: that was all.
    pub(super) fn next_frame(&mut self) -> Option<Vec<Bytes>> {
        self.is_others_turn = true;
        let mut piece = self.pieces.pop_front()?;
        let data = piece.split_to(PART_BYTES.min(piece.len()));
        if !piece.is_empty() {
            self.pieces.push_front(piece);
        }
        let part = Part {
            length: self.length,
            data,
        };
        let envelope = Envelope {
            kind: Some(Kind::Part(part)),
        };
        let mut out = Pieces::default();
        out.put(header(envelope.encoded_len()));
        envelope.encode_raw(&mut out);
        Some(out.finish())
    }

    /// Takes out what may go before the rest of it, up to so many bytes; in order.
    pub(super) fn overtaking(
        &self,
        waiting: &mut VecDeque<(u64, BatchItem)>,
        bytes_max: u64,
    ) -> VecDeque<(u64, BatchItem)> {
        let mut behind = self.groups.clone();
        let mut bytes = 0;
        let (ahead, rest) = std::mem::take(waiting)
            .into_iter()
            .partition(|(len, item)| {
                let may = !is_long(*len) && bytes + len <= bytes_max;
                let may = may && (item.may_overtake() || !behind.contains(&item.group()));
                if may {
                    bytes += len;
                } else if !item.may_overtake() {
                    behind.insert(item.group());
                }
                may
            });
        *waiting = rest;
        ahead
    }
}

/// A long message that is being received.
#[derive(Default)]
pub(super) struct Joining {
    /// Of the whole, by its first slice.
    length: u64,
    arrived: BytesMut,
}

impl Joining {
    /// Takes a slice; answers the message once it is whole.
    ///
    /// # Errors
    /// For what is longer than `bytes_max`, or than it says, and for what is no message.
    pub(super) fn take(
        &mut self,
        part: &Part,
        bytes_max: usize,
    ) -> Result<Option<Envelope>, GrpcError> {
        if part.length > bytes_max as u64 {
            let text = format!(
                "a message of {} bytes in parts is above the bound of {bytes_max}",
                part.length
            );
            return Err(GrpcError::new(Code::ResourceExhausted, text));
        }
        let is_first = self.arrived.is_empty();
        if !is_first && part.length != self.length {
            let text = format!("a part of {} bytes in one of {}", part.length, self.length);
            return Err(GrpcError::new(Code::Internal, text));
        }
        self.length = part.length;
        let length = part.length as usize;
        let here = self.arrived.len() + part.data.len();
        if part.data.is_empty() || here > length {
            let text = format!("parts of {here} bytes make a message of {length}");
            return Err(GrpcError::new(Code::Internal, text));
        }
        // What is only said takes no memory.
        if here >= PART_BYTES {
            self.arrived.reserve(length - self.arrived.len());
        }
        self.arrived.extend_from_slice(&part.data);
        if here < length {
            return Ok(None);
        }
        let whole = std::mem::take(&mut self.arrived).freeze();
        let read = Envelope::decode(whole).map_err(|error| {
            let text = format!("a message in parts cannot be read: {error}");
            GrpcError::new(Code::Internal, text)
        });
        read.map(Some)
    }
}

#[cfg(test)]
mod tests {
    use raftproto::peer::{Batch, RaftMessage};

    use super::*;

    fn raft(group: u32, index: u64, len: usize) -> BatchItem {
        BatchItem::Raft(RaftMessage {
            group,
            index,
            context: Some(vec![7; len].into()),
            ..RaftMessage::default()
        })
    }

    #[test]
    fn slices_make_the_message_again_and_others_overtake_it_in_order() {
        let message = RaftMessage {
            context: Some(vec![9; 3 * PART_BYTES].into()),
            ..RaftMessage::default()
        };
        let batch = Batch {
            raft: vec![message],
            ..Batch::default()
        };
        let envelope = Envelope {
            kind: Some(Kind::Batch(batch)),
        };
        let of_first = EntriesId::of(&raft(1, 0, 0));
        let mut sliced = Sliced::new(Pieces::of(&envelope).finish(), of_first, [1].into());
        let pulse = |group| {
            BatchItem::Pulse(RaftMessage {
                group,
                ..RaftMessage::default()
            })
        };
        let items = [
            raft(1, 1, 10),
            raft(2, 2, 10),
            pulse(1),
            raft(3, 3, 2 * PART_BYTES),
            raft(3, 4, 10),
            pulse(3),
            raft(2, 5, 10),
        ];
        let mut waiting: VecDeque<(u64, BatchItem)> =
            items.iter().map(|i| (i.bytes(), i.clone())).collect();
        let ahead = sliced.overtaking(&mut waiting, 1 << 20);
        let places = |found: &VecDeque<(u64, BatchItem)>| -> Vec<usize> {
            let place = |item| items.iter().position(|i| i == item).unwrap();
            found.iter().map(|(_, item)| place(item)).collect()
        };
        assert_eq!(places(&ahead), [1, 2, 5, 6]);
        assert_eq!(places(&waiting), [0, 3, 4]);

        let mut joining = Joining::default();
        let mut slices = 0;
        while let Some(frame) = sliced.next_frame() {
            slices += 1;
            let frame = frame.concat();
            let Some(Kind::Part(part)) = Envelope::decode(&frame[5..]).unwrap().kind else {
                panic!("it is a slice");
            };
            assert!(part.data.len() <= PART_BYTES);
            if let Some(whole) = joining.take(&part, 4 * PART_BYTES).unwrap() {
                assert!(whole == envelope);
                assert!(sliced.next_frame().is_none());
            }
        }
        assert_eq!(slices, 4);
        assert!(joining.arrived.is_empty());
    }

    #[test]
    fn slices_of_nothing_that_fits_are_refused() {
        let data = Bytes::from_static(b"12345");
        let refused = |length, bytes_max| {
            let data = data.clone();
            Joining::default()
                .take(&Part { length, data }, bytes_max)
                .unwrap_err()
                .code
        };
        assert_eq!(refused(101, 100), Code::ResourceExhausted);
        assert_eq!(refused(4, 100), Code::Internal);
        assert_eq!(refused(5, 100), Code::Internal);
        let empty = Part {
            length: 5,
            data: Bytes::new(),
        };
        let code = Joining::default().take(&empty, 100).unwrap_err().code;
        assert_eq!(code, Code::Internal);
    }
}
