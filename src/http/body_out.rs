//! Bodies of answers: nothing, a row of shared bytes, or an event stream that is pulled.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_lite::Stream;
use hyper::body::{Body, Frame, SizeHint};

/// The body of an answer.
pub enum ResponseBody {
    /// These bytes, in order; nothing is copied.
    Row(VecDeque<Bytes>),
    /// As the socket takes it: at most one frame waits per slow reader.
    Events(Pin<Box<dyn Stream<Item = Bytes>>>),
}

impl ResponseBody {
    /// No bytes.
    pub fn empty() -> ResponseBody {
        ResponseBody::Row(VecDeque::new())
    }

    /// One piece.
    pub fn full(bytes: impl Into<Bytes>) -> ResponseBody {
        ResponseBody::row(vec![bytes.into()])
    }

    /// Several pieces.
    pub fn row(pieces: Vec<Bytes>) -> ResponseBody {
        ResponseBody::Row(pieces.into_iter().filter(|p| !p.is_empty()).collect())
    }

    /// Bytes, where they are known.
    pub fn known_len(&self) -> Option<u64> {
        match self {
            ResponseBody::Row(row) => Some(row.iter().map(|p| p.len() as u64).sum()),
            ResponseBody::Events(_) => None,
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            ResponseBody::Row(row) => Poll::Ready(row.pop_front().map(|b| Ok(Frame::data(b)))),
            ResponseBody::Events(events) => events
                .as_mut()
                .poll_next(cx)
                .map(|next| next.map(|b| Ok(Frame::data(b)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, ResponseBody::Row(row) if row.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        self.known_len()
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
