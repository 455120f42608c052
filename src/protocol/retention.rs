//! What of a stream's bytes is kept: by their age, by their number, or all.

use raftproto::command;

/// How much a stream keeps. What is above it goes by whole appends, the oldest first, soon after and not at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// Milliseconds. Younger bytes are never removed, older ones after at most a thirty-second of it more.
    pub max_age_ms: Option<u64>,
    /// So many of the newest bytes are never removed; at most a thirty-second of it and one append more are kept.
    pub max_bytes: Option<u64>,
}

/// Longest age: some 30,000 years, in seconds.
pub const MAX_AGE_SECONDS_MAX: u64 = 999_999_999_999;

impl Retention {
    /// As a command or a checkpoint has it.
    pub fn to_message(self) -> command::Retention {
        command::Retention {
            max_age_ms: self.max_age_ms,
            max_bytes: self.max_bytes,
        }
    }

    /// The same, read.
    pub fn from_message(message: command::Retention) -> Retention {
        Retention {
            max_age_ms: message.max_age_ms,
            max_bytes: message.max_bytes,
        }
    }

    /// All bytes are kept.
    pub fn is_unlimited(&self) -> bool {
        *self == Retention::default()
    }
}
