//! Who waits for an answer to what, and whether it may say that nothing was done.
//! Invariant: what a leader was asked before, and whose answer is lost, is never answered as certainly not done, whoever
//! refuses it in the end: the stream may have ended since the first time it was asked, and taken what was appended with it.

use super::{Effect, ReplyTo};
use crate::mutation;
use crate::protocol::{Incarnation, Op, Outcome, Refusal, Request};

/// See the module's head.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker {
    reply_to: ReplyTo,
    in_doubt: bool,
}

impl Asker {
    /// Who asks for the first time.
    pub(super) fn new(reply_to: ReplyTo) -> Asker {
        Asker {
            reply_to,
            in_doubt: false,
        }
    }

    /// A leader that was asked may have done it.
    fn doubt(&mut self) {
        self.in_doubt = !mutation::is_on("doubt-forgotten");
    }

    /// Answers; a refusal only as far as it is certain.
    pub(super) fn answer(self, outcome: Outcome, effects: &mut Vec<Effect>) {
        let outcome = match outcome {
            Outcome::Refused(_) if self.in_doubt => Outcome::Refused(Refusal::OutcomeUnknown),
            outcome => outcome,
        };
        effects.push(Effect::Reply {
            reply_to: self.reply_to,
            outcome,
        });
    }
}

/// A request and who asked.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) request: Request,
    pub(super) asker: Asker,
    /// Another node sent it: it is not sent on.
    pub(super) is_forwarded: bool,
    /// The streams that were known here when a leader was first asked have incarnations below this.
    known_below: Option<Incarnation>,
    pub(super) until_us: u64,
}

impl Asked {
    pub(super) fn new(
        request: Request,
        reply_to: ReplyTo,
        is_forwarded: bool,
        until_us: u64,
    ) -> Asked {
        Asked {
            request,
            asker: Asker::new(reply_to),
            is_forwarded,
            known_below: None,
            until_us,
        }
    }

    /// A leader is asked; `below` is the incarnation that the next stream would have, by what is applied here.
    pub(super) fn is_sent(&mut self, below: Incarnation) {
        self.known_below.get_or_insert(below);
    }

    /// The leader that was asked last certainly did nothing.
    pub(super) fn not_done(&mut self) {
        if !self.asker.in_doubt {
            self.known_below = None;
        }
    }

    /// A leader that was asked may have done it, to the stream of that time or one that came since. A stream that was there before
    /// it was asked knows from its producers whether it was done; one that has begun since must not take it: it may be done to the
    /// one before.
    pub(super) fn doubt(&mut self) {
        self.asker.doubt();
        if let Op::Append(append) = &mut self.request.op {
            append.incarnation_below = self.known_below;
        }
    }
}

/// Refuses all who wait.
pub(super) fn refuse(
    askers: impl IntoIterator<Item = Option<Asker>>,
    refusal: &Refusal,
    effects: &mut Vec<Effect>,
) {
    for asker in askers.into_iter().flatten() {
        asker.answer(Outcome::Refused(refusal.clone()), effects);
    }
}
