//! What the model says of a command, and what its client was told, in one form that can be compared.

use ursula::protocol::{Outcome, Refusal};

/// What an outcome comes to, as far as a command's client may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Fresh, incarnation, tail, closed.
    Created(bool, u64, u64, bool),
    /// Tail, closed, duplicate, the producer's epoch and sequence.
    Appended(u64, bool, bool, Option<(u64, u64)>),
    /// A deletion.
    Done,
    /// The members: raft ids, and whether they are drained.
    Members(Vec<(u64, bool)>),
    /// Nothing was changed.
    Refused(Refusal),
}

impl Verdict {
    /// Bytes were appended by this very command.
    pub fn is_append(&self) -> bool {
        matches!(self, Verdict::Appended(_, _, false, _))
    }

    /// What a client was told; `None` for reads.
    pub fn of(outcome: &Outcome) -> Option<Verdict> {
        Some(match outcome {
            Outcome::Created(c) => {
                let meta = &c.meta;
                Verdict::Created(c.fresh, meta.incarnation.0, meta.tail.0, meta.closed)
            }
            Outcome::Appended {
                tail,
                closed,
                duplicate,
                producer,
            } => {
                let producer = producer.map(|p| (p.epoch, p.seq));
                Verdict::Appended(tail.0, *closed, *duplicate, producer)
            }
            Outcome::Done => Verdict::Done,
            Outcome::Members(members) => {
                let members = members.iter().map(|m| (m.raft_id, m.drained));
                Verdict::Members(members.collect())
            }
            // Its text is for the operator.
            Outcome::Refused(Refusal::BadMembers(_)) => {
                Verdict::Refused(Refusal::BadMembers(String::new()))
            }
            Outcome::Refused(refusal) => Verdict::Refused(refusal.clone()),
            _ => return None,
        })
    }
}
