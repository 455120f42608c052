//! The log as programs read it.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use integration::{Server, scratch_dir};

/// Reads a line of logfmt as its readers do: keys, each with a value, which is in quotes if it has to be. `None`: it is none.
fn fields(line: &str) -> Option<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut rest = line;
    loop {
        let (key, after) = rest.split_once('=')?;
        let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if key.is_empty() || !key.bytes().all(is_plain) {
            return None;
        }
        let end = match after.strip_prefix('"') {
            // The escapes are those of JSON.
            Some(text) => {
                let mut is_escaped = false;
                let end = text.bytes().position(|b| {
                    let ends = b == b'"' && !is_escaped;
                    is_escaped = b == b'\\' && !is_escaped;
                    ends
                })?;
                end + 2
            }
            None => after.find(' ').unwrap_or(after.len()),
        };
        let value = &after[..end];
        let value = if value.starts_with('"') {
            serde_json::from_str(value).ok()?
        } else if value.contains(['"', '=']) || value.is_empty() {
            return None;
        } else {
            value.to_owned()
        };
        found.insert(key.to_owned(), value);
        match &after[end..] {
            "" => return Some(found),
            more => rest = more.strip_prefix(' ')?,
        }
    }
}

#[test]
fn every_line_is_logfmt() {
    let dir = scratch_dir();
    let data = dir.path().join("data with \"spaces\"");
    let data = data.to_str().unwrap();
    let settings = ["--log-level", "debug", "--wal-dir", data];
    let server = Server::start(&settings);
    let mut c = server.client();
    c.create("/v1/stream/a", "text/plain");
    c.append("/v1/stream/a", "text/plain", b"payload");
    let _ = c.write(b"nonsense\r\n\r\n");
    // Why it does not start is said with the path, and a lot of words.
    let second = Server::try_start(&settings).err().expect("it is in use");
    let log = format!("{}{second}", server.log());
    assert!(log.lines().count() > 10, "{log}");
    for line in log.lines() {
        let fields = fields(line).unwrap_or_else(|| panic!("no logfmt: {line}"));
        for key in ["time", "level", "target", "event"] {
            assert!(fields.contains_key(key), "no {key}: {line}");
        }
        match fields["event"].as_str() {
            "data_directory" => assert_eq!(fields["path"], data),
            "failed" => assert!(fields["message"].contains(data), "{line}"),
            _ => {}
        }
    }
    assert!(log.contains("event=data_directory") && log.contains("event=failed"));
}

/// What a server that refuses its directory writes to a file that it takes for the journal, or for another file.
fn said_to(file: &Path, stream: impl Fn(&std::fs::Metadata) -> String) -> String {
    let log = File::create(file).unwrap();
    let of = log.metadata().unwrap();
    let status = Command::new(Server::binary())
        .args(["server", "--listen", "127.0.0.1:0", "--admin-listen", "off"])
        .args(["--wal-dir", file.to_str().unwrap()])
        .env("JOURNAL_STREAM", stream(&of))
        .stdin(Stdio::null())
        .stderr(log)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(78));
    std::fs::read_to_string(file).unwrap()
}

#[test]
fn lines_to_the_journal_begin_with_their_priority() {
    let dir = scratch_dir();
    let file = dir.path().join("log");
    let log = said_to(&file, |of| format!("{}:{}", of.dev(), of.ino()));
    for line in log.lines() {
        let expected = match line {
            line if line.contains("level=error") => "<3>time=",
            line if line.contains("level=warn") => "<4>time=",
            _ => "<6>time=",
        };
        assert!(line.starts_with(expected), "{line}");
    }
    assert!(log.contains("<3>") && log.contains("<6>"), "{log}");
    // Inherited from a parent whose error output was the journal; this one's is not.
    let log = said_to(&file, |of| format!("{}:{}", of.dev(), of.ino() + 1));
    assert!(log.lines().all(|line| line.starts_with("time=")), "{log}");
}
