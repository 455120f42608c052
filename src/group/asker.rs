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
            until_us,
        }
    }

    /// What a leader is asked. If that may be sent again, it names the streams that it is for: those that this node has heard of,
    /// whose next one has the incarnation `below`. Each of them knows from its producers what it has done; one that begins later
    /// knows nothing of that, and must not take it, whichever sending comes last. In doubt it is for the streams of the sending that
    /// may be done.
    pub(super) fn sending(&mut self, below: Incarnation) -> Request {
        if self.asker.in_doubt {
            return self.request.clone();
        }
        let unnamed =
            mutation::is_on("first-sending-names-no-streams").then(|| self.request.clone());
        if let Op::Append(append) = &mut self.request.op
            && append.producer.is_some()
        {
            append.incarnation_below = Some(below);
        }
        unnamed.unwrap_or_else(|| self.request.clone())
    }

    /// The leader that was asked last certainly did nothing: unless one before it may have, it is for any stream.
    pub(super) fn not_done(&mut self) {
        if let Op::Append(append) = &mut self.request.op
            && !self.asker.in_doubt
        {
            append.incarnation_below = None;
        }
    }

    /// A leader that was asked may have done it.
    pub(super) fn doubt(&mut self) {
        self.asker.doubt();
    }

    /// Whether a leader that was asked may have done it.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.asker.in_doubt
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
