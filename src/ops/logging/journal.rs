//! The journal of systemd, where that is what standard error goes to: each line begins with its priority (sd-daemon(3)), which
//! the journal takes off, so that `journalctl -p err` shows errors.

use std::fmt;
use std::io::Write;
use std::sync::OnceLock;

use log::Level;

/// What a line begins with; nothing if nobody would take it off.
pub fn prefix(level: Level) -> &'static str {
    static IS_JOURNAL: OnceLock<bool> = OnceLock::new();
    let is_journal = IS_JOURNAL.get_or_init(|| {
        let named = std::env::var("JOURNAL_STREAM").unwrap_or_default();
        !named.is_empty() && named_as(libc::STDERR_FILENO).as_deref() == Some(named.as_str())
    });
    if *is_journal { priority(level) } else { "" }
}

/// A text for people in lines of this level, on standard error; for what is said before there is a log.
pub fn say(level: Level, text: &str) {
    for line in text.lines() {
        note(format_args!("{}{line}", prefix(level)));
    }
}

/// A line on standard error. Unlike `eprintln!` it goes on where nobody reads that any more: what the program does matters more
/// than what it says beside.
pub fn note(text: fmt::Arguments<'_>) {
    let _unread = writeln!(std::io::stderr(), "{text}");
}

/// As syslog counts.
fn priority(level: Level) -> &'static str {
    match level {
        Level::Error => "<3>",
        Level::Warn => "<4>",
        Level::Info => "<6>",
        Level::Debug | Level::Trace => "<7>",
    }
}

/// Device and inode of what a descriptor is open on, as systemd writes them.
fn named_as(descriptor: i32) -> Option<String> {
    // SAFETY: an all-zero structure is a valid value of this plain type.
    let mut found: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a structure of the right type.
    let result = unsafe { libc::fstat(descriptor, &raw mut found) };
    (result == 0).then(|| format!("{}:{}", found.st_dev, found.st_ino))
}
