//! Collects a request's body, within its bounds: size, time, and the core's budget of bytes in flight.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_lite::FutureExt;
use http_body_util::BodyExt;
use hyper::body::Body;

use super::backend::{Backend, BodyBudget};
use crate::protocol::Refusal;

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
    if hint.lower() > limit {
        return Err(Refusal::BodyTooLarge { limit });
    }
    let announced = hint.exact();
    let mut budget = backend.take_body_budget(announced.unwrap_or(0))?;
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
