//! `kill -9` in a loop under load: what was acknowledged is there exactly once, at its offset; what was never sent
//! is not there. (Invariants I1 to I4.)

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use integration::{Client, Server, scratch_dir};

/// What one writer knows of one stream.
struct Stream {
    path: String,
    json: bool,
    producer: bool,
    /// Messages that were acknowledged, with the offset after each.
    acknowledged: Vec<(String, String)>,
    /// Sent, and never answered: may be there, wholly, once.
    unknown: Vec<String>,
    next_seq: u64,
    closed: bool,
    deleted: bool,
    maybe_closed: bool,
    maybe_deleted: bool,
}

impl Stream {
    fn content_type(&self) -> &'static str {
        if self.json {
            "application/json"
        } else {
            "application/octet-stream"
        }
    }
}

struct Writer {
    id: usize,
    round: usize,
    streams: Vec<Stream>,
    sent: u64,
}

/// Writes until the connection breaks.
fn write(writer: &mut Writer, address: &str, stop: &AtomicBool) {
    let mut client = Client::connect(address);
    while !stop.load(Ordering::Relaxed) {
        writer.sent += 1;
        let turn = writer.sent;
        let count = writer.streams.len();
        if count < 6 || turn.is_multiple_of(40) {
            if create(writer, &mut client).is_err() {
                return;
            }
            continue;
        }
        let index = (turn as usize * 7) % count;
        let stream = &mut writer.streams[index];
        if stream.closed || stream.deleted || stream.maybe_closed || stream.maybe_deleted {
            continue;
        }
        let result = match turn % 97 {
            0 => close(stream, &mut client),
            1 => delete(stream, &mut client),
            _ => append(stream, &mut client, writer.id, turn),
        };
        if result.is_err() {
            return;
        }
    }
}

fn create(writer: &mut Writer, client: &mut Client) -> std::io::Result<()> {
    let number = writer.streams.len();
    let json = number.is_multiple_of(2);
    let path = format!("/v1/stream/w{}/r{}/s{number}", writer.id, writer.round);
    let source = writer.streams.iter().find(|s| {
        number % 5 == 4
            && s.json == json
            && !s.acknowledged.is_empty()
            && s.unknown.is_empty()
            && !s.deleted
            && !s.maybe_deleted
    });
    let mut stream = Stream {
        path: path.clone(),
        json,
        producer: !number.is_multiple_of(3),
        acknowledged: Vec::new(),
        unknown: Vec::new(),
        next_seq: 0,
        closed: false,
        deleted: false,
        maybe_closed: false,
        maybe_deleted: false,
    };
    let content_type = stream.content_type();
    let mut headers = vec![("content-type", content_type)];
    let source_path;
    let fork_offset;
    if let Some(source) = source {
        let middle = source.acknowledged.len() / 2;
        source_path = source.path.clone();
        fork_offset = source.acknowledged[middle].1.clone();
        headers.push(("stream-forked-from", &source_path));
        headers.push(("stream-fork-offset", &fork_offset));
        stream.acknowledged = source.acknowledged[..=middle].to_vec();
    }
    let reply = client.try_send("PUT", &path, &headers, b"")?;
    assert!(
        matches!(reply.status, 201 | 200),
        "{path}: {} {}",
        reply.status,
        reply.text()
    );
    writer.streams.push(stream);
    Ok(())
}

fn append(
    stream: &mut Stream,
    client: &mut Client,
    writer: usize,
    turn: u64,
) -> std::io::Result<()> {
    let filler = "x".repeat((turn * 31 % 900) as usize);
    let message = format!("{{\"w\":{writer},\"t\":{turn},\"x\":\"{filler}\"}}");
    let epoch = "0".to_owned();
    let seq = stream.next_seq.to_string();
    let mut headers = vec![("content-type", stream.content_type())];
    if stream.producer {
        headers.extend([
            ("producer-id", "p"),
            ("producer-epoch", &*epoch),
            ("producer-seq", &*seq),
        ]);
    }
    match client.try_send("POST", &stream.path, &headers, message.as_bytes()) {
        Ok(reply) => {
            assert!(
                matches!(reply.status, 200 | 204),
                "{}: {} {}",
                stream.path,
                reply.status,
                reply.text()
            );
            stream.acknowledged.push((message, reply.next()));
            stream.next_seq += 1;
            Ok(())
        }
        Err(error) => {
            stream.unknown.push(message);
            Err(error)
        }
    }
}

fn close(stream: &mut Stream, client: &mut Client) -> std::io::Result<()> {
    stream.maybe_closed = true;
    let reply = client.try_send("POST", &stream.path, &[("stream-closed", "true")], b"")?;
    assert_eq!(reply.status, 204, "{}", reply.text());
    stream.closed = true;
    Ok(())
}

fn delete(stream: &mut Stream, client: &mut Client) -> std::io::Result<()> {
    stream.maybe_deleted = true;
    let reply = client.try_send("DELETE", &stream.path, &[], b"")?;
    assert_eq!(reply.status, 204, "{}", reply.text());
    stream.deleted = true;
    Ok(())
}

