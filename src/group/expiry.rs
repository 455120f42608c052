//! The end of a stream's time: reads and writes slide it, ticks look for what is due, the log decides.
//! Owns the rules by which a leader proposes a touch or an expiry, and what each does once it is committed.

use raftproto::command::{self, Expire, Touch, command::Kind};

use super::machine::{Machine, find};
use super::{Effect, Group};
use crate::protocol::{Outcome, StreamKey};

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
            // Not proposed twice while this one is on its way.
            stream.touched_ms = now_ms;
            self.pending.push(Kind::Touch(touch), None);
        }
    }

    /// Live readers keep a stream alive (section 5.1).
    pub(super) fn keep_watched_alive(&mut self) {
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

    pub(super) fn expire_due(&mut self) {
        let mut due = Vec::new();
        while let Some((deadline, key)) = self.machine.deadlines.pop_first() {
            if deadline > self.now_ms {
                self.machine.deadlines.insert((deadline, key));
                break;
            }
            due.push(key);
        }
        for key in due {
            let Some(stream) = self.machine.streams.get(&key) else {
                continue;
            };
            let Some(deadline) = stream.deadline_ms(self.leader_since_ms) else {
                continue;
            };
            if deadline <= self.now_ms {
                let expire = Expire {
                    key: key.as_str().to_owned(),
                    incarnation: stream.incarnation.0,
                };
                self.pending.push(Kind::Expire(expire), None);
                // Asked again only if the command should be lost.
                self.machine.deadlines.insert((self.now_ms + 60_000, key));
            } else {
                self.machine.deadlines.insert((deadline, key));
            }
        }
    }
}

impl Machine {
    pub(super) fn touch(&mut self, touch: &command::Touch) -> Outcome {
        if let Some((key, stream)) = find(&mut self.streams, &touch.key)
            && stream.incarnation.0 == touch.incarnation
        {
            stream.touched_ms = stream.touched_ms.max(touch.at_ms);
            let key = key.clone();
            self.mark_dirty(&key);
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
            && stream.incarnation.0 == expire.incarnation
            && !stream.soft_deleted
            && let Some(deadline) = stream.logged_deadline_ms()
        {
            let key = key.clone();
            if deadline <= stamp_ms {
                self.end(&key, effects);
            } else {
                self.deadlines.insert((deadline, key));
            }
        }
        Outcome::Done
    }
}
