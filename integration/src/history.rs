//! What clients did and what they were told, with the times between which it happened.
//! One list per stream; times are nanoseconds of one monotonic clock, so that they compare between threads.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Instant;

/// The number of a message; no two messages of a run share one.
pub type Message = u32;

/// A producer's claim on one append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Producer {
    /// Which producer.
    pub id: u32,
    /// Its epoch.
    pub epoch: u64,
    /// Its sequence number in the epoch.
    pub seq: u64,
}

/// What a client asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// PUT, always with the same configuration: open and empty.
    Create,
    /// POST of one or more messages, which take effect together.
    Append {
        /// In their order.
        messages: Vec<Message>,
        /// Set if a retry is recognized.
        producer: Option<Producer>,
    },
    /// GET.
    Read {
        /// Byte position where it starts.
        from: u64,
        /// Whether its "up to date" speaks of the one current state; if not, of that of the replica which answered.
        exact: bool,
    },
    /// HEAD.
    Head,
    /// POST with `Stream-Closed: true` and no body.
    Close,
    /// DELETE.
    Delete,
}

/// What a client was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing: it may have taken effect, may do so later, or never.
    Unknown,
    /// Certainly not done.
    Refused,
    /// 201.
    Created,
    /// 200 of a PUT.
    Existed,
    /// 409 of a PUT: there is a stream with another configuration, here a closed one.
    Conflict,
    /// The append was taken.
    Appended {
        /// The position after it.
        end: u64,
    },
    /// A producer's append that had been taken before.
    Duplicate {
        /// The position that was answered.
        end: u64,
    },
    /// A producer's append that leaves out others.
    Gap {
        /// The sequence number that would be taken.
        expected: u64,
    },
    /// What a read showed.
    Content {
        /// Whole messages, in their order.
        messages: Vec<Message>,
        /// The position after them.
        next: u64,
        /// Whether it said that there was no more.
        up_to_date: bool,
        /// Whether it said that there never will be.
        closed: bool,
    },
    /// What a HEAD showed.
    Tail {
        /// The position after the last message.
        tail: u64,
        /// Whether the stream is closed.
        closed: bool,
    },
    /// The close was done, now or before.
    Closed {
        /// The final position.
        tail: u64,
    },
    /// The stream takes no more appends.
    IsClosed {
        /// The final position.
        tail: u64,
    },
    /// The deletion was done.
    Deleted,
    /// There is no such stream.
    Missing,
    /// A read from beyond the end.
    Beyond,
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Who did it; only for people who read a failure.
    pub client: u32,
    /// The node that was asked; only for people who read a failure.
    pub node: u32,
    /// When it was sent, or before.
    pub invoked: u64,
    /// When it was answered, or after; none if it never was.
    pub returned: Option<u64>,
    /// What was asked.
    pub call: Call,
    /// What was answered.
    pub outcome: Outcome,
}

/// Histories of all streams of a run, written by many threads.
pub struct History {
    began: Instant,
    streams: Mutex<BTreeMap<String, Vec<Operation>>>,
}

impl Default for History {
    fn default() -> Self {
        History::new()
    }
}

impl History {
    /// An empty one; its clock starts now.
    pub fn new() -> History {
        History {
            began: Instant::now(),
            streams: Mutex::default(),
        }
    }

    /// The time.
    pub fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// Notes an operation that began at `invoked` and is over now.
    pub fn note(&self, stream: &str, who: (u32, u32), invoked: u64, call: Call, outcome: Outcome) {
        let returned = (outcome != Outcome::Unknown).then(|| self.now());
        let operation = Operation {
            client: who.0,
            node: who.1,
            invoked,
            returned,
            call,
            outcome,
        };
        let mut streams = self.streams.lock().expect("no one panics with it");
        match streams.get_mut(stream) {
            Some(operations) => operations.push(operation),
            None => {
                streams.insert(stream.to_owned(), vec![operation]);
            }
        }
    }

    /// A copy of what was noted.
    pub fn streams(&self) -> BTreeMap<String, Vec<Operation>> {
        self.streams.lock().expect("no one panics with it").clone()
    }
}
