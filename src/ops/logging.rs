//! The log: one line per event on standard error, as logfmt or JSON; with priorities where that is the journal. A core never waits for it: lines go through a
//! bounded queue to one writer thread, and what does not fit is counted and reported. An event that repeats is cut off after
//! some lines a second; how many were left out is said when it goes on. No line has a payload.

pub mod journal;
mod line;

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use ahash::AHashMap;
use log::{LevelFilter, Log, Metadata, Record};

use self::line::{Line, now_ms};

/// Lines that may wait for the writer.
const QUEUE_MAX: usize = 4096;

/// Lines of one event within [`WINDOW_MS`]; the others are left out.
const REPEATS_MAX: u64 = 20;

/// See [`REPEATS_MAX`].
const WINDOW_MS: u64 = 10_000;

/// Events that are told apart at once; what is beyond shares one budget.
const EVENTS_MAX: usize = 512;

static DROPPED: AtomicU64 = AtomicU64::new(0);
static SUPPRESSED: AtomicU64 = AtomicU64::new(0);
static QUEUED: AtomicU64 = AtomicU64::new(0);

/// Lines that found the queue full, and lines left out as repeats, since the start.
pub fn lost() -> (u64, u64) {
    (
        DROPPED.load(Ordering::Relaxed),
        SUPPRESSED.load(Ordering::Relaxed),
    )
}

/// How full the writer's queue is, from 0 to 1.
pub fn saturation() -> f64 {
    QUEUED.load(Ordering::Relaxed) as f64 / QUEUE_MAX as f64
}

struct Logger {
    sender: SyncSender<Message>,
}

enum Message {
    Line(Line),
    Flush(SyncSender<()>),
}

/// Starts the log.
pub fn start(level: LevelFilter, json: bool) {
    let (sender, receiver) = sync_channel(QUEUE_MAX);
    let writer = std::thread::Builder::new().name("log".to_owned());
    if writer
        .spawn(move || Writer::new(json).run(&receiver))
        .is_err()
    {
        return;
    }
    if log::set_boxed_logger(Box::new(Logger { sender })).is_ok() {
        log::set_max_level(level);
        std::panic::set_hook(Box::new(|panic| {
            let place = panic
                .location()
                .map(ToString::to_string)
                .unwrap_or_default();
            let text = panic.payload_as_str().unwrap_or("no text");
            log::error!("event=panic place={place:?} text={text:?}");
        }));
    }
}

/// What the writer's thread does.
struct Writer {
    json: bool,
    budgets: AHashMap<(log::Level, String), Budget>,
    dropped_seen: u64,
}

/// Of one event.
struct Budget {
    began_ms: u64,
    lines: u64,
}

impl Writer {
    fn new(json: bool) -> Writer {
        Writer {
            json,
            budgets: AHashMap::new(),
            dropped_seen: 0,
        }
    }

    fn run(mut self, receiver: &Receiver<Message>) {
        // Never locked for longer than a line: who else writes there, such as a panic, must not wait for ever.
        let mut out = std::io::stderr();
        while let Ok(message) = receiver.recv() {
            match message {
                Message::Line(line) => {
                    QUEUED.fetch_sub(1, Ordering::Relaxed);
                    let text = self.take(&line);
                    let _ = out.write_all(text.as_bytes());
                }
                Message::Flush(done) => {
                    let _ = out.flush();
                    let _ = done.send(());
                }
            }
        }
    }

    /// What to write for a line: with what is to be said of lines before it, or nothing.
    fn take(&mut self, line: &Line) -> String {
        let mut text = String::new();
        let dropped = DROPPED.load(Ordering::Relaxed);
        if dropped > self.dropped_seen {
            let lines = dropped - self.dropped_seen;
            self.dropped_seen = dropped;
            self.note(&mut text, line, &format!("event=log_dropped lines={lines}"));
        }
        let mut event = line.event().to_owned();
        if self.budgets.len() >= EVENTS_MAX
            && !self.budgets.contains_key(&(line.level, event.clone()))
        {
            self.budgets
                .retain(|_, b| line.time_ms.saturating_sub(b.began_ms) < WINDOW_MS);
            if self.budgets.len() >= EVENTS_MAX {
                event = String::new();
            }
        }
        let budget = self
            .budgets
            .entry((line.level, event.clone()))
            .or_insert(Budget {
                began_ms: line.time_ms,
                lines: 0,
            });
        let mut left_out = 0;
        if line.time_ms.saturating_sub(budget.began_ms) >= WINDOW_MS {
            left_out = budget.lines.saturating_sub(REPEATS_MAX);
            *budget = Budget {
                began_ms: line.time_ms,
                lines: 0,
            };
        }
        budget.lines += 1;
        let is_over = budget.lines > REPEATS_MAX;
        if left_out > 0 {
            let said = format!("event=log_suppressed of={event} lines={left_out}");
            self.note(&mut text, line, &said);
        }
        if is_over {
            SUPPRESSED.fetch_add(1, Ordering::Relaxed);
        } else {
            put(&mut text, line, self.json);
        }
        text
    }

    fn note(&self, text: &mut String, line: &Line, message: &str) {
        let note = Line {
            time_ms: line.time_ms,
            level: log::Level::Warn,
            target: "ursula::log".to_owned(),
            message: message.to_owned(),
        };
        put(text, &note, self.json);
    }
}

fn put(text: &mut String, line: &Line, json: bool) {
    text.push_str(journal::prefix(line.level));
    line.render(text, json);
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        let is_ours = target.starts_with("ursula") || target.starts_with("storage");
        is_ours || metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let line = Line {
            time_ms: now_ms(),
            level: record.level(),
            target: record.target().to_owned(),
            message: record.args().to_string(),
        };
        // Before it is sent, so that the writer never takes away what was not added.
        QUEUED.fetch_add(1, Ordering::Relaxed);
        if self.sender.try_send(Message::Line(line)).is_err() {
            QUEUED.fetch_sub(1, Ordering::Relaxed);
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.sender.send(Message::Flush(done)).is_ok() {
            let _ = wait.recv();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_repeats_is_cut_off_and_others_are_not() {
        let mut writer = Writer::new(false);
        let line = |time_ms, message: &str| Line {
            time_ms,
            level: log::Level::Warn,
            target: "ursula".to_owned(),
            message: message.to_owned(),
        };
        let before = lost().1;
        let texts = (0..100).map(|n| writer.take(&line(n, "event=a n=1")));
        assert_eq!(texts.filter(|t| !t.is_empty()).count() as u64, REPEATS_MAX);
        assert!(writer.take(&line(100, "event=b")).contains("event=b"));
        assert_eq!(lost().1 - before, 100 - REPEATS_MAX);
        let text = writer.take(&line(WINDOW_MS, "event=a n=2"));
        assert!(
            text.contains("event=log_suppressed of=a lines=80"),
            "{text}"
        );
        assert!(text.ends_with("event=a n=2\n"), "{text}");
        for n in 0..2 * EVENTS_MAX {
            writer.take(&line(WINDOW_MS, &format!("event=e{n}")));
        }
        assert!(writer.budgets.len() <= EVENTS_MAX + 1);
    }
}
