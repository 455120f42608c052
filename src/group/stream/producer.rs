//! Idempotent producers: who may append what next (protocol, section 5.2.1).
//! The state commits in the same log entry as the data, so that a retry after a crash finds both or none (I3).

use std::collections::BTreeMap;

use crate::mutation;
use crate::protocol::{Producer, Refusal};

/// Producers that a stream remembers. None is forgotten, since its next retry would be appended twice (I3).
pub const PRODUCERS_MAX: usize = 10_000;

/// The producers of one stream by id.
#[derive(Debug, Default)]
pub struct Producers(BTreeMap<Box<str>, ProducerPosition>);

/// Where a producer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerPosition {
    /// Its newest epoch.
    pub epoch: u64,
    /// The highest accepted sequence of that epoch.
    pub last_seq: u64,
    /// The tail after that append.
    pub tail: u64,
}

/// What a producer's append is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The next one: append it.
    Accept,
    /// Applied earlier; answered with that position, and the tail if it was the last one.
    Duplicate(ProducerPosition),
    /// Refused.
    Refuse(Refusal),
}

impl Producers {
    /// Judges an append; changes nothing.
    pub fn judge(&self, producer: &Producer) -> Verdict {
        let Some(known) = self.0.get(producer.id.as_str()) else {
            return match producer.seq {
                0 if self.0.len() >= PRODUCERS_MAX => Verdict::Refuse(Refusal::LimitReached {
                    bound: "producers_per_stream_max",
                }),
                0 => Verdict::Accept,
                received => Verdict::Refuse(Refusal::ProducerGap {
                    expected: 0,
                    received,
                }),
            };
        };
        if producer.epoch < known.epoch && !mutation::is_on("stale-epoch-taken") {
            return Verdict::Refuse(Refusal::StaleEpoch {
                current: known.epoch,
            });
        }
        if producer.epoch > known.epoch {
            return match producer.seq {
                0 => Verdict::Accept,
                _ => Verdict::Refuse(Refusal::EpochMustStartAtZero),
            };
        }
        let is_known = producer.seq <= known.last_seq;
        if is_known && !mutation::is_on("duplicate-taken") {
            return Verdict::Duplicate(*known);
        }
        if producer.seq > known.last_seq + 1 && !mutation::is_on("gap-taken") {
            return Verdict::Refuse(Refusal::ProducerGap {
                expected: known.last_seq + 1,
                received: producer.seq,
            });
        }
        Verdict::Accept
    }

    /// Notes an accepted append.
    pub fn accept(&mut self, producer: &Producer, tail: u64) {
        let position = ProducerPosition {
            epoch: producer.epoch,
            last_seq: producer.seq,
            tail,
        };
        match self.0.get_mut(producer.id.as_str()) {
            Some(known) => *known = position,
            None => {
                self.0.insert(producer.id.as_str().into(), position);
            }
        }
    }

    /// Puts a producer back as a checkpoint has it.
    pub(super) fn restore(&mut self, id: &str, position: ProducerPosition) {
        self.0.insert(id.into(), position);
    }

    /// All of them in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &ProducerPosition)> {
        self.0.iter().map(|(id, position)| (&**id, position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: u64, seq: u64) -> Producer {
        Producer {
            id: "p".to_owned(),
            epoch,
            seq,
        }
    }

    #[test]
    fn the_protocols_table_of_epochs_and_sequences() {
        let mut producers = Producers::default();
        let gap = |expected, received| Verdict::Refuse(Refusal::ProducerGap { expected, received });
        assert_eq!(producers.judge(&at(0, 1)), gap(0, 1));
        assert_eq!(producers.judge(&at(3, 0)), Verdict::Accept);
        producers.accept(&at(3, 0), 10);
        producers.accept(&at(3, 1), 20);
        let last = ProducerPosition {
            epoch: 3,
            last_seq: 1,
            tail: 20,
        };
        assert_eq!(producers.judge(&at(3, 0)), Verdict::Duplicate(last));
        assert_eq!(producers.judge(&at(3, 1)), Verdict::Duplicate(last));
        assert_eq!(producers.judge(&at(3, 2)), Verdict::Accept);
        assert_eq!(producers.judge(&at(3, 3)), gap(2, 3));
        assert_eq!(
            producers.judge(&at(2, 9)),
            Verdict::Refuse(Refusal::StaleEpoch { current: 3 })
        );
        assert_eq!(
            producers.judge(&at(4, 1)),
            Verdict::Refuse(Refusal::EpochMustStartAtZero)
        );
        assert_eq!(producers.judge(&at(4, 0)), Verdict::Accept);
    }

    #[test]
    fn a_stream_remembers_a_bounded_number_of_producers_and_forgets_none() {
        let named = |id: usize, seq| Producer {
            id: id.to_string(),
            epoch: 0,
            seq,
        };
        let mut producers = Producers::default();
        for id in 0..PRODUCERS_MAX {
            assert_eq!(producers.judge(&named(id, 0)), Verdict::Accept);
            producers.accept(&named(id, 0), 1);
        }
        assert!(matches!(
            producers.judge(&named(PRODUCERS_MAX, 0)),
            Verdict::Refuse(Refusal::LimitReached { .. })
        ));
        assert!(matches!(
            producers.judge(&named(0, 0)),
            Verdict::Duplicate(_)
        ));
        assert_eq!(producers.judge(&named(0, 1)), Verdict::Accept);
    }
}
