//! The model: one stream on one server, as the protocol describes it.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::positions::Positions;
use crate::history::{Call, Message, Outcome, Producer};

/// Whether the stream is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Status {
    Absent,
    Open,
    Closed,
}

/// The state of the model. Equal states are equal values: lists of messages are shared (`Lists`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct State {
    pub status: Status,
    /// The list of messages.
    pub list: usize,
    /// Epoch and last accepted sequence of each producer.
    pub producers: Rc<BTreeMap<u32, (u64, u64)>>,
}

impl State {
    /// No stream.
    pub fn absent() -> State {
        State {
            status: Status::Absent,
            list: Lists::EMPTY,
            producers: Rc::default(),
        }
    }
}

/// All lists of messages that occur; a list is its last message and the list before it.
pub(super) struct Lists<'a> {
    nodes: Vec<(usize, Message, u64)>,
    known: BTreeMap<(usize, Message), usize>,
    length: &'a dyn Fn(Message) -> u64,
}

impl<'a> Lists<'a> {
    pub const EMPTY: usize = 0;

    pub fn new(length: &'a dyn Fn(Message) -> u64) -> Lists<'a> {
        Lists {
            nodes: vec![(0, 0, 0)],
            known: BTreeMap::new(),
            length,
        }
    }

    /// The position after a list.
    pub fn tail(&self, list: usize) -> u64 {
        self.nodes[list].2
    }

    fn push(&mut self, list: usize, message: Message) -> usize {
        let fresh = self.nodes.len();
        let found = *self.known.entry((list, message)).or_insert(fresh);
        if found == fresh {
            let tail = self.tail(list) + (self.length)(message);
            self.nodes.push((list, message, tail));
        }
        found
    }

    /// Whether the list has exactly `messages` from `from` to `next`.
    fn shows(&self, mut list: usize, from: u64, next: u64, messages: &[Message]) -> bool {
        while self.tail(list) > next {
            list = self.nodes[list].0;
        }
        if self.tail(list) != next {
            return false;
        }
        for message in messages.iter().rev() {
            if list == Lists::EMPTY || self.nodes[list].1 != *message {
                return false;
            }
            list = self.nodes[list].0;
        }
        self.tail(list) == from
    }

    /// Whether this answer changes nothing, and is right in this state.
    pub fn agrees(&self, state: &State, call: &Call, outcome: &Outcome) -> bool {
        let tail = self.tail(state.list);
        let is_there = state.status != Status::Absent;
        let is_closed = state.status == Status::Closed;
        match (call, outcome) {
            (_, Outcome::Missing) => !is_there,
            (_, Outcome::Existed) => state.status == Status::Open,
            (_, Outcome::Conflict) => is_closed,
            (_, Outcome::IsClosed { tail: told }) => is_closed && tail == *told,
            (Call::Close, Outcome::Closed { tail: told }) => is_closed && tail == *told,
            (_, Outcome::Tail { tail: told, closed }) => {
                is_there && is_closed == *closed && tail == *told
            }
            (Call::Read { from, .. }, Outcome::Beyond) => is_there && *from > tail,
            (
                Call::Read { from, exact },
                Outcome::Content {
                    messages,
                    next,
                    up_to_date,
                    closed,
                },
            ) => {
                let is_whole = tail == *next;
                is_there
                    && *next <= tail
                    && (!*closed || (is_closed && is_whole))
                    && (!(*exact && *up_to_date) || (is_whole && is_closed == *closed))
                    && self.shows(state.list, *from, *next, messages)
            }
            (
                Call::Append {
                    producer: Some(p), ..
                },
                Outcome::Duplicate { end },
            ) => {
                // A closed stream knows a retry too; an answer may name any position between the append and the tail.
                is_there && has_taken(state, p) && *end <= tail
            }
            (
                Call::Append {
                    producer: Some(p), ..
                },
                Outcome::Gap { expected },
            ) => {
                state.status == Status::Open && next_seq(state, p) == *expected && p.seq > *expected
            }
            _ => false,
        }
    }

    /// The state after an operation that changes something, if it can happen in this state with this answer.
    pub fn apply(
        &mut self,
        state: &State,
        call: &Call,
        outcome: &Outcome,
        positions: &Positions,
    ) -> Option<State> {
        let tail = self.tail(state.list);
        let is_unknown = *outcome == Outcome::Unknown;
        match call {
            Call::Create if state.status == Status::Absent => {
                (is_unknown || *outcome == Outcome::Created).then(|| State {
                    status: Status::Open,
                    ..State::absent()
                })
            }
            Call::Delete if state.status != Status::Absent => {
                (is_unknown || *outcome == Outcome::Deleted).then(State::absent)
            }
            Call::Close if state.status == Status::Open => {
                (is_unknown || *outcome == Outcome::Closed { tail }).then(|| State {
                    status: Status::Closed,
                    ..state.clone()
                })
            }
            Call::Append { messages, producer } if state.status == Status::Open => {
                let whole: u64 = messages.iter().map(|m| (self.length)(*m)).sum();
                let first = messages.first()?;
                let fits = match positions.starts.get(first) {
                    Some(starts) if starts.contains(&tail) => true,
                    Some(_) if !positions.again.contains(first) => false,
                    _ => tail + whole <= positions.end,
                };
                let is_right = is_unknown || *outcome == Outcome::Appended { end: tail + whole };
                let is_next = producer.as_ref().is_none_or(|p| is_next(state, p));
                if !(fits && is_right && is_next) {
                    return None;
                }
                let mut after = state.clone();
                for message in messages {
                    after.list = self.push(after.list, *message);
                }
                if let Some(p) = producer {
                    Rc::make_mut(&mut after.producers).insert(p.id, (p.epoch, p.seq));
                }
                Some(after)
            }
            _ => None,
        }
    }
}

fn has_taken(state: &State, producer: &Producer) -> bool {
    let last = state.producers.get(&producer.id);
    last.is_some_and(|(epoch, seq)| producer.epoch == *epoch && producer.seq <= *seq)
}

fn next_seq(state: &State, producer: &Producer) -> u64 {
    match state.producers.get(&producer.id) {
        Some((epoch, seq)) if *epoch == producer.epoch => seq + 1,
        _ => 0,
    }
}

fn is_next(state: &State, producer: &Producer) -> bool {
    match state.producers.get(&producer.id) {
        Some((epoch, seq)) if producer.epoch == *epoch => producer.seq == seq + 1,
        Some((epoch, _)) => producer.epoch > *epoch && producer.seq == 0,
        None => producer.seq == 0,
    }
}
