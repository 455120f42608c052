//! The end of a stream's time: reads and writes slide it, ticks look for what is due, the log decides.
//! Owns the rules by which a leader proposes a touch or an expiry, and what each does once it is committed.

use raftproto::command::{self, Expire, Touch, command::Kind};

use super::machine::{Machine, find};
use super::{Effect, Group};
use crate::mutation;
use crate::protocol::{Outcome, StreamKey};

/// Streams that one tick ends at most, so that a million that are due after a restart are many small entries.
const EXPIRIES_PER_TICK: usize = 1_000;

/// Streams that one tick looks at: most were touched since they were queued and only move.
const LOOKS_PER_TICK: usize = 10_000;

/// An expiry that was not applied by then is proposed again.
const LOST_AFTER_MS: u64 = 60_000;

impl Group {
    /// A read slides the stream's window; logged only when it slid far.
    pub(super) fn touched(&mut self, key: &StreamKey) {
        let now_ms = self.now_ms;
        let Some(stream) = self.machine.streams.get_mut(key) else {
            return;
        };
        if stream.read_at(now_ms) {
            let touch = Touch {
                key: key.as_str().to_owned(),
                incarnation: stream.incarnation.0,
                at_ms: now_ms,
            };
            if self.is_ready {
                self.pending.push(Kind::Touch(touch), None);
            } else {
                self.touches.push(key.clone());
            }
        }
    }

    /// Some stream may have live readers that keep it alive: there are any, and some stream's time ends.
    pub(super) fn may_keep_watched_alive(&self) -> bool {
        !self.machine.deadlines.is_empty() && self.machine.tails.keys().next().is_some()
    }

    /// Live readers keep a stream alive (section 5.1).
    pub(super) fn keep_watched_alive(&mut self) {
        if !self.may_keep_watched_alive() {
            return;
        }
        let watched = self.machine.tails.keys().cloned().collect::<Vec<_>>();
        for key in watched {
            if self
                .machine
                .streams
                .get(&key)
                .is_some_and(|s| !self.is_expired(s))
            {
                self.touched(&key);
            }
        }
    }

    /// Proposes the end of streams whose time is over; what is above a tick's share waits for the next.
    pub(super) fn expire_due(&mut self) {
        let mut proposed = 0;
        for _ in 0..LOOKS_PER_TICK {
            let Some((due_ms, key)) = self.machine.deadlines.first() else {
                return;
            };
            if *due_ms > self.now_ms || proposed == EXPIRIES_PER_TICK {
                return;
            }
            let key = key.clone();
            let deadline = self
                .machine
                .streams
                .get(&key)
                .and_then(|s| Some((s.incarnation, s.deadline_ms(self.leader_since_ms)?)));
            let next = match deadline {
                Some((incarnation, deadline)) if deadline <= self.now_ms => {
                    let expire = Expire {
                        key: key.as_str().to_owned(),
                        incarnation: incarnation.0,
                    };
                    self.pending.push(Kind::Expire(expire), None);
                    proposed += 1;
                    // Asked again only if the command should be lost.
                    Some(self.now_ms + LOST_AFTER_MS)
                }
                Some((_, deadline)) => Some(deadline),
                None => None,
            };
            self.machine.look_at(&key, next);
        }
    }
}

impl Machine {
    /// Changes when a stream is looked at next; `None`: never. A stream stands in the queue once, and leaves it
    /// with its end.
    pub(super) fn look_at(&mut self, key: &StreamKey, due_ms: Option<u64>) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        let before = std::mem::replace(&mut stream.due_ms, due_ms);
        if let Some(before) = before {
            self.deadlines.remove(&(before, key.clone()));
        }
        if let Some(due_ms) = due_ms {
            self.deadlines.insert((due_ms, key.clone()));
        }
    }

    pub(super) fn touch(&mut self, touch: &command::Touch) -> Outcome {
        if let Some((key, stream)) = find(&mut self.streams, &touch.key)
            && stream.incarnation.0 == touch.incarnation
        {
            stream.touched_ms = stream.touched_ms.max(touch.at_ms);
            let key = key.clone();
            if !mutation::is_on("touch-not-checkpointed") {
                self.mark_dirty(&key);
            }
        }
        Outcome::Done
    }

    /// Ends a stream whose time is over by the stamp of the entry. The leader judged by what was applied when it
    /// proposed: a write that was on its way has slid the window since, and is acknowledged (I1).
    pub(super) fn expire(
        &mut self,
        expire: &command::Expire,
        stamp_ms: u64,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        if let Some((key, stream)) = find(&mut self.streams, &expire.key)
            && (stream.incarnation.0 == expire.incarnation
                || mutation::is_on("expiry-of-another-stream"))
            && !stream.soft_deleted
            && let Some(deadline) = stream.logged_deadline_ms()
        {
            let key = key.clone();
            if deadline <= stamp_ms || mutation::is_on("expiry-unchecked") {
                self.end(&key, effects);
            } else {
                self.look_at(&key, Some(deadline));
            }
        }
        Outcome::Done
    }
}
