//! Append and close (protocol, sections 5.2 and 5.3).

use bytes::Bytes;
use raftproto::command;

use super::producer::ProducerPosition;
use super::{Producers, Stream, Verdict};
use crate::mutation;
use crate::protocol::{ContentType, Offset, Outcome, Producer, ProducerAck, Refusal};

impl Stream {
    /// Applies an append. The order of the checks is that of the protocol: closed, content type, sequences.
    /// Answers the outcome and the bytes that were added.
    pub fn append(&mut self, append: command::Append, stamp_ms: u64) -> (Outcome, Option<Bytes>) {
        let producer = append.producer.map(|p| Producer {
            id: p.id,
            epoch: p.epoch,
            seq: p.seq,
        });
        let verdict = match (&producer, &self.producers) {
            (None, _) => Verdict::Accept,
            (Some(producer), Some(known)) => known.judge(producer),
            (Some(producer), None) => Producers::default().judge(producer),
        };
        if self.closed && !(mutation::is_on("closed-takes-producers") && producer.is_some()) {
            let closes_only = append.close && append.body.is_empty();
            return (
                self.append_to_closed(producer.as_ref(), &verdict, closes_only),
                None,
            );
        }
        if !append.body.is_empty() && !is_type(&append.content_type, &self.content_type) {
            let expected = self.content_type.as_str().to_owned();
            return (
                Outcome::Refused(Refusal::ContentTypeMismatch { expected }),
                None,
            );
        }
        match verdict {
            // What may be sent again is done once, whatever became of the stream at the key.
            Verdict::Accept if self.has_begun_since(append.incarnation_below) => {
                let incarnation = self.incarnation;
                return (Outcome::Refused(Refusal::BegunSince { incarnation }), None);
            }
            Verdict::Accept => {}
            Verdict::Duplicate(position) => {
                return (self.duplicate(producer.as_ref(), position), None);
            }
            Verdict::Refuse(refusal) => return (Outcome::Refused(refusal), None),
        }
        if let Some(seq) = append.stream_seq {
            if let Some(last) = &self.stream_seq
                && seq.as_bytes() <= last.as_bytes()
                && !mutation::is_on("regression-taken")
            {
                let last = last.to_string();
                return (Outcome::Refused(Refusal::SeqRegression { last }), None);
            }
            self.stream_seq = Some(seq.into());
        }
        self.tail += append.body.len() as u64;
        self.bytes.append(append.body.clone());
        self.touched_ms = stamp_ms;
        self.closed = append.close;
        if let Some(producer) = &producer {
            self.producers
                .get_or_insert_default()
                .accept(producer, self.tail);
        }
        let outcome = Outcome::Appended {
            tail: Offset(self.tail),
            closed: self.closed,
            duplicate: false,
            producer: producer.map(|p| ProducerAck {
                epoch: p.epoch,
                seq: p.seq,
            }),
        };
        (outcome, Some(append.body))
    }

    /// It is none of the streams that an append was for when it was sent.
    fn has_begun_since(&self, incarnation_below: u64) -> bool {
        incarnation_below != 0
            && self.incarnation.0 >= incarnation_below
            && !mutation::is_on("sent-again-into-any-life")
    }

    fn append_to_closed(
        &self,
        producer: Option<&Producer>,
        verdict: &Verdict,
        closes_only: bool,
    ) -> Outcome {
        let tail = Offset(self.tail);
        match (producer, verdict) {
            // The retry of the append that closed it, or of one before: the first answer stands (I3).
            (Some(_), Verdict::Duplicate(position)) => self.duplicate(producer, *position),
            (Some(_), Verdict::Refuse(refusal @ Refusal::StaleEpoch { .. })) => {
                Outcome::Refused(refusal.clone())
            }
            (None, _) if closes_only => Outcome::Appended {
                tail,
                closed: true,
                duplicate: true,
                producer: None,
            },
            _ => Outcome::Refused(Refusal::Closed { tail }),
        }
    }

    fn duplicate(&self, producer: Option<&Producer>, position: ProducerPosition) -> Outcome {
        let is_last = producer.is_some_and(|p| p.seq == position.last_seq);
        Outcome::Appended {
            tail: Offset(if is_last { position.tail } else { self.tail }),
            closed: self.closed,
            duplicate: true,
            producer: Some(ProducerAck {
                epoch: position.epoch,
                seq: position.last_seq,
            }),
        }
    }
}

fn is_type(text: &str, expected: &ContentType) -> bool {
    text == expected.as_str() || ContentType::from_stored(text).matches(expected)
}
