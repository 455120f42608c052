//! Messages that tell by themselves which they are, and whether a byte of them was changed.

use crate::history::Message;

/// A message's text; the same each time.
pub fn text(message: Message) -> String {
    let mixed = message.wrapping_mul(2_654_435_761);
    let filler = match mixed % 97 {
        0 => 20_000 + mixed as usize % 5_000,
        n => n as usize * 3,
    };
    format!("{{\"id\":{message},\"x\":\"{}\"}}", "x".repeat(filler))
}

/// How many positions it takes: a JSON message is followed by two bytes.
pub fn length(message: Message, is_json: bool) -> u64 {
    text(message).len() as u64 + if is_json { 2 } else { 0 }
}

/// A position as the server writes it.
pub fn offset(position: u64) -> String {
    format!("0000000000000000_{position:016}")
}

/// A position as the server wrote it.
///
/// # Panics
/// If it is none.
pub fn position(offset: &str) -> u64 {
    let position = offset.split_once('_').and_then(|(_, p)| p.parse().ok());
    position.unwrap_or_else(|| panic!("no offset: {offset:?}"))
}

/// Whole messages at the start of a text, and whether it ends inside of one.
///
/// # Panics
/// If a byte is wrong.
pub fn parse(text_of_many: &str) -> (Vec<Message>, bool) {
    let mut messages = Vec::new();
    let mut rest = text_of_many;
    while !rest.is_empty() {
        let number = rest
            .strip_prefix("{\"id\":")
            .and_then(|r| r.split_once(','));
        let Some(message) = number.and_then(|(n, _)| n.parse().ok()) else {
            assert!(
                rest.len() < 20,
                "no message of ours: {:.80}",
                rest.escape_debug().to_string()
            );
            return (messages, true);
        };
        let whole = text(message);
        match rest.strip_prefix(whole.as_str()) {
            Some(after) => rest = after.strip_prefix(",\n").unwrap_or(after),
            None => {
                assert!(
                    whole.starts_with(rest),
                    "message {message} was changed, or cut: {:.80}",
                    rest
                );
                return (messages, true);
            }
        }
        messages.push(message);
    }
    (messages, false)
}

/// The messages of a body.
///
/// # Panics
/// If a byte is wrong.
pub fn parse_body(body: &[u8], is_json: bool) -> (Vec<Message>, bool) {
    let text = std::str::from_utf8(body).expect("we sent ASCII");
    if !is_json {
        return parse(text);
    }
    let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let (messages, is_cut) = parse(inner.expect("an array").trim());
    assert!(!is_cut, "a message is cut: {text:.80}");
    (messages, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_and_damage_is_seen() {
        let many = [text(0), text(7), text(8)].concat();
        assert_eq!(parse(&many), (vec![0, 7, 8], false));
        assert_eq!(parse(&many[..many.len() - 1]), (vec![0, 7], true));
        let array = format!("[{},\n{}]", text(3), text(4));
        assert_eq!(parse_body(array.as_bytes(), true), (vec![3, 4], false));
        assert_eq!(parse_body(b"[]", true), (vec![], false));
        let damaged = many.replacen('x', "y", 3);
        assert!(std::panic::catch_unwind(|| parse(&damaged)).is_err());
        assert_eq!(position(&offset(77)), 77);
    }
}
