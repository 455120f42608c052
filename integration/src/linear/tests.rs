//! Histories that must pass, and histories that must not. Each message takes ten positions.

use super::*;
use crate::history::{Call, Outcome, Producer};

pub(super) const ALL: u64 = 0;

pub(super) fn op(invoked: u64, returned: u64, call: Call, outcome: Outcome) -> Operation {
    let is_unknown = outcome == Outcome::Unknown;
    Operation {
        client: 0,
        node: 0,
        invoked,
        returned: (!is_unknown).then_some(returned),
        call,
        outcome,
    }
}

pub(super) fn created() -> Operation {
    op(1, 2, Call::Create, Outcome::Created)
}

pub(super) fn append(invoked: u64, returned: u64, message: Message, end: u64) -> Operation {
    by(None, invoked, returned, message, Outcome::Appended { end })
}

pub(super) fn by(
    seq: Option<u64>,
    invoked: u64,
    returned: u64,
    message: Message,
    outcome: Outcome,
) -> Operation {
    let call = Call::Append {
        messages: vec![message],
        producer: seq.map(|seq| Producer {
            id: 7,
            epoch: 0,
            seq,
        }),
    };
    op(invoked, returned, call, outcome)
}

fn unknown(invoked: u64, message: Message) -> Operation {
    by(None, invoked, 0, message, Outcome::Unknown)
}

/// A whole read that says "up to date".
pub(super) fn read(invoked: u64, returned: u64, from: u64, messages: &[Message]) -> Operation {
    let outcome = Outcome::Content {
        messages: messages.to_vec(),
        next: from + 10 * messages.len() as u64,
        up_to_date: true,
        closed: false,
    };
    op(invoked, returned, Call::Read { from, exact: true }, outcome)
}

pub(super) fn part(invoked: u64, returned: u64, from: u64, messages: &[Message]) -> Operation {
    let mut operation = read(invoked, returned, from, messages);
    if let Outcome::Content { up_to_date, .. } = &mut operation.outcome {
        *up_to_date = false;
    }
    operation
}

fn head(invoked: u64, returned: u64, tail: u64, closed: bool) -> Operation {
    op(
        invoked,
        returned,
        Call::Head,
        Outcome::Tail { tail, closed },
    )
}

fn close(invoked: u64, returned: u64, tail: u64) -> Operation {
    op(invoked, returned, Call::Close, Outcome::Closed { tail })
}

pub(super) fn delete(invoked: u64, returned: u64) -> Operation {
    op(invoked, returned, Call::Delete, Outcome::Deleted)
}

fn missing(invoked: u64, returned: u64, call: Call) -> Operation {
    op(invoked, returned, call, Outcome::Missing)
}

const READ: Call = Call::Read {
    from: ALL,
    exact: true,
};

pub(super) fn verdict(operations: &[Operation]) -> Result<Checked, Violation> {
    check(operations, &|_| 10)
}

