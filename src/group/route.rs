//! Who answers a request: this replica if it leads, its leader if not. Reads that are not of writes are answered from
//! this replica's own state once the leader has said up to where that must be applied.
//! Owns the requests that wait for a leader and those that are under way to one. Invariants: every request is answered
//! once; one that may have been proposed elsewhere is sent again only where a producer makes that safe.

use std::collections::{BTreeMap, VecDeque};

use super::asker::{Asked, Asker, refuse};
use super::batch::{Pending, command_of, is_command};
use super::peer::node_of;
use super::{Effect, Group, ReplyTo};
use crate::mutation;
use crate::protocol::{GroupTarget, Incarnation, Op, Outcome, Refusal, Request, StreamKey};

/// How long a request waits for a leader, and for a leader's answer, in microseconds.
const PATIENCE_US: u64 = 5_000_000;

/// What a long body has to be carried at in all, to the leader and to a majority's disks, in bytes per millisecond: a request
/// waits for so much longer.
const BODY_BYTES_PER_MS: u64 = 8_000;

/// Where nobody has led for so long, an election has failed and the next may too: who comes then is told soon to come back, and
/// may find another node that is not cut off.
const ELECTION_PATIENCE_US: u64 = 3_000_000;

/// How long a request waits all the same.
const SHORT_PATIENCE_US: u64 = 500_000;

/// Requests of one group that wait for a leader.
pub(super) const HELD_MAX: usize = 4096;

/// A question to the leader.
#[derive(Debug)]
struct Underway {
    /// `None`: nobody waits for the answer.
    asked: Option<Asked>,
    node: u64,
    /// The leader only confirms; the answer is this replica's.
    is_confirmation: bool,
}

/// See the module's head.
#[derive(Default)]
pub(super) struct Waiting {
    /// Without a leader.
    held: VecDeque<Asked>,
    /// Since when requests have found none.
    leaderless_since_us: Option<u64>,
    underway: BTreeMap<u64, Underway>,
    next_token: u64,
    /// Confirmed reads that wait until their index is applied.
    confirmed: BTreeMap<u64, Vec<Asked>>,
    /// The streams that leaders have named have incarnations below this.
    named_below: Incarnation,
}

impl Waiting {
    /// The answer to a question of an earlier process of this node may come to this one: `seed` makes that its number is
    /// none of this one's.
    pub(super) fn starting_at(seed: u64) -> Waiting {
        Waiting {
            next_token: if mutation::is_on("question-numbers-begin-again") {
                0
            } else {
                seed
            },
            ..Waiting::default()
        }
    }

    fn token(&mut self) -> u64 {
        self.next_token = self.next_token.wrapping_add(1);
        self.next_token
    }

    /// How many wait for an answer.
    pub(super) fn count(&self) -> usize {
        let asked = self.underway.values().filter(|u| u.asked.is_some());
        let confirmed = self.confirmed.values().map(Vec::len);
        self.held.len() + asked.count() + confirmed.sum::<usize>()
    }

    /// How many wait for a leader.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.underway.is_empty() && self.confirmed.is_empty()
    }
}

impl Group {
    pub(super) fn on_request(
        &mut self,
        request: Request,
        reply_to: ReplyTo,
        is_forwarded: bool,
        effects: &mut Vec<Effect>,
    ) {
        let patience_us = PATIENCE_US + carrying_us(body_bytes(&request));
        let until_us = self.now.monotonic_us + patience_us;
        let asked = Asked::new(request, reply_to, is_forwarded, until_us);
        self.dispatch(asked, effects);
    }

    pub(super) fn dispatch(&mut self, asked: Asked, effects: &mut Vec<Effect>) {
        if self.trouble.is_some() {
            return self.pass_on(asked, effects);
        }
        if !self.raft.is_leader() || self.installing.is_some() {
            if asked.is_forwarded {
                let node = node_of(self.raft.leader());
                refuse_one(asked.asker, Refusal::NotLeader { node }, effects);
                return;
            }
            return self.follow(asked, effects);
        }
        if !self.is_ready || self.raft.is_transferring() || self.keeps_handing_over() {
            return self.hold(asked, effects);
        }
        if is_command(&asked.request.op) {
            return self.command(asked, effects);
        }
        if matches!(asked.request.op, Op::Watch { .. } | Op::Unwatch { .. }) {
            self.answer_here(asked, effects);
        } else if self.leads_for_certain() {
            // Not what is applied: the others can have committed and shown what this leader's own disk has not yet.
            let index = if mutation::is_on("lease-reads-applied") {
                self.applied.index
            } else {
                self.raft.commit()
            };
            self.answer_at(index, asked, effects);
        } else {
            self.confirm_by_round(asked);
        }
    }

