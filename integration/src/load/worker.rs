//! One client: picks a stream, a node and something to do, and notes what it was told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::payload::{length, offset, parse_body, position, text};
use super::{Links, Numbers, Plan, Sent, Stream};
use crate::Reply;
use crate::history::{Call, History, Message, Outcome, Producer};
use crate::random::Random;

/// A stream as one worker knows it.
pub(super) struct Known {
    pub stream: Stream,
    is_created: bool,
    /// Positions that answers named.
    boundaries: Vec<u64>,
    /// How far it has followed the stream.
    pub followed: u64,
    epoch: u64,
    seq: u64,
    /// Sent by the producer, and not acknowledged yet.
    unsettled: Option<Vec<Message>>,
    /// The last that was.
    settled: Option<Vec<Message>>,
}

impl From<Stream> for Known {
    fn from(stream: Stream) -> Known {
        Known {
            stream,
            is_created: false,
            boundaries: vec![0],
            followed: 0,
            epoch: 0,
            seq: 0,
            unsettled: None,
            settled: None,
        }
    }
}

pub(super) struct Worker {
    pub id: u32,
    pub plan: Plan,
    pub random: Random,
    pub links: Links,
    pub streams: Vec<Known>,
    pub history: Arc<History>,
    pub numbers: Arc<Numbers>,
    pub counts: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Worker {
    pub fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let at = self.random.below(self.streams.len() as u64) as usize;
            self.turn(at);
            let pause = self.random.below(self.plan.pause.as_micros() as u64 + 1);
            std::thread::sleep(Duration::from_micros(pause));
        }
    }

    fn turn(&mut self, at: usize) {
        let known = &self.streams[at];
        if !known.is_created {
            let outcome = self.create(at);
            self.streams[at].is_created = !matches!(outcome, Outcome::Unknown | Outcome::Refused);
            return;
        }
        let is_mortal = known.stream.is_mortal;
        let is_json = known.stream.is_json;
        match self.random.below(1000) {
            0..300 => self.append(at),
            300..550 => self.produce(at),
            550..570 => self.produce_again(at),
            570..700 => self.read(at),
            700..730 => self.read_whole(at),
            730..860 => self.head(at),
            860..930 if !is_mortal => self.poll(at),
            930..990 if !is_mortal && is_json => self.tail(at),
            990..993 if is_mortal => self.delete(at),
            990 => self.close(at),
            _ if is_mortal => drop(self.create(at)),
            _ => self.head(at),
        }
    }

    /// Notes an operation and counts it.
    pub fn note(&mut self, at: usize, node: usize, invoked: u64, call: Call, outcome: Outcome) {
        let what = match &call {
            Call::Append { producer: None, .. } => "append",
            Call::Append { .. } => "produce",
            Call::Create => "create",
            Call::Read { exact: true, .. } => "read",
            Call::Read { .. } => "live",
            Call::Head => "head",
            Call::Close => "close",
            Call::Delete => "delete",
        };
        let told = format!("{outcome:?}");
        let told = told.split([' ', '{']).next().unwrap_or("");
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(format!("{what} {told}")).or_default() += 1;
        let path = &self.streams[at].stream.path;
        let who = (self.id, node as u32 + 1);
        self.history.note(path, who, invoked, call, outcome);
    }

    /// Sends and notes; `tell` says what an answer other than 503 and 404 means.
    fn ask(
        &mut self,
        at: usize,
        request: (&str, &[(&str, &str)], &[u8]),
        call: Call,
        tell: impl FnOnce(&Reply) -> Outcome,
    ) -> Outcome {
        let node = self.random.below(self.links.count() as u64) as usize;
        let path = match &call {
            Call::Read { from, .. } => {
                format!("{}?offset={}", self.streams[at].stream.path, offset(*from))
            }
            _ => self.streams[at].stream.path.clone(),
        };
        let (method, headers, body) = request;
        let invoked = self.history.now();
        let outcome = match self.links.send(node, method, &path, headers, body) {
            Sent::Answered(reply) if matches!(reply.status, 404 | 410) => Outcome::Missing,
            Sent::Answered(reply) => tell(&reply),
            Sent::Refused => Outcome::Refused,
            Sent::Unknown => Outcome::Unknown,
        };
        self.note(at, node, invoked, call, outcome.clone());
        outcome
    }

    fn create(&mut self, at: usize) -> Outcome {
        let headers = [("content-type", self.streams[at].stream.content_type())];
        self.ask(at, ("PUT", &headers, b""), Call::Create, |r| {
            match r.status {
                201 => Outcome::Created,
                200 => Outcome::Existed,
                409 => Outcome::Conflict,
                _ => unexpected(r),
            }
        })
    }

    fn messages(&mut self) -> Vec<Message> {
        let count = 1 + self.random.below(8) / 6;
        (0..count).map(|_| self.numbers.take()).collect()
    }

    fn body(&self, at: usize, messages: &[Message]) -> Vec<u8> {
        let texts: Vec<String> = messages.iter().map(|m| text(*m)).collect();
        match (self.streams[at].stream.is_json, texts.len()) {
            (true, 2..) => format!("[{}]", texts.join(",")).into_bytes(),
            _ => texts.concat().into_bytes(),
        }
    }

    fn append(&mut self, at: usize) {
        let messages = self.messages();
        let body = self.body(at, &messages);
        let headers = [("content-type", self.streams[at].stream.content_type())];
        let call = Call::Append {
            messages,
            producer: None,
        };
        let outcome = self.ask(at, ("POST", &headers, &body), call, |r| match r.status {
            204 => Outcome::Appended { end: next(r) },
            409 if r.header("stream-closed") == "true" => Outcome::IsClosed { tail: next(r) },
            _ => unexpected(r),
        });
        if let Outcome::Appended { end } = outcome {
            self.remember(at, end);
        }
    }

    /// An append of this worker's producer, again and again until something is known for certain.
    fn produce(&mut self, at: usize) {
        let messages = match self.streams[at].unsettled.take() {
            Some(messages) => messages,
            None => self.messages(),
        };
        let (epoch, seq) = (self.streams[at].epoch, self.streams[at].seq);
        for _ in 0..3 {
            match self.produce_once(at, &messages, epoch, seq) {
                Outcome::Unknown | Outcome::Refused => {
                    // Some pacing: while there is no leader, all nodes refuse.
                    std::thread::sleep(self.plan.pause * 4);
                    continue;
                }
                Outcome::Appended { .. } | Outcome::Duplicate { .. } => {
                    let known = &mut self.streams[at];
                    known.seq += 1;
                    known.settled = Some(messages);
                }
                // The stream was made anew and knows nothing of this producer; or this is one too late.
                Outcome::Gap { .. } => {
                    let known = &mut self.streams[at];
                    (known.epoch, known.seq) = (epoch + 1, 0);
                    known.settled = None;
                }
                _ => known_forgets(&mut self.streams[at]),
            }
            return;
        }
        self.streams[at].unsettled = Some(messages);
    }

    /// The last append that was acknowledged, once more: it must be recognized.
    fn produce_again(&mut self, at: usize) {
        let known = &self.streams[at];
        if let Some(messages) = known.settled.clone() {
            self.produce_once(at, &messages, known.epoch, known.seq - 1);
        }
    }

    fn produce_once(&mut self, at: usize, messages: &[Message], epoch: u64, seq: u64) -> Outcome {
        let id = format!("p{}", self.id);
        let (epoch_text, seq_text) = (epoch.to_string(), seq.to_string());
        let headers = [
            ("content-type", self.streams[at].stream.content_type()),
            ("producer-id", &id),
            ("producer-epoch", &epoch_text),
            ("producer-seq", &seq_text),
        ];
        let body = self.body(at, messages);
        let call = Call::Append {
            messages: messages.to_vec(),
            producer: Some(Producer {
                id: self.id,
                epoch,
                seq,
            }),
        };
        self.ask(at, ("POST", &headers, &body), call, |r| match r.status {
            200 => Outcome::Appended { end: next(r) },
            204 => Outcome::Duplicate { end: next(r) },
            409 if r.header("stream-closed") == "true" => Outcome::IsClosed { tail: next(r) },
            409 if !r.header("producer-expected-seq").is_empty() => Outcome::Gap {
                expected: r.header("producer-expected-seq").parse().expect("a number"),
            },
            _ => unexpected(r),
        })
    }

    fn read(&mut self, at: usize) {
        let from = *self.random.pick(&self.streams[at].boundaries);
        self.read_from(at, from);
    }

    fn read_whole(&mut self, at: usize) {
        let mut from = 0;
        while let Some(next) = self.read_from(at, from) {
            from = next;
        }
    }

    /// Where to go on, if there is more.
    fn read_from(&mut self, at: usize, from: u64) -> Option<u64> {
        let is_json = self.streams[at].stream.is_json;
        let call = Call::Read { from, exact: true };
        let outcome = self.ask(at, ("GET", &[], b""), call, |r| told(r, from, is_json));
        let Outcome::Content {
            next, up_to_date, ..
        } = outcome
        else {
            return None;
        };
        self.remember(at, next);
        (!up_to_date && next > from).then_some(next)
    }

    fn head(&mut self, at: usize) {
        self.ask(at, ("HEAD", &[], b""), Call::Head, |r| match r.status {
            200 => Outcome::Tail {
                tail: next(r),
                closed: r.header("stream-closed") == "true",
            },
            _ => unexpected(r),
        });
    }

    fn close(&mut self, at: usize) {
        let headers = [("stream-closed", "true")];
        self.ask(at, ("POST", &headers, b""), Call::Close, |r| {
            match r.status {
                204 => Outcome::Closed { tail: next(r) },
                _ => unexpected(r),
            }
        });
    }

    fn delete(&mut self, at: usize) {
        self.ask(at, ("DELETE", &[], b""), Call::Delete, |r| match r.status {
            204 => Outcome::Deleted,
            _ => unexpected(r),
        });
    }

    fn remember(&mut self, at: usize, boundary: u64) {
        let known = &mut self.streams[at];
        if !known.stream.is_mortal {
            known.boundaries.push(boundary);
        }
    }
}