#[test]
fn histories_that_one_server_could_have_answered_pass() {
    let table: Vec<(&str, Vec<Operation>)> = vec![
        ("nothing", vec![]),
        ("before the creation", vec![missing(0, 1, READ), created()]),
        (
            "two appends at once, in either order",
            vec![
                created(),
                append(10, 20, 1, 20),
                append(10, 20, 2, 10),
                read(30, 31, ALL, &[2, 1]),
            ],
        ),
        (
            "a read beside an append sees it",
            vec![
                created(),
                append(10, 20, 1, 10),
                read(11, 12, ALL, &[1]),
                read(13, 14, ALL, &[1]),
            ],
        ),
        (
            "a read beside an append does not see it yet",
            vec![
                created(),
                append(10, 20, 1, 10),
                read(11, 12, ALL, &[]),
                read(13, 14, ALL, &[1]),
            ],
        ),
        (
            "an unknown append appears late",
            vec![
                created(),
                unknown(5, 1),
                append(10, 20, 2, 10),
                read(21, 22, ALL, &[2]),
                append(30, 40, 3, 30),
                read(41, 42, ALL, &[2, 1, 3]),
            ],
        ),
        (
            "an unknown append never appears",
            vec![
                created(),
                unknown(5, 1),
                append(10, 20, 2, 10),
                read(21, 22, ALL, &[2]),
            ],
        ),
        (
            "an unknown append that only a tail tells of",
            vec![
                created(),
                unknown(5, 1),
                head(10, 11, 10, false),
                append(12, 13, 2, 20),
            ],
        ),
        (
            "a part of the content, read later",
            vec![
                created(),
                append(10, 11, 1, 10),
                append(12, 13, 2, 20),
                part(20, 21, ALL, &[1]),
            ],
        ),
        (
            "a retry that is a duplicate of a lost answer",
            vec![
                created(),
                by(Some(0), 5, 0, 1, Outcome::Unknown),
                by(Some(0), 10, 20, 1, Outcome::Duplicate { end: 10 }),
                read(21, 22, ALL, &[1]),
            ],
        ),
        (
            "a retry by the node itself",
            vec![
                created(),
                by(Some(0), 10, 20, 1, Outcome::Duplicate { end: 10 }),
                read(21, 22, ALL, &[1]),
            ],
        ),
        (
            "a retry that is the first",
            vec![
                created(),
                by(Some(0), 5, 0, 1, Outcome::Unknown),
                by(Some(0), 10, 20, 1, Outcome::Appended { end: 10 }),
                by(Some(2), 21, 22, 3, Outcome::Gap { expected: 1 }),
                read(23, 24, ALL, &[1]),
            ],
        ),
        (
            "closed",
            vec![
                created(),
                append(3, 4, 1, 10),
                close(10, 20, 10),
                by(None, 15, 30, 2, Outcome::IsClosed { tail: 10 }),
                close(31, 32, 10),
                op(33, 34, Call::Create, Outcome::Conflict),
                head(35, 36, 10, true),
            ],
        ),
        (
            "an unknown close that came late",
            vec![
                created(),
                op(3, 0, Call::Close, Outcome::Unknown),
                append(4, 5, 1, 10),
                head(6, 7, 10, false),
                head(8, 9, 10, true),
            ],
        ),
        (
            "an unknown deletion, and who made it anew was not told either",
            vec![
                created(),
                append(3, 4, 1, 10),
                op(5, 0, Call::Delete, Outcome::Unknown),
                op(6, 0, Call::Create, Outcome::Unknown),
                read(7, 8, ALL, &[]),
                append(9, 10, 2, 10),
            ],
        ),
        (
            "deleted and made anew",
            vec![
                created(),
                append(3, 4, 1, 10),
                delete(5, 6),
                missing(7, 8, READ),
                missing(9, 10, Call::Delete),
                op(11, 12, Call::Create, Outcome::Created),
                op(
                    13,
                    14,
                    Call::Read {
                        from: 10,
                        exact: true,
                    },
                    Outcome::Beyond,
                ),
                append(15, 16, 2, 10),
                read(17, 18, ALL, &[2]),
            ],
        ),
        (
            "a producer's append lands in two lives of the stream",
            vec![
                created(),
                append(3, 4, 5, 10),
                by(Some(0), 5, 0, 1, Outcome::Unknown),
                read(6, 7, ALL, &[5, 1]),
                delete(8, 9),
                op(10, 11, Call::Create, Outcome::Created),
                by(Some(0), 12, 13, 1, Outcome::Appended { end: 10 }),
            ],
        ),
        (
            "a refused append is not there",
            vec![
                created(),
                by(None, 3, 4, 1, Outcome::Refused),
                read(5, 6, ALL, &[]),
            ],
        ),
    ];
    for (name, operations) in table {
        if let Err(violation) = verdict(&operations) {
            panic!("{name}: {violation}");
        }
    }
}

