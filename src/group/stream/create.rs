//! What a PUT makes, and whether what stands already matches it (protocol, section 5.1).

use super::{Holds, Kept, Stream, StreamBytes};
use crate::protocol::{Create, Expiry, ForkOrigin, Incarnation, Refusal};

impl Stream {
    /// A stream as created at `stamp_ms`, its first bytes included.
    pub fn create(create: Create, incarnation: Incarnation, stamp_ms: u64) -> Stream {
        let start = create.fork.as_ref().map_or(0, |f| f.offset.0);
        let floor = create.fork.as_ref().map_or(0, |f| f.floor.0);
        let mut bytes = StreamBytes::starting_at(start);
        let tail = start + create.body.len() as u64;
        // What a fork inherits counts as appended with it: when it was is the source's to know.
        let kept = (!create.retention.is_unlimited()).then(|| {
            let mut kept = Box::new(Kept::new(create.retention));
            kept.note(floor, start - floor, stamp_ms);
            kept.note(start, create.body.len() as u64, stamp_ms);
            kept
        });
        bytes.append(create.body);
        Stream {
            incarnation,
            content_type: create.content_type,
            tail,
            closed: create.closed,
            soft_deleted: false,
            expiry: create.expiry,
            touched_ms: stamp_ms,
            created_ms: stamp_ms,
            read_ms: 0,
            touch_proposed_ms: 0,
            due_ms: None,
            stream_seq: None,
            producers: None,
            fork: create.fork.map(Box::new),
            holds: Holds::default(),
            retention: kept,
            bytes,
            floor,
            unflushed_since_ms: u64::MAX,
            is_dirty: false,
        }
    }

    /// Whether a PUT with this configuration finds what it asks for. A fork's type and expiry count only
    /// if the client gave them, since it would have inherited them.
    ///
    /// # Errors
    /// [`Refusal::KeyBlocked`] or [`Refusal::ConfigMismatch`] with the part that differs.
    pub fn matches(
        &self,
        create: &Create,
        has_content_type: bool,
        has_expiry: bool,
    ) -> Result<(), Refusal> {
        if self.soft_deleted {
            return Err(Refusal::KeyBlocked);
        }
        let differs = |what| Err(Refusal::ConfigMismatch { what });
        let is_same_fork = match (self.fork.as_deref(), &create.fork) {
            (None, None) => true,
            (Some(mine), Some(asked)) => is_same_origin(mine, asked),
            _ => false,
        };
        if !is_same_fork {
            return differs("fork origin");
        }
        if has_content_type && !self.content_type.matches(&create.content_type) {
            return differs("content type");
        }
        if has_expiry && self.expiry != create.expiry {
            return differs(match (self.expiry, create.expiry) {
                (Expiry::At(_), Expiry::At(_)) => "expiry time",
                _ => "TTL or expiry",
            });
        }
        let kept = self.retention.as_ref().map(|k| k.policy);
        if !create.is_bucket_retention
            && !create.retention.is_unlimited()
            && kept != Some(create.retention)
        {
            return differs("retention");
        }
        if self.closed != create.closed {
            return differs("closure status");
        }
        Ok(())
    }
}

/// The same source, and the same position as it was named or as it was resolved.
fn is_same_origin(mine: &ForkOrigin, asked: &ForkOrigin) -> bool {
    let as_named = (mine.requested_offset, mine.requested_sub_offset)
        == (asked.requested_offset, asked.requested_sub_offset);
    let as_resolved =
        asked.requested_sub_offset == 0 && asked.requested_offset == Some(mine.offset);
    mine.source == asked.source && (as_named || as_resolved)
}
