//! A request on its way to the leader's node. A long body is in it as it was received: it is not copied to be sent.

use bytes::Bytes;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use raftproto::peer::{Batch, ForwardedRequest};
use raftproto::pieces::{Pieces, length};

/// What `ForwardedRequest` adds to its request, at most.
const AROUND_BYTES: usize = 24;
/// `Envelope.batch`, `Batch.requests` and `ForwardedRequest.request` of peer.proto.
const BATCH_TAG: u32 = 2;
const REQUESTS_TAG: u32 = 2;
const REQUEST_TAG: u32 = 3;

/// A [`ForwardedRequest`].
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Whom it is for.
    pub group: u32,
    /// Chosen by the asking group.
    pub token: u64,
    /// `Request` of wire.proto in pieces.
    pub request: Vec<Bytes>,
}

impl Question {
    /// In a batch, at most.
    pub(super) fn bytes(&self) -> usize {
        length(&self.request) + AROUND_BYTES
    }

    /// For a batch with others.
    pub(super) fn into_message(self) -> ForwardedRequest {
        let around = self.around();
        ForwardedRequest {
            request: joined(self.request),
            ..around
        }
    }

    /// An envelope of `batch`, which has no requests, and of this.
    pub(super) fn into_envelope(self, batch: &Batch) -> Vec<Bytes> {
        assert!(batch.requests.is_empty(), "a long request goes by itself");
        let around = self.around();
        let request_len = length(&self.request);
        let question_len = around.encoded_len() + field_len(request_len);
        let batch_len = batch.encoded_len() + field_len(question_len);
        let mut out = Pieces::default();
        begin_field(BATCH_TAG, batch_len, &mut out);
        batch.encode_raw(&mut out);
        begin_field(REQUESTS_TAG, question_len, &mut out);
        around.encode_raw(&mut out);
        begin_field(REQUEST_TAG, request_len, &mut out);
        out.extend(self.request);
        out.finish()
    }

    fn around(&self) -> ForwardedRequest {
        ForwardedRequest {
            group: self.group,
            token: self.token,
            request: Bytes::new(),
        }
    }
}

fn joined(mut pieces: Vec<Bytes>) -> Bytes {
    match pieces.len() {
        1 => pieces.pop().unwrap_or_default(),
        _ => pieces.concat().into(),
    }
}

fn begin_field(tag: u32, length: usize, out: &mut Pieces) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(length as u64, out);
}

/// Of a field with one of the tags above, which take a byte.
fn field_len(length: usize) -> usize {
    1 + encoded_len_varint(length as u64) + length
}

#[cfg(test)]
mod tests {
    use raftproto::peer::{Envelope, envelope::Kind};

    use super::*;

    #[test]
    fn a_long_request_by_itself_is_what_it_would_be_in_a_batch() {
        let request: Vec<Bytes> = [3, 40_000, 5].map(|len| vec![len as u8; len].into()).into();
        let question = Question {
            group: 1000,
            token: 1 << 40,
            request,
        };
        let mut batch = Batch {
            has_no_room: true,
            ..Batch::default()
        };
        let envelope = question.clone().into_envelope(&batch).concat();
        let message = ForwardedRequest {
            request: question.request.concat().into(),
            ..question.around()
        };
        assert!(message.encoded_len() <= question.bytes());
        batch.requests.push(message);
        let kind = Some(Kind::Batch(batch));
        let expected = Envelope { kind };
        assert_eq!(envelope.len(), expected.encoded_len());
        assert!(Envelope::decode(&envelope[..]) == Ok(expected));
    }
}
