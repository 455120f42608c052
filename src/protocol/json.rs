//! JSON mode: how messages are stored, so that reads need no copy (protocol, section 9.1).
//!
//! A message is stored as its text followed by `,\n`. A raw line break in JSON is mere white space, so those
//! inside of a message become spaces: a `\n` is always the end of a message, and a range of messages is a
//! JSON array once `[` is put before it and its last `,\n` is replaced by `]`.

use bytes::{Bytes, BytesMut};
use serde_json::value::RawValue;

/// What stands behind each stored message.
pub const MESSAGE_END: &[u8] = b",\n";

/// Deepest nesting that is taken: readers in most languages stop at some hundred levels.
const DEPTH_MAX: usize = 128;

/// Why a body is not a batch of messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JsonError {
    /// Not JSON; the parser's reason.
    Invalid(String),
    /// `[]`, which appends nothing (section 9.1.3).
    EmptyArray,
}

/// Turns a request's body into stored messages: a top-level array is flattened exactly one level, anything
/// else is one message.
///
/// # Errors
/// [`JsonError`]; an empty array only if it is not allowed (it is for PUT).
pub fn frame(body: &[u8], empty_array_allowed: bool) -> Result<Bytes, JsonError> {
    let invalid = |e: serde_json::Error| JsonError::Invalid(e.to_string());
    let text = std::str::from_utf8(body).map_err(|e| JsonError::Invalid(e.to_string()))?;
    if depth(body) > DEPTH_MAX {
        return Err(JsonError::Invalid(format!(
            "nested deeper than {DEPTH_MAX} levels"
        )));
    }
    let first = text.bytes().find(|b| !b.is_ascii_whitespace());
    let mut stored = BytesMut::with_capacity(body.len() + 16);
    if first == Some(b'[') {
        let messages: Vec<&RawValue> = serde_json::from_str(text).map_err(invalid)?;
        if messages.is_empty() && !empty_array_allowed {
            return Err(JsonError::EmptyArray);
        }
        for message in messages {
            push(&mut stored, message.get());
        }
    } else {
        let message: &RawValue = serde_json::from_str(text).map_err(invalid)?;
        push(&mut stored, message.get());
    }
    Ok(stored.freeze())
}

/// How deep a text nests; strings do not count. Exact for valid JSON, harmless for all else.
fn depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn push(stored: &mut BytesMut, message: &str) {
    let from = stored.len();
    stored.extend_from_slice(message.trim().as_bytes());
    for byte in &mut stored[from..] {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    stored.extend_from_slice(MESSAGE_END);
}

/// Cuts a read after its last whole message within `bytes_max`; if the first message is longer, after that
/// one. Answers `None` if the pieces end before the first message does: read more.
pub fn cut(pieces: &mut Vec<Bytes>, bytes_max: u64) -> Option<u64> {
    let mut position = 0u64;
    let mut end = None;
    'pieces: for piece in pieces.iter() {
        // Whole pieces within the limit that end a message need no search.
        let piece_end = position + piece.len() as u64;
        if piece_end <= bytes_max && piece.last() == Some(&b'\n') {
            end = Some(piece_end);
        } else {
            for found in memchr::memchr_iter(b'\n', piece) {
                let message_end = position + found as u64 + 1;
                if message_end > bytes_max && end.is_some() {
                    break 'pieces;
                }
                end = Some(message_end);
            }
        }
        position = piece_end;
        if position >= bytes_max && end.is_some() {
            break;
        }
    }
    let end = end?;
    truncate(pieces, end);
    Some(end)
}

/// Shortens a row of pieces to `len` bytes.
pub fn truncate(pieces: &mut Vec<Bytes>, len: u64) {
    let mut left = len;
    pieces.retain_mut(|piece| {
        let keep = left.min(piece.len() as u64);
        piece.truncate(keep as usize);
        left -= keep;
        keep > 0
    });
}

/// Stored messages as a JSON array, ready to send: the pieces are not copied.
pub fn array(mut pieces: Vec<Bytes>) -> Vec<Bytes> {
    let total: u64 = pieces.iter().map(|p| p.len() as u64).sum();
    if total == 0 {
        return vec![Bytes::from_static(b"[]")];
    }
    truncate(&mut pieces, total - MESSAGE_END.len() as u64);
    pieces.insert(0, Bytes::from_static(b"["));
    pieces.push(Bytes::from_static(b"]"));
    pieces
}

/// One past the `count`-th message end in `bytes`, or how many messages there are.
pub fn nth_message_end(bytes: &[u8], count: u64) -> Result<usize, u64> {
    let mut seen = 0;
    for found in memchr::memchr_iter(b'\n', bytes) {
        seen += 1;
        if seen == count {
            return Ok(found + 1);
        }
    }
    Err(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(body: &str) -> String {
        String::from_utf8(frame(body.as_bytes(), false).unwrap().to_vec()).unwrap()
    }

    #[test]
    fn exactly_one_level_is_flattened() {
        for (body, stored) in [
            (r#"{"a":1}"#, "{\"a\":1},\n"),
            (r#"[{"a":1}, 2 ]"#, "{\"a\":1},\n2,\n"),
            ("[[1,2],[3]]", "[1,2],\n[3],\n"),
            ("[[[1]]]", "[[1]],\n"),
            (" \n\"x\\ny\" ", "\"x\\ny\",\n"),
            ("{\n \"a\":\r\n 1}", "{  \"a\":   1},\n"),
            ("[null,true]", "null,\ntrue,\n"),
        ] {
            assert_eq!(framed(body), stored, "{body}");
        }
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for bad in ["", "{", "[1,]", "{\"a\":}", "1 2", "\u{feff}1", "nul"] {
            assert!(
                matches!(frame(bad.as_bytes(), false), Err(JsonError::Invalid(_))),
                "{bad:?}"
            );
        }
        assert!(frame(b"\"\xff\"", false).is_err());
        assert_eq!(frame(b"[ ]", false), Err(JsonError::EmptyArray));
        assert_eq!(frame(b"[]", true), Ok(Bytes::new()));
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert!(frame(deep.as_bytes(), false).is_err());
        let deep = "{\"a\":".repeat(100_000) + "1" + &"}".repeat(100_000);
        assert!(frame(deep.as_bytes(), false).is_err());
    }

    #[test]
    fn reads_are_cut_at_message_ends() {
        let pieces = |texts: &[&str]| {
            texts
                .iter()
                .map(|t| Bytes::copy_from_slice(t.as_bytes()))
                .collect::<Vec<_>>()
        };
        let mut row = pieces(&["1,\n22,\n", "333,\n"]);
        assert_eq!(cut(&mut row, 8), Some(7));
        assert_eq!(row.concat(), b"1,\n22,\n");
        let mut row = pieces(&["1,\n22,\n", "333,\n"]);
        assert_eq!(cut(&mut row, 5), Some(3));
        let mut row = pieces(&["4444", "4,\n5,\n"]);
        assert_eq!(cut(&mut row, 3), Some(7));
        let mut row = pieces(&["4444"]);
        assert_eq!(cut(&mut row, 3), None);
        assert_eq!(array(pieces(&["1,\n2", "2,\n"])).concat(), b"[1,\n22]");
        assert_eq!(array(Vec::new()).concat(), b"[]");
        assert_eq!(nth_message_end(b"1,\n2,\n", 2), Ok(6));
        assert_eq!(nth_message_end(b"1,\n2,\n", 3), Err(2));
    }
}
