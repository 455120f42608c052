//! Histories made by a server of ten lines, each operation at a random moment between its call and its answer: all must
//! pass. The same with one answer changed to something that can be seen to be wrong: none may.

use super::*;
use crate::history::{Call, Outcome, Producer};
use crate::random::Random;

fn length(message: Message) -> u64 {
    10 + u64::from(message % 7)
}

/// The server, as simple as can be.
#[derive(Default)]
struct Simple {
    is_there: bool,
    closed: bool,
    content: Vec<Message>,
    next_seq: [u64; 4],
}

impl Simple {
    fn tail(&self) -> u64 {
        self.content.iter().map(|m| length(*m)).sum()
    }

    fn answer(&mut self, call: &Call) -> Outcome {
        if !self.is_there {
            if *call != Call::Create {
                return Outcome::Missing;
            }
            *self = Simple {
                is_there: true,
                ..Simple::default()
            };
            return Outcome::Created;
        }
        match call {
            Call::Create if self.closed => Outcome::Conflict,
            Call::Create => Outcome::Existed,
            Call::Append { messages, producer } => {
                if let Some(p) = producer {
                    let next = &mut self.next_seq[p.id as usize];
                    if p.seq < *next {
                        return Outcome::Duplicate { end: self.tail() };
                    }
                    if !self.closed {
                        if p.seq > *next {
                            return Outcome::Gap { expected: *next };
                        }
                        *next += 1;
                    }
                }
                if self.closed {
                    return Outcome::IsClosed { tail: self.tail() };
                }
                self.content.extend(messages);
                Outcome::Appended { end: self.tail() }
            }
            Call::Read { from, .. } => {
                let (mut at, mut messages) = (0, Vec::new());
                for message in &self.content {
                    if at >= *from {
                        messages.push(*message);
                    }
                    at += length(*message);
                }
                Outcome::Content {
                    messages,
                    next: at,
                    up_to_date: true,
                    closed: self.closed,
                }
            }
            Call::Head => Outcome::Tail {
                tail: self.tail(),
                closed: self.closed,
            },
            Call::Close => {
                self.closed = true;
                Outcome::Closed { tail: self.tail() }
            }
            Call::Delete => {
                self.is_there = false;
                Outcome::Deleted
            }
        }
    }
}

/// A history of `count` operations, about eight at a time.
fn history(seed: u64, count: u64, may_delete: bool) -> Vec<Operation> {
    let mut random = Random::new(seed);
    let mut server = Simple::default();
    let mut operations = Vec::new();
    let mut seqs = [0; 4];
    let mut message = 0;
    for turn in 0..count {
        let mut resent = false;
        let call = match random.below(100) {
            _ if turn == 0 => Call::Create,
            0..40 => {
                let count = 1 + random.below(3) as u32;
                message += count;
                Call::Append {
                    messages: (message - count..message).collect(),
                    producer: None,
                }
            }
            40..60 => {
                let id = random.below(4) as usize;
                message += 1;
                let seq = seqs[id];
                seqs[id] += 1;
                resent = true;
                Call::Append {
                    messages: vec![message - 1],
                    producer: Some(Producer {
                        id: id as u32,
                        epoch: 0,
                        seq,
                    }),
                }
            }
            60..75 => {
                let before = random.below(server.content.len() as u64 + 1) as usize;
                let from = server.content[..before].iter().map(|m| length(*m)).sum();
                Call::Read { from, exact: true }
            }
            75..95 => Call::Head,
            95..97 if may_delete => Call::Create,
            97 if may_delete => Call::Delete,
            98 if turn > count * 9 / 10 || may_delete => Call::Close,
            _ => Call::Read {
                from: 0,
                exact: true,
            },
        };
        let moment = 1000 * (turn + 1);
        let mut note = |random: &mut Random, moment: u64, outcome: Outcome| {
            let is_unknown = outcome == Outcome::Unknown;
            operations.push(Operation {
                client: turn as u32,
                node: 0,
                invoked: moment.saturating_sub(random.below(4000)),
                returned: (!is_unknown).then(|| moment + random.below(4000)),
                call: call.clone(),
                outcome,
            });
        };
        let answer = server.answer(&call);
        // Some answers are lost; producers ask again.
        let one_in = match call {
            Call::Create | Call::Delete => 3,
            _ => 20,
        };
        if turn > 0 && random.below(one_in) == 0 {
            note(&mut random, moment, Outcome::Unknown);
            if resent {
                let again = server.answer(&call);
                note(&mut random, moment + 500, again);
            }
        } else {
            note(&mut random, moment, answer);
        }
    }
    let end = 1000 * (count + 10);
    let call = Call::Read {
        from: 0,
        exact: true,
    };
    operations.push(Operation {
        client: 0,
        node: 0,
        invoked: end,
        returned: Some(end + 1),
        outcome: server.answer(&call),
        call,
    });
    operations
}