/// Compares a stream with what its writer knows; retries the append whose answer was lost.
fn verify(stream: &mut Stream, client: &mut Client) -> usize {
    let head = client.send("HEAD", &stream.path, &[], b"");
    if stream.deleted {
        assert!(
            matches!(head.status, 404 | 410),
            "{} is back: {}",
            stream.path,
            head.status
        );
        return 0;
    }
    if stream.maybe_deleted && matches!(head.status, 404 | 410) {
        stream.deleted = true;
        return 0;
    }
    assert_eq!(head.status, 200, "{} is gone", stream.path);
    let is_closed = head.header("stream-closed") == "true";
    assert!(is_closed || !stream.closed, "{} is open again", stream.path);
    stream.closed = is_closed;
    stream.maybe_closed &= is_closed;
    if stream.producer
        && !is_closed
        && let Some(message) = stream.unknown.pop()
    {
        // The producer sends it again: afterwards it is there exactly once, whatever happened before.
        let seq = stream.next_seq.to_string();
        let headers = [
            ("content-type", stream.content_type()),
            ("producer-id", "p"),
            ("producer-epoch", "0"),
            ("producer-seq", &*seq),
        ];
        let reply = client.send("POST", &stream.path, &headers, message.as_bytes());
        assert!(
            matches!(reply.status, 200 | 204),
            "{}: {} {}",
            stream.path,
            reply.status,
            reply.text()
        );
        stream.acknowledged.push((message, reply.next()));
        stream.next_seq += 1;
    }
    let found = messages(stream, client);
    let mut expected = stream.acknowledged.iter();
    let mut unknown: Vec<&String> = stream.unknown.iter().collect();
    let mut known = Vec::new();
    let mut next = expected.next();
    for (message, end) in &found {
        if next.is_some_and(|(m, _)| m == message) {
            let (_, offset) = next.unwrap();
            assert_eq!(end, offset, "{}: a message moved", stream.path);
            next = expected.next();
        } else if let Some(at) = unknown.iter().position(|m| *m == message) {
            unknown.remove(at);
        } else {
            panic!(
                "{}: {message:.60} was never sent, or stands twice",
                stream.path
            );
        }
        known.push((message.clone(), end.clone()));
    }
    assert!(
        next.is_none(),
        "{}: an acknowledged message is lost: {:?}",
        stream.path,
        next.map(|n| &n.1)
    );
    stream.acknowledged = known;
    stream.unknown.clear();
    found.len()
}

/// The messages of a stream, each with the offset after it.
fn messages(stream: &Stream, client: &mut Client) -> Vec<(String, String)> {
    let all = if stream.json {
        // Stored with two bytes behind each message.
        let mut texts = Vec::new();
        let mut offset = "-1".to_owned();
        loop {
            let reply = client.get(&format!("{}?offset={offset}", stream.path));
            assert_eq!(reply.status, 200, "{}", reply.text());
            let body = reply.text();
            let inner = &body[1..body.len() - 1];
            texts.extend(split(inner).into_iter().map(|m| (m, 2)));
            offset = reply.next();
            if reply.header("stream-up-to-date") == "true" {
                break texts;
            }
        }
    } else {
        let text = String::from_utf8(client.read_all(&stream.path)).unwrap();
        split(&text).into_iter().map(|m| (m, 0)).collect()
    };
    let mut position = 0;
    all.into_iter()
        .map(|(message, behind)| {
            position += message.len() + behind;
            (message, format!("0000000000000000_{position:016}"))
        })
        .collect()
}

/// The messages are flat objects, so that a closing brace ends one.
fn split(text: &str) -> Vec<String> {
    text.split_inclusive('}')
        .map(|m| m.trim_start_matches([',', '\n']).to_owned())
        .collect()
}

#[test]
fn thirty_kills_under_load_lose_nothing_and_double_nothing() {
    let kills: usize = std::env::var("URSULA_TEST_KILLS")
        .ok()
        .and_then(|k| k.parse().ok())
        .unwrap_or(30);
    let dir = scratch_dir();
    let path = dir.path().to_str().unwrap();
    let mut writers: Vec<Writer> = (0..4)
        .map(|id| Writer {
            id,
            round: 0,
            streams: Vec::new(),
            sent: 0,
        })
        .collect();
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for round in 0..=kills {
        let cores = ["1", "2", "4"][round % 3];
        // In two rounds of three, checkpoints and recycling happen all the time.
        let (segment, checkpoint) =
            [("1MiB", "64KiB"), ("1MiB", "256KiB"), ("32MiB", "64MiB")][round % 3];
        let settings = [
            "--wal-dir",
            path,
            "--core-count",
            cores,
            "--no-pin",
            "--wal-segment-bytes",
            segment,
            "--checkpoint-bytes",
            checkpoint,
            "--hot-bytes-max",
            "32MiB",
            "--wal-sync",
            ["fdatasync", "dsync"][round % 2],
        ];
        let server = Server::start(&settings);
        let mut client = server.client();
        for stream in writers.iter_mut().flat_map(|w| &mut w.streams) {
            *seen.entry("messages").or_default() += verify(stream, &mut client);
        }
        if round == kills {
            assert!(server.stop().success());
            break;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let address = server.address.clone();
        let threads: Vec<_> = writers
            .drain(..)
            .map(|mut writer| {
                writer.round = round;
                // Old streams stay under test, but the work of a round stays bounded.
                if writer.streams.len() > 60 {
                    writer.streams.drain(..20);
                }
                let (address, stop) = (address.clone(), stop.clone());
                std::thread::spawn(move || {
                    write(&mut writer, &address, &stop);
                    writer
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(150 + (round as u64 * 97) % 500));
        server.kill();
        stop.store(true, Ordering::Relaxed);
        writers = threads
            .into_iter()
            .map(|t| t.join().expect("a writer's claim failed"))
            .collect();
    }
    let sent: u64 = writers.iter().map(|w| w.sent).sum();
    println!(
        "{kills} kills, {sent} requests, {} messages compared",
        seen["messages"]
    );
    assert!(sent > 1000, "the load was too low to mean anything: {sent}");
}
