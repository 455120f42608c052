//! The log: one line per fact on standard error, as logfmt or JSON. A core never waits for it: lines go through a
//! bounded queue to one writer thread, and what does not fit is counted and reported.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::SystemTime;

use log::{LevelFilter, Log, Metadata, Record};

/// Lines that may wait for the writer.
const QUEUE_MAX: usize = 4096;

struct Logger {
    sender: SyncSender<Line>,
    dropped: AtomicU64,
    json: bool,
}

enum Line {
    Text(String),
    Flush(SyncSender<()>),
}

/// Starts the log.
pub fn start(level: LevelFilter, json: bool) {
    let (sender, receiver) = sync_channel(QUEUE_MAX);
    let writer = std::thread::Builder::new().name("log".to_owned());
    if writer.spawn(move || write_all(&receiver)).is_err() {
        return;
    }
    let logger = Logger {
        sender,
        dropped: AtomicU64::new(0),
        json,
    };
    if log::set_boxed_logger(Box::new(logger)).is_ok() {
        log::set_max_level(level);
        std::panic::set_hook(Box::new(|panic| {
            let place = panic
                .location()
                .map(ToString::to_string)
                .unwrap_or_default();
            let text = panic.payload_as_str().unwrap_or("no text");
            log::error!("event=panic place={place} text={text:?}");
        }));
    }
}

fn write_all(receiver: &Receiver<Line>) {
    // Never locked for longer than a line: who else writes there, such as a panic, must not wait for ever.
    let mut out = std::io::stderr();
    while let Ok(line) = receiver.recv() {
        match line {
            Line::Text(text) => {
                let _ = out.write_all(text.as_bytes());
            }
            Line::Flush(done) => {
                let _ = out.flush();
                let _ = done.send(());
            }
        }
    }
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
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let note = line(
                self.json,
                "WARN",
                "ursula::log",
                &format!("event=log_dropped lines={dropped}"),
            );
            let _ = self.sender.try_send(Line::Text(note));
        }
        let text = line(
            self.json,
            record.level().as_str(),
            record.target(),
            &record.args().to_string(),
        );
        if self.sender.try_send(Line::Text(text)).is_err() {
            self.dropped.fetch_add(dropped + 1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.sender.send(Line::Flush(done)).is_ok() {
            let _ = wait.recv();
        }
    }
}

fn line(json: bool, level: &str, target: &str, message: &str) -> String {
    #[expect(
        clippy::disallowed_methods,
        reason = "a log line carries the system's time, whatever a core's clock says"
    )]
    let ms = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as u64);
    let time = crate::protocol::rfc3339_from_ms(ms);
    if json {
        let value = serde_json::json!({ "time": time, "level": level, "target": target, "message": message });
        format!("{value}\n")
    } else {
        format!(
            "time={time} level={} target={target} {message}\n",
            level.to_lowercase()
        )
    }
}
