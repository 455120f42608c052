//! The data directory, its filesystem and its disk.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Findings, Scope, Severity, mib, read};
use crate::config::Config;
use crate::core::clock::instant;
use crate::node::place::misfit;
use crate::ops::metrics::node::space;

/// How long the probe of syncs takes.
const PROBE: Duration = Duration::from_secs(5);

const BLOCK: usize = 4096;

pub(super) fn check(config: &Config, scope: Scope, findings: &mut Findings) {
    let Some(dir) = &config.wal_dir else {
        findings.expect(
            "data.directory",
            false,
            Severity::Warn,
            ("none: nothing survives a restart", "a directory"),
            "give wal_dir",
        );
        if scope.disk_probe {
            findings.expect(
                "disk.fsync",
                false,
                Severity::Fatal,
                ("nothing to measure: no data directory", "a data directory"),
                "give wal_dir, as a setting of the node or by --wal-dir",
            );
        }
        return;
    };
    if let Some(text) = misfit(dir) {
        findings.expect(
            "data.directory",
            false,
            Severity::Fatal,
            (text, "a data directory, or a place for one"),
            "give wal_dir another directory: the node does not start with this one",
        );
        return;
    }
    let there = existing(dir);
    let probe = Probe::make(&there);
    let current = match &probe {
        Ok(_) => format!("{} can be written", there.display()),
        Err(error) => format!("{}: {error}", there.display()),
    };
    findings.expect(
        "data.directory",
        probe.is_ok(),
        Severity::Fatal,
        (current, "a directory that this user may write"),
        "make the directory and give it to the server's user (StateDirectory= in the unit)",
    );
    mount(&there, findings);
    if let Some((size, free)) = space(&there) {
        let is_enough = free >= 10 << 30 && free >= size / 100 * 15;
        let bad = if free < 1 << 30 {
            Severity::Fatal
        } else {
            Severity::Warn
        };
        findings.expect(
            "data.free",
            is_enough,
            bad,
            (
                format!("{} of {} free", mib(free), mib(size)),
                "10 GiB and 15 % free",
            ),
            "make room, or use a larger disk: writes are refused once it is full",
        );
    }
    block_device(&there, findings);
    let Ok(probe) = probe else {
        return;
    };
    let direct = probe
        .open(libc::O_DIRECT)
        .and_then(|file| write_block(&file, 0));
    findings.expect(
        "data.direct_io",
        direct.is_ok(),
        Severity::Warn,
        (
            direct
                .err()
                .map_or_else(|| "works".to_owned(), |e| e.to_string()),
            "O_DIRECT works",
        ),
        "use ext4 or xfs on a disk: without direct I/O appends go through the page cache",
    );
    if scope.disk_probe {
        fsync(&probe, findings);
    }
}

/// The directory, or its nearest parent that is there.
fn existing(dir: &Path) -> PathBuf {
    let mut there = dir;
    while !there.is_dir() {
        match there.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => there = parent,
            _ => return PathBuf::from("."),
        }
    }
    there.to_owned()
}

/// A file of our own; removed when dropped.
struct Probe(PathBuf);

impl Probe {
    fn make(dir: &Path) -> std::io::Result<Probe> {
        let probe = Probe(dir.join(format!(".ursula-doctor-{}", std::process::id())));
        File::options()
            .write(true)
            .create_new(true)
            .open(&probe.0)?;
        Ok(probe)
    }

