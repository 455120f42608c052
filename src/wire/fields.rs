//! The parts that several messages share. Each check names the field that it refuses.

use raftproto::command;

use super::WireError;
use crate::protocol::{
    BucketName, ContentType, Expiry, MAX_AGE_SECONDS_MAX, Offset, Retention, StreamKey,
    TTL_SECONDS_MAX,
};

/// A field that must be set.
pub(super) fn present<T>(value: Option<T>, field: &'static str) -> Result<T, WireError> {
    value.ok_or(WireError::Missing { field })
}

/// Refuses the field unless what was promised of it holds.
pub(super) fn check(holds: bool, field: &'static str) -> Result<(), WireError> {
    if holds {
        Ok(())
    } else {
        Err(WireError::Invalid { field })
    }
}

/// An offset that has a text.
pub(super) fn offset(position: u64, field: &'static str) -> Result<Offset, WireError> {
    check(position <= Offset::MAX.0, field)?;
    Ok(Offset(position))
}

/// A key of one of the two address forms, checked as one that a client sends.
pub(super) fn key(text: &str, field: &'static str) -> Result<StreamKey, WireError> {
    let invalid = WireError::Invalid { field };
    match text.split_once('/') {
        None => Err(invalid),
        Some(("", path)) => StreamKey::root(path).map_err(|_| invalid),
        Some((name, id)) => StreamKey::in_bucket(&bucket(name, field)?, id).map_err(|_| invalid),
    }
}

/// A bucket's name, checked as one that a client sends.
pub(super) fn bucket(name: &str, field: &'static str) -> Result<BucketName, WireError> {
    BucketName::parse(name).map_err(|_| WireError::Invalid { field })
}

/// A stream's type.
pub(super) fn content_type(text: &str, field: &'static str) -> Result<ContentType, WireError> {
    ContentType::parse(text).ok_or(WireError::Invalid { field })
}

/// How long a stream lives; no message: for ever.
pub(super) fn expiry(
    message: Option<command::Expiry>,
    field: &'static str,
) -> Result<Expiry, WireError> {
    let Some(message) = message else {
        return Ok(Expiry::Never);
    };
    match (message.ttl_seconds, message.at_ms) {
        (Some(seconds), None) if seconds <= TTL_SECONDS_MAX => Ok(Expiry::Ttl(seconds)),
        (None, Some(at_ms)) => Ok(Expiry::At(at_ms)),
        // Nothing set may also be a kind that only a newer node knows: it must not become "for ever".
        _ => Err(WireError::Invalid { field }),
    }
}

/// The message of an expiry.
pub(super) fn expiry_message(expiry: Expiry) -> Option<command::Expiry> {
    let (ttl_seconds, at_ms) = match expiry {
        Expiry::Never => return None,
        Expiry::Ttl(seconds) => (Some(seconds), None),
        Expiry::At(at_ms) => (None, Some(at_ms)),
    };
    Some(command::Expiry { ttl_seconds, at_ms })
}

/// What a stream keeps; no message: all.
pub(super) fn retention(
    message: Option<command::Retention>,
    field: &'static str,
) -> Result<Retention, WireError> {
    let message = message.unwrap_or_default();
    let is_age = |ms: u64| ms > 0 && ms <= MAX_AGE_SECONDS_MAX * 1000;
    check(message.max_age_ms.is_none_or(is_age), field)?;
    check(message.max_bytes != Some(0), field)?;
    Ok(Retention {
        max_age_ms: message.max_age_ms,
        max_bytes: message.max_bytes,
    })
}

/// The message of what a stream keeps.
pub(super) fn retention_message(retention: Retention) -> Option<command::Retention> {
    (!retention.is_unlimited()).then_some(command::Retention {
        max_age_ms: retention.max_age_ms,
        max_bytes: retention.max_bytes,
    })
}
