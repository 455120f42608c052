//! Messages of other nodes with their frames. The first byte of the input chooses whether they are compressed.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use prost::Message;
use raftproto::peer::Envelope;
use ursula::peer::grpc::Encoding;
use ursula::peer::message::{Messages, Side};

/// Largest message that a peer may send here.
const BYTES_MAX: usize = 1 << 16;

/// Reads the input as what a peer sends.
pub fn frames(data: &[u8]) {
    match data.split_first() {
        Some((choice, rest)) if choice % 2 == 0 => messages(rest, Encoding::Identity),
        Some((_, rest)) => messages(rest, Encoding::Zstd),
        None => {}
    }
}

/// A body that arrives in pieces of seven bytes.
struct Pieces(Vec<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop().map(|piece| Ok(Frame::data(piece))))
    }
}

/// Messages with their frames: each takes at most the bound, and the first bad one ends the call.
fn messages(bytes: &[u8], encoding: Encoding) {
    let pieces = bytes.chunks(7).rev().map(Bytes::copy_from_slice).collect();
    let mut messages = Messages::new(Pieces(pieces), Side::Caller, encoding, BYTES_MAX);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        let next = std::pin::pin!(messages.next::<Envelope>()).poll(&mut context);
        let Poll::Ready(next) = next else {
            panic!("all pieces are there");
        };
        match next {
            Ok(Some(envelope)) => assert!(envelope.encoded_len() <= 2 * BYTES_MAX),
            Ok(None) | Err(_) => return,
        }
    }
}
