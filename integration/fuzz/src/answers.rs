//! What a server sent on one connection, read back as a client would, and how much of it an input must get.

use std::collections::BTreeMap;

/// What there is of HTTP/1.1.
#[derive(Debug, Default)]
pub struct Answers {
    /// Whole ones, in order; those of the service before any of hyper's own.
    pub whole: Vec<Answer>,
    /// The last one is an event stream, which goes on.
    pub has_events: bool,
}

/// One answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// None follows on this connection.
    pub is_last: bool,
}

/// Reads answers to requests, of which it is known whether each was a HEAD. One more than these is hyper's own word on what it
/// does not take for a request. Where the connection `has_ended`, that may be the end of a body too.
pub fn read(output: &[u8], are_heads: &[bool], has_ended: bool) -> Answers {
    let mut answers = Answers::default();
    let mut has_interim = false;
    let mut rest = output;
    while !rest.is_empty() {
        let before = answers.whole.len();
        assert!(
            !answers.has_events,
            "something stands behind a body that has no end"
        );
        let was_last = answers.whole.last().is_some_and(|answer| answer.is_last);
        assert!(!was_last, "an answer behind the last one: {answers:?}");
        assert!(
            before <= are_heads.len(),
            "more answers than requests: {answers:?}"
        );
        let (status, headers, body) = head(rest);
        if status == 100 {
            assert!(!has_interim, "told twice to go on");
            has_interim = true;
            rest = body;
            continue;
        }
        has_interim = false;
        assert!((200..600).contains(&status), "status {status}");
        if before == are_heads.len() {
            assert!(
                matches!(status, 400 | 414 | 431 | 505),
                "{status} to no request"
            );
        }
        let length = headers.get("content-length").map(|value| {
            let length: usize = value.parse().expect("a length is a number");
            assert_eq!(length.to_string(), *value);
            length
        });
        let is_chunked = headers
            .get("transfer-encoding")
            .is_some_and(|value| value == "chunked");
        assert!(length.is_none() || !is_chunked, "its length is said twice");
        let is_empty = are_heads.get(before) == Some(&true) || matches!(status, 204 | 304);
        let after = match length {
            _ if is_empty => Some(body),
            Some(length) => body.get(length..),
            None if is_chunked => chunks(body),
            None => has_ended.then_some(&body[body.len()..]),
        };
        let Some(after) = after else {
            let is_events = headers
                .get("content-type")
                .is_some_and(|value| value == "text/event-stream");
            assert!(
                is_events,
                "half an answer: {status} {headers:?} {}",
                body.escape_ascii()
            );
            answers.has_events = true;
            break;
        };
        let is_last = headers
            .get("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"));
        answers.whole.push(Answer { status, is_last });
        rest = after;
    }
    answers
}

/// Status, headers by their names in small letters, and what follows.
fn head(bytes: &[u8]) -> (u16, BTreeMap<String, String>, &[u8]) {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("half a head: {}", bytes.escape_ascii()));
    let text = std::str::from_utf8(&bytes[..end]).expect("heads are of ASCII");
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let is_http = first.starts_with("HTTP/1.1 ") || first.starts_with("HTTP/1.0 ");
    assert!(is_http, "{first:?} is no status");
    let status = first[9..].split(' ').next().unwrap_or_default();
    let status = status.parse().expect("a status is a number");
    let mut headers = BTreeMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').expect("a header has a name");
        let name = name.to_ascii_lowercase();
        let is_frame = name == "content-length" || name == "transfer-encoding";
        let before = headers.insert(name, value.trim().to_owned());
        assert!(before.is_none() || !is_frame, "{line:?} twice");
    }
    (status, headers, &bytes[end + 4..])
}

/// What follows a chunked body, if that has an end.
fn chunks(mut bytes: &[u8]) -> Option<&[u8]> {
    loop {
        let end = bytes.windows(2).position(|two| two == b"\r\n")?;
        let size = std::str::from_utf8(&bytes[..end]).expect("a size is of ASCII");
        let size = usize::from_str_radix(size, 16).expect("a size is a number");
        let after = bytes.get(end + 2 + size..)?;
        let after = after.get(..2).map(|line| {
            assert_eq!(line, b"\r\n", "a chunk is longer than it says");
            &after[2..]
        })?;
        if size == 0 {
            return Some(after);
        }
        bytes = after;
    }
}

/// The requests that an input begins with about which there is no question, each with the length of its body: far fewer than a
/// server has to take.
pub fn plain_requests(mut input: &[u8]) -> Vec<usize> {
    let mut bodies = Vec::new();
    while let Some((body, rest)) = plain_request(input) {
        bodies.push(body);
        input = rest;
    }
    bodies
}