    /// Bytes of what is to be proposed, or is and not applied.
    pub(super) fn uncommitted_now(&self) -> u64 {
        self.uncommitted_bytes + self.pending.bytes()
    }

    /// Nothing more is to be proposed for now.
    pub(super) fn is_above_uncommitted_max(&self) -> bool {
        self.uncommitted_now() > self.raft.settings().uncommitted_bytes_max
    }

    fn command(&mut self, asked: Asked, effects: &mut Vec<Effect>) {
        let waits = mutation::is_on("slowest-replica-waited-for")
            && self
                .raft
                .replicas()
                .iter()
                .any(|r| r.matched + 8 < self.last_index());
        if waits || self.is_above_uncommitted_max() && !mutation::is_on("proposals-unbounded") {
            let bound = "uncommitted_bytes_max";
            return refuse_one(asked.asker, Refusal::Overloaded { bound }, effects);
        }
        if let Some(refusal) = self.refuse_early(&asked.request) {
            return refuse_one(asked.asker, refusal, effects);
        }
        if let Ok(mut kind) = command_of(asked.request) {
            self.make_older(&mut kind);
            if self.is_too_new(&kind) {
                return refuse_one(asked.asker, Refusal::Unavailable, effects);
            }
            self.pending.push(kind, Some(asked.asker));
        }
    }

    /// A request that came to a replica which takes no part: its own state says nothing that can be relied on. The leader
    /// does what it can be sent; a reader comes back, or goes to another node.
    fn pass_on(&mut self, asked: Asked, effects: &mut Vec<Effect>) {
        if matches!(asked.request.op, Op::Unwatch { .. }) {
            return self.answer_here(asked, effects);
        }
        let leader = node_of(self.heard_leader.1);
        if asked.is_forwarded {
            return refuse_one(asked.asker, Refusal::NotLeader { node: leader }, effects);
        }
        if leader == 0 || leader == node_of(self.raft.id()) || !is_command(&asked.request.op) {
            return refuse_one(asked.asker, Refusal::Unavailable, effects);
        }
        self.ask_leader(leader, asked, false, effects);
    }

    /// Answers from the applied state.
    pub(super) fn answer_here(&mut self, asked: Asked, effects: &mut Vec<Effect>) {
        let outcome = self.answer(key_of(&asked.request), asked.request.op);
        asked.asker.answer(outcome, effects);
    }

    /// A request that came to a replica which does not lead.
    fn follow(&mut self, asked: Asked, effects: &mut Vec<Effect>) {
        if self.installing.is_none() && self.answers_without_leader(&asked.request) {
            let outcome = self.answer(key_of(&asked.request), asked.request.op.clone());
            let is_known = match (&outcome, &asked.request.op) {
                (Outcome::Refused(_), Op::Unwatch { .. }) => true,
                (Outcome::Refused(_), _) => false,
                // Up to the tail, or up to date, only the leader knows.
                (Outcome::Read(plan), Op::Read(read)) => read.is_live || plan.end < plan.meta.tail,
                _ => true,
            };
            if is_known {
                return asked.asker.answer(outcome, effects);
            }
        }
        let leader = node_of(self.raft.leader());
        if leader == 0 || self.raft.is_leader() || self.installing.is_some() {
            return self.hold(asked, effects);
        }
        let is_confirmation = !is_command(&asked.request.op);
        self.ask_leader(leader, asked, is_confirmation, effects);
    }

    /// Whether a replica may try to answer by itself.
    fn answers_without_leader(&self, request: &Request) -> bool {
        match &request.op {
            Op::Watch { .. } | Op::Unwatch { .. } | Op::ReadInherited { .. } => true,
            Op::Read(read) => read.from != crate::protocol::ReadFrom::Now,
            _ => false,
        }
    }

    fn ask_leader(
        &mut self,
        node: u64,
        mut asked: Asked,
        is_confirmation: bool,
        effects: &mut Vec<Effect>,
    ) {
        let request = if is_confirmation {
            confirmation_of(&asked.request)
        } else {
            let next = self.machine.next_incarnation();
            asked.sending(next.max(self.waiting.named_below))
        };
        self.forward(node, request, Some(asked), is_confirmation, effects);
    }

