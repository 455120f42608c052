//! Reads back what was acknowledged and compares: all of it, in order, once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::{Homes, Site};
use crate::engine::{Driver, Engine, Next};
use crate::record::{Content, Found, Mark, Scanner};
use crate::reply::Reply;
use crate::result::Violations;

/// What one stream's writers know of their records.
#[derive(Debug, Clone, Default)]
pub struct Written {
    /// By writer: the number of its next record.
    next: BTreeMap<u32, u64>,
    /// Records that no answer confirmed: they may be there or not.
    unknown: BTreeSet<(u32, u64)>,
}

impl Written {
    /// The records of a writer that was alone, all of them confirmed.
    pub fn of_one(count: u64) -> Written {
        Written {
            next: BTreeMap::from([(0, count)]),
            unknown: BTreeSet::new(),
        }
    }

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
            self.unknown.insert((writer, number));
        }
    }
}

/// How one stream's records come out.
#[derive(Default)]
struct Reading {
    stream: usize,
    offset: String,
    kept: Vec<u8>,
    /// By writer: the number that must come next.
    seen: BTreeMap<u32, u64>,
    /// Requests that were not answered, or only with "later".
    failures: u32,
    not_before: Option<Instant>,
}

struct Verifier<'a> {
    site: &'a Site<'a>,
    written: &'a [Written],
    content: Content,
    scanner: Scanner,
    /// By node: what is still to be read from it.
    waiting: Vec<Vec<usize>>,
    open: Vec<Option<Reading>>,
    left: usize,
    violations: Violations,
}

/// Connections to each node.
const READERS: usize = 16;

/// A read is tried so often, with this time between.
const ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(200);

/// Reads all streams of a run, and compares every byte.
pub fn verify(
    site: &Site<'_>,
    homes: &Homes,
    written: &[Written],
    (bytes, content): (usize, Content),
) -> Violations {
    let nodes = site.target.addresses.len();
    let mut waiting = vec![Vec::new(); nodes];
    for stream in 0..written.len() {
        waiting[homes.reader_of(stream, nodes)].push(stream);
    }
    let mut verifier = Verifier {
        site,
        written,
        content,
        scanner: Scanner::new(bytes, content),
        waiting,
        open: (0..nodes * READERS).map(|_| None).collect(),
        left: written.len(),
        violations: Violations::default(),
    };
    let engine = Engine::connect(&site.target.addresses, nodes * READERS);
    if let Err(error) = engine.and_then(|mut engine| engine.run(&mut verifier)) {
        let left = verifier.left;
        verifier
            .violations
            .add(|| format!("{left} streams could not be read back: {error}"));
    }
    verifier.violations
}

/// Takes a record into account that a reader got; says what is wrong with it.
fn follow(written: &Written, seen: &mut BTreeMap<u32, u64>, mark: Mark) -> Result<(), String> {
    let sent = written.next.get(&mark.writer).copied().unwrap_or(0);
    let next = seen.entry(mark.writer).or_default();
    let expected = *next;
    *next = (*next).max(mark.number + 1);
    if mark.number >= sent {
        return Err(format!("{mark:?} was never sent"));
    }
    if mark.number < expected {
        return Err(format!("{mark:?} came after number {}", expected - 1));
    }
    let may_lack = |n| written.unknown.contains(&(mark.writer, n));
    if !(expected..mark.number).all(may_lack) {
        return Err(format!(
            "before {mark:?} from number {expected} on is missing"
        ));
    }
    Ok(())
}

impl Verifier<'_> {
    /// The stream was read to its end.
    fn finish(&mut self, reading: &Reading) {
        let stream = reading.stream;
        self.left -= 1;
        for (writer, next) in &self.written[stream].next {
            let seen = reading.seen.get(writer).copied().unwrap_or(0);
            let may_lack =
                (seen..*next).all(|n| self.written[stream].unknown.contains(&(*writer, n)));
            if !may_lack {
                self.violations.add(|| {
                    format!("stream {stream}: writer {writer} has {next} records, {seen} are there")
                });
            }
        }
        if !reading.kept.is_empty() {
            self.violations
                .add(|| format!("stream {stream} ends inside a record"));
        }
    }

    /// Another attempt, or it counts as lost.
    fn again(&mut self, connection: usize, mut reading: Reading, reason: &str) {
        reading.failures += 1;
        if reading.failures > ATTEMPTS {
            let stream = reading.stream;
            self.left -= 1;
            self.violations
                .add(|| format!("stream {stream}: read: {reason}"));
            return;
        }
        reading.not_before = Some(Instant::now() + PAUSE);
        self.open[connection] = Some(reading);
    }
}

impl Driver for Verifier<'_> {
    fn next(&mut self, connection: usize, now: Instant, request: &mut Vec<u8>) -> Next {
        if self.open[connection].is_none() {
            let node = connection % self.waiting.len();
            let Some(stream) = self.waiting[node].pop() else {
                return Next::Idle;
            };
            self.open[connection] = Some(Reading {
                stream,
                offset: "-1".to_owned(),
                ..Reading::default()
            });
        }
        if let Some(reading) = &self.open[connection] {
            if let Some(at) = reading.not_before.filter(|at| *at > now) {
                return Next::At(at);
            }
            let path = self.site.stream(reading.stream);
            let target = format!("{path}?offset={}", reading.offset);
            self.site.target.put(request, "GET", &target, "");
        }
        Next::Send
    }

    fn reply(&mut self, connection: usize, reply: Reply<'_>, _: Instant) {
        let Some(mut reading) = self.open[connection].take() else {
            return;
        };
        let stream = reading.stream;
        if reply.status != 200 {
            let reason = format!("status {}", reply.status);
            if !matches!(reply.status, 429 | 500..) {
                reading.failures = ATTEMPTS;
            }
            return self.again(connection, reading, &reason);
        }
        reading.kept.extend_from_slice(reply.body);
        let (written, violations) = (&self.written[stream], &mut self.violations);
        let (seen, content) = (&mut reading.seen, self.content);
        let used = self.scanner.scan(&reading.kept, &mut |found| match found {
            Found::Record(mark) => {
                if let Err(wrong) = follow(written, seen, mark) {
                    violations.add(|| format!("stream {stream}: {wrong}"));
                }
            }
            Found::Garbled(mark) => {
                violations.add(|| format!("stream {stream}: the bytes after {mark:?} differ"));
            }
            Found::Between(bytes) if is_frame(content, bytes) => {}
            Found::Between(bytes) => violations.add(|| {
                let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
                format!("stream {stream}: {shown:?} stands between records")
            }),
        });
        reading.kept.drain(..used);
        let next = reply.header("stream-next-offset").unwrap_or_default();
        let is_last = reply
            .header("stream-up-to-date")
            .is_some_and(|v| v == "true");
        if is_last || next == reading.offset {
            self.finish(&reading);
        } else {
            reading.offset.replace_range(.., next);
            self.open[connection] = Some(reading);
        }
    }

    fn lost(&mut self, connection: usize, reason: &str) {
        if let Some(reading) = self.open[connection].take() {
            self.again(connection, reading, reason);
        }
    }

    fn is_done(&self, _: Instant) -> bool {
        self.left == 0
    }

    fn progress(&self) -> Option<String> {
        let count = self.written.len();
        Some(format!(
            "{} of {count} streams read back",
            count - self.left
        ))
    }
}

/// Whether these bytes may stand between records.
fn is_frame(content: Content, bytes: &[u8]) -> bool {
    content == Content::Json && bytes.iter().all(|b| b"[], \r\n\t".contains(b))
}
