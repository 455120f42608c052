//! What the operator has under way.

/// An order that was not answered may still be under way for so long: a node keeps it until there is a leader, and messages are
/// late. A later one could overtake it.
const UNDER_WAY_US: u64 = 10_000_000;

/// See the module's head.
#[derive(Debug, Default)]
pub struct Operator {
    /// The order that is not answered.
    pub order: Option<u64>,
    /// An order's outcome is unknown: until a later one is answered, nobody can say what the members will be.
    pub is_unsure: bool,
    /// Since when, in microseconds.
    pub unsure_since_us: u64,
}

impl Operator {
    /// Whether what it is unsure of may still arrive somewhere.
    pub fn is_under_way(&self, now_us: u64) -> bool {
        now_us < self.unsure_since_us + UNDER_WAY_US
    }
}
