//! After the load: what all nodes say, and whether all that was ever said fits together.

use std::time::{Duration, Instant};

use super::payload::{length, offset};
use super::worker::told;
use super::{Links, Sent, Stream};
use crate::history::{Call, History, Operation, Outcome};
use crate::linear::Violation;
use crate::{linear, repository};

/// Longest wait for a node to answer a read.
const PATIENCE: Duration = Duration::from_secs(30);

/// The number under which these reads stand in the history.
const READER: u32 = 999;

/// Reads all streams to their ends from every node, notes that, and demands that all nodes say the same bytes.
///
/// # Panics
/// If they do not, or one does not answer.
pub fn read_back(addresses: &[String], streams: &[Stream], history: &History) -> usize {
    let mut links = Links::new(addresses, PATIENCE / 6);
    let mut bytes = 0;
    for stream in streams {
        let first = read_to_end(&mut links, 0, stream, history);
        bytes += first.as_ref().map_or(0, Vec::len);
        for node in 1..addresses.len() {
            let other = read_to_end(&mut links, node, stream, history);
            let lengths = [&first, &other].map(|o| o.as_ref().map(Vec::len));
            assert!(
                first == other,
                "nodes 1 and {} differ about {}: {lengths:?} bytes",
                node + 1,
                stream.path
            );
        }
    }
    bytes
}

/// The bytes of a stream, as a node tells them; none if there is no such stream.
fn read_to_end(
    links: &mut Links,
    node: usize,
    stream: &Stream,
    history: &History,
) -> Option<Vec<u8>> {
    let deadline = Instant::now() + PATIENCE;
    let who = (READER, node as u32 + 1);
    let (mut from, mut all) = (0, Vec::new());
    loop {
        let path = format!("{}?offset={}", stream.path, offset(from));
        let invoked = history.now();
        let sent = links.send(node, "GET", &path, &[], b"");
        let Sent::Answered(reply) = sent else {
            let what = if matches!(sent, Sent::Refused) {
                "refuses"
            } else {
                "does not answer"
            };
            let patient = Instant::now() < deadline;
            assert!(patient, "node {} {what} {path} for {PATIENCE:?}", node + 1);
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        let call = Call::Read { from, exact: true };
        if matches!(reply.status, 404 | 410) {
            history.note(&stream.path, who, invoked, call, Outcome::Missing);
            return None;
        }
        let outcome = told(&reply, from, stream.is_json);
        let Outcome::Content {
            next, up_to_date, ..
        } = outcome
        else {
            panic!("{path}: {} {}", reply.status, reply.text());
        };
        history.note(&stream.path, who, invoked, call, outcome);
        let is_cut = super::position(reply.header("stream-next-offset")) != next;
        let whole = if is_cut {
            (next - from) as usize
        } else {
            reply.body.len()
        };
        all.extend_from_slice(&reply.body[..whole]);
        if up_to_date {
            return Some(all);
        }
        assert!(next > from, "{path}: nothing more, and not up to date");
        from = next;
    }
}

/// What was judged.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Operations that had to fit.
    pub operations: usize,
    /// Messages whose place is known.
    pub messages: usize,
    /// Most configurations at once of any stream.
    pub configurations: usize,
    /// Streams of which too much was unknown to say.
    pub inconclusive: usize,
}

/// Checks the histories of all these streams.
///
/// # Panics
/// With what is wrong; the history stands in a file then. Also if the histories of more than a few streams are inconclusive.
pub fn judge(streams: &[Stream], history: &History) -> Verdict {
    let histories = history.streams();
    let mut verdict = Verdict::default();
    for stream in streams {
        let Some(operations) = histories.get(&stream.path) else {
            continue;
        };
        match linear::check(operations, &|m| length(m, stream.is_json)) {
            Ok(checked) => {
                verdict.operations += checked.operations;
                verdict.messages += checked.messages;
                verdict.configurations = verdict.configurations.max(checked.configurations);
            }
            // A stream that was deleted several times while answers were lost may have gone too many ways.
            Err(Violation::Inconclusive(text)) => {
                println!("{}: inconclusive: {text:.200}", stream.path);
                verdict.inconclusive += 1;
            }
            Err(violation) => {
                let file = keep(stream, operations);
                let lives = lives(operations);
                panic!(
                    "{}: {violation}\nits lives:\n{lives}all of it: {file}",
                    stream.path
                );
            }
        }
    }
    assert!(
        verdict.inconclusive <= 1 + streams.len() / 50,
        "of too many streams nothing can be said: {verdict:?}"
    );
    verdict
}

/// What made, closed and deleted a stream, and what was told of that: few lines, which explain most.
fn lives(operations: &[Operation]) -> String {
    let is_of_a_life = |o: &&Operation| matches!(o.call, Call::Create | Call::Delete | Call::Close);
    let some = operations.iter().filter(is_of_a_life);
    let some = some.filter(|o| o.outcome != Outcome::Existed);
    some.map(|o| format!("  {o:?}\n")).collect()
}

fn keep(stream: &Stream, operations: &[Operation]) -> String {
    let dir = repository().join("target/histories");
    let file = dir.join(format!("{}.txt", stream.path.replace('/', "-")));
    let mut sorted: Vec<&Operation> = operations.iter().collect();
    sorted.sort_by_key(|o| o.invoked);
    let text: String = sorted.iter().map(|o| format!("{o:?}\n")).collect();
    let written = std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(&file, text));
    written.map_or_else(
        |e| format!("not kept: {e}"),
        |()| file.display().to_string(),
    )
}
