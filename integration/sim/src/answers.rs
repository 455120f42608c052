//! Answers on their way from a group to who waits for them, and what clients were told.

use ursula::group::ReplyTo;
use ursula::protocol::{Outcome, Refusal};
use ursula::wire;

use crate::event::Packet;
use crate::history::{Op, What};
use crate::node::Waiting;
use crate::world::{World, life_of};

impl World {
    /// A group answers.
    pub fn reply(&mut self, node: u64, reply_to: ReplyTo, outcome: Outcome) {
        match self.node(node).process.waiting.remove(&reply_to.0) {
            None => self.find(format!(
                "node {node} answers {reply_to:?} twice: {outcome:?}"
            )),
            Some(Waiting::Node(asker, group, token, _)) => {
                match outcome {
                    Outcome::Refused(Refusal::NotLeader { .. }) => {
                        self.coverage.hit("not the leader any more");
                    }
                    Outcome::Refused(Refusal::BegunSince { .. }) => {
                        self.coverage.hit("a stream that has begun since");
                    }
                    _ => {}
                }
                // By the link to whatever process is there now.
                let bytes = wire::encode_outcome(&outcome);
                if life_of(self, asker.node) != asker {
                    self.coverage.hit("answer for a process that is gone");
                }
                self.by_link(node, asker.node, Packet::Reply(group, token, bytes));
            }
            Some(Waiting::Task(task)) => self.task_answered(node, task, outcome),
            Some(Waiting::Client(op)) => self.reply_to_client(node, op, &outcome),
        }
    }

    /// Answers a client's operation, a read once its bytes are there.
    pub fn reply_to_client(&mut self, node: u64, op: u64, outcome: &Outcome) {
        let Some(op) = self.operations.remove(&op) else {
            return self.find(format!("node {node} answers operation {op} twice"));
        };
        if let Outcome::Watched(watched) = outcome {
            self.follow(node, &op, &watched.meta);
        }
        if matches!(outcome, Outcome::Read(_)) {
            return self.begin_reading(node, op, outcome.clone());
        }
        self.answer_client(&op, outcome, None);
    }

    /// The client has its answer, and a read its bytes.
    pub fn answer_client(&mut self, op: &Op, outcome: &Outcome, read: Option<&[u8]>) {
        self.answered += 1;
        self.trace.show(self.now_us, || {
            format!("client {} is told #{} {outcome:?}", op.client, op.id)
        });
        self.count_answer(&op.what, op.call_us, outcome);
        self.look_at_stall(op, outcome);
        self.ledger.answered(op, outcome, read);
        self.client_answered(op, Some(outcome));
    }

    fn count_answer(&mut self, what: &What, call_us: u64, outcome: &Outcome) {
        let is_late = self.now_us > call_us + 500;
        let path = match (outcome, what) {
            (Outcome::Refused(Refusal::OutcomeUnknown), _) => "outcome unknown",
            (Outcome::Refused(Refusal::Unavailable), _) => "unavailable",
            (Outcome::Refused(Refusal::NotFound), _) => "not found",
            (Outcome::Refused(Refusal::Closed { .. }), _) => "closed",
            (Outcome::Refused(Refusal::Gone), _) => "gone",
            (Outcome::Refused(Refusal::OffsetExpired { .. }), _) => "read below the floor",
            (Outcome::Done, What::Trim { .. }) => "trimmed",
            (Outcome::Watched(_), _) => "a stream followed",
            (Outcome::Refused(Refusal::StaleEpoch { .. }), _) => "stale epoch",
            (Outcome::Refused(Refusal::ProducerGap { .. }), _) => "producer gap",
            (Outcome::Refused(Refusal::BadMembers(_)), _) => "an order refused",
            (Outcome::Refused(Refusal::SeqRegression { .. }), _) => "append out of its order",
            (Outcome::Refused(Refusal::Overloaded { .. }), _) => "overloaded",
            (Outcome::Refused(Refusal::BytesSought { .. }), _) => "damaged bytes are looked for",
            (Outcome::Refused(Refusal::BytesLost { .. }), _) => "damaged bytes are lost",
            (Outcome::Refused(_), _) => "another refusal",
            (
                Outcome::Appended {
                    duplicate: true, ..
                },
                _,
            ) => "producer duplicate",
            (Outcome::Read(_), What::Read { is_live: true, .. }) => "live read",
            (Outcome::Read(p), _) if p.end < p.meta.tail => "partial read",
            (Outcome::Read(_), _) if is_late => "read after a round or a confirmation",
            (Outcome::Read(_), _) => "read at once",
            _ => return,
        };
        self.coverage.hit(path);
    }
}
