//! What is of the node as a whole: who it is, the process, the data directory's disk, its log.

use std::collections::VecDeque;
use std::fmt::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::render::family;
use crate::ops::build::{COMMIT, VERSION};

/// The newest look at the disk; written by the node's thread alone.
static DISK: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

/// Seconds between two looks at the disk.
pub const DISK_INTERVAL_S: u64 = 10;

/// Looks that are kept: an hour.
const LOOKS_MAX: usize = 360;

/// No trend is believed before.
const TREND_S_MIN: u64 = 60;

/// The disk's trend.
#[derive(Debug, Default)]
pub struct DiskTrend {
    /// Seconds, and free bytes then.
    looks: VecDeque<(u64, u64)>,
}

impl DiskTrend {
    /// Looks at the disk that has `dir`; `now_s` is of any clock that does not go back.
    pub fn look(&mut self, dir: &Path, now_s: u64) {
        let Some((size, free)) = space(dir) else {
            return;
        };
        let full_in = self.full_in_s(now_s, free);
        for (place, value) in DISK.iter().zip([size, free, full_in.to_bits()]) {
            place.store(value, Ordering::Relaxed);
        }
    }

    /// Seconds until the disk is full if all goes on as in the last hour.
    fn full_in_s(&mut self, now_s: u64, free: u64) -> f64 {
        self.looks.push_back((now_s, free));
        if self.looks.len() > LOOKS_MAX {
            self.looks.pop_front();
        }
        let (began_s, began_free) = self.looks.front().copied().unwrap_or((now_s, free));
        let seconds = now_s.saturating_sub(began_s);
        if seconds < TREND_S_MIN || free >= began_free {
            return f64::INFINITY;
        }
        free as f64 * seconds as f64 / (began_free - free) as f64
    }
}

/// Size and free bytes, of what an unprivileged process may use.
pub fn space(dir: &Path) -> Option<(u64, u64)> {
    let path = std::os::unix::ffi::OsStrExt::as_bytes(dir.as_os_str());
    let path = std::ffi::CString::new(path).ok()?;
    // SAFETY: an all-zero structure is valid.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: a string that ends with zero, and a structure of the right type.
    let result = unsafe { libc::statvfs(path.as_ptr(), &raw mut found) };
    let block = found.f_frsize;
    (result == 0).then(|| (found.f_blocks * block, found.f_bavail * block))
}

/// See the module's head.
#[derive(Debug, Clone, Default)]
pub struct NodeGauges {
    /// Its number.
    pub node_id: u64,
    /// The cluster's name.
    pub cluster_id: String,
    /// It keeps data.
    pub has_disk: bool,
}

impl NodeGauges {
    pub(super) fn render(&self, out: &mut String) {
        let mut one = |name: &str, kind: &str, help: &str, labels: &str, value: f64| {
            family(out, name, kind, help);
            let value = if value == f64::INFINITY {
                "+Inf".to_owned()
            } else {
                value.to_string()
            };
            let _ = writeln!(out, "{name}{labels} {value}");
        };
        let labels = format!("{{version=\"{VERSION}\",commit=\"{COMMIT}\"}}");
        one(
            "ursula_build_info",
            "gauge",
            "The version that runs.",
            &labels,
            1.0,
        );
        let labels = format!(
            "{{node_id=\"{}\",cluster_id=\"{}\"}}",
            self.node_id, self.cluster_id
        );
        one(
            "ursula_node_info",
            "gauge",
            "Which node of which cluster this is.",
            &labels,
            1.0,
        );
        let disk = DISK.each_ref().map(|place| place.load(Ordering::Relaxed));
        if self.has_disk && disk[0] > 0 {
            let help = "Size of the filesystem of the data directory.";
            one("ursula_disk_size_bytes", "gauge", help, "", disk[0] as f64);
            let help = "Free bytes of the filesystem of the data directory.";
            one("ursula_disk_free_bytes", "gauge", help, "", disk[1] as f64);
            let help = "Time until that filesystem is full at the rate of the last hour; +Inf: it does not fill.";
            one(
                "ursula_disk_full_in_seconds",
                "gauge",
                help,
                "",
                f64::from_bits(disk[2]),
            );
        }
        let (dropped, suppressed) = crate::ops::logging::lost();
        let help = "Log lines that found the writer's queue full.";
        one(
            "ursula_log_lines_dropped_total",
            "counter",
            help,
            "",
            dropped as f64,
        );
        one(
            "ursula_log_saturation_ratio",
            "gauge",
            "How full the queue of the log's writer is, from 0 to 1.",
            "",
            crate::ops::logging::saturation(),
        );
        one(
            "ursula_admin_saturation_ratio",
            "gauge",
            "How many of the connections for operators are open, from 0 to 1.",
            "",
            crate::admin::saturation(),
        );
        let help = "Log lines left out because the same event had just been logged often.";
        one(
            "ursula_log_lines_suppressed_total",
            "counter",
            help,
            "",
            suppressed as f64,
        );
        process(&mut one);
    }
}

fn process(one: &mut dyn FnMut(&str, &str, &str, &str, f64)) {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let number = |text: Option<&str>| text.and_then(|t| t.parse::<u64>().ok()).unwrap_or(0);
    let pages = number(statm.split(' ').nth(1));
    one(
        "process_resident_memory_bytes",
        "gauge",
        "Resident memory.",
        "",
        (pages * 4096) as f64,
    );
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or("")
        .split_whitespace()
        .collect();
    let field = |i: usize| number(fields.get(i).copied()) as f64;
    let cpu = (field(11) + field(12)) / 100.0;
    one(
        "process_cpu_seconds_total",
        "counter",
        "User and system time.",
        "",
        cpu,
    );
    let kernel = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot = kernel.lines().find_map(|l| l.strip_prefix("btime "));
    let started = number(boot) as f64 + field(19) / 100.0;
    let help = "When the process started, in seconds since 1970.";
    one("process_start_time_seconds", "gauge", help, "", started);
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    one(
        "process_open_fds",
        "gauge",
        "Open descriptors.",
        "",
        open as f64,
    );
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is to a structure of the right type.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    one(
        "process_max_fds",
        "gauge",
        "Descriptors that may be open.",
        "",
        limit.rlim_cur as f64,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_fills_says_when_it_is_full() {
        let mut trend = DiskTrend::default();
        assert_eq!(trend.full_in_s(0, 1000), f64::INFINITY);
        assert_eq!(trend.full_in_s(30, 900), f64::INFINITY, "too early to say");
        assert_eq!(trend.full_in_s(100, 900), 900.0);
        assert_eq!(
            trend.full_in_s(200, 1200),
            f64::INFINITY,
            "there is more than before"
        );
        for second in 0..1000 {
            trend.full_in_s(300 + second, 1000);
        }
        assert_eq!(trend.looks.len(), LOOKS_MAX);
    }
}