    fn open(&self, flags: i32) -> std::io::Result<File> {
        OpenOptions::new()
            .write(true)
            .custom_flags(flags)
            .open(&self.0)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[repr(align(4096))]
struct Aligned([u8; BLOCK]);

fn write_block(file: &File, number: u64) -> std::io::Result<()> {
    let block = Box::new(Aligned([7; BLOCK]));
    file.write_all_at(&block.0, number * BLOCK as u64)
}

/// One block at a time over blocks that were written before, as the log does.
fn fsync(probe: &Probe, findings: &mut Findings) {
    let measured = probe
        .open(libc::O_DIRECT)
        .or_else(|_| probe.open(0))
        .and_then(|file| {
            for number in 0..256 {
                write_block(&file, number)?;
            }
            file.sync_all()?;
            let mut micros = Vec::new();
            let began = instant();
            while began.elapsed() < PROBE {
                let at = instant();
                write_block(&file, micros.len() as u64 % 256)?;
                file.sync_data()?;
                micros.push(at.elapsed().as_micros() as u64);
            }
            micros.sort_unstable();
            Ok(micros)
        });
    let (is_fast, current) = match &measured {
        Ok(micros) => {
            let of = |percent: usize| micros[(micros.len() - 1) * percent / 100];
            let text = format!(
                "p50 {} us, p99 {} us over {} syncs",
                of(50),
                of(99),
                micros.len()
            );
            (of(99) <= 10_000, text)
        }
        Err(error) => (false, error.to_string()),
    };
    let bad = if measured.is_err() {
        Severity::Fatal
    } else {
        Severity::Warn
    };
    findings.expect(
        "disk.fsync",
        is_fast,
        bad,
        (current, "p99 of a write and a sync of 4 KiB below 10 ms"),
        "use a disk with power-loss protection, and one that others do not use",
    );
}

fn mount(dir: &Path, findings: &mut Findings) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let real = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let fields = mounts.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let is_above = real.starts_with(fields.get(1)?);
        is_above.then_some(fields)
    });
    // The longest one; of several at one place, the last.
    let Some(found) = fields.max_by_key(|f| f[1].len()) else {
        return;
    };
    let [_, point, kind, options, ..] = found[..] else {
        return;
    };
    let is_network = ["nfs", "nfs4", "cifs", "fuse", "9p"]
        .iter()
        .any(|k| kind.starts_with(k));
    let bad = if is_network {
        Severity::Fatal
    } else {
        Severity::Warn
    };
    findings.expect(
        "data.filesystem",
        ["ext4", "xfs"].contains(&kind),
        bad,
        (format!("{kind} at {point}"), "ext4 or xfs"),
        "put the data directory on ext4 or xfs on a local disk",
    );
    let has = |name: &str| options.split(',').any(|o| o == name);
    let is_unsafe = has("nobarrier") || has("barrier=0");
    findings.expect(
        "data.mount_barrier",
        !is_unsafe,
        Severity::Fatal,
        (options.to_owned(), "no nobarrier"),
        "mount without nobarrier: a sync must reach the disk",
    );
    findings.expect(
        "data.mount_options",
        !has("discard") && (has("noatime") || has("relatime")),
        Severity::Warn,
        (options.to_owned(), "noatime, and no discard"),
        "mount with noatime, and trim with fstrim.timer instead of discard",
    );
}

fn block_device(dir: &Path, findings: &mut Findings) {
    let Ok(meta) = dir.metadata() else {
        return;
    };
    let (major, minor) = (libc::major(meta.dev()), libc::minor(meta.dev()));
    let own = format!("/sys/dev/block/{major}:{minor}");
    // A partition has its disk's queue.
    let queue = [format!("{own}/queue"), format!("{own}/../queue")];
    let Some(queue) = queue.into_iter().find(|q| Path::new(q).is_dir()) else {
        return;
    };
    if let Some(schedulers) = read(&format!("{queue}/scheduler")) {
        findings.expect(
            "disk.scheduler",
            !schedulers.contains('[')
                || schedulers.contains("[none]")
                || schedulers.contains("[mq-deadline]"),
            Severity::Warn,
            (schedulers, "none (NVMe) or mq-deadline"),
            "echo none > /sys/block/DISK/queue/scheduler, by a udev rule",
        );
    }
    let spins = read(&format!("{queue}/rotational")).is_some_and(|r| r == "1");
    findings.expect(
        "disk.rotational",
        !spins,
        Severity::Warn,
        (
            if spins {
                "says that it spins"
            } else {
                "solid state"
            },
            "solid state",
        ),
        "use a solid state disk (some virtual disks only say that they spin)",
    );
    if let Some(cache) = read(&format!("{queue}/write_cache")) {
        // Not a fault: the kernel flushes it with each sync. It says where the time of a sync goes.
        findings.expect(
            "disk.write_cache",
            true,
            Severity::Warn,
            (cache, "write through is faster"),
            "",
        );
    }
}