fn known_forgets(known: &mut Known) {
    // Closed, or gone: what was not acknowledged is given up; a stream made anew would take the epoch from its start.
    (known.epoch, known.seq) = (known.epoch + 1, 0);
    known.settled = None;
}

/// What a read shows.
pub(super) fn told(reply: &Reply, from: u64, is_json: bool) -> Outcome {
    let (messages, is_cut) = match reply.status {
        200 => parse_body(&reply.body, is_json),
        204 => (Vec::new(), false),
        400 if reply.text().contains("offset_beyond_tail") => return Outcome::Beyond,
        _ => unexpected(reply),
    };
    let up_to_date = reply.header("stream-up-to-date") == "true";
    assert!(!(is_cut && up_to_date), "up to date inside of a message");
    let whole: u64 = messages.iter().map(|m| length(*m, is_json)).sum();
    Outcome::Content {
        messages,
        next: if is_cut { from + whole } else { next(reply) },
        up_to_date,
        closed: reply.header("stream-closed") == "true",
    }
}

pub(super) fn next(reply: &Reply) -> u64 {
    position(reply.header("stream-next-offset"))
}

pub(super) fn unexpected(reply: &Reply) -> ! {
    panic!(
        "an answer that nothing explains: {} {}",
        reply.status,
        reply.text()
    )
}