#[test]
fn random_histories_of_a_right_server_pass() {
    for seed in 0..200 {
        let operations = history(seed, 200, seed % 2 == 0);
        if let Err(violation) = check(&operations, &length) {
            panic!("seed {seed}: {violation}");
        }
    }
}

#[test]
fn thousands_of_operations_take_seconds() {
    let began = std::time::Instant::now();
    let operations = history(1, 5000, false);
    let checked = check(&operations, &length).expect("a right server");
    println!("{checked:?} in {:?}", began.elapsed());
    assert!(checked.messages > 2000, "{checked:?}");
    assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
}

/// Changes one answer so that it is wrong; false if this history has no place for it.
fn spoil(operations: &mut [Operation], way: u64, random: &mut Random) -> bool {
    let last = operations.len() - 1;
    let at = random.below(last as u64) as usize;
    // Far behind all that was under way when it was called: nothing excuses it.
    let late = operations[last].invoked - 1000;
    let whole = operations[last].outcome.clone();
    let Outcome::Content { .. } = &whole else {
        return false;
    };
    let operation = &mut operations[at];
    match (&mut operation.outcome, way) {
        (
            Outcome::Tail {
                tail,
                closed: false,
            },
            0,
        ) => {
            let is_stale = whole_end(&whole) > *tail;
            (operation.invoked, operation.returned) = (late, Some(late + 1));
            is_stale
        }
        (Outcome::Content { messages, next, .. }, 1) => match messages.pop() {
            Some(message) => {
                *next -= length(message);
                (operation.invoked, operation.returned) = (late, Some(late + 1));
                true
            }
            None => false,
        },
        (Outcome::Content { messages, next, .. }, 2) if messages.len() > 2 => {
            let lost = messages.remove(messages.len() / 2);
            *next -= length(lost);
            true
        }
        (Outcome::Content { messages, next, .. }, 3) if !messages.is_empty() => {
            let doubled = messages[0];
            messages.push(doubled);
            *next += length(doubled);
            true
        }
        (Outcome::Content { messages, .. }, 4) if messages.len() > 1 => {
            messages.swap(0, 1);
            true
        }
        (Outcome::Appended { end }, 5) => {
            *end += 1;
            true
        }
        (Outcome::Appended { .. }, 6) => {
            // Acknowledged after the last read, and not in it: so it was never there.
            let Call::Append { messages, producer } = &mut operation.call else {
                return false;
            };
            (*messages, *producer) = (vec![1_000_000], None);
            true
        }
        (Outcome::Appended { .. }, 7) => {
            operation.outcome = Outcome::Refused;
            true
        }
        (Outcome::Appended { .. }, 8) => {
            operation.outcome = Outcome::Missing;
            true
        }
        (Outcome::Appended { end }, 9) => {
            operation.outcome = Outcome::IsClosed { tail: *end };
            (operation.invoked, operation.returned) = (5000, Some(5001));
            true
        }
        _ => false,
    }
}

fn whole_end(whole: &Outcome) -> u64 {
    match whole {
        Outcome::Content { next, .. } => *next,
        _ => 0,
    }
}

#[test]
fn one_wrong_answer_in_a_random_history_is_found() {
    let mut found = [0; 10];
    for seed in 0..3000 {
        let way = seed % 10;
        let mut operations = history(seed, 150, false);
        let mut random = Random::new(seed ^ 0xabcd);
        if !spoil(&mut operations, way, &mut random) {
            continue;
        }
        match check(&operations, &length) {
            Err(Violation::Impossible(_)) => found[way as usize] += 1,
            other => panic!("seed {seed}, way {way}: {other:?}"),
        }
    }
    println!("found {found:?}");
    assert!(
        found.iter().all(|n| *n > 10),
        "too few were tried: {found:?}"
    );
}
