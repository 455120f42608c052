//! A source's side of forks: holds on its bytes (protocol, section 4.2; ARCHITECTURE.md, sagas).

use super::{HeldFor, Stream};
use crate::protocol::{Held, Offset, Refusal, StreamKey};

impl Stream {
    /// Keeps the bytes up to `offset` (`None`: the tail) for a fork. The same hold again gets the same answer.
    ///
    /// # Errors
    /// [`Refusal::SourceGone`] if it is soft-deleted, [`Refusal::OffsetBeyondTail`].
    pub fn hold(
        &mut self,
        fork_key: StreamKey,
        hold_id: u64,
        offset: Option<u64>,
        stamp_ms: u64,
    ) -> Result<Held, Refusal> {
        if let Some(known) = self.holds.iter().find(|h| h.hold_id == hold_id) {
            let offset = Offset(known.offset);
            return Ok(Held {
                source: self.meta(),
                offset,
            });
        }
        if self.soft_deleted {
            return Err(Refusal::SourceGone);
        }
        let offset = offset.unwrap_or(self.tail);
        if offset > self.tail {
            return Err(Refusal::OffsetBeyondTail {
                tail: Offset(self.tail),
            });
        }
        self.holds.push(HeldFor {
            fork_key,
            hold_id,
            offset,
            since_ms: stamp_ms,
            confirmed: false,
        });
        Ok(Held {
            source: self.meta(),
            offset: Offset(offset),
        })
    }

    /// The fork stands; the sweep no longer asks for it. Answers whether the hold is known.
    pub fn confirm_hold(&mut self, hold_id: u64) -> bool {
        let hold = self.holds.iter_mut().find(|h| h.hold_id == hold_id);
        hold.map(|h| h.confirmed = true).is_some()
    }

    /// The fork is gone. Answers whether the stream itself can go now.
    pub fn release_hold(&mut self, hold_id: u64) -> bool {
        self.holds.retain(|h| h.hold_id != hold_id);
        self.soft_deleted && self.holds.is_empty()
    }
}