    fn forward(
        &mut self,
        node: u64,
        request: Request,
        asked: Option<Asked>,
        is_confirmation: bool,
        effects: &mut Vec<Effect>,
    ) {
        // What is never answered is given up by ticks.
        self.wake();
        let token = self.waiting.token();
        let underway = Underway {
            asked,
            node,
            is_confirmation,
        };
        self.waiting.underway.insert(token, underway);
        effects.push(Effect::Forward {
            node,
            token,
            request,
        });
    }

    /// Tells the leader of a stream that is read here, so that its window slides.
    pub(super) fn forward_touches(&mut self, effects: &mut Vec<Effect>) {
        let leader = node_of(self.raft.leader());
        for key in std::mem::take(&mut self.touches) {
            if leader != 0 && !self.raft.is_leader() {
                let op = Op::Confirm {
                    visible: true,
                    slides: true,
                };
                self.forward(leader, Request::on_key(key, op), None, true, effects);
            }
        }
    }

    fn hold(&mut self, mut asked: Asked, effects: &mut Vec<Effect>) {
        if self.waiting.held.len() >= HELD_MAX {
            let bound = "requests_without_leader";
            return refuse_one(asked.asker, Refusal::Overloaded { bound }, effects);
        }
        self.wake();
        if self.raft.leader() == 0 {
            let now_us = self.now.monotonic_us;
            let since_us = *self.waiting.leaderless_since_us.get_or_insert(now_us);
            let until_us = (since_us + ELECTION_PATIENCE_US).max(now_us + SHORT_PATIENCE_US);
            asked.until_us = asked.until_us.min(until_us);
        }
        self.waiting.held.push_back(asked);
    }

    /// The leader has answered, or refused.
    pub(super) fn on_forward_reply(
        &mut self,
        token: u64,
        outcome: Outcome,
        effects: &mut Vec<Effect>,
    ) {
        let Some(underway) = self.waiting.underway.remove(&token) else {
            return;
        };
        let Some(mut asked) = underway.asked else {
            return;
        };
        let is_safe = underway.is_confirmation || is_repeatable(&asked.request);
        match outcome {
            Outcome::Confirmed { index } if underway.is_confirmation => {
                self.answer_at(index, asked, effects);
            }
            // This time certainly not done.
            Outcome::Refused(Refusal::NotLeader { .. } | Refusal::Unavailable) => {
                asked.not_done();
                self.ask_again(underway.node, asked, effects);
            }
            // Nor this time: by a stream that this node had not heard of, or that has begun while it was under way.
            Outcome::Refused(Refusal::BegunSince { incarnation }) if !asked.is_in_doubt() => {
                let below = Incarnation(incarnation.0.saturating_add(1));
                self.waiting.named_below = self.waiting.named_below.max(below);
                asked.not_done();
                self.ask_on(asked, effects);
            }
            Outcome::Refused(Refusal::OutcomeUnknown) if is_safe => {
                if !underway.is_confirmation {
                    asked.doubt();
                }
                self.ask_again(underway.node, asked, effects);
            }
            outcome => asked.asker.answer(outcome, effects),
        }
    }

    /// What is certainly not done, and has now something else to say, is asked at once.
    fn ask_on(&mut self, asked: Asked, effects: &mut Vec<Effect>) {
        if asked.until_us > self.now.monotonic_us {
            self.dispatch(asked, effects);
        } else {
            refuse_one(asked.asker, Refusal::Unavailable, effects);
        }
    }

    /// What was asked of a node in vain: if another one leads by now, it is asked at once. Else it waits for a leader, or for
    /// the next tick.
    fn ask_again(&mut self, asked_before: u64, asked: Asked, effects: &mut Vec<Effect>) {
        let leader = node_of(self.raft.leader());
        let is_other = leader != 0 && leader != asked_before;
        if is_other && asked.until_us > self.now.monotonic_us {
            self.dispatch(asked, effects);
        } else {
            self.hold(asked, effects);
        }
    }

    /// Answers from the own state once `index` is applied. A fetched state names packs that are not in their place
    /// before it is installed.
    pub(super) fn answer_at(&mut self, index: u64, asked: Asked, effects: &mut Vec<Effect>) {
        if self.applied.index >= index && self.installing.is_none() {
            self.answer_here(asked, effects);
        } else {
            self.waiting.confirmed.entry(index).or_default().push(asked);
        }
    }

