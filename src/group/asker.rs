//! Who waits for an answer, and whether it may say that nothing was done.
//! Invariant: what a leader was asked before, and whose answer is lost, is never answered as certainly not done, whoever
//! refuses it in the end: the stream may have ended since the first time it was asked, and taken what was appended with it.

use super::{Effect, ReplyTo};
use crate::mutation;
use crate::protocol::{Outcome, Refusal};

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
    pub(super) fn doubt(&mut self) {
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
