//! The text of server-sent events (protocol, section 5.8). Pure.
//!
//! Injection is impossible because every line of a payload gets its own `data:` field, whatever ends it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};

use crate::protocol::{ContentType, Offset};

/// How a stream's bytes travel in events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Representation {
    /// An array of messages, one a line.
    Json,
    /// UTF-8 lines.
    Text,
    /// Base64.
    Binary,
}

impl Representation {
    /// Of a stream of this type.
    pub fn of(content_type: &ContentType) -> Representation {
        if content_type.is_json() {
            Representation::Json
        } else if content_type.is_text() {
            Representation::Text
        } else {
            Representation::Binary
        }
    }
}

/// What a control event says.
#[derive(Debug, Clone, Copy)]
pub struct Control {
    /// Where to read on.
    pub next: Offset,
    /// Absent once closed.
    pub cursor: u64,
    /// The reader has all there is.
    pub up_to_date: bool,
    /// Nothing will follow.
    pub closed: bool,
}

/// A comment that keeps proxies from closing an idle connection.
pub const HEARTBEAT: Bytes = Bytes::from_static(b": heartbeat\n\n");

/// How long a client that is cut off shall wait before it comes back, in milliseconds: what it says first.
pub fn retry(millis: u64) -> Bytes {
    format!("retry: {millis}\n\n").into()
}

/// A data event and the control event that follows it.
pub fn data(representation: Representation, pieces: &[Bytes], control: &Control) -> Bytes {
    let len: usize = pieces.iter().map(Bytes::len).sum();
    let mut text = BytesMut::with_capacity(len + len / 3 + 192);
    text.put_slice(b"event: data\n");
    match representation {
        Representation::Json => put_json(&mut text, pieces),
        Representation::Text => put_text(&mut text, pieces),
        Representation::Binary => put_base64(&mut text, pieces),
    }
    text.put_slice(b"\n");
    put_control(&mut text, control);
    text.freeze()
}

/// A control event alone.
pub fn control(control: &Control) -> Bytes {
    let mut text = BytesMut::with_capacity(160);
    put_control(&mut text, control);
    text.freeze()
}

fn put_control(text: &mut BytesMut, control: &Control) {
    text.put_slice(b"event: control\ndata:{\"streamNextOffset\":\"");
    text.put_slice(control.next.to_string().as_bytes());
    text.put_slice(b"\"");
    if !control.closed {
        text.put_slice(b",\"streamCursor\":\"");
        text.put_slice(control.cursor.to_string().as_bytes());
        text.put_slice(b"\"");
    }
    if control.up_to_date {
        text.put_slice(b",\"upToDate\":true");
    }
    if control.closed {
        text.put_slice(b",\"streamClosed\":true");
    }
    text.put_slice(b"}\n\n");
}

fn joined(pieces: &[Bytes]) -> Bytes {
    match pieces {
        [one] => one.clone(),
        many => many.concat().into(),
    }
}

fn put_json(text: &mut BytesMut, pieces: &[Bytes]) {
    let bytes = joined(pieces);
    let messages = bytes.strip_suffix(b",\n").unwrap_or(&bytes);
    text.put_slice(b"data:[\n");
    for line in messages.split(|b| *b == b'\n') {
        text.put_slice(b"data:");
        text.put_slice(line);
        text.put_slice(b"\n");
    }
    text.put_slice(b"data:]\n");
}

fn put_text(text: &mut BytesMut, pieces: &[Bytes]) {
    let bytes = joined(pieces);
    let lossy = String::from_utf8_lossy(&bytes);
    // CR LF, LF and a lone CR all end a line for a client.
    let mut rest = &*lossy;
    loop {
        let end = rest.find(['\n', '\r']);
        // A client takes one space off the front of a line; a payload's own must stay.
        text.put_slice(if rest.starts_with(' ') {
            &b"data: "[..]
        } else {
            &b"data:"[..]
        });
        text.put_slice(&rest.as_bytes()[..end.unwrap_or(rest.len())]);
        text.put_slice(b"\n");
        let Some(end) = end else {
            break;
        };
        let skip = if rest[end..].starts_with("\r\n") {
            2
        } else {
            1
        };
        rest = &rest[end + skip..];
    }
}

fn put_base64(text: &mut BytesMut, pieces: &[Bytes]) {
    text.put_slice(b"data:");
    text.put_slice(STANDARD.encode(joined(pieces)).as_bytes());
    text.put_slice(b"\n");
}

/// Bytes at the end of a text that belong to a character whose rest has not come: at most 3.
pub fn open_character_len(pieces: &[Bytes]) -> usize {
    let mut tail = [0u8; 3];
    let mut len = 0;
    for byte in pieces.iter().rev().flat_map(|p| p.iter().rev()).take(3) {
        len += 1;
        tail[3 - len] = *byte;
    }
    for back in 1..=len {
        let byte = tail[3 - back];
        if byte & 0b1100_0000 == 0b1000_0000 {
            continue;
        }
        let needs = match byte {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => 1,
        };
        return if needs > back { back } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(representation: Representation, payload: &str) -> String {
        let control = Control {
            next: Offset(5),
            cursor: 9,
            up_to_date: true,
            closed: false,
        };
        let text = data(
            representation,
            &[Bytes::copy_from_slice(payload.as_bytes())],
            &control,
        );
        String::from_utf8(text.to_vec()).unwrap()
    }

    #[test]
    fn no_payload_can_end_its_event() {
        let text = render(Representation::Text, "a\n\n event: control\rdata: x\r\n");
        let data = text.split("event: control\ndata:{").next().unwrap();
        assert_eq!(
            data,
            "event: data\ndata:a\ndata:\ndata:  event: control\ndata:data: x\ndata:\n\n"
        );
        assert!(text.ends_with(
            "data:{\"streamNextOffset\":\"0000000000000000_0000000000000005\",\"streamCursor\":\"9\",\"upToDate\":true}\n\n"
        ));
    }

    #[test]
    fn json_is_an_array_over_lines_and_binary_is_base64() {
        assert!(
            render(Representation::Json, "{\"a\":1},\n2,\n")
                .starts_with("event: data\ndata:[\ndata:{\"a\":1},\ndata:2\ndata:]\n\n")
        );
        assert!(render(Representation::Binary, "\u{1}").starts_with("event: data\ndata:AQ==\n\n"));
    }

    #[test]
    fn a_character_is_never_cut() {
        let open = |bytes: &[u8]| open_character_len(&[Bytes::copy_from_slice(bytes)]);
        assert_eq!(open("aé".as_bytes()), 0);
        assert_eq!(open(&"aé".as_bytes()[..2]), 1);
        assert_eq!(open(&"€".as_bytes()[..2]), 2);
        assert_eq!(open(&"😀".as_bytes()[..3]), 3);
        assert_eq!(open("😀".as_bytes()), 0);
        assert_eq!(open(b"\x80\x80\x80\x80"), 0);
        assert_eq!(open(b""), 0);
    }
}
