//! Reads back what was acknowledged and compares: all of it, in order, once.

use std::collections::BTreeMap;
use std::time::Instant;

use super::{Homes, LoadError, Site};
use crate::engine::{Driver, Engine, Next};
use crate::record::scan;
use crate::reply::Reply;

/// What one stream's writers know of their records.
#[derive(Debug, Clone, Default)]
pub struct Written {
    /// By writer: the number of its next record.
    next: BTreeMap<u32, u64>,
    /// Records that no answer confirmed: they may be there or not.
    unknown: Vec<(u32, u64)>,
}

impl Written {
    /// The number for a writer's next record, which counts as sent from now on.
    pub fn next_of(&mut self, writer: u32) -> u64 {
        let next = self.next.entry(writer).or_default();
        *next += 1;
        *next - 1
    }

    /// How many records the server has for certain.
    pub fn confirmed(&self) -> u64 {
        self.next.values().sum::<u64>() - self.unknown.len() as u64
    }

    /// What the server said of a record.
    pub fn told(&mut self, writer: u32, number: u64, is_done: bool) {
        if !is_done {
            self.unknown.push((writer, number));
        }
    }
}

struct Reading {
    offset: String,
    kept: Vec<u8>,
    /// By writer: the number that must come next.
    seen: BTreeMap<u32, u64>,
}

struct Verifier<'a> {
    site: &'a Site<'a>,
    written: &'a [Written],
    /// By node: what is still to be read from it.
    waiting: Vec<Vec<usize>>,
    open: Vec<Option<(usize, Reading)>>,
    left: usize,
    violations: Vec<String>,
}

/// Connections to each node.
const READERS: usize = 16;

/// Reads all streams of a run.
///
/// # Errors
/// The system's.
pub fn verify(
    site: &Site<'_>,
    homes: &Homes,
    written: &[Written],
) -> Result<Vec<String>, LoadError> {
    let nodes = site.target.addresses.len();
    let mut engine = Engine::connect(&site.target.addresses, nodes * READERS)?;
    let mut waiting = vec![Vec::new(); nodes];
    for stream in 0..written.len() {
        waiting[homes.reader_of(stream, nodes)].push(stream);
    }
    let mut verifier = Verifier {
        site,
        written,
        waiting,
        open: (0..engine.len()).map(|_| None).collect(),
        left: written.len(),
        violations: Vec::new(),
    };
    engine.run(&mut verifier)?;
    Ok(verifier.violations)
}

impl Verifier<'_> {
    fn check(&mut self, stream: usize, reading: &Reading) {
        for (writer, next) in &self.written[stream].next {
            let seen = reading.seen.get(writer).copied().unwrap_or(0);
            let may_lack =
                (seen..*next).all(|n| self.written[stream].unknown.contains(&(*writer, n)));
            if !may_lack {
                self.violations.push(format!(
                    "stream {stream}: writer {writer} has {next} records, {seen} are there"
                ));
            }
        }
    }
}

impl Driver for Verifier<'_> {
    fn next(&mut self, connection: usize, _: Instant, request: &mut Vec<u8>) -> Next {
        if self.open[connection].is_none() {
            let node = connection % self.waiting.len();
            let Some(stream) = self.waiting[node].pop() else {
                return Next::Idle;
            };
            let reading = Reading {
                offset: "-1".to_owned(),
                kept: Vec::new(),
                seen: BTreeMap::new(),
            };
            self.open[connection] = Some((stream, reading));
        }
        if let Some((stream, reading)) = &self.open[connection] {
            let target = format!("{}?offset={}", self.site.stream(*stream), reading.offset);
            self.site.target.put(request, "GET", &target, "");
        }
        Next::Send
    }

    fn reply(&mut self, connection: usize, reply: Reply<'_>, _: Instant) {
        let Some((stream, mut reading)) = self.open[connection].take() else {
            return;
        };
        if reply.status != 200 {
            self.violations
                .push(format!("stream {stream}: read: status {}", reply.status));
            self.left -= 1;
            return;
        }
        reading.kept.extend_from_slice(reply.body);
        let (written, violations) = (&self.written[stream], &mut self.violations);
        let seen = &mut reading.seen;
        let used = scan(&reading.kept, &mut |mark| {
            let sent = written.next.get(&mark.writer).copied().unwrap_or(0);
            let next = seen.entry(mark.writer).or_default();
            let skips = *next..mark.number;
            if mark.number >= sent {
                violations.push(format!("stream {stream}: {mark:?} was never sent"));
            } else if mark.number < *next {
                violations.push(format!(
                    "stream {stream}: {mark:?} came after number {}",
                    *next - 1
                ));
            } else if !skips
                .into_iter()
                .all(|n| written.unknown.contains(&(mark.writer, n)))
            {
                violations.push(format!(
                    "stream {stream}: before {mark:?} from number {next} on is missing"
                ));
            }
            *next = (*next).max(mark.number + 1);
        });
        reading.kept.drain(..used);
        let next = reply
            .header("stream-next-offset")
            .unwrap_or_default()
            .to_owned();
        let is_last = reply
            .header("stream-up-to-date")
            .is_some_and(|v| v == "true");
        if is_last || next == reading.offset {
            self.check(stream, &reading);
            self.left -= 1;
        } else {
            reading.offset = next;
            self.open[connection] = Some((stream, reading));
        }
    }

    fn lost(&mut self, connection: usize, reason: &str) {
        if let Some((stream, _)) = self.open[connection].take() {
            self.violations
                .push(format!("stream {stream}: read: {reason}"));
            self.left -= 1;
        }
    }

    fn is_done(&self, _: Instant) -> bool {
        self.left == 0
    }
}
