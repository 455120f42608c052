//! A body in JSON mode: framed for the store, cut anywhere between messages, and given out again as an array.

use bytes::Bytes;
use serde_json::value::RawValue;
use ursula::protocol::json as mode;

/// What is stored reads back as the messages that were sent, however it is cut.
pub fn json(bytes: &[u8]) {
    let Ok(stored) = mode::frame(bytes, true) else {
        return;
    };
    let read = |pieces: Vec<Bytes>| -> Vec<serde_json::Value> {
        serde_json::from_slice(&mode::array(pieces).concat()).unwrap()
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
                mode::cut(&mut pieces, limit).expect("what is stored ends with a message") as usize;
            found.extend(read(pieces));
        }
        assert_eq!(found, messages, "cut at {limit}");
    }
    for number in 1..=messages.len() as u64 {
        let end = mode::nth_message_end(&stored, number).unwrap();
        assert_eq!(read(vec![stored.slice(..end)]), messages[..number as usize]);
    }
    let more = messages.len() as u64 + 1;
    assert_eq!(mode::nth_message_end(&stored, more), Err(more - 1));
}
