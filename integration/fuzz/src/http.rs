//! What stands in a request: path, query, header lines, values; and events, which carry what clients sent to others.
//! The first byte of the input chooses which.

use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use ursula::http::{parse, path, sse_text};
use ursula::protocol::{BucketName, ContentType, Offset, json};

/// Reads the input as one of the things that a client sends.
pub fn http(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else {
        return;
    };
    match choice % 5 {
        0 => in_text(rest, a_path),
        1 => in_text(rest, a_query),
        2 => headers(rest),
        3 => events(rest),
        _ => in_text(rest, values),
    }
}

fn in_text(bytes: &[u8], read: fn(&str)) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        read(text);
    }
}

/// A stream's path leads to a key whose own path leads back to it.
pub fn a_path(text: &str) {
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
    read_headers(&map);
}

/// Each reader of headers takes or refuses them.
pub fn read_headers(map: &HeaderMap) {
    let _ = parse::content_type(map);
    let _ = parse::closed(map);
    let _ = parse::transfer_encoding(map);
    let _ = parse::expiry(map);
    let _ = parse::stream_seq(map);
    let _ = parse::producer(map);
    let _ = parse::fork(map);
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
