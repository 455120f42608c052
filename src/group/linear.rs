//! How a leader makes sure that it still leads before it answers what must be linearizable: by a lease, or by a round of
//! heartbeats (ReadIndex; Raft dissertation, section 6.4).
//!
//! The lease: a round that began at T and was answered by a majority shows that no majority votes for another before T
//! plus the election time-out, since a voter that hears of a leader refuses others for that long, and one that restarts
//! refuses all for that long. It is measured from the sending, on the monotonic clock, and is shorter by a tenth and two
//! ticks. It ends for the rest of the
//! term when leadership is to be handed over, whether that succeeds or not.
//! Owns the reads that wait for a round. Invariants: a context is used once; a read joins only a round that begins
//! after it came.

use super::asker::Asked;
use super::{Effect, Group, ReadMode};
use crate::mutation;

impl Leadership {
    /// No read waits for a round.
    pub(super) fn is_quiet(&self) -> bool {
        self.round.is_none() && self.next.is_empty()
    }

    /// Reads that wait for a round.
    pub(super) fn waiters(&self) -> usize {
        self.next.len() + self.round.as_ref().map_or(0, |round| round.reads.len())
    }
}

/// See the module's head.
#[derive(Default)]
pub(super) struct Leadership {
    lease_until_us: u64,
    /// The term in which leadership was to be handed over.
    handed_over_in: u64,
    round: Option<Round>,
    next: Vec<Asked>,
    rounds: u64,
}

struct Round {
    context: Vec<u8>,
    began_us: u64,
    reads: Vec<Asked>,
}

impl Group {
    /// No other replica leads at this moment.
    pub(super) fn leads_for_certain(&self) -> bool {
        if self.raft.is_alone() {
            return true;
        }
        self.raft.settings().read_mode == ReadMode::Lease
            && !self.raft.is_transferring()
            && (self.now.monotonic_us < self.leadership.lease_until_us
                || mutation::is_on("lease-never-ends") && self.leadership.lease_until_us > 0)
    }

    /// The read is answered after a round that begins from now on.
    pub(super) fn confirm_by_round(&mut self, asked: Asked) {
        if let Some(round) = &mut self.leadership.round
            && mutation::is_on("round-joined-late")
        {
            round.reads.push(asked);
            return;
        }
        self.leadership.next.push(asked);
        self.begin_round();
    }

    /// Begins a round if reads wait and none is under way.
    pub(super) fn begin_round(&mut self) {
        let is_wanted = !self.leadership.next.is_empty() && self.leadership.round.is_none();
        if !is_wanted || !self.is_ready || self.raft.is_transferring() {
            return;
        }
        if !mutation::is_on("round-context-reused") {
            self.leadership.rounds += 1;
        }
        let numbers = [self.raft.term(), self.raft.id(), self.leadership.rounds];
        let context: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.raft.confirm_leadership(context.clone());
        self.leadership.round = Some(Round {
            context,
            began_us: self.now.monotonic_us,
            reads: std::mem::take(&mut self.leadership.next),
        });
    }

    /// A majority has answered the round with this context.
    pub(super) fn on_confirmed(&mut self, context: &[u8], index: u64, effects: &mut Vec<Effect>) {
        let Some(round) = self
            .leadership
            .round
            .take_if(|round| round.context == context)
        else {
            return;
        };
        if self.leadership.handed_over_in != self.raft.term() {
            let from_us = if mutation::is_on("lease-from-the-answer") {
                self.now.monotonic_us
            } else {
                round.began_us
            };
            let until_us = from_us + self.lease_us();
            self.leadership.lease_until_us = self.leadership.lease_until_us.max(until_us);
        }
        for asked in round.reads {
            self.answer_at(index, asked, effects);
        }
        self.begin_round();
    }

    fn lease_us(&self) -> u64 {
        let settings = self.raft.settings();
        let election_ms = settings.tick_ms * settings.election_ticks as u64;
        if mutation::is_on("lease-without-margin") {
            return election_ms * 1000;
        }
        (election_ms * 900).saturating_sub(settings.tick_ms * 2000)
    }

    /// A round that was not answered for two heartbeats is lost: another one begins, with a context of its own.
    pub(super) fn repeat_round(&mut self) {
        let settings = self.raft.settings();
        let patience_us = settings.tick_ms * settings.heartbeat_ticks as u64 * 2000;
        let now_us = self.now.monotonic_us;
        let lost = self
            .leadership
            .round
            .take_if(|round| round.began_us + patience_us <= now_us);
        if let Some(round) = lost {
            self.leadership.next.extend(round.reads);
        }
        // What waits too long is refused where its questioner still wants it: see `retry_held`.
        self.begin_round();
    }

    /// The lease ends, and there is none any more in this term: the order to take over may arrive at any time, and whoever
    /// gets it is elected without regard to a lease.
    pub(super) fn end_lease(&mut self) {
        if mutation::is_on("lease-after-hand-over") {
            return;
        }
        self.leadership.handed_over_in = self.raft.term();
        self.leadership.lease_until_us = 0;
    }

    /// A deliberate bug: a hand-over that came to nothing goes on for the rest of the term.
    pub(super) fn keeps_handing_over(&self) -> bool {
        let was_begun = self.leadership.handed_over_in == self.raft.term();
        was_begun && mutation::is_on("hand-over-without-end")
    }

    /// Takes the reads that waited for a round.
    pub(super) fn take_unconfirmed(&mut self) -> Vec<Asked> {
        let mut reads = std::mem::take(&mut self.leadership.next);
        reads.extend(
            self.leadership
                .round
                .take()
                .into_iter()
                .flat_map(|r| r.reads),
        );
        self.leadership.lease_until_us = 0;
        reads
    }
}