#[test]
fn histories_that_no_single_server_answers_do_not_pass() {
    let table: Vec<(&str, Vec<Operation>)> = vec![
        (
            "a lost append",
            vec![
                created(),
                append(3, 4, 1, 10),
                append(5, 6, 2, 20),
                read(7, 8, ALL, &[2]),
            ],
        ),
        (
            "an acknowledged append is missing at the end",
            vec![
                created(),
                append(3, 4, 1, 10),
                append(5, 6, 2, 20),
                read(7, 8, ALL, &[1]),
            ],
        ),
        (
            "a message twice",
            vec![created(), append(3, 4, 1, 10), read(7, 8, ALL, &[1, 1])],
        ),
        (
            "a message that nobody sent",
            vec![created(), append(3, 4, 1, 10), read(7, 8, ALL, &[1, 9])],
        ),
        (
            "a refused append is there",
            vec![
                created(),
                by(None, 3, 4, 1, Outcome::Refused),
                read(5, 6, ALL, &[1]),
            ],
        ),
        (
            "a stale read",
            vec![
                created(),
                append(3, 4, 1, 10),
                read(5, 6, ALL, &[]),
                read(7, 8, ALL, &[1]),
            ],
        ),
        (
            "a stale head",
            vec![created(), append(3, 4, 1, 10), head(5, 6, 0, false)],
        ),
        (
            "a read goes back",
            vec![
                created(),
                append(3, 40, 1, 10),
                read(5, 6, ALL, &[1]),
                read(7, 8, ALL, &[]),
            ],
        ),
        (
            "up to date, but there was more",
            vec![
                created(),
                append(3, 4, 1, 10),
                append(5, 6, 2, 20),
                read(7, 8, ALL, &[1]),
                read(9, 10, ALL, &[1, 2]),
            ],
        ),
        (
            "an unknown append appears twice",
            vec![
                created(),
                unknown(3, 1),
                append(4, 5, 2, 10),
                read(7, 8, ALL, &[2, 1, 1]),
            ],
        ),
        (
            "an unknown append appears, and is gone again",
            vec![
                created(),
                unknown(3, 1),
                read(5, 6, ALL, &[1]),
                read(7, 8, ALL, &[]),
            ],
        ),
        (
            "an append is seen before it was sent",
            vec![created(), read(3, 4, ALL, &[1]), append(5, 6, 1, 10)],
        ),
        (
            "two messages change places",
            vec![
                created(),
                append(3, 4, 1, 10),
                append(5, 6, 2, 20),
                read(7, 8, ALL, &[2, 1]),
            ],
        ),
        (
            "two messages at one place",
            vec![created(), append(3, 9, 1, 10), append(3, 9, 2, 10)],
        ),
        (
            "an append before an earlier one",
            vec![created(), append(3, 4, 1, 20), append(5, 6, 2, 10)],
        ),
        (
            "a duplicate of what was never taken",
            vec![
                created(),
                by(Some(0), 3, 4, 1, Outcome::Duplicate { end: 10 }),
                read(7, 8, ALL, &[]),
            ],
        ),
        (
            "a producer's duplicate is applied",
            vec![
                created(),
                by(Some(0), 3, 4, 1, Outcome::Appended { end: 10 }),
                by(Some(0), 5, 6, 1, Outcome::Appended { end: 20 }),
            ],
        ),
        (
            "a producer's duplicate is applied and shown",
            vec![
                created(),
                by(Some(0), 3, 0, 1, Outcome::Unknown),
                by(Some(0), 5, 6, 1, Outcome::Duplicate { end: 20 }),
                read(7, 8, ALL, &[1, 1]),
            ],
        ),
        (
            "a producer's second before its first",
            vec![
                created(),
                by(Some(1), 3, 4, 1, Outcome::Appended { end: 10 }),
            ],
        ),
        (
            "a gap where there is none",
            vec![
                created(),
                by(Some(0), 3, 4, 1, Outcome::Appended { end: 10 }),
                by(Some(1), 5, 6, 2, Outcome::Gap { expected: 0 }),
            ],
        ),
        (
            "open again",
            vec![created(), close(3, 4, 0), append(5, 6, 1, 10)],
        ),
        (
            "closed without a close",
            vec![created(), head(3, 4, 0, true)],
        ),
        (
            "a read after the close does not tell of it",
            vec![created(), close(3, 4, 0), read(5, 6, ALL, &[])],
        ),
        (
            "read after the deletion",
            vec![
                created(),
                append(3, 4, 1, 10),
                delete(5, 6),
                read(7, 8, ALL, &[1]),
            ],
        ),
        (
            "missing without a deletion",
            vec![created(), missing(3, 4, READ), append(5, 6, 1, 10)],
        ),
        (
            "an unknown deletion comes, and is undone",
            vec![
                created(),
                op(3, 0, Call::Delete, Outcome::Unknown),
                missing(4, 5, READ),
                head(6, 7, 0, false),
            ],
        ),
        (
            "created twice",
            vec![created(), op(3, 4, Call::Create, Outcome::Created)],
        ),
        (
            "an offset that was minted is beyond the tail",
            vec![
                created(),
                append(3, 4, 1, 10),
                op(
                    5,
                    6,
                    Call::Read {
                        from: 10,
                        exact: true,
                    },
                    Outcome::Beyond,
                ),
            ],
        ),
    ];
    for (name, operations) in table {
        match verdict(&operations) {
            Err(Violation::Impossible(_)) => {}
            other => panic!("{name}: {other:?}"),
        }
    }
}
