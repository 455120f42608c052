//! Whether a history of one stream is linearizable: whether each operation could have happened at one moment between its
//! call and its answer, so that all answers are those of a single server.
//!
//! The search is that of Wing and Gong (Testing and Verifying Concurrent Objects, 1993) with the just-in-time
//! linearization and the memory of visited configurations of Lowe (Testing for Linearizability, 2017). Streams do not
//! know of each other, so each is checked alone (Horn and Kroening, Faster Linearizability Checking via
//! P-Compositionality, 2015). Two properties of streams keep it fast: an answer that changes nothing is placed as soon
//! as it fits, and a message whose position was seen anywhere can be appended at that position only.

mod positions;
mod search;
mod state;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_parts;
#[cfg(test)]
mod tests_random;

use crate::history::{Message, Operation};

/// More configurations than this at once, or on the way to one answer, and the search gives up.
pub const CONFIGURATIONS_MAX: usize = 200_000;

/// Why a history was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// No single server could have answered so; what did not fit, in words.
    Impossible(String),
    /// Too many possibilities to say.
    Inconclusive(String),
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Violation::Impossible(text) => write!(f, "not linearizable: {text}"),
            Violation::Inconclusive(text) => write!(f, "inconclusive: {text}"),
        }
    }
}

/// What a check went through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checked {
    /// Operations that had to fit.
    pub operations: usize,
    /// Messages whose position is known.
    pub messages: usize,
    /// Most configurations at once.
    pub configurations: usize,
}

/// Checks the operations on one stream, which does not exist at first. `length` tells how many positions a message takes.
///
/// # Errors
/// What is wrong.
pub fn check(
    operations: &[Operation],
    length: &dyn Fn(Message) -> u64,
) -> Result<Checked, Violation> {
    let positions = positions::find(operations, length).map_err(Violation::Impossible)?;
    search::run(operations, length, &positions)
}
