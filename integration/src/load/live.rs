//! Readers that follow: each goes on where it was, on any node.

use std::time::{Duration, Instant};

use super::Sent;
use super::payload::{offset, parse_body, position};
use super::worker::{Worker, told};
use crate::Client;
use crate::history::{Call, Outcome};

/// How long one tail is followed.
const FOLLOW: Duration = Duration::from_millis(150);

impl Worker {
    /// A long-poll from where this worker is.
    pub(super) fn poll(&mut self, at: usize) {
        let node = self.random.below(self.links.count() as u64) as usize;
        let known = &self.streams[at];
        let (from, is_json) = (known.followed, known.stream.is_json);
        let path = format!(
            "{}?offset={}&live=long-poll",
            known.stream.path,
            offset(from)
        );
        let invoked = self.history.now();
        let outcome = match self.links.send(node, "GET", &path, &[], b"") {
            Sent::Answered(reply) if matches!(reply.status, 404 | 410) => Outcome::Missing,
            Sent::Answered(reply) => told(&reply, from, is_json),
            Sent::Refused => Outcome::Refused,
            Sent::Unknown => Outcome::Unknown,
        };
        if let Outcome::Content { next, .. } = &outcome {
            self.streams[at].followed = *next;
        }
        let exact = self.plan.is_live_exact;
        self.note(at, node, invoked, Call::Read { from, exact }, outcome);
    }

    /// Server-sent events from where this worker is, for a while.
    pub(super) fn tail(&mut self, at: usize) {
        let node = self.random.below(self.links.count() as u64) as usize;
        let Ok(client) = self.links.connect(node) else {
            return;
        };
        let invoked = self.history.now();
        let from = self.streams[at].followed;
        let path = format!(
            "{}?offset={}&live=sse",
            self.streams[at].stream.path,
            offset(from)
        );
        let mut events = Events::new(client);
        let status = match events.ask(&path) {
            Ok(status) => status,
            Err(_) => return,
        };
        let call = |from: u64, exact: bool| Call::Read { from, exact };
        if status != 200 {
            let outcome = match status {
                404 | 410 => Outcome::Missing,
                400 => Outcome::Beyond,
                503 => Outcome::Refused,
                _ => panic!("a tail was answered with {status}"),
            };
            self.note(at, node, invoked, call(from, false), outcome);
            return;
        }
        let until = Instant::now() + FOLLOW;
        let mut messages = Vec::new();
        while Instant::now() < until {
            let Some((name, data)) = events.next() else {
                return;
            };
            match name.as_str() {
                "data" => messages.extend(parse_body(data.as_bytes(), true).0),
                "control" => {
                    let control: serde_json::Value =
                        serde_json::from_str(&data).expect("a control event is an object");
                    let from = self.streams[at].followed;
                    let next = position(control["streamNextOffset"].as_str().unwrap_or(""));
                    let closed = control["streamClosed"] == true;
                    self.streams[at].followed = next;
                    let outcome = Outcome::Content {
                        messages: std::mem::take(&mut messages),
                        next,
                        up_to_date: control["upToDate"] == true,
                        closed,
                    };
                    self.note(at, node, invoked, call(from, false), outcome);
                    if closed {
                        return;
                    }
                }
                other => panic!("an event {other:?}"),
            }
        }
    }
}

/// Events of a chunked answer.
struct Events {
    client: Client,
    buffer: Vec<u8>,
}

impl Events {
    fn new(client: Client) -> Events {
        Events {
            client,
            buffer: Vec::new(),
        }
    }

    fn ask(&mut self, path: &str) -> std::io::Result<u16> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
        self.client.write(request.as_bytes())?;
        let (status, _) = self.client.read_head()?;
        // From now on silence means that nothing was appended.
        self.client.set_patience(FOLLOW)?;
        Ok(status)
    }

    /// Name and data of the next event; none if the stream ends or is silent.
    fn next(&mut self) -> Option<(String, String)> {
        loop {
            let end = self.buffer.windows(2).position(|w| w == b"\n\n");
            let Some(end) = end else {
                let chunk = self.client.read_chunk().ok().filter(|c| !c.is_empty())?;
                self.buffer.extend_from_slice(&chunk);
                continue;
            };
            let event: Vec<u8> = self.buffer.drain(..end + 2).collect();
            let event = String::from_utf8(event).expect("we sent ASCII");
            let mut name = String::new();
            let mut data = Vec::new();
            for line in event.lines() {
                if let Some(rest) = line.strip_prefix("event:") {
                    name = rest.trim().to_owned();
                } else if let Some(rest) = line.strip_prefix("data:") {
                    data.push(rest);
                }
            }
            if !name.is_empty() {
                return Some((name, data.join("\n")));
            }
        }
    }
}