fn plain_request(input: &[u8]) -> Option<(usize, &[u8])> {
    let end = input.windows(4).position(|four| four == b"\r\n\r\n")?;
    let text = std::str::from_utf8(&input[..end]).ok()?;
    let mut lines = text.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, path) = (words.next()?, words.next()?);
    if words.next()? != "HTTP/1.1" || words.next().is_some() {
        return None;
    }
    let has_body = matches!(method, "POST" | "PUT");
    let is_method = has_body || matches!(method, "GET" | "HEAD" | "DELETE" | "OPTIONS");
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/-_.?=&".contains(c);
    // Who follows a stream waits here for ever.
    let is_path = path.starts_with('/') && path.chars().all(is_plain) && !path.contains("live");
    let mut length = None;
    for line in lines {
        let (name, value) = line.split_once(": ")?;
        let name = name.to_ascii_lowercase();
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let is_sound = !name.is_empty()
            && name.chars().all(is_name)
            && value.chars().all(|c| c == ' ' || c.is_ascii_graphic());
        let is_of_the_connection = matches!(
            name.as_str(),
            "connection"
                | "expect"
                | "http2-settings"
                | "keep-alive"
                | "proxy-connection"
                | "te"
                | "trailer"
                | "transfer-encoding"
                | "upgrade"
        );
        if !is_sound || is_of_the_connection {
            return None;
        }
        if name == "content-length" {
            let is_number =
                (1..6).contains(&value.len()) && value.chars().all(|c| c.is_ascii_digit());
            if !is_number || length.is_some() {
                return None;
            }
            length = value.parse().ok();
        }
    }
    let length = length.unwrap_or(0);
    let is_one =
        is_method && is_path && (has_body || length == 0) && text.matches("\r\n").count() < 100;
    let rest = input.get(end + 4 + length..)?;
    is_one.then_some((length, rest))
}

/// What there is of HTTP/2.
#[derive(Debug, Default)]
pub struct Streams {
    /// Answers that were begun.
    pub answered: usize,
    /// Streams that were broken off before.
    pub unanswered: usize,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;

/// Reads frames: each stream has one answer at most, and nothing follows its end.
pub fn read_h2(output: &[u8]) -> Streams {
    let mut ended: BTreeMap<u32, bool> = BTreeMap::new();
    let mut streams = Streams::default();
    let mut rest = output;
    while let Some((kind, flags, stream, after)) = frame(rest) {
        rest = after;
        let is_end = flags & 1 == 1;
        match kind {
            HEADERS => {
                let before = ended.insert(stream, is_end);
                assert_eq!(before, None, "stream {stream} is answered twice");
                streams.answered += 1;
            }
            DATA => {
                let before = ended.insert(stream, is_end);
                assert_eq!(before, Some(false), "data of stream {stream}");
            }
            RST_STREAM => {
                let before = ended.insert(stream, true);
                streams.unanswered += usize::from(before.is_none());
            }
            _ => {}
        }
    }
    assert!(rest.is_empty(), "half a frame: {}", rest.escape_ascii());
    streams
}

/// Streams that a client breaks off.
pub fn resets(input: &[u8]) -> usize {
    let mut rest = input.strip_prefix(PREFACE).unwrap_or_default();
    let mut count = 0;
    while let Some((kind, _, _, after)) = frame(rest) {
        count += usize::from(kind == RST_STREAM);
        rest = after;
    }
    count
}

fn frame(bytes: &[u8]) -> Option<(u8, u8, u32, &[u8])> {
    let (head, rest) = bytes.split_at_checked(9)?;
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
    Some((head[3], head[4], stream, rest.get(length..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "HTTP/1.1 204 No Content\r\ndate: x\r\n\r\n";
    const CHUNKED: &str =
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    const LONG: &str = "HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno";
    const REFUSED: &str =
        "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    const EVENTS: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n";

    fn statuses(output: &str, heads: &[bool]) -> Option<(Vec<u16>, bool)> {
        let read = std::panic::catch_unwind(|| read(output.as_bytes(), heads, false));
        let read = read.ok()?;
        let statuses = read.whole.iter().map(|answer| answer.status);
        Some((statuses.collect(), read.has_events))
    }

    #[test]
    fn answers_are_told_apart_and_each_has_a_request() {
        let all = [EMPTY, CHUNKED, LONG, REFUSED].concat();
        let read = statuses(&all, &[false; 3]);
        assert_eq!(read, Some((vec![204, 200, 404, 400], false)));
        let head = [&LONG[..LONG.len() - 2], EVENTS].concat();
        assert_eq!(statuses(&head, &[true, false]), Some((vec![404], true)));
        for (wrong, heads) in [
            (EMPTY.repeat(2), 1),
            (REFUSED.repeat(2), 1),
            (LONG[..LONG.len() - 1].to_owned(), 1),
            (CHUNKED[..CHUNKED.len() - 1].to_owned(), 1),
            (EMPTY[..EMPTY.len() - 1].to_owned(), 1),
            ([LONG, "x"].concat(), 2),
            ([EVENTS, EMPTY].concat(), 2),
        ] {
            assert_eq!(statuses(&wrong, &vec![false; heads]), None, "{wrong:?}");
        }
    }

    #[test]
    fn plain_requests_end_where_there_is_a_question() {
        let plain =
            "POST /a?b=c HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhiGET /a HTTP/1.1\r\n\r\n";
        for rest in [
            "GET /a HTTP/1.0\r\n\r\n",
            "GET /a?live=sse HTTP/1.1\r\n\r\n",
            "GET /a HTTP/1.1\r\nconnection: close\r\n\r\n",
            "PUT /a HTTP/1.1\r\ncontent-length: 2\r\n\r\nh",
        ] {
            assert_eq!(plain_requests((plain.to_owned() + rest).as_bytes()), [2, 0]);
        }
    }

    #[test]
    fn a_stream_is_answered_once() {
        let frame = |kind, flags| [0, 0, 0, kind, flags, 0, 0, 0, 1];
        let sound = [frame(HEADERS, 0), frame(DATA, 1)].concat();
        assert_eq!(read_h2(&sound).answered, 1);
        for more in [frame(HEADERS, 1), frame(DATA, 1)] {
            let wrong = [&sound[..], &more].concat();
            assert!(std::panic::catch_unwind(|| read_h2(&wrong)).is_err());
        }
    }
}
