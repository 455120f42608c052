//! One line: `event=name key=value ... words`, as logfmt or as JSON with a field for each key.

use std::fmt::Write;
use std::time::SystemTime;

use log::Level;

/// What was logged.
pub struct Line {
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// How grave.
    pub level: Level,
    /// Which module.
    pub target: String,
    /// The fields, then words for people.
    pub message: String,
}

impl Line {
    /// Its name; the module where it has none.
    pub fn event(&self) -> &str {
        match self.message.strip_prefix("event=") {
            Some(rest) => rest.split_whitespace().next().unwrap_or(rest),
            None => &self.target,
        }
    }

    /// Writes it, with its line's end and no other one.
    pub fn render(&self, out: &mut String, json: bool) {
        let time = crate::protocol::rfc3339_from_ms(self.time_ms);
        let level = self.level.as_str().to_lowercase();
        let target = &self.target;
        if !json {
            let message = self.message.replace(['\n', '\r'], " ");
            let _ = writeln!(out, "time={time} level={level} target={target} {message}");
            return;
        }
        let mut fields = serde_json::Map::new();
        for (key, value) in [("time", &time), ("level", &level), ("target", target)] {
            fields.insert(key.to_owned(), value.as_str().into());
        }
        let (pairs, words) = split(&self.message);
        for (key, value) in pairs {
            fields.entry(key).or_insert_with(|| value.into());
        }
        if !words.is_empty() {
            fields.insert("message".to_owned(), words.into());
        }
        let _ = writeln!(out, "{}", serde_json::Value::Object(fields));
    }
}

/// The fields that a message begins with or has among its words, and the words.
fn split(message: &str) -> (Vec<(String, String)>, String) {
    let mut pairs = Vec::new();
    let mut words = Vec::new();
    let mut rest = message.trim_start();
    while !rest.is_empty() {
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let is_key = |key: &str| {
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
            !key.is_empty() && key.bytes().all(plain)
        };
        let mut used = end;
        match rest[..end].split_once('=').filter(|(key, _)| is_key(key)) {
            Some((key, _)) => {
                let value = &rest[key.len() + 1..];
                let quoted = value.strip_prefix('"').and_then(|v| Some((v, closing(v)?)));
                let value = match quoted {
                    Some((text, at)) => {
                        used = key.len() + 2 + at + 1;
                        text[..at].replace("\\\"", "\"")
                    }
                    None => rest[key.len() + 1..end].to_owned(),
                };
                pairs.push((key.to_owned(), value));
            }
            None => words.push(&rest[..end]),
        }
        rest = rest[used..].trim_start();
    }
    (pairs, words.join(" "))
}

/// Where a quoted text ends.
fn closing(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        ends
    })
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "a log line carries the system's time, whatever a core's clock says"
    )]
    let now = SystemTime::now();
    now.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_words_are_told_apart() {
        let message = "event=full core=3 error=\"a \\\"b\\\" = c\" there is no room: x=y z";
        let line = Line {
            time_ms: 0,
            level: Level::Error,
            target: "ursula::core".to_owned(),
            message: message.to_owned(),
        };
        assert_eq!(line.event(), "full");
        let mut text = String::new();
        line.render(&mut text, true);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["event"], "full");
        assert_eq!(value["core"], "3");
        assert_eq!(value["error"], "a \"b\" = c");
        assert_eq!(value["message"], "there is no room: z");
        assert_eq!(value["level"], "error");
        let lines = Line {
            message: "event=a\nevent=b".to_owned(),
            ..line
        };
        for json in [true, false] {
            let mut text = String::new();
            lines.render(&mut text, json);
            assert_eq!(text.matches('\n').count(), 1, "{text}");
        }
    }
}
