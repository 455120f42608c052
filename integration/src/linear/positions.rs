//! Where messages stand, gathered from all answers: what one read shows binds all others.
//! Finds by itself what needs no search: a message that stands twice, that nobody sent, that was refused.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Call, Message, Operation, Outcome};

/// What is known of positions.
pub(super) struct Positions {
    /// Where a message begins. A producer's may stand in two lives of a stream, which do not know of each other.
    pub starts: BTreeMap<Message, BTreeSet<u64>>,
    /// Sent more than once, to a stream of more than one life: these may also stand where nothing tells of it, in a life that has
    /// ended.
    pub again: BTreeSet<Message>,
    /// The furthest position that any answer named.
    pub end: u64,
    /// Whether each byte before `end` belongs to a known message of the one life of the stream: then a message without a
    /// position was never appended, or where nothing tells of it.
    pub is_complete: bool,
}

/// Gathers them.
///
/// # Errors
/// What two answers disagree about.
pub(super) fn find(
    operations: &[Operation],
    length: &dyn Fn(Message) -> u64,
) -> Result<Positions, String> {
    // How often, but for refusals.
    let mut sent = BTreeMap::new();
    for operation in operations {
        if let Call::Append { messages, .. } = &operation.call {
            for message in messages {
                *sent.entry(*message).or_insert(0) +=
                    u32::from(operation.outcome != Outcome::Refused);
            }
        }
    }
    let mut positions = Positions {
        starts: BTreeMap::new(),
        again: BTreeSet::new(),
        end: 0,
        is_complete: false,
    };
    let is_one_life = !operations.iter().any(|o| {
        o.call == Call::Delete && matches!(o.outcome, Outcome::Deleted | Outcome::Unknown)
    });
    if !is_one_life {
        let again = sent.iter().filter(|(_, count)| **count > 1);
        positions.again = again.map(|(message, _)| *message).collect();
    }
    let mut stand = |message: Message, start: u64, operation: &Operation| {
        let starts = positions.starts.entry(message).or_default();
        starts.insert(start);
        if is_one_life && starts.len() > 1 {
            return Err(format!(
                "message {message} stands at {starts:?}: {operation:?}"
            ));
        }
        Ok(())
    };
    for operation in operations {
        match (&operation.call, &operation.outcome) {
            (Call::Append { messages, .. }, Outcome::Appended { end }) => {
                let whole: u64 = messages.iter().map(|m| length(*m)).sum();
                let Some(mut start) = end.checked_sub(whole) else {
                    return Err(format!("the answer ends before its append: {operation:?}"));
                };
                for message in messages {
                    stand(*message, start, operation)?;
                    start += length(*message);
                }
                positions.end = positions.end.max(*end);
            }
            (Call::Read { from, .. }, Outcome::Content { messages, next, .. }) => {
                let mut start = *from;
                for message in messages {
                    match sent.get(message) {
                        None => {
                            return Err(format!("message {message} was never sent: {operation:?}"));
                        }
                        Some(0) => {
                            return Err(format!(
                                "message {message} was refused each time, and is there: {operation:?}"
                            ));
                        }
                        Some(_) => stand(*message, start, operation)?,
                    }
                    start += length(*message);
                }
                if start != *next {
                    return Err(format!(
                        "the next offset is {next}, the messages end at {start}: {operation:?}"
                    ));
                }
                positions.end = positions.end.max(*next);
            }
            (
                _,
                Outcome::Tail { tail, .. } | Outcome::Closed { tail } | Outcome::IsClosed { tail },
            ) => {
                positions.end = positions.end.max(*tail);
            }
            (_, Outcome::Duplicate { end }) => positions.end = positions.end.max(*end),
            _ => {}
        }
    }
    if is_one_life {
        let mut at = BTreeMap::new();
        for (message, start) in positions
            .starts
            .iter()
            .flat_map(|(m, s)| s.iter().map(move |s| (m, s)))
        {
            if let Some(other) = at.insert(*start, *message) {
                return Err(format!(
                    "messages {other} and {message} both stand at {start}"
                ));
            }
        }
        let known: u64 = positions.starts.keys().map(|m| length(*m)).sum();
        positions.is_complete = known == positions.end;
    }
    Ok(positions)
}

/// Operations that need no place: they told nothing, and nothing tells of them.
pub(super) fn idle(operations: &[Operation], positions: &Positions) -> BTreeSet<usize> {
    // An answer that shows that it was not there; or one that nobody got, of who made it anew: that has its moment at any time.
    let may_tell = |o: &&Operation| match o.outcome {
        Outcome::Missing | Outcome::Created => true,
        Outcome::Unknown => o.call == Call::Create,
        _ => false,
    };
    let absent = operations.iter().filter(may_tell);
    let last_absent = absent.map(|o| o.returned.unwrap_or(u64::MAX)).max();
    let is_ever_closed = operations.iter().any(|o| match &o.outcome {
        Outcome::Closed { .. } | Outcome::IsClosed { .. } | Outcome::Conflict => true,
        Outcome::Content { closed, .. } | Outcome::Tail { closed, .. } => *closed,
        _ => false,
    });
    let is_idle = |operation: &Operation| match (&operation.call, &operation.outcome) {
        (_, Outcome::Refused) => true,
        (Call::Read { .. } | Call::Head, Outcome::Unknown) => true,
        (Call::Close, Outcome::Unknown) => !is_ever_closed,
        (Call::Delete, Outcome::Unknown) => last_absent.is_none_or(|t| t < operation.invoked),
        (Call::Append { messages, .. }, Outcome::Unknown) => {
            positions.is_complete && !messages.iter().any(|m| positions.starts.contains_key(m))
        }
        _ => false,
    };
    (0..operations.len())
        .filter(|at| is_idle(&operations[*at]))
        .collect()
}
