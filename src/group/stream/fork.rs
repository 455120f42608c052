//! A source's side of forks: holds on its bytes (protocol, section 4.2; ARCHITECTURE.md, sagas).

use std::collections::BTreeMap;

use raftproto::command;

use super::Stream;
use crate::protocol::{Held, Offset, Refusal, StreamKey};

/// How long a hold may stay unconfirmed before the sweep asks.
pub const HOLD_UNCONFIRMED_MS: u64 = 30_000;

/// Unconfirmed holds that a stream may have: forks under way, and those that a crash left to the sweep.
pub const UNCONFIRMED_MAX: usize = 1_000;

/// A fork that keeps this stream's bytes up to `offset`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldFor {
    /// The fork.
    pub fork_key: StreamKey,
    /// Names the hold.
    pub hold_id: u64,
    /// One past the last inherited byte.
    pub offset: u64,
    /// When it was granted, by the group's clock.
    pub since_ms: u64,
    /// The fork stands.
    pub confirmed: bool,
    /// While unconfirmed: when the sweep asks, its place in the group's queue; not replicated.
    pub check_ms: u64,
}

/// The holds of one stream by id.
#[derive(Debug, Default)]
pub struct Holds {
    by_id: BTreeMap<u64, HeldFor>,
    unconfirmed_count: usize,
}

impl Holds {
    /// Nobody holds the stream.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// One hold.
    pub fn get(&self, hold_id: u64) -> Option<&HeldFor> {
        self.by_id.get(&hold_id)
    }

    /// One hold, to change when it is asked about.
    pub(crate) fn get_mut(&mut self, hold_id: u64) -> Option<&mut HeldFor> {
        self.by_id.get_mut(&hold_id)
    }

    /// All of them in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &HeldFor> {
        self.by_id.values()
    }

    /// Adds one. A hold is granted once, but what is read from a file may name one twice: the later word holds.
    pub(crate) fn insert(&mut self, hold: HeldFor) {
        self.unconfirmed_count += usize::from(!hold.confirmed);
        let before = self.by_id.insert(hold.hold_id, hold);
        self.unconfirmed_count -= usize::from(before.is_some_and(|b| !b.confirmed));
    }

    /// The fork stands; answers when the sweep would have asked, if it was to.
    pub(crate) fn confirm(&mut self, hold_id: u64) -> Option<u64> {
        let hold = self.by_id.get_mut(&hold_id).filter(|h| !h.confirmed)?;
        hold.confirmed = true;
        self.unconfirmed_count -= 1;
        Some(hold.check_ms)
    }

    /// The fork is gone or was never made.
    pub(crate) fn remove(&mut self, hold_id: u64) -> Option<HeldFor> {
        let hold = self.by_id.remove(&hold_id)?;
        self.unconfirmed_count -= usize::from(!hold.confirmed);
        Some(hold)
    }
}

impl Stream {
    /// Keeps the bytes up to an offset (none: the tail) for a fork. The same hold again gets the same answer.
    ///
    /// # Errors
    /// [`Refusal::SourceGone`] if it is soft-deleted, [`Refusal::OffsetBeyondTail`], [`Refusal::Overloaded`] if it
    /// has too many unconfirmed holds, [`Refusal::HoldExpired`] if the offset was found in another stream that stood
    /// at the key before.
    pub fn hold(&mut self, hold: &command::Hold, stamp_ms: u64) -> Result<Held, Refusal> {
        if let Some(known) = self.holds.get(hold.hold_id) {
            return Ok(Held {
                source: self.meta(),
                offset: Offset(known.offset),
                floor: Offset(self.floor),
            });
        }
        if self.soft_deleted {
            return Err(Refusal::SourceGone);
        }
        if hold.incarnation != 0 && hold.incarnation != self.incarnation.0 {
            return Err(Refusal::HoldExpired);
        }
        let offset = hold.offset.unwrap_or(self.tail);
        if offset > self.tail {
            return Err(Refusal::OffsetBeyondTail {
                tail: Offset(self.tail),
            });
        }
        if offset < self.floor {
            return Err(Refusal::OffsetExpired {
                earliest: Offset(self.floor),
            });
        }
        if self.holds.unconfirmed_count >= UNCONFIRMED_MAX {
            return Err(Refusal::Overloaded {
                bound: "unconfirmed_holds_max",
            });
        }
        self.holds.insert(HeldFor {
            fork_key: StreamKey::from_stored(&hold.fork_key),
            hold_id: hold.hold_id,
            offset,
            since_ms: stamp_ms,
            confirmed: false,
            check_ms: stamp_ms + HOLD_UNCONFIRMED_MS,
        });
        Ok(Held {
            source: self.meta(),
            offset: Offset(offset),
            floor: Offset(self.floor),
        })
    }
}
