//! Retention: the leader finds streams that have more than they keep and proposes their floor; what the floor does is
//! `Trim`'s (`packs.rs`), the same as where a client asked for it. So replicas need no clock, and a cut is in the log.

use std::collections::BTreeSet;

use raftproto::command::{self, command::Kind};

use super::Group;
use super::machine::Machine;
use super::stream::Kept;
use crate::protocol::StreamKey;

/// Streams that one tick cuts at most.
const TRIMS_PER_TICK: usize = 1_000;

/// Streams that one tick looks at.
const LOOKS_PER_TICK: usize = 10_000;

/// A floor that was not applied by then is proposed again.
const LOST_AFTER_MS: u64 = 60_000;

impl Group {
    /// Proposes floors for streams that have more than they keep; what is above a tick's share waits for the next.
    pub(super) fn trim_due(&mut self) {
        let mut proposed = 0;
        for _ in 0..LOOKS_PER_TICK {
            let Some((due_ms, key)) = self.machine.trims.first() else {
                return;
            };
            if *due_ms > self.now_ms || proposed == TRIMS_PER_TICK {
                return;
            }
            let key = key.clone();
            let now_ms = self.now_ms;
            let Some(stream) = self.machine.streams.get_mut(&key) else {
                return;
            };
            let Some(kept) = &mut stream.retention else {
                return;
            };
            let floor = kept.floor(now_ms, stream.tail);
            let next_ms = if floor > stream.floor {
                let trim = command::Trim {
                    key: key.as_str().to_owned(),
                    incarnation: stream.incarnation.0,
                    offset: floor,
                };
                self.pending.push(Kind::Trim(trim), None);
                proposed += 1;
                Some(now_ms + LOST_AFTER_MS)
            } else {
                kept.next_due_ms(stream.tail)
            };
            put_in(&mut self.machine.trims, &key, kept, next_ms);
        }
    }
}

impl Machine {
    /// What the stream keeps, or what it has, is another by now.
    pub(super) fn look_at_kept(&mut self, key: &StreamKey) {
        if let Some(stream) = self.streams.get_mut(key)
            && let Some(kept) = &mut stream.retention
        {
            let due_ms = match stream.soft_deleted {
                true => None,
                false => kept.next_due_ms(stream.tail),
            };
            put_in(&mut self.trims, key, kept, due_ms);
        }
    }

    /// Nobody reads the stream any more.
    pub(super) fn forget_kept(&mut self, key: &StreamKey) {
        if let Some(stream) = self.streams.get_mut(key)
            && let Some(kept) = &mut stream.retention
        {
            put_in(&mut self.trims, key, kept, None);
        }
    }
}

/// An append may make a stream due sooner, never later: a look that comes early finds the time.
pub(super) fn move_in(
    trims: &mut BTreeSet<(u64, StreamKey)>,
    key: &StreamKey,
    kept: &mut Kept,
    due_ms: Option<u64>,
) {
    if kept.due_ms.is_none() || due_ms < kept.due_ms {
        put_in(trims, key, kept, due_ms);
    }
}

fn put_in(
    trims: &mut BTreeSet<(u64, StreamKey)>,
    key: &StreamKey,
    kept: &mut Kept,
    due_ms: Option<u64>,
) {
    let before = std::mem::replace(&mut kept.due_ms, due_ms);
    if let Some(before) = before {
        trims.remove(&(before, key.clone()));
    }
    if let Some(due_ms) = due_ms {
        trims.insert((due_ms, key.clone()));
    }
}
