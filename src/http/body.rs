//! Collects a request's body, within its bounds: size, time, and the core's budget of bytes in flight.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_lite::FutureExt;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, SizeHint};

use super::backend::{Backend, BodyBudget};
use crate::protocol::Refusal;

/// Bytes of a refused body that are read and thrown away.
const DRAIN_BYTES_MAX: u64 = 4 << 20;

/// A request's body, each byte of which is counted when it has arrived.
pub struct Counted<'a, T> {
    body: T,
    received: &'a Cell<u64>,
}

impl<'a, T> Counted<'a, T> {
    /// Counts into `received`.
    pub fn new(body: T, received: &'a Cell<u64>) -> Counted<'a, T> {
        Counted { body, received }
    }
}

impl<T: Body<Data = Bytes> + Unpin> Body for Counted<'_, T> {
    type Data = Bytes;
    type Error = T::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, T::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            let len = frame.data_ref().map_or(0, |d| d.len() as u64);
            self.received.set(self.received.get() + len);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Reads a whole body.
///
/// # Errors
/// [`Refusal::BodyTooLarge`], [`Refusal::BodyTimeout`], [`Refusal::Overloaded`], or [`Refusal::Bad`] if the
/// client broke off.
pub async fn collect<B, T>(backend: &B, body: T) -> Result<(Bytes, B::BodyBudget), Refusal>
where
    B: Backend,
    T: Body<Data = Bytes> + Unpin,
{
    let settings = backend.settings();
    let limit = settings.body_bytes_max;
    let hint = body.size_hint();
    let announced = hint.exact();
    let taken = if hint.lower() > limit {
        Err(Refusal::BodyTooLarge { limit })
    } else {
        backend.take_body_budget(announced.unwrap_or(0))
    };
    let mut budget = match taken {
        Ok(budget) => budget,
        Err(refusal) => {
            drain(backend, body).await;
            return Err(refusal);
        }
    };
    if announced == Some(0) {
        return Ok((Bytes::new(), budget));
    }
    let read = read(body, announced, limit, &mut budget);
    let timeout = async {
        backend
            .sleep(Duration::from_millis(settings.body_timeout_ms))
            .await;
        Err(Refusal::BodyTimeout)
    };
    // The read comes first: a body that is there already needs no timer.
    let bytes = read.or(timeout).await?;
    Ok((bytes, budget))
}

/// Throws away what a refused client sends for a moment: closing at once would reset the connection, and the
/// answer could be lost with it.
async fn drain<B: Backend, T: Body<Data = Bytes> + Unpin>(backend: &B, mut body: T) {
    let read = async {
        let mut left = DRAIN_BYTES_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            let len = frame.data_ref().map_or(0, |d| d.len() as u64);
            if len >= left {
                return;
            }
            left -= len;
        }
    };
    read.or(backend.sleep(Duration::from_secs(1))).await;
}

async fn read<T, G>(
    mut body: T,
    announced: Option<u64>,
    limit: u64,
    budget: &mut G,
) -> Result<Bytes, Refusal>
where
    T: Body<Data = Bytes> + Unpin,
    G: BodyBudget,
{
    let mut first = Bytes::new();
    let mut rest: Option<BytesMut> = None;
    let mut total = 0u64;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|_| Refusal::Bad("the body broke off before its end".to_owned()))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        total += data.len() as u64;
        if total > limit {
            return Err(Refusal::BodyTooLarge { limit });
        }
        if announced.is_none() {
            budget.grow(data.len() as u64)?;
        }
        match &mut rest {
            Some(rest) => rest.extend_from_slice(&data),
            None if first.is_empty() => first = data,
            None => {
                let mut joined = BytesMut::with_capacity(announced.unwrap_or(2 * total) as usize);
                joined.extend_from_slice(&first);
                joined.extend_from_slice(&data);
                rest = Some(joined);
            }
        }
    }
    Ok(rest.map_or(first, BytesMut::freeze))
}
