//! The standard output. What `read` and `tail` print there: bytes as they are, JSON one message a line, or with `--json`
//! envelopes with offsets.

use std::fmt;
use std::io::{ErrorKind, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;

use super::CliError;
use crate::ops::logging::journal::note;
use crate::protocol::{ContentType, Offset};

/// The standard output. The program ends well when nobody reads it any more, as `head` after its lines: what was asked for
/// was given.
pub struct Output(std::io::StdoutLock<'static>);

impl Output {
    /// Held until it is dropped.
    pub fn lock() -> Output {
        Output(std::io::stdout().lock())
    }
}

fn unless_closed<T>(result: std::io::Result<T>) -> std::io::Result<T> {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        other => other,
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        unless_closed(self.0.write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        unless_closed(self.0.flush())
    }
}

/// Prints a text at once. Where that fails, the program says why and ends.
pub fn print(text: fmt::Arguments<'_>) {
    let mut out = Output::lock();
    if let Err(error) = out.write_fmt(text).and_then(|()| out.flush()) {
        note(format_args!("ursula: standard output: {error}"));
        std::process::exit(1);
    }
}

/// Prints a line, as `println!` does, to an [`Output`].
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::output::print(format_args!("{}\n", format_args!($($text)*)))
    };
}
pub(super) use say;

/// Prints the answers of one stream in order.
pub struct Printer<W> {
    out: W,
    in_envelope: bool,
    /// The start of a character whose rest is in the next answer; only within envelopes.
    held: Vec<u8>,
    /// Where a reader of the envelopes goes on.
    resume_at: String,
}

impl<W: Write> Printer<W> {
    /// Prints from the offset `start` on.
    pub fn new(out: W, in_envelope: bool, start: &str) -> Printer<W> {
        Printer {
            out,
            in_envelope,
            held: Vec::new(),
            resume_at: start.to_owned(),
        }
    }

    /// Prints an answer's body; `next` is the offset after it.
    ///
    /// # Errors
    /// [`CliError::Malformed`] if a JSON stream's answer is no array, or the system's.
    pub fn print(&mut self, body: &[u8], content_type: &str, next: &str) -> Result<(), CliError> {
        let content_type = ContentType::from_stored(content_type);
        if content_type.is_json() {
            self.json(body, next)?;
        } else if !self.in_envelope {
            self.out.write_all(body)?;
        } else if content_type.is_text() {
            self.text(body, next)?;
        } else {
            self.base64(body, next)?;
        }
        self.out.flush()?;
        Ok(())
    }

    /// Prints what is held back though the stream ends inside of a character.
    ///
    /// # Errors
    /// The system's.
    pub fn finish(&mut self, next: &str) -> Result<(), CliError> {
        let held = std::mem::take(&mut self.held);
        if !held.is_empty() {
            self.base64(&held, next)?;
            self.out.flush()?;
        }
        Ok(())
    }

    fn json(&mut self, body: &[u8], next: &str) -> Result<(), CliError> {
        let messages: Vec<&RawValue> =
            serde_json::from_slice(body).map_err(|e| CliError::Malformed(e.to_string()))?;
        // A line break in JSON outside of a string is mere white space, and inside of one it is escaped.
        let lines = messages.iter().map(|m| m.get().replace(['\n', '\r'], " "));
        if self.in_envelope {
            let data = lines.collect::<Vec<_>>().join(",");
            let next = serde_json::Value::from(next);
            writeln!(self.out, "{{\"data\":[{data}],\"next_offset\":{next}}}")?;
        } else {
            for line in lines {
                writeln!(self.out, "{line}")?;
            }
        }
        Ok(())
    }

    fn text(&mut self, body: &[u8], next: &str) -> Result<(), CliError> {
        let mut bytes = std::mem::take(&mut self.held);
        bytes.extend_from_slice(body);
        let whole = match std::str::from_utf8(&bytes) {
            Ok(_) => bytes.len(),
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            // Not UTF-8, whatever comes: no text would be true to it.
            Err(_) => return self.base64(&bytes, next),
        };
        self.held = bytes.split_off(whole);
        if bytes.is_empty() && !self.held.is_empty() {
            return Ok(());
        }
        // A reader that goes on from this line must get the whole character. Where offsets are not ours, the
        // one before loses nothing either.
        let held = self.held.len() as u64;
        let before = |offset: Offset| offset.0.checked_sub(held).map(|at| Offset(at).to_string());
        if held == 0 {
            self.resume_at = next.to_owned();
        } else if let Some(at) = Offset::parse(next).ok().and_then(before) {
            self.resume_at = at;
        }
        let data = String::from_utf8_lossy(&bytes);
        let line = serde_json::json!({ "data": data, "next_offset": self.resume_at });
        writeln!(self.out, "{line}")?;
        Ok(())
    }

    fn base64(&mut self, bytes: &[u8], next: &str) -> Result<(), CliError> {
        self.resume_at = next.to_owned();
        let data = STANDARD.encode(bytes);
        let line = serde_json::json!({ "data": data, "encoding": "base64", "next_offset": next });
        writeln!(self.out, "{line}")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(in_envelope: bool, content_type: &str, bodies: &[&[u8]]) -> Vec<serde_json::Value> {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, in_envelope, "-1");
        let mut end = 0;
        let mut next = String::new();
        for body in bodies {
            end += body.len() as u64;
            next = Offset(end).to_string();
            printer.print(body, content_type, &next).unwrap();
        }
        printer.finish(&next).unwrap();
        let text = String::from_utf8(out).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn a_character_over_two_answers_stays_whole() {
        let bytes = "aä€😀z".as_bytes();
        for at in 0..=bytes.len() {
            let lines = printed(true, "text/plain", &[&bytes[..at], &bytes[at..]]);
            let data: String = lines.iter().map(|l| l["data"].as_str().unwrap()).collect();
            assert_eq!(data, "aä€😀z", "cut at {at}");
            // Each line's offset is that of the end of its data.
            let mut end = 0;
            for line in &lines {
                end += line["data"].as_str().unwrap().len() as u64;
                assert_eq!(line["next_offset"], Offset(end).to_string(), "cut at {at}");
            }
        }
    }

    #[test]
    fn what_is_no_text_is_base64() {
        let lines = printed(true, "application/octet-stream", &[&[0, 159, 255]]);
        assert_eq!(
            (&lines[0]["data"], &lines[0]["encoding"]),
            (&"AJ//".into(), &"base64".into())
        );
        for wrong in [&[b'a', 0xff, b'b'][..], &[0xe2, 0x82]] {
            let lines = printed(true, "text/plain", &[wrong]);
            assert_eq!(lines[0]["encoding"], "base64", "{wrong:?}");
            assert_eq!(
                STANDARD.decode(lines[0]["data"].as_str().unwrap()).unwrap(),
                wrong
            );
        }
    }

    #[test]
    fn messages_stay_as_they_were_sent() {
        let body = b"[{\"a\":1e999},\n\"x\\ny\",\n12345678901234567890123]";
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, false, "-1");
        printer
            .print(body, "application/json; charset=utf-8", "n")
            .unwrap();
        assert_eq!(out, b"{\"a\":1e999}\n\"x\\ny\"\n12345678901234567890123\n");
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, true, "-1");
        assert!(printer.print(b"[1", "application/json", "n").is_err());
        printer.print(body, "application/json", "n").unwrap();
        assert_eq!(
            out,
            b"{\"data\":[{\"a\":1e999},\"x\\ny\",12345678901234567890123],\"next_offset\":\"n\"}\n"
        );
    }
}
