//! One line: `event=name key=value ... words`, as logfmt or as JSON with a field for each key. The words become the field
//! `message`. Who logs writes a value that may have spaces or quotes with `{:?}`, as a text: it is taken apart here and quoted
//! again as the format wants it.

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
        let (pairs, words) = split(&self.message);
        let own = [
            ("time", crate::protocol::rfc3339_from_ms(self.time_ms)),
            ("level", self.level.as_str().to_lowercase()),
            ("target", self.target.clone()),
        ];
        let words = (!words.is_empty()).then(|| ("message", words.to_owned()));
        let mut fields: Vec<(&str, String)> = Vec::new();
        for (key, value) in own.into_iter().chain(pairs).chain(words) {
            // What the line says of itself goes before what it was given.
            if fields.iter().all(|(known, _)| *known != key) {
                fields.push((key, value));
            }
        }
        if json {
            let fields = fields.into_iter().map(|(k, v)| (k.to_owned(), v.into()));
            let _ = writeln!(out, "{}", serde_json::Value::Object(fields.collect()));
            return;
        }
        for (place, (key, value)) in fields.iter().enumerate() {
            let _ = write!(out, "{}{key}=", if place > 0 { " " } else { "" });
            put_value(out, value);
        }
        out.push('\n');
    }
}

/// A value as it is, or in quotes if it could be misread.
fn put_value(out: &mut String, value: &str) {
    let is_plain =
        |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '"' | '=' | '\\');
    if !value.is_empty() && value.chars().all(is_plain) {
        return out.push_str(value);
    }
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// The fields that a message begins with, and its words.
fn split(message: &str) -> (Vec<(&str, String)>, &str) {
    let mut pairs = Vec::new();
    let mut rest = message.trim();
    while let Some((key, after)) = rest.split_once('=').filter(|(key, _)| is_key(key)) {
        let (value, end) = match after.strip_prefix('"').and_then(unquote) {
            Some((value, used)) => (value, 1 + used),
            None => {
                let end = after.find(char::is_whitespace).unwrap_or(after.len());
                (after[..end].to_owned(), end)
            }
        };
        pairs.push((key, value));
        rest = after[end..].trim_start();
    }
    (pairs, rest)
}

fn is_key(key: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    !key.is_empty() && key.bytes().all(is_plain)
}

/// The text that `{:?}` put in quotes, of which the first is passed already, and how many bytes it took with the last one;
/// `None` if it is none.
fn unquote(text: &str) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => {
                let is_end = text[at + 1..]
                    .chars()
                    .next()
                    .is_none_or(char::is_whitespace);
                return is_end.then_some((value, at + 1));
            }
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                '0' => value.push('\0'),
                'u' => {
                    let hex = text[at..].strip_prefix("\\u{")?.split_once('}')?.0;
                    value.push(char::from_u32(u32::from_str_radix(hex, 16).ok()?)?);
                    chars.by_ref().find(|(_, c)| *c == '}');
                }
                c => value.push(c),
            },
            c => value.push(c),
        }
    }
    None
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

    fn line(message: &str) -> Line {
        Line {
            time_ms: 0,
            level: Level::Error,
            target: "ursula::core".to_owned(),
            message: message.to_owned(),
        }
    }

    fn rendered(message: &str, json: bool) -> String {
        let mut text = String::new();
        line(message).render(&mut text, json);
        text
    }

    #[test]
    fn fields_and_words_are_told_apart() {
        let error = "a \"b\" = c\n\u{1b}\\";
        let message = format!("event=full core=3 error={error:?} there is no room: x=y \"z\"");
        assert_eq!(line(&message).event(), "full");
        let value: serde_json::Value = serde_json::from_str(&rendered(&message, true)).unwrap();
        assert_eq!(value["event"], "full");
        assert_eq!(value["core"], "3");
        assert_eq!(value["error"], error);
        assert_eq!(value["message"], "there is no room: x=y \"z\"");
        assert_eq!(value["level"], "error");
    }

    #[test]
    fn a_line_of_logfmt_is_keys_and_values_only() {
        let time = crate::protocol::rfc3339_from_ms(0);
        let own = format!("time={time} level=error target=ursula::core");
        for (message, expected) in [
            ("event=a", " event=a"),
            (
                "event=a core=3 some words",
                " event=a core=3 message=\"some words\"",
            ),
            ("event=a path=\"/x/y\" n=1", " event=a path=/x/y n=1"),
            ("event=a path=\"/x y\" n=1", " event=a path=\"/x y\" n=1"),
            ("event=a key= b", " event=a key=\"\" message=b"),
            (
                "event=a say \"no\": k=v",
                " event=a message=\"say \\\"no\\\": k=v\"",
            ),
            ("of another crate", " message=\"of another crate\""),
            ("event=a level=low time=now", " event=a"),
            (
                "event=a e=\"a \\\"b\\\"\\n\"",
                " event=a e=\"a \\\"b\\\"\\n\"",
            ),
            (
                "event=a two\nlines \u{1b}[1m",
                " event=a message=\"two\\nlines \\u001b[1m\"",
            ),
            (
                "event=a e=\"un\"closed\"",
                " event=a e=\"\\\"un\\\"closed\\\"\"",
            ),
        ] {
            assert_eq!(rendered(message, false), format!("{own}{expected}\n"));
        }
    }
}
