//! Paths, queries, headers and bodies. The first byte of the input chooses which.

use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::value::RawValue;
use ursula::http::{parse, path, sse_text};
use ursula::protocol::{BucketName, ContentType, Offset, json};

/// Reads the input as one of the things that a client sends.
pub fn requests(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else {
        return;
    };
    match choice % 6 {
        0 => in_text(rest, a_path),
        1 => in_text(rest, a_query),
        2 => headers(rest),
        3 => json_body(rest),
        4 => events(rest),
        _ => in_text(rest, values),
    }
}

fn in_text(bytes: &[u8], read: fn(&str)) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        read(text);
    }
}

/// A stream's path leads to a key whose own path leads back to it.
fn a_path(text: &str) {
    if let Ok(path::Route::Stream(key)) = path::route(text) {
        assert!(key.id().len() <= 1024 && !key.id().contains('\0'));
        let own = path::path_of(&key);
        assert!(own.bytes().all(|b| b.is_ascii_graphic()), "{own:?}");
        assert_eq!(
            path::route(&own).unwrap(),
            path::Route::Stream(key),
            "{own}"
        );
    }
    if let Ok(key) = path::stream_path(text) {
        assert_eq!(path::stream_path(&path::path_of(&key)).unwrap(), key);
    }
}

fn a_query(text: &str) {
    let _ = parse::read_query(Some(text));
    if let Ok(list) = parse::list_query(Some(text)) {
        assert!((1..=1000).contains(&list.limit));
    }
}

/// Header lines as they stand in a request.
fn headers(bytes: &[u8]) {
    let mut map = HeaderMap::new();
    for line in bytes.split(|b| *b == b'\n').take(64) {
        let colon = line.iter().position(|b| *b == b':');
        let Some((name, value)) = colon.map(|at| (&line[..at], &line[at + 1..])) else {
            continue;
        };
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            map.append(name, value);
        }
    }
    let _ = parse::content_type(&map);
    let _ = parse::closed(&map);
    let _ = parse::transfer_encoding(&map);
    let _ = parse::expiry(&map);
    let _ = parse::stream_seq(&map);
    let _ = parse::producer(&map);
    let _ = parse::fork(&map);
}

/// What is stored reads back as the messages that were sent, however it is cut.
fn json_body(bytes: &[u8]) {
    let Ok(stored) = json::frame(bytes, true) else {
        return;
    };
    let read = |pieces: Vec<Bytes>| -> Vec<serde_json::Value> {
        serde_json::from_slice(&json::array(pieces).concat()).unwrap()
    };
    let text = std::str::from_utf8(bytes).unwrap();
    let sent: &RawValue = serde_json::from_str(text).unwrap();
    let is_array = sent.get().starts_with('[');
    // Numbers beyond a double and unpaired surrogates are valid JSON that Value does not hold.
    let Ok(sent) = serde_json::from_str::<serde_json::Value>(sent.get()) else {
        return;
    };
    let messages = match sent {
        serde_json::Value::Array(messages) if is_array => messages,
        other => vec![other],
    };
    assert_eq!(read(vec![stored.clone()]), messages);
    for limit in [1, stored.len() as u64 / 2 + 1] {
        let (mut at, mut found) = (0, Vec::new());
        while at < stored.len() {
            let middle = at + (stored.len() - at) / 3;
            let mut pieces = vec![stored.slice(at..middle), stored.slice(middle..)];
            pieces.retain(|p| !p.is_empty());
            at +=
                json::cut(&mut pieces, limit).expect("what is stored ends with a message") as usize;
            found.extend(read(pieces));
        }
        assert_eq!(found, messages, "cut at {limit}");
    }
    for number in 1..=messages.len() as u64 {
        let end = json::nth_message_end(&stored, number).unwrap();
        assert_eq!(read(vec![stored.slice(..end)]), messages[..number as usize]);
    }
    let more = messages.len() as u64 + 1;
    assert_eq!(json::nth_message_end(&stored, more), Err(more - 1));
}

/// No data breaks out of its event.
fn events(bytes: &[u8]) {
    let Some((choice, rest)) = bytes.split_first() else {
        return;
    };
    let (representation, rest) = match choice % 3 {
        0 => match json::frame(rest, false) {
            Ok(stored) => (sse_text::Representation::Json, stored),
            Err(_) => return,
        },
        1 if std::str::from_utf8(rest).is_err() => return,
        1 => (sse_text::Representation::Text, Bytes::copy_from_slice(rest)),
        _ => (
            sse_text::Representation::Binary,
            Bytes::copy_from_slice(rest),
        ),
    };
    let middle = rest.len() / 2;
    let pieces = [rest.slice(..middle), rest.slice(middle..)];
    let control = sse_text::Control {
        next: Offset(rest.len() as u64),
        cursor: 7,
        up_to_date: true,
        closed: false,
    };
    let _ = sse_text::open_character_len(&pieces);
    let text = sse_text::data(representation, &pieces, &control);
    let text = std::str::from_utf8(&text).expect("an event is text");
    let lines: Vec<&str> = text.split(['\r', '\n']).collect();
    assert_eq!(lines.iter().filter(|l| l.starts_with("event:")).count(), 2);
    assert!(
        lines
            .iter()
            .all(|l| l.is_empty() || l.starts_with("event:") || l.starts_with("data:")),
        "{text:?}"
    );
}

fn values(text: &str) {
    if let Ok(offset) = Offset::parse(text) {
        assert_eq!(offset.to_string(), text);
    }
    if let Some(content_type) = ContentType::parse(text) {
        assert!(HeaderValue::from_str(content_type.as_str()).is_ok());
        let again = ContentType::parse(content_type.as_str()).expect("it was accepted");
        assert_eq!(again.as_str(), content_type.as_str());
    }
    if let Ok(name) = BucketName::parse(text) {
        assert!((4..=64).contains(&name.as_str().len()));
    }
    let _ = ursula::protocol::parse_ttl(text);
    let _ = ursula::protocol::parse_rfc3339_ms(text);
    let _ = path::decode(text);
}