    /// Answers the confirmed reads whose index is applied by now.
    pub(super) fn answer_confirmed(&mut self, effects: &mut Vec<Effect>) {
        while self.installing.is_none()
            && let Some(first) = self.waiting.confirmed.first_entry()
        {
            if *first.key() > self.applied.index {
                return;
            }
            for asked in first.remove() {
                self.answer_here(asked, effects);
            }
        }
    }

    /// What was sent to a node and not answered may be done or not.
    pub(super) fn lose_answers_of(&mut self, node: u64, effects: &mut Vec<Effect>) {
        let tokens: Vec<u64> = self
            .waiting
            .underway
            .iter()
            .filter(|(_, u)| u.node == node)
            .map(|(token, _)| *token)
            .collect();
        for token in tokens {
            let outcome = Outcome::Refused(Refusal::OutcomeUnknown);
            self.on_forward_reply(token, outcome, effects);
        }
    }

    /// A request could not be sent: certainly not done.
    pub(super) fn not_sent(&mut self, token: u64, effects: &mut Vec<Effect>) {
        self.on_forward_reply(token, Outcome::Refused(Refusal::Unavailable), effects);
    }

    /// Another leader, or a tick: what waited for one is tried again, and what waited too long is refused.
    pub(super) fn retry_held(&mut self, effects: &mut Vec<Effect>) {
        let now_us = self.now.monotonic_us;
        if self.raft.leader() != 0 {
            self.waiting.leaderless_since_us = None;
        }
        for asked in std::mem::take(&mut self.waiting.held) {
            if asked.until_us <= now_us && !mutation::is_on("held-for-ever") {
                refuse_one(asked.asker, Refusal::Unavailable, effects);
            } else {
                self.dispatch(asked, effects);
            }
        }
    }

    /// Gives up what was under way for too long.
    pub(super) fn give_up_late(&mut self, effects: &mut Vec<Effect>) {
        let now_us = self.now.monotonic_us;
        let is_late = |_: &u64, u: &mut Underway| {
            u.asked
                .as_ref()
                .is_none_or(|asked| asked.until_us <= now_us)
        };
        let late: Vec<Underway> = self
            .waiting
            .underway
            .extract_if(.., is_late)
            .map(|(_, underway)| underway)
            .collect();
        for underway in late {
            let refusal = if underway.is_confirmation {
                Refusal::Unavailable
            } else {
                Refusal::OutcomeUnknown
            };
            refuse(underway.asked.map(|a| Some(a.asker)), &refusal, effects);
        }
        for late in self.waiting.confirmed.values_mut() {
            for asked in late.extract_if(.., |asked| asked.until_us <= now_us) {
                refuse_one(asked.asker, Refusal::Unavailable, effects);
            }
        }
        self.waiting.confirmed.retain(|_, asked| !asked.is_empty());
    }

    /// The commands that were not proposed yet are refused: here they were not done.
    pub(super) fn refuse_pending(&mut self, effects: &mut Vec<Effect>) {
        refuse(self.pending.take_all(), &Refusal::Unavailable, effects);
        self.pending = Pending::default();
    }
}

/// How much longer what has so many bytes is waited for, in microseconds.
pub(super) fn carrying_us(body_bytes: u64) -> u64 {
    body_bytes / BODY_BYTES_PER_MS * 1000
}

fn body_bytes(request: &Request) -> u64 {
    match &request.op {
        Op::Append(append) => append.body.len() as u64,
        Op::Create(create) => create.body.len() as u64,
        _ => 0,
    }
}

fn refuse_one(asker: Asker, refusal: Refusal, effects: &mut Vec<Effect>) {
    asker.answer(Outcome::Refused(refusal), effects);
}

fn key_of(request: &Request) -> Option<StreamKey> {
    match &request.target {
        GroupTarget::Key(key) => Some(key.clone()),
        GroupTarget::Meta | GroupTarget::Group(_) => None,
    }
}

/// Done twice it has the effect and the answer of once.
fn is_repeatable(request: &Request) -> bool {
    match &request.op {
        Op::Append(append) => append.producer.is_some() || mutation::is_on("unknown-sent-again"),
        op => !is_command(op),
    }
}

/// What the leader is asked so that a replica may answer this read.
fn confirmation_of(request: &Request) -> Request {
    let op = Op::Confirm {
        visible: matches!(request.op, Op::Head | Op::Read(_) | Op::Watch { .. }),
        slides: matches!(request.op, Op::Read(_) | Op::Watch { .. }),
    };
    Request {
        target: request.target.clone(),
        op,
    }
}
